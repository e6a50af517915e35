"""Schedules: sane from 500 to 1,000,000 samples, and settings that explain themselves."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.config import RunConfig, Schedule, read_json
from labelwise.errors import UserError

SIZES = [500, 700, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000]
CASES = [(kind, goal) for kind in ("images", "embeddings") for goal in (1500, 2500)]


def iterations(plan: Schedule, num_samples: int) -> int:
    return plan.epochs * math.ceil(num_samples / plan.batch_size)


@pytest.mark.parametrize(("kind", "goal"), CASES)
def test_grows_with_the_data(kind: str, goal: int) -> None:
    plans = {size: Schedule.scaled(size, kind, goal) for size in SIZES}
    batches = [plan.batch_size for plan in plans.values()]
    rates = [plan.lr for plan in plans.values()]
    seen = [plan.epochs * size for size, plan in plans.items()]
    steps = [iterations(plan, size) for size, plan in plans.items()]
    assert batches == sorted(batches)
    assert rates == sorted(rates)
    assert all(b > 0.95 * a for a, b in pairwise(seen)), "samples seen"
    if kind == "images":
        assert all(b > 0.95 * a for a, b in pairwise(steps)), "iterations"


@given(st.integers(500, 1_000_000), st.sampled_from(CASES))
@settings(max_examples=300, deadline=None)
def test_stays_within_bounds(size: int, case: tuple[str, int]) -> None:
    kind, goal = case
    plan = Schedule.scaled(size, kind, goal)
    assert 8 <= plan.epochs <= 300
    assert 16 <= plan.batch_size <= 2048
    assert plan.batch_size & (plan.batch_size - 1) == 0
    assert 0.02 <= plan.lr <= 0.02 * math.sqrt(2048 / 64) + 1e-4
    assert 1 <= plan.warmup <= 0.3 * plan.epochs + 0.5
    steps = iterations(plan, size)
    if plan.epochs == 8:  # few epochs are enough to reach any goal
        return
    if kind == "images":
        wanted = goal * max(1.0, math.sqrt(size / 2000))
        assert 0.9 * wanted < steps < 1.1 * wanted
    else:
        assert 0.2 * goal < steps < 0.5 * goal


@given(st.integers(2, 500), st.sampled_from(CASES))
@settings(max_examples=100, deadline=None)
def test_few_samples_still_give_a_schedule(size: int, case: tuple[str, int]) -> None:
    plan = Schedule.scaled(size, *case)
    assert plan.epochs >= 8
    assert plan.warmup < plan.epochs


@pytest.mark.parametrize("decay", ["step", "cosine", "none"])
def test_learning_rate_never_rises(decay: str) -> None:
    plan = Schedule.parse({"epochs": 40, "lr": 0.1, "decay": decay}, "schedule")
    rates = [plan.lr_at(epoch) for epoch in range(40)]
    assert rates[0] == 0.1
    assert all(b <= a for a, b in pairwise(rates))
    assert all(rate > 0 for rate in rates)
    if decay == "step":
        assert rates == [0.1] * 20 + [pytest.approx(0.01)] * 20
    if decay == "cosine":
        assert rates[20] == pytest.approx(0.05)


@given(st.integers(500, 1_000_000), st.integers(1, 400), st.integers(4, 9))
@settings(max_examples=200, deadline=None)
def test_warmup_leaves_most_of_the_run(size: int, epochs: int, power: int) -> None:
    plan = Schedule(epochs=epochs, batch_size=2**power).with_warmup(size)
    assert max(1, 0.04 * epochs - 0.5) <= plan.warmup <= max(1, 0.3 * epochs + 0.5)
    assert plan.override({"warmup": 0}) == Schedule(epochs=epochs, batch_size=2**power, warmup=0)


def test_warmup_counts_iterations() -> None:
    """Of two batch sizes, the larger one warms up for more epochs, not for fewer steps."""
    small, large = (Schedule(epochs=100, batch_size=b).with_warmup(2000) for b in (16, 64))
    assert large.warmup > small.warmup
    steps = small.warmup * math.ceil(2000 / 16), large.warmup * math.ceil(2000 / 64)
    assert min(steps) > 200


def test_override_skips_none_and_rejects_unknown_keys() -> None:
    plan = Schedule(epochs=7)
    assert plan.override({"epochs": None, "lr": 0.5}) == Schedule(epochs=7, lr=0.5)
    assert plan.override({}) is plan
    with pytest.raises(UserError, match=r"'epoch'.*Did you mean 'epochs'"):
        plan.override({"epoch": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 1), ("lr", 0), ("lr", -1), ("momentum", 1), ("decay", "linear")],
)
def test_values_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"schedule: {name} = {value!r} is not valid"):
        Schedule.parse({name: value}, "schedule")


@pytest.mark.parametrize("value", ["inf", float("inf")])
def test_infinite_learning_rate_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="lr"):
        Schedule.parse({"lr": value}, "schedule")


def test_digest_covers_what_decides_the_result() -> None:
    base = RunConfig(data="digits")
    for change in (
        {"seed": 1},
        {"method": "ce"},
        {"schedule": {"lr": 0.1}},
        {"noise": "symmetric:0.2"},
    ):
        assert base.model_copy(update=change).digest() != base.digest()
    for change in ({"threads": 3}, {"checkpoint_every": 0.0}):
        assert base.model_copy(update=change).digest() == base.digest()
    again = RunConfig.parse(json.loads(base.model_dump_json()), "config.json")
    assert again.digest() == base.digest()


def test_broken_json_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config\.json does not exist: is .* a run folder"):
        read_json(path)
    for content in (b"{", b"\xff\xfe\x00", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_json(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="JSON object"):
        read_json(path)
