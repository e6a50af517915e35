"""Columns of the ledger for methods that sort samples into easy, hard and corrected ones."""

from __future__ import annotations

import torch

from labelwise.data.ledger import Column

STATE = "state"
TARGET = "target_label"
TRUST = "trust"
NEAR = "anchor_near"
FAR = "anchor_far"
CLOSENESS = "anchor_closeness"
SIMILARITY = "anchor_similarity"

CONSISTENT = "consistent"
"""Of a second look at what is labelled: P(two classifiers agree on the sample as on right labels),
0 for what was not looked at. Labelled is what has the decision of this name at least."""

UNSORTED, EASY, HARD, CORRECTED = range(4)
"""Values of `STATE`: not sorted yet; label trusted; label not used; label replaced or confirmed."""


def correction_columns(num_voters: int) -> tuple[Column, ...]:
    """What is remembered of every sample, as of the last epoch.

    Args:
        num_voters: K_a, anchors that vote on a sample at most.
    """
    return (
        Column(STATE, torch.uint8),
        Column(TARGET, torch.int64, initial=-1),  # the label that is learnt from; -1: not yet
        Column(TRUST),  # its weight in the co-refinement: clean probability, or share of votes
        # The voting anchors, most similar first: the easy samples each was made of, -1 for none;
        # λ_p; and its cosine similarity to the sample.
        Column(NEAR, torch.int32, shape=(num_voters,), initial=-1),  # of the anchor's class
        Column(FAR, torch.int32, shape=(num_voters,), initial=-1),  # its partner
        Column(CLOSENESS, shape=(num_voters,)),
        Column(SIMILARITY, shape=(num_voters,)),
    )
