"""A budget of minutes: what it chooses, what it keeps, and that the run that follows is plain."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import labelwise
from labelwise import cli
from labelwise.config import RISE, RunConfig, Schedule
from labelwise.data.dataset import Dataset, Source
from labelwise.errors import NoMemory, UserError
from labelwise.experiment import InMemory, Prepared, prepare
from labelwise.methods import parse_method
from labelwise.methods.sprint import Sprint
from labelwise.outputs import accuracy_figures
from labelwise.planning import weighing
from labelwise.planning.asked import require_budget
from labelwise.planning.budget import plan_within
from labelwise.planning.choice import (
    ENOUGH,
    ENOUGH_TINY,
    MIXUP_EPOCHS,
    SEMI_SUPERVISED,
    Candidate,
    choose,
    enough_of,
    fitting,
    measured_every,
)
from labelwise.planning.clock import AIM, AUDIT, OUTSIDE, Clock
from labelwise.planning.short import smaller_sides, sprint_settings
from labelwise.planning.speed import FIXED, LABELLED, Speed, measure, on_all, usual_images
from labelwise.training.loop import Interrupted
from labelwise.training.progress import Silent
from support import build_trainer, tiny_embeddings, tiny_images

IMAGES = tiny_images()
PAIR = (IMAGES.inputs.numpy(), IMAGES.labels.numpy())


def speed(epoch: float = 1.0, **changed: Any) -> Speed:
    """Made-up times: a second an epoch of training and nothing else, but for what is changed."""
    values = {
        "warmup": epoch,
        "middle": epoch,
        "observe": 0.0,
        "evaluate": 0.0,
        "batches": 4,
        "trial": 0.1,
    }
    return Speed(**{"epoch": epoch, **values, **changed})


def one_cycle(epochs: int) -> Schedule:
    return Schedule(epochs=epochs, decay="onecycle", warmup=0)


def candidate(method: str, wanted: int, fits: int) -> Candidate:
    schedule = Schedule(epochs=max(1, fits))
    enough = enough_of(wanted, (3, 32, 32)) if method in SEMI_SUPERVISED else 1
    return Candidate(method, "mlp", None, {}, schedule, wanted, enough, fits, 1.0, speed())


# -- the schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_one_cycle_rises_and_falls_to_nothing(epochs: int) -> None:
    plan = Schedule(epochs=epochs, lr=0.3, decay="onecycle")
    moments = np.linspace(0, epochs, 1001)
    rates = np.array([plan.lr_at(moment) for moment in moments])
    assert rates[0] == pytest.approx(0.03)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates.max() == pytest.approx(0.3)
    peak = rates.argmax()
    assert moments[peak] == pytest.approx(RISE * epochs, abs=epochs / 1000)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    # Straight lines: the mean rate is that of two trapezia.
    assert rates.mean() == pytest.approx(0.3 * (RISE * 0.55 + (1 - RISE) * 0.5), rel=1e-2)


def test_other_decays_change_by_the_epoch_alone() -> None:
    for decay in ("step", "cosine", "none"):
        assert not Schedule(decay=decay).by_step
    assert Schedule(decay="onecycle").by_step


def test_the_rate_of_one_cycle_is_set_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelwise.training import loop

    rates: list[float] = []
    real = loop.set_lr

    def noted(optimiser: torch.optim.Optimizer, lr: float) -> None:
        rates.append(lr)
        real(optimiser, lr)

    monkeypatch.setattr(loop, "set_lr", noted)
    labelwise.fit(
        *PAIR,
        method="ce",
        epochs=2,
        batch_size=16,
        lr=0.1,
        schedule={"decay": "onecycle"},
        out=tmp_path / "run",
        threads=1,
        plant=0.0,
    )
    plan = Schedule(epochs=2, lr=0.1, decay="onecycle")
    # Each epoch sets the rate when its phase starts, and then at each of its four steps.
    wanted = [plan.lr_at(e + s / 4) for e in (0, 1) for s in (0, 0, 1, 2, 3)]
    assert rates == pytest.approx(wanted)


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [1, 3, 5]), (9, [5])])
def test_test_data_are_measured_as_often_as_asked(
    tmp_path: Path, every: int, measured: list[int]
) -> None:
    result = labelwise.fit(
        *PAIR,
        test=PAIR,
        method="ce",
        epochs=5,
        batch_size=32,
        schedule={"evaluate_every": every},
        out=tmp_path / "run",
        threads=1,
    )
    rows = map(json.loads, (result.path / "metrics.jsonl").read_text().splitlines())
    assert [row["epoch"] for row in rows if "test_accuracy" in row] == measured
    assert result.summary["test_accuracy_last_epochs"] == len(measured)


def test_the_last_accuracy_is_of_the_last_ten_epochs() -> None:
    """Ten measurements that are ten epochs apart would reach back to the beginning."""
    rows = [{"epoch": e, "test_accuracy": e / 100} for e in range(1, 61)]
    assert accuracy_figures(rows)["test_accuracy_last"] == pytest.approx(0.555)
    some = [row if row["epoch"] % 4 == 0 else {"epoch": row["epoch"]} for row in rows]
    found = accuracy_figures(some)
    assert found["test_accuracy_last"] == pytest.approx((0.52 + 0.56 + 0.60) / 3)
    assert (found["test_accuracy_last_epochs"], found["test_accuracy_best"]) == (3, 0.6)
    assert accuracy_figures([{"epoch": 1}]) == {}


# -- the rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.9, 1.0, 7.3, 25.0, 1e6])
@pytest.mark.parametrize("times", [speed(), speed(2.0, warmup=0.5, observe=0.3, evaluate=0.4)])
def test_as_many_epochs_as_fit(seconds: float, times: Speed) -> None:
    def schedule(epochs: int) -> Schedule:
        return Schedule(epochs=epochs, warmup=min(3, epochs))

    fits, chosen = fitting(seconds, 30, times, schedule)
    slow = max((e for e in range(1, 31) if times.seconds(schedule(e)) <= seconds), default=0)
    assert fits == slow
    assert chosen.epochs == max(1, slow)


def test_the_time_of_a_run_is_the_sum_of_its_parts() -> None:
    times = speed(2.0, warmup=0.5, observe=0.25, evaluate=0.125)
    plan = Schedule(epochs=45, warmup=5, evaluate_every=10)
    # 45 epochs are observed every second time: 23 passes; measured after 5, 15, 25, 35, 45.
    expected = 5 * 0.5 + 40 * 2.0 + 23 * 0.25 + 5 * 0.125
    assert times.seconds(plan) == pytest.approx(expected)


def test_smaller_images_first_take_less_time() -> None:
    times = speed(4.0, warmup=1.0, middle=2.0, grown=2 / 3)
    plan = Schedule(epochs=30, warmup=9, evaluate_every=30)
    assert times.seconds(plan) == pytest.approx(9 * 1.0 + 11 * 2.0 + 10 * 4.0)
    method = Sprint(small_start=True)
    method.adopt(plan)
    sizes = [method.size_at(epoch) for epoch in range(30)]
    assert [sizes.count(size) for size in (0.5, 0.75, 1.0)] == [9, 11, 10]


def test_division_needs_its_epochs() -> None:
    short = candidate("sprint", 80, 80)
    both = [candidate("dividemix", 60, 60), candidate("hallucination", 60, 60), short]
    assert choose(both)[0].method == "dividemix"
    one = [candidate("dividemix", 60, 20), candidate("hallucination", 60, 60), short]
    assert choose(one)[0].method == "hallucination"
    nearly = math.ceil(ENOUGH * 60)
    some = [candidate("dividemix", 60, 20), candidate("hallucination", 60, nearly), short]
    assert choose(some)[0].method == "hallucination"
    none = [candidate("dividemix", 60, 20), candidate("hallucination", 60, nearly - 1), short]
    assert choose(none)[0] is short


@pytest.mark.parametrize(
    ("shape", "wanted", "expected"),
    [
        ((1, 8, 8), 87, ENOUGH_TINY),
        ((3, 15, 40), 87, ENOUGH_TINY),
        ((3, 16, 16), 60, 42),
        ((3, 32, 32), 87, 61),
        ((512,), 10, 7),
        ((1, 8, 8), 10, 7),
    ],
)
def test_tiny_images_need_fewer_epochs(shape: tuple[int, ...], wanted: int, expected: int) -> None:
    assert enough_of(wanted, shape) == expected


def test_many_short_epochs_are_mixed() -> None:
    sprint = candidate("sprint", 80, 70)
    assert choose([candidate("mixup", 80, MIXUP_EPOCHS), sprint])[0].method == "mixup"
    assert choose([candidate("mixup", 80, MIXUP_EPOCHS - 1), sprint])[0] is sprint
    assert choose([candidate("mixup", 80, 3)], given=True)[1] == "the method was given"


def test_measuring_takes_little_of_the_time() -> None:
    times = speed(1.0, evaluate=0.3)
    plan = measured_every(Schedule(epochs=60), times)
    assert plan.evaluate_every == 10
    assert measured_every(Schedule(epochs=60), speed(100.0, evaluate=0.3)).evaluate_every == 1
    assert measured_every(one_cycle(60), times).evaluate_every == 60


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_budget_is_a_positive_number(minutes: float) -> None:
    with pytest.raises(UserError, match="positive number"):
        labelwise.fit(*PAIR, budget=minutes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": {"epochs": 7}}, "--epochs 7"),
        ({"pretrain": "simclr"}, "does not plan pre-training"),
        ({"devices": 2}, "one process"),
    ],
)
def test_what_a_budget_cannot_go_with(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_budget(1.0, RunConfig(data="digits", **options))


def test_a_method_with_pretraining_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pre-training that scanmix wants"):
        labelwise.fit(*PAIR, method="scanmix", budget=1.0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_has_its_own_length() -> None:
    asked = ["fit", "digits", "--recipe", "dividemix-cifar10-symmetric-50", "--budget", "1"]
    done = CliRunner().invoke(cli.app, asked)
    assert done.exit_code == 2
    assert "leave one away" in done.stderr


# -- the plan, on made-up times ------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Times per sample and epoch by method, in place of measured ones."""
    times = {"sprint": 1e-4, "mixup": 1e-4, "ce": 1e-4, "hallucination": 4e-4, "dividemix": 9e-4}

    def measured(
        config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
    ) -> Speed:
        epoch = len(prepared.train) * times[config.method]
        return speed(epoch, evaluate=epoch / 20)

    monkeypatch.setattr(weighing, "measure", measured)
    return times


