"""Two processes give what one gives: gradients, ledger, and the end of a run.

The network has no batch statistics (those are of each process's rows), so everything else must
agree up to the order of additions.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from labelwise.methods import parse_method
from labelwise.pretraining.scan import SCAN
from labelwise.training.chain import Chain
from labelwise.training.engine import launch
from labelwise.training.journal import Journal
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method, Phase
from labelwise.training.trace import HITS, LEARNED, MARGIN, PROBABILITY, SEEN
from support import ExtraView, build_trainer, smooth_network, tiny_images, weights_of

pytestmark = pytest.mark.distributed

DATA = tiny_images(num=64)
SCHEDULE = {"epochs": 3, "warmup": 1, "batch_size": 8, "lr": 0.05}
# Large boxes and a heavy reconstruction, so that what the wrapper adds is most of the gradient.
MASKS = {"sanm.basic_ratio": 0.3, "sanm.ratio_gain": 0.2, "sanm.reconstruction_weight": 0.5}
# Labels are corrected from the first epoch on, whatever the anchors know.
ALWAYS = {"doubtful": 0.0, "least_agreement": 0.0}
SPECS = {
    "ce": ("ce", {}),
    "mixup": ("mixup", {}),
    "dividemix": ("dividemix", {"lambda_u": 25.0}),
    "coteaching": ("coteaching", {"noise_rate": 0.4, "ramp_epochs": 1}),
    "extra-view+dividemix": ("dividemix", {"lambda_u": 25.0}),
    "c2d": ("c2d", {"lambda_u": 25.0}),
    "sanm+ce": ("sanm+ce", MASKS),
    "sanm+dividemix": ("sanm+dividemix", {**MASKS, "lambda_u": 25.0}),
    "sanm+coteaching": ("sanm+coteaching", {**MASKS, "noise_rate": 0.4, "ramp_epochs": 1}),
    "hallucination": ("hallucination", {"lambda_u": 25.0, "num_networks": 2, **ALWAYS}),
    # Few easy samples and anchors on straight lines: a quarter of all labels is voted on.
    "sanm+hallucination": (
        "sanm+hallucination",
        {
            **MASKS,
            **ALWAYS,
            "lambda_u": 25.0,
            "anchors": "mixed",
            "easy_quantile": 0,
            "easy_least": 0.2,
        },
    ),
    "scan>scanmix": (
        "scanmix",
        {
            "lambda_u": 25.0,
            "num_neighbours": 5,
            "cluster_batch": 16,
            "cluster_lr": 0.01,
            "strong_views": False,
        },
    ),
}
SCAN_FIRST = {
    "num_neighbours": 5,
    "epochs": 1,
    "batch_size": 16,
    "view": "weak",
    "num_heads": 0,  # learnt heads are sure: their gradients are larger, and so is the rounding
}
EPOCHS = {"scan>scanmix": 4}


def method_for(name: str) -> Method:
    spec, settings = SPECS[name]
    method = parse_method(spec, settings)
    if name.startswith("scan>"):
        return Chain(SCAN(**SCAN_FIRST), method)
    return ExtraView(method) if name.startswith("extra-view") else method


class Watched(Trainer):
    """Keeps the gradients of every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gradients: dict[str, torch.Tensor] = {}

    def _update(self, phase: Phase, terms: Any) -> None:
        super()._update(phase, terms)
        for number in phase.trains:
            where = f"{self.position.epoch}/{phase.name}/{self.position.step}/{number}"
            grads = [
                p.grad.flatten() for p in self.plain[number].parameters() if p.grad is not None
            ]
            self.gradients[where] = torch.cat(grads).clone()


def run(name: str, folder: Path, fabric: Any) -> dict[str, Any]:
    """A short run, and what it left behind on this process."""
    method = method_for(name)
    peers = range(method.num_peers)
    networks = [smooth_network(DATA, number, heads=method.heads) for number in peers]
    folder.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(
        DATA, method, folder, schedule=SCHEDULE, networks=networks, fabric=fabric, kind=Watched
    )
    trainer.train()
    assert isinstance(trainer, Watched)
    return {
        "gradients": trainer.gradients,
        "weights": weights_of(trainer),
        "ledger": dict(trainer.ledger.columns),
        "decisions": dict(trainer.ledger.decisions),
        "rows": trainer.journal.rows(),
        "images": trainer.position.images,
    }


def interrupted(folder: Path, fabric: Any) -> dict[str, Any]:
    """A DivideMix run that only one process is asked to stop, resumed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)

    def trainer(stop_at: int) -> Trainer:
        asked = iter(range(10**6))
        last = fabric.global_rank == fabric.world_size - 1
        networks = [smooth_network(DATA, number) for number in (0, 1)]
        made = build_trainer(
            DATA,
            method_for("extra-view+dividemix"),
            folder,
            schedule=SCHEDULE,
            networks=networks,
            fabric=fabric,
            should_stop=lambda: last and next(asked) == stop_at,
        )
        # That only the first rank may rewrite the journal has a test beside the loop's.
        made.vote_every = 1
        made.journal = Journal(folder / f"metrics-{fabric.global_rank}.jsonl")
        return made

    stopped = False
    try:
        trainer(22).train()
    except Interrupted:
        stopped = True
    fabric.barrier()
    second = trainer(-1)
    resumed = second.resume()
    second.train()
    return {
        "stopped": stopped and resumed,
        "weights": weights_of(second),
        "ledger": dict(second.ledger.columns),
    }


def with_batch_statistics(folder: Path, fabric: Any) -> dict[str, Any]:
    """A run whose network has batch normalisation: what each process is left with."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(
        DATA, method_for("ce"), folder, schedule={**SCHEDULE, "epochs": 1}, fabric=fabric
    )
    trainer.train()
    return weights_of(trainer)


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
    assert fabric.world_size == 2
    results = {name: run(name, Path(folder) / name, fabric) for name in SPECS}
    results["interrupted"] = interrupted(Path(folder) / "interrupted", fabric)
    results["batch statistics"] = with_batch_statistics(Path(folder) / "statistics", fabric)
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
        deadline = time.monotonic() + 180
        for process in ranks:
            process.join(max(1.0, deadline - time.monotonic()))
        late = [process for process in ranks if process.is_alive()]
        for process in late:
            process.kill()
        if late or [process.exitcode for process in ranks] != [0, 0]:
            return None
        first, second = (torch.load(Path(folder) / f"rank-{rank}.pt") for rank in (0, 1))
    return first, second


