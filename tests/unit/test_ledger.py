"""The ledger: columns, their merge over ranks, decisions and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    Column("best", merge="max", initial=-1.0),
)


def ledger(num_peers: int = 2, num_samples: int = 6) -> Ledger:
    return Ledger(COLUMNS, num_peers, num_samples, CPU)


def merged(ledgers: list[Ledger]) -> None:
    """Merge the ledgers of several ranks as lock-step processes would.

    Every rank's reductions are recorded first with zeros from the others, then replayed with the
    sums or maxima: a reduction's input does not depend on the result of an earlier one.
    """
    calls: list[list[Tensor]] = []
    kinds: list[str] = []
    for one in ledgers:
        mine: list[Tensor] = []
        copy = Ledger(COLUMNS, *one["loss"].shape, CPU)
        copy.columns = {name: value.clone() for name, value in one.columns.items()}
        copy._written = {name: value.clone() for name, value in one._written.items()}
        copy._base = {name: value.clone() for name, value in one._base.items()}

        kinds.clear()

        def record(value: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(value)
            kinds.append("sum")
            return value

        def record_max(value: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(value)
            kinds.append("max")
            return value

        copy.merge(len(ledgers), record, record_max)
        calls.append(mine)
    results = [
        torch.stack(values).amax(0) if kind == "max" else torch.stack(values).sum(0)
        for kind, values in zip(kinds, zip(*calls, strict=True), strict=True)
    ]
    for one in ledgers:
        replay = iter(results)

        def give(value: Tensor, replay: Iterator[Tensor] = replay) -> Tensor:
            return next(replay).to(value.dtype)

        one.merge(len(ledgers), give, give)


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
        "best": lambda n, old: torch.maximum(old, torch.randn(n, generator=generator)),
    }


def test_summed_increments_of_one_row_add_up() -> None:
    ranks = [ledger(), ledger()]
    for rank, one in enumerate(ranks):
        one.write("seen", 0, torch.tensor([3]), torch.tensor([1 + rank]))
    merged(ranks)
    assert [one["seen"][0].tolist() for one in ranks] == [[0, 0, 0, 3, 0, 0]] * 2


def test_rows_may_come_twice_in_what_is_added() -> None:
    book = ledger()
    book.add("weight", 1, torch.tensor([3, 3, 0]), torch.tensor([1.0, 0.5, 0.25]))
    book.add("weight", 1, torch.tensor([3]), torch.tensor([1.0], dtype=torch.float64))
    assert book["weight"].tolist() == [[2] * 6, [2.25, 2, 2, 4.5, 2, 2]]


def test_what_several_ranks_add_to_one_row_adds_up() -> None:
    ranks = [ledger(), ledger(), ledger()]
    for _ in range(2):
        for rank, one in enumerate(ranks):
            one.add("weight", 0, torch.tensor([3, 1]), torch.tensor([1.0 + rank, 0.5]))
        merged(ranks)
    for one in ranks:
        assert one["weight"][0].tolist() == [2, 2 + 2 * 1.5, 2, 2 + 2 * 6, 2, 2]


def test_only_columns_that_sum_can_be_added_to() -> None:
    with pytest.raises(AssertionError, match="does not sum"):
        ledger().add("loss", 0, torch.tensor([0]), torch.ones(1))


def test_the_largest_value_of_all_ranks_wins() -> None:
    ranks = [ledger(), ledger()]
    ranks[0].write("best", 0, torch.tensor([0, 1]), torch.tensor([0.5, 0.75]))
    ranks[1].write("best", 0, torch.tensor([1, 2]), torch.tensor([0.25, -5.0]))
    merged(ranks)
    for one in ranks:
        assert one["best"].tolist() == [[0.5, 0.75, -1, -1, -1, -1], [-1] * 6]


def test_a_maximum_needs_its_own_reduction() -> None:
    book = ledger()
    book.write("best", 0, torch.tensor([0]), torch.ones(1))
    with pytest.raises(AssertionError, match="maximum of 'best'"):
        book.merge(2, lambda value: value)


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