def planned(
    minutes: float, data: Dataset = IMAGES, method: str | None = None, **options: Any
) -> tuple[RunConfig, Prepared, tuple[str, ...]]:
    """Plan a run on data in memory."""
    memory = InMemory(data.inputs.numpy(), data.labels.numpy())
    named = {} if method is None else {"method": method}
    config = RunConfig(data="(in memory)", **named, **options)
    prepared = prepare(config, memory)
    require_budget(minutes, config)
    return plan_within(config, prepared, memory, minutes, time.monotonic(), method is not None)


def test_more_minutes_never_mean_fewer_epochs_of_a_method(slow: dict[str, float]) -> None:
    data = tiny_images(600)
    epochs: dict[str, list[int]] = {}
    methods = []
    for minutes in (0.12, 0.2, 0.5, 1.0, 3.0, 30.0, 600.0):
        config, _, _ = planned(minutes, data)
        epochs.setdefault(config.method, []).append(config.schedule["epochs"])
        methods.append(config.method)
    assert all(counts == sorted(counts) for counts in epochs.values())
    assert methods[0] == "sprint"
    assert methods[-1] == "dividemix"


def test_a_huge_budget_takes_what_the_method_wants_and_no_more(slow: dict[str, float]) -> None:
    data = tiny_images(600)
    config, _, notes = planned(600.0, data)
    usual, _, _ = planned(60.0, data)
    assert config.schedule == usual.schedule
    assert 60 <= config.schedule["epochs"] <= 300
    assert any("epochs that dividemix wants fit" in note for note in notes)


