"""Anchor hallucination against slow loops written from its description (METHODS 2.3).

Easy set, pairs, search, votes, losses and the whole correction are done again one sample at a
time, in Python numbers or float64; the slow side takes the same random numbers and nothing else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labelwise.data.dataset import Dataset
from labelwise.losses.hallucination import anchor_dissimilarity
from labelwise.methods.hallucination import Hallucination, SortedMixMatch
from labelwise.models.hallucinator import Hallucinator
from labelwise.rng import Draw
from labelwise.selection.easy import easy_set
from labelwise.selection.votes import count_votes
from labelwise.training.anchors import (
    Pairs,
    anchors_of,
    copied,
    draw_pairs,
    mixed,
    nearest_hard,
)
from labelwise.training.context import Context
from labelwise.training.correcting import Correct, SortOut, TrainHallucinator, name_of
from labelwise.training.corrections import (
    CLOSENESS,
    CORRECTED,
    EASY,
    FAR,
    HARD,
    NEAR,
    SIMILARITY,
    STATE,
    TARGET,
    TRUST,
)
from labelwise.training.features import BANK, FeatureBank, bank_of
from labelwise.training.groups import Group
from support import bound, build_context, smooth_network, tiny_images

MANY = settings(max_examples=300, deadline=None)
DATA = tiny_images(num=60, num_classes=4, wrong=0.3)
NAN = math.nan


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the easy set -----------------------------------------------------------------------------


@dataclass
class Samples:
    """Clean probability, loss and given label of some samples."""

    clean: list[float]
    losses: list[float]
    labels: list[int]
    num_classes: int


@st.composite
def samples(draw: st.DrawFn) -> Samples:
    """Few distinct values, so that there are ties, NaN and classes of size 0, 1 and 2."""
    num_classes = draw(st.integers(1, 6))
    num = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["any", "all", "none"]))
    values = {"any": [0.0, 0.3, 0.5, 0.7, 1.0, NAN], "all": [0.9, 1.0], "none": [0.0, 0.5]}[kind]
    used = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=num_classes))
    take = lambda of: draw(st.lists(st.sampled_from(of), min_size=num, max_size=num))  # noqa: E731
    return Samples(take(values), take([0.0, 0.5, 1.0, 2.0, NAN]), take(used), num_classes)


def linear_quantile(values: Sequence[int], quantile: Fraction) -> Fraction:
    """Between the two neighbouring order statistics."""
    ordered = sorted(values)
    place = quantile * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def slow_easy(
    given: Samples, threshold: float, quantile: str, least: str
) -> tuple[set[int], list[int], list[bool], int]:
    """Rows that are easy, how many of each class, which classes starve, and n_e."""
    rows = {k: [i for i, y in enumerate(given.labels) if y == k] for k in range(given.num_classes)}
    trusted = {i for i, w in enumerate(given.clean) if w > threshold}  # NaN is not
    counts = {k: sum(i in trusted for i in rows[k]) for k in rows}
    occurring = [counts[k] for k in rows if rows[k]]
    quota = max(1, round(linear_quantile(occurring, Fraction(quantile))))
    mean_share = Fraction(len(trusted), len(given.labels))
    easy: set[int] = set()
    sizes, starving = [], []
    for k in rows:
        floor = math.ceil(Fraction(least) * mean_share * len(rows[k]))
        floor = min(max(1, floor), len(rows[k]))
        wanted = max(min(counts[k], quota), floor)
        loss = {i: math.inf if math.isnan(given.losses[i]) else given.losses[i] for i in rows[k]}
        easy |= set(sorted(rows[k], key=lambda i: (i not in trusted, loss[i], i))[:wanted])
        sizes.append(wanted)
        starving.append(counts[k] < floor)
    return easy, sizes, starving, quota


@MANY
@given(
    samples(),
    st.sampled_from([0.3, 0.5, 0.6]),
    st.sampled_from(["0", "0.25", "0.5", "0.75", "1"]),
    st.sampled_from(["0", "0.3", "0.5", "0.7", "1"]),
)
def test_easy_set(case: Samples, threshold: float, quantile: str, least: str) -> None:
    found = easy_set(
        torch.tensor(case.clean, dtype=torch.float64),
        torch.tensor(case.losses, dtype=torch.float64),
        torch.tensor(case.labels),
        case.num_classes,
        threshold,
        float(quantile),
        float(least),
    )
    easy, sizes, starving, quota = slow_easy(case, threshold, quantile, least)
    assert set(found.easy.nonzero().flatten().tolist()) == easy
    assert found.sizes.tolist() == sizes
    assert found.starving.tolist() == starving
    assert found.quota == quota
    assert {case.labels[row] for row in easy} == set(case.labels), "a class has no easy sample"


def test_easy_set_is_that_of_the_paper_where_no_class_starves() -> None:
    """Per class the min(c_k, n_e) lowest losses, n_e the median of the counts."""
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    losses = torch.rand(30, generator=generator(0))
    clean = torch.zeros(30)
    for k, count in enumerate((9, 6, 4)):
        rows = (labels == k).nonzero().flatten()
        clean[rows[losses[rows].argsort()[:count]]] = 0.9
    found = easy_set(clean, losses, labels, 3, least=0.5)
    assert (found.quota, found.sizes.tolist()) == (6, [6, 6, 4])
    assert not bool(found.starving.any())
    for k, count in enumerate((6, 6, 4)):
        rows = (labels == k).nonzero().flatten()
        lowest = sorted(rows.tolist(), key=lambda i: float(losses[i]))[:count]
        assert set(rows[found.easy[rows]].tolist()) == set(lowest)


def test_class_that_nothing_is_trusted_of_gives_half_the_mean_share() -> None:
    """20 + 20 samples, all of one class trusted: 0.5 · 0.5 · 20 of the other."""
    labels = torch.tensor([0] * 20 + [1] * 20)
    clean = (labels == 0).float()
    losses = torch.arange(40).flip(0).float()
    found = easy_set(clean, losses, labels, 2, quantile=0.5, least=0.5)
    assert found.sizes.tolist() == [10, 5]
    assert found.starving.tolist() == [False, True]
    assert found.easy.nonzero().flatten().tolist() == [*range(10, 20), *range(35, 40)]


def test_rare_class_is_not_asked_for_what_it_does_not_have() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2 + [2])
    found = easy_set(torch.ones(53), torch.rand(53, generator=generator(1)), labels, 4)
    assert found.quota == 2
    assert found.sizes.tolist() == [25, 2, 1, 0]
    assert not bool(found.starving.any())


# -- pairs ------------------------------------------------------------------------------------


def pair_case() -> tuple[Tensor, Tensor]:
    """Labels, and easy rows in no order: classes of 1, 3, 0, 6 and 2 easy samples."""
    labels = torch.tensor([3, 1, 0, 3, 3, 4, 1, 3, 2, 4, 1, 3, 3, 2, 0])
    easy = torch.tensor([11, 0, 3, 1, 14, 5, 4, 6, 7, 9, 10, 12])
    return labels, easy


def test_partners_are_all_easy_samples_of_other_classes_equally_likely() -> None:
    labels, easy = pair_case()
    near = easy.repeat(20_000)
    pairs = draw_pairs(Draw(3), near, easy, labels)
    assert torch.equal(pairs.near, near)
    assert bool((labels[pairs.far] != labels[near]).all())
    for row in easy.tolist():
        others = [other for other in easy.tolist() if labels[other] != labels[row]]
        drawn = pairs.far[near == row].tolist()
        counts = [drawn.count(other) for other in others]
        assert sum(counts) == len(drawn) == 20_000, "a partner is no easy sample"
        assert chisquare(counts).pvalue > 1e-4


def test_pairs_of_two_classes_of_one_sample() -> None:
    labels, easy = torch.tensor([0, 1, 1]), torch.tensor([0, 2])
    pairs = draw_pairs(Draw(0), easy.repeat(50), easy, labels)
    assert pairs.far.tolist() == [2, 0] * 50


def test_partners_of_many_random_easy_sets() -> None:
    for seed in range(40):
        chance = generator(seed)
        labels = torch.randint(0, 5, (30,), generator=chance)
        easy = torch.randperm(30, generator=chance)[: 2 + seed % 20]
        if len(labels[easy].unique()) < 2:
            continue
        near = easy[torch.randint(0, len(easy), (200,), generator=chance)]
        far = draw_pairs(Draw(seed), near, easy, labels).far
        assert bool((labels[far] != labels[near]).all())
        assert set(far.tolist()) <= set(easy.tolist())


def test_closeness_is_uniform_over_a_half_to_one_or_fixed() -> None:
    labels, easy = pair_case()
    drawn = draw_pairs(Draw(1), easy.repeat(2000), easy, labels).closeness
    assert 0.5 <= float(drawn.min()) < 0.501
    assert 0.999 < float(drawn.max()) <= 1.0
    assert kstest((2 * drawn - 1).numpy(), "uniform").pvalue > 1e-4
    for fixed in (0.0, 0.5, 0.8, 1.0):
        given_ = draw_pairs(Draw(1), easy, easy, labels, fixed).closeness
        assert torch.equal(given_, torch.full((len(easy),), fixed))


def test_partners_are_fresh_in_every_epoch_and_alike_on_every_rank() -> None:
    labels, easy = pair_case()
    near = easy.repeat(10)
    first, again, later = (
        draw_pairs(draw, near, easy, labels)
        for draw in (
            Draw(0, epoch=1, phase="correct"),
            Draw(0, epoch=1, phase="correct", rank=1, world=2),
            Draw(0, epoch=2, phase="correct"),
        )
    )
    assert torch.equal(first.far, again.far)
    assert torch.equal(first.closeness, again.closeness)
    assert not torch.equal(first.far, later.far)
    assert not torch.equal(first.closeness, later.closeness)


# -- the hallucinator and its loss ------------------------------------------------------------


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


def slow_dissimilarity(s: list[float], a: list[float], b: list[float], closeness: float) -> float:
    """L_sim = 1 - [λ_p cos(s, s_a) + (1 - λ_p) cos(s, s_b)]."""
    return 1 - (closeness * cosine(s, a) + (1 - closeness) * cosine(s, b))


def slow_anchor(module: Hallucinator, a: Tensor, b: Tensor, closeness: float) -> list[float]:
    """The perceptron, unit by unit, on both features weighed by λ_p, in units of their size."""
    first, _, second = module.layers
    scale = float(module.scale)
    weighed = [closeness * float(v) for v in a], [(1 - closeness) * float(v) for v in b]
    joined = [2 * v / scale for v in (*weighed[0], *weighed[1])] + [(closeness - 0.75) / 0.25]
    hidden = [
        max(0.0, sum(w * x for w, x in zip(line, joined, strict=True)) + bias)
        for line, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
    ]
    learnt = [
        scale * (sum(w * x for w, x in zip(line, hidden, strict=True)) + bias)
        for line, bias in zip(second.weight.tolist(), second.bias.tolist(), strict=True)
    ]
    if not module.skip:
        return learnt
    return [x + y + z for x, y, z in zip(learnt, *weighed, strict=True)]


def made(num_features: int, width: int, seed: int = 0) -> Hallucinator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Hallucinator(num_features, width)


def test_dissimilarity() -> None:
    s, a, b = (torch.randn(40, 7, generator=generator(n)) for n in range(3))
    closeness = torch.rand(40, generator=generator(3))
    closeness[:2] = torch.tensor([0.0, 1.0])
    ours = anchor_dissimilarity(s, a, b, closeness)
    for row in range(40):
        wanted = slow_dissimilarity(
            s[row].tolist(), a[row].tolist(), b[row].tolist(), float(closeness[row])
        )
        assert float(ours[row]) == pytest.approx(wanted, abs=1e-5)


def test_dissimilarity_is_least_in_the_plane_of_both() -> None:
    """The best direction is λ_p u_a + (1 - λ_p) u_b, and for λ_p = 1 any copy of s_a has none."""
    a, b = (torch.randn(1, 5, generator=generator(n)) for n in (4, 5))
    unit = [v / v.norm() for v in (a, b)]
    for closeness in (0.5, 0.7, 1.0):
        told = torch.tensor([closeness])
        best = closeness * unit[0] + (1 - closeness) * unit[1]
        least = float(anchor_dissimilarity(best, a, b, told))
        assert least == pytest.approx(1 - float(best.norm()), abs=1e-6)
        others = torch.randn(500, 5, generator=generator(6))
        found = anchor_dissimilarity(others, a.expand(500, 5), b.expand(500, 5), told.expand(500))
        assert float(found.min()) > least - 1e-6
    assert float(anchor_dissimilarity(3 * a, a, b, torch.ones(1))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_hallucinator(scale: float) -> None:
    module = made(6, 9)
    near, far = (scale * torch.randn(8, 6, generator=generator(n)) for n in (0, 1))
    closeness = torch.linspace(0.5, 1, 8)
    size = math.sqrt(sum(float(v) ** 2 for v in near.flatten()) / near.numel())
    module.measure(near)
    assert float(module.scale) == pytest.approx(size, rel=1e-5)
    with torch.no_grad():
        ours = module(near, far, closeness)
    for row in range(8):
        wanted = slow_anchor(module, near[row], far[row], float(closeness[row]))
        assert ours[row].tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-5 * scale)


def test_hallucinator_does_not_care_for_the_size_of_features() -> None:
    module = made(6, 9)
    near, far = (torch.randn(8, 6, generator=generator(n)) for n in (0, 1))
    closeness = torch.linspace(0.5, 1, 8)
    module.measure(near)
    with torch.no_grad():
        once = module(near, far, closeness)
        module.measure(1000 * near)
        large = module(1000 * near, 1000 * far, closeness)
    assert torch.allclose(1000 * once, large, rtol=1e-4, atol=1e-2)


def test_hallucinator_of_features_that_are_all_zero_gives_finite_anchors() -> None:
    module = made(4, 4)
    module.measure(torch.zeros(5, 4))
    anchor = module(torch.zeros(2, 4), torch.zeros(2, 4), torch.full((2,), 0.7))
    assert bool(anchor.isfinite().all())
    loss = anchor_dissimilarity(anchor, torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2))
    loss.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


# -- the search -------------------------------------------------------------------------------


def slow_nearest(anchor: Sequence[float], features: Tensor, hard: list[int]) -> dict[int, float]:
    """Cosine to every hard sample."""
    return {row: cosine(anchor, features[row].tolist()) for row in hard}


def search_case(seed: int, num_anchors: int) -> tuple[Tensor, Tensor, Pairs]:
    """Features (40, 5), hard rows, and pairs of the others."""
    chance = generator(seed)
    features = torch.randn(40, 5, generator=chance)
    order = torch.randperm(40, generator=chance)
    hard, easy = order[:23].sort().values, order[23:]
    near, far = (
        easy[torch.randint(0, len(easy), (num_anchors,), generator=chance)] for _ in range(2)
    )
    return features, hard, Pairs(near, far, torch.rand(num_anchors, generator=chance))


@pytest.mark.parametrize("block", [1, 3, 7, 50, 4096])
@pytest.mark.parametrize("kind", ["hallucinated", "mixed", "copied"])
def test_nearest_hard_sample_of_every_anchor(block: int, kind: str) -> None:
    module = made(5, 8)
    make: Any = {"hallucinated": module, "mixed": mixed, "copied": copied}[kind]
    features, hard, pairs = search_case(block, 50)
    if kind == "copied":
        pairs = replace(pairs, far=torch.full_like(pairs.far, -1))
    rows, similarity = nearest_hard(pairs, features, hard, make, block)
    assert rows.shape == similarity.shape == (50,)
    assert not similarity.requires_grad
    for line in range(50):
        a, b = features[pairs.near[line]], features[pairs.far[line]]
        weight = float(pairs.closeness[line])
        anchor = {
            "hallucinated": lambda a=a, b=b, w=weight: slow_anchor(module, a, b, w),
            "mixed": lambda a=a, b=b, w=weight: [
                w * float(p) + (1 - w) * float(q) for p, q in zip(a, b, strict=True)
            ],
            "copied": lambda a=a: a.tolist(),
        }[kind]()
        cosines = slow_nearest(anchor, features, hard.tolist())
        found = int(rows[line])
        assert found in cosines, "not a hard sample"
        assert cosines[found] == pytest.approx(max(cosines.values()), abs=1e-5)
        assert float(similarity[line]) == pytest.approx(max(cosines.values()), abs=1e-5)


def test_search_with_more_hard_samples_than_a_block() -> None:
    """The blocked search goes over several blocks of hard samples too."""
    features = torch.randn(5000, 8, generator=generator(0))
    hard = torch.arange(200, 5000)
    near, far = torch.arange(200), torch.arange(200).flip(0)
    pairs = Pairs(near, far, torch.full((200,), 0.8))
    rows, similarity = nearest_hard(pairs, features, hard, mixed, 64)
    unit = nn.functional.normalize(features.double(), dim=1)
    anchors = nn.functional.normalize((0.8 * features[near] + 0.2 * features[far]).double(), dim=1)
    cosines = anchors @ unit[hard].T
    assert torch.equal(rows, hard[cosines.argmax(1)])
    assert torch.allclose(similarity.double(), cosines.max(1).values, atol=1e-5)


def test_one_hard_sample_is_the_nearest_of_all() -> None:
    features, _, pairs = search_case(0, 20)
    rows, _ = nearest_hard(pairs, features, torch.tensor([39]), mixed)
    assert rows.tolist() == [39] * 20


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def largest_tensor(num_anchors: int, num_hard: int, block: int) -> int:
    features = torch.randn(num_hard + 50, 4, generator=generator(0))
    chance = generator(1)
    near, far = (
        num_hard + torch.randint(0, 50, (num_anchors,), generator=chance) for _ in range(2)
    )
    pairs = Pairs(near, far, torch.rand(num_anchors, generator=chance))
    with Largest() as seen:
        nearest_hard(pairs, features, torch.arange(num_hard), made(4, 8), block)
    return seen.elements


def test_memory_of_the_search_is_that_of_a_block() -> None:
    """Never a tensor of anchors times hard samples: with more of either only their own grow."""
    usual = largest_tensor(2000, 3000, 64)
    assert usual < 2000 * 3000 / 40
    assert largest_tensor(16_000, 3000, 64) == usual, "it grows with the anchors"
    assert largest_tensor(2000, 24_000, 64) <= max(usual, 24_000 * 4), "it grows with A·H"
    assert largest_tensor(2000, 3000, 128) <= 2 * usual


# -- votes ------------------------------------------------------------------------------------


@st.composite
def anchors_with_labels(draw: st.DrawFn) -> tuple[list[int], list[float], list[int], int]:
    """Anchors of up to 6 samples; few similarities and labels, so that most is tied."""
    num = draw(st.integers(1, 6))
    size = draw(st.integers(0, 40))
    nearest = draw(st.lists(st.integers(0, num - 1), min_size=size, max_size=size))
    similarity = draw(
        st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size)
    )
    labels = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return nearest, similarity, labels, num


def slow_votes(
    nearest: list[int],
    similarity: list[float],
    labels: list[int],
    num: int,
    most: int,
    sources: list[int] | None = None,
) -> tuple[list[int], list[float], list[list[int]]]:
    """Label, share of the votes and voters of every sample; a source has one vote on each."""
    names, shares, asked = [], [], []
    for sample in range(num):
        voters = [anchor for anchor, row in enumerate(nearest) if row == sample]
        voters = sorted(voters, key=lambda anchor: (-similarity[anchor], anchor))
        if sources is not None:
            seen = [sources[anchor] for anchor in voters]
            voters = [v for n, v in enumerate(voters) if sources[v] not in seen[:n]]
        voters = voters[:most]
        asked.append(voters + [-1] * (most - len(voters)))
        votes = [labels[anchor] for anchor in voters]
        name = max(votes, key=lambda v: (votes.count(v), -votes.index(v)), default=-1)
        names.append(name)
        shares.append(votes.count(name) / len(votes) if votes else 0.0)
    return names, shares, asked


@MANY
@given(anchors_with_labels(), st.sampled_from([1, 2, 3, 5, 50]))
def test_votes(case: tuple[list[int], list[float], list[int], int], most: int) -> None:
    nearest, similarity, labels, num = case
    found = count_votes(
        torch.tensor(nearest, dtype=torch.int64),
        torch.tensor(similarity, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        num,
        most,
    )
    names, shares, voters = slow_votes(*case, most)
    assert found.label.tolist() == names
    assert found.share.tolist() == pytest.approx(shares)
    assert found.voters.tolist() == voters


@MANY
@given(anchors_with_labels(), st.sampled_from([1, 2, 5]), st.data())
def test_votes_of_distinct_sources(
    case: tuple[list[int], list[float], list[int], int], most: int, data: st.DataObject
) -> None:
    nearest, similarity, labels, num = case
    sources = data.draw(
        st.lists(st.integers(0, num - 1), min_size=len(nearest), max_size=len(nearest))
    )
    found = count_votes(
        torch.tensor(nearest, dtype=torch.int64),
        torch.tensor(similarity, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        num,
        most,
        torch.tensor(sources, dtype=torch.int64),
    )
    names, shares, voters = slow_votes(*case, most, sources)
    assert found.label.tolist() == names
    assert found.share.tolist() == pytest.approx(shares)
    assert found.voters.tolist() == voters


def test_votes_by_hand() -> None:
    """Sample 0: 2, 1, 1 -> 1. Sample 1: a tie, 3 is the most similar. Sample 2: nobody."""
    nearest = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    similarity = torch.tensor([0.9, 0.4, 0.2, 0.8, 0.3, 0.5, 0.1])
    labels = torch.tensor([2, 0, 1, 3, 1, 0, 3])
    found = count_votes(nearest, similarity, labels, 3, 5)
    assert found.label.tolist() == [1, 3, -1]
    assert found.share.tolist() == pytest.approx([2 / 3, 0.5, 0.0])
    assert found.voters.tolist() == [[0, 4, 2, -1, -1], [3, 5, 1, 6, -1], [-1] * 5]
    # Of sample 1 only the three most similar are asked: 3, 0, 0.
    three = count_votes(nearest, similarity, labels, 3, 3)
    assert three.label.tolist() == [1, 0, -1]
    assert three.share.tolist() == pytest.approx([2 / 3, 2 / 3, 0.0])
    one = count_votes(nearest, similarity, labels, 3, 1)
    assert one.label.tolist() == [2, 3, -1]
    assert one.share.tolist() == [1.0, 1.0, 0.0]


# -- training the hallucinator ----------------------------------------------------------------

WIDTH = 6  # of the features of `smooth_network`


def context_for(num_networks: int = 1, data: Dataset = DATA, **options: Any) -> Context:
    """A context with the method's columns and modules, and random features of every network."""
    method = bound(Hallucination(num_networks=num_networks, **options), data, epochs=3, warmup=1)
    networks: list[nn.Module] = [smooth_network(data, n) for n in range(num_networks)]
    context = build_context(data, networks, columns=method.columns())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        extras = nn.ModuleDict(method.extras(networks[0]))  # type: ignore[arg-type]
    context = replace(context, extras=extras)
    context.ledger.decisions["threshold"] = 0.5
    for number in range(num_networks):
        chance = generator(number)
        context.ledger.set("loss", number, torch.rand(len(data), generator=chance))
        context.ledger.set("clean", number, torch.rand(len(data), generator=chance))
        features = torch.randn(len(data), WIDTH, generator=chance)
        truth = torch.arange(len(data)) % data.num_classes
        features += 2 * torch.randn(data.num_classes, WIDTH, generator=chance)[truth]
        bank_of(context).keep(context, number, features)
    return context


