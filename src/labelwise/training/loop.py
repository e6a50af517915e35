"""The one loop: epochs of phases of steps, with a commit that survives a crash."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from labelwise.augment.view import View
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.errors import UserError
from labelwise.rng import Draw
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups
from labelwise.training.journal import Journal
from labelwise.training.method import Measured, Method, Pass, Phase, Step
from labelwise.training.optim import build_optimiser, set_lr
from labelwise.training.ranks import Ranks
from labelwise.training.trace import trace_columns, with_trace

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Interrupted(Exception):
    """The user asked to stop; the run is committed and can be resumed.

    Attributes:
        path: the run folder, once the interface knows it.
    """

    path: Path | None = None


class Listener(Protocol):
    """Shows the user what goes on."""

    def say(self, message: str) -> None:
        """Tell the user something once."""

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        """Called before every step."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Called with every finished epoch's figures."""


@dataclass
class Position:
    """Where the run is. With the configuration it decides everything that is still to come."""

    epoch: int = 0
    phase: int = 0
    step: int = 0
    plan: dict[str, Tensor] | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    images: int = 0
    notes: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@dataclass
class Trainer:
    """A run in progress: its parts, its position, and `train()`.

    Args:
        method: bound to the problem.
        fabric: the engine, launched.
        plain: the P networks as built; the engine's wrappers around them train, they themselves
            score, predict and are saved.
        store: training inputs and given labels on the device.
        views: view policies by name.
        seed: of everything random.
        checkpoints: where to commit.
        journal: where the epochs' figures go.
        evaluate: gives figures at the end of an epoch ({"test_accuracy": 0.9}) for the networks
            and what the method is judged by; may hold truth, which is why the loop only calls it.
        listener: shows progress.
        inspect: gives figures of what a method remembers, at the end of an epoch; may hold truth.
        checkpoint_every: seconds between commits at least.
        should_stop: asked after every step.
        vote_every: steps between votes of several ranks on a commit; each waits for the device.
    """

    method: Method
    fabric: Fabric
    plain: tuple[nn.Module, ...]
    store: Store
    views: Mapping[str, View]
    seed: int
    checkpoints: Checkpoints
    journal: Journal
    evaluate: Callable[[tuple[nn.Module, ...], Measured], dict[str, float]]
    listener: Listener
    inspect: Callable[[Ledger], dict[str, float]] = lambda ledger: {}
    checkpoint_every: float = 15.0
    should_stop: Callable[[], bool] = lambda: False
    vote_every: int = 20

    def __post_init__(self) -> None:
        self.ranks = Ranks(self.fabric)
        self.position = Position()
        self.networks = tuple(self.fabric.setup_module(network) for network in self.plain)
        with Draw(self.seed, phase="extras").forked("weights"):
            made = self.method.extras(self.plain[0])  # type: ignore[arg-type]
        self.extras = nn.ModuleDict(made).to(self.store.device)
        self._enter_part()
        size, peers = len(self.store), len(self.networks)
        trace = trace_columns(self.store.num_classes, size, peers)
        columns = (*self.method.all_columns(), *trace)
        self.ledger = Ledger(columns, peers, size, self.store.device, self.ranks.world > 1)
        self._clock = self._last_commit = time.monotonic()

    def train(self) -> None:
        """Run every epoch that is left.

        Raises:
            Interrupted: when `should_stop` said so; the run is committed first.
            UserError: when the loss is no longer finite.
        """
        while self.position.epoch < self.method.num_epochs:
            phases = self.part.phases(self.epoch)
            if self.part.measures == "classes":
                phases = with_trace(phases, self.part, self.epoch)
            while self.position.phase < len(phases):
                self._run(phases[self.position.phase])
                self.position.phase += 1
                self._pause()
            self._close_epoch()

    def resume(self) -> bool:
        """Load the newest whole checkpoint; return whether there was one."""
        state = self.checkpoints.load()
        if state is not None:
            self.load_state_dict(state)
        if self.fabric.is_global_zero:
            self.journal.forget_from(self.position.epoch)
        return state is not None

    @property
    def epoch(self) -> int:
        """The epoch as the part of the method that is at work counts it."""
        return self.method.part_at(self.position.epoch)[1]

    def _enter_part(self) -> None:
        """Take the part of the method that the position belongs to, with new optimisers."""
        self.part = self.method.part_at(self.position.epoch)[0]
        self.schedule = self.part.schedule
        self.optimisers = tuple(
            cast(torch.optim.Optimizer, self.fabric.setup_optimizers(optimiser))
            for optimiser in (build_optimiser(network, self.schedule) for network in self.plain)
        )

    # -- phases ------------------------------------------------------------------------------

    def _run(self, phase: Phase) -> None:
        start = time.monotonic()
        context = self._context(phase)
        for number, network in enumerate(self.networks):
            network.train(number in phase.trains)
        frozen = self._frozen(phase)
        if frozen:
            self._freeze(phase, True)
        if isinstance(phase.step, Pass):
            self.listener.phase(self.position.epoch, phase.name, 0, 1)
            for name, value in phase.step.run(context).items():
                self.position.figures[name] = value
        else:
            self._steps(phase, phase.step, context)
        if frozen:
            self._freeze(phase, False)
        self.ledger.merge(self.ranks.world, self.ranks.sum, self.ranks.max)
        spent = self.position.phase_seconds
        spent[phase.name] = spent.get(phase.name, 0.0) + time.monotonic() - start

    def _freeze(self, phase: Phase, frozen: bool) -> None:
        """Hold the backbones of a phase's networks still, or let them go again."""
        for number in phase.trains:
            backbone = self.plain[number].get_submodule("backbone")
            backbone.requires_grad_(not frozen).train(not frozen)

    def _frozen(self, phase: Phase) -> bool:
        decisions = self.ledger.decisions
        return bool(decisions[phase.frozen] if isinstance(phase.frozen, str) else phase.frozen)

    def _lr(self, phase: Phase) -> float:
        if isinstance(phase.lr, str):
            return self.ledger.decisions[phase.lr]
        return self.schedule.lr_at(self.epoch) if phase.lr is None else phase.lr

    def _steps(self, phase: Phase, step: Step, context: Context) -> None:
        position = self.position
        if position.plan is None:
            size = phase.batch_size or self.schedule.batch_size
            position.plan = phase.sampling.plan(context, size)
            self._say_cut(phase, position.plan, size)
        steps = len(next(iter(position.plan.values())))
        lr = self._lr(phase)
        if steps and lr != self.schedule.lr_at(self.epoch):
            position.figures[f"lr_{phase.name}"] = lr
        for number in phase.trains:
            set_lr(self.optimisers[number], lr)
        moving = phase.lr is None and self.schedule.by_step
        while position.step < steps:
            self.listener.phase(position.epoch, phase.name, position.step, steps)
            if moving:
                for number in phase.trains:
                    moment = self.epoch + position.step / steps
                    set_lr(self.optimisers[number], self.schedule.lr_at(moment))
            here = context.at_step(position.step)
            groups = self._groups(here, phase, position.plan)
            with torch.no_grad():
                groups = step.views(here, groups)
            self._update(phase, step.loss(here, groups))
            position.step += 1
            if self.ranks.world == 1 or position.step % self.vote_every == 0:
                self._pause()
        self._close_phase(phase, steps)

    def _say_cut(self, phase: Phase, plan: Mapping[str, Tensor], asked: int) -> None:
        """Tell the user of a batch that is larger than the data and was cut to them."""
        drawn, total = next(iter(plan.values())), len(self.store)
        if len(drawn) and drawn.shape[1] <= total < asked:
            self.say(
                f"{self.part.spec}, phase {phase.name}: a batch of {asked:,} is more than all "
                f"{total:,} samples; it was cut to {drawn.shape[1]:,}"
            )

    def _groups(self, context: Context, phase: Phase, plan: Mapping[str, Tensor]) -> Groups:
        clean = self.ledger["clean"][phase.judge]
        groups = {}
        for side, rows in plan.items():
            index = context.draw.own_rows(rows[context.draw.step])
            self.position.images += len(index) * self.ranks.world
            groups[side] = Group(
                index=index,
                label=self.store.labels[index],
                clean=clean[index],
                anchor=self.store.plain(index),
            )
        return groups

    def _update(self, phase: Phase, terms: Mapping[str, Tensor]) -> None:
        total = torch.stack([term.float() for term in terms.values()]).sum()
        for number in phase.trains:
            self.optimisers[number].zero_grad(set_to_none=True)
        self.fabric.backward(total)
        for number in phase.trains:
            if phase.clip is not None:
                # A norm that is not finite spoils the loss, which is looked at when the phase
                # ends; asking here would wait for the device in every step.
                self.fabric.clip_gradients(
                    self.networks[number],
                    self.optimisers[number],
                    max_norm=phase.clip,
                    error_if_nonfinite=False,
                )
            self.optimisers[number].step()
        for name, term in terms.items():
            label = f"{phase.name}/{name}"
            held = self.position.terms.get(label)
            value = term.detach().float()
            self.position.terms[label] = value if held is None else held + value

    def _close_phase(self, phase: Phase, steps: int) -> None:
        for label in [name for name in self.position.terms if name.startswith(f"{phase.name}/")]:
            total = float(self.ranks.sum(self.position.terms[label]))
            self._require_finite(label, total)
            self.position.figures[label] = total / self.ranks.world / steps
            del self.position.terms[label]
        for number in phase.trains:
            self.ranks.share_buffers(self.plain[number])
        self.position.plan, self.position.step = None, 0

    def _require_finite(self, label: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the loss became {value} in epoch {self.position.epoch + 1} ({label}). Lower the "
                f"learning rate (--lr {self.schedule.lr / 4:g}) or use --precision 32-true; the "
                "last checkpoint is from before."
            )

    def say(self, message: str) -> None:
        """Tell the user something, once: a message that differs only in numbers is dropped."""
        core = re.sub(r"\d+", "#", message)
        if core not in self.position.said:
            self.position.said.append(core)
            self.position.notes.append(message)
            self.listener.say(message)

    def _context(self, phase: Phase) -> Context:
        draw = Draw(
            seed=self.seed,
            epoch=self.position.epoch,
            phase=phase.name,
            rank=self.ranks.rank,
            world=self.ranks.world,
            device=self.store.device,
        )
        return Context(
            networks=self.networks,
            plain=self.plain,
            autocast=self.fabric.autocast,
            store=self.store,
            ledger=self.ledger,
            views=self.views,
            draw=draw,
            ranks=self.ranks,
            extras=self.extras,
            epoch=self.epoch,
            num_epochs=self.schedule.epochs,
            trains=phase.trains,
            say=self.say,
            progress=partial(self.listener.phase, self.position.epoch, phase.name),
        )

    # -- epochs and commits ------------------------------------------------------------------

    def _close_epoch(self) -> None:
        position = self.position
        start = time.monotonic()
        figures: dict[str, float] = {}
        if self.part.measured(self.epoch):
            with self.fabric.autocast():
                figures = self.evaluate(self.plain, self.part.measures) | self.inspect(self.ledger)
        position.phase_seconds["evaluate"] = time.monotonic() - start
        row = {
            "epoch": position.epoch + 1,
            **({} if self.part is self.method else {"stage": self.part.spec}),
            "lr": self.schedule.lr_at(self.epoch),
            **figures,
            **position.figures,
            "images": position.images,
            "notes": position.notes,
            "phase_seconds": {name: round(s, 4) for name, s in position.phase_seconds.items()},
        }
        if self.fabric.is_global_zero:
            self.journal.append(row)
        self.listener.epoch(row)
        position.epoch, position.phase = position.epoch + 1, 0
        position.figures, position.phase_seconds, position.notes = {}, {}, []
        if position.epoch == self.method.num_epochs:
            self.commit()
            return
        if self.epoch == 0:
            self._enter_part()
        self._pause()

    def _pause(self) -> None:
        """Commit if it is time to, and stop if that was asked for; all ranks decide alike."""
        due = time.monotonic() - self._last_commit >= self.checkpoint_every
        due, stop = self.ranks.any(due, self.should_stop())
        if stop or due:
            self.commit()
        if stop:
            raise Interrupted

    def commit(self) -> None:
        """Write a checkpoint of this very moment.

        Raises:
            UserError: when the loss is no longer finite: such weights are not worth keeping.
        """
        for label, value in self.position.terms.items():
            self._require_finite(label, float(self.ranks.sum(value)))
        self.ledger.merge(self.ranks.world, self.ranks.sum, self.ranks.max)
        for network in self.plain:
            self.ranks.share_buffers(network)
        now = time.monotonic()
        self.position.seconds += now - self._clock
        self._clock = now
        if self.fabric.is_global_zero:
            self.checkpoints.save(self.state_dict())
        self.fabric.barrier()
        self._last_commit = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, ledger and position."""
        return {
            "networks": [network.state_dict() for network in self.plain],
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "extras": self.extras.state_dict(),
            "ledger": self.ledger.state_dict(),
            "position": vars(self.position),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.position = Position(**state["position"])
        self._enter_part()
        for network, weights in zip(self.plain, state["networks"], strict=True):
            network.load_state_dict(weights)
        self.extras.load_state_dict(state["extras"])
        for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)
        self.ledger.load_state_dict(state["ledger"])
        device = self.store.device
        if self.position.plan is not None:
            self.position.plan = {k: v.to(device) for k, v in self.position.plan.items()}
        self.position.terms = {k: v.to(device) for k, v in self.position.terms.items()}
        self._clock = time.monotonic()
