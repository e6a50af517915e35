"""P(given label is right) from class probabilities and a noise transition matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.estimator import Estimate, Evidence
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.rng import Draw

BLOCK = 65_536
"""Samples worked on at once: (BLOCK, m) numbers are in memory a few times."""
FLOOR = 1e-3
"""Probabilities below this / K count as this / K: trees and neighbour votes give exact zeros."""
SHARPEST, FLATTEST = 0.05, 5.0
"""Range of the temperature."""
SAMPLE = 100_000
"""Samples that the temperature is fitted to; one number needs no more."""
RESAMPLES, RESAMPLED = 100, 20_000
"""Bootstrap resamples of the rate's interval, and samples that are resampled at most."""


@dataclass(frozen=True)
class Posterior:
    """What the probabilities, the given label and the noise say together.

    Args:
        quality: P(true = given | x, given) (N) float32.
        predicted: P(true = predicted | x, given) (N) float32.
        temperature: τ; below 1 the probabilities were too flat for the given labels.
    """

    quality: Tensor
    predicted: Tensor
    temperature: float


def label_posterior(
    top: TopProbabilities, estimate: Estimate, match_rate: bool = False
) -> Posterior:
    """P(true = given | x, given) by Bayes' rule, with the probabilities' temperature fitted.

    With p(x) the class probabilities, T[j, i] = P(given = i | true = j), and the sharpened
    q_j(x) ∝ p_j(x)^(1/τ) as P(true = j | x):

        P(true = g | x, given = g) = q_g T[g, g] / Σ_j q_j T[j, g]

    which is class-conditional noise (given independent of x once true is known). A model that
    learnt from noisy labels gives flat p even where it is sure of the class; τ mends that without
    clean labels, since the given labels themselves say how sharp q must be: τ maximises

        Σ_n log Σ_j q_j(x_n; τ) T[j, given_n]

    the likelihood of the given labels. That holds where p(x_n) was computed without given_n
    (cross-validation, or a method that resists wrong labels), as it must be for any audit.
    Quality rises with p_g and with T[g, g]: with the other probabilities in fixed proportion, a
    more probable label is never of lower quality.

    Differences from Northcutt et al. 2021 (confident learning):
    1. Their label quality is p_g, or p_g minus the largest other p, which ranks but is no
       probability.
    2. T comes from the confident joint as theirs does, smoothed by one pseudo-count per class, so
       that an unseen confusion is unlikely, not impossible. It is not re-estimated from the
       posterior (expectation-maximisation): where noise has structure the model has learnt some
       of it, flat p explain the given labels without any noise, and the rate drifts to zero.

    Args:
        top: class probabilities and given labels of N samples.
        estimate: how labels go wrong; gives T.
        match_rate: shift all log-odds of quality by one number so that the mean of 1 - quality is
            the estimate's noise rate. The order stays. For an estimate that does not rest on the
            same probabilities and so knows the rate better than they do.
    """
    matrix = smoothed(estimate, top.labels).float()
    temperature = fit_temperature(top, matrix)
    quality, predicted = qualities(top, matrix, temperature)
    if match_rate:
        shifted, _ = with_mean(quality, 1 - estimate.noise_rate, quality[:0])
        others = (1 - shifted) / (1 - quality).clamp_min(1e-12)
        own = top.predicted == top.labels
        quality, predicted = shifted, torch.where(own, shifted, predicted * others)
    return Posterior(quality, predicted, temperature)


def denoised_labels(top: TopProbabilities, estimate: Estimate, neighbours: Tensor) -> Tensor:
    """Most probable true class (N) int64 by the model, the given label and the neighbours' labels.

    argmax_j q_j T[j, given] Π_k T[j, given of neighbour k], with q and T as in `label_posterior`
    and the labels of neighbours, which are taken to be of the same class, independent given it.

    Args:
        top: class probabilities and given labels of N samples.
        estimate: how labels go wrong; its T must be dense.
        neighbours: row numbers (N, k) of every sample's nearest others.
    """
    matrix = smoothed(estimate, top.labels)
    assert matrix.ndim == 2, "with so many classes there is no table of confusions"
    temperature = fit_temperature(top, matrix.float())
    by_label = matrix.clamp_min(1e-12).log().float().T.contiguous()  # given label -> true class
    floor, found = FLOOR / top.num_classes, []
    for start in range(0, len(top), BLOCK):
        rows = slice(start, start + BLOCK)
        score = top.dense(rows).clamp_min(floor).log() / temperature + by_label[top.labels[rows]]
        for column in neighbours[rows].T:
            score += by_label[top.labels[column]]
        found.append(score.argmax(1))
    return torch.cat(found)


