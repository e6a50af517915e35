"""From a finished run to what is known about each label.

Evaluation and audit are the only places that may hold `Truth`.

Class probabilities come from three sources of one and the same run (`labelwise.audit.observed`).
With the estimated confusions between classes (`labelwise.estimation`) they give P(given label is
right) by Bayes' rule (`labelwise.audit.posterior`); labels planted wrong on purpose weigh it
against the other signs and set how sure a doubt may be (`labelwise.audit.fusion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labelwise.audit.observed import SIGNS, Observed
from labelwise.audit.posterior import (
    Posterior,
    rate_interval,
)
from labelwise.audit.weighing import (
    Weighed,
    clean_posteriors,
    estimate_noise_of,
    rates_by_probabilities,
    weigh,
)
from labelwise.data.neighbours import nearest_among
from labelwise.data.store import Store
from labelwise.estimation.consensus import Consensus
from labelwise.estimation.estimator import MIN_SAMPLES, Estimate
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.models.modes import evaluating
from labelwise.selection.mixture import MixtureFit, mixture

WORST = 200
NEIGHBOURS = 3
EVIDENCE = ("label posterior", "clean posterior", *SIGNS)
"""Names of the columns of `Verdicts.signs`."""


@dataclass(frozen=True)
class Verdicts:
    """What the audit found, per sample and in total.

    Args:
        quality: P(given label is right) (N).
        planted_quality: the same score for the planted labels (M), which are wrong.
        predicted: most probable true class by training, views, neighbours and given label (N).
        suggested: the most probable other class for suspects, else the given one (N).
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


def reach_verdicts(
    observed: Observed, networks: Sequence[nn.Module], store: Store, seed: int = 0
) -> Verdicts:
    """Weigh the evidence about every label.

    A label is suspect where its quality is below one half; the most probable other class is then
    suggested.

    Args:
        observed: what the run knows.
        networks: the trained networks, for the neighbours of the worst.
        store: training inputs.
        seed: of the intervals' resampling.
    """
    given = observed.given
    top = given.sources["all"]
    estimate, note = estimate_noise_of(observed, seed)
    clean, planted_clean, fallback = clean_posteriors(observed)
    weighed = weigh(observed, estimate, clean, planted_clean)
    quality = weighed.quality
    rates = rates_by_probabilities(observed)
    rate, interval = rate_of(top, estimate, weighed, rates, seed)
    suspect = quality < 0.5
    predicted = torch.where(
        suspect | (weighed.other_probability > weighed.posterior), weighed.other, top.labels
    )
    # All other classes together have 1 - quality, whatever they had by the noise model alone.
    others = (1 - quality) / (1 - weighed.posterior).clamp_min(1e-6)
    loss = given.losses.mean(1)
    # Many qualities are practically 0 or 1: the probability of the given label orders those.
    worst = torch.argsort(quality + 1e-3 * given.own, stable=True)[:WORST]
    neighbours, similarity = _similar(observed, networks, store, worst)
    return Verdicts(
        quality=quality,
        planted_quality=weighed.planted,
        predicted=predicted,
        suggested=torch.where(suspect, weighed.other, top.labels),
        confidence=torch.where(suspect, (weighed.other_probability * others).clamp(0, 1), quality),
        suspect=suspect,
        signs=torch.cat([torch.stack([weighed.posterior, clean], dim=1), given.signs], dim=1),
        estimate=estimate,
        rates={**rates, estimate.name: estimate.noise_rate} if rates else {},
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


def rate_of(
    top: TopProbabilities,
    estimate: Estimate,
    weighed: Weighed,
    rates: Mapping[str, float],
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """The noise rate and its 95 % interval.

    Where neighbours do not tell the rate, the interval holds what every estimator says.

    Args:
        top: class probabilities and given labels of N samples.
        estimate: how labels go wrong.
        weighed: the qualities.
        rates: the rate by every estimator that reads probabilities.
        seed: of the resampling.
    """
    if estimate.name == Consensus.name:
        rate, low, high = estimate.noise_rate, estimate.low or 0.0, estimate.high
        high = 1.0 if high is None else high
    elif len(top) < MIN_SAMPLES:
        rate, low, high = float(1 - weighed.quality.double().mean()), 0.0, 1.0
    else:
        rate = float(1 - weighed.quality.double().mean())
        plain = Posterior(weighed.posterior, weighed.other_probability, weighed.temperature)
        ends = (*rate_interval(top, estimate, plain, seed), *rates.values())
        low, high = min(ends), max(ends)
    # With no wrong label among N seen, up to 3 / N may be (the rule of three, 95 %).
    return rate, (min(low, rate), max(high, rate, min(1.0, 3 / len(top))))


def _similar(
    observed: Observed, networks: Sequence[nn.Module], store: Store, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The nearest samples of `rows`, from the features that are there if they are all there."""
    if len(observed.references) < len(store):
        return nearest(networks, store, rows.to(store.device))
    unit, count = observed.reference_features, min(NEIGHBOURS, len(store) - 1)
    return nearest_among(unit[rows], rows, unit, observed.references, count)


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
