"""Majority votes of anchors on the labels of the samples they lie nearest to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 2**24
"""Comparisons of votes at once."""


@dataclass(frozen=True)
class Votes:
    """What the anchors say about each of N samples.

    Args:
        label: the label with most votes (N) int64, -1 where no anchor votes.
        share: its share of the votes (N) in [0, 1], 0 where no anchor votes.
        voters: numbers of the anchors that voted (N, V) int64, most similar first, -1 for none.
    """

    label: Tensor = field(repr=False)
    share: Tensor = field(repr=False)
    voters: Tensor = field(repr=False)


def count_votes(
    nearest: Tensor,
    similarity: Tensor,
    labels: Tensor,
    num_samples: int,
    most: int,
    sources: Tensor | None = None,
) -> Votes:
    """Let every anchor vote with its label for the sample that it is nearest to.

    Anchor hallucination (arXiv 2407.07331): a hard sample takes the label that most of its anchors
    have. Only its `most` most similar anchors vote. Of labels with equal votes the one with the
    most similar voter wins; of equally similar anchors the earlier one votes.

    Args:
        nearest: row of the sample that each valid anchor is nearest to (A) int64 in [0, N).
        similarity: how similar it is (A).
        labels: the anchors' labels (A) int64.
        num_samples: N.
        most: V, most voters of a sample.
        sources: which easy sample each anchor has its label from (A) int64 in [0, N); only the most
            similar anchor of each has a vote on a sample. None lets all of them vote.
    """
    device = nearest.device
    order = similarity.argsort(descending=True, stable=True)
    order = order[nearest[order].argsort(stable=True)]
    if sources is not None:
        order = order[first_of_each(nearest[order] * num_samples + sources[order])]
    sample = nearest[order]
    count = torch.bincount(sample, minlength=num_samples)
    place = torch.arange(len(order), device=device) - (count.cumsum(0) - count)[sample]
    kept = place < most
    voters = torch.full((num_samples, most), -1, dtype=torch.int64, device=device)
    voters[sample[kept], place[kept]] = order[kept]
    label = torch.full((num_samples,), -1, dtype=torch.int64, device=device)
    share = torch.zeros(num_samples, device=device)
    everyone = (voters[:, 0] >= 0).nonzero().flatten()
    for asked in torch.split(everyone, max(1, BLOCK // most**2)) if len(everyone) else ():
        there = voters[asked] >= 0
        named = labels[voters[asked].clamp_min(0)].where(there, -1)
        # Votes for the label of each voter; the first of equals is the most similar.
        votes = ((named[:, :, None] == named[:, None, :]) & there[:, :, None]).sum(2)
        rank = votes * (most + 1) - torch.arange(most, device=device)
        best = rank.masked_fill(~there, -1).argmax(1, keepdim=True)
        label[asked] = named.gather(1, best)[:, 0]
        share[asked] = (votes.gather(1, best)[:, 0] / there.sum(1)).float()
    return Votes(label, share, voters)


def first_of_each(keys: Tensor) -> Tensor:
    """Whether an entry (A) is the first with its key."""
    order = keys.argsort(stable=True)
    ordered = keys[order]
    first = torch.ones_like(keys, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return first
