"""Is a GPU as good as the CPU: no step waits for it, and it computes the same."""

from __future__ import annotations

import copy
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import labelwise
from labelwise.augment.view import ViewOptions, views
from labelwise.data.dataset import Dataset
from labelwise.data.store import Store, input_statistics
from labelwise.methods import known_methods, parse_method
from labelwise.models.build import NetworkSpec, build_network
from labelwise.pretraining import known_pretraining
from labelwise.rng import Draw
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.groups import Groups
from labelwise.training.journal import Journal
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Phase, Problem, Step, Wrapper
from labelwise.training.progress import Silent
from on_gpu.record import Failed, Item, Settings
from trainers import draw_on_host, trainer_of

PACKAGE = str(Path(labelwise.__file__).parent)
PAPER = "sanm+dividemix as in the paper"
EPOCHS = ("ce", "mixup", "coteaching", "dividemix", "sanm+dividemix")
"""Methods whose draws can all be made on the host, for whole epochs."""
TERM, GRADIENT, FEATURE = 1e-3, 5e-3, 1e-3
"""Largest differences of one step: relative, relative in norm, relative to the largest feature."""
EPOCH_TERM, EPOCH_ACCURACY = 0.1, 0.05
"""The same of whole epochs, in which rounding grows: relative, and a fraction of the test set."""


def items(settings: Settings) -> list[Item]:
    """Every check of every method."""
    known = known_methods()
    plain = [name for name, kind in known.items() if not issubclass(kind, Wrapper)]
    wrapped = [
        f"{name}+{inner}"
        for name, kind in known.items()
        if issubclass(kind, Wrapper)
        for inner in plain
    ]
    names = [*plain, *wrapped, PAPER, *known_pretraining()]
    checks = (("waits", check_waits), ("parity", check_parity))
    found = [
        Item(f"{what} {name}", partial(check, settings, name))
        for what, check in checks
        for name in names
    ]
    epochs = EPOCHS[:1] if settings.tiny else EPOCHS
    return [*found, *(Item(f"epoch {n}", partial(check_epoch, settings, n), 5) for n in epochs)]


# -- trainers ----------------------------------------------------------------------------------


def method_of(name: str) -> Method:
    """A method by its name, or a pre-training alone, short."""
    found = known_pretraining()
    if name in found:
        return found[name](epochs=2, batch_size=16)
    from labelwise.recipes.sanm import PAPER as paper

    if name == PAPER:
        return parse_method("sanm+dividemix", paper)
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


# -- nothing waits -----------------------------------------------------------------------------


def check_waits(settings: Settings, name: str, seconds: float) -> dict[str, Any]:
    """Turn every synchronisation within a step into an error.

    On a CPU nothing can be told, and the steps are only run.
    """
    cuda = settings.device == "cuda"
    precision = "32-true"
    if cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        precision = "bf16-mixed"
    steps = 0
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(name, settings.device, precision, settings.tiny, Path(folder))
        for phase, step, context, groups in first_steps(trainer):
            set_modes(trainer, phase, False)
            try:
                with synchronising_is_wrong(cuda):
                    with torch.no_grad():
                        made = step.views(context, groups)
                    trainer._update(phase, step.loss(context, made))
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                where = {"phase": phase.name, "line": line_of(error)}
                raise Failed(f"waits for the device at {where['line']}", where) from error
            steps += 1
    return {"steps": steps, "precision": precision, "checked": cuda}


@contextmanager
def synchronising_is_wrong(cuda: bool) -> Iterator[None]:
    """Within the block CUDA raises where the host waits for the device."""
    if not cuda:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def line_of(error: BaseException) -> str:
    """The innermost line of the package in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    if not inside:
        return f"{frames[-1].filename}:{frames[-1].lineno}"
    last = inside[-1]
    return f"{Path(last.filename).relative_to(PACKAGE)}:{last.lineno} ({last.line})"


# -- the same numbers --------------------------------------------------------------------------


def check_parity(settings: Settings, name: str, seconds: float) -> dict[str, Any]:
    """The same weights, batch and targets on the CPU and on the device, float32 without TF32."""
    with tempfile.TemporaryDirectory() as folder, exact_float32():
        here, there = (
            draw_on_host(bare_trainer(name, device, "32-true", settings.tiny, Path(folder) / at))
            for at, device in (("here", "cpu"), ("there", settings.device))
        )
        found = [compare_step(here, there, planned) for planned in first_steps(here)]
    worst = {
        name: largest([step[name] for step in found])
        for name in ("features", "terms", "gradient", "views")
    }
    result = {**worst, "steps": len(found)}
    limits = {"features": FEATURE, "terms": TERM, "gradient": GRADIENT}
    # Not a number is over every limit.
    over = [f"{what} {worst[what]:.1e}" for what, most in limits.items() if not worst[what] <= most]
    if over:
        raise Failed(f"differs from the CPU: {', '.join(over)}", result)
    return result


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 within the block."""
    held = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = held


