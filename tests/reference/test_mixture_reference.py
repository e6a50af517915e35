"""The mixtures against scikit-learn and against slow loops written from the equations."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_distribution
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from labelwise.selection.mixture import mixture

torch.set_num_threads(1)


def synthetic(name: str, num_samples: int = 3000, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    share, low, high = {
        "apart": (0.6, g.exponential(0.2, num_samples), g.normal(4, 1.2, num_samples)),
        "touching": (0.5, g.gamma(1.5, 0.5, num_samples), g.normal(5, 1.5, num_samples)),
        "few wrong": (0.98, g.exponential(0.05, num_samples), g.normal(4, 1, num_samples)),
        "mostly wrong": (0.1, g.normal(1, 0.3, num_samples), g.normal(4, 0.7, num_samples)),
    }[name]
    return np.where(g.random(num_samples) < share, low, high).astype(np.float32)


def scikit_learn(losses: np.ndarray, **settings: float) -> tuple[np.ndarray, GaussianMixture]:
    x = losses.astype(np.float64)[:, None]
    x = (x - x.min()) / (x.max() - x.min())
    model = GaussianMixture(n_components=2, reg_covar=5e-4, random_state=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    return model.predict_proba(x)[:, model.means_.argmin()], model


@pytest.mark.parametrize("name", ["apart", "touching", "few wrong", "mostly wrong"])
def test_gaussian_equals_scikit_learn(name: str) -> None:
    losses = synthetic(name)
    expected, model = scikit_learn(losses, max_iter=10, tol=1e-2)
    fit = mixture("gaussian").fit(torch.from_numpy(losses))
    order = model.means_.ravel().argsort()
    np.testing.assert_allclose(fit.means, model.means_.ravel()[order], atol=1e-3)
    np.testing.assert_allclose(fit.weights, model.weights_[order], atol=2e-3)
    # Away from the ends, where the posterior is made monotone, the two agree sample by sample.
    inside = (losses > fit.to_loss(fit.means[0]).item()) & (
        losses < fit.to_loss(fit.means[1]).item()
    )
    np.testing.assert_allclose(fit.clean.numpy()[inside], expected[inside], atol=2e-2)
    assert (((fit.clean.numpy() > 0.5) == (expected > 0.5)).mean()) > 0.998


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_equals_scikit_learn_when_converged(seed: int) -> None:
    losses = synthetic("touching", seed=seed)
    expected, _ = scikit_learn(losses, max_iter=500, tol=1e-10)
    settings = {"iterations": 500, "tolerance": 1e-10}
    clean = mixture("gaussian", **settings).fit(torch.from_numpy(losses)).clean.numpy()
    assert np.abs(clean - expected).mean() < 1e-4
    assert np.corrcoef(clean, expected)[0, 1] > 0.9999


def slow_beta(losses: np.ndarray) -> np.ndarray:
    """Arazo et al., section 3.2, one sample at a time; posterior of the low component."""
    ordered = np.sort(losses.astype(np.float64))
    cut = int(0.05 * (len(ordered) - 1))
    low, high = ordered[cut], ordered[-1 - cut]
    everything = np.clip((losses.astype(np.float64) - low) / (high - low), 1e-3, 1 - 1e-3)
    used = [x for x, loss in zip(everything, losses, strict=True) if low <= loss <= high]
    alpha, beta, weight = [1.0, 2.0], [2.0, 1.0], [0.5, 0.5]

    def posterior(x: float) -> list[float]:
        joint = [weight[c] * beta_distribution.pdf(x, alpha[c], beta[c]) for c in (0, 1)]
        return [value / sum(joint) for value in joint]

    for _ in range(10):
        shares = [posterior(x) for x in used]
        for c in (0, 1):
            total = sum(share[c] for share in shares)
            mean = sum(share[c] * x for share, x in zip(shares, used, strict=True)) / total
            spread = (
                sum(share[c] * (x - mean) ** 2 for share, x in zip(shares, used, strict=True))
                / total
            )
            alpha[c] = mean * (mean * (1 - mean) / spread - 1)
            beta[c] = alpha[c] * (1 - mean) / mean
            weight[c] = total / len(used)
    return np.array([posterior(x)[0] for x in everything])


def test_beta_equals_the_slow_loop() -> None:
    losses = synthetic("touching", 300)
    expected = slow_beta(losses)
    fit = mixture("beta").fit(torch.from_numpy(losses))
    assert fit.fallback is None
    inside = (losses > fit.to_loss(fit.means[0]).item()) & (
        losses < fit.to_loss(fit.means[1]).item()
    )
    assert inside.sum() > 50
    np.testing.assert_allclose(fit.clean.numpy()[inside], expected[inside], atol=1e-5)


def slow_monotone(losses: np.ndarray, raw: np.ndarray, pivot: float, middle: float) -> list[float]:
    """The definition in `Mixture.fit`, sample by sample."""
    clean = []
    for loss in losses:
        if loss <= pivot:
            between = raw[(losses >= loss) & (losses <= pivot)]
            clean.append(max([middle, *between]))
        else:
            between = raw[(losses <= loss) & (losses > pivot)]
            clean.append(min([middle, *between]))
    return clean


@pytest.mark.parametrize("widths", [(0.1, 1.5), (1.5, 0.1)])
def test_monotone_posterior_follows_its_definition(widths: tuple[float, float]) -> None:
    g = np.random.default_rng(0)
    losses = np.r_[g.normal(3, widths[0], 200), g.normal(5, widths[1], 200)].astype(np.float32)
    fit = mixture("gaussian").fit(torch.from_numpy(losses))
    assert fit.fallback is None
    pivot = fit.means.mean()[None]
    x = (torch.from_numpy(losses).double() - fit.low) / (fit.high - fit.low)
    density, at_pivot = fit.density(x), fit.density(pivot)
    raw = (density[0] / density.sum(0)).numpy()
    middle = (at_pivot[0] / at_pivot.sum(0)).item()
    assert (np.diff(raw[losses.argsort()]) > 1e-3).any()
    expected = slow_monotone(x.numpy(), raw, pivot.item(), middle)
    np.testing.assert_allclose(fit.clean, expected, atol=1e-6)
