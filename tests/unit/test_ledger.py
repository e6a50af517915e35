"""The ledger: columns, their merge over ranks, decisions and state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from labelwise.data.ledger import Column, Ledger

CPU = torch.device("cpu")
COLUMNS = (
    Column("loss"),
    Column("prediction", torch.int64, initial=-1),
    Column("target", shape=(3,), initial=0.5),
    Column("seen", torch.int64, merge="sum"),
    Column("weight", merge="sum", initial=2.0),
)


def ledger(num_peers: int = 2, num_samples: int = 6) -> Ledger:
    return Ledger(COLUMNS, num_peers, num_samples, CPU)


def merged(ledgers: list[Ledger]) -> None:
    """Merge the ledgers of several ranks as lock-step processes would.

    Every rank's reductions are recorded first with zeros from the others, then replayed with the
    sums: a reduction's input does not depend on the result of an earlier one.
    """
    calls: list[list[Tensor]] = []
    for one in ledgers:
        mine: list[Tensor] = []
        copy = Ledger(COLUMNS, *one["loss"].shape, CPU)
        copy.columns = {name: value.clone() for name, value in one.columns.items()}
        copy._written = {name: value.clone() for name, value in one._written.items()}
        copy._base = {name: value.clone() for name, value in one._base.items()}

        def record(value: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(value)
            return value

        copy.merge(len(ledgers), record)
        calls.append(mine)
    totals = [torch.stack(values).sum(0) for values in zip(*calls, strict=True)]
    for one in ledgers:
        replay = iter(totals)
        one.merge(len(ledgers), lambda value, replay=replay: next(replay).to(value.dtype))


def test_initial_values_and_shapes() -> None:
    book = ledger()
    assert book["loss"].shape == (2, 6)
    assert book["target"].shape == (2, 6, 3)
    assert bool((book["prediction"] == -1).all())
    assert bool((book["target"] == 0.5).all())
    assert "seen" in book
    assert "nothing" not in book


def test_write_and_set() -> None:
    book = ledger()
    book.write("loss", 1, torch.tensor([4, 0]), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert book["loss"].tolist() == [[0] * 6, [2, 0, 0, 0, 1, 0]]
    book.write("target", 0, torch.tensor([2]), torch.tensor([[1.0, 2.0, 3.0]]))
    assert book["target"][0, 2].tolist() == [1, 2, 3]
    book.set("loss", 0, torch.arange(6.0))
    assert book["loss"][0].tolist() == list(range(6))


def test_one_process_merges_nothing() -> None:
    book = ledger()
    book.write("loss", 0, torch.tensor([1]), torch.tensor([3.0]))

    def never(value: Tensor) -> Tensor:
        raise AssertionError("a single process needs no other")

    book.merge(1, never)
    assert book["loss"][0, 1] == 3


@pytest.mark.parametrize("world", [2, 3])
def test_merge_equals_one_process(world: int) -> None:
    generator = torch.Generator().manual_seed(world)
    alone, ranks = ledger(), [ledger() for _ in range(world)]
    for _ in range(3):  # three phases, with a merge after each
        for name, make in writers(generator).items():
            for peer in range(2):
                rows = torch.randperm(6, generator=generator)[:5]
                values = make(len(rows), alone[name][peer, rows])
                alone.write(name, peer, rows, values)
                for rank, one in enumerate(ranks):
                    one.write(name, peer, rows[rank::world], values[rank::world])
        alone.merge(1, lambda value: value)
        merged(ranks)
        for one in ranks:
            for name in alone.columns:
                assert torch.equal(one[name], alone[name]), name
                assert one[name].dtype == alone[name].dtype


def writers(generator: torch.Generator) -> dict[str, Callable[[int, Tensor], Tensor]]:
    return {
        "loss": lambda n, old: torch.randn(n, generator=generator),
        "prediction": lambda n, old: torch.randint(0, 9, (n,), generator=generator),
        "target": lambda n, old: torch.rand(n, 3, generator=generator),
        "seen": lambda n, old: old + 1,
        "weight": lambda n, old: old + 0.25,
    }


def test_summed_increments_of_one_row_add_up() -> None:
    ranks = [ledger(), ledger()]
    for rank, one in enumerate(ranks):
        one.write("seen", 0, torch.tensor([3]), torch.tensor([1 + rank]))
    merged(ranks)
    assert [one["seen"][0].tolist() for one in ranks] == [[0, 0, 0, 3, 0, 0]] * 2


def test_owner_values_are_exact_and_the_rest_stays() -> None:
    value = torch.tensor([0.1], dtype=torch.float32)
    ranks = [ledger(), ledger()]
    ranks[1].write("loss", 1, torch.tensor([5]), value)
    ranks[0].write("loss", 0, torch.tensor([0]), torch.tensor([torch.nan]))
    merged(ranks)
    for one in ranks:
        assert torch.equal(one["loss"][1, 5:], value)
        assert bool(one["loss"][0, 0].isnan())
        assert bool((one["loss"][0, 1:] == 0).all())
        assert bool((one["target"] == 0.5).all())


def test_state_survives_and_is_independent() -> None:
    book = ledger()
    book.write("target", 1, torch.tensor([2]), torch.ones(1, 3))
    book.decisions["threshold"] = 0.6
    state = {
        "columns": {name: value.clone() for name, value in book.state_dict()["columns"].items()},
        "decisions": book.state_dict()["decisions"],
    }
    other = ledger()
    other.load_state_dict(state)
    for name in book.columns:
        assert torch.equal(other[name], book[name])
    assert other.decisions == {"threshold": 0.6}
    other.decisions["threshold"] = 0.1
    assert state["decisions"] == {"threshold": 0.6}


def test_state_of_other_columns_is_refused() -> None:
    state = Ledger(COLUMNS[:2], 2, 6, CPU).state_dict()
    with pytest.raises(AssertionError, match="other columns"):
        ledger().load_state_dict(state)
