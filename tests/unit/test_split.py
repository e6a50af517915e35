import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelwise.selection.split import Split, split_by_clean

torch.set_num_threads(1)


def sides(split: Split, num_samples: int) -> tuple[set[int], set[int]]:
    labelled, unlabelled = set(split.labelled.tolist()), set(split.unlabelled.tolist())
    assert labelled | unlabelled == set(range(num_samples))
    return labelled, unlabelled


def random_case(num_samples: int = 1000, num_classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(num_samples, generator=generator)
    return clean, torch.randint(num_classes, (num_samples,), generator=generator)


def test_plain_threshold() -> None:
    clean, labels = random_case()
    split = split_by_clean(clean, labels, 0.5, 5)
    assert split.fallback is None
    assert torch.equal(split.labelled, (clean > 0.5).nonzero().flatten())
    assert torch.equal(split.unlabelled, (clean <= 0.5).nonzero().flatten())


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_empty_labelled_side_takes_the_best(level: float) -> None:
    clean, labels = random_case()
    split = split_by_clean(clean * level, labels, 0.5, 5)
    labelled, _ = sides(split, 1000)
    assert "10 samples of highest clean probability" in (split.fallback or "")
    if level:
        assert set(clean.topk(10).indices.tolist()) <= labelled
    assert set(labels[split.labelled].tolist()) == set(range(5))


def test_small_labelled_side_is_filled_to_one_per_class_or_one_percent() -> None:
    clean, labels = torch.zeros(100), torch.arange(100) % 20
    clean[7] = 1.0
    split = split_by_clean(clean, labels, 0.5, 20)
    labelled, unlabelled = sides(split, 100)
    assert 7 in labelled
    assert not labelled & unlabelled
    assert set(labels[split.labelled].tolist()) == set(range(20))


def test_extinct_class_keeps_its_best_samples() -> None:
    clean, labels = random_case()
    clean = clean.where(labels != 3, clean * 0.1)
    split = split_by_clean(clean, labels, 0.5, 5)
    kept = split.labelled[labels[split.labelled] == 3]
    count = int(np.ceil(0.01 * int((labels == 3).sum())))
    assert len(kept) == count
    of_class = (labels == 3).nonzero().flatten()
    best = of_class[clean[of_class].topk(count).indices]
    assert set(kept.tolist()) == set(best.tolist())
    assert f"{count} samples keep classes alive" in (split.fallback or "")
    others = split.labelled[labels[split.labelled] != 3]
    assert torch.equal(others, ((clean > 0.5) & (labels != 3)).nonzero().flatten())


def test_empty_unlabelled_side_borrows_the_worst() -> None:
    clean, labels = random_case()
    clean = 0.6 + 0.4 * clean
    split = split_by_clean(clean, labels, 0.5, 5)
    assert len(split.labelled) == 1000
    assert set(split.unlabelled.tolist()) == set((-clean).topk(10).indices.tolist())
    assert "lowest clean probability" in (split.fallback or "")


def test_missing_class_and_nan_and_single_sample() -> None:
    split = split_by_clean(torch.tensor([torch.nan, 0.9, 0.1]), torch.tensor([0, 0, 4]), 0.5, 6)
    assert split.labelled.tolist() == [0, 1, 2]
    assert split.unlabelled.tolist() == [0]
    lone = split_by_clean(torch.tensor([0.2]), torch.tensor([0]), 0.5, 2)
    assert lone.labelled.tolist() == lone.unlabelled.tolist() == [0]


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 6)), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 0.5),
)
@settings(max_examples=200, deadline=None)
def test_neither_side_nor_class_runs_dry(
    rows: list[tuple[int, int]], threshold: float, min_fraction: float
) -> None:
    clean = torch.tensor([row[0] / 10 for row in rows])
    labels = torch.tensor([row[1] for row in rows])
    split = split_by_clean(clean, labels, threshold, 7, min_fraction)
    labelled, unlabelled = sides(split, len(rows))
    assert labelled
    assert unlabelled
    assert set(labels[split.labelled].tolist()) == set(labels.tolist())
    assert len(labelled) >= min(7, len(rows))
    above = set((clean > threshold).nonzero().flatten().tolist())
    assert above <= labelled
    if labelled & unlabelled:
        assert "lowest" in (split.fallback or "")
    if split.fallback is None:
        assert labelled == above


def test_thousand_classes_need_no_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1000, (200_000,), generator=generator)
    clean = torch.rand(200_000, generator=generator) * (labels % 2)
    split = split_by_clean(clean, labels, 0.5, 1000)
    size = torch.bincount(labels, minlength=1000)
    alive = torch.bincount(labels[split.labelled], minlength=1000)
    assert torch.equal(alive[::2], torch.ceil(0.01 * size[::2].double()).long())
