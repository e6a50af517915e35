"""Bootstrap intervals: how far an estimate moves when the samples are drawn anew."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labelwise.errors import UserError
from labelwise.estimation.estimator import Estimate, Estimator, Evidence, noise_rate, row_normalised
from labelwise.rng import key

LEVEL = 0.95
"""Coverage that intervals aim at."""
NUM_RESAMPLES = 100
"""Resamples of a small data set."""
FEWEST_RESAMPLES = 20
RESAMPLED_CELLS = 20_000_000
"""Samples times classes drawn in all: with more than 20,000 samples of ten classes the resamples
become fewer, and the interval, which is then narrow, is taken from their spread."""
BATCH = 25
"""Most resamples solved at once."""
TABLE_CLASSES = 256
"""Above it only the rate gets an interval: the matrices of all resamples would not fit."""


def num_resamples(num_samples: int, num_classes: int) -> int:
    """How many resamples are drawn by default: 100, fewer where samples and classes are many."""
    affordable = RESAMPLED_CELLS // max(1, num_samples * num_classes)
    return max(FEWEST_RESAMPLES, min(NUM_RESAMPLES, affordable))


def bootstrap_weights(num_samples: int, number: int, seed: int) -> Tensor:
    """How often every sample (N) float32 counts in one resample: multinomial, summing to N."""
    generator = torch.Generator().manual_seed(key(seed, "estimation/bootstrap", number))
    drawn = torch.randint(num_samples, (num_samples,), generator=generator)
    return torch.bincount(drawn, minlength=num_samples).float()


def with_intervals(
    estimator: Estimator,
    evidence: Evidence,
    *,
    seed: int = 0,
    resamples: int | None = None,
    level: float = LEVEL,
) -> Estimate:
    """An estimate with bootstrap intervals (Efron, Ann. Statist. 1979) of rate and matrix.

    The interval is `estimate ± z s` with s the standard deviation over the resamples (the bias of
    the resamples is not carried over; with 20 resamples percentiles would be no better than
    their extremes). It covers what another draw of the *same kind* of samples would change, and
    nothing else: where the estimator's assumptions fail it is narrow around a wrong number, which
    `combine` is there to notice.

    Args:
        estimator: what to resample.
        evidence: probabilities and neighbours; these are kept, samples are re-weighted.
        seed: seed of the resampling.
        resamples: R; None chooses by the number of samples and classes.
        level: coverage aimed at, in (0, 1).

    Raises:
        UserError: `level` or `resamples` is out of range, or the estimator cannot run.
    """
    if not 0 < level < 1:
        raise UserError(f"level {level:g} is no coverage: give a fraction such as 0.95.")
    size = len(evidence.probabilities)
    classes = evidence.probabilities.num_classes
    count = num_resamples(size, classes) if resamples is None else resamples
    if count < 2:
        raise UserError(f"{count} resamples have no spread: give at least 2, better 100.")
    point = estimator.estimate(evidence)
    rates, spread = _resampled(estimator, evidence, seed, count)
    reach = normal_quantile(level)
    half = reach * float(rates.std())
    point = replace(
        point,
        low=max(0.0, point.noise_rate - half),
        high=min(1.0, point.noise_rate + half),
        level=level,
        rates=rates,
    )
    if spread is None or point.transition is None:
        return point
    low, high = point.transition - reach * spread, point.transition + reach * spread
    return replace(point, transition_low=low.clamp(0, 1), transition_high=high.clamp(0, 1))


def _resampled(
    estimator: Estimator, evidence: Evidence, seed: int, count: int
) -> tuple[Tensor, Tensor | None]:
    """Rates (R) of the resamples, and the standard deviation (K, K) of the transition matrix."""
    size, classes = len(evidence.probabilities), evidence.probabilities.num_classes
    tables = classes <= TABLE_CLASSES
    together = max(1, min(BATCH, RESAMPLED_CELLS // (size * classes))) if tables else 1
    rates: list[Tensor] = []
    first = torch.zeros(classes, classes, dtype=torch.float64) if tables else None
    second = torch.zeros_like(first) if first is not None else None
    for start in range(0, count, together):
        numbers = range(start, min(count, start + together))
        weights = torch.stack([bootstrap_weights(size, number, seed) for number in numbers])
        for joint in _joints(estimator, evidence, weights):
            rates.append(torch.tensor(noise_rate(joint), dtype=torch.float64))
            if first is not None and second is not None:
                transition = row_normalised(joint)
                first += transition
                second += transition.square()
    if first is None or second is None:
        return torch.stack(rates), None
    variance = (second - first.square() / count) / (count - 1)
    return torch.stack(rates), variance.clamp_min(0).sqrt()


def _joints(estimator: Estimator, evidence: Evidence, weights: Tensor) -> list[Tensor]:
    """One joint per weighting; only small tables are stacked."""
    if evidence.probabilities.num_classes <= TABLE_CLASSES:
        return list(estimator.joints(evidence, weights))
    return [estimator.joint(evidence, row) for row in weights]


def normal_quantile(level: float) -> float:
    """Half-width z of the central interval of a normal distribution that holds `level`."""
    return float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
