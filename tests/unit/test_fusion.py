"""The fusion of evidence on data drawn from its own model, where the right answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import expit, logit

from labelwise.audit import fusion
from labelwise.audit.fusion import (
    LARGEST,
    curve_error,
    fit_fusion,
    reliability,
    right_by_chance,
    true_reliability,
)


@dataclass
class Drawn:
    """Labels from the model: Gaussian signs, given right and given wrong."""

    right: np.ndarray
    posterior: np.ndarray
    signs: np.ndarray
    planted_right: np.ndarray
    planted_posterior: np.ndarray
    planted_signs: np.ndarray


def draw(
    num: int,
    planted: int,
    rate: float,
    by_chance: float = 0.0,
    shift: tuple[float, ...] = (1.5, 0.0),
    told: float = 1.0,
    seed: int = 0,
) -> Drawn:
    """Draw labels; sign s of right labels lies `shift[s]` standard deviations higher.

    The posterior follows from a further sign with shift 2; its log-odds are divided by `told`.
    """
    generator = np.random.default_rng(seed)
    right = generator.random(num) >= rate
    planted_right = generator.random(planted) < by_chance

    def observed(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = generator.normal(2.0 * state, 1.0)
        log_odds = 2 * own - 2 + np.log((1 - rate) / rate)  # exact, by Bayes' rule
        columns = [generator.normal(by * state, 1.0) for by in shift]
        return log_odds / told, 0.5 + 0.1 * np.stack(columns, axis=1)

    return Drawn(right, *observed(right), planted_right, *observed(planted_right))


def fitted(data: Drawn, rate: float, by_chance: float = 0.0) -> tuple[fusion.Fusion, np.ndarray]:
    """The weights, and the quality of the N labels."""
    found = fit_fusion(
        data.posterior,
        data.signs,
        data.planted_posterior,
        data.planted_signs,
        rate,
        by_chance,
    )
    return found, expit(found.log_odds(data.posterior, data.signs))


@pytest.mark.parametrize("by_chance", [0.0, 0.3])
def test_gradient_is_the_derivative(monkeypatch: pytest.MonkeyPatch, by_chance: float) -> None:
    held: list[Any] = []
    minimise = fusion.minimize

    def spy(function: Any, start: np.ndarray, **options: Any) -> Any:
        held.append(function)
        return minimise(function, start, **options)

    monkeypatch.setattr(fusion, "minimize", spy)
    fitted(draw(400, 60, 0.3, by_chance), 0.3, by_chance)
    generator = np.random.default_rng(1)
    for _ in range(5):
        place = generator.normal(0.5, 0.5, 4)
        _, gradient = held[0](place)
        numeric = approx_fprime(place, lambda x: held[0](x)[0], 1e-6)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-2)


def test_the_surprise_is_minus_the_log_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the formula written out, one label at a time."""
    held: list[Any] = []
    monkeypatch.setattr(
        fusion, "minimize", lambda f, start, **_: held.append(f) or fake_result(start)
    )
    data, rate, chance = draw(50, 20, 0.3, 0.2), 0.3, 0.2
    fitted(data, rate, chance)
    place = np.array([0.8, -0.3, 0.5, 0.2])
    mean, spread = data.signs.mean(0), data.signs.std(0)
    expected = ((place - [1, 0, 0, 0]) ** 2).sum() / (2 * fusion.PRIOR_SPREAD**2)
    for planted, posterior, signs in (
        (False, data.posterior, data.signs),
        (True, data.planted_posterior, data.planted_signs),
    ):
        for own, row in zip(posterior, signs, strict=True):
            right = expit(place[0] * own + place[1] + ((row - mean) / spread) @ place[2:])
            odds = (1 - chance) / rate * (1 - right) + chance / (1 - rate) * right
            odds *= 20 / 50
            expected -= np.log(odds / (1 + odds) if planted else 1 / (1 + odds))
    assert held[0](place)[0] == pytest.approx(expected, rel=1e-9)


def fake_result(start: np.ndarray) -> Any:
    """What an optimiser that stays where it starts returns."""

    class Result:
        x = start

    return Result()


@pytest.mark.parametrize(("by_chance", "rate"), [(0.0, 0.2), (0.05, 0.4), (0.3, 0.3)])
def test_quality_is_calibrated_with_many_planted_labels(by_chance: float, rate: float) -> None:
    data = draw(20_000, 2000, rate, by_chance)
    found, quality = fitted(data, rate, by_chance)
    assert curve_error(true_reliability(quality, data.right)) < 0.03
    assert quality.mean() == pytest.approx(1 - rate, abs=0.02)
    assert found.weights[0] > 0.3, "a telling sign is used"
    assert found.weights[1] < 0.1, "noise is not"


def test_planted_labels_that_are_right_by_chance_must_be_counted() -> None:
    """Two classes: what ignoring them costs."""
    data = draw(20_000, 2000, 0.3, by_chance=0.3)
    _, ignored = fitted(data, 0.3, 0.0)
    _, counted = fitted(data, 0.3, 0.3)
    errors = [curve_error(true_reliability(q, data.right)) for q in (ignored, counted)]
    assert errors[0] > 3 * errors[1]


def test_a_posterior_that_is_too_timid_is_sharpened() -> None:
    data = draw(20_000, 2000, 0.3, shift=(0.0, 0.0), told=2.0)
    found, quality = fitted(data, 0.3)
    assert 1.6 < found.slope < 2.2
    before = curve_error(true_reliability(expit(data.posterior), data.right))
    assert curve_error(true_reliability(quality, data.right)) < before / 3


