"""Trainers of every method on made-up images, and the first steps of their phases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from labelwise.augment.view import ViewOptions, views
from labelwise.data.dataset import Dataset
from labelwise.data.store import Store, input_statistics
from labelwise.methods import parse_method
from labelwise.models.build import NetworkSpec, build_network
from labelwise.pretraining import known_pretraining
from labelwise.recipes.sanm import PAPER as SETTINGS
from labelwise.rng import Draw
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.groups import Groups
from labelwise.training.journal import Journal
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Phase, Problem, Step
from labelwise.training.progress import Silent

PAPER = "sanm+dividemix as in the paper"


def method_of(name: str) -> Method:
    """A method by its name, or a pre-training alone, short."""
    found = known_pretraining()
    if name in found:
        return found[name](epochs=2, batch_size=16)
    if name == PAPER:
        return parse_method("sanm+dividemix", SETTINGS)
    short = {"hallucination.hallucinator_first_steps": 5} if "hallucination" in name else {}
    return parse_method(name, short)


def made_up(tiny: bool) -> Dataset:
    """Images of four classes, each with a bright quarter; some labels are wrong."""
    count, side = (64, 8) if tiny else (128, 16)
    draw, half = torch.Generator().manual_seed(0), side // 2
    truth = torch.arange(count) % 4
    images = torch.randint(0, 90, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    for row, label in enumerate(truth.tolist()):
        top, left = half * (label // 2), half * (label % 2)
        images[row, :, top : top + half, left : left + half] += 140
    labels = truth.clone()
    labels[::4] = (labels[::4] + 1) % 4
    return Dataset(images, labels, tuple("abcd"), np.arange(count), "made up", flip=False)


def bare_trainer(name: str, device: str, precision: str, tiny: bool, folder: Path) -> Trainer:
    """A trainer of a method alone, without the pre-training that it would want."""
    data, method = made_up(tiny), method_of(name)
    problem = Problem(len(data), data.num_classes, data.kind, data.shape)
    method = method.bind(problem, {"epochs": 3, "warmup": 1, "batch_size": 16})
    spec = NetworkSpec("small_resnet", tuple(data.shape), data.num_classes)
    statistics = input_statistics(data.inputs)
    networks = tuple(
        build_network(spec, *statistics, Draw(0, phase=f"network-{number}"), method.heads).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        for number in range(method.num_peers)
    )
    fabric, options = launch(device, 1, precision), ViewOptions.of(data)
    return Trainer(
        method=method,
        fabric=fabric,
        plain=networks,
        store=Store.of(data, fabric.device),
        views={n: c.for_data(options) for n, c in views().items() if data.kind in c.kinds},
        seed=0,
        checkpoints=Checkpoints(folder / "checkpoint", "digest"),
        journal=Journal(folder / "metrics.jsonl"),
        evaluate=lambda networks, measures: {},
        listener=Silent(),
        checkpoint_every=1e9,
    )


Planned = tuple[Phase, Step, Context, Groups]


def first_steps(trainer: Trainer) -> Iterator[Planned]:
    """The first step of every training phase of the first epochs; passes are run on the way."""
    schedule = trainer.schedule
    for epoch in range(min(schedule.epochs, schedule.warmup + 2)):
        trainer.position.epoch = epoch
        for phase in trainer.method.phases(epoch):
            context = trainer._context(phase)
            if not isinstance(phase.step, Step):
                phase.step.run(context)
                continue
            plan = phase.sampling.plan(context, phase.batch_size or schedule.batch_size)
            if len(next(iter(plan.values()))) == 0:
                continue
            here = context.at_step(0)
            yield phase, phase.step, here, trainer._groups(here, phase, plan)


def set_modes(trainer: Trainer, phase: Phase, frozen: bool) -> None:
    """Bring the networks into the modes of a phase."""
    for number, network in enumerate(trainer.networks):
        network.train(number in phase.trains)
    if frozen:
        trainer._freeze(phase, True)
