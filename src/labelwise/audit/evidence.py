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

import torch
from torch import Tensor, nn

from labelwise.audit.observed import SIGNS, Observed
from labelwise.audit.posterior import (
    Posterior,
    fit_temperature,
    rate_interval,
    smoothed,
)
from labelwise.audit.weighing import (
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
from labelwise.selection.mixture import MixtureFit, mixture
from labelwise.training.evaluate import evaluating

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
    # With no wrong label among N seen, up to 3 / N may be (the rule of three, 95 %).
    interval = (interval[0], max(interval[1], min(1.0, 3 / len(quality))))
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
