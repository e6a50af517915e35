"""A budget of minutes becomes a method, a model, an image size and a schedule: before the run.

The speed is measured by short trials on the data, the rest follows by the rules of
`labelwise.planning.choice`. What comes out are plain values of the configuration; the run that
follows is like any other, can be resumed, and can be repeated without the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig, Schedule
from labelwise.errors import NoMemory
from labelwise.experiment import InMemory, Prepared, prepare
from labelwise.methods import split_spec
from labelwise.methods.sprint import GROWN, Sprint
from labelwise.planning.asked import is_short, require_plannable
from labelwise.planning.choice import (
    MIXUP_EPOCHS,
    SEMI_EPOCHS,
    SEMI_SUPERVISED,
    SHORT_EPOCHS,
    Candidate,
    choose,
    enough_of,
    fitting,
    measured_every,
)
from labelwise.planning.clock import Clock
from labelwise.planning.short import network_for, smaller_sides, sprint_settings
from labelwise.planning.speed import measure, scheduled

PEAK = 5.0
"""Learning rate at the top of one cycle, over the constant one of the default schedule."""
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

    def plan(self) -> tuple[RunConfig, Prepared]:
        """Choose; return the configuration with everything in its place, and its data."""
        # The trials have taken time since the first candidates were fitted.
        candidates = [self.fitted(one) for one in self.candidates()]
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
            "closing_seconds": round(self.closing(chosen), 2),
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
        plain = short.speed.epoch
        found = [
            self.affordable(name, short=False)
            for name in SEMI_SUPERVISED
            if self.is_weighed(name) and LIKELY[name] * plain * self.enough(name) <= self.clock.left
        ]
        if short.fits >= MIXUP_EPOCHS:
            found.append(self.affordable("mixup", short=True))
        return [*(one for one in found if one is not None), short]

    def given(self) -> Candidate:
        """The method that the user chose."""
        method = self.config.method
        if not is_short(method):
            return self.candidate(method, {})
        settings = self._sprint_settings() if method == Sprint.name else {}
        return self.candidate(method, settings, self._network(short=True))

    def is_weighed(self, method: str) -> bool:
        """Whether a trial can tell what a method takes: pairs of samples grow with the square."""
        train = self.prepared.train
        many = train.kind == "embeddings" and len(train) > MOST_PAIRED
        return not (many and method == "hallucination")

    def affordable(self, method: str, short: bool) -> Candidate | None:
        """A method that the user did not ask for; None where it would not fit into memory."""
        try:
            return self.candidate(method, {}, self._network(short))
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
        return self.candidate(Sprint.name, self._sprint_settings(side), network, side)

    def _sprint_settings(self, side: int | None = None) -> dict[str, Any]:
        shape = self.prepared.train.shape
        now = shape if side is None else (shape[0], side, side)
        return sprint_settings(now, self.config.model)

    def _network(self, short: bool) -> str:
        return network_for(self.config, self.prepared.train, short)

    def candidate(
        self,
        method: str,
        settings: Mapping[str, Any],
        model: str | None = None,
        side: int | None = None,
    ) -> Candidate:
        """Measure a method, and see how many epochs of it fit.

        Args:
            method: its name.
            settings: of it; those that the user set win.
            model: backbone; None takes the configuration's.
            side: of the images, pixels; None takes theirs.
        """
        settings = {**settings, **self.config.settings}
        config = self.config.model_copy(
            update={
                "method": method,
                "settings": settings,
                "model": model or self.config.model,
            }
        )
        base = scheduled(config, self.prepared.train, self._fields(method))
        config = config.model_copy(update={"schedule": base.model_dump()})
        with self.clock.watching():
            speed = measure(config, self.prepared, self.clock.trial, side)
        if settings.get("small_start"):
            speed = replace(speed, grown=GROWN)
        train = self.prepared.train
        return self.fitted(
            Candidate(
                method=method,
                model=resolve(config, train, bind(config, train)).model,
                image_size=self.config.image_size,
                settings=dict(settings),
                schedule=base,
                wanted=self.wanted(method),
                enough=self.enough(method),
                fits=0,
                seconds=0.0,
                speed=speed,
            )
        )

    def fitted(self, one: Candidate) -> Candidate:
        """A candidate with the epochs that fit into what is left now."""
        config = self.config.model_copy(update={"method": one.method, "settings": one.settings})

        def schedule(epochs: int) -> Schedule:
            values = {**self._fields(one.method), "epochs": epochs}
            plan = scheduled(config, self.prepared.train, values)
            asked = "evaluate_every" in self.config.schedule
            return plan if asked else measured_every(plan, one.speed)

        seconds = self.clock.left - self.closing(one)
        fits, chosen = fitting(seconds, one.wanted, one.speed, schedule)
        return replace(one, schedule=chosen, fits=fits, seconds=one.speed.seconds(chosen))

    def wanted(self, method: str) -> int:
        """Epochs that a method gets where there is time for all it wants."""
        config = self.config.model_copy(update={"method": method, "settings": {}})
        usual = scheduled(config, self.prepared.train, {}).epochs
        if self.prepared.train.kind == "embeddings" or usual == 1:  # a single pass learns nothing
            return usual
        return max(usual, SHORT_EPOCHS if is_short(method) else SEMI_EPOCHS)

    def enough(self, method: str) -> int:
        """Epochs with which a method is taken at least."""
        if method not in SEMI_SUPERVISED:
            return 1
        return enough_of(self.wanted(method), self.prepared.train.shape)

    def closing(self, one: Candidate) -> float:
        """Seconds that the audit and the report take after the training of a candidate."""
        return self.clock.closing(len(self.prepared.train), one.speed)

    def _fields(self, method: str) -> dict[str, Any]:
        """The schedule fields of a method but its epochs; those that the user set win."""
        own = self.config.schedule
        sprint = split_spec(method)[1] is Sprint  # which has such a rate by itself
        if not is_short(method) or sprint or "decay" in own:
            return dict(own)
        usual = scheduled(
            self.config.model_copy(update={"method": method, "settings": {}}),
            self.prepared.train,
            {name: own[name] for name in own if name == "batch_size"},
        )
        return {"decay": "onecycle", "lr": round(PEAK * usual.lr, 4), **own}

    def _shrink(self, chosen: Candidate) -> None:
        """Keep fewer samples where not even one epoch fits, and say so."""
        train = self.prepared.train
        minutes = self.clock.minutes
        total = self.closing(chosen) + chosen.seconds
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
