"""No step may wait for the device: on CUDA every synchronisation is turned into an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from labelwise.methods import known_methods, parse_method
from labelwise.pretraining import known_pretraining
from labelwise.training.engine import launch
from labelwise.training.groups import Group
from labelwise.training.method import Method, Step, Wrapper
from support import build_trainer, tiny_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KNOWN = known_methods()
METHODS = [name for name, cls in KNOWN.items() if not issubclass(cls, Wrapper)]
WRAPPED = [
    f"{wrapper}+{name}"
    for wrapper, cls in KNOWN.items()
    if issubclass(cls, Wrapper)
    for name in METHODS
]


@pytest.fixture
def no_sync() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def method_of(name: str) -> Method:
    """A method by its name, or a pre-training alone, short."""
    found = known_pretraining()
    return found[name](epochs=2, batch_size=16) if name in found else parse_method(name)


@pytest.mark.parametrize("name", [*METHODS, *WRAPPED, *known_pretraining()])
def test_step_never_synchronises(name: str, no_sync: None, tmp_path: Path) -> None:
    fabric = launch("cuda", 1, "bf16-mixed")
    trainer = build_trainer(tiny_images(), method_of(name), tmp_path, fabric=fabric)
    schedule = trainer.schedule
    steps = 0
    for epoch in range(min(schedule.epochs, schedule.warmup + 2)):
        for phase in trainer.method.phases(epoch):
            context = trainer._context(phase)
            if not isinstance(phase.step, Step):
                phase.step.run(context)
                continue
            plan = phase.sampling.plan(context, phase.batch_size or schedule.batch_size)
            if len(next(iter(plan.values()))) == 0:
                continue
            groups = {
                side: Group(
                    rows[0],
                    trainer.store.labels[rows[0]],
                    trainer.ledger["clean"][phase.judge][rows[0]],
                    trainer.store.plain(rows[0]),
                )
                for side, rows in plan.items()
            }
            here = context.at_step(0)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            with torch.no_grad():
                groups = phase.step.views(here, groups)
            trainer._update(phase, phase.step.loss(here, groups))
            torch.cuda.set_sync_debug_mode("default")
            steps += 1
    assert steps > 0 or name.endswith("clusters"), "which trains nothing"
