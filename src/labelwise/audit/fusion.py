"""Fuse the evidence about a label into one calibrated probability, by labels known to be wrong.

M labels were planted: they are wrong, and it is known which. About the other N nothing is known,
so this is learning from positive and unlabelled examples. With ε the noise rate and signs x that
are distributed alike in planted and in natural wrong labels,

    P(planted | x) / P(not planted | x) = M / (ε N) · P(wrong | x)

(Ward et al., Presence-only data and the EM algorithm, Biometrics 2009, doi:
10.1111/j.1541-0420.2008.01116.x; Elkan and Noto, KDD 2008). With P(right | x) = σ(z) and z linear
in the signs, that likelihood is maximised over the weights. It needs no label known to be right,
and odds that level off at M / (ε N) are what tells it how sure a doubt may be.

Where the given label was wrong, a planted one may be right by chance: with K classes the share
c = ε / (K - 1) of them is, whatever the noise. The odds then are

    M / N · [(1 - c) / ε · P(wrong | x) + c / (1 - ε) · P(right | x)]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

PRIOR_SPREAD = 0.1
"""Standard deviation of the Gaussian prior on each weight: a few dozen planted labels hardly move
the weights from the posterior alone, thousands do. Planted labels are drawn evenly from all other
classes; natural ones are not, and freer weights fit that difference (on digits with 43 planted
labels 0.25 raised the calibration error from .01 to .05 under asymmetric noise)."""
LEAST_SPREAD = 0.01
"""Signs vary by at least this: of a sign that is the same for all, nothing can be learnt."""
LARGEST = 12.0
"""Log-odds are cut here: nothing is known to one in 160,000."""


@dataclass(frozen=True)
class Fusion:
    """Weights of the evidence.

    Args:
        slope: weight of the posterior's log-odds; 1 leaves them.
        weights: of the other signs (S), at least 0, in log-odds per standard deviation.
        bias: added to the log-odds.
        mean: of the signs (S), over the unlabelled samples.
        spread: their standard deviation (S).
    """

    slope: float
    weights: np.ndarray
    bias: float
    mean: np.ndarray
    spread: np.ndarray

    def log_odds(self, posterior: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """Log-odds of right (N) from the posterior's log-odds (N) and signs (N, S)."""
        z: np.ndarray = self.slope * np.clip(posterior, -LARGEST, LARGEST)
        z = z + ((signs - self.mean) / self.spread) @ self.weights + self.bias
        cut: np.ndarray = np.clip(z, -LARGEST, LARGEST)
        return cut


