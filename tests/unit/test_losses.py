"""The losses against slow references, their gradients, and their behaviour at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from labelwise.losses.classification import (
    linear_ramp,
    negative_entropy,
    one_hot,
    prior_penalty,
    sharpen,
    soft_cross_entropy,
    squared_error,
)

torch.set_num_threads(1)


def logits_and_targets(rows: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    targets = torch.rand(rows, classes, generator=generator, dtype=torch.float64)
    return logits, targets / targets.sum(1, keepdim=True)


def softmax_by_hand(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def test_one_hot() -> None:
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(torch.tensor([2]), 3).dtype == torch.float32
    assert one_hot(torch.tensor([-1]), 3).sum() == 0
    assert one_hot(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)


def test_soft_cross_entropy_by_hand() -> None:
    logits, targets = logits_and_targets()
    for loss, row, target in zip(
        soft_cross_entropy(logits, targets), logits.tolist(), targets.tolist(), strict=True
    ):
        p = softmax_by_hand(row)
        expected = -sum(t * math.log(q) for t, q in zip(target, p, strict=True))
        assert float(loss) == pytest.approx(expected)


def test_soft_cross_entropy_with_hard_targets_is_cross_entropy() -> None:
    logits = logits_and_targets()[0].float()
    labels = torch.tensor([0, 1, 2, 3, 0])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot(labels, 4)), expected)


def test_squared_error_by_hand() -> None:
    logits, targets = logits_and_targets()
    result = squared_error(logits.softmax(1), targets)
    for loss, row, target in zip(result, logits.tolist(), targets.tolist(), strict=True):
        p = softmax_by_hand(row)
        expected = sum((q - t) ** 2 for t, q in zip(target, p, strict=True)) / 4
        assert float(loss) == pytest.approx(expected)
    # DivideMix's unlabelled term is the mean over rows and classes.
    assert float(result.mean()) == pytest.approx(float(((logits.softmax(1) - targets) ** 2).mean()))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sharpen_by_hand(temperature: float) -> None:
    _, p = logits_and_targets()
    for result, row in zip(sharpen(p, temperature).tolist(), p.tolist(), strict=True):
        powered = [value ** (1 / temperature) for value in row]
        assert result == pytest.approx([value / sum(powered) for value in powered])


def test_sharpen_at_the_edges() -> None:
    hard = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(sharpen(hard, 0.5), hard)
    tiny = sharpen(torch.tensor([[0.4, 0.35, 0.25]]), 1e-3)
    torch.testing.assert_close(tiny, torch.tensor([[1.0, 0.0, 0.0]]))
    flat = torch.full((1, 1000), 1e-3)
    torch.testing.assert_close(sharpen(flat, 0.01), flat)
    p = hard.clone().requires_grad_()
    sharpen(p, 0.5).square().sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()
    with pytest.raises(AssertionError):
        sharpen(hard, 0.0)


def test_prior_penalty_by_hand() -> None:
    mean = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    uniform = sum(math.log((1 / 3) / p) / 3 for p in (0.1, 0.2, 0.7))
    assert float(prior_penalty(mean)) == pytest.approx(uniform)
    prior = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert float(prior_penalty(mean, prior)) == pytest.approx(
        0.5 * math.log(5) + 0.5 * math.log(2.5)
    )
    assert float(prior_penalty(mean, mean)) == pytest.approx(0)
    assert float(prior_penalty(torch.full((3,), 1 / 3))) == pytest.approx(0, abs=1e-6)


def test_negative_entropy_by_hand() -> None:
    logits, _ = logits_and_targets()
    rows = [sum(p * math.log(p) for p in softmax_by_hand(row)) for row in logits.tolist()]
    assert float(negative_entropy(logits)) == pytest.approx(sum(rows) / len(rows))
    assert float(negative_entropy(torch.zeros(2, 10))) == pytest.approx(-math.log(10))


def test_gradients() -> None:
    logits, targets = logits_and_targets()
    logits.requires_grad_()
    p = logits.detach().softmax(1).requires_grad_()
    mean = p.detach().mean(0).requires_grad_()
    prior = targets.mean(0)
    check = torch.autograd.gradcheck
    assert check(lambda x: soft_cross_entropy(x, targets), logits)
    assert check(lambda x: squared_error(x.softmax(1), targets), logits)
    assert check(lambda x: sharpen(x, 0.5), p)
    assert check(prior_penalty, mean)
    assert check(lambda x: prior_penalty(x, prior), mean)
    assert check(negative_entropy, logits)


def test_cross_entropy_gradient_is_prediction_minus_target() -> None:
    logits, targets = logits_and_targets()
    logits.requires_grad_()
    soft_cross_entropy(logits, targets).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - targets)


def test_no_nan_at_zero_probability() -> None:
    extreme = torch.tensor([[1000.0, -1000.0, 0.0], [-math.inf, 2.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    p = extreme.softmax(1)
    loss = soft_cross_entropy(extreme, targets).sum() + negative_entropy(extreme)
    loss = loss + prior_penalty(p[:1].mean(0))  # (1, 0, 0)
    (loss + squared_error(p, targets).sum()).backward()
    assert loss.isfinite()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, targets = logits_and_targets(64, 10)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = {
            soft_cross_entropy: (half, targets.float()),
            squared_error: (half.softmax(1), targets.float()),
        }
        for function, arguments in results.items():
            value = function(*arguments)
            assert value.dtype == torch.float32
            expected = function(*(argument.double() for argument in arguments))
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        for scalar in (negative_entropy(half), prior_penalty(half.softmax(1).mean(0))):
            assert scalar.dtype == torch.float32
        assert sharpen(half.softmax(1), 0.5).dtype == torch.float32


def test_empty_batches_have_no_loss() -> None:
    nothing = torch.zeros(0, 3)
    assert soft_cross_entropy(nothing, nothing).shape == (0,)
    assert squared_error(nothing, nothing).shape == (0,)
    assert sharpen(nothing, 0.5).shape == (0, 3)


def test_linear_ramp() -> None:
    assert [linear_ramp(value) for value in (-3, 0, 4, 16, 99)] == [0, 0, 0.25, 1, 1]
    assert linear_ramp(0, length=0) == 1
    assert linear_ramp(2.5, length=5) == 0.5
