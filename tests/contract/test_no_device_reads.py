"""No step reads from the device, or copies to it and waits: told on the CPU, for every method.

`tests/gpu/test_sync_free.py` proves it on CUDA. Here two tests come near it without a device. The
first looks at every operation of a step and refuses those for which CUDA must wait. The second
runs every step on the meta device, which has shapes but no values: whatever reads a value fails
there, and so does most of what mixes tensors of two devices.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import labelwise
from labelwise.augment.view import ViewOptions, build_view, views
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.methods import known_methods, parse_method
from labelwise.pretraining import known_pretraining
from labelwise.rng import Draw
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Phase, Step, Wrapper
from support import build_trainer, tiny_embeddings, tiny_images

PACKAGE = str(Path(labelwise.__file__).parent)
KNOWN = known_methods()
METHODS = [name for name, cls in KNOWN.items() if not issubclass(cls, Wrapper)]
SANM = [f"sanm+{name}" for name in METHODS]
# The masks of the paper, and the further views of its code.
PAPER = {"place": "guided", "boxes": "both", "guess_view": "autoaugment", "keep_views": True}
PAPER |= {"learn_view": "randaugment", "warmup_clip": 1.0}
IMAGES = [*METHODS, *SANM, "sanm+dividemix paper", *known_pretraining()]
EMBEDDINGS = [name for name in METHODS if "embeddings" in KNOWN[name].kinds]
RUNS = [(name, "images") for name in IMAGES] + [(name, "embeddings") for name in EMBEDDINGS]
every_run = pytest.mark.parametrize(("name", "kind"), RUNS)
# What SANM adds to a step is the same around most hosts.
HOSTS = ("ce", "dividemix", "coteaching", "tscsi")
some_runs = pytest.mark.parametrize(
    ("name", "kind"), [run for run in RUNS if run[0] not in SANM or run[0][5:] in HOSTS]
)

WAITING = {
    "_local_scalar_dense": "item(), float(), int() or bool() of a tensor",
    "is_nonzero": "the truth of a tensor",
    "equal": "torch.equal",
    "nonzero": "nonzero, or where with one argument",
    "masked_select": "masked_select",
    "argwhere": "argwhere",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
}
"""ATen operations for which the host waits, and what they are in a program."""
READING = ("tolist", "numpy", "cpu", "__array__")
"""Methods of a tensor that read it without any operation when it is on the CPU."""
MAKING = ("tensor", "as_tensor", "new_tensor")
"""What makes a tensor of Python numbers, whose copy to the device is waited for."""


META = torch.device("meta")


class Waited(Exception):
    """A step did what would make the host wait for a device."""


def place() -> str:
    """The innermost line of the package that is at work."""
    inside = [f for f in traceback.extract_stack() if f.filename.startswith(PACKAGE)]
    if not inside:
        return "a test"
    return f"{Path(inside[-1].filename).relative_to(PACKAGE)}:{inside[-1].lineno}"


class NoWaitingOperations(TorchDispatchMode):
    """Refuses operations for which CUDA makes the host wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING:
            raise Waited(f"{WAITING[name]} at {place()}")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise Waited(f"indexing by a mask at {place()}")
        if func is torch.ops.aten.repeat_interleave.Tensor and not (kwargs or {}).get(
            "output_size"
        ):
            raise Waited(f"repeat_interleave by a tensor without output_size at {place()}")
        return func(*args, **(kwargs or {}))


class NoReadingMethods(TorchFunctionMode):
    """Refuses what reads a tensor, or copies one to a device and waits for it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in READING:
            raise Waited(f"{name} at {place()}")
        if name in MAKING:
            raise Waited(f"a tensor made of Python numbers at {place()}")
        devices = [a for a in (*args[1:], *options.values()) if isinstance(a, torch.device | str)]
        # PyTorch's own code moves what may be elsewhere, and is not: that costs nothing.
        own = "torch/" not in sys._getframe(1).f_code.co_filename
        if func is Tensor.to and devices and own and not options.get("non_blocking"):
            raise Waited(f"to a device, without non_blocking, at {place()}")
        return func(*args, **options)


def method_of(name: str) -> Method:
    """A method by its name, or a pre-training alone, short."""
    found = known_pretraining()
    if name in found:
        return found[name](epochs=2, batch_size=16)
    spec, _, paper = name.partition(" ")
    settings: dict[str, Any] = {f"sanm.{k}": v for k, v in PAPER.items()} if paper else {}
    if spec.endswith("hallucination"):
        settings["hallucination.hallucinator_first_steps"] = 5
    return parse_method(spec, settings)


@dataclass(frozen=True)
class Prepared:
    """The first step of every training phase of a method's first epochs, ready to run."""

    trainer: Trainer
    steps: tuple[tuple[Phase, Step, Context, Groups], ...]


@cache
def prepared(name: str, kind: str) -> Prepared:
    """Plan every phase after the passes before it; nothing is trained."""
    data = tiny_images() if kind == "images" else tiny_embeddings()
    with TemporaryDirectory() as folder:
        trainer = build_trainer(data, method_of(name), Path(folder))
    schedule, steps = trainer.schedule, []
    for epoch in range(min(schedule.epochs, schedule.warmup + 2)):
        trainer.position.epoch = epoch
        for phase in trainer.method.phases(epoch):
            context = trainer._context(phase)
            if not isinstance(phase.step, Step):
                phase.step.run(context)
                continue
            plan = phase.sampling.plan(context, phase.batch_size or schedule.batch_size)
            if len(next(iter(plan.values()))):
                here = context.at_step(0)
                steps.append((phase, phase.step, here, trainer._groups(here, phase, plan)))
    assert steps or name.endswith("clusters"), "which trains nothing"
    return Prepared(trainer, tuple(steps))


