"""What every noise process must do; the processes are found, not listed."""

import math

import numpy as np
import pytest
import torch

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.parse import parse, processes

torch.set_num_threads(1)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = {"two": ("a", "b"), "seven": tuple("abcdefg"), "cifar10": CIFAR10}
KINDS = sorted(processes())
RATES = (0.0, 0.1, 0.45, 0.9)


def make(classes: str = "seven", num_samples: int = 6000, text_ids: bool = False) -> Dataset:
    names = CLASSES[classes]
    generator = torch.Generator().manual_seed(5)
    shape = (num_samples, 1, 3, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(len(names), (num_samples,), generator=generator)
    ids = np.arange(num_samples) * 7
    if text_ids:
        ids = np.array([f"img/{number:05}.png" for number in ids])
    return Dataset(pixels, labels, names, ids)


def test_processes_are_found() -> None:
    expected = "symmetric symmetric-exclusive asymmetric pairflip instance instance-shared"
    assert set(expected.split()) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryProcess:
    def test_has_a_name_a_citation_and_a_docstring(self, kind: str) -> None:
        process = processes()[kind]
        assert process.name == kind
        assert process.citation
        assert process.__doc__

    @pytest.mark.parametrize("rate", [-0.1, 1.0, 50, math.nan, math.inf])
    def test_refuses_impossible_rates(self, kind: str, rate: float) -> None:
        with pytest.raises(UserError, match=r"outside \[0, 1\)"):
            processes()[kind](rate)

    def test_rate_zero_changes_nothing(self, kind: str) -> None:
        data = make()
        noisy = parse(f"{kind}:0").corrupt(data, 1)
        assert torch.equal(noisy.labels, data.labels)
        assert noisy.realised_rate == 0
        assert torch.equal(noisy.transition_matrix, torch.eye(7).double())

    @pytest.mark.parametrize("text_ids", [False, True])
    def test_row_order_does_not_matter(self, kind: str, text_ids: bool) -> None:
        data = make(text_ids=text_ids)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        process = parse(f"{kind}:0.5")
        whole = process.corrupt(data, 3).labels
        assert torch.equal(process.corrupt(data.subset(order), 3).labels, whole[order])

    def test_same_seed_same_labels_other_seed_other_labels(self, kind: str) -> None:
        data = make()
        before = data.labels.clone()
        first, again, other = (parse(f"{kind}:0.5").corrupt(data, seed) for seed in (1, 1, 2))
        assert torch.equal(first.labels, again.labels)
        assert not torch.equal(first.labels, other.labels)
        assert torch.equal(data.labels, before)

    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rate", RATES)
    def test_reports_what_it_did(self, kind: str, rate: float, classes: str) -> None:
        data = make(classes)
        noisy = parse(f"{kind}:{rate}").corrupt(data, 0)
        assert noisy.process == kind
        assert noisy.requested_rate == rate
        assert noisy.labels.dtype == torch.int64
        assert noisy.labels.shape == data.labels.shape
        assert 0 <= int(noisy.labels.min()) <= int(noisy.labels.max()) < data.num_classes
        changed = (noisy.labels != data.labels).double().mean().item()
        assert noisy.realised_rate == pytest.approx(changed)
        table = torch.zeros_like(noisy.transition_matrix)
        for true, given in zip(data.labels.tolist(), noisy.labels.tolist(), strict=True):
            table[true, given] += 1
        torch.testing.assert_close(noisy.transition_matrix, table / table.sum(1, keepdim=True))

    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("seed", range(3))
    def test_frequencies_follow_the_expected_matrix(
        self, kind: str, rate: float, classes: str, seed: int
    ) -> None:
        data = make(classes)
        process = parse(f"{kind}:{rate}")
        expected = process.transition_matrix(data.num_classes, data.classes)
        assert (expected is None) == (process.needs_inputs and rate > 0)
        if expected is None:
            return
        assert expected.dtype == torch.float64
        torch.testing.assert_close(expected.sum(1), torch.ones(data.num_classes).double())
        noisy = process.corrupt(data, seed)
        size = torch.bincount(data.labels, minlength=data.num_classes)[:, None]
        bound = 5 * (expected * (1 - expected) / size).sqrt() + 1.0 / size * (expected % 1 > 0)
        assert ((noisy.transition_matrix - expected).abs() <= bound + 1e-12).all()
        wrong = 1 - expected.diagonal()[data.labels]
        sigma = (wrong * (1 - wrong)).sum().sqrt().item() / len(data)
        assert abs(noisy.realised_rate - wrong.mean().item()) <= 5 * sigma + 1e-12

    def test_class_without_samples(self, kind: str) -> None:
        data = make()
        data = data.subset((data.labels != 4).nonzero().flatten())
        noisy = parse(f"{kind}:0.5").corrupt(data, 0)
        assert noisy.transition_matrix[4].tolist() == [0, 0, 0, 0, 1, 0, 0]
        torch.testing.assert_close(noisy.transition_matrix.sum(1), torch.ones(7).double())

    def test_embeddings(self, kind: str) -> None:
        data = make(num_samples=500)
        rows = data.inputs.flatten(1).float() / 255
        embedded = Dataset(rows, data.labels, data.classes, data.ids)
        noisy = parse(f"{kind}:0.5").corrupt(embedded, 0)
        assert 0.2 < noisy.realised_rate < 0.8


def test_exclusive_and_instance_flips_never_keep_the_class() -> None:
    for kind in ("symmetric-exclusive", "instance", "instance-shared"):
        data = make("two")
        noisy = parse(f"{kind}:0.9").corrupt(data, 0)
        assert noisy.realised_rate > 0.85
