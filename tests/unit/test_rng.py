"""Randomness keyed by position: equal positions give equal draws, and no history matters."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.rng import Draw, key

parts = st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=6)), max_size=4)


@given(parts, parts)
@settings(max_examples=200, deadline=None)
def test_key_tells_positions_apart(first: list[int | str], second: list[int | str]) -> None:
    assert (key(*first) == key(*second)) == (
        [(type(p), p) for p in first] == [(type(p), p) for p in second]
    )
    assert 0 <= key(*first) < 2**63


def test_key_is_the_same_on_every_machine() -> None:
    assert key(0, 1, "train", 2, "weak/crop") == key(0, 1, "train", 2, "weak/crop")
    assert key(1, "2") != key("1", 2) != key("12")
    assert key("ab", "c") != key("a", "bc")
    # A checkpoint written elsewhere must continue with the same draws.
    digest = hashlib.blake2b(b"int:0\x1fstr:a", digest_size=8).digest()
    assert key(0, "a") == int.from_bytes(digest, "little") >> 1


BASE = Draw(seed=3, epoch=1, phase="train", step=4)
OTHERS = {
    "seed": Draw(seed=4, epoch=1, phase="train", step=4),
    "epoch": Draw(seed=3, epoch=2, phase="train", step=4),
    "phase": Draw(seed=3, epoch=1, phase="score", step=4),
    "step": Draw(seed=3, epoch=1, phase="train", step=5),
    "prefix": BASE.within("view"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_every_coordinate_of_the_position_counts(what: str) -> None:
    assert not torch.equal(BASE.uniform("x", 50), OTHERS[what].uniform("x", 50))
    assert BASE.beta("x", 4, 4) != OTHERS[what].beta("x", 4, 4)


def test_purposes_differ_and_repeat() -> None:
    assert torch.equal(BASE.uniform("a", 20), BASE.uniform("a", 20))
    assert not torch.equal(BASE.uniform("a", 20), BASE.uniform("b", 20))
    assert BASE.within("a").within("b").seed_for("c") == BASE.seed_for("a/b/c")


def test_history_and_global_generators_do_not_matter() -> None:
    first = BASE.normal("x", 10, 3)
    torch.manual_seed(99)
    torch.rand(1000)
    BASE.normal("y", 500)
    assert torch.equal(BASE.normal("x", 10, 3), first)
    before = torch.get_rng_state()
    BASE.integers("z", 10, low=0, high=5)
    BASE.permutation("z", 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("draw_rows", ["uniform", "normal", "integers"])
def test_ranks_share_the_draws_of_one_process(world: int, draw_rows: str) -> None:
    options = {"low": 0, "high": 9} if draw_rows == "integers" else {}
    alone = getattr(BASE, draw_rows)("x", 4 * world, 2, **options)
    ranks = [Draw(3, 1, "train", 4, rank, world) for rank in range(world)]
    parts = [getattr(rank, draw_rows)("x", 4, 2, **options) for rank in ranks]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), alone)
    for rank, part in zip(ranks, parts, strict=True):
        assert torch.equal(rank.own_rows(alone), part)
        assert torch.equal(rank.permutation("p", 7), BASE.permutation("p", 7))
        assert rank.beta("b", 4, 4) == BASE.beta("b", 4, 4)


def test_ranges() -> None:
    uniform = BASE.uniform("u", 4000, low=-2.0, high=3.0)
    assert -2 <= float(uniform.min()) < -1.9
    assert 2.9 < float(uniform.max()) <= 3
    whole = BASE.integers("i", 4000, low=2, high=5)
    assert sorted(whole.unique().tolist()) == [2, 3, 4]
    normal = BASE.normal("n", 20_000)
    assert abs(float(normal.mean())) < 0.03
    assert abs(float(normal.std()) - 1) < 0.03
    assert sorted(BASE.permutation("p", 100).tolist()) == list(range(100))
    beta = np.array([BASE.at(step=step).beta("b", 4, 4) for step in range(2000)])
    assert abs(beta.mean() - 0.5) < 0.02
    assert abs(beta.var() - 4 * 4 / (8 * 8 * 9)) < 0.004  # variance of Beta(4, 4)


def test_at_moves_the_position() -> None:
    moved = BASE.at(epoch=7, phase="divide-0", step=2)
    assert (moved.epoch, moved.phase, moved.step, moved.seed) == (7, "divide-0", 2, 3)
    assert BASE.at().step == 0


def test_forked_seeds_and_restores_every_global_generator() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    inside = []
    for _ in range(2):
        with BASE.forked("weights"):
            inside.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert inside[0] == inside[1]
    with pytest.raises(RuntimeError), BASE.forked("weights"):
        raise RuntimeError
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
