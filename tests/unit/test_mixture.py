import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import beta, norm
from torch import Tensor

from labelwise.discovery import discover
from labelwise.errors import UserError
from labelwise.selection.mixture import MIN_SAMPLES, TRUST_FLOOR, Mixture, mixture
from labelwise.selection.noise_rate import estimate_noise_rate
from labelwise.selection.small_loss import small_loss_mask

torch.set_num_threads(1)
KINDS = sorted(discover("labelwise.selection", Mixture))
floats32 = st.floats(-(2.0**100), 2.0**100, width=32)
any_float32 = st.floats(width=32)


def two_groups(num_samples: int = 2000, wrong: float = 0.4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    is_wrong = generator.random(num_samples) < wrong
    low, high = generator.exponential(0.2, num_samples), generator.normal(4, 0.8, num_samples)
    losses = np.where(is_wrong, high, low)
    return torch.from_numpy(losses).float(), torch.from_numpy(is_wrong)


def assert_monotone(losses: Tensor, clean: Tensor) -> None:
    finite = losses.isfinite()
    ordered, order = losses[finite].sort()
    probability = clean[finite][order]
    assert (probability.diff() <= 0).all()
    same = ordered.diff() == 0
    assert (probability.diff()[same] == 0).all()
    assert ((clean >= 0) & (clean <= 1)).all()


def test_both_families_are_found() -> None:
    assert {"gaussian", "beta"} <= set(KINDS)
    with pytest.raises(UserError, match="Did you mean 'gaussian'"):
        mixture("gausian")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_separates_two_groups(kind: str, dtype: torch.dtype) -> None:
    losses, is_wrong = two_groups()
    fit = mixture(kind).fit(losses.to(dtype))
    assert fit.fallback is None
    assert ((fit.clean < 0.5) == is_wrong).float().mean() > 0.95
    assert fit.means[0] < fit.means[1]
    assert fit.separation > 2
    torch.testing.assert_close(fit.weights.sum().item(), 1.0)
    assert fit.clean.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=floats32))
@settings(max_examples=100, deadline=None)
def test_clean_never_rises_with_the_loss(kind: str, values: np.ndarray) -> None:
    losses = torch.from_numpy(values)
    assert_monotone(losses, mixture(kind).fit(losses).clean)


@given(
    st.integers(0, 2**20),
    st.floats(0.02, 0.98),
    st.tuples(st.floats(0.02, 2), st.floats(0.02, 2)),
    st.sampled_from(KINDS),
)
@settings(max_examples=60, deadline=None)
def test_clean_never_rises_for_unequal_widths(
    seed: int, share: float, widths: tuple[float, float], kind: str
) -> None:
    generator = np.random.default_rng(seed)
    first = generator.random(300) < share
    values = np.where(
        first, generator.normal(1, widths[0], 300), generator.normal(2, widths[1], 300)
    )
    losses = torch.from_numpy(values).float().round(decimals=2)
    assert_monotone(losses, mixture(kind).fit(losses).clean)


@pytest.mark.parametrize("kind", KINDS)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=any_float32))
@settings(max_examples=60, deadline=None)
def test_non_finite_losses_count_as_wrong(kind: str, values: np.ndarray) -> None:
    losses = torch.from_numpy(values)
    finite = losses.isfinite()
    if not finite.any():
        with pytest.raises(UserError, match="diverged"):
            mixture(kind).fit(losses)
        return
    fit = mixture(kind).fit(losses)
    assert (fit.clean[~finite] == 0).all()
    assert ("not finite" in (fit.fallback or "")) == (not bool(finite.all()))
    assert fit.clean.isfinite().all()
    assert fit.density(torch.linspace(0, 1, 7)).isfinite().all()


def test_wide_noisy_component_does_not_condemn_the_smallest_losses() -> None:
    generator = np.random.default_rng(0)
    losses = torch.from_numpy(
        np.r_[generator.normal(5, 0.1, 4000), generator.normal(7, 2, 2000)]
    ).float()
    fit = mixture("gaussian").fit(losses)
    parameters, x = fit.parameters, torch.zeros(1, dtype=torch.float64)
    raw = (fit.weights[:, None] * fit.family.log_density(x, parameters).exp()).squeeze()
    assert raw[0] < raw[1]
    assert fit.clean[losses.argmin()] == fit.clean.max() > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 2.3, -7e5])
