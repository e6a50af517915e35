"""Which samples were easy, hard or corrected, and by which anchors: arrays for the report.

Anchor hallucination (Huang et al., arXiv 2407.07331) shows its corrections by a picture of the
features and by examples. Both are made here at the end of a run, with the networks as they are
then, from what the ledger holds of the last epoch; no sample that is not shown is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from labelwise.audit.masks import shrunk
from labelwise.audit.projection import projection_arrays
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.models.hallucinator import Hallucinator
from labelwise.noise.planting import Planted
from labelwise.training.anchors import Make
from labelwise.training.corrections import (
    CLOSENESS,
    CORRECTED,
    EASY,
    FAR,
    HARD,
    NEAR,
    SIMILARITY,
    STATE,
    TARGET,
    TRUST,
    UNSORTED,
)

SHOWN = 24
"""Corrected samples that are shown, at most."""
CONTESTED = 8
"""Of these, so many are kept for samples whose anchors did not agree."""
VOTERS = 5
"""Voting anchors of a sample that are shown, at most."""
SIDE = 96
"""Larger side of a shown sample's stored picture, pixels, at most."""
SMALL_SIDE = 48
"""The same of the easy samples that anchors come from."""
NAMES = {EASY: "easy", HARD: "hard", CORRECTED: "corrected"}
"""What the states are called in `labels.csv`."""


@dataclass(frozen=True)
class Sorting:
    """What became of every sample in the last epoch, by the first network.

    Samples in whose place another label was trained on are as if never sorted: their state is that
    of the planted label.

    Args:
        state: (N) uint8: `UNSORTED`, `EASY`, `HARD` or `CORRECTED`.
        target: the label that is learnt from (N) int64; -1 where none was trained on yet.
        trust: its weight (N) float32: clean probability of easy samples, share of the votes of
            corrected ones, 0 of hard ones.
    """

    state: np.ndarray
    target: np.ndarray
    trust: np.ndarray

    @classmethod
    def of(cls, ledger: Ledger, planted: Planted | None) -> Sorting | None:
        """Read it from the ledger of a run; None where the method does not sort."""
        if STATE not in ledger:
            return None
        state, target, trust = (_numpy(ledger[name][0]) for name in (STATE, TARGET, TRUST))
        if planted is not None:
            rows = _numpy(planted.rows)
            state[rows], target[rows], trust[rows] = UNSORTED, -1, 0.0
        return cls(state, target, trust)

    def columns(self, classes: Sequence[str]) -> dict[str, Any]:
        """The columns `state`, `corrected_label` and `vote_share` of the table of labels."""
        states = np.asarray([NAMES.get(code) for code in range(len(NAMES) + 1)], dtype=object)
        names = np.asarray([*classes, None], dtype=object)
        corrected = self.state == CORRECTED
        return {
            "state": states[self.state],
            "corrected_label": names[np.where(corrected, self.target, -1)],
            "vote_share": np.where(corrected, self.trust, np.nan).astype(np.float32).round(6),
        }


