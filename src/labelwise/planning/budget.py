"""A budget of minutes becomes a method, a model, an image size and a schedule: before the run.

The speed is measured by short trials on the data, the rest follows by the rules of
`labelwise.planning.choice`. What comes out are plain values of the configuration; the run that
follows is like any other, can be resumed, and can be repeated without the budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig, Schedule
from labelwise.experiment import InMemory, Prepared, prepare
from labelwise.methods.sprint import GROWN, Sprint
from labelwise.methods.sprint import LEAST_SIDE as LEAST_HALVED
from labelwise.models.build import auto_model
from labelwise.models.convnet import ConvNet
from labelwise.models.preact_resnet import SmallResNet
from labelwise.planning.asked import is_short, require_plannable
from labelwise.planning.choice import (
    MIXUP_EPOCHS,
    SEMI_EPOCHS,
    SEMI_SUPERVISED,
    SHORT_EPOCHS,
    Candidate,
    choose,
    fitting,
    measured_every,
)
from labelwise.planning.speed import Speed, measure, scheduled
from labelwise.training.engine import resolve_device

AIM = 0.88
"""Part of the budget that is planned: a machine a tenth slower still ends in time."""
OUTSIDE = 3.0
"""Seconds before and after the run proper: the interpreter, its imports, the last files."""
PROBE = 0.04
"""Part of the budget that the trials may take."""
AUDIT = (1.0, 1.3e-3)
"""Seconds of the closing audit and report without its passes: at least, and per sample."""
PASSES = 6
"""Passes over all samples in the closing audit: plain, augmented, and of the references."""
PEAK = 5.0
"""Learning rate at the top of one cycle, over the constant one of the default schedule."""
LIKELY = {"dividemix": 5.0, "hallucination": 2.0}
"""Time of an epoch over plain training's, at the least that was measured: what cannot fit even so
is not tried."""
FEW_EPOCHS = 12
"""With fewer epochs than this images are made smaller."""
LEAST_SIDE, SMALLEST_SIDE = 16, 24
"""Sides in pixels: from which `convnet` is taken, and below which images are not made smaller."""
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
        minutes: the budget.
        start: when the command began (`time.monotonic`).
        notes: what to tell the user.
        wait: elapsed over computing time in the trials: how much others slow this process down.
    """

    config: RunConfig
    prepared: Prepared
    memory: InMemory | None
    fixed: bool
    minutes: float
    start: float
    notes: list[str] = field(default_factory=list)
    wait: float = 1.0

    @property
    def left(self) -> float:
        """Seconds that are still planned."""
        outside = OUTSIDE * self.wait
        return AIM * 60 * self.minutes - outside - (time.monotonic() - self.start)

    def plan(self) -> tuple[RunConfig, Prepared]:
        """Choose; return the configuration with everything in its place, and its data."""
        candidates = self.candidates()
        chosen, reason = choose(candidates, self.fixed)
        self.notes.append(
            f"budget of {self.minutes:g} min: {chosen.method}, epochs: {chosen.schedule.epochs}, "
            f"each about {chosen.speed.epoch:.2g} s ({reason})"
        )
        if chosen.fits < 1:
            self._shrink(chosen)
        record = {
            "minutes": self.minutes,
            "chosen": chosen.method,
            "reason": reason,
            "planning_seconds": round(time.monotonic() - self.start, 2),
            "closing_seconds": round(self.closing(chosen.speed), 2),
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
            return [self.candidate(self.config.method, {})]
        short = self.short()
        plain = short.speed.epoch
        found = []
        for name in SEMI_SUPERVISED:
            wanted = self.wanted(name)
            if LIKELY[name] * plain * wanted * 0.7 <= self.left:
                found.append(self.candidate(name, {}, self._network(short=False)))
        if short.fits >= MIXUP_EPOCHS:
            found.append(self.candidate("mixup", {}, self._network(short=True)))
        return [*found, short]

    def short(self) -> Candidate:
        """The short training, on smaller images where whole ones allow but a few epochs."""
        found = self._sprint()
        shape = self.prepared.train.shape
        if len(shape) == 1 or self.config.image_size is not None or found.fits >= FEW_EPOCHS:
            return found
        side = min(shape[1:])
        sizes = [side // part for part in (2, 4, 8) if side // part >= SMALLEST_SIDE]
        for size in sizes:
            if found.fits * (side / size) ** 2 >= FEW_EPOCHS or size == sizes[-1]:
                self.config = self.config.model_copy(update={"image_size": size})
                self.prepared = prepare(self.config, self.memory)
                self.notes.append(
                    f"images of {side} pixels allow {found.fits} epochs in the budget: they were "
                    f"brought to {size} (--image-size {side} keeps them)"
                )
                return self._sprint()
        return found

    def _sprint(self) -> Candidate:
        """`sprint`, which begins with smaller images where they are large enough.

        Its targets drift on embeddings and tiny images alone: on larger ones a few epochs know
        the classes too badly (CIFAR-10, ten epochs: 65 instead of 69 % of held-out labels).
        """
        shape = self.prepared.train.shape
        side = min(shape[1:]) if len(shape) == 3 else 0
        settings: dict[str, Any] = {"trust": 0.0} if side >= LEAST_SIDE else {}
        if side >= LEAST_HALVED:
            settings["small_start"] = True
        return self.candidate(Sprint.name, settings, self._network(short=True))

    def _network(self, short: bool) -> str:
        """The backbone: `convnet` instead of the small ResNet, and for any short training.

        Args:
            short: whether the training is short.
        """
        config, shape = self.config, self.prepared.train.shape
        if config.model != "auto" or config.init is not None or len(shape) == 1:
            return config.model
        accelerated = resolve_device(config.device) != "cpu"
        usual = auto_model(shape, len(self.prepared.train), accelerated)
        small = short or usual == SmallResNet.name
        return ConvNet.name if small and min(shape[1:]) >= LEAST_SIDE else usual

    def candidate(
        self, method: str, settings: Mapping[str, Any], model: str | None = None
    ) -> Candidate:
        """Measure a method, and see how many epochs of it fit.

        Args:
            method: its name.
            settings: of it; those that the user set win.
            model: backbone; None takes the configuration's.
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
        began, computed = time.monotonic(), time.process_time()
        speed = measure(config, self.prepared, PROBE / 2 * 60 * self.minutes)
        elapsed = time.monotonic() - began
        self.wait = max(1.0, elapsed / max(0.2, time.process_time() - computed))
        if settings.get("small_start"):
            speed = replace(speed, grown=GROWN)

        def schedule(epochs: int) -> Schedule:
            values = {**self._fields(method), "epochs": epochs}
            return measured_every(scheduled(config, self.prepared.train, values), speed)

        wanted = self.wanted(method)
        fits, chosen = fitting(self.left - self.closing(speed), wanted, speed, schedule)
        train = self.prepared.train
        return Candidate(
            method=method,
            model=resolve(config, train, bind(config, train)).model,
            image_size=self.config.image_size,
            settings=dict(settings),
            schedule=chosen,
            wanted=wanted,
            fits=fits,
            seconds=speed.seconds(chosen),
            speed=speed,
        )

    def wanted(self, method: str) -> int:
        """Epochs that a method gets where there is time for all it wants."""
        config = self.config.model_copy(update={"method": method, "settings": {}})
        usual = scheduled(config, self.prepared.train, {}).epochs
        if self.prepared.train.kind == "embeddings":
            return usual
        return max(usual, SHORT_EPOCHS if is_short(method) else SEMI_EPOCHS)

    def closing(self, speed: Speed) -> float:
        """Seconds that the audit and the report take after training."""
        audit = AUDIT[0] + len(self.prepared.train) * AUDIT[1]
        return self.wait * audit + PASSES * (speed.observe or speed.epoch / 4)

    def _fields(self, method: str) -> dict[str, Any]:
        """The schedule fields of a method but its epochs; those that the user set win."""
        own = self.config.schedule
        if not is_short(method) or method == Sprint.name or "decay" in own:
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
        total = self.closing(chosen.speed) + chosen.seconds
        kept = max(SMALLEST, int(len(train) * max(0.0, self.left) / total))
        need = (total + OUTSIDE + time.monotonic() - self.start) / AIM / 60
        if kept < len(train) and self.config.limit is None:
            self.config = self.config.model_copy(update={"limit": kept})
            self.prepared = prepare(self.config, self.memory)
            self.notes.append(
                f"the budget of {self.minutes:g} minutes is too short for one epoch of all "
                f"{len(train):,} samples: {len(self.prepared.train):,} are trained on and "
                f"audited; all of them need at least {need:.2g} minutes"
            )
            return
        self.notes.append(
            f"the budget of {self.minutes:g} minutes is too short for anything: one epoch is "
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
    planner = Planner(config, prepared, memory, method_given, minutes, start)
    config, prepared = planner.plan()
    return config, prepared, tuple(planner.notes)
