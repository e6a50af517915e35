"""The loop: batches, interruption at any moment, failing losses, and what the journal says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelwise.errors import UserError
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.coteaching import CoTeaching
from labelwise.methods.dividemix import Divided, DivideMix
from labelwise.rng import Draw
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method, Phase
from labelwise.training.ranks import Ranks
from labelwise.training.sampling import Everything, full_batches
from labelwise.training.steps import Supervised
from support import (
    ExtraView,
    assert_same_tensors,
    build_context,
    build_trainer,
    rows_without_times,
    smooth_network,
    tiny_images,
    weights_of,
)

DATA = tiny_images(num=40)


# -- batches ----------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 70))
@settings(max_examples=300, deadline=None)
def test_full_batches(count: int, size: int) -> None:
    order = torch.randperm(count)
    batches = full_batches(order, size)
    steps, width = batches.shape
    assert width == min(size, count)
    assert steps == math.ceil(count / width)
    assert torch.equal(batches.flatten()[:count], order), "every row once, in the order given"
    filled = batches.flatten()[count:]
    assert torch.equal(filled, order[: len(filled)]), "the last batch is filled from the first"
    assert len(filled) < width
    assert all(len(set(row.tolist())) == width for row in batches), "a batch holds a row twice"


class TwoRanks(Ranks):
    """What a step sees on one of two processes, for plans, which need no collective."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.world = rank, 2


def divided_context(trusted: int, rank: int | None = None) -> Context:
    draw = Draw(0, epoch=1, phase="divide-0", rank=rank or 0, world=1 if rank is None else 2)
    ranks = Ranks() if rank is None else TwoRanks(rank)
    context = build_context(DATA, [smooth_network(DATA)], draw=draw, ranks=ranks)
    clean = torch.zeros(len(DATA))
    clean[:trusted] = 1.0
    context.ledger.set("clean", 0, clean)
    context.ledger.decisions["threshold"] = 0.5
    return context


@pytest.mark.parametrize("trusted", [0, 1, 3, 7, 20, 33, 39, 40])
@pytest.mark.parametrize("batch", [2, 8, 16, 64])
def test_divided_plan(trusted: int, batch: int) -> None:
    plan = Divided(0).plan(divided_context(trusted), batch)
    assert plan.keys() == {"clean", "noisy"}
    assert plan["clean"].shape == plan["noisy"].shape
    assert plan["clean"].shape[1] <= batch
    labelled, unlabelled = (
        set(plan["clean"].flatten().tolist()),
        set(plan["noisy"].flatten().tolist()),
    )
    assert set(range(trusted)) <= labelled, "a trusted sample is never learnt from"
    if 3 <= trusted < 40:
        assert not labelled & set(range(trusted, 40)) or trusted == 3
        assert not unlabelled & set(range(trusted))


def test_least_steps_of_an_epoch_follow_the_batch_size() -> None:
    """`at_least` promises a fraction of N / batch size, also where few labels are trusted."""
    plan = Divided(0, at_least=0.5).plan(divided_context(4), 16)
    assert len(plan["clean"]) == math.ceil(0.5 * 40 / 16)


@pytest.mark.parametrize(
    ("trusted", "batch"),
    [
        (20, 8),
        pytest.param(7, 16),
        pytest.param(20, 7),
    ],
)
def test_ranks_get_equal_shares_of_every_batch(trusted: int, batch: int) -> None:
    """Unequal shares would make the gather of MixUp partners fail or wait for ever."""
    for sampling in (Divided(0), Everything()):
        shares = []
        for rank in (0, 1):
            context = divided_context(trusted, rank)
            plan = sampling.plan(context, batch)
            shares.append(
                {side: len(context.draw.own_rows(rows[0])) for side, rows in plan.items()}
            )
        assert shares[0] == shares[1]


# -- interruption -----------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """What a finished run leaves."""

    weights: dict[str, Tensor]
    ledger: dict[str, Tensor]
    decisions: dict[str, float]
    momentum: list[Any]
    rows: list[dict[str, Any]]
    images: int


def end_of(trainer: Trainer, folder: Path) -> End:
    return End(
        weights_of(trainer),
        {name: column.clone() for name, column in trainer.ledger.columns.items()},
        dict(trainer.ledger.decisions),
        [
            [slot["momentum_buffer"] for slot in optimiser.state_dict()["state"].values()]
            for optimiser in trainer.optimisers
        ],
        rows_without_times(folder / "metrics.jsonl"),
        trainer.position.images,
    )


