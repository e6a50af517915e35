"""Does a device compute what the CPU computes: steps of every method, and whole epochs."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase, Step
from on_gpu.made_up import Planned, bare_trainer, first_steps, set_modes
from on_gpu.record import Failed, Settings
from trainers import draw_on_host, trainer_of

EPOCHS = ("ce", "mixup", "coteaching", "dividemix", "sanm+dividemix")
"""Methods whose draws can all be made on the host, for whole epochs."""
TERM, GRADIENT, FEATURE = 1e-3, 5e-3, 1e-3
"""Largest differences of one step: relative, relative in norm, relative to the largest feature."""
EPOCH_TERM, EPOCH_ACCURACY = 0.1, 0.05
"""The same of whole epochs, in which rounding grows: relative, and a fraction of the test set."""


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
    total = torch.stack([term.float() for term in terms.values()]).sum()
    total.backward()  # type: ignore[no-untyped-call]
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


def check_epoch(settings: Settings, name: str, seconds: float) -> dict[str, Any]:
    """A warm-up epoch and one of the method, on digits, with the same draws on both devices."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, exact_float32():
        for at, device in (("cpu", "cpu"), ("device", settings.device)):
            trainer = trainer_of(
                name,
                None,
                Path(folder) / at,
                model="small_resnet",
                device=device,
                precision="32-true",
                schedule={"epochs": 2, "warmup": 1},
                data="digits",
                noise="symmetric:0.4",
                limit=200 if settings.tiny else None,
            )
            (Path(folder) / at).mkdir(exist_ok=True)
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
