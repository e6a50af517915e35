"""Where the time of labelwise's loop goes: every part timed, the device waited for in between."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from labelwise.augment.view import View
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.loop import Trainer
from labelwise.training.method import Pass, Phase, Step

T = TypeVar("T")
PASSES = {"score": "scoring", "mixture": "mixture"}
LOSS = "targets, mixing, losses"
LOOP = "loop: plans, gathers, rest"


class Parts:
    """Seconds by part; a part that runs within another one is taken off it."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.within: list[float] = []

    def now(self) -> float:
        """The time, when the device has done what it was told."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def enter(self) -> float:
        """Begin a part."""
        self.within.append(0.0)
        return self.now()

    def leave(self, name: str, start: float) -> None:
        """End the part that began last."""
        whole = self.now() - start
        self.spent[name] += whole - self.within.pop()
        if self.within:
            self.within[-1] += whole

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = self.enter()
        try:
            yield
        finally:
            self.leave(name, start)

    def timed(self, name: str, call: Callable[..., T]) -> Callable[..., T]:
        """The function, timed."""

        def run(*args: Any, **options: Any) -> T:
            with self.part(name):
                return call(*args, **options)

        return run


@dataclass(frozen=True)
class TimedStep(Step):
    """A step whose own work, without views and networks, is timed.

    Args:
        inner: the step.
        parts: where the seconds go.
    """

    inner: Step
    parts: Parts

    def views(self, context: Context, groups: Groups) -> Groups:
        """The step's."""
        with self.parts.part(LOSS):
            return self.inner.views(context, groups)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The step's."""
        with self.parts.part(LOSS):
            return self.inner.loss(context, groups)


class Profiler:
    """Puts a clock into the parts of a trainer, and takes it out again.

    Args:
        trainer: whose steps and passes are timed.
        device: "cpu" or "cuda".
    """

    def __init__(self, trainer: Trainer, device: str) -> None:
        self.trainer, self.parts = trainer, Parts(device)
        self.phase: Phase | None = None
        self.starts: list[float] = []

    def run(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds of every part of one call that runs the trainer."""
        self.parts.spent.clear()
        with self._clocks():
            call()
        return dict(self.parts.spent)

    def median(self, call: Callable[[], Any], rounds: int) -> dict[str, float]:
        """The median of several runs, part by part, the largest first."""
        held = [self.run(call) for _ in range(rounds)]
        found = {name: statistics.median(run.get(name, 0.0) for run in held) for name in held[-1]}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @contextmanager
    def _clocks(self) -> Iterator[None]:
        trainer, parts = self.trainer, self.parts
        kept = {name: trainer.__dict__[name] for name in ("views", "evaluate")}
        hooks = [
            hook
            for number, network in enumerate(trainer.plain)
            for hook in (
                network.register_forward_pre_hook(self._before),
                network.register_forward_hook(self._after(number)),
            )
        ]
        backward = trainer.fabric.backward
        steps = [optimiser.step for optimiser in trainer.optimisers]
        run = trainer._run
        trainer.views = {
            name: cast(View, parts.timed("views", view)) for name, view in kept["views"].items()
        }
        clocked: Any = parts.timed("backward", backward)
        trainer.fabric.backward = clocked  # type: ignore[method-assign]
        for optimiser in trainer.optimisers:
            stepping: Any = parts.timed("optimiser", optimiser.step)
            optimiser.step = stepping  # type: ignore[method-assign]
        trainer.evaluate = parts.timed("evaluation", kept["evaluate"])
        running: Any = self._timed_run(run)
        trainer._run = running  # type: ignore[method-assign]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            trainer.views, trainer.evaluate = kept["views"], kept["evaluate"]
            trainer.fabric.backward = backward  # type: ignore[method-assign]
            for optimiser, step in zip(trainer.optimisers, steps, strict=True):
                optimiser.step = step  # type: ignore[method-assign]
            trainer._run = run  # type: ignore[method-assign]

    def _timed_run(self, run: Callable[[Phase], None]) -> Callable[[Phase], None]:
        """The loop's way through a phase, its rest timed under one name."""

        def timed(phase: Phase) -> None:
            self.phase = phase
            if isinstance(phase.step, Pass):
                with self.parts.part(PASSES.get(phase.name, "other passes")):
                    run(phase)
            else:
                with self.parts.part(LOOP):
                    run(replace(phase, step=TimedStep(phase.step, self.parts)))
            self.phase = None

        return timed

    def _before(self, network: nn.Module, inputs: Any) -> None:
        self.starts.append(self.parts.enter())

    def _after(self, number: int) -> Callable[..., None]:
        """A hook that ends the forward of network `number`."""

        def after(network: nn.Module, inputs: Any, outputs: Any) -> None:
            self.parts.leave(self._name(number, network), self.starts.pop())

        return after

    def _name(self, number: int, network: nn.Module) -> str:
        """Which part a forward belongs to."""
        phase = self.phase
        if phase is None:
            return "evaluation"
        if isinstance(phase.step, Pass):
            return PASSES.get(phase.name, "other passes")
        if torch.is_grad_enabled():
            return "forward"
        if number not in phase.trains:
            return "guess of the peer"
        return "guess of the learner" if network.training else "activation map"
