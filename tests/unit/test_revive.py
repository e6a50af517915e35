"""Reviving lost classes: properties on random problems, and a slow loop as reference."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelwise.selection.revive import revive_classes

Problem = tuple[Tensor, Tensor, Tensor, float, int, float]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Random clean probabilities, distinct losses, labels, threshold, K and fraction."""
    num_classes = draw(st.integers(1, 6))
    count = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    losses = torch.randperm(count, generator=generator).float()
    clean = torch.rand(count, generator=generator)
    clean[labels < draw(st.integers(0, num_classes))] *= draw(st.floats(0.0, 1.0))
    threshold = draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
    return clean, losses, labels, threshold, num_classes, draw(st.sampled_from([0.0, 0.25, 0.5, 1]))


def slow(
    clean: Tensor, losses: Tensor, labels: Tensor, threshold: float, num_classes: int, part: float
) -> tuple[list[float], list[bool]]:
    """The rule of the docstring, class by class."""
    raised, starving = clean.tolist(), []
    least = part * sum(value > threshold for value in clean.tolist()) / len(clean)
    for c in range(num_classes):
        rows = [row for row in range(len(labels)) if labels[row] == c]
        trusted = sum(float(clean[row]) > threshold for row in rows)
        starving.append(bool(rows) and trusted < least * len(rows))
        if starving[-1]:
            rows.sort(key=lambda row: float(losses[row]))
            for row in rows[: math.ceil(least * len(rows))]:
                raised[row] = max(raised[row], (1 + threshold) / 2)
    return raised, starving


@settings(deadline=None, max_examples=150)
@given(problems())
def test_it_is_the_rule_written_as_a_loop(problem: Problem) -> None:
    # The threshold is compared in float32 by both.
    clean, losses, labels, threshold, num_classes, fraction = problem
    threshold = float(torch.tensor(threshold))
    raised, starving = revive_classes(clean, losses, labels, threshold, num_classes, fraction)
    expected, lost = slow(clean, losses, labels, threshold, num_classes, fraction)
    torch.testing.assert_close(raised, torch.tensor(expected))
    assert starving.tolist() == lost


@settings(deadline=None, max_examples=100)
@given(problems())
def test_it_only_raises_and_only_in_starving_classes(problem: Problem) -> None:
    clean, _, labels, threshold, num_classes, fraction = problem
    raised, starving = revive_classes(*problem)
    assert raised.shape == clean.shape
    assert raised.dtype == clean.dtype
    assert starving.shape == (num_classes,)
    assert bool((raised >= clean).all())
    assert bool((raised <= 1).all())
    changed = raised != clean
    assert bool(starving[labels[changed]].all())
    if fraction == 0 or not bool((clean > threshold).any()):
        assert not bool(changed.any())


@settings(deadline=None, max_examples=100)
@given(problems())
def test_afterwards_every_class_has_its_share(problem: Problem) -> None:
    clean, _, labels, threshold, num_classes, fraction = problem
    raised, _ = revive_classes(*problem)
    if threshold >= 1:
        return  # nothing lies above the threshold
    least = fraction * (clean > threshold).double().mean()
    for c in range(num_classes):
        own = labels == c
        if bool(own.any()):
            # The middle between threshold and 1 may round down to the threshold itself.
            assert float((raised[own] > threshold).double().mean()) >= float(least) - 1e-9


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(0, 2**31))
def test_the_order_of_the_rows_does_not_matter(problem: Problem, seed: int) -> None:
    clean, losses, labels, *rest = problem
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(seed))
    raised, starving = revive_classes(*problem)
    other, lost = revive_classes(clean[order], losses[order], labels[order], *rest)
    assert torch.equal(raised[order], other)
    assert torch.equal(starving, lost)


def test_a_healthy_split_is_untouched() -> None:
    labels = torch.arange(40) % 4
    clean = torch.where(torch.arange(40) < 20, 0.9, 0.1)
    raised, starving = revive_classes(clean, clean.neg(), labels, 0.5, 4)
    assert torch.equal(raised, clean)
    assert not starving.any()


def test_a_lost_class_gets_its_lowest_losses_back() -> None:
    labels = torch.tensor([0] * 8 + [1] * 8)
    clean = torch.tensor([0.9] * 8 + [0.1] * 8)
    losses = torch.arange(16.0).flip(0)
    raised, starving = revive_classes(clean, losses, labels, 0.5, 3)
    # Half of all labels are trusted; half of that share of eight labels are two.
    assert starving.tolist() == [False, True, False]
    assert raised[8:].tolist() == [clean[8].item()] * 6 + [0.75, 0.75]


def test_nan_losses_come_last() -> None:
    labels = torch.tensor([0] * 4 + [1] * 4)
    clean = torch.tensor([1.0] * 4 + [0.0] * 4)
    losses = torch.tensor([0.0] * 4 + [torch.nan, 5.0, torch.nan, torch.nan])
    raised, _ = revive_classes(clean, losses, labels, 0.5, 2)
    assert raised[4:].tolist() == [0.0, 0.75, 0.0, 0.0]
