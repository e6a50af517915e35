"""From a finished run to what is known about each label.

Evaluation and audit are the only places that may hold `Truth`.

Class probabilities come from three sources of one and the same run (`labelwise.audit.observed`).
With the estimated confusions between classes (`labelwise.estimation`) they give P(given label is
right) by Bayes' rule (`labelwise.audit.posterior`); labels planted wrong on purpose weigh it
against the other signs and set how sure a doubt may be (`labelwise.audit.fusion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit
from torch import Tensor, nn

from labelwise.audit.estimate_arrays import duplicate_arrays, transition_arrays
from labelwise.audit.fusion import (
    PRIOR_SPREAD,
    curve_error,
    fit_fusion,
    reliability,
    right_by_chance,
    true_reliability,
)
from labelwise.audit.judge import estimate_by_neighbours
from labelwise.audit.observed import SIGNS, Observed, Said
from labelwise.audit.posterior import (
    Posterior,
    fit_temperature,
    qualities,
    rate_interval,
    smoothed,
    with_mean,
)
from labelwise.audit.with_cleanlab import ranking_figures
from labelwise.data.dataset import Dataset, Truth
from labelwise.data.neighbours import nearest_among
from labelwise.data.store import Store
from labelwise.estimation.anchors import Anchors
from labelwise.estimation.bootstrap import with_intervals
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.consensus import Consensus
from labelwise.estimation.dual import DualT
from labelwise.estimation.estimator import MIN_SAMPLES, Estimate
from labelwise.estimation.estimator import Evidence as Seen
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.selection.mixture import MixtureFit, mixture
from labelwise.training.evaluate import evaluating

WORST = 200
NEIGHBOURS = 3
GRID = 200
UNSURE_SPREAD = 0.25
"""Freedom of the weights where neighbours do not tell how labels go wrong: the planted labels are
then the better witnesses (CIFAR-10 `human_random1`: calibration error .06 instead of .08)."""
MOST_CLASSES = 100
"""Above it neighbours are not asked how noisy the labels are."""
EVIDENCE = ("label posterior", "clean posterior", *SIGNS)
"""Names of the columns of `Verdicts.signs`."""


@dataclass(frozen=True)
class Verdicts:
    """What the audit found, per sample and in total.

    Args:
        quality: P(given label is right) (N).
        planted_quality: the same score for the planted labels (M), which are wrong.
        predicted: most probable class of training, views and neighbours together (N).
        suggested: the predicted class where the given one is suspect, else the given one (N).
        confidence: P(suggested label is right) (N).
        suspect: whether the given label looks wrong (N) bool.
        signs: the evidence (N, E) in [0, 1]; 1 speaks for the given label (`EVIDENCE`).
        estimate: noise rate and confusions between classes.
        rates: noise rate by every estimator that could run.
        interval: of the noise rate, 95 %.
        noise_rate: estimated share of wrong labels.
        loss: mean over networks of the cross-entropy of the given label (N), nats.
        fit: mixture fitted to `loss`, for the picture.
        fallback: which guard rail took over in the mixtures, or None.
        method: in words, how the quality was obtained.
        top: class probabilities (N) that the verdicts rest on.
        notes: remarks for the user.
        worst: rows of the lowest-quality labels, worst first (at most `WORST`).
        neighbours: nearest other samples of each of them in feature space (W, 3).
        similarity: cosine similarity of each neighbour (W, 3).
    """

    quality: Tensor
    planted_quality: Tensor
    predicted: Tensor
    suggested: Tensor
    confidence: Tensor
    suspect: Tensor
    signs: Tensor
    estimate: Estimate
    rates: dict[str, float]
    interval: tuple[float, float]
    noise_rate: float
    loss: Tensor
    fit: MixtureFit
    fallback: str | None
    method: str
    top: TopProbabilities
    notes: tuple[str, ...]
    worst: Tensor
    neighbours: Tensor
    similarity: Tensor

    @property
    def expected_precision(self) -> float | None:
        """Share of the suspects that are expected to be wrong: the mean of 1 - quality."""
        return float(1 - self.quality[self.suspect].mean()) if self.suspect.any() else None

    @property
    def expected_recall(self) -> float | None:
        """Share of the wrong labels that are expected to be among the suspects."""
        doubt = 1 - self.quality.double()
        return float(doubt[self.suspect].sum() / doubt.sum()) if doubt.sum() > 0 else None


@dataclass(frozen=True)
class Weighed:
    """Quality before anything is made of it.

    Args:
        quality: P(given label is right) (N).
        planted: the same score for the planted labels (M).
        posterior: P(given label is right) by the noise model alone (N).
        predicted: P(most probable class is right) by the noise model alone (N).
        method: in words, how it was obtained.
    """

    quality: Tensor
    planted: Tensor
    posterior: Tensor
    predicted: Tensor
    method: str


def reach_verdicts(
    observed: Observed, networks: Sequence[nn.Module], store: Store, seed: int = 0
) -> Verdicts:
    """Weigh the evidence about every label.

    A label is suspect where its quality is below one half and another class is more probable.

    Args:
        observed: what the run knows.
        networks: the trained networks, for the neighbours of the worst.
        store: training inputs.
        seed: of the intervals' resampling.
    """
    top = observed.given.sources["all"]
    estimate, note = estimate_noise_of(observed, seed)
    by_neighbours = estimate.name == Consensus.name
    clean, planted_clean, fallback = clean_posteriors(observed)
    weighed = weigh(observed, estimate, clean, planted_clean)
    quality = weighed.quality
    if by_neighbours:
        interval = (estimate.low or 0.0, 1.0 if estimate.high is None else estimate.high)
        rate = estimate.noise_rate
    elif len(top) < MIN_SAMPLES:
        rate, interval = float(1 - quality.double().mean()), (0.0, 1.0)
    else:
        rate = float(1 - quality.double().mean())
        temperature = fit_temperature(top, smoothed(estimate, top.labels).float())
        plain = Posterior(weighed.posterior, weighed.predicted, temperature)
        low, high = rate_interval(top, estimate, plain, seed)
        interval = (min(low, rate), max(high, rate))
    suspect = (quality < 0.5) & (top.predicted != top.labels)
    others = (1 - quality) / (1 - weighed.posterior).clamp_min(1e-6)
    loss = observed.given.losses.mean(1)
    # Many qualities are practically 0 or 1: the probability of the given label orders those.
    worst = torch.argsort(quality + 1e-3 * observed.given.own, stable=True)[:WORST]
    if len(observed.references) == len(store):
        unit, count = observed.reference_features, min(NEIGHBOURS, len(store) - 1)
        neighbours, similarity = nearest_among(unit[worst], worst, unit, observed.references, count)
    else:
        neighbours, similarity = nearest(networks, store, worst.to(store.device))
    return Verdicts(
        quality=quality,
        planted_quality=weighed.planted,
        predicted=top.predicted,
        suggested=torch.where(suspect, top.predicted, top.labels),
        confidence=torch.where(suspect, (weighed.predicted * others).clamp(0, 1), quality),
        suspect=suspect,
        signs=torch.cat(
            [torch.stack([weighed.posterior, clean], dim=1), observed.given.signs], dim=1
        ),
        estimate=estimate,
        rates={**rates_by_probabilities(observed), estimate.name: estimate.noise_rate},
        interval=interval,
        noise_rate=rate,
        loss=loss,
        fit=mixture("gaussian").fit(loss),
        fallback=fallback,
        method=weighed.method,
        top=top,
        notes=(note,) if note else (),
        worst=worst,
        neighbours=neighbours.cpu(),
        similarity=similarity.cpu(),
    )


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


def weigh(observed: Observed, estimate: Estimate, clean: Tensor, planted_clean: Tensor) -> Weighed:
    """One probability from all evidence, calibrated on the planted labels where there are some.

    Args:
        observed: what the run knows.
        estimate: noise rate and confusions between classes.
        clean: mixture posterior of the given labels (N).
        planted_clean: the same of the planted labels (M).
    """
    top, by_neighbours = observed.given.sources["all"], estimate.name == Consensus.name
    matrix = smoothed(estimate, top.labels).float()
    temperature = fit_temperature(top, matrix)
    posterior, predicted = qualities(top, matrix, temperature)
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
    return Weighed(quality, planted, posterior, predicted, method)


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


@torch.no_grad()
def nearest(
    networks: Sequence[nn.Module], store: Store, rows: Tensor, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The nearest other samples of `rows` (W) by cosine of the first network's features.

    Streams over the data and keeps the best so far: memory O(block + W).

    Returns:
        Row numbers (W, 3) and cosine similarities (W, 3), nearest first.
    """

    def features(index: Tensor) -> Tensor:
        outputs = networks[0](store.plain(index), heads=("features",))
        return nn.functional.normalize(outputs["features"].float(), dim=1)

    count = min(NEIGHBOURS, len(store) - 1)
    with evaluating(networks):
        query = features(rows)
        best = query.new_full((len(rows), count), -2.0)
        found = torch.zeros((len(rows), count), dtype=torch.int64, device=store.device)
        for index in store.blocks(block):
            others = features(index)
            with torch.autocast(query.device.type, enabled=False):  # as in `nearest_among`
                similarity = query @ others.T
            similarity.masked_fill_(rows[:, None] == index[None], -2.0)
            values = torch.cat([best, similarity], dim=1)
            places = torch.cat([found, index.expand(len(rows), -1)], dim=1)
            best, chosen = values.topk(count, dim=1)
            found = places.gather(1, chosen)
    return found, best


