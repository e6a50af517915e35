"""labelwise's side of a benchmark: the trainer that a run would build, run phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise import binding, experiment
from labelwise.config import RunConfig
from labelwise.rng import Draw
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase
from labelwise.training.neighbourhood import MINED, NEIGHBOURS
from labelwise.training.progress import Silent
from labelwise.training.trace import with_trace

LATER = 2
"""The epoch that is timed, 0-based: after a warm-up of one, and after the first division."""
EPOCHS = 300  # as in the papers: what is done in one epoch of many is not in the one that is timed
LONG = {"epochs": EPOCHS, "warmup": 1}
DECIDED = {"threshold": 0.5, "lambda_u": 25.0, "loss_window": 1.0}
SEVERE = {**DECIDED, "cluster_lr": 1e-3, "strong_views": 1.0}
"""ScanMix's decisions under severe noise: clustering counts, and views are strong."""
NEAR = 20  # neighbours of every image
Hook = Callable[[Trainer, Phase], None]


def trainer_of(
    method: str,
    arrays: tuple[Tensor, np.ndarray] | None,
    folder: Path,
    *,
    model: str,
    device: str = "cpu",
    precision: str = "auto",
    schedule: Mapping[str, Any] | None = None,
    test: tuple[Tensor, np.ndarray] | None = None,
    **options: Any,
) -> Trainer:
    """The trainer that `labelwise fit`, or `labelwise pretrain`, would build.

    Args:
        method: as typed after ``--method``.
        arrays: images (N, C, H, W) uint8 and given labels (N); None where `options` name the data.
        folder: for its checkpoints.
        model: backbone.
        device: "cpu" or "cuda".
        precision: of labelwise.
        schedule: schedule fields.
        test: test images and labels.
        options: further fields of the configuration.
    """
    config = RunConfig.parse(
        {
            "data": experiment.IN_MEMORY,
            "method": method,
            "model": model,
            "schedule": dict(schedule or {}),
            "device": device,
            "precision": precision,
            "checkpoint_every": 1e9,
            "plant": 0.0,
            "test": None if test is None else experiment.IN_MEMORY,
            **options,
        },
        "the benchmark",
    )
    inputs, labels = (None, None) if arrays is None else arrays
    given = experiment.InMemory(inputs, labels, test=test)
    prepared = experiment.prepare(config, given)
    bound = binding.bind(config, prepared.train)
    config = binding.resolve(config, prepared.train, bound)
    fabric = launch(config.device, 1, config.precision)
    return experiment.assemble(config, prepared, bound, RunFolder(folder), Silent(), fabric)


def planned(trainer: Trainer, phase: Phase) -> dict[str, Tensor]:
    """The rows of all steps of a phase, as the loop plans them."""
    size = phase.batch_size or trainer.schedule.batch_size
    return dict(phase.sampling.plan(trainer._context(phase), size))


def phase_of(trainer: Trainer, name: str, epoch: int = LATER) -> Phase:
    """The phase of that name."""
    return next(phase for phase in trainer.part.phases(epoch) if phase.name == name)


def run_steps(trainer: Trainer, phase: Phase, steps: int) -> None:
    """Run the loop's own code on the first steps of a phase."""
    if trainer.position.plan is None:
        plan = planned(trainer, phase)
        trainer.position.plan = {side: rows[:steps] for side, rows in plan.items()}
    trainer._run(phase)


def run_epoch(trainer: Trainer, epoch: int = LATER, after: Hook | None = None) -> None:
    """Run the loop's own code on all phases of an epoch, and its evaluation.

    Args:
        trainer: at that epoch again after every call.
        epoch: 0-based.
        after: called after every phase, to hold still what decides the number of steps.
    """
    trainer.position.epoch = epoch
    phases = trainer.part.phases(epoch)
    if trainer.part.measures == "classes":
        phases = with_trace(phases, trainer.part, epoch)
    for phase in phases:
        trainer._run(phase)
        if after is not None:
            after(trainer, phase)
    evaluate(trainer)


def evaluate(trainer: Trainer) -> None:
    """What the loop measures at the end of an epoch, where the method is measured by classes."""
    if trainer.part.measures == "classes":
        with trainer.fabric.autocast():
            trainer.evaluate(trainer.plain, trainer.part.measures)


def set_division(trainer: Trainer, clean: np.ndarray) -> None:
    """Give every network the same clean probabilities (N)."""
    for number in range(len(trainer.networks)):
        trainer.ledger.set("clean", number, torch.from_numpy(clean).float())


def hold_still(clean: np.ndarray, classes: np.ndarray | None = None) -> Hook:
    """What replaces the division, and the predictions, that an epoch has found by itself.

    Args:
        clean: clean probabilities (N).
        classes: predicted classes (N); None leaves the predictions.
    """

    def after(trainer: Trainer, phase: Phase) -> None:
        if phase.name == "mixture":
            set_division(trainer, clean)
        if phase.name == "score" and classes is not None:
            for number in range(len(trainer.networks)):
                trainer.ledger.set("prediction", number, torch.from_numpy(classes))

    return after


def decide(trainer: Trainer, decisions: Mapping[str, float]) -> None:
    """Take the decisions that a run takes in the epoch after its warm-up."""
    trainer.ledger.decisions.update(decisions)


def neighbours_of(classes: np.ndarray, count: int = NEAR) -> np.ndarray:
    """Made-up neighbours (N, count) int64: other images of the same class."""
    draw = np.random.default_rng(0)
    found = np.empty((len(classes), count), dtype=np.int64)
    for name in np.unique(classes):
        rows = np.flatnonzero(classes == name)
        found[rows] = draw.choice(rows, (len(rows), count))
    return found


def set_neighbours(trainer: Trainer, neighbours: np.ndarray) -> None:
    """Write mined neighbours (N, K) into the ledger."""
    trainer.ledger.set(NEIGHBOURS, 0, torch.from_numpy(neighbours).int())
    trainer.ledger.decisions[MINED] = 1.0


class HostDraw(Draw):
    """Draws made on the host and moved, so that every device sees the same numbers."""

    def uniform(
        self, purpose: str, rows: int, *shape: int, low: float = 0.0, high: float = 1.0
    ) -> Tensor:
        """As on the host."""
        return self._moved(self._host().uniform(purpose, rows, *shape, low=low, high=high))

    def normal(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """As on the host."""
        return self._moved(self._host().normal(purpose, rows, *shape))

    def integers(self, purpose: str, rows: int, *shape: int, low: int, high: int) -> Tensor:
        """As on the host."""
        return self._moved(self._host().integers(purpose, rows, *shape, low=low, high=high))

    def shared_integers(self, purpose: str, count: int, high: int) -> Tensor:
        """As on the host."""
        return self._moved(self._host().shared_integers(purpose, count, high))

    def permutation(self, purpose: str, count: int) -> Tensor:
        """As on the host."""
        return self._moved(self._host().permutation(purpose, count))

    def _host(self) -> Draw:
        return Draw(**{**vars(self), "device": torch.device("cpu")})

    def _moved(self, drawn: Tensor) -> Tensor:
        return drawn.to(self.device)


def draw_on_host(trainer: Trainer) -> Trainer:
    """Let a trainer draw on the host."""
    own = trainer._context

    def context(phase: Phase) -> Any:
        made = own(phase)
        return replace(made, draw=HostDraw(**vars(made.draw)))

    trainer._context = context  # type: ignore[method-assign]
    return trainer