def test_equal_losses_are_all_trusted(kind: str, value: float) -> None:
    fit = mixture(kind).fit(torch.full((100,), value))
    assert fit.fallback == "the losses are practically equal; every label is trusted"
    assert (fit.clean == 1).all()
    assert (fit.density(torch.linspace(0, 1, 5)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_few_losses_are_ranked(kind: str) -> None:
    losses = torch.tensor([3.0, 1.0, 2.0])
    fit = mixture(kind).fit(losses)
    assert "too few" in (fit.fallback or "")
    middle = (1 + TRUST_FLOOR) / 2
    torch.testing.assert_close(fit.clean, torch.tensor([TRUST_FLOOR, 1.0, middle]))
    assert mixture(kind).fit(two_groups(MIN_SAMPLES)[0]) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_single_mode_trusts_every_label(kind: str) -> None:
    losses = torch.from_numpy(np.random.default_rng(0).normal(2.3, 0.3, 5000)).float()
    fit = mixture(kind).fit(losses)
    assert "single group" in (fit.fallback or "")
    assert fit.clean.min() >= TRUST_FLOOR
    assert_monotone(losses, fit.clean)
    assert estimate_noise_rate(fit.clean) < 0.06


def test_a_lone_outlier_is_no_group() -> None:
    losses = torch.cat([torch.rand(500) * 0.1, torch.tensor([50.0])])
    fit = mixture("gaussian").fit(losses)
    assert "would hold 1.0 samples" in (fit.fallback or "")
    assert fit.clean.argmin() == 500


def test_mostly_zero_losses_are_split() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.cat([torch.zeros(1940), 4 + torch.randn(60, generator=generator)])
    for kind in KINDS:
        fit = mixture(kind).fit(losses)
        assert fit.fallback is None, kind
        assert ((fit.clean > 0.5) == (losses == 0)).float().mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_row_order_and_loss_unit_do_not_matter(kind: str) -> None:
    losses, _ = two_groups()
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(1))
    fit = mixture(kind).fit(losses)
    assert torch.equal(mixture(kind).fit(losses[order]).clean, fit.clean[order])
    scaled = mixture(kind).fit(losses.double() * 1000 - 5)
    torch.testing.assert_close(scaled.clean, fit.clean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "beta"])
def test_density_is_that_of_the_components(kind: str) -> None:
    fit = mixture(kind).fit(two_groups(wrong=0.5)[0])
    x, (first, second) = np.linspace(0.01, 0.99, 50), fit.parameters.T.numpy()[..., None]
    expected = beta.pdf(x, first, second) if kind == "beta" else norm.pdf(x, first, second**0.5)
    expected = fit.weights.numpy()[:, None] * expected
    np.testing.assert_allclose(fit.density(torch.from_numpy(x)), expected, rtol=1e-9)
    ends = fit.to_loss(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.stack([fit.low, fit.high]))


def test_settings_reach_the_family() -> None:
    losses, _ = two_groups()
    short = mixture("gaussian", iterations=1).fit(losses)
    long = mixture("gaussian", iterations=100, tolerance=0).fit(losses)
    assert not torch.equal(short.means, long.means)
    assert mixture("gaussian", variance_floor=0.1).fit(losses).parameters[:, 1].min() > 0.1


def test_estimated_noise_rate() -> None:
    losses, is_wrong = two_groups(5000, wrong=0.3)
    rate = estimate_noise_rate(mixture().fit(losses).clean)
    assert abs(rate - is_wrong.float().mean()) < 0.02
    assert estimate_noise_rate(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("keep", "count"), [(0, 0), (1e-9, 1), (0.29, 29), (0.7, 70), (0.705, 70), (1, 100)]
)
def test_small_loss_keeps_the_exact_count(keep: float, count: int) -> None:
    loss = torch.randn(100, generator=torch.Generator().manual_seed(0))
    mask = small_loss_mask(loss, keep)
    assert mask.sum() == count
    if 0 < count < 100:
        assert loss[mask].max() <= loss[~mask].min()


def test_small_loss_ties_and_non_finite() -> None:
    assert small_loss_mask(torch.ones(6), 0.5).tolist() == [True] * 3 + [False] * 3
    loss = torch.tensor([torch.nan, -torch.inf, 1.0, torch.inf, 0.0])
    assert small_loss_mask(loss, 0.4).tolist() == [False, False, True, False, True]
    assert small_loss_mask(torch.empty(0), 0.5).shape == (0,)
    with pytest.raises(UserError, match="fraction to keep"):
        small_loss_mask(loss, 1.5)
