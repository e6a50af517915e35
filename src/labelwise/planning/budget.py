"""A budget of minutes becomes a method, a model, an image size and a schedule: before the run.

The speed is measured by short trials on the data, the rest follows by the rules of
`labelwise.planning.choice`. What comes out are plain values of the configuration; the run that
follows is like any other, can be resumed, and can be repeated without the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from labelwise.config import RunConfig
from labelwise.errors import NoMemory
from labelwise.experiment import InMemory, Prepared, prepare
from labelwise.methods.sprint import Sprint
from labelwise.planning.asked import is_short, require_plannable
from labelwise.planning.choice import (
    MIXUP_EPOCHS,
    SEMI_SUPERVISED,
    Candidate,
    choose,
)
from labelwise.planning.clock import Clock
from labelwise.planning.short import network_for, smaller_sides, sprint_settings
from labelwise.planning.weighing import Scale

LIKELY = {"dividemix": 5.0, "hallucination": 2.0}
"""Time of an epoch over plain training's, at the least that was measured: what cannot fit even so
is not tried."""
MOST_PAIRED = 20_000
"""Embeddings beyond which anchor hallucination is not weighed: it compares easy with hard samples,
which a trial on a few does not show."""
FEW_EPOCHS = 12
"""With fewer epochs than this images are made smaller."""
SMALLEST = 500
"""Samples that are kept at least, however short the budget."""


@dataclass
class Planner:
    """Plans one run.

    Args:
        config: as parsed; what it leaves open is planned.
        prepared: its data.
        memory: the data handed over in memory, to be read again at another size.
        fixed: whether the user chose the method.
        clock: the budget, and what is left of it.
        notes: what to tell the user.
    """

    config: RunConfig
    prepared: Prepared
    memory: InMemory | None
    fixed: bool
    clock: Clock
    notes: list[str] = field(default_factory=list)

    @property
    def scale(self) -> Scale:
        """What weighs methods on the data as they are now."""
        return Scale(self.config, self.prepared, self.clock)

    def plan(self) -> tuple[RunConfig, Prepared]:
        """Choose; return the configuration with everything in its place, and its data."""
        # The trials have taken time since the first candidates were fitted.
        candidates = [self.scale.fitted(one) for one in self.candidates()]
        chosen, reason = choose(candidates, self.fixed)
        self.notes.append(
            f"budget of {self.clock.minutes:g} min: {chosen.method}, "
            f"epochs: {chosen.schedule.epochs}, each about {chosen.speed.epoch:.2g} s ({reason})"
        )
        if chosen.fits < 1:
            self._shrink(chosen)
        record = {
            "minutes": self.clock.minutes,
            "chosen": chosen.method,
            "reason": reason,
            "planning_seconds": round(self.clock.spent, 2),
            "closing_seconds": round(self.scale.closing(chosen), 2),
            "candidates": [one.to_json() for one in candidates],
            "notes": self.notes,
        }
        config = self.config.model_copy(
            update={
                "method": chosen.method,
                "model": chosen.model,
                "settings": chosen.settings,
                "schedule": chosen.schedule.model_dump(),
                "budget": record,
            }
        )
        return config, self.prepared

    def candidates(self) -> list[Candidate]:
        """Everything that is weighed, the best first; the last is the short training."""
        if self.fixed:
            return [self.given()]
        short = self.short()
        found = [
            self.affordable(name, short=False)
            for name in SEMI_SUPERVISED
            if self.is_weighed(name, short.speed.epoch)
        ]
        if short.fits >= MIXUP_EPOCHS:
            found.append(self.affordable("mixup", short=True))
        return [*(one for one in found if one is not None), short]

    def given(self) -> Candidate:
        """The method that the user chose."""
        method = self.config.method
        if not is_short(method):
            return self.scale.candidate(method, {})
        settings = self._sprint_settings() if method == Sprint.name else {}
        return self.scale.candidate(method, settings, self._network(short=True))

    def is_weighed(self, method: str, plain: float) -> bool:
        """Whether a method could fit, and a trial can tell what it takes.

        Args:
            method: one that divides the data.
            plain: seconds of an epoch of plain training.
        """
        train = self.prepared.train
        if method == "hallucination" and train.kind == "embeddings" and len(train) > MOST_PAIRED:
            return False  # what it takes grows with the square
        return LIKELY[method] * plain * self.scale.enough(method) <= self.clock.left

    def affordable(self, method: str, short: bool) -> Candidate | None:
        """A method that the user did not ask for; None where it would not fit into memory."""
        try:
            return self.scale.candidate(method, {}, self._network(short))
        except NoMemory as error:
            self.notes.append(f"{method} was not weighed: {error}")
            return None

    def short(self) -> Candidate:
        """The short training, on smaller images where whole ones allow but a few epochs.

        How many epochs larger images allow is told from the smallest, whose trial takes the least.
        """
        sides = smaller_sides(self.config, self.prepared.train)
        if not sides:
            return self._sprint()
        whole, least = self.prepared.train.shape[1], sides[-1]
        tried = self._sprint(least)
        for side in (whole, *sides):
            if side > least and not self._few_fit(tried, (side / least) ** 2):
                continue
            try:
                found = self._sprint(None if side == whole else side)
            except NoMemory:
                if side == least:
                    raise
                continue
            if side < whole:
                self._resize(side)
                self.notes.append(
                    f"images of {whole} pixels allow too few epochs in the budget, or need too "
                    f"much memory: they were brought to {side} (--image-size {whole} keeps them)"
                )
            return replace(found, image_size=self.config.image_size)
        raise AssertionError("the smallest side is always taken")

    def _few_fit(self, tried: Candidate, longer: float) -> bool:
        """Whether a few epochs fit that take so many times as long as those of a candidate."""
        own = tried.speed
        slow = replace(own, epoch=longer * own.epoch, observe=longer * own.observe)
        end = self.clock.closing(len(self.prepared.train), slow)
        return FEW_EPOCHS * slow.epoch + end <= self.clock.left

    def _resize(self, side: int) -> None:
        self.config = self.config.model_copy(update={"image_size": side})
        self.prepared = prepare(self.config, self.memory)

    def _sprint(self, side: int | None = None) -> Candidate:
        network = self._network(short=True)
        return self.scale.candidate(Sprint.name, self._sprint_settings(side), network, side)

    def _sprint_settings(self, side: int | None = None) -> dict[str, Any]:
        shape = self.prepared.train.shape
        now = shape if side is None else (shape[0], side, side)
        return sprint_settings(now, self.config.model)

    def _network(self, short: bool) -> str:
        return network_for(self.config, self.prepared.train, short)

    def _shrink(self, chosen: Candidate) -> None:
        """Keep fewer samples where not even one epoch fits, and say so."""
        train = self.prepared.train
        minutes = self.clock.minutes
        total = self.scale.closing(chosen) + chosen.seconds
        kept = max(SMALLEST, int(len(train) * max(0.0, self.clock.left) / total))
        need = self.clock.needed(total)
        if kept < len(train) and self.config.limit is None:
            self.config = self.config.model_copy(update={"limit": kept})
            self.prepared = prepare(self.config, self.memory)
            self.notes.append(
                f"the budget of {minutes:g} minutes is too short for one epoch of all "
                f"{len(train):,} samples: {len(self.prepared.train):,} are trained on and "
                f"audited; all of them need at least {need:.2g} minutes"
            )
            return
        self.notes.append(
            f"the budget of {minutes:g} minutes is too short for anything: one epoch is "
            f"trained all the same, which takes about {need:.2g} minutes in all"
        )


def plan_within(
    config: RunConfig,
    prepared: Prepared,
    memory: InMemory | None,
    minutes: float,
    start: float,
    method_given: bool,
) -> tuple[RunConfig, Prepared, tuple[str, ...]]:
    """Plan a run that ends in time; see `Planner`.

    Args:
        config: as parsed; what it leaves open is planned.
        prepared: its data.
        memory: the data handed over in memory.
        minutes: the budget.
        start: when the command began (`time.monotonic`), seconds.
        method_given: whether the user chose the method.

    Returns:
        The configuration, the data (fewer samples where the budget is very small), and what to
        tell the user.

    Raises:
        UserError: a method that wants pre-training first, or settings of no method.
    """
    require_plannable(config, prepared.train, method_given)
    planner = Planner(config, prepared, memory, method_given, Clock(minutes, start))
    config, prepared = planner.plan()
    return config, prepared, tuple(planner.notes)
