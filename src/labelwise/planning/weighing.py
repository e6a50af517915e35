"""Measure a method on the data, and see how many epochs of it fit into what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig, Schedule
from labelwise.experiment import Prepared
from labelwise.methods import split_spec
from labelwise.methods.sprint import GROWN, Sprint
from labelwise.planning.asked import is_short
from labelwise.planning.choice import (
    SEMI_EPOCHS,
    SEMI_SUPERVISED,
    SHORT_EPOCHS,
    Candidate,
    enough_of,
    fitting,
    measured_every,
)
from labelwise.planning.clock import Clock
from labelwise.planning.speed import measure, scheduled

PEAK = 5.0
"""Learning rate at the top of one cycle, over the constant one of the default schedule."""


@dataclass(frozen=True)
class Scale:
    """Weighs methods on some data.

    Args:
        config: as parsed; what the user set wins.
        prepared: the data.
        clock: the budget, and what is left of it.
    """

    config: RunConfig
    prepared: Prepared
    clock: Clock

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
