"""Nearest neighbours in blocks against the whole table of similarities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.data.neighbours import RUN, entering, nearest_among, nearest_neighbours


def features(num: int = 61, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def brute_force(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The full table, one row at a time."""
    unit = F.normalize(vectors.double(), dim=1)
    table = unit @ unit.T
    table.fill_diagonal_(-torch.inf)
    values, rows = table.sort(dim=1, descending=True, stable=True)
    return rows[:, :count], values[:, :count].float()


@pytest.mark.parametrize("block", [1, 7, 60, 61, 62, 2048])
@pytest.mark.parametrize("count", [1, 4, 60])
def test_equals_the_full_search(block: int, count: int) -> None:
    vectors = features()
    rows, values = nearest_neighbours(vectors, count, block=block)
    expected_rows, expected = brute_force(vectors, count)
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
    assert rows.dtype == torch.int64
    assert values.dtype == torch.float32


@pytest.mark.parametrize("block", [1, 3, 2048])
def test_queries_in_any_order(block: int) -> None:
    vectors = features()
    queries = torch.tensor([60, 0, 17, 17, 5])
    rows, values = nearest_neighbours(vectors, 3, queries=queries, block=block)
    expected_rows, expected = brute_force(vectors, 3)
    assert torch.equal(rows, expected_rows[queries])
    torch.testing.assert_close(values, expected[queries], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_duplicates_find_each_other_and_never_themselves(block: int) -> None:
    vectors = features(20).repeat(2, 1)
    rows, values = nearest_neighbours(vectors, 3, block=block)
    own = torch.arange(40)
    assert torch.equal(rows[:, 0], (own + 20) % 40)
    torch.testing.assert_close(values[:, 0], torch.ones(40))
    assert bool((rows != own[:, None]).all())
    alike = torch.ones(9, 4)
    rows, values = nearest_neighbours(alike, 8, block=block)
    assert bool((rows != torch.arange(9)[:, None]).all())
    assert all(len(set(row)) == 8 for row in rows.tolist())


def test_rows_of_zero_length_are_similar_to_nothing() -> None:
    vectors = features(12)
    vectors[[3, 7]] = 0
    rows, values = nearest_neighbours(vectors, 11, block=5)
    assert bool((values[[3, 7]] == 0).all())
    assert bool(values.isfinite().all())
    positions = (rows == 3) | (rows == 7)
    assert bool((values[positions] == 0).all())


def test_at_most_all_others() -> None:
    rows, values = nearest_neighbours(features(4), 99)
    assert rows.shape == values.shape == (4, 3)
    rows, values = nearest_neighbours(features(1), 3)
    assert rows.shape == values.shape == (1, 0)


@pytest.mark.parametrize("block", [2, 9, 100])
def test_among_some_references(block: int) -> None:
    """Queries that are references leave out themselves; the others nothing."""
    unit = F.normalize(features(30), dim=1)
    references = torch.tensor([0, 4, 5, 11, 20, 29])
    own = torch.arange(30)
    places, values = nearest_among(unit, own, unit[references], references, 4, block)
    table = unit @ unit[references].T
    table[own[:, None] == references] = -torch.inf
    expected, order = table.sort(dim=1, descending=True)
    assert torch.equal(places, order[:, :4])
    torch.testing.assert_close(values, expected[:, :4])


def test_precision_is_that_of_the_features_under_autocast() -> None:
    """Neighbours in a learnt class differ in the third digit and later: bfloat16 cannot rank."""
    vectors = torch.ones(40, 16) + 0.01 * features(40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rows, values = nearest_neighbours(vectors, 5, block=16)
    expected_rows, expected = brute_force(vectors, 5)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    assert float((rows[:, 0] == expected_rows[:, 0]).float().mean()) > 0.9


def test_no_tensor_is_as_large_as_all_pairs() -> None:
    """Every allocation is bounded by block x block, or rows x neighbours."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(v.numel() for v in tree_leaves(result) if isinstance(v, Tensor))
            return result

    vectors = features(1000, 4)
    with Watch():
        nearest_neighbours(vectors, 3, block=50)
    assert sizes
    assert max(sizes) <= 1000 * 4


@pytest.mark.parametrize("order", ["mixed", "clustered", "rising"])
def test_late_blocks_that_hold_little_are_searched_as_exactly(order: str) -> None:
    """Most of a late block is passed over by the maxima of its runs; nothing may be lost."""
    size, count = 8192, 2
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(size, 6, generator=draw)
    if order != "mixed":
        which = torch.randint(8, (size,), generator=draw)
        vectors = 0.3 * vectors + 2 * features(8, 6)[which.sort().values]
    if order == "rising":  # every block beats those before it
        near = F.normalize(vectors, dim=1) @ F.normalize(vectors[:1], dim=1).T
        vectors = vectors[near.flatten().argsort()]
    queries = torch.arange(size - 1, 0, -137)
    rows, values = nearest_neighbours(vectors, count, queries=queries, block=1024)
    unit = F.normalize(vectors.double(), dim=1)
    table = unit[queries] @ unit.T
    table[torch.arange(len(queries)), queries] = -torch.inf
    expected, expected_rows = table.topk(count, dim=1)
    torch.testing.assert_close(values, expected.float(), rtol=1e-5, atol=1e-6)
    assert float((rows == expected_rows).float().mean()) > 0.98  # but for ties of float32


def test_only_lines_that_change_are_ranked() -> None:
    part = torch.zeros(3, 4 * 8 * RUN)
    part[1, 5 * RUN + 3], part[1, 5], part[2, 9 * RUN] = 0.9, 0.6, 0.7
    lines, values, columns = entering(part, torch.tensor([0.5, 0.5, 0.8]), 3)
    assert lines.tolist() == [1]
    assert values.tolist() == [pytest.approx([0.9, 0.6, 0.0])]
    assert columns[0, :2].tolist() == [5 * RUN + 3, 5]


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    nearest_neighbours(features(10), 2, block=4, progress=lambda *done: told.append(done))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_table_is_needed() -> None:
    with pytest.raises(AssertionError, match="shape"):
        nearest_neighbours(torch.zeros(3, 4, 5), 2)
