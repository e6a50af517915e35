"""What an estimator of label noise is: from probabilities or neighbours to a joint distribution.

Everything is derived from one table, the joint distribution of (true class, given label): its
trace is the fraction of right labels, its rows give the transition matrix, its row sums the prior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.discovery import discover, find
from labelwise.errors import UserError
from labelwise.estimation.probabilities import TopProbabilities

MIN_SAMPLES = 20
"""With fewer samples even the rate has a standard error of 11 points."""
MAX_DENSE_CLASSES = 4096
"""Above it the (K, K) tables (128 MiB each) are kept sparse, where an estimator can."""


@dataclass(frozen=True)
class Evidence:
    """What estimators look at.

    Args:
        probabilities: class probabilities and given labels of N samples.
        neighbours: row numbers (N, k >= 2) of every sample's nearest others, nearest first.
    """

    probabilities: TopProbabilities
    neighbours: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        size = len(self.probabilities)
        if size < MIN_SAMPLES:
            raise UserError(
                f"the noise rate cannot be estimated from {size} samples; give at least "
                f"{MIN_SAMPLES}, better 100 per class."
            )
        if self.probabilities.num_classes < 2:
            raise UserError("there is one class: a label can only be wrong where there are two.")
        if self.neighbours is not None and (
            self.neighbours.ndim != 2 or len(self.neighbours) != size
        ):
            raise UserError(
                f"neighbours have shape {tuple(self.neighbours.shape)}; give one row for each of "
                f"the {size} samples."
            )


@dataclass(frozen=True)
class Estimate:
    """How much label noise there is, and between which classes.

    Args:
        name: the estimator, or "combined".
        joint: P(true = i, given = j) (K, K) float64, summing to 1; sparse for very many classes.
        noise_rate: P(true != given).
        prior: P(true = i) (K).
        transition: P(given = j | true = i) (K, K), or None where the joint is sparse. The row of
            a class that is estimated to have no samples is that of the identity.
        low: lower end of the rate's interval; None without one.
        high: upper end.
        transition_low: lower ends (K, K) of the transition matrix; None without intervals.
        transition_high: upper ends (K, K).
        level: coverage the intervals aim at, as a fraction.
        rates: noise rate of every bootstrap resample (R).
    """

    name: str
    joint: Tensor = field(repr=False)
    noise_rate: float
    prior: Tensor = field(repr=False)
    transition: Tensor | None = field(repr=False)
    low: float | None = None
    high: float | None = None
    transition_low: Tensor | None = field(default=None, repr=False)
    transition_high: Tensor | None = field(default=None, repr=False)
    level: float | None = None
    rates: Tensor | None = field(default=None, repr=False)

    @classmethod
    def from_joint(cls, name: str, joint: Tensor) -> Estimate:
        """Derive everything from a joint distribution (K, K), dense or sparse."""
        if not joint.is_sparse:
            prior = joint.sum(1)
            return cls(name, joint, noise_rate(joint), prior, row_normalised(joint))
        joint = joint.coalesce()
        prior = torch.zeros(len(joint), dtype=joint.dtype, device=joint.device)
        prior.index_add_(0, joint.indices()[0], joint.values())
        return cls(name, joint, noise_rate(joint), prior, None)


class Estimator(ABC):
    """Estimates the joint distribution of true class and given label from weighted samples."""

    name: ClassVar[str]
    citation: ClassVar[str]
    needs_neighbours: ClassVar[bool] = False
    takes_many_classes: ClassVar[bool] = False
    """Whether it runs with more than `MAX_DENSE_CLASSES` classes."""

    @abstractmethod
    def joint(self, evidence: Evidence, weights: Tensor | None = None) -> Tensor:
        """Joint distribution (K, K) float64 of (true class, given label), summing to 1.

        Args:
            evidence: probabilities and, if the estimator needs them, neighbours.
            weights: how often every sample counts (N) >= 0; None counts each once.
        """

    def joints(self, evidence: Evidence, weights: Tensor) -> Tensor:
        """Joint distributions (R, K, K) under R weightings (R, N); override where batches pay."""
        return torch.stack([self.joint(evidence, row) for row in weights])

    def estimate(self, evidence: Evidence) -> Estimate:
        """The estimate without intervals (`bootstrap.with_intervals` adds them).

        Raises:
            UserError: what the estimator needs is missing, or there are too many classes for it.
        """
        self.check(evidence)
        return Estimate.from_joint(self.name, self.joint(evidence))

    def check(self, evidence: Evidence) -> None:
        """Raise a `UserError` when this estimator cannot use the evidence."""
        if self.needs_neighbours and evidence.neighbours is None:
            raise UserError(f"the estimator {self.name!r} needs features to find neighbours in.")
        count = evidence.probabilities.num_classes
        if count > MAX_DENSE_CLASSES and not self.takes_many_classes:
            raise UserError(
                f"the estimator {self.name!r} takes up to {MAX_DENSE_CLASSES} classes, not "
                f"{count}; use 'confident_joint'."
            )


def estimators() -> dict[str, type[Estimator]]:
    """All estimators by name."""
    return discover("labelwise.estimation", Estimator)


def find_estimator(name: str) -> type[Estimator]:
    """The estimator called `name`, or a `UserError` that suggests the nearest."""
    return find("estimator", name, "labelwise.estimation", Estimator)  # type: ignore[type-abstract]


def noise_rate(joint: Tensor) -> float:
    """Mass off the diagonal of a joint distribution (K, K), dense or sparse."""
    if joint.is_sparse:
        rows, columns = joint.coalesce().indices()
        return float(joint.coalesce().values()[rows != columns].sum())
    return float((joint.sum() - joint.trace()).clamp_min(0.0))


def row_normalised(table: Tensor) -> Tensor:
    """Rows of a table (..., K, K) divided by their sums; an empty row becomes the identity's."""
    total = table.sum(-1, keepdim=True)
    identity = torch.eye(table.shape[-1], dtype=table.dtype, device=table.device)
    return torch.where(total > 0, table / total.clamp_min(1e-300), identity)


def given_marginal(evidence: Evidence, weights: Tensor | None) -> Tensor:
    """P(given = j) (K) float64 under the weights."""
    labels, size = evidence.probabilities.labels, evidence.probabilities.num_classes
    share = weighted_counts(labels, weights, size)
    return share / share.sum()


def weighted_counts(index: Tensor, weights: Tensor | None, size: int) -> Tensor:
    """Sum of the weights (size) float64 at every index (N)."""
    if weights is None:
        return torch.bincount(index, minlength=size).double()
    return torch.bincount(index, weights=weights.double(), minlength=size)


def with_prior(transition: Tensor, marginal: Tensor, iterations: int = 500) -> Tensor:
    """Joint distribution (K, K) of a transition matrix whose columns fit the given labels.

    The prior of true classes is the maximum-likelihood one under `marginal = Tᵀ prior`, found by
    expectation-maximisation: p_i <- p_i Σ_j q_j T_ij / (Tᵀ p)_j, which stays on the simplex
    where the inverse of T would leave it.

    Args:
        transition: T (K, K), rows summing to 1.
        marginal: q (K), observed shares of the given labels.
        iterations: steps of expectation-maximisation.
    """
    prior = torch.full_like(marginal, 1.0 / len(marginal))
    for _ in range(iterations):
        expected = (transition.T @ prior).clamp_min(1e-300)
        after = prior * (transition @ (marginal / expected))
        moved = (after - prior).abs().max()
        prior = after / after.sum()
        if moved < 1e-9:
            break
    return prior[:, None] * transition
