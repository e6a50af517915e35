"""From class probabilities to a verdict on every label, and how good the verdicts are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.audit.posterior import (
    Posterior,
    best_other,
    denoised_labels,
    label_posterior,
    qualities,
    rate_interval,
    smoothed,
)
from labelwise.audit.with_cleanlab import ranking_figures
from labelwise.data.dataset import Truth
from labelwise.data.neighbours import nearest_neighbours
from labelwise.estimation.bootstrap import TABLE_CLASSES, with_intervals
from labelwise.estimation.combine import combine
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.consensus import CLASS_SHARE, NUM_NEIGHBOURS, Consensus
from labelwise.estimation.estimator import Estimate, Evidence
from labelwise.estimation.probabilities import TopProbabilities

MOST_CLASSES, COMPARED = 100, 20_000
"""Neighbours estimate the noise up to so many classes, by so many samples at most."""
CLUSTERED = 0.88
"""Least `clusterable` at which neighbours are used. On digits with eleven kinds and rates of noise
it is 0.898 to 0.997, and the rate by neighbours is off by 0.04 at most. On CIFAR-10 after
20 epochs it is 0.81 at most, on digits seen through 1, 2 and 4 random projections below 0.20, below
0.72 and 0.83 to 0.95, and the rate is off by up to 0.60, 0.40 and 0.11. From about 70 % of uniform
noise on, good neighbours are refused too: ten such labels do not tell a class."""


@dataclass(frozen=True)
class Verdict:
    """What the audit says about every label.

    Args:
        top: class probabilities and given labels (N).
        estimate: how much noise there is, and between which classes.
        posterior: P(given label is right) and more.
        suspect: whether the given label looks wrong (N) bool.
        suggested: the most probable other class for suspects, else the given one (N) int64.
        confidence: P(true = suggested) (N).
        interval: of the noise rate, 95 %.
        notes: remarks for the user.
    """

    top: TopProbabilities
    estimate: Estimate
    posterior: Posterior
    suspect: Tensor
    suggested: Tensor
    confidence: Tensor
    interval: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def expected_precision(self) -> float | None:
        """Share of the suspects that are expected to be wrong: the mean of 1 - quality."""
        return (
            float(1 - self.posterior.quality[self.suspect].mean()) if self.suspect.any() else None
        )


def judge(top: TopProbabilities, features: Tensor | None = None, seed: int = 0) -> Verdict:
    """Say which labels look wrong: quality below 0.5; the most probable other class is suggested.

    Args:
        top: class probabilities and given labels of N samples.
        features: feature vectors (N, D), where there are some: neighbours tell the noise of a
            class that the model has learnt, which probabilities cannot.
        seed: of the interval's resampling.
    """
    estimate, note = ConfidentJoint().estimate(Evidence(top)), ""
    if features is not None and top.num_classes <= MOST_CLASSES:
        estimate, note = estimate_by_neighbours(top, features, estimate, seed)
    by_neighbours = estimate.name == Consensus.name
    posterior = label_posterior(top, estimate, match_rate=by_neighbours)
    interval = (estimate.low or 0.0, 1.0 if estimate.high is None else estimate.high)
    if not by_neighbours:
        interval = rate_interval(top, estimate, posterior, seed)
        estimate = with_table_interval(top, estimate, seed)
    matrix = smoothed(estimate, top.labels).float()
    other, chance = best_other(top, matrix, posterior.temperature)
    if by_neighbours:  # the log-odds were shifted: all other classes share what is left
        plain, _ = qualities(top, matrix, posterior.temperature)
        chance = (chance * (1 - posterior.quality) / (1 - plain).clamp_min(1e-6)).clamp(0, 1)
    suspect = posterior.quality < 0.5
    return Verdict(
        top=top,
        estimate=estimate,
        posterior=posterior,
        suspect=suspect,
        suggested=torch.where(suspect, other, top.labels),
        confidence=torch.where(suspect, chance, posterior.quality),
        interval=interval,
        notes=(note,) if note else (),
    )


def estimate_by_neighbours(
    top: TopProbabilities, features: Tensor, other: Estimate, seed: int
) -> tuple[Estimate, str]:
    """The noise by the labels of neighbours, or the other estimate where neighbours mislead.

    Features in which neighbours are of different classes give too much noise; `clusterable` tells.

    Args:
        top: class probabilities and given labels of N samples.
        features: feature vectors (N, D); above `COMPARED` samples a part is compared.
        other: the confident joint.
        seed: of the interval's resampling.

    Returns:
        The estimate, with an interval where it is that of the neighbours, and a note or "".
    """
    rows = torch.arange(0, len(top), -(-len(top) // COMPARED))
    part = top.rows(rows)
    evidence = Evidence(part, nearest_neighbours(features[rows], NUM_NEIGHBOURS)[0])
    assert evidence.neighbours is not None
    purity = clusterable(part, Consensus().estimate(evidence), evidence.neighbours)
    if purity < CLUSTERED:
        return other, (
            f"features not used for the noise rate: too many nearest neighbours seem to be of "
            f"different classes (agreement {purity:.2f}, at least {CLUSTERED:.2f} is "
            "needed); the confusions that are shown may be the model's own"
        )
    both = [with_intervals(each, evidence, seed=seed) for each in (Consensus(), ConfidentJoint())]
    found = combine(both)
    return found.estimate, found.reason or ""


def clusterable(top: TopProbabilities, estimate: Estimate, neighbours: Tensor) -> float:
    """How much the denoised labels of nearest neighbours agree: 1 where all do, 0 as by chance.

    The estimate by neighbours assumes that a sample and its neighbours are of one class. Whether
    they are is seen with the noise taken out as far as it is known: `denoised_labels` of every
    sample, by model, given label and neighbours, is compared with that of its nearest neighbour.
    The agreement is corrected for chance (Cohen, Educ. Psychol. Meas. 1960), since an estimate
    on features that say nothing may put all samples into one class.

    The share of equal labels by model and given label alone would be no test: it is as low
    where a model has learnt wrong labels as where neighbours differ.

    Args:
        top: class probabilities and given labels of N samples.
        estimate: by the neighbours' labels; its transition matrix must be dense.
        neighbours: row numbers (N, k) of every sample's nearest others, nearest first; in small
            classes not all k are used, as in `Consensus`.
    """
    count = max(2, min(neighbours.shape[1], len(top) // (CLASS_SHARE * top.num_classes)))
    found = denoised_labels(top, estimate, neighbours[:, :count])
    agreement = float((found == found[neighbours[:, 0]]).double().mean())
    share = torch.bincount(found, minlength=top.num_classes).double() / len(top)
    by_chance = float(share.square().sum())
    return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def with_table_interval(top: TopProbabilities, estimate: Estimate, seed: int) -> Estimate:
    """The confident joint with intervals of its transition matrix, where classes are few enough.

    Above `COMPARED` samples a part is resampled, and the spread scaled by the root of the ratio.
    """
    if estimate.transition is None or top.num_classes > TABLE_CLASSES:
        return estimate
    part = top.rows(torch.arange(0, len(top), -(-len(top) // COMPARED)))
    again = with_intervals(ConfidentJoint(), Evidence(part), seed=seed)
    if again.transition is None or again.transition_low is None or again.transition_high is None:
        return estimate
    # An end that was cut off at 0 or 1 is mended from the other one.
    reach = torch.maximum(
        again.transition_high - again.transition, again.transition - again.transition_low
    )
    reach = reach * (len(part) / len(top)) ** 0.5
    return replace(
        estimate,
        transition_low=(estimate.transition - reach).clamp(0, 1),
        transition_high=(estimate.transition + reach).clamp(0, 1),
    )


def figures(verdict: Verdict, truth: Truth | None) -> dict[str, Any]:
    """Totals of the audit; the figures that need truth are left out where it is not known."""
    posterior, estimate = verdict.posterior, verdict.estimate
    found: dict[str, Any] = {
        "estimated_noise_rate": float(1 - posterior.quality.mean()),
        "noise_rate_estimates": {estimate.name: estimate.noise_rate},
        "noise_rate_interval": list(verdict.interval),
        "num_suspects": int(verdict.suspect.sum()),
        "expected_precision": verdict.expected_precision,
        "temperature": posterior.temperature,
        "prediction_agreement": float(
            (verdict.top.predicted == verdict.top.labels).double().mean()
        ),
    }
    if truth is None:
        return found
    wrong = (verdict.top.labels != truth.labels).numpy()
    suspect = verdict.suspect.numpy()
    right = (verdict.suggested == truth.labels).numpy()
    found["realised_noise_rate"] = float(wrong.mean())
    found["calibration_error_truth"] = calibration_error(posterior.quality.numpy(), ~wrong)
    found |= ranking_figures(wrong, 1 - posterior.quality.double().numpy(), suspect)
    if suspect.any():
        found["suggestion_accuracy"] = float(right[suspect].mean())
    found["label_accuracy_given"] = float(1 - wrong.mean())
    found["label_accuracy_suggested"] = float(right.mean())
    return found


def calibration_error(quality: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean |P(right) - share right| over equal bins of quality.

    Guo et al. 2017, eq. 3, for the event that the given label is right.

    Args:
        quality: P(given label is right) (N).
        right: whether it is (N) bool.
        bins: number of bins of equal width.
    """
    place = np.clip((quality * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(place, quality.astype(np.float64) - right, minlength=bins)
    return float(np.abs(gap).sum() / len(quality))
