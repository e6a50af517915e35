"""Divide samples into a labelled and an unlabelled side; the rules against empty sides live here.

DivideMix (arXiv 2002.07394, Algorithm 1, lines 6-7): the labelled side is `{clean > threshold}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Two sides of a data set.

    Args:
        labelled: rows (L) int64, ascending, whose label is used, as far as their clean
            probability trusts it: the rules below move rows, they change no probability.
        unlabelled: rows (U) int64, ascending, whose label is ignored.
        fallback: None, or in plain words which rules changed the plain threshold.
    """

    labelled: Tensor = field(repr=False)
    unlabelled: Tensor = field(repr=False)
    fallback: str | None = None


def split_by_clean(
    clean: Tensor,
    labels: Tensor,
    threshold: float,
    num_classes: int,
    min_fraction: float = 0.01,
) -> Split:
    """Split samples by their clean probability so that neither side and no class runs dry.

    1. *Labelled side*: `clean > threshold`.
    2. *Too few labelled*, fewer than `max(K, min_fraction * N)` (at most N): the samples with the
       highest `clean` make up that number.
    3. *Extinct class*: a class that occurs in `labels` and has no labelled sample gives its
       `max(1, min_fraction * class size)` samples of highest `clean` to the labelled side.
    4. *Unlabelled side*: the rest. If it holds fewer than `max(1, min_fraction * N)` samples, that
       many samples of lowest `clean` join it **and stay where they are**: only then do the
       sides overlap, so that rule 4 cannot undo rules 2 and 3.

    Hence for every N > 0 both sides have samples, every sample is on a side, and every given
    class is on the labelled side. Counts are rounded up; of equal `clean` the earlier row wins.

    Args:
        clean: P(given label is right) (N); NaN counts as 0.
        labels: given labels (N) int64 in [0, K).
        threshold: samples above it are labelled.
        num_classes: K.
        min_fraction: smallest side, as a fraction of N.
    """
    num_samples = len(clean)
    assert num_samples > 0, "nothing to split"
    probability = clean.nan_to_num(nan=0.0)
    order = probability.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        0, order, torch.arange(num_samples, device=order.device)
    )
    smallest = max(1, math.ceil(min_fraction * num_samples - 1e-9))

    above = probability > threshold
    enough = min(max(num_classes, smallest), num_samples)
    filled = torch.where(above.sum() < enough, above | (rank < enough), above)
    rescued = _rescue(order, labels, filled, num_classes, min_fraction)
    labelled = filled | rescued
    below = ~labelled
    unlabelled = torch.where(
        below.sum() < smallest, below | (rank >= num_samples - smallest), below
    )
    changes = torch.stack(
        [(filled & ~above).sum(), rescued.sum(), (unlabelled & labelled).sum()]
    ).tolist()
    reasons = (
        f"{changes[0]} samples of highest clean probability fill the labelled side to {enough}",
        f"{changes[1]} samples keep classes alive that had no labelled sample",
        f"{changes[2]} samples of lowest clean probability fill the unlabelled side to {smallest}",
    )
    said = [reason for reason, count in zip(reasons, changes, strict=True) if count]
    return Split(_rows(labelled), _rows(unlabelled), "; ".join(said) or None)


def _rescue(
    order: Tensor, labels: Tensor, labelled: Tensor, num_classes: int, min_fraction: float
) -> Tensor:
    """Mark the best samples (N) of every class that has none among `labelled` (N).

    `order` (N) lists the rows by falling clean probability.
    """
    size = torch.bincount(labels, minlength=num_classes)
    alive = torch.bincount(labels[labelled], minlength=num_classes)
    quota = torch.ceil(min_fraction * size.double() - 1e-9).clamp_min(1.0)
    by_class = order[labels[order].argsort(stable=True)]
    label = labels[by_class]
    start = size.cumsum(0) - size
    place = torch.arange(len(labels), device=labels.device) - start[label]
    chosen = (place < quota[label]) & (alive[label] == 0)
    return torch.zeros_like(labelled).scatter_(0, by_class, chosen)


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