def compare_step(here: Trainer, there: Trainer, planned: Planned) -> dict[str, float]:
    """One step on both devices, from the same state.

    Returns:
        Largest differences: `features` of the unaugmented batch, relative to the largest one;
        `terms` of the loss and `gradient`, relative; `views`: of the pixels of the views that the
        device makes itself from the same draws, absolute (a box around another extreme, of two
        that are equal up to rounding, makes it large; nothing is concluded from it).
    """
    phase, step, context, groups = planned
    frozen = here._frozen(phase)
    set_modes(here, phase, frozen)
    take_over(here, there, phase, frozen)
    elsewhere = there._context(phase).at_step(0)
    moved = to_device(dict(groups), there.store.device)
    with torch.no_grad():
        own = step.views(elsewhere, moved)
        made = step.views(context, groups)
        first = next(iter(groups.values())).anchor
        features = [
            trainer.plain[phase.trains[0]](images, heads=("features",))["features"].cpu()
            for trainer, images in ((here, first), (there, first.to(there.store.device)))
        ]
    take_over(here, there, phase, frozen)  # guesses in train mode have moved batch statistics
    terms, gradient = learn(here, phase, step, context, made)
    elsewhere = there._context(phase).at_step(0)
    others, other = learn(there, phase, step, elsewhere, to_device(made, there.store.device))
    for trainer in (here, there):
        if frozen:
            trainer._freeze(phase, False)
    return {
        "features": apart(*features),
        "terms": largest([abs(terms[n] - others[n]) / max(1.0, abs(terms[n])) for n in terms]),
        "gradient": float((gradient - other).norm() / gradient.norm().clamp_min(1e-12)),
        "views": largest(
            [
                float((a[0] - b[0].cpu()).abs().max())
                for side in made
                for a, b in zip(made[side].views, own[side].views, strict=True)
            ]
        ),
    }


def take_over(here: Trainer, there: Trainer, phase: Phase, frozen: bool) -> None:
    """Give one trainer the whole state of another."""
    there.load_state_dict(copy.deepcopy(here.state_dict()))
    set_modes(there, phase, frozen)


def largest(values: list[float]) -> float:
    """The largest; not a number if one of them is not, 0 of none."""
    return float(np.max(values)) if values else 0.0


def apart(first: Tensor, second: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


def learn(
    trainer: Trainer, phase: Phase, step: Step, context: Context, groups: Groups
) -> tuple[dict[str, float], Tensor]:
    """The terms of the loss, and the gradient of all weights as one vector, on the host."""
    weights = [w for number in phase.trains for w in trainer.plain[number].parameters()]
    for weight in weights:
        weight.grad = None
    terms = step.loss(context, groups)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    gradient = torch.cat(
        [
            (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten().cpu()
            for weight in weights
        ]
    )
    for weight in weights:
        weight.grad = None
    return {name: float(term.detach()) for name, term in terms.items()}, gradient


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors, and what is made of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: to_device(part, device) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {f.name: to_device(getattr(value, f.name), device) for f in fields(value)}
        return replace(value, **moved)
    return value


# -- whole epochs ------------------------------------------------------------------------------


def check_epoch(settings: Settings, name: str, seconds: float) -> dict[str, Any]:
    """A warm-up epoch and one of the method, on digits, with the same draws on both devices."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, exact_float32():
        for at, device in (("cpu", "cpu"), ("device", settings.device)):
            trainer = trainer_of(
                name,
                (None, None),  # type: ignore[arg-type]
                Path(folder) / at,
                model="small_resnet",
                device=device,
                precision="32-true",
                schedule={"epochs": 2, "warmup": 1},
                data="digits",
                noise="symmetric:0.4",
                limit=200 if settings.tiny else None,
            )
            draw_on_host(trainer).train()
            found[at] = trainer.journal.rows()
    return compare_journals(found["cpu"], found["device"])


def compare_journals(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """Largest differences of two journals.

    Raises:
        Failed: they are too large.
    """
    differences, accuracies = [], []
    for one, other in zip(first, second, strict=True):
        names = [name for name in one if "/" in name]
        scale = max(sum(abs(one[name]) for name in names), 1e-12)  # of the whole loss
        differences += [abs(one[name] - other[name]) / scale for name in names]
        accuracies.append(abs(one["test_accuracy"] - other["test_accuracy"]))
    terms, accuracy = largest(differences), largest(accuracies)
    result = {
        "terms": terms,
        "accuracy": accuracy,
        "accuracies": [[row["test_accuracy"] for row in rows] for rows in (first, second)],
    }
    if not (terms <= EPOCH_TERM and accuracy <= EPOCH_ACCURACY):
        words = f"terms differ by {terms:.3f} of the loss, accuracies by {accuracy:.3f}"
        raise Failed(words, result)
    return result