def hardness_arrays(
    sorting: Sorting | None,
    ledger: Ledger,
    network: nn.Module,
    store: Store,
    extras: Iterable[nn.Module] = (),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The evidence of a method that sorts samples into easy, hard and corrected ones.

    Args:
        sorting: `Sorting.of` the ledger; None gives nothing.
        ledger: of the finished run; its first network is shown.
        network: the first trained network.
        store: training inputs and the labels that were trained on (N).
        extras: the method's further modules; its first hallucinator, if any, makes the anchors.
        seed: of what is drawn for the picture.

    Returns:
        `hardness_state` (N) uint8; `hardness_target` (N), `hardness_trust` (N) float16. For S shown
        samples with at most V voters: `hardness_rows` (S) int64; `hardness_voters` (S) int16, how
        many anchors voted; `hardness_near`, `hardness_far` (S, V) int64, the easy samples of each
        anchor, -1 for none; `hardness_near_labels`, `hardness_far_labels` (S, V) their labels as
        trained on; `hardness_closeness`, `hardness_similarity` (S, V) float32. With images also
        `hardness_images` (S, C, h, w) and `hardness_voter_images` (U, C, h, w) uint8, the latter of
        `hardness_voter_rows` (U) int64. And what `projection_arrays` gives.
    """
    if sorting is None:
        return {}
    arrays = {
        "hardness_state": sorting.state.astype(np.uint8),
        "hardness_target": sorting.target.astype(np.min_scalar_type(-store.num_classes)),
        "hardness_trust": sorting.trust.astype(np.float16),
    }
    if not (sorting.state != UNSORTED).any():
        return arrays
    num_voters = _numpy((ledger[NEAR][0] >= 0).sum(1))
    nearest = _numpy(ledger[SIMILARITY][0, :, 0])
    rows = choose_shown(sorting, _numpy(store.labels), num_voters, nearest)
    arrays |= _voters_of(rows, ledger, store)
    if store.inputs.ndim == 4 and len(rows):
        arrays["hardness_images"] = _numpy(shrunk(store.rows(_on(rows, store)), SIDE))
        both = np.concatenate([arrays["hardness_near"], arrays["hardness_far"]])
        used = np.unique(both[both >= 0])
        arrays["hardness_voter_rows"] = used
        arrays["hardness_voter_images"] = _numpy(shrunk(store.rows(_on(used, store)), SMALL_SIDE))
    make = maker_of(extras)
    arrays["hardness_anchors"] = np.asarray(kind_of(make, ledger))
    return arrays | projection_arrays(sorting.state, ledger, network, store, make, seed)


def maker_of(extras: Iterable[nn.Module]) -> Make | None:
    """The first hallucinator among a method's further modules; None: anchors are made without."""
    return next((module for module in extras if isinstance(module, Hallucinator)), None)


def kind_of(make: Make | None, ledger: Ledger) -> str:
    """What voted: "hallucinated" anchors, "mixed" ones, "easy" samples themselves, or "none"."""
    if make is not None:
        return "hallucinated"
    if bool((ledger[FAR][0] >= 0).any()):
        return "mixed"
    return "easy" if bool((ledger[NEAR][0] >= 0).any()) else "none"


def choose_shown(
    sorting: Sorting,
    labels: np.ndarray,
    num_voters: np.ndarray,
    similarity: np.ndarray,
    count: int = SHOWN,
    contested: int = CONTESTED,
) -> np.ndarray:
    """Corrected samples worth a look: those whose label changed, then contested ones.

    A changed label with a larger share of the votes comes first; among equal shares the pairs of
    given and corrected label take turns, and within a pair the sample with more voters and then the
    one with the more similar voter is first. Contested are samples whose anchors voted for several
    labels, the smallest share first.

    Args:
        sorting: what became of every sample.
        labels: given labels (N).
        num_voters: anchors that voted on each sample (N).
        similarity: of each sample's most similar voter (N).
        count: samples at most.
        contested: places kept for contested ones; where there are fewer, others take them.

    Returns:
        Row numbers (S) int64.
    """
    rows = np.flatnonzero(sorting.state == CORRECTED)
    target, share = sorting.target[rows], sorting.trust[rows]
    voters, similar = num_voters[rows], similarity[rows]
    best = np.lexsort((-similar, -voters, -share))
    pair = (labels[rows] * (target.max(initial=0) + 1) + target)[best]
    turn = np.empty(len(rows), dtype=np.int64)
    turn[best] = pd.Series(pair).groupby(pair).cumcount()
    order = np.lexsort((-similar, -voters, turn, -share))
    changed = order[(target != labels[rows])[order]]
    split = np.lexsort((-similar, share))
    split = split[share[split] < 1]
    first = changed[: count - contested]
    second = split[~np.isin(split, first)][:contested]
    first = changed[~np.isin(changed, second)][: count - len(second)]
    second = split[~np.isin(split, first)][: count - len(first)]
    shown: np.ndarray = rows[np.concatenate([first, second])].astype(np.int64)
    return shown


def _voters_of(rows: np.ndarray, ledger: Ledger, store: Store) -> dict[str, np.ndarray]:
    """The most similar voters of the shown samples."""
    index = _on(rows, store)
    labels = store.labels
    near, far, closeness, similarity = (
        ledger[name][0, index] for name in (NEAR, FAR, CLOSENESS, SIMILARITY)
    )
    shown = slice(None, VOTERS)
    found = {
        "rows": rows,
        "voters": _numpy((near >= 0).sum(1)).astype(np.int16),
        "closeness": _numpy(closeness[:, shown]),
        "similarity": _numpy(similarity[:, shown]),
    }
    for name, side in (("near", near[:, shown].long()), ("far", far[:, shown].long())):
        found[name] = _numpy(side)
        found[f"{name}_labels"] = _numpy(labels[side.clamp_min(0)].where(side >= 0, -1))
    return {f"hardness_{name}": values for name, values in found.items()}


def _on(rows: np.ndarray, store: Store) -> Tensor:
    return torch.from_numpy(rows).to(store.device)


def _numpy(tensor: Tensor) -> np.ndarray:
    """A copy on the host."""
    copy: np.ndarray = tensor.detach().cpu().numpy().copy()
    return copy