def hallucinator(context: Context, number: int = 0) -> Hallucinator:
    module = context.extras[name_of(number)]
    assert isinstance(module, Hallucinator)
    return module


def objective(module: Hallucinator, head: nn.Module, case: tuple[Tensor, ...]) -> list[float]:
    """Mean CE of the classifier on the anchors with the label of s_a, and mean L_sim; slowly."""
    named, placed = 0.0, 0.0
    near, far, labels, closeness = case
    for a, b, label, weight in zip(near, far, labels, closeness, strict=True):
        anchor = slow_anchor(module, a, b, float(weight))
        logits = [
            sum(w * x for w, x in zip(line, anchor, strict=True)) + bias
            for line, bias in zip(head.weight.tolist(), head.bias.tolist(), strict=True)  # type: ignore[operator, union-attr]
        ]
        top = max(logits)
        named += top + math.log(sum(math.exp(v - top) for v in logits)) - logits[int(label)]
        placed += slow_dissimilarity(anchor, a.tolist(), b.tolist(), float(weight))
    return [named / len(near), placed / len(near)]


def drawn_for_training(context: Context, count: int, closeness: float | None) -> Pairs:
    """The pairs of all steps: s_a uniform among the easy samples, with repetition."""
    easy = (context.ledger[STATE][0] == EASY).nonzero().flatten()
    draw = context.draw.within("0")
    lot = draw.shared_integers("near", count, len(easy))
    return draw_pairs(draw, easy[lot], easy, context.store.labels, closeness)


