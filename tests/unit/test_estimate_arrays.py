"""What the report shows of the noise and of near duplicates, as arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelwise.audit.copies import MOST
from labelwise.audit.estimate_arrays import duplicate_arrays, transition_arrays
from labelwise.data.dataset import Dataset
from labelwise.estimation.bootstrap import TABLE_CLASSES, with_intervals
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.estimator import Estimate, Evidence
from labelwise.estimation.probabilities import TopProbabilities


def evidence(num_samples: int, num_classes: int, rate: float) -> Evidence:
    """A sure model, and labels of which a share goes to the next class."""
    draw = torch.Generator().manual_seed(0)
    true = torch.arange(num_samples) % num_classes
    flips = torch.rand(num_samples, generator=draw) < rate
    given = torch.where(flips, (true + 1) % num_classes, true)
    shown = torch.full((num_samples, num_classes), 0.02 / (num_classes - 1))
    shown[torch.arange(num_samples), true] = 0.98
    return Evidence(TopProbabilities.of(shown, given))


def test_transition_and_pairs_hold_the_planted_noise() -> None:
    seen = evidence(3000, 4, 0.2)
    arrays = transition_arrays(with_intervals(ConfidentJoint(), seen), 3000)
    low, share, high = (arrays[f"transition{end}"] for end in ("_low", "", "_high"))
    assert share.dtype == low.dtype == high.dtype == np.float32
    assert ((low <= share) & (share <= high)).all()
    for k in range(4):
        assert share[k, (k + 1) % 4] == pytest.approx(0.2, abs=0.04)
        assert low[k, (k + 1) % 4] < 0.2 < high[k, (k + 1) % 4]
    assert {tuple(pair) for pair in arrays["pair_rows"]} == {(k, (k + 1) % 4) for k in range(4)}
    counts = arrays["pair_counts"]
    assert (np.diff(counts) <= 0).all()
    assert counts == pytest.approx([150] * 4, abs=35)
    assert ((arrays["pair_low"] < counts) & (counts < arrays["pair_high"])).all()


def test_without_intervals_and_with_many_classes() -> None:
    bare = transition_arrays(ConfidentJoint().estimate(evidence(3000, 4, 0.2)), 3000)
    assert "transition_low" not in bare
    assert bare["transition"].shape == (4, 4)
    size = TABLE_CLASSES + 1
    joint = torch.eye(size, dtype=torch.float64) / size
    joint[3, 3], joint[3, 5] = 0.5 / size, 0.5 / size
    for table in (joint, joint.to_sparse()):
        many = transition_arrays(Estimate.from_joint("given", table), 100 * size)
        assert "transition" not in many
        assert many["pair_rows"].tolist() == [[3, 5]]
        assert many["pair_counts"] == pytest.approx([50])
    nothing = transition_arrays(Estimate.from_joint("given", torch.eye(3).double() / 3), 90)
    assert nothing["pair_rows"].shape == (0, 2)


def images(num_samples: int, side: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num_samples, 1, side, side), generator=draw, dtype=torch.uint8)


def dataset(inputs: torch.Tensor, labels: list[int]) -> Dataset:
    ids = np.arange(len(inputs))
    return Dataset(inputs, torch.tensor(labels), ("a", "b"), ids)


def test_copies_with_other_labels_come_with_their_pictures() -> None:
    inputs = images(40, 12)
    inputs[7], inputs[9] = inputs[3], inputs[4]
    labels = [0] * 40
    labels[7] = 1  # 9 is a copy of 4 with the same label: no pair
    arrays = duplicate_arrays(dataset(inputs, labels))
    assert arrays["duplicates"].tolist() == [[3, 7]]
    assert arrays["duplicate_similarity"] == pytest.approx([1])
    assert (arrays["duplicate_images"][0] == inputs[[3, 7]].numpy()).all()


def test_large_and_many_pictures_are_reduced() -> None:
    inputs = images(1, 200).expand(2 * MOST + 20, 1, 200, 200)[..., :150].contiguous()
    arrays = duplicate_arrays(dataset(inputs, [0] * (MOST + 5) + [1] * (MOST + 15)))
    assert arrays["duplicate_images"].shape == (MOST, 2, 1, 128, 96)
    assert len(arrays["duplicates"]) > MOST
    vectors = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert "duplicate_images" not in duplicate_arrays(dataset(vectors, [0, 1] * 15))