def assert_same_end(first: End, second: End, *, notes: bool = False) -> None:
    assert_same_tensors(first.weights, second.weights)
    assert_same_tensors(first.ledger, second.ledger)
    assert first.decisions == second.decisions
    assert first.images == second.images
    for ours, theirs in zip(first.momentum, second.momentum, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows if notes else [{k: v for k, v in r.items() if k != "notes"} for r in rows]

    assert shown(first.rows) == shown(second.rows)


def method_for(name: str) -> Method:
    if name == "dividemix":
        return DivideMix(lambda_u=25.0)
    return ExtraView(DivideMix()) if name == "extra-view+dividemix" else CoTeaching()


def whole_run(name: str, folder: Path, **options: Any) -> End:
    trainer = build_trainer(DATA, method_for(name), folder, **options)
    trainer.train()
    return end_of(trainer, folder)


def stop_everywhere(name: str, folder: Path) -> tuple[End, int]:
    """Interrupt a run after every single step, with a new trainer each time."""
    stops = 0
    while True:
        trainer = build_trainer(
            DATA, method_for(name), folder, checkpoint_every=0, should_stop=lambda: True
        )
        trainer.resume()
        try:
            trainer.train()
        except Interrupted:
            stops += 1
        else:
            return end_of(trainer, folder), stops


NAMES = ["dividemix", "extra-view+dividemix", "coteaching"]


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_at_every_step_ends_bit_identical(name: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = whole_run(name, tmp_path / "whole")
    parts, stops = stop_everywhere(name, tmp_path / "parts")
    assert stops > 15
    assert_same_end(whole, parts)


def test_interruption_loses_no_note(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = whole_run("dividemix", tmp_path / "whole")
    assert any(row["notes"] for row in whole.rows), "nothing was said: the test shows nothing"
    parts, _ = stop_everywhere("dividemix", tmp_path / "parts")
    assert_same_end(whole, parts, notes=True)


def test_commits_do_not_change_the_run(tmp_path: Path) -> None:
    (tmp_path / "seldom").mkdir()
    (tmp_path / "often").mkdir()
    seldom = whole_run("dividemix", tmp_path / "seldom")
    often = whole_run("dividemix", tmp_path / "often", checkpoint_every=0)
    assert_same_end(seldom, often, notes=True)


@pytest.mark.parametrize("lost", [1, 2])
def test_older_checkpoint_ends_bit_identical(tmp_path: Path, lost: int) -> None:
    """The newest checkpoint is torn, or the newest and the pointer: the one before will do."""
    (tmp_path / "whole").mkdir()
    folder = tmp_path / "parts"
    folder.mkdir()
    whole = whole_run("dividemix", tmp_path / "whole")
    asked = iter(range(10**6))
    trainer = build_trainer(
        DATA,
        method_for("dividemix"),
        folder,
        checkpoint_every=0,
        should_stop=lambda: next(asked) == 14,
    )
    with pytest.raises(Interrupted):
        trainer.train()
    newest = sorted((folder / "checkpoint").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    if lost == 2:
        (folder / "checkpoint" / "LAST").write_text("")
    trainer = build_trainer(DATA, method_for("dividemix"), folder)
    assert trainer.resume()
    trainer.train()
    assert_same_end(whole, end_of(trainer, folder))


def test_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    whole = whole_run("dividemix", tmp_path)
    trainer = build_trainer(DATA, method_for("dividemix"), tmp_path)
    assert trainer.resume()
    trainer.train()
    assert_same_end(whole, end_of(trainer, tmp_path), notes=True)


def test_resume_without_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    assert not build_trainer(DATA, CrossEntropy(), tmp_path).resume()


def test_lines_from_before_the_first_commit_are_not_doubled(tmp_path: Path) -> None:
    """Killed after the first epochs' lines and before the first checkpoint."""

    class Killed(Exception):
        pass

    trainer = build_trainer(DATA, CrossEntropy(), tmp_path)
    trainer.evaluate = lambda networks, measures: {} if trainer.position.epoch < 2 else 1 / 0  # type: ignore[return-value]
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    again = build_trainer(DATA, CrossEntropy(), tmp_path)
    assert not again.resume()
    again.train()
    assert [row["epoch"] for row in again.journal.rows()] == [1, 2, 3]


class SecondRank:
    """The engine as the second of two processes sees it."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.is_global_zero = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fabric, name)


def test_only_the_first_rank_rewrites_the_journal(tmp_path: Path) -> None:
    """Two processes replacing one file at a time fail now and then."""
    build_trainer(DATA, CrossEntropy(), tmp_path, checkpoint_every=0).train()
    second = build_trainer(DATA, CrossEntropy(), tmp_path)
    second.fabric = SecondRank(second.fabric)  # type: ignore[assignment]
    before = second.journal.path.stat().st_ino
    assert second.resume()
    assert second.journal.path.stat().st_ino == before


def test_stop_is_asked_after_every_step(tmp_path: Path) -> None:
    """Never more than one step of work between two questions."""
    asked = [0]

    def ask() -> bool:
        asked[0] += 1
        return False

    trainer = build_trainer(DATA, CrossEntropy(), tmp_path, should_stop=ask)
    trainer.train()
    steps = 3 * math.ceil(40 / 16)
    assert asked[0] >= steps


# -- losses that fail -------------------------------------------------------------------------


@dataclass(frozen=True)
class FailingStep(Supervised):
    """Cross-entropy that becomes NaN at one step of one epoch."""

    epoch: int = 1
    step: int = 1
    factor: float = math.nan

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The usual loss, spoilt at one position."""
        terms = super().loss(context, groups)
        if (context.epoch, context.draw.step) == (self.epoch, self.step):
            terms = {name: term * self.factor for name, term in terms.items()}
        return terms


class Failing(CrossEntropy):
    """A method whose loss fails."""

    factor = math.nan

    def phases(self, epoch: int) -> list[Phase]:
        """As cross-entropy."""
        return [Phase("train", FailingStep(factor=self.factor), trains=(0,))]


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_failing_loss_is_a_message(tmp_path: Path, factor: float) -> None:
    method = Failing()
    method.factor = factor
    trainer = build_trainer(DATA, method, tmp_path)
    with pytest.raises(UserError, match=r"loss became (nan|inf) in epoch 2 .train.*--lr"):
        trainer.train()
    assert [row["epoch"] for row in trainer.journal.rows()] == [1]


def test_checkpoint_after_a_failing_loss_is_from_before(tmp_path: Path) -> None:
    """The message promises it, and a resume would otherwise start from NaN."""
    trainer = build_trainer(DATA, Failing(), tmp_path, checkpoint_every=0)
    with pytest.raises(UserError, match="last checkpoint is from before"):
        trainer.train()
    state = trainer.checkpoints.load()
    assert state is not None
    assert all(bool(value.isfinite().all()) for value in state["networks"][0].values())


# -- what is said -----------------------------------------------------------------------------


def test_journal_holds_means_of_the_terms(tmp_path: Path) -> None:
    """The figure of a term is its mean over the phase's steps."""
    collected: list[list[float]] = [[]]

    class Watching(Trainer):
        def _update(self, phase: Phase, terms: Any) -> None:
            collected[-1].append(float(terms["cross_entropy"].detach()))
            super()._update(phase, terms)

        def _close_epoch(self) -> None:
            super()._close_epoch()
            collected.append([])

    trainer = build_trainer(DATA, CrossEntropy(), tmp_path, kind=Watching)
    trainer.train()
    rows = trainer.journal.rows()
    for row, values in zip(rows, collected, strict=False):
        assert row["train/cross_entropy"] == pytest.approx(sum(values) / len(values), rel=1e-5)
        assert row["lr"] == trainer.schedule.lr_at(row["epoch"] - 1)
        assert set(row["phase_seconds"]) == {"train", "evaluate"}
    assert [row["images"] for row in rows] == [48, 96, 144]  # 40 samples fill three batches of 16


class Frozen(CrossEntropy):
    """A method whose phase asks for no learning at all."""

    def phases(self, epoch: int) -> list[Phase]:
        """A learning rate of zero."""
        return [Phase("train", Supervised(), trains=(0,), lr=0.0)]


def test_learning_rate_of_a_phase_may_be_zero(tmp_path: Path) -> None:
    trainer = build_trainer(DATA, Frozen(), tmp_path, networks=[smooth_network(DATA)])
    before = weights_of(trainer)
    trainer.train()
    assert_same_tensors(weights_of(trainer), before)


class Clipped(CrossEntropy):
    """A method whose phase has its own learning rate and a bound on the gradient."""

    def phases(self, epoch: int) -> list[Phase]:
        """As cross-entropy."""
        return [Phase("train", Supervised(), trains=(0,), lr=0.003, clip=1e-3)]


def test_learning_rate_and_clip_of_a_phase(tmp_path: Path) -> None:
    norms = []

    class Watching(Trainer):
        def _update(self, phase: Phase, terms: Any) -> None:
            super()._update(phase, terms)
            grads = [p.grad for p in self.plain[0].parameters() if p.grad is not None]
            norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))

    trainer = build_trainer(DATA, Clipped(), tmp_path, kind=Watching)
    trainer.train()
    assert trainer.optimisers[0].param_groups[0]["lr"] == 0.003
    assert norms == [pytest.approx(1e-3, rel=1e-3)] * len(norms)