@pytest.mark.parametrize("closeness", [None, 0.6])
def test_first_step_reports_the_loss_of_the_start(closeness: float | None) -> None:
    context = context_for()
    SortOut().run(context)
    features, labels = bank_of(context).of(context, 0), context.store.labels
    pairs = drawn_for_training(context, 24, closeness)
    start = copy.deepcopy(hallucinator(context))
    start.measure(features[context.ledger[STATE][0] == EASY])
    wanted = objective(
        start,
        context.plain[0].get_submodule("heads.classes"),
        (features[pairs.near], features[pairs.far], labels[pairs.near], pairs.closeness),
    )
    figures = TrainHallucinator(steps=1, batch=24, closeness=closeness).run(context)
    assert figures["anchor_cross_entropy"] == pytest.approx(wanted[0], rel=1e-4)
    assert figures["anchor_dissimilarity"] == pytest.approx(wanted[1], rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_training_equals_adam_on_the_written_out_loss(weight: float) -> None:
    """Three steps in float64, Adam by its equations, pairs one at a time."""
    context = context_for()
    SortOut().run(context)
    features, labels = bank_of(context).of(context, 0).double(), context.store.labels
    pairs = drawn_for_training(context, 30, None)
    module = copy.deepcopy(hallucinator(context)).double()
    module.measure(features[context.ledger[STATE][0] == EASY])
    head = copy.deepcopy(context.plain[0].get_submodule("heads.classes")).double()
    parameters = list(module.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(3):
        loss = torch.zeros((), dtype=torch.float64)
        for line in range(10 * step, 10 * step + 10):
            a, b = features[pairs.near[line]], features[pairs.far[line]]
            told = pairs.closeness[line].double()
            s = module(a[None], b[None], told[None])[0]
            loss = loss - head(s).log_softmax(0)[labels[pairs.near[line]]] / 10
            to_near, to_far = ((s @ v) / (s.norm() * v.norm()) for v in (a, b))
            loss = loss + weight * (1 - told * to_near - (1 - told) * to_far) / 10
        gradients = torch.autograd.grad(loss, parameters)
        for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            root = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            p.data -= 0.01 * m / (1 - 0.9 ** (step + 1)) / root
    TrainHallucinator(steps=3, batch=10, lr=0.01, weight=weight).run(context)
    for ours, theirs in zip(hallucinator(context).parameters(), parameters, strict=True):
        assert torch.allclose(ours.double(), theirs, atol=1e-4)
        # A gradient that is zero but for rounding takes a step of either sign: few weights do.
        assert float((ours.detach().double() - theirs.detach()).abs().mean()) < 1e-6


def test_training_moves_the_hallucinator_alone_and_lowers_its_loss() -> None:
    context = context_for()
    SortOut().run(context)
    before = {n: v.clone() for n, v in context.plain[0].state_dict().items()}
    features, labels = bank_of(context).of(context, 0), context.store.labels
    kept = features.clone()
    easy = (context.ledger[STATE][0] == EASY).nonzero().flatten()
    pairs = draw_pairs(Draw(9), easy.repeat(8), easy, labels)
    case = (features[pairs.near], features[pairs.far], labels[pairs.near], pairs.closeness)
    head = context.plain[0].get_submodule("heads.classes")
    hallucinator(context).measure(features[easy])
    start = objective(hallucinator(context), head, case)
    TrainHallucinator(steps=150, batch=64, lr=3e-3, weight=1.0).run(context)
    end = objective(hallucinator(context), head, case)
    assert sum(end) < 0.7 * sum(start)
    assert end[0] < start[0]
    # It starts between both samples, where L_sim is near its least.
    TrainHallucinator(steps=150, batch=64, lr=3e-3, weight=20.0).run(context)
    held = objective(hallucinator(context), head, case)
    assert held[1] < min(end[1], 1.2 * start[1])
    assert held[0] < start[0]
    after = context.plain[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in context.plain[0].parameters())
    assert torch.equal(features, kept)


def cosines_after_training(fixed: float | None, asked: Sequence[float]) -> list[list[float]]:
    """Mean cosines of anchors to s_a and s_b, at each λ_p asked for."""
    context = context_for()
    SortOut().run(context)
    features, labels = bank_of(context).of(context, 0), context.store.labels
    easy = (context.ledger[STATE][0] == EASY).nonzero().flatten()
    teach = TrainHallucinator(steps=400, batch=64, lr=3e-3, weight=10.0, closeness=fixed)
    teach.run(context)
    found = []
    for closeness in asked:
        pairs = draw_pairs(Draw(5), easy.repeat(20), easy, labels, closeness)
        anchors = anchors_of(pairs, features, hallucinator(context))
        found.append(
            [
                float(nn.functional.cosine_similarity(anchors, features[rows]).mean())
                for rows in (pairs.near, pairs.far)
            ]
        )
    return found


@pytest.mark.parametrize("closeness", [0.5, 0.75, 1.0])
def test_anchors_lie_where_a_fixed_closeness_puts_them(closeness: float) -> None:
    """On features at right angles L_sim is least at the direction λ_p u_a + (1 - λ_p) u_b."""
    ((near, far),) = cosines_after_training(closeness, [closeness])
    length = math.hypot(closeness, 1 - closeness)
    assert near == pytest.approx(closeness / length, abs=0.06)
    assert far == pytest.approx((1 - closeness) / length, abs=0.09)


def test_anchors_told_a_larger_closeness_lie_nearer() -> None:
    gaps = [near - far for near, far in cosines_after_training(None, [0.5, 0.75, 1.0])]
    assert gaps[0] + 0.05 < gaps[1]
    assert gaps[1] + 0.03 < gaps[2]


# -- the correction ---------------------------------------------------------------------------


def slow_correction(context: Context, step: Correct, features: Tensor) -> dict[str, list[Any]]:
    """Anchors, nearest hard samples, the valid ones and their votes, in float64 and loops."""
    labels = context.store.labels.tolist()
    state = context.ledger[STATE][0].tolist()
    easy = [row for row in range(len(labels)) if state[row] == EASY]
    hard = [row for row in range(len(labels)) if state[row] == HARD]
    if step.anchors == "easy":
        near, far, closeness = easy, [-1] * len(easy), [1.0] * len(easy)
    else:
        drawn = draw_pairs(
            context.draw.within("0"),
            torch.tensor([row for row in easy for _ in range(step.per_sample)]),
            torch.tensor(easy),
            context.store.labels,
            step.closeness,
        )
        near, far = drawn.near.tolist(), drawn.far.tolist()
        closeness = [float(v) for v in drawn.closeness]
    nearest, similarity = [], []
    for a, b, weight in zip(near, far, closeness, strict=True):
        if step.anchors == "hallucinated":
            anchor = slow_anchor(hallucinator(context), features[a], features[b], weight)
        else:
            partner = features[b].tolist() if b >= 0 else [0.0] * WIDTH
            anchor = [
                weight * p + (1 - weight) * q
                for p, q in zip(features[a].tolist(), partner, strict=True)
            ]
        cosines = slow_nearest(anchor, features, hard)
        nearest.append(max(hard, key=lambda row: cosines[row]))
        similarity.append(max(cosines.values()))
    least = sorted(similarity)[int(step.quantile * (len(similarity) - 1))]
    valid = [anchor for anchor, value in enumerate(similarity) if value >= least]
    names, shares, voters = slow_votes(
        [nearest[v] for v in valid],
        [similarity[v] for v in valid],
        [labels[near[v]] for v in valid],
        len(labels),
        step.voters,
        [near[v] for v in valid] if step.distinct else None,
    )
    who = [[valid[v] if v >= 0 else None for v in line] for line in voters]
    changed = [name >= 0 for name in names]
    trust, target = (context.ledger[name][0].tolist() for name in (TRUST, TARGET))
    choose = lambda new, old: [n if c else o for n, o, c in zip(new, old, changed, strict=True)]  # noqa: E731
    pick = lambda of, none: [[none if v is None else of[v] for v in line] for line in who]  # noqa: E731
    return {
        STATE: choose([CORRECTED] * len(labels), state),
        TARGET: choose(names, target),
        TRUST: choose(shares, trust),
        NEAR: pick(near, -1),
        FAR: pick(far, -1),
        CLOSENESS: pick(closeness, 0.0),
        SIMILARITY: pick(similarity, 0.0),
    }


CORRECTIONS = [
    Correct("hallucinated", 5, 5, 0.5, None),
    Correct("hallucinated", 2, 3, 0.0, 0.7),
    Correct("hallucinated", 9, 1, 0.9, None),
    Correct("mixed", 5, 5, 0.5, None),
    Correct("mixed", 3, 4, 0.25, 0.5),
    Correct("easy", 5, 5, 0.5, None),
    Correct("easy", 1, 2, 0.0, None),
]


@pytest.mark.parametrize("step", CORRECTIONS)
def test_correction(step: Correct) -> None:
    context = context_for(voters=step.voters, anchors=step.anchors)
    SortOut(0.75).run(context)
    features = bank_of(context).of(context, 0)
    if step.anchors == "hallucinated":
        hallucinator(context).measure(features)
    wanted = slow_correction(context, step, features)
    figures = step.run(context)
    ledger = context.ledger
    for name, values in wanted.items():
        found = ledger[name][0]
        expected = torch.tensor(values).to(found.dtype)
        if found.dtype.is_floating_point:
            assert torch.allclose(found, expected, atol=1e-5), name
        else:
            assert torch.equal(found, expected), name
    corrected = ledger[STATE][0] == CORRECTED
    assert int(corrected.sum()) >= 3
    assert bool((ledger[TARGET][0] != DATA.labels)[corrected].any()), "nothing was changed"
    assert figures["corrected"] == pytest.approx(float(corrected.float().mean()))
    assert figures["vote_share"] == pytest.approx(float(ledger[TRUST][0][corrected].mean()))
    held = ledger[SIMILARITY][0][ledger[NEAR][0] >= 0]
    assert figures["anchor_similarity_least"] <= float(held.min())
    assert not bank_of(context).held, "the features are not needed any more"


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 0.8, 0.99])
def test_share_of_valid_anchors_is_what_the_quantile_leaves(quantile: float) -> None:
    """With as many voters as there are anchors, every valid anchor is remembered."""
    context = context_for(voters=100)
    SortOut(0.75).run(context)
    num_anchors = 3 * int((context.ledger[STATE][0] == EASY).sum())
    Correct("mixed", 3, 100, quantile, distinct=False).run(context)
    valid = int((context.ledger[NEAR][0] >= 0).sum())
    assert valid == num_anchors - int(quantile * (num_anchors - 1))
    assert valid >= 1


