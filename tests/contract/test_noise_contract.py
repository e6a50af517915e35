"""What every noise process must do; the processes are found, not listed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.human import Human
from labelwise.noise.matrix import Matrix
from labelwise.noise.parse import parse, processes
from labelwise.noise.process import NoiseProcess

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


def matrix_of(rate: float, data: Dataset) -> Matrix:
    """A matrix of no symmetry, with `1 - rate` on the diagonal."""
    generator = torch.Generator().manual_seed(2)
    wrong = torch.rand(data.num_classes, data.num_classes, generator=generator).double()
    wrong.fill_diagonal_(0)
    eye = torch.eye(data.num_classes).double()
    return Matrix((1 - rate) * eye + rate * wrong / wrong.sum(1, keepdim=True), data.classes)


def human_of(rate: float, data: Dataset) -> Human:
    """A column of labels that other noise made."""
    noisy = parse(f"symmetric-exclusive:{rate}").corrupt(data, 9)
    return Human("votes", data.with_labels(noisy.labels))


BUILDERS: dict[str, Callable[[float, Dataset], NoiseProcess]] = {
    "matrix": matrix_of,
    "human": human_of,
}
RATED = [kind for kind in KINDS if processes()[kind].usage.startswith("RATE")]
RANDOM = [kind for kind in KINDS if kind != "human"]
EXACT = {"semantic"}
NESTED = [kind for kind in RANDOM if not kind.startswith("instance")]
"""Processes whose wrong labels at a rate are wrong at every higher rate."""


def build(kind: str, rate: float, data: Dataset) -> NoiseProcess:
    """The process at a rate; one that takes no rate is built by a function of its own."""
    return BUILDERS[kind](rate, data) if kind in BUILDERS else parse(f"{kind}:{rate}")


def test_processes_are_found() -> None:
    expected = (
        "symmetric symmetric-exclusive asymmetric pairflip instance instance-shared "
        "matrix semantic openset human"
    )
    assert set(expected.split()) <= set(KINDS)
    assert set(KINDS) == set(RATED) | set(BUILDERS)


@pytest.mark.parametrize("kind", RATED)
@pytest.mark.parametrize("rate", [-0.1, 1.0, 50, math.nan, math.inf])
def test_refuses_impossible_rates(kind: str, rate: float) -> None:
    with pytest.raises(UserError, match=r"outside \[0, 1\)"):
        processes()[kind](rate)


@pytest.mark.parametrize("kind", NESTED)
def test_a_lower_rate_corrupts_a_subset(kind: str) -> None:
    data = make(num_samples=1000)
    low, high = (build(kind, rate, data).corrupt(data, 4) for rate in (0.2, 0.6))
    assert ((low.labels != low.truth) <= (high.labels != high.truth)).all()


@pytest.mark.parametrize("kind", KINDS)
class TestEveryProcess:
    def test_says_what_it_is(self, kind: str) -> None:
        process = processes()[kind]
        assert process.name == kind
        assert process.citation
        assert process.convention
        assert process.summary().endswith(".")

    def test_rate_zero_changes_nothing(self, kind: str) -> None:
        data = make()
        process = build(kind, 0.0, data)
        noisy = process.corrupt(data, 1)
        assert torch.equal(noisy.labels, data.labels)
        assert torch.equal(noisy.truth, data.labels)
        assert noisy.inputs is None
        assert noisy.realised_rate == noisy.requested_rate == 0
        assert torch.equal(noisy.transition_matrix, torch.eye(7).double())

    @pytest.mark.parametrize("text_ids", [False, True])
    def test_row_order_does_not_matter(self, kind: str, text_ids: bool) -> None:
        data = make(num_samples=1500, text_ids=text_ids)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        process = build(kind, 0.5, data)
        whole = process.corrupt(data, 3)
        moved = process.corrupt(data.subset(order), 3)
        assert torch.equal(moved.labels, whole.labels[order])
        assert torch.equal(moved.truth, whole.truth[order])
        if whole.inputs is not None:
            assert moved.inputs is not None
            assert torch.equal(moved.inputs, whole.inputs[order])

    def test_the_seed_decides(self, kind: str) -> None:
        data = make(num_samples=1000)
        labels, inputs = data.labels.clone(), data.inputs.clone()
        process = build(kind, 0.5, data)
        first, again, other = (process.corrupt(data, seed) for seed in (1, 1, 2))
        assert torch.equal(first.labels, again.labels)
        wrong = [noisy.labels != noisy.truth for noisy in (first, again, other)]
        assert torch.equal(wrong[0], wrong[1])
        assert torch.equal(wrong[0], wrong[2]) == (kind not in RANDOM)
        assert torch.equal(data.labels, labels)
        assert torch.equal(data.inputs, inputs)

    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rate", RATES)
    def test_reports_what_it_did(self, kind: str, rate: float, classes: str) -> None:
        data = make(classes, num_samples=700)
        process = build(kind, rate, data)
        noisy = process.corrupt(data, 0)
        assert noisy.process == kind
        assert noisy.citation == process.citation
        if kind in RANDOM:
            assert noisy.requested_rate == pytest.approx(rate)
        assert noisy.labels.dtype == noisy.truth.dtype == torch.int64
        assert noisy.labels.shape == data.labels.shape
        assert 0 <= int(noisy.labels.min()) <= int(noisy.labels.max()) < data.num_classes
        wrong = noisy.labels != noisy.truth
        assert noisy.realised_rate == pytest.approx(wrong.double().mean().item())
        table = torch.zeros_like(noisy.transition_matrix)
        for true, given in zip(noisy.truth.tolist(), noisy.labels.tolist(), strict=True):
            if true >= 0:
                table[true, given] += 1
        torch.testing.assert_close(noisy.transition_matrix, table / table.sum(1, keepdim=True))
        described = noisy.to_json()
        assert described["realised_rate"] == noisy.realised_rate
        assert described.get("num_foreign", 0) == int(noisy.foreign.sum())

    def test_clean_samples_are_untouched(self, kind: str) -> None:
        data = make(num_samples=2000)
        noisy = build(kind, 0.4, data).corrupt(data, 0)
        planted = noisy.planted_in(data)
        assert planted.truth is not None
        clean = planted.data.labels == planted.truth.labels
        assert 0.2 < clean.double().mean().item() < 0.8
        assert torch.equal(planted.data.labels[clean], data.labels[clean])
        assert torch.equal(planted.data.inputs[clean], data.inputs[clean])
        assert (planted.data.ids == data.ids).all()
        # The truth is the label that was there before, or no class where the input was replaced.
        kept = ~noisy.foreign
        assert torch.equal(planted.truth.labels[kept], data.labels[kept])
        if noisy.inputs is None:
            assert kept.all()
            assert planted.data.inputs is data.inputs

    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("seed", range(2))
    def test_frequencies_follow_the_expected_matrix(
        self, kind: str, rate: float, classes: str, seed: int
    ) -> None:
        data = make(classes)
        process = build(kind, rate, data)
        expected = process.transition_matrix(data.num_classes, data.classes)
        if process.needs_inputs:
            assert expected is None or rate == 0
        if expected is None:
            return
        assert expected.dtype == torch.float64
        torch.testing.assert_close(expected.sum(1), torch.ones(data.num_classes).double())
        noisy = process.corrupt(data, seed)
        size = torch.bincount(noisy.truth[~noisy.foreign], minlength=data.num_classes)[:, None]
        # About 2,500 cells are compared: 4.5 sigma leaves one chance in 50 over all of them.
        bound = 4.5 * (expected * (1 - expected) / size).sqrt() + 1.0 / size * (expected % 1 > 0)
        assert ((noisy.transition_matrix - expected).abs() <= bound + 1e-12).all()
        wrong = 1 - expected.diagonal()[data.labels]
        if noisy.inputs is not None:
            wrong = torch.full_like(wrong, rate)
        sigma = (wrong * (1 - wrong)).sum().sqrt().item() / len(data)
        assert abs(noisy.realised_rate - wrong.mean().item()) <= 4 * sigma + 1e-12

    @pytest.mark.parametrize("rate", [0.01, 0.25, 0.6])
    def test_exact_rates_are_exact(self, kind: str, rate: float) -> None:
        if kind not in EXACT:
            return
        data = make(num_samples=1777)
        noisy = build(kind, rate, data).corrupt(data, 0)
        assert int((noisy.labels != data.labels).sum()) == round(rate * 1777)

    def test_class_without_samples(self, kind: str) -> None:
        data = make(num_samples=2000)
        data = data.subset((data.labels != 4).nonzero().flatten())
        noisy = build(kind, 0.5, data).corrupt(data, 0)
        assert noisy.transition_matrix[4].tolist() == [0, 0, 0, 0, 1, 0, 0]
        torch.testing.assert_close(noisy.transition_matrix.sum(1), torch.ones(7).double())

    def test_embeddings(self, kind: str) -> None:
        data = make(num_samples=500)
        rows = data.inputs.flatten(1).float() / 255
        embedded = Dataset(rows, data.labels, data.classes, data.ids)
        noisy = build(kind, 0.5, embedded).corrupt(embedded, 0)
        assert 0.2 < noisy.realised_rate < 0.8


def test_exclusive_and_instance_flips_never_keep_the_class() -> None:
    for kind in ("symmetric-exclusive", "instance", "instance-shared"):
        data = make("two")
        noisy = parse(f"{kind}:0.9").corrupt(data, 0)
        assert noisy.realised_rate > 0.85