@cache
def one_process(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return run(name, Path(folder), launch("cpu", 1, "32-true"))


SELECTS_PER_RANK = pytest.param("coteaching")
NAMES = [SELECTS_PER_RANK if name == "coteaching" else name for name in SPECS]
every_method = pytest.mark.parametrize("name", NAMES)


def error(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[k].double() - second[k].double()).abs().max()) for k in first)


@pytest.mark.parametrize("name", SPECS)
def test_first_gradients_are_those_of_one_process(name: str) -> None:
    """Before rounding errors can add up: the first step of each network."""
    alone, ranks = one_process(name), two_processes()
    for rank in ranks:
        assert rank[name]["gradients"].keys() == alone["gradients"].keys()
        early = [where for where in alone["gradients"] if where.split("/")[2] == "0"]
        early = [where for where in early if where.startswith("0/")]
        assert early
        for where in early:
            wanted = alone["gradients"][where]
            assert float(wanted.abs().max()) > 1e-3
            assert float((rank[name]["gradients"][where] - wanted).abs().max()) < 1e-6, where


@every_method
def test_all_gradients_stay_those_of_one_process(name: str) -> None:
    alone, ranks = one_process(name), two_processes()
    for rank in ranks:
        assert error(rank[name]["gradients"], alone["gradients"]) < 2e-5


@pytest.mark.parametrize("name", SPECS)
def test_ranks_agree_with_each_other(name: str) -> None:
    first, second = two_processes()
    for part in ("gradients", "weights", "ledger"):
        ours, theirs = first[name][part], second[name][part]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    assert first[name]["decisions"] == second[name]["decisions"]


@every_method
def test_run_ends_as_one_process_ends(name: str) -> None:
    alone, ranks = one_process(name), two_processes()
    for rank in ranks:
        assert error(rank[name]["weights"], alone["weights"]) < 1e-5
        for column, value in alone["ledger"].items():
            ours = rank[name]["ledger"][column]
            assert ours.shape == value.shape
            if value.dtype.is_floating_point:
                assert torch.allclose(ours, value, atol=1e-4), column
            else:
                assert torch.equal(ours, value), column
        assert rank[name]["decisions"] == pytest.approx(alone["decisions"], abs=1e-5)
        assert rank[name]["images"] == alone["images"]


@pytest.mark.parametrize("name", SPECS)
def test_journal_is_written_once(name: str) -> None:
    first, _ = two_processes()
    rows = first[name]["rows"]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS.get(name, 3) + 1))
    for ours, theirs in zip(rows, one_process(name)["rows"], strict=True):
        assert ours.keys() == theirs.keys()


def test_scores_of_the_ledger_are_those_of_one_process() -> None:
    """A score pass: half of the rows on each rank, merged exactly."""
    alone, (first, second) = one_process("dividemix"), two_processes()
    assert bool((alone["ledger"]["prediction"] >= 0).all())
    for rank in (first, second):
        ledger = rank["dividemix"]["ledger"]
        assert torch.equal(ledger["prediction"], alone["ledger"]["prediction"])
        assert torch.allclose(ledger["loss"], alone["ledger"]["loss"], atol=1e-5)
        assert torch.allclose(ledger["clean"], alone["ledger"]["clean"], atol=1e-4)


@every_method
def test_trace_is_that_of_one_process(name: str) -> None:
    """Sums and maxima over ranks that each saw a part of every batch."""
    alone, ranks = one_process(name)["ledger"], two_processes()
    assert float(alone[LEARNED].max()) == 1.0
    assert bool((alone[HITS][..., 1] >= 3).all())
    for rank in ranks:
        ledger = rank[name]["ledger"]
        assert torch.equal(ledger[HITS][..., 1], alone[HITS][..., 1])
        assert torch.equal(ledger[SEEN], alone[SEEN])
        assert torch.equal(ledger[LEARNED], alone[LEARNED])
        for column in (MARGIN, PROBABILITY):
            assert torch.allclose(ledger[column], alone[column], atol=1e-4), column


def test_stop_asked_of_one_process_stops_both_and_resumes() -> None:
    first, second = two_processes()
    whole = first["extra-view+dividemix"]
    for rank in (first, second):
        assert rank["interrupted"]["stopped"]
        for part in ("weights", "ledger"):
            ours = rank["interrupted"][part]
            keys = whole[part].keys() - {"times_seen"}
            assert all(torch.equal(ours[key], whole[part][key]) for key in keys)


def test_ledger_written_within_a_phase_survives_a_stop() -> None:
    first, second = two_processes()
    whole = first["extra-view+dividemix"]["ledger"]["times_seen"]
    for rank in (first, second):
        assert torch.equal(rank["interrupted"]["ledger"]["times_seen"], whole)


def test_running_statistics_agree_when_samples_are_scored() -> None:
    first, second = (rank["batch statistics"] for rank in two_processes())
    assert all(torch.equal(first[key], second[key]) for key in first)