@every_run
def test_no_operation_waits(name: str, kind: str) -> None:
    ready = prepared(name, kind)
    for phase, step, context, groups in ready.steps:
        with NoReadingMethods(), NoWaitingOperations():
            with torch.no_grad():
                made = step.views(context, groups)
            ready.trainer._update(phase, step.loss(context, made))


PICTURES = ViewOptions(size=(32, 32)), ViewOptions(size=(96, 96))  # larger ones are blurred
VIEWS = [(name, o) for name, kind in views().items() if "images" in kind.kinds for o in PICTURES]


@pytest.mark.parametrize(
    ("name", "options"), VIEWS, ids=lambda value: getattr(value, "size", value)
)
def test_no_view_waits(name: str, options: ViewOptions) -> None:
    batch = torch.randint(0, 256, (24, 3, *options.size), dtype=torch.uint8)
    view, draw = build_view(name, options), Draw(seed=0)
    with NoReadingMethods(), NoWaitingOperations():
        made = view(batch, draw)
    assert made.shape == batch.shape
    there = view(batch.to(META), MetaDraw(**{**vars(draw), "device": META}))
    assert there.device == META


# -- on a device without values ----------------------------------------------------------------


class MetaDraw(Draw):
    """Draws of the right shape without values; what is drawn for the host stays as it is."""

    def uniform(
        self, purpose: str, rows: int, *shape: int, low: float = 0.0, high: float = 1.0
    ) -> Tensor:
        return torch.empty(rows, *shape, device=META)

    def normal(self, purpose: str, rows: int, *shape: int) -> Tensor:
        return torch.empty(rows, *shape, device=META)

    def integers(self, purpose: str, rows: int, *shape: int, low: int, high: int) -> Tensor:
        return torch.empty(rows, *shape, dtype=torch.int64, device=META)

    def permutation(self, purpose: str, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int64, device=META)


def to_meta(value: Any) -> Any:
    """Tensors, and what is made of them, on the meta device."""
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, dict):
        return {name: to_meta(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_meta(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {f.name: to_meta(getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **moved)
    return value


def ledger_of(ledger: Ledger) -> Ledger:
    """A ledger of the same columns and decisions, without values."""
    first = next(iter(ledger.columns.values()))
    moved = Ledger(ledger.declared.values(), *first.shape[:2], META, ledger.shared)
    moved.decisions = ledger.decisions
    return moved


def elsewhere(context: Context) -> Context:
    """The context on the meta device, without the engine's wrapper around its networks."""
    store = context.store
    networks = tuple(copy.deepcopy(network).to(META) for network in context.plain)
    return replace(
        context,
        networks=networks,
        plain=networks,
        store=Store(to_meta(store.inputs), to_meta(store.labels), store.num_classes),
        ledger=ledger_of(context.ledger),
        draw=MetaDraw(**{**vars(context.draw), "device": META}),
        extras=copy.deepcopy(context.extras).to(META),
    )


def tried(step: Callable[[], Any]) -> Any:
    """Run, and name the line of the package where it failed."""
    try:
        return step()
    except (RuntimeError, NotImplementedError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if f.filename.startswith(PACKAGE)][-1]
        pytest.fail(f"{Path(inside.filename).relative_to(PACKAGE)}:{inside.lineno}: {error}")


@some_runs
def test_steps_run_on_a_device_without_values(name: str, kind: str) -> None:
    for _, step, context, groups in prepared(name, kind).steps:
        for network in context.plain:
            network.map_size(tuple(context.store.inputs.shape[1:]))  # type: ignore[operator]
        there = elsewhere(context)
        with torch.no_grad():
            made = tried(partial(step.views, there, to_meta(dict(groups))))
        terms = tried(partial(step.loss, there, made))
        total = torch.stack([term.float() for term in terms.values()]).sum()
        assert total.device == META
        total.backward()
        weights = [
            weight for number in context.trains for weight in there.plain[number].parameters()
        ]
        assert any(weight.grad is not None for weight in weights)


# -- the guards themselves ---------------------------------------------------------------------

BAD: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "truth": lambda x: bool((x > 0).any()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "mask": lambda x: x[x > 0],
    "set by a mask": lambda x: x.clone().__setitem__(x > 0, 1.0),
    "nonzero": lambda x: (x > 0).nonzero(),
    "where": lambda x: torch.where(x > 0),
    "unique": lambda x: torch.unique(x),
    "equal": lambda x: torch.equal(x, x),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "new tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "python numbers": lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
    "blocking copy": lambda x: x.to("cpu"),
    "repeat": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("name", BAD)
def test_guard_sees(name: str) -> None:
    values = torch.ones(2)
    with pytest.raises(Waited), NoReadingMethods(), NoWaitingOperations():
        BAD[name](values)


def test_guard_lets_pass() -> None:
    values, host = torch.arange(4.0), np.ones(4)
    with NoReadingMethods(), NoWaitingOperations():
        shown = torch.where(values > 1, values, 0.0)[torch.arange(2)]
        torch.from_numpy(host).to("cpu", non_blocking=True)
        shown.to(torch.float64).to("cpu", non_blocking=True)


@pytest.mark.parametrize("name", ["item", "truth", "nonzero", "mask", "numpy"])
def test_meta_device_has_no_values(name: str) -> None:
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        BAD[name](torch.ones(2, device=META))


def test_meta_device_does_not_mix() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=META) + torch.ones(2)