def labels_table(data: Dataset, found: Verdicts, truth: Truth | None) -> pd.DataFrame:
    """The audit as one row per training sample, in the order of the data.

    A sample that belongs to no class (planted open-set noise) has no `true_label`.
    """
    names = np.asarray([*data.classes, None], dtype=object)
    columns: dict[str, Any] = {
        "id": data.ids,
        "given_label": names[data.labels.numpy()],
        "label_quality": _numpy(found.quality).round(6),
        "predicted_label": names[_numpy(found.predicted)],
        "suggested_label": names[_numpy(found.suggested)],
        "suggestion_confidence": _numpy(found.confidence).round(6),
        "is_suspect": _numpy(found.suspect),
    }
    if truth is not None:
        columns["true_label"] = names[truth.labels.numpy()]
    return pd.DataFrame(columns)


def audit_figures(data: Dataset, found: Verdicts, truth: Truth | None) -> dict[str, Any]:
    """Totals of the audit; the figures that need truth are left out where it is not known."""
    figures: dict[str, Any] = {
        "estimated_noise_rate": found.noise_rate,
        "noise_rate_interval": list(found.interval),
        "noise_rate_estimates": found.rates,
        "noise_rate_estimator": found.estimate.name,
        "num_suspects": int(found.suspect.sum()),
        "expected_precision": found.expected_precision,
        "expected_recall": found.expected_recall,
        "suspect_threshold": 0.5,
        "num_planted": len(found.planted_quality),
        "quality_method": found.method,
    }
    if len(found.planted_quality):
        figures["calibration_error"] = curve_error(_planted_curve(found))
        figures["planted_found"] = float((found.planted_quality < 0.5).float().mean())
    if truth is None:
        return figures
    wrong = _numpy(data.labels != truth.labels)
    suspect = _numpy(found.suspect)
    right = _numpy(found.suggested == truth.labels)
    if foreign := int((truth.labels < 0).sum()):
        figures["num_foreign"] = foreign
    figures["realised_noise_rate"] = float(wrong.mean())
    quality = _numpy(found.quality.double())
    figures["calibration_error_truth"] = curve_error(true_reliability(quality, ~wrong))
    figures |= ranking_figures(wrong, 1 - quality, suspect)
    if suspect.any():
        figures["suggestion_accuracy"] = float(right[suspect].mean())
    figures["label_accuracy_given"] = float(1 - wrong.mean())
    figures["label_accuracy_suggested"] = float(right.mean())
    return figures


