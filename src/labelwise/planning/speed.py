"""How long an epoch of a method takes here: some epochs on a few samples, through the one loop."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig, Schedule
from labelwise.data.dataset import Dataset, Source
from labelwise.data.load import stratified_rows
from labelwise.data.pixels import square
from labelwise.experiment import Prepared, assemble
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.method import Method, Step
from labelwise.training.progress import Silent
from labelwise.training.sampling import Everything
from labelwise.training.trace import MOST_PASSES

EPOCHS, LATE = 5, (3, 4)
"""Epochs of a trial, two of them warm-up, and those that are read."""
FIRST, MOST = 2, 24
"""Batches of the first trial, and of the one that counts, at most."""
LABELLED = 0.85
"""Share of the samples that a division is taken to call labelled: it decides the steps of an epoch,
and in a trial, whose network knows nothing yet, it may be any."""
FIXED = 0.5
"""Share of a trial's epoch that may be taken for what does not grow with the data, at most."""


@dataclass(frozen=True)
class Speed:
    """Predicted seconds of a method's parts on the whole data.

    Args:
        epoch: training in an epoch after the warm-up.
        warmup: training in an epoch of the warm-up.
        middle: training in an epoch on growing images, between the two.
        observe: one pass that only remembers predictions, where the method needs it.
        evaluate: one measurement on the test data.
        batches: a network was timed on so many batches an epoch.
        trial: the trial itself took.
        grown: share of the epochs after which images have their whole side; 0: all along.
    """

    epoch: float
    warmup: float
    middle: float
    observe: float
    evaluate: float
    batches: int
    trial: float
    grown: float = 0.0

    def seconds(self, schedule: Schedule) -> float:
        """The training of a whole run."""
        epochs = schedule.epochs
        # Methods that divide do so even in a single epoch.
        warm = min(schedule.warmup, max(0, epochs - 1))
        passes = math.ceil(epochs / max(1, math.ceil(epochs / MOST_PASSES)))
        measured = math.ceil(epochs / schedule.evaluate_every)
        growing = max(0, round(self.grown * epochs) - warm)
        rest = epochs - warm - growing
        train = warm * self.warmup + growing * self.middle + rest * self.epoch
        return train + passes * self.observe + measured * self.evaluate


def measure(
    config: RunConfig, prepared: Prepared, seconds: float, side: int | None = None
) -> Speed:
    """Time a method on a part of the data.

    A first trial of two batches says how many fit into the time; where they already take it all,
    they count. An epoch's first steps are slow (memory, kernels), so late epochs are read. Some of
    an epoch does not grow with the data (fitting a mixture to few losses costs as much as to
    some more): the two trials tell it apart.

    Args:
        config: with the method, the model and the batch size (`schedule.batch_size`) that count.
        prepared: the whole data.
        seconds: what the trial may take.
        side: bring the images of the trial to so many pixels; None leaves them as they are.

    Raises:
        NoMemory: a run like this would not fit.
    """
    whole = math.ceil(len(prepared.train) / config.schedule["batch_size"])
    first = _trial(config, prepared, FIRST, side)
    batches = int(FIRST * (seconds - first.trial) / max(first.trial, 1e-6))
    batches = min(MOST, whole, batches)
    if batches <= FIRST:
        return on_all(first, None, whole)
    second = _trial(config, prepared, batches, side)
    return replace(on_all(second, first, whole), trial=first.trial + second.trial)


def on_all(trial: Speed, smaller: Speed | None, whole: int) -> Speed:
    """What a trial took, for all batches of the data.

    Args:
        trial: on `trial.batches` batches.
        smaller: one on fewer, or None: then all grows with the data.
        whole: batches of the data.
    """
    own = min(trial.batches, whole)
    more = 0 if smaller is None else own - smaller.batches

    def predicted(name: str) -> float:
        long: float = getattr(trial, name)
        fixed = 0.0
        if more > 0:
            each = (long - getattr(smaller, name)) / more
            fixed = min(max(0.0, long - own * each), FIXED * long)
        return fixed + (long - fixed) * whole / own

    return replace(
        trial,
        epoch=predicted("epoch"),
        warmup=predicted("warmup"),
        middle=predicted("middle"),
        observe=predicted("observe"),
    )


def _trial(config: RunConfig, prepared: Prepared, batches: int, side: int | None) -> Speed:
    """Run two epochs of warm-up and three more on `batches` batches of the data; seconds of those.

    The measurement on test data alone is for all of them.
    """
    start = time.monotonic()
    size = config.schedule["batch_size"]
    part = _part(prepared, batches * size, config.seed, side)
    own = {**config.schedule, "epochs": EPOCHS, "warmup": 2, "evaluate_every": 1}
    config = config.model_copy(update={"schedule": own})
    method = bind(config, part.train)
    config = resolve(config, part.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with tempfile.TemporaryDirectory(prefix="labelwise-") as scratch:
        trainer = assemble(config, part, method, RunFolder(Path(scratch)), Silent(), fabric)
        trainer.train()
        rows = trainer.journal.rows()
    took = [row["phase_seconds"] for row in rows]
    steps = [
        _training(phases)
        * min(2.0, max(0.5, usual_images(method, epoch, len(part.train)) / images))
        for epoch, phases, images in zip(LATE, took[3:], _images(rows)[3:], strict=True)
    ]
    tests = 0.0
    if prepared.test is not None and part.test is not None:
        tests = len(prepared.test.data) / len(part.test.data)
    return Speed(
        epoch=mean(steps),
        warmup=_training(took[1]),
        middle=_training(took[2]),
        observe=mean(phases.get("observe", 0.0) for phases in took[3:]),
        evaluate=tests * min(row["evaluate"] for row in took),
        batches=batches,
        trial=time.monotonic() - start,
    )


def usual_images(method: Method, epoch: int, total: int) -> float:
    """Images that the journal counts in an epoch of training over `total` samples.

    A phase that divides the data has as many labelled as unlabelled ones, and steps until the
    labelled are through.
    """
    return sum(
        total if isinstance(phase.sampling, Everything) else 2 * LABELLED * total
        for phase in method.phases(epoch)
        if isinstance(phase.step, Step)
    )


def _images(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Images of each epoch; the journal has sums."""
    sums = [row["images"] for row in rows]
    return [max(1, b - a) for a, b in zip([0, *sums], sums, strict=False)]


def _training(seconds: Mapping[str, float]) -> float:
    return sum(value for name, value in seconds.items() if name not in ("observe", "evaluate"))


def _part(prepared: Prepared, size: int, seed: int, side: int | None) -> Prepared:
    """Some training and test samples, of every class; no truth, nothing planted."""
    train = _some(prepared.train, size, seed, side)
    test = prepared.test
    return Prepared(
        train, None, None if test is None else Source(_some(test.data, size, seed, side)), None
    )


def _some(data: Dataset, size: int, seed: int, side: int | None) -> Dataset:
    if size < len(data):
        data = data.subset(torch.from_numpy(stratified_rows(data.labels.numpy(), size, seed)))
    if side is None:
        return data
    return replace(data, inputs=torch.from_numpy(square(data.inputs.numpy(), side)))


def scheduled(config: RunConfig, train: Dataset, values: Mapping[str, Any]) -> Schedule:
    """The schedule that a method gets on the whole data with some fields set."""
    return bind(config.model_copy(update={"schedule": dict(values)}), train).schedule