@pytest.mark.parametrize("minutes", [0.2, 0.7, 4.0])
def test_the_plan_ends_in_time(slow: dict[str, float], minutes: float) -> None:
    config, _, _ = planned(minutes, tiny_images(600))
    record = config.budget
    assert record is not None
    chosen = next(one for one in record["candidates"] if one["method"] == record["chosen"])
    total = record["planning_seconds"] + chosen["training_seconds"] + record["closing_seconds"]
    assert total + OUTSIDE <= AIM * 60 * minutes + 0.1


def test_the_trials_take_from_what_they_plan(
    slow: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method that is tried first has no more epochs than fit once all trials are over."""
    now = [1000.0]
    quick = weighing.measure

    def trial(
        config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
    ) -> Speed:
        now[0] += 8.0
        return quick(config, prepared, seconds, side)

    monkeypatch.setattr(weighing, "measure", trial)
    for name in ("monotonic", "process_time"):
        monkeypatch.setattr(f"labelwise.planning.clock.time.{name}", lambda: now[0])
    memory = InMemory(tiny_images(600).inputs.numpy(), tiny_images(600).labels.numpy())
    config = RunConfig(data="(in memory)")
    prepared = prepare(config, memory)
    config = plan_within(config, prepared, memory, 1.6, now[0], False)[0]
    record = config.budget
    assert record is not None
    first = record["candidates"][0]
    assert first["method"] == "dividemix"
    assert 0 < first["epochs_fitting"] < first["epochs_wanted"]
    assert record["planning_seconds"] == 8.0 * len(record["candidates"])
    for one in record["candidates"]:
        total = record["planning_seconds"] + one["training_seconds"]
        assert total + OUTSIDE <= AIM * 96


def test_a_machine_that_others_use_needs_more_time_for_the_end() -> None:
    ends = []
    for wait in (1.0, 3.0):
        clock = Clock(1.0, time.monotonic(), wait)
        ends.append((clock.closing(600, speed()), clock.left))
    assert ends[1][0] - ends[0][0] == pytest.approx(2 * (AUDIT[0] + 600 * AUDIT[1]))
    assert ends[0][1] - ends[1][1] == pytest.approx(2 * OUTSIDE, abs=0.1)


def test_what_the_user_sets_is_kept(slow: dict[str, float]) -> None:
    schedule = {"lr": 0.007, "batch_size": 32, "weight_decay": 0.001}
    config, _, _ = planned(
        1.0, method="ce", model="small_resnet", schedule=schedule, settings={"view": "plain"}
    )
    assert (config.method, config.model) == ("ce", "small_resnet")
    assert config.settings["view"] == "plain"
    assert schedule.items() <= config.schedule.items()
    assert config.schedule["decay"] == "onecycle"
    stepped, _, _ = planned(1.0, method="ce", schedule={"decay": "step"})
    assert stepped.schedule["decay"] == "step"


def test_too_little_time_for_all_samples_keeps_some(slow: dict[str, float]) -> None:
    slow["sprint"] = 0.01
    data = tiny_images(1200)
    config, prepared, notes = planned(0.2, data)
    assert config.limit is not None
    assert len(prepared.train) == config.limit < 1200
    assert config.schedule["epochs"] == 1
    assert any("too short for one epoch of all 1,200 samples" in note for note in notes)


def test_a_budget_for_nothing_trains_one_epoch_and_says_so(slow: dict[str, float]) -> None:
    config, prepared, notes = planned(0.01)
    assert config.schedule["epochs"] == 1
    assert len(prepared.train) == len(IMAGES)
    assert any("too short for anything" in note for note in notes)


def test_settings_need_their_method(slow: dict[str, float]) -> None:
    with pytest.raises(UserError, match="alpha belong to a method"):
        planned(1.0, settings={"alpha": 1.0})


def images_of(height: int, width: int) -> Dataset:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (60, 1, height, width), dtype=np.uint8)
    return Dataset(torch.from_numpy(images), IMAGES.labels[:60], IMAGES.classes, IMAGES.ids[:60])


@pytest.fixture
def by_area(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An epoch takes a second for every 1,024 pixels; the sides of the trials, as they come."""
    sides: list[int] = []

    def measured(
        config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
    ) -> Speed:
        shape = prepared.train.shape
        sides.append(side or min(shape[1:]))
        return speed((math.prod(shape[1:]) if side is None else side**2) / 1024)

    monkeypatch.setattr(weighing, "measure", measured)
    return sides


@pytest.mark.parametrize(
    ("side", "given", "expected", "tried"),
    [
        (64, None, 32, [32, 32]),  # the first trial is of the smallest images
        (64, 64, 64, [64]),
        (48, None, None, [24, 48]),
        (8, None, None, [8]),
        (256, None, 32, [32, 32]),
    ],
)
def test_images_are_made_smaller_for_the_sake_of_epochs(
    by_area: list[int], side: int, given: int | None, expected: int | None, tried: list[int]
) -> None:
    config, prepared, notes = planned(1.0, images_of(side, side), image_size=given)
    assert by_area[: len(tried)] == tried
    assert config.image_size == expected
    assert prepared.train.shape == (1, expected or side, expected or side)
    made_smaller = given is None and expected is not None
    assert any("were brought to 32" in note for note in notes) == made_smaller
    assert config.model == ("convnet" if side >= 16 else "auto") or config.model == "small_resnet"


def test_large_images_stay_whole_where_there_is_time(by_area: list[int]) -> None:
    config, prepared, _ = planned(600.0, images_of(256, 256), image_size=None)
    assert config.image_size is None
    assert prepared.train.shape == (1, 256, 256)
    assert by_area[:2] == [32, 256]


def test_images_that_are_not_square_stay_whole(by_area: list[int]) -> None:
    config, prepared, _ = planned(1.0, images_of(64, 640))
    assert config.image_size is None
    assert prepared.train.shape == (1, 64, 640)


def test_weights_and_foreign_backbones_keep_their_size() -> None:
    data = images_of(64, 64)
    plain = RunConfig(data="(in memory)")
    assert smaller_sides(plain, data) == [32]
    for changed in ({"init": "runs/features"}, {"model": "vit_tiny"}, {"image_size": 64}):
        assert smaller_sides(plain.model_copy(update=changed), data) == []
    assert sprint_settings((1, 64, 64), "convnet")["small_start"]
    assert "small_start" not in sprint_settings((1, 64, 64), "vit_tiny")


def test_what_does_not_fit_into_memory_is_not_weighed(
    slow: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = weighing.measure

    def measured(
        config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
    ) -> Speed:
        if config.method == "dividemix":
            raise NoMemory("needs 85 GiB")
        return quick(config, prepared, seconds, side)

    monkeypatch.setattr(weighing, "measure", measured)
    config, _, notes = planned(600.0, tiny_images(600))
    assert config.method == "hallucination"
    assert any("dividemix was not weighed: needs 85 GiB" in note for note in notes)
    with pytest.raises(NoMemory):
        planned(600.0, tiny_images(600), method="dividemix")


def test_memory_for_large_images_alone_is_missing(
    by_area: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = weighing.measure

    def measured(
        config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
    ) -> Speed:
        if (side or prepared.train.shape[1]) > 32:
            raise NoMemory("needs 85 GiB")
        return quick(config, prepared, seconds, side)

    monkeypatch.setattr(weighing, "measure", measured)
    config, _, _ = planned(600.0, images_of(128, 128))
    assert config.image_size == 32


def test_how_often_to_measure_is_kept_where_it_is_given(slow: dict[str, float]) -> None:
    config, _, _ = planned(1.0, tiny_images(600), schedule={"evaluate_every": 3})
    assert config.schedule["evaluate_every"] == 3


def test_a_wrapped_sprint_has_the_rate_of_a_sprint(slow: dict[str, float]) -> None:
    slow["sanm+sprint"] = slow["sprint"]
    rates = [
        planned(0.5, tiny_images(600), method=name)[0].schedule["lr"]
        for name in ("sprint", "sanm+sprint")
    ]
    assert rates[0] == rates[1]


def test_a_given_sprint_is_planned_as_one_that_was_chosen(by_area: list[int]) -> None:
    config, _, _ = planned(0.5, images_of(32, 32), method="sprint")
    chosen, _, _ = planned(0.5, images_of(32, 32))
    assert chosen.method == "sprint"
    assert config.settings == chosen.settings == {"trust": 0.0, "small_start": True}
    assert config.model == chosen.model == "convnet"


def test_a_single_epoch_is_no_warmup() -> None:
    times = speed(5.0, warmup=1.0)
    assert times.seconds(Schedule(epochs=1, warmup=1)) == pytest.approx(5.0)
    assert times.seconds(Schedule(epochs=3, warmup=1)) == pytest.approx(11.0)


# -- the real thing ------------------------------------------------------------------------------


def test_the_trial_times_training_and_measuring() -> None:
    data = tiny_images(200)
    config = RunConfig(data="(in memory)", method="ce", threads=1, schedule={"batch_size": 16})
    found = measure(config, Prepared(data, None, Source(data), None), seconds=1.0)
    assert 2 <= found.batches <= 13
    assert 0 < found.epoch < 5
    assert found.observe == 0  # plain training observes as it goes
    assert 0 < found.evaluate < found.epoch
    mixed = config.model_copy(update={"method": "mixup"})
    assert measure(mixed, Prepared(data, None, None, None), seconds=0.0).observe > 0


def test_a_trial_on_smaller_images_takes_less_time() -> None:
    data = images_of(96, 96)
    schedule = {"batch_size": 16}
    config = RunConfig(data="(in memory)", method="sprint", threads=1, schedule=schedule)
    prepared = Prepared(data, None, Source(data), None)
    small = measure(config, prepared, seconds=0.0, side=24)
    assert small.epoch < measure(config, prepared, seconds=0.0).epoch / 2
    assert prepared.train.shape == (1, 96, 96)


def test_two_trials_tell_what_does_not_grow_with_the_data() -> None:
    def trial(batches: int, fixed: float) -> Speed:
        return speed(fixed + 0.5 * batches, observe=0.1 * batches, batches=batches)

    found = on_all(trial(6, 1.0), trial(2, 1.0), 60)
    assert found.epoch == pytest.approx(1.0 + 0.5 * 60)
    assert found.observe == pytest.approx(0.1 * 60)
    # Alone, or where the shorter one was slow by chance, a trial is trusted less.
    assert on_all(trial(6, 1.0), None, 60).epoch == pytest.approx(10 * 4.0)
    assert on_all(trial(6, 0.0), speed(9.0, batches=2), 60).epoch == pytest.approx(
        FIXED * 3.0 + 10 * (1 - FIXED) * 3.0
    )
    assert on_all(trial(24, 1.0), trial(2, 1.0), 20).epoch == pytest.approx(13.0)


@pytest.mark.parametrize(
    ("spec", "times"),
    [
        ("ce", 1.0),
        ("coteaching", 1.0),  # both networks in one step
        ("dividemix", 4 * LABELLED),
        ("hallucination", 2 * LABELLED),
        ("sanm+dividemix", 4 * LABELLED),
    ],
)
def test_images_of_an_epoch_as_the_journal_counts_them(
    spec: str, times: float, tmp_path: Path
) -> None:
    schedule = {"epochs": 4, "warmup": 2, "batch_size": 16}
    trainer = build_trainer(IMAGES, parse_method(spec), tmp_path, schedule=schedule)
    usual = usual_images(trainer.method, 3, len(IMAGES))
    assert usual == pytest.approx(times * len(IMAGES))
    trainer.train()
    counted = [row["images"] for row in trainer.journal.rows()]
    # A division may call any share of at least one half labelled; a last batch is filled up.
    assert 0.45 * usual <= counted[3] - counted[2] <= 1.4 * usual


class StopAt(Silent):
    """Presses Ctrl-C before the second step."""

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        if epoch == 0 and step == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_planned_run_is_a_plain_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"test": PAIR, "threads": 1, "seed": 3}
    with pytest.raises(Interrupted):
        labelwise.fit(*PAIR, budget=0.15, out=tmp_path / "one", listener=StopAt(), **options)
    resumed = labelwise.resume(tmp_path / "one", *PAIR, test=PAIR)
    described = json.loads((tmp_path / "one" / "config.json").read_text())
    config = described["config"]
    assert config["budget"]["minutes"] == 0.15
    chosen = {one["method"]: one["epochs"] for one in config["budget"]["candidates"]}
    assert chosen[config["method"]] == config["schedule"]["epochs"]
    assert any("budget of 0.15 min" in note for note in resumed.summary["notes"])
    plain = labelwise.fit(
        *PAIR,
        method=config["method"],
        settings=config["settings"],
        schedule=config["schedule"],
        model=config["model"],
        out=tmp_path / "two",
        **options,
    )
    again = json.loads((tmp_path / "two" / "config.json").read_text())
    assert again["config_digest"] == described["config_digest"]
    states = [torch.load(run.path / "model" / "network-0.pt") for run in (resumed, plain)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@pytest.mark.parametrize("data", [tiny_embeddings(60), tiny_images(60)], ids=["rows", "images"])
def test_few_samples_and_embeddings(tmp_path: Path, data: Dataset) -> None:
    run = labelwise.fit(
        data.inputs.numpy(), data.labels.numpy(), budget=0.08, out=tmp_path / "run", threads=1
    )
    assert len(run.labels) == 60