def test_weights_are_never_negative() -> None:
    data = draw(5000, 1000, 0.3, shift=(-1.5, -0.2))
    found, _ = fitted(data, 0.3)
    assert (found.weights >= 0).all()
    assert found.weights == pytest.approx([0, 0], abs=1e-6)


def test_few_planted_labels_leave_the_posterior_almost_as_it_is() -> None:
    data = draw(2000, 20, 0.3)
    found, quality = fitted(data, 0.3)
    assert abs(found.slope - 1) < 0.15
    assert abs(found.bias) < 0.3
    assert np.abs(quality - expit(data.posterior)).mean() < 0.06


def test_a_sign_that_is_the_same_for_all_labels_does_no_harm() -> None:
    data = draw(2000, 100, 0.3, shift=(0.0, 0.0))
    data.signs[:, 0], data.planted_signs[:, 0] = 1.0, 0.0
    data.signs[:, 1] = data.planted_signs[:, 1] = 0.1 + 0.2
    found, quality = fitted(data, 0.3)
    assert np.isfinite([found.slope, found.bias, *found.weights]).all()
    assert np.isfinite(quality).all()
    data.planted_signs[:, 0] = 1.0
    assert fitted(data, 0.3)[0].weights == pytest.approx([0, 0], abs=1e-6)


def test_extreme_posteriors_are_cut() -> None:
    data = draw(500, 50, 0.3)
    data.posterior[:3] = [np.inf, -np.inf, 1e9]
    found, quality = fitted(data, 0.3)
    assert np.isfinite(quality).all()
    assert np.abs(found.log_odds(data.posterior, data.signs)).max() <= LARGEST


# -- reliability ------------------------------------------------------------------------------


@pytest.mark.parametrize("by_chance", [0.0, 0.2])
def test_reliability_by_planted_labels_is_that_by_truth(by_chance: float) -> None:
    """Planted and natural wrong labels alike; the quality need not be calibrated."""
    data = draw(100_000, 20_000, 0.3, by_chance, seed=3)
    quality = expit(0.5 * data.posterior + 0.3)
    planted = expit(0.5 * data.planted_posterior + 0.3)
    curve = reliability(quality, planted, 0.3, by_chance=by_chance)
    truth = true_reliability(quality, data.right)
    np.testing.assert_array_equal(curve[:, 2], truth[:, 2])
    np.testing.assert_allclose(curve[:, 0], truth[:, 0])
    many = curve[:, 2] > 1000
    assert many.sum() > 5
    np.testing.assert_allclose(curve[many, 1], truth[many, 1], atol=0.05)
    assert curve_error(curve) == pytest.approx(curve_error(truth), abs=0.015)


def test_reliability_by_hand() -> None:
    quality = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 1.0, 0.95])
    planted = np.array([0.05, 0.15, 0.1, 0.99])
    curve = reliability(quality, planted, 0.4, bins=2)
    # 0.4 · 10 = 4 wrong labels, three quarters of them in the lower bin.
    np.testing.assert_allclose(curve[:, 0], [0.1, (3.6 + 1.95) / 6])
    np.testing.assert_allclose(curve[:, 1], [1 - 3 / 4, 1 - 1 / 6])
    np.testing.assert_array_equal(curve[:, 2], [4, 6])


def test_true_reliability_and_its_error_by_hand() -> None:
    quality = np.array([0.0, 0.1, 0.2, 0.6, 1.0])
    right = np.array([False, True, False, True, True])
    curve = true_reliability(quality, right, bins=2)
    np.testing.assert_allclose(curve, [[0.1, 1 / 3, 3], [0.8, 1.0, 2]])
    assert curve_error(curve) == pytest.approx((3 * (1 / 3 - 0.1) + 2 * 0.2) / 5)


def test_empty_bins_count_nothing() -> None:
    curve = true_reliability(np.array([0.05, 0.95]), np.array([False, True]))
    assert np.isnan(curve[1:9, :2]).all()
    assert curve_error(curve) == pytest.approx(0.05)
    curve = reliability(np.array([0.05, 0.95]), np.array([0.55]), 0.5)
    assert np.isnan(curve[5, :2]).all()
    assert curve[[0, 9], 1].tolist() == [1.0, 1.0]


def test_share_that_is_right_by_chance() -> None:
    """Planted on labels of which the share ε is wrong: counted."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 40_000)
    given = np.where(generator.random(40_000) < 0.6, (truth + 1) % 4, truth)
    planted = (given + generator.integers(1, 4, 40_000)) % 4
    assert right_by_chance(0.6, 4) == pytest.approx((planted == truth).mean(), abs=0.01)
    assert right_by_chance(0.3, 2) == pytest.approx(0.3)
    for rate in (0.01, 0.5, 0.95):
        assert 1 - rate - right_by_chance(rate, 2) > 0


def test_logit_of_the_fitted_quality_is_linear() -> None:
    data = draw(300, 50, 0.3)
    found, quality = fitted(data, 0.3)
    standard = (data.signs - found.mean) / found.spread
    by_hand = found.slope * data.posterior + standard @ found.weights + found.bias
    np.testing.assert_allclose(logit(quality), by_hand, rtol=1e-6, atol=1e-6)
