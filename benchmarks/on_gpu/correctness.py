"""Is a GPU as good as the CPU: no step waits for it, and it computes the same."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

import labelwise
from labelwise.methods import known_methods
from labelwise.pretraining import known_pretraining
from labelwise.training.method import Wrapper
from on_gpu.made_up import PAPER, bare_trainer, first_steps, set_modes
from on_gpu.parity import EPOCHS, check_epoch, check_parity
from on_gpu.record import Failed, Item, Settings

PACKAGE = str(Path(labelwise.__file__).parent)


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