def fit_fusion(
    posterior: np.ndarray,
    signs: np.ndarray,
    planted_posterior: np.ndarray,
    planted_signs: np.ndarray,
    noise_rate: float,
    by_chance: float = 0.0,
    freedom: float = PRIOR_SPREAD,
) -> Fusion:
    """Fit the weights to tell the planted labels from the others.

    The prior stands at the posterior alone (slope 1, other weights and bias 0). Weights are not
    negative: every sign is made so that more of it speaks for the label.

    Args:
        posterior: log-odds of right by the noise model (N), for labels of unknown state.
        signs: other signs (N, S).
        planted_posterior: the same for the planted labels (M).
        planted_signs: the same for the planted labels (M, S).
        noise_rate: ε, estimated share of wrong ones among the N, in (0, 1).
        by_chance: c, share of the planted labels that are right after all.
        freedom: standard deviation of the prior on each weight.
    """
    mean, spread = signs.mean(0), np.maximum(signs.std(0), LEAST_SPREAD)
    standard = [(part - mean) / spread for part in (signs, planted_signs)]
    odds = [np.clip(part, -LARGEST, LARGEST) for part in (posterior, planted_posterior)]
    offset = float(np.log(len(planted_posterior) / len(posterior)))
    with np.errstate(divide="ignore"):
        of_wrong, of_right = np.log([(1 - by_chance) / noise_rate, by_chance / (1 - noise_rate)])
    start = np.zeros(2 + signs.shape[1])
    start[0] = 1.0

    def surprise(values: np.ndarray) -> tuple[float, np.ndarray]:
        total = float(((values - start) ** 2).sum() / (2 * freedom**2))
        slope = (values - start) / freedom**2
        for is_planted, z0, other in zip((False, True), odds, standard, strict=True):
            z = values[0] * z0 + other @ values[2:] + values[1]
            wrong, right = of_wrong + log_expit(-z), of_right + log_expit(z)
            both = np.logaddexp(wrong, right)
            log_ratio = offset + both  # log-odds of planted
            total -= float(log_expit(log_ratio if is_planted else -log_ratio).sum())
            error = expit(log_ratio) - is_planted
            by_z = error * (np.exp(right - both) * expit(-z) - np.exp(wrong - both) * expit(z))
            slope[0] += by_z @ z0
            slope[1] += by_z.sum()
            slope[2:] += by_z @ other
        return total, slope

    bounds = [(0.2, 3.0), (None, None), *[(0.0, None)] * signs.shape[1]]
    found = minimize(surprise, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return Fusion(float(found[0]), found[2:], float(found[1]), mean, spread)


def right_by_chance(noise_rate: float, num_classes: int) -> float:
    """Share of the planted labels that hit the true class of a sample whose label was wrong.

    Kept away from the rate at which planted labels are like the others and tell nothing.
    """
    return min(noise_rate / (num_classes - 1), 0.9 * (1 - noise_rate))


def reliability(
    quality: np.ndarray,
    planted_quality: np.ndarray,
    noise_rate: float,
    bins: int = 10,
    by_chance: float = 0.0,
) -> np.ndarray:
    """Reliability curve against the planted labels: (B, 3) mean quality, share right, count.

    A bin that holds the share f of the planted labels is expected to hold ε N f wrong ones among
    the N audited, so `1 - ε N f / n` of its n labels are right. That takes planted and natural
    wrong labels to be alike; the rest of each bin is taken to be right. With the share c of the
    planted labels right by chance, those that are wrong have the share
    `(f (1 - ε) - c n / N) / (1 - ε - c)` in the bin.

    Args:
        quality: P(given label is right) of the audited labels (N).
        planted_quality: the same score for the planted labels (M).
        noise_rate: ε, estimated share of wrong ones among the N.
        bins: bins of equal width.
        by_chance: c, share of the planted labels that are right after all; 1 - ε - c > 0.
    """
    place, counts = _bins(quality, bins)
    share = np.bincount(_bins(planted_quality, bins)[0], minlength=bins) / len(planted_quality)
    share = share * (1 - noise_rate) - by_chance * counts / len(quality)
    share = share / (1 - noise_rate - by_chance)
    with np.errstate(divide="ignore", invalid="ignore"):
        right = 1 - noise_rate * len(quality) * share / counts
        mean = np.bincount(place, quality, minlength=bins) / counts
    right = np.where(counts > 0, np.clip(right, 0, 1), np.nan)
    return np.stack([np.where(counts > 0, mean, np.nan), right, counts], axis=1)


def true_reliability(quality: np.ndarray, right: np.ndarray, bins: int = 10) -> np.ndarray:
    """Reliability curve against the truth: (B, 3) mean quality, share right, count.

    Args:
        quality: P(given label is right) (N).
        right: whether it is (N) bool.
        bins: bins of equal width.
    """
    place, counts = _bins(quality, bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(place, quality, minlength=bins) / counts
        share = np.bincount(place, right.astype(float), minlength=bins) / counts
    return np.stack([mean, share, counts], axis=1)


def curve_error(curve: np.ndarray) -> float:
    """Expected calibration error of a reliability curve: mean gap, weighted by the counts."""
    filled = curve[curve[:, 2] > 0]
    return float((np.abs(filled[:, 0] - filled[:, 1]) * filled[:, 2]).sum() / filled[:, 2].sum())


def _bins(quality: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    place = np.clip((quality * bins).astype(np.int64), 0, bins - 1)
    return place, np.bincount(place, minlength=bins)