def with_mean(quality: Tensor, mean: float, others: Tensor) -> tuple[Tensor, Tensor]:
    """Shift the log-odds of probabilities (N) by one number so that their mean is `mean`.

    Args:
        quality: probabilities (N).
        mean: the mean they shall have.
        others: probabilities (M) that are shifted by the same number.

    Returns:
        Both, shifted.
    """
    odds, other_odds = (part.double().clamp(1e-9, 1 - 1e-9).logit() for part in (quality, others))
    mean = min(1 - 1e-6, max(1e-6, mean))
    shift = brentq(lambda by: float((odds + by).sigmoid().mean()) - mean, -60.0, 60.0)
    return (odds + shift).sigmoid().float(), (other_odds + shift).sigmoid().float()


def qualities(top: TopProbabilities, matrix: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """P(true = given) and P(true = predicted), each (N), by `label_posterior`'s formula.

    Args:
        top: class probabilities and given labels of N samples.
        matrix: T, from `smoothed`.
        temperature: τ.
    """
    parts = []
    for start in range(0, len(top), BLOCK):
        part = top.rows(torch.arange(start, min(start + BLOCK, len(top))))
        weight, own, rest = _weights(part, matrix, temperature)
        total = weight.sum(1) + rest
        parts.append((own / total, weight[:, 0] / total))
    quality, predicted = (torch.cat(column) for column in zip(*parts, strict=True))
    return quality, predicted


def best_other(top: TopProbabilities, matrix: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The most probable true class besides the given label (N), and its probability (N).

    argmax_{j != given} q_j T[j, given], with q and T as in `label_posterior`: where a class is
    often labelled as another, the given label itself speaks for the class that it is mistaken for.

    Args:
        top: class probabilities and given labels of N samples.
        matrix: T, from `smoothed`.
        temperature: τ.
    """
    classes, probabilities = [], []
    for start in range(0, len(top), BLOCK):
        part = top.rows(torch.arange(start, min(start + BLOCK, len(top))))
        weight, _, rest = _weights(part, matrix, temperature)
        total = weight.sum(1) + rest
        best = weight.masked_fill(part.classes == part.labels[:, None], -1.0).max(1)
        classes.append(part.classes.gather(1, best.indices[:, None])[:, 0])
        probabilities.append(best.values.clamp_min(0) / total)
    return torch.cat(classes), torch.cat(probabilities)


def rate_interval(
    top: TopProbabilities, estimate: Estimate, posterior: Posterior, seed: int
) -> tuple[float, float]:
    """A 95 % interval of the noise rate: sampling error, and how far two estimates differ.

    Two estimates rest on the same probabilities: the mass off the diagonal of the confident
    joint, which tends to be too high, and the mean of 1 - quality, which tends to be too low where
    noise depends on the input. The interval reaches from the lower 2.5 % point of the one to the
    upper 97.5 % point of the other, over bootstrap resamples in which both are estimated anew
    (the temperature is kept). Samples that are ambiguous by nature count as partly wrong in both:
    with many of them the interval lies too high. Above `RESAMPLED` samples a part is resampled,
    and the spread is scaled by the square root of the ratio.

    Args:
        top: class probabilities and given labels of N samples.
        estimate: the confident joint.
        posterior: the qualities that follow from it.
        seed: of the resampling.
    """
    step = -(-len(top) // RESAMPLED)
    part = top.rows(torch.arange(0, len(top), step))
    rows, rates = len(part), []
    draw = Draw(seed).numpy("rate-interval")
    for _ in range(RESAMPLES):
        weights = torch.from_numpy(draw.multinomial(rows, np.full(rows, 1 / rows))).double()
        again = Estimate.from_joint("resampled", ConfidentJoint().joint(Evidence(part), weights))
        matrix = smoothed(again, part.labels).float()
        quality = qualities(part, matrix, posterior.temperature)[0].double()
        rates.append((1 - float((weights * quality).sum()) / rows, again.noise_rate))
    spread = np.asarray(rates) - np.mean(rates, axis=0)
    ends = np.quantile(spread, [0.025, 0.975], axis=0) * np.sqrt(rows / len(top))
    ends += [float(1 - posterior.quality.double().mean()), estimate.noise_rate]
    return max(0.0, float(ends[0].min())), min(1.0, float(ends[1].max()))


def smoothed(estimate: Estimate, labels: Tensor) -> Tensor:
    """T with one pseudo-count per class of noise that is equally likely to every other class.

    Args:
        estimate: how labels go wrong.
        labels: given labels (N); their counts stand for the unknown ones of the true classes.

    Returns:
        T (K, K) float64; with so many classes that the estimate is sparse only its diagonal (K),
        the rest of a row being spread evenly.
    """
    size = len(estimate.prior)
    counts = torch.bincount(labels, minlength=size).double()
    rate = min(0.5, max(estimate.noise_rate, 1.0 / len(labels)))
    if estimate.transition is None:
        joint = estimate.joint.coalesce()
        rows, columns = joint.indices()
        own = rows == columns
        diagonal = torch.zeros(size, dtype=torch.float64)
        diagonal[rows[own]] = joint.values()[own].double()
        diagonal = torch.where(estimate.prior > 0, diagonal / estimate.prior.clamp_min(1e-300), 1)
        return (counts * diagonal + 1 - rate) / (counts + 1)
    even = torch.full((size, size), rate / max(1, size - 1), dtype=torch.float64)
    even.fill_diagonal_(1 - rate)
    counts = counts[:, None]
    return (counts * estimate.transition.double() + even) / (counts + 1)


def fit_temperature(top: TopProbabilities, transition: Tensor) -> float:
    """The temperature under which the given labels are likeliest; see `label_posterior`.

    Above `SAMPLE` samples every so-manyth one is taken.
    """
    step = -(-len(top) // SAMPLE)
    part = top.rows(torch.arange(0, len(top), step))

    def surprise(log_temperature: float) -> float:
        weight, _, rest = _weights(part, transition, float(np.exp(log_temperature)))
        return float(-(weight.sum(1) + rest).clamp_min(1e-12).log().mean())

    bounds = (float(np.log(SHARPEST)), float(np.log(FLATTEST)))
    found = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x))


def _weights(
    top: TopProbabilities, transition: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """q_j T[j, given] of the kept classes (n, m), of the given label (n), and of all others (n).

    The mass that was dropped is spread evenly over the dropped classes.
    """
    num_classes, kept = top.num_classes, top.values.shape[1]
    is_given = top.classes == top.labels[:, None]
    inside = is_given.any(1)
    dropped = (num_classes - kept - (~inside).long()).clamp_min(0)
    left = 1 - top.values.sum(1) - torch.where(inside, 0.0, top.given)
    tail = left.clamp_min(0) / dropped.clamp_min(1)
    floor = FLOOR / num_classes
    # Relative to the largest value: nothing overflows however low the temperature is.
    largest = top.values[:, :1].clamp_min(floor)

    def sharp(values: Tensor) -> Tensor:
        return (values.clamp_min(floor) / largest).pow(1 / temperature)

    kept_mass = sharp(top.values)
    own_mass = sharp(top.given[:, None])[:, 0]
    tail_mass = sharp(tail[:, None])[:, 0] * dropped
    total = kept_mass.sum(1) + torch.where(inside, 0.0, own_mass) + tail_mass
    likelihood, diagonal, other = _likelihood(transition, top)
    weight = kept_mass * likelihood / total[:, None]
    own = own_mass * diagonal / total
    rest = tail_mass * other / total + torch.where(inside, 0.0, own)
    return weight, own, rest


def _likelihood(transition: Tensor, top: TopProbabilities) -> tuple[Tensor, Tensor, Tensor]:
    """T[j, given] of the kept classes (n, m), T[given, given] (n), and the mean of the others."""
    others = max(1, top.num_classes - 1)
    given = top.labels
    if transition.ndim == 1:
        spread = (1 - transition) / others
        same = top.classes == given[:, None]
        likelihood = torch.where(same, transition[top.classes], spread[top.classes])
        return likelihood, transition[given], (spread.sum() - spread[given]) / others
    diagonal = transition.diagonal()[given]
    likelihood = transition[top.classes, given[:, None]]
    return likelihood, diagonal, (transition.sum(0)[given] - diagonal) / others
