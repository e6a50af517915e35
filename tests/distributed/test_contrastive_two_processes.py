"""Contrastive pre-training on two processes is that of one: gradients, queue, key encoder.

The network has no batch statistics, so the processes must agree up to the order of additions.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from labelwise.models.heads import Projection
from labelwise.models.network import Network
from labelwise.pretraining.moco import MoCo
from labelwise.pretraining.simclr import SimCLR
from labelwise.rng import Draw
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.groups import Groups
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Phase, Step, Wrapper
from support import build_trainer, smooth_network, tiny_images, weights_of

pytestmark = pytest.mark.distributed

DATA = tiny_images(num=64)
SCHEDULE = {"epochs": 3, "batch_size": 16, "lr": 0.05}


@dataclass(frozen=True)
class OneMore(Step):
    """A step with a third view, as a wrapper would add it."""

    inner: Step

    def views(self, context: Context, groups: Groups) -> Groups:
        """The unaugmented image is another view."""
        made = self.inner.views(context, groups)
        return {side: g.adding((g.anchor, g.views[0][1])) for side, g in made.items()}

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The inner loss."""
        return self.inner.loss(context, groups)


class Wider(Wrapper):
    """A wrapper that adds a view and no term."""

    name = "wider"

    def wrap(self, step: Step) -> Step:
        """One more view."""
        return OneMore(step)


METHODS = {
    "simclr": lambda: SimCLR(),
    "wider+simclr": lambda: Wider(SimCLR()),
    "moco": lambda: MoCo(queue=40, momentum=0.9),
    "wider+moco": lambda: Wider(MoCo(queue=40, momentum=0.9)),
}


class Watched(Trainer):
    """Keeps the gradients and the queue of every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gradients: dict[str, Tensor] = {}
        self.queues: dict[str, Tensor] = {}

    def _update(self, phase: Phase, terms: Any) -> None:
        super()._update(phase, terms)
        where = f"{self.position.epoch}/{self.position.step}"
        grads = [p.grad.flatten() for p in self.plain[0].parameters() if p.grad is not None]
        self.gradients[where] = torch.cat(grads).clone()
        for name, value in self.extras.state_dict().items():
            if "queue" in name:
                self.queues[f"{where}/{name}"] = value.clone()


def network() -> Network:
    made = smooth_network(DATA)
    with Draw(0, phase="projection").forked("weights"):
        made.heads["projection"] = Projection(made.backbone.num_features, width=16)
    return made


def run(name: str, folder: Path, fabric: Any) -> dict[str, Any]:
    """A short run, and what it left behind on this process."""
    folder.mkdir(parents=True, exist_ok=True)
    method: Method = METHODS[name]()
    trainer = build_trainer(
        DATA,
        method,
        folder,
        schedule=SCHEDULE,
        networks=[network()],
        fabric=fabric,
        kind=Watched,
    )
    trainer.train()
    assert isinstance(trainer, Watched)
    return {
        "gradients": trainer.gradients,
        "queues": trainer.queues,
        "extras": {k: v.clone() for k, v in trainer.extras.state_dict().items()},
        "weights": weights_of(trainer),
        "losses": [row["contrast/contrast"] for row in trainer.journal.rows()],
    }


def work(rank: int, port: int, folder: str) -> None:
    """One of two processes, started as `torchrun` would."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    fabric = launch("cpu", 2, "32-true")
    results = {name: run(name, Path(folder) / name, fabric) for name in METHODS}
    torch.save(results, Path(folder) / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def two_processes() -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of both ranks; the processes are started once for all tests."""
    results = started()
    assert results is not None, "a process failed, or the two wait for each other"
    return results


@cache
def started() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Start both processes and collect their results; None when one of them fails."""
    context = torch.multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        port = free_port()
        ranks = [context.Process(target=work, args=(rank, port, folder)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        deadline = time.monotonic() + 120
        for process in ranks:
            process.join(max(1.0, deadline - time.monotonic()))
        for process in ranks:
            if process.is_alive():
                process.kill()
        if [process.exitcode for process in ranks] != [0, 0]:
            return None
        first, second = (torch.load(Path(folder) / f"rank-{rank}.pt") for rank in (0, 1))
    return first, second


@cache
def one_process(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return run(name, Path(folder), launch("cpu", 1, "32-true"))


every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_first_gradient_is_that_of_one_process(name: str) -> None:
    """With all negatives, and through all of them, before rounding errors add up."""
    wanted = one_process(name)["gradients"]["0/0"]
    assert float(wanted.abs().max()) > 1e-3
    for rank in two_processes():
        assert float((rank[name]["gradients"]["0/0"] - wanted).abs().max()) < 1e-6


@every_method
def test_all_gradients_and_losses_stay_those_of_one_process(name: str) -> None:
    alone = one_process(name)
    for rank in two_processes():
        assert rank[name]["gradients"].keys() == alone["gradients"].keys()
        for where, wanted in alone["gradients"].items():
            assert float((rank[name]["gradients"][where] - wanted).abs().max()) < 2e-5, where
        assert rank[name]["losses"] == pytest.approx(alone["losses"], abs=1e-5)


@every_method
def test_ranks_agree_to_the_bit(name: str) -> None:
    first, second = two_processes()
    for part in ("weights", "queues", "extras", "gradients"):
        ours, theirs = first[name][part], second[name][part]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part


@pytest.mark.parametrize("name", ["moco", "wider+moco"])
def test_queue_after_every_step_is_that_of_one_process(name: str) -> None:
    """The keys of all processes, in the order of the whole batch."""
    alone = one_process(name)["queues"]
    assert len(alone) == 2 * 3 * 4
    for rank in two_processes():
        assert rank[name]["queues"].keys() == alone.keys()
        for where, wanted in alone.items():
            torch.testing.assert_close(rank[name]["queues"][where], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["moco", "wider+moco"])
def test_key_encoder_ends_as_that_of_one_process(name: str) -> None:
    alone = one_process(name)["extras"]
    for rank in two_processes():
        for key, wanted in alone.items():
            torch.testing.assert_close(rank[name]["extras"][key], wanted, atol=1e-5, rtol=0)
