"""Which method, for how many epochs: rules on predicted times, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labelwise.config import Schedule
from labelwise.planning.short import LEAST_SIDE
from labelwise.planning.speed import Speed

SEMI_SUPERVISED = ("dividemix", "hallucination")
"""Methods that divide the data, best first where all of them have the epochs they want."""
SEMI_EPOCHS = 60
"""Epochs that they want at least on images, whatever their default: on 10,000 images of CIFAR-10
fifteen epochs of DivideMix were 12 points behind plain training (`benchmarks/README.md`)."""
ENOUGH, ENOUGH_TINY = 0.7, 25
"""Share of the epochs they want with which they are still taken; and epochs with which they are on
tiny images, whose classes a network knows after a few: on digits 25 epochs of DivideMix are points
above MixUp, but for noise that is symmetric (`benchmarks/README.md`)."""
MIXUP_EPOCHS = 30
"""With so many epochs wrong labels are learnt by heart, and MixUp, which hinders that, is taken."""
SHORT_EPOCHS = 60
"""Epochs of a short training beyond which it gains nothing."""
MEASURED_SHARE = 0.03
"""Share of the time that measuring on test data may take."""


@dataclass(frozen=True)
class Candidate:
    """A method with the epochs that fit.

    Args:
        method: its name.
        model: the backbone.
        image_size: side of the images, or None for that of the data.
        settings: of the method.
        schedule: with the epochs that fit; 0 fitting epochs are 1 here.
        wanted: epochs it is given at most.
        enough: epochs with which it is taken at least.
        fits: epochs that fit into the time.
        seconds: predicted training time with the schedule.
        speed: measured.
    """

    method: str
    model: str
    image_size: int | None
    settings: dict[str, Any]
    schedule: Schedule
    wanted: int
    enough: int
    fits: int
    seconds: float
    speed: Speed

    @property
    def semi_supervised(self) -> bool:
        """Whether it divides the data and so needs many epochs."""
        return self.method in SEMI_SUPERVISED

    def to_json(self) -> dict[str, Any]:
        """For the record in `config.json`."""
        return {
            "method": self.method,
            "model": self.model,
            "image_size": self.image_size,
            "epochs_wanted": self.wanted,
            "epochs_needed": self.enough,
            "epochs_fitting": self.fits,
            "epochs": self.schedule.epochs,
            "seconds_per_epoch": round(self.speed.epoch, 4),
            "seconds_per_measurement": round(self.speed.evaluate, 4),
            "training_seconds": round(self.seconds, 2),
        }


def enough_of(wanted: int, shape: Sequence[int]) -> int:
    """Epochs with which a method that divides the data is taken at least.

    Args:
        wanted: epochs that it wants.
        shape: of a sample, (C, H, W) or (D,).
    """
    least = math.ceil(ENOUGH * wanted)
    tiny = len(shape) == 3 and min(shape[1:]) < LEAST_SIDE
    return min(least, ENOUGH_TINY) if tiny else least


def fitting(
    seconds: float, wanted: int, speed: Speed, schedule: Callable[[int], Schedule]
) -> tuple[int, Schedule]:
    """The most epochs, up to `wanted`, whose training fits; and their schedule.

    Args:
        seconds: for training.
        wanted: epochs at most.
        speed: of the method.
        schedule: gives the schedule of a number of epochs.

    Returns:
        The number, 0 where not even one fits, and the schedule of that number, or of one epoch.
    """
    low, high = 0, wanted  # `low` fits, all above `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        if speed.seconds(schedule(middle)) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low, schedule(max(1, low))


def measured_every(schedule: Schedule, speed: Speed) -> Schedule:
    """Measure on test data only as often as its share of the time allows.

    A learning rate that only falls to 0 at the end makes figures before it meaningless as results:
    then the last epoch alone is measured.
    """
    if schedule.by_step:
        return schedule.override({"evaluate_every": schedule.epochs})
    often = math.ceil(speed.evaluate / max(1e-9, MEASURED_SHARE * speed.epoch))
    return schedule.override({"evaluate_every": max(1, min(often, schedule.epochs))})


def choose(candidates: list[Candidate], given: bool = False) -> tuple[Candidate, str]:
    """The candidate to train, and why, in words.

    Args:
        candidates: the best method first, the shortest training last; the last is always taken
            where none before it has enough epochs.
        given: whether the user chose the method.
    """
    if len(candidates) == 1 and given:
        return candidates[0], "the method was given"
    full = [one for one in candidates if one.semi_supervised and one.fits >= one.wanted]
    some = [one for one in candidates if one.semi_supervised and one.fits >= one.enough]
    if full:
        return full[0], f"all {full[0].wanted} epochs that {full[0].method} wants fit"
    if some:
        best = max(some, key=lambda one: one.fits / one.wanted)
        return best, f"{best.fits} of the {best.wanted} epochs that {best.method} wants fit"
    many = [one for one in candidates if one.method == "mixup" and one.fits >= MIXUP_EPOCHS]
    last = (many or candidates[-1:])[0]
    return last, (
        "methods that divide the data need more epochs than fit: a short training whose learning "
        "rate falls to 0 gets further"
    )
