"""The confident joint: count the samples whose probability of a class is above its average."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.estimation.estimator import (
    MAX_DENSE_CLASSES,
    Estimator,
    Evidence,
    given_marginal,
    weighted_counts,
)
from labelwise.estimation.probabilities import TopProbabilities

BLOCK = 65_536
"""Rows compared with the thresholds at once."""


class ConfidentJoint(Estimator):
    """Confident joint of confident learning (Northcutt et al., arXiv 1911.00068, eqs. 1-3).

    With the threshold `t_j` the mean of `p_j(x)` over the samples given label j, a sample given
    label y is counted at (true = l, given = y) where l is its most probable class among those
    with `p_l(x) >= t_l`. Each column is then scaled to the share of its given label.

    It assumes that probabilities *rank* classes rightly; out-of-sample ones, or ones averaged over
    a training, do. Those of a network that has learnt its labels by heart give a rate of zero.

    Differences from the paper:
        1. A given label without a single confident sample is taken to be right (its column holds
           only the diagonal); the paper leaves 0 / 0.
        2. A class that no sample is given has no threshold, and no sample is counted there.
        3. With more classes than kept probabilities, only the kept ones and that of the given
           label can be confident.
    """

    name: ClassVar[str] = "confident_joint"
    citation: ClassVar[str] = (
        "Northcutt et al. Confident Learning: Estimating Uncertainty in Dataset Labels. "
        "JAIR 2021. arXiv 1911.00068"
    )
    takes_many_classes: ClassVar[bool] = True

    def joint(self, evidence: Evidence, weights: Tensor | None = None) -> Tensor:
        """Calibrated joint (K, K); sparse with more than `MAX_DENSE_CLASSES` classes."""
        data = evidence.probabilities
        true = confident_class(data, class_thresholds(data, weights))
        counted = true >= 0
        marginal = given_marginal(evidence, weights)
        share = weights[counted] if weights is not None else None
        rows, columns = true[counted], data.labels[counted]
        if data.num_classes > MAX_DENSE_CLASSES:
            return _sparse(rows, columns, share, marginal)
        size = data.num_classes
        table = weighted_counts(rows * size + columns, share, size * size).reshape(size, size)
        return _calibrated(table, marginal)


def class_thresholds(data: TopProbabilities, weights: Tensor | None = None) -> Tensor:
    """Mean probability (K) float32 of a class over the samples given it; infinite without any."""
    size = weighted_counts(data.labels, weights, data.num_classes)
    mass = data.given.double() if weights is None else data.given.double() * weights.double()
    total = weighted_counts(data.labels, mass, data.num_classes)
    mean = torch.where(size > 0, total / size.clamp_min(1e-300), torch.inf)
    return mean.float() * (1 - 1e-6)  # a mean of equal numbers may round to just above them


def confident_class(data: TopProbabilities, thresholds: Tensor) -> Tensor:
    """Most probable class above its threshold per sample (N) int64, -1 without one."""
    found = torch.full_like(data.labels, -1)
    for start in range(0, len(data), BLOCK):
        part = slice(start, start + BLOCK)
        passed = data.values[part] >= thresholds[data.classes[part]]
        first = passed.int().argmax(1, keepdim=True)  # values descend: the first is the largest
        best = data.classes[part].gather(1, first).squeeze(1)
        own = data.given[part] >= thresholds[data.labels[part]]
        rest = torch.where(own, data.labels[part], -1)
        found[part] = torch.where(passed.any(1), best, rest)
    return found


def _calibrated(table: Tensor, marginal: Tensor) -> Tensor:
    """Scale the columns of counts (K, K) to the shares (K) of the given labels."""
    total = table.sum(0)
    scaled = table * (marginal / total.clamp_min(1e-300))
    return torch.where(total > 0, scaled, torch.diag(marginal))


def _sparse(rows: Tensor, columns: Tensor, weights: Tensor | None, marginal: Tensor) -> Tensor:
    """The calibrated joint as a sparse tensor: memory O(N), never (K, K)."""
    size = len(marginal)
    places = torch.stack([rows, columns])
    values = torch.ones(len(rows), dtype=torch.float64) if weights is None else weights.double()
    table = torch.sparse_coo_tensor(places, values, (size, size), check_invariants=True).coalesce()
    total = torch.zeros_like(marginal).index_add_(0, table.indices()[1], table.values())
    scale = marginal / total.clamp_min(1e-300)
    empty = ((total == 0) & (marginal > 0)).nonzero().flatten()
    places = torch.cat([table.indices(), empty.expand(2, -1)], dim=1)
    values = torch.cat([table.values() * scale[table.indices()[1]], marginal[empty]])
    return torch.sparse_coo_tensor(places, values, (size, size), check_invariants=True).coalesce()