def test_sorting_writes_what_the_easy_set_says() -> None:
    context = context_for(num_networks=2)
    ledger = context.ledger
    ledger.decisions["threshold"] = 0.6
    figures = SortOut(0.5, 0.5).run(context)
    for number in (0, 1):
        clean, loss = ledger["clean"][number], ledger["loss"][number]
        case = Samples(clean.tolist(), loss.tolist(), DATA.labels.tolist(), 4)
        easy, *_ = slow_easy(case, 0.6, "0.5", "0.5")
        for row in range(len(DATA)):
            assert int(ledger[STATE][number, row]) == (EASY if row in easy else HARD)
            trust = max(float(clean[row]), 0.6) if row in easy else 0.0
            assert float(ledger[TRUST][number, row]) == pytest.approx(trust)
        assert torch.equal(ledger[TARGET][number], DATA.labels)
        assert figures[f"easy_{number}"] == pytest.approx(len(easy) / len(DATA))


# -- learning from it -------------------------------------------------------------------------


def group_of(rows: list[int]) -> Group:
    index = torch.tensor(rows)
    return Group(
        index, DATA.labels[index], torch.full((len(rows),), 0.123), DATA.inputs[index] / 255
    )


@pytest.mark.parametrize(("learner", "num_networks"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_targets_are_the_corrected_labels_weighed_by_their_trust(
    learner: int, num_networks: int, temperature: float
) -> None:
    context = replace(context_for(num_networks=num_networks), trains=(learner,))
    judge = (learner + 1) % num_networks
    rows, trust, target = [0, 7, 9, 30], [1.0, 0.6, 0.4, 0.0], [1, 3, 0, 2]
    for row, t, y in zip(rows, trust, target, strict=True):
        context.ledger[TRUST][judge, row], context.ledger[TARGET][judge, row] = t, y
    assert any(int(DATA.labels[row]) != y for row, y in zip(rows, target, strict=True))
    with torch.no_grad():
        for network in context.plain:
            network.get_submodule("heads.classes").weight.mul_(8)  # type: ignore[operator, union-attr]
    groups = {"clean": group_of(rows), "noisy": group_of([1, 2, 50, 51])}
    made_groups = SortedMixMatch("weak", 2, temperature).views(context, groups)
    exact = [copy.deepcopy(network).double() for network in context.plain]

    def guess(side: str, line: int, networks: Sequence[nn.Module]) -> Tensor:
        views = [view[line][None].double() for view, _ in made_groups[side].views]
        with torch.no_grad():
            given_ = [n(view)["classes"][0].softmax(0) for n in networks for view in views]
        return torch.stack(given_).mean(0)

    def sharp(p: Tensor) -> Tensor:
        return p ** (1 / temperature) / (p ** (1 / temperature)).sum()

    for line in range(4):
        one_hot = torch.tensor([float(c == target[line]) for c in range(4)], dtype=torch.float64)
        own = guess("clean", line, [exact[learner]])
        wanted = sharp(trust[line] * one_hot + (1 - trust[line]) * own)
        for _, targets in made_groups["clean"].views:
            assert torch.allclose(targets[line].double(), wanted, atol=1e-5)
        wanted = sharp(guess("noisy", line, exact))
        for _, targets in made_groups["noisy"].views:
            assert torch.allclose(targets[line].double(), wanted, atol=1e-5)


def sides(context: Context, method: Hallucination, judge: int = 0) -> tuple[set[int], set[int]]:
    plan = method.sampling(judge).plan(context, 8)
    assert plan["clean"].shape[0] == plan["noisy"].shape[0] > 0
    return set(plan["clean"].flatten().tolist()), set(plan["noisy"].flatten().tolist())


@pytest.mark.parametrize("judge", [0, 1])
def test_labelled_are_easy_and_corrected_samples_unlabelled_the_other_hard_ones(
    judge: int,
) -> None:
    method = Hallucination(num_networks=2, at_least=4)
    context = context_for(num_networks=2)
    SortOut(0.75).run(context)
    Correct("mixed", quantile=0.8).run(context)
    state = context.ledger[STATE][judge]
    labelled, unlabelled = sides(context, method, judge)
    assert int((state == CORRECTED).sum()) >= 3
    assert labelled == set((state != HARD).nonzero().flatten().tolist())
    assert unlabelled == set((state == HARD).nonzero().flatten().tolist())


def test_no_side_is_empty_where_everything_is_easy_or_corrected() -> None:
    method, context = Hallucination(), context_for()
    context.ledger.set("clean", 0, torch.ones(len(DATA)))
    SortOut(1.0).run(context)
    assert bool((context.ledger[STATE][0] == EASY).all())
    assert Correct().run(context) == {}
    labelled, unlabelled = sides(context, method)
    assert labelled == set(range(len(DATA)))
    assert len(unlabelled) == 1
    context.ledger.set("clean", 0, (torch.arange(len(DATA)) < 30).float())
    context.ledger.set("loss", 0, 1 - context.ledger["clean"][0])
    SortOut(1.0).run(context)
    hard = context.ledger[STATE][0] == HARD
    features = torch.randn(len(DATA), WIDTH, generator=generator(1))
    features[hard] = features[~hard][0]  # all hard samples are alike: one of them gets all votes
    bank_of(context).keep(context, 0, features)
    Correct("easy", quantile=0.0).run(context)
    assert int((context.ledger[STATE][0] == CORRECTED).sum()) >= 1
    labelled, unlabelled = sides(context, method)
    assert labelled
    assert unlabelled
    assert labelled | unlabelled <= set(range(len(DATA)))


def test_bank_holds_what_scoring_left_for_this_epoch_only() -> None:
    context = context_for()
    held = bank_of(context).of(context, 0)
    assert held is bank_of(context).of(context, 0)
    later = replace(context, draw=replace(context.draw, epoch=2))
    with torch.no_grad():
        network = context.plain[0].eval()
        wanted = network(DATA.inputs / 255, heads=("features",))["features"]
    assert torch.equal(bank_of(later).of(later, 0), wanted)
    assert isinstance(context.extras[BANK], FeatureBank)
    assert not context.extras[BANK].state_dict(), "features are no state"
