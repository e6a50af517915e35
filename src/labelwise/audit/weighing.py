"""How labels go wrong in this data set, and one probability for each from all the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor

from labelwise.audit.fusion import (
    PRIOR_SPREAD,
    fit_fusion,
    right_by_chance,
)
from labelwise.audit.judge import estimate_by_neighbours
from labelwise.audit.observed import Observed, Said
from labelwise.audit.posterior import (
    best_other,
    fit_temperature,
    qualities,
    smoothed,
    with_mean,
)
from labelwise.estimation.anchors import Anchors
from labelwise.estimation.bootstrap import with_intervals
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.consensus import Consensus
from labelwise.estimation.dual import DualT
from labelwise.estimation.estimator import MIN_SAMPLES, Estimate
from labelwise.estimation.estimator import Evidence as Seen
from labelwise.selection.mixture import mixture

UNSURE_SPREAD = 0.25
"""Freedom of the weights where neighbours do not tell how labels go wrong: the planted labels are
then the better witnesses (CIFAR-10 `human_random1`: calibration error .06 instead of .08)."""
MOST_CLASSES = 100
"""Above it neighbours are not asked how noisy the labels are."""


@dataclass(frozen=True)
class Weighed:
    """Quality before anything is made of it.

    Args:
        quality: P(given label is right) (N).
        planted: the same score for the planted labels (M).
        posterior: P(given label is right) by the noise model alone (N).
        other: most probable true class besides the given label (N).
        other_probability: its probability by the noise model alone (N).
        temperature: τ of the noise model.
        method: in words, how it was obtained.
    """

    quality: Tensor
    planted: Tensor
    posterior: Tensor
    other: Tensor
    other_probability: Tensor
    temperature: float
    method: str


def estimate_noise_of(observed: Observed, seed: int) -> tuple[Estimate, str]:
    """How labels go wrong: by neighbours where they can be trusted, else the confident joint.

    Args:
        observed: what the run knows.
        seed: of the intervals' resampling.

    Returns:
        The estimate, and a note where neighbours were not trusted, or "".
    """
    top = observed.given.sources["all"]
    if len(top) < MIN_SAMPLES:
        size = top.num_classes
        joint = torch.diag(torch.bincount(top.labels, minlength=size).double()) / len(top)
        return Estimate.from_joint("none", joint), (
            f"{len(top)} samples are too few to estimate how noisy the labels are"
        )
    estimate = ConfidentJoint().estimate(Seen(top))
    if top.num_classes > MOST_CLASSES or len(observed.references) < MIN_SAMPLES:
        return estimate, ""
    part = top.rows(observed.references)
    found, note = estimate_by_neighbours(part, observed.reference_features, estimate, seed)
    if found.name != Consensus.name:
        found = with_intervals(ConfidentJoint(), Seen(part), seed=seed)
    return found, note


def rates_by_probabilities(observed: Observed) -> dict[str, float]:
    """Noise rates by the estimators that read probabilities alone, as a second opinion."""
    top = observed.given.sources["all"]
    if len(top) < MIN_SAMPLES or top.num_classes > MOST_CLASSES:
        return {}
    evidence = Seen(
        top.rows(observed.references) if len(observed.references) >= MIN_SAMPLES else top
    )
    found = (ConfidentJoint(), DualT(), Anchors())
    return {each.name: each.estimate(evidence).noise_rate for each in found}


def clean_posteriors(observed: Observed) -> tuple[Tensor, Tensor, str | None]:
    """Posteriors of the mixture over the final losses: of the given (N) and planted labels (M)."""
    losses = observed.given.losses
    size = len(losses)
    if observed.planted is not None:
        losses = torch.cat([losses, observed.planted.losses])
    clean, fallback = label_quality(losses)
    return clean[:size], clean[size:], fallback


def label_quality(losses: Tensor) -> tuple[Tensor, str | None]:
    """P(given label is right): each network's mixture posterior, averaged over the networks.

    Args:
        losses: cross-entropy of the given label by each network (N, P), nats.

    Returns:
        The quality (N), and which guard rail took over in one of the fits, or None.
    """
    fits = [mixture("gaussian").fit(column) for column in losses.T]
    fallback = next((fit.fallback for fit in fits if fit.fallback), None)
    return torch.stack([fit.clean for fit in fits]).mean(0), fallback


def confusions(estimate: Estimate, labels: Tensor) -> Tensor:
    """T for Bayes' rule: the estimated one, or an even one of the same rate.

    Where neighbours are refused, the model is too weak for the confident joint to tell which
    classes are labelled as which: what it shows are the model's own confusions, and a T that
    expects them excuses just those labels (CIFAR-10 `semantic_resnet`: AUROC .745, even .758).

    Args:
        estimate: how labels go wrong.
        labels: given labels (N).

    Returns:
        (K, K) float32, or its diagonal (K) with very many classes.
    """
    size = len(estimate.prior)
    if estimate.name == Consensus.name or size > MOST_CLASSES or len(labels) < MIN_SAMPLES:
        return smoothed(estimate, labels).float()
    # Never quite without noise (no label could be doubted), never more wrong than chance.
    rate = min(max(estimate.noise_rate, 1.0 / len(labels)), 0.95 * (1 - 1 / size))
    even = torch.full((size, size), rate / max(1, size - 1))
    return even.fill_diagonal_(1 - rate)


@torch.no_grad()
def weigh(observed: Observed, estimate: Estimate, clean: Tensor, planted_clean: Tensor) -> Weighed:
    """One probability from all evidence, calibrated on the planted labels where there are some.

    Args:
        observed: what the run knows.
        estimate: noise rate and confusions between classes.
        clean: mixture posterior of the given labels (N).
        planted_clean: the same of the planted labels (M).
    """
    top, by_neighbours = observed.given.sources["all"], estimate.name == Consensus.name
    matrix = confusions(estimate, top.labels)
    temperature = fit_temperature(top, matrix)
    posterior, _ = qualities(top, matrix, temperature)
    other, other_probability = best_other(top, matrix, temperature)
    quality, planted = posterior, posterior.new_zeros(0)
    method = "Bayes' rule on the class probabilities of the run and the estimated confusions"
    if observed.planted is not None:
        planted_posterior, _ = qualities(observed.planted.sources["all"], matrix, temperature)
        rate = estimate.noise_rate if by_neighbours else float(1 - posterior.double().mean())
        quality, planted = fused(
            (posterior, _signs(observed.given, clean)),
            (planted_posterior, _signs(observed.planted, planted_clean)),
            rate,
            top.num_classes,
            PRIOR_SPREAD if by_neighbours else UNSURE_SPREAD,
        )
        method += f", weighed with the other evidence on {len(planted):,} planted wrong labels"
    if by_neighbours and 0 < estimate.noise_rate < 1:
        quality, planted = with_mean(quality, 1 - estimate.noise_rate, planted)
        method += "; the mean is the noise rate that neighbours show"
    return Weighed(quality, planted, posterior, other, other_probability, temperature, method)


def _signs(said: Said, clean: Tensor) -> np.ndarray:
    return torch.cat([clean[:, None], said.signs], dim=1).double().numpy()


def fused(
    given: tuple[Tensor, np.ndarray],
    planted: tuple[Tensor, np.ndarray],
    noise_rate: float,
    num_classes: int,
    freedom: float = PRIOR_SPREAD,
) -> tuple[Tensor, Tensor]:
    """Quality of the given (N) and the planted labels (M) from posteriors and other signs."""
    odds = [logit(part[0].double().clamp(1e-9, 1 - 1e-9).numpy()) for part in (given, planted)]
    noise_rate = min(0.95, max(noise_rate, 1.0 / len(given[0])))
    chance = right_by_chance(noise_rate, num_classes)
    fusion = fit_fusion(odds[0], given[1], odds[1], planted[1], noise_rate, chance, freedom)
    both = [
        torch.from_numpy(expit(fusion.log_odds(z, part[1]))).float()
        for z, part in zip(odds, (given, planted), strict=True)
    ]
    return both[0], both[1]