def evidence_arrays(data: Dataset, found: Verdicts, truth: Truth | None) -> dict[str, np.ndarray]:
    """What the report shows beyond the table, as arrays for `evidence.npz`."""
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    fit = found.fit
    worst, neighbours = found.worst, found.neighbours
    arrays = {
        "loss": _numpy(found.loss),
        "loss_grid": _numpy(fit.to_loss(grid)),
        "loss_density": _numpy(fit.density(grid)) / max(float(fit.high - fit.low), 1e-12),
        "worst": _numpy(worst),
        "neighbours": _numpy(neighbours),
        "similarity": _numpy(found.similarity),
        "evidence": _numpy(found.signs.float()),
        "evidence_names": np.asarray(EVIDENCE),
        **transition_arrays(found.estimate, len(data)),
        **duplicate_arrays(data),
    }
    if len(found.planted_quality):
        arrays["reliability"] = _planted_curve(found)
    if truth is not None:
        right = _numpy(data.labels == truth.labels)
        arrays["reliability_truth"] = true_reliability(_numpy(found.quality.double()), right)
    if data.kind == "images":
        arrays["worst_images"] = _numpy(data.inputs[worst])
        arrays["neighbour_images"] = _numpy(
            data.inputs[neighbours.flatten()].reshape(*neighbours.shape, *data.shape)
        )
    return arrays


def _planted_curve(found: Verdicts) -> np.ndarray:
    quality, planted = (_numpy(part.double()) for part in (found.quality, found.planted_quality))
    chance = right_by_chance(found.noise_rate, found.top.num_classes)
    return reliability(quality, planted, found.noise_rate, by_chance=chance)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
