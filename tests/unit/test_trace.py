"""The trace of a run against a slow recomputation from every single prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labelwise.data.ledger import Ledger
from labelwise.methods import coteaching, parse_method
from labelwise.training import scoring, steps, trace
from labelwise.training.context import Context
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method, Phase
from labelwise.training.trace import Observe, observe, trace_columns, with_trace
from support import (
    ExtraView,
    assert_same_tensors,
    bound,
    build_context,
    build_trainer,
    smooth_network,
    tiny_embeddings,
    tiny_images,
)

DATA = tiny_images(num=48)
NAMES = (trace.SEEN, trace.MARGIN, trace.HITS, trace.LEARNED, trace.PROBABILITY)
Recorder = Callable[[Context, int, Tensor, Tensor], None]


@dataclass
class Prediction:
    """One prediction of some samples."""

    by: str
    epoch: int
    number: int
    index: Tensor
    logits: Tensor


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Prediction]:
    """Every prediction that is handed to the trace from now on."""
    held: list[Prediction] = []

    def record(by: str) -> Recorder:
        def keep(context: Context, number: int, index: Tensor, logits: Tensor) -> None:
            made = logits.detach().float().clone()
            held.append(Prediction(by, context.epoch, number, index.clone(), made))
            observe(context, number, index, logits)

        return keep

    for name, module in {
        "step": steps,
        "score": scoring,
        "observe": trace,
        "coteaching": coteaching,
    }.items():
        monkeypatch.setattr(module, "observe", record(name))
    return held


def method_for(name: str) -> Method:
    wrapped = name.startswith("extra-view+")
    base = name.removeprefix("extra-view+")
    settings = {
        "dividemix": {"lambda_u": 25.0},
        "coteaching": {"noise_rate": 0.3, "ramp_epochs": 1},
    }
    method = parse_method(base, settings.get(base, {}))
    return ExtraView(method) if wrapped else method


def trainer_for(name: str, folder: Path, **schedule: float) -> Trainer:
    method = method_for(name)
    networks = [smooth_network(DATA, number) for number in range(method.num_peers)]
    full = {"epochs": 5, "warmup": 2, "batch_size": 20, "lr": 0.05, **schedule}
    return build_trainer(DATA, method, folder, schedule=full, networks=networks)


def trace_of(ledger: Ledger) -> dict[str, Tensor]:
    return {name: ledger[name] for name in NAMES if name in ledger}


def recomputed(predictions: list[Prediction], num_peers: int, epochs: int) -> dict[str, Tensor]:
    """The same columns, one prediction at a time, in plain Python."""
    size, classes, labels = len(DATA), DATA.num_classes, DATA.labels.tolist()
    found = {
        trace.SEEN: torch.zeros(num_peers, size, dtype=torch.float64),
        trace.MARGIN: torch.zeros(num_peers, size, dtype=torch.float64),
        trace.HITS: torch.zeros(num_peers, size, 2, dtype=torch.float64),
        trace.LEARNED: torch.zeros(num_peers, size, dtype=torch.float64),
        trace.PROBABILITY: torch.zeros(num_peers, size, classes, dtype=torch.float64),
    }
    for made in predictions:
        for row, logits in zip(made.index.tolist(), made.logits.double(), strict=True):
            place, p = (made.number, row), logits.softmax(0)
            own = float(p[labels[row]])
            other = max(float(p[c]) for c in range(classes) if c != labels[row])
            found[trace.MARGIN][place] += own - other
            found[trace.HITS][place][1] += 1
            if own > other:
                found[trace.HITS][place][0] += 1
                if found[trace.LEARNED][place] == 0:
                    found[trace.LEARNED][place] = 1 - made.epoch / epochs
            if made.epoch >= int(0.25 * epochs):
                found[trace.SEEN][place] += 1
                found[trace.PROBABILITY][place] += p
    return found


@pytest.mark.parametrize("name", ["ce", "mixup", "dividemix", "coteaching", "extra-view+dividemix"])
def test_sums_are_those_of_every_single_prediction(
    name: str, tmp_path: Path, recorded: list[Prediction]
) -> None:
    trainer = trainer_for(name, tmp_path)
    trainer.train()
    expected = recomputed(recorded, len(trainer.plain), 5)
    for column, value in expected.items():
        found = trainer.ledger[column].double()
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5, msg=column)
    hits = trainer.ledger[trace.HITS]
    assert bool((hits[..., 1] >= 5).all()), "every sample is seen in every epoch"
    assert bool((hits[..., 0] <= hits[..., 1]).all())


def test_a_row_that_fills_a_batch_up_counts_twice_everywhere(
    tmp_path: Path, recorded: list[Prediction]
) -> None:
    """48 samples in batches of 20: 12 of them come twice in an epoch."""
    trainer = trainer_for("ce", tmp_path)
    trainer.train()
    times = torch.bincount(torch.cat([made.index for made in recorded]), minlength=48)
    assert int(times.sum()) == 5 * 60
    assert torch.equal(trainer.ledger[trace.HITS][0, :, 1].long(), times)
    late = [made.index for made in recorded if made.epoch >= 1]
    seen = torch.bincount(torch.cat(late), minlength=48)
    assert torch.equal(trainer.ledger[trace.SEEN][0].long(), seen)
    total = trainer.ledger[trace.PROBABILITY][0].sum(1)
    torch.testing.assert_close(total, seen.float())


def test_predictions_are_the_networks_own(tmp_path: Path, recorded: list[Prediction]) -> None:
    """With a network that hardly learns: what it says of each sample by itself, unaugmented."""
    trainer = build_trainer(
        DATA,
        parse_method("ce", {"view": "plain"}),
        tmp_path,
        schedule={"epochs": 2, "lr": 1e-12},
        networks=[smooth_network(DATA)],
    )
    trainer.train()
    network, store = smooth_network(DATA), trainer.store
    with torch.no_grad():
        logits = torch.cat([network(store.plain(i))["classes"] for i in torch.arange(48)[:, None]])
    for made in recorded:
        torch.testing.assert_close(made.logits, logits[made.index], rtol=1e-4, atol=1e-5)
    mean = trainer.ledger[trace.PROBABILITY][0] / trainer.ledger[trace.SEEN][0][:, None]
    torch.testing.assert_close(mean, logits.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", ["ce", "coteaching"])
def test_a_wrapper_leaves_the_first_view_the_steps_own(
    base: str, tmp_path: Path, recorded: list[Prediction]
) -> None:
    """Views that a wrapper adds come behind: the same predictions, as nothing is learnt."""
    for name in (base, f"extra-view+{base}"):
        (tmp_path / name).mkdir()
        trainer_for(name, tmp_path / name, epochs=2, lr=1e-12).train()
        recorded.append(Prediction("end", 0, 0, torch.zeros(0), torch.zeros(0)))
    ends = [place for place, made in enumerate(recorded) if made.by == "end"]
    plain, wrapped = recorded[: ends[0]], recorded[ends[0] + 1 : ends[1]]
    of_steps = [made for made in wrapped if made.by in ("step", "coteaching")]
    expected = [made for made in plain if made.by in ("step", "coteaching")]
    assert len(of_steps) == len(expected) > 4
    for ours, theirs in zip(of_steps, expected, strict=True):
        assert torch.equal(ours.index, theirs.index)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)


# -- single predictions -----------------------------------------------------------------------


def context_at(epoch: int, epochs: int) -> Context:
    context = build_context(DATA, [smooth_network(DATA)], columns=trace_columns(3, 48, 1))
    return replace(context, epoch=epoch, num_epochs=epochs)


def saying(classes: list[int]) -> Tensor:
    return 3 * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_learned_is_the_first_hit() -> None:
    context = context_at(0, 10)
    rows = torch.tensor([4, 9, 20, 30])
    right = DATA.labels[rows]
    answers = {2: [1, 0, 0, 0], 5: [0, 1, 0, 0], 7: [1, 1, 0, 0], 9: [0, 0, 0, 1]}
    for epoch, hits in answers.items():
        said = (right + 1 - torch.tensor(hits)) % 3
        observe(replace(context, epoch=epoch), 0, rows, saying(said.tolist()))
    learned = context.ledger[trace.LEARNED][0]
    torch.testing.assert_close(learned[rows], torch.tensor([0.8, 0.5, 0.0, 0.1]))
    assert float(learned.sum()) == pytest.approx(1.4)
    assert context.ledger[trace.HITS][0, rows, 0].tolist() == [2, 2, 0, 1]
    assert context.ledger[trace.SEEN][0, rows].tolist() == [4 - 0] * 4


def test_the_mean_prediction_leaves_out_the_beginning() -> None:
    context = context_at(0, 8)
    for epoch in range(8):
        observe(replace(context, epoch=epoch), 0, torch.tensor([3]), saying([epoch % 3]))
    assert float(context.ledger[trace.SEEN][0, 3]) == 6
    assert float(context.ledger[trace.HITS][0, 3, 1]) == 8


def test_equal_probabilities_are_no_hit() -> None:
    context = context_at(0, 4)
    observe(context, 0, torch.tensor([1]), torch.zeros(1, 3))
    assert context.ledger[trace.HITS][0, 1].tolist() == [0, 1]
    assert float(context.ledger[trace.LEARNED][0, 1]) == 0
    assert float(context.ledger[trace.MARGIN][0, 1]) == 0


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_row_twice_in_a_batch_keeps_its_hit(order: list[int]) -> None:
    context = context_at(2, 4)
    label = int(DATA.labels[5])
    said = [label, (label + 1) % 3]
    observe(context, 0, torch.tensor([5, 5]), saying([said[turn] for turn in order]))
    assert float(context.ledger[trace.LEARNED][0, 5]) == 0.5
    assert context.ledger[trace.HITS][0, 5].tolist() == [1, 2]
    assert float(context.ledger[trace.MARGIN][0, 5]) == pytest.approx(0, abs=1e-6)
    assert float(context.ledger[trace.SEEN][0, 5]) == 2


def test_without_the_columns_nothing_is_remembered() -> None:
    context = build_context(DATA, [smooth_network(DATA)])
    observe(context, 0, torch.tensor([5]), torch.zeros(1, 3))
    assert trace.SEEN not in context.ledger


# -- the pass that observes for methods that do not ---------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 29, 30, 31, 60, 61, 300])
def test_passes_are_few_and_the_last_epoch_has_one(epochs: int) -> None:
    method = bound(parse_method("mixup"), DATA, epochs=epochs, warmup=0)
    due = []
    for epoch in range(epochs):
        phases = method.phases(epoch)
        made = with_trace(phases, method, epoch)
        assert made[: len(phases)] == phases
        added = made[len(phases) :]
        if any(phase.step.observes for phase in phases):
            assert not added
            continue
        assert added in ([], [Phase("observe", Observe())])
        due += [epoch] * len(added)
    assert len(due) <= trace.MOST_PASSES
    assert due[-1] == epochs - 1
    assert len({later - one for one, later in pairwise(due)}) <= 1
    assert len(due) > min(epochs, trace.MOST_PASSES) / 2


def test_a_method_that_observes_gets_no_pass() -> None:
    for name in ("ce", "dividemix", "coteaching"):
        method = bound(method_for(name), DATA, epochs=4, warmup=2)
        for epoch in range(4):
            assert with_trace(method.phases(epoch), method, epoch) == method.phases(epoch)


def test_the_pass_remembers_what_the_networks_say(recorded: list[Prediction]) -> None:
    networks = [smooth_network(DATA, number).train() for number in (0, 1)]
    context = build_context(DATA, networks, columns=trace_columns(3, 48, 2))
    assert Observe().run(context) == {}
    assert [made.number for made in recorded] == [0, 1]
    for made in recorded:
        assert torch.equal(made.index, torch.arange(48))
        with torch.no_grad():
            expected = networks[made.number].eval()(context.store.plain(made.index))["classes"]
        torch.testing.assert_close(made.logits, expected)


# -- columns ------------------------------------------------------------------------------------


def test_mean_prediction_is_dropped_where_it_would_be_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {column.name for column in trace_columns(10, 1000, 2)}
    assert names == set(NAMES)
    monkeypatch.setattr(trace, "MOST_NUMBERS", 20_000)
    assert trace_columns(10, 1000, 2) == trace_columns(10, 1000, 1)
    names = {column.name for column in trace_columns(10, 1001, 2)}
    assert names == set(NAMES) - {trace.PROBABILITY}


def test_a_whole_run_without_mean_predictions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import labelwise

    monkeypatch.setattr(trace, "MOST_NUMBERS", 0)
    data = tiny_embeddings(240)
    run = labelwise.fit(
        data.inputs.numpy(),
        data.labels.numpy(),
        method="ce",
        epochs=4,
        out=tmp_path / "run",
        plant=0.1,
        threads=1,
    )
    assert run.summary["num_planted"] == 24
    assert run.labels["label_quality"].between(0, 1).all()


# -- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ce", "mixup", "extra-view+ce"])
def test_a_trace_stopped_within_epochs_ends_bit_identical(name: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = trainer_for(name, tmp_path / "whole", epochs=3)
    whole.train()
    stops, folder = 0, tmp_path / "parts"
    folder.mkdir()
    while True:
        trainer = trainer_for(name, folder, epochs=3)
        asked = iter(range(10**6))
        trainer.should_stop = lambda asked=asked: next(asked) == 2  # type: ignore[misc]
        trainer.resume()
        try:
            trainer.train()
        except Interrupted:
            stops += 1
        else:
            break
    assert stops > 2
    assert_same_tensors(trace_of(trainer.ledger), trace_of(whole.ledger))
