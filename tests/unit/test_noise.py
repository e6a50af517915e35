import math

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.asymmetric import _CIFAR100_SUPERCLASSES, Asymmetric
from labelwise.noise.draws import Draws, id_words
from labelwise.noise.instance import BLOCK_VALUES, Instance, flip_probability
from labelwise.noise.instance_shared import InstanceShared
from labelwise.noise.parse import parse
from labelwise.noise.symmetric_exclusive import SymmetricExclusive

torch.set_num_threads(1)
CIFAR10 = ("Plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(num_samples: int = 3000, num_classes: int = 4, side: int = 4) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    shape = (num_samples, 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    classes = tuple(f"class {number}" for number in range(num_classes))
    return Dataset(pixels, labels, classes, np.arange(num_samples))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("symmetric", "has no rate. Write KIND:RATE, such as symmetric:0.2"),
        ("symmetric:", "has no rate"),
        ("symetric:0.2", "Did you mean 'symmetric'"),
        ("", "unknown noise"),
        ("symmetric:50", r"outside \[0, 1\). For 50 % write 0.5"),
        ("symmetric:50%", "write symmetric:0.5"),
        ("symmetric:half", "'half' in 'symmetric:half' is not a number"),
        ("symmetric:nan", r"nan lies outside \[0, 1\)"),
        ("symmetric:1", r"1 lies outside \[0, 1\)\.$"),
        ("symmetric:-0.1", "-0.1 lies outside"),
    ],
)
def test_parse_names_the_problem(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_parse_reads_kind_and_rate() -> None:
    process = parse(" symmetric-exclusive : 0.25 ")
    assert isinstance(process, SymmetricExclusive)
    assert process.rate == 0.25


def test_corrupt_refuses_what_cannot_be_corrupted() -> None:
    data = images()
    process = parse("symmetric:0.5")
    one = Dataset(data.inputs, data.labels * 0, ("only",), data.ids, "mono")
    with pytest.raises(UserError, match=r"'mono' has 1 class"):
        process.corrupt(one, 0)
    with pytest.raises(UserError, match="no labels"):
        process.corrupt(data.with_labels(torch.empty(0, dtype=torch.int64)), 0)
    labels = data.labels.clone()
    labels[17] = 9
    with pytest.raises(UserError, match=r"label 9 of sample .*17.* lies outside \[0, 4\)"):
        process.corrupt(data.with_labels(labels), 0)


def test_uniforms_are_uniform_and_independent() -> None:
    draws = Draws(id_words(np.arange(100_000)), 3, "test")
    first, second = draws.uniform("a"), draws.uniform("b")
    assert first.min() >= 0
    assert first.max() < 1
    for numbers in (first, second):
        counts = torch.histc(numbers.float(), 100, 0, 1)
        assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * math.sqrt(2 * 99)
    table = torch.stack([first, second, first.roll(1)])
    other = Draws(draws.words, 4, "test").uniform("a")
    assert torch.corrcoef(torch.cat([table, other[None]])).fill_diagonal_(0).abs().max() < 0.016


def test_ids_of_any_type() -> None:
    numbers = id_words(np.arange(5))
    assert np.array_equal(numbers, id_words(np.arange(5, dtype=np.int32)))
    assert np.array_equal(numbers, id_words(np.array([0, 1, 2, 3, 4], dtype=object)))
    names = id_words(np.array(["a/1.png", "b/2.png"]))
    assert np.array_equal(names, id_words(np.array(["a/1.png", "b/2.png"], dtype=object)))
    assert len(set(names.tolist())) == 2


def test_cifar10_look_alikes() -> None:
    matrix = Asymmetric(0.4).transition_matrix(10, CIFAR10)
    names = [name.lower() for name in CIFAR10]
    pairs = [("truck", "car"), ("bird", "plane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat")]
    expected = torch.eye(10, dtype=torch.float64)
    for true, given in pairs:
        row, column = names.index(true), names.index(given)
        expected[row, row], expected[row, column] = 0.6, 0.4
    torch.testing.assert_close(matrix, expected)
    assert matrix.diagonal().mean().item() == pytest.approx(1 - 0.4 / 2)


def test_cifar100_look_alikes_stay_in_the_superclass() -> None:
    groups = _CIFAR100_SUPERCLASSES
    names = sorted(name for group in groups for name in group)
    assert len(names) == len(set(names)) == 100
    assert all(group == sorted(group) for group in groups)
    matrix = Asymmetric(0.3).transition_matrix(100, tuple(names))
    row = matrix[names.index("willow_tree")]
    assert row[names.index("maple_tree")].item() == pytest.approx(0.3)
    torch.testing.assert_close(matrix.sum(0), torch.ones(100).double())


def test_unknown_classes_move_to_the_next() -> None:
    torch.testing.assert_close(
        Asymmetric(0.25).transition_matrix(3, ("x", "y", "z")),
        torch.tensor([[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]).double(),
    )


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.2, 0.5, 0.95])
def test_flip_probability_inverts_the_truncated_normal(rate: float) -> None:
    level = torch.linspace(0, 1, 1001).double()[:-1]
    ends = (-rate / 0.1, (1 - rate) / 0.1)
    expected = truncnorm.ppf(level.numpy(), *ends, loc=rate, scale=0.1)
    np.testing.assert_allclose(flip_probability(level, rate), expected, atol=1e-9)


@pytest.mark.parametrize(("rate", "realised"), [(0.1, 0.129), (0.2, 0.206)])
@pytest.mark.parametrize("kind", [Instance, InstanceShared])
def test_truncation_moves_the_realised_rate(
    kind: type[Instance], rate: float, realised: float
) -> None:
    data = images(40_000)
    bound = 5 * math.sqrt(realised * (1 - realised) / len(data)) + 5e-4
    assert kind(rate).corrupt(data, 0).realised_rate == pytest.approx(realised, abs=bound)


def slow_instance(data: Dataset, rate: float, seed: int, shared: bool) -> list[int]:
    """Xia et al., Algorithm 2, one sample at a time."""
    draws = Draws(id_words(data.ids), seed, "instance-shared" if shared else "instance")
    size, num_classes = data.inputs[0].numel(), data.num_classes
    numbers = [draws.uniform(purpose).tolist() for purpose in ("rate", "flip", "class")]
    ends = (-rate / 0.1, (1 - rate) / 0.1)
    given = []
    for row, label in enumerate(data.labels.tolist()):
        q = truncnorm.ppf(numbers[0][row], *ends, loc=rate, scale=0.1)
        x = data.inputs[row].double().flatten().numpy()
        centre = x.mean() if data.kind == "images" else 0.0
        x = (x - centre) / np.sqrt(((x - centre) ** 2).mean())
        part = 0 if shared else label
        projection = draws.normal("projection", part, size, num_classes).numpy()
        logits = [
            -math.inf if c == label else float(np.dot(x, projection[:, c]))
            for c in range(num_classes)
        ]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        if numbers[1][row] >= q:
            given.append(label)
            continue
        level, chosen = numbers[2][row] * sum(powers), 0
        while sum(powers[: chosen + 1]) <= level:
            chosen += 1
        given.append(chosen)
    return given


@pytest.mark.parametrize("kind", [Instance, InstanceShared])
@pytest.mark.parametrize("embedded", [False, True])
def test_instance_equals_the_slow_loop(kind: type[Instance], embedded: bool) -> None:
    data = images(400, num_classes=5)
    if embedded:
        rows = data.inputs.flatten(1).float()[:, :7] - 100
        data = Dataset(rows, data.labels, data.classes, data.ids)
    given = kind(0.4).corrupt(data, 11).labels.tolist()
    assert given == slow_instance(data, 0.4, 11, shared=kind is InstanceShared)


def test_instance_noise_depends_on_the_input() -> None:
    data = images(2000, num_classes=6)
    same = Dataset(data.inputs[:1].expand(2000, -1, -1, -1), data.labels, data.classes, data.ids)
    matrix = Instance(0.5).corrupt(same, 0).transition_matrix.fill_diagonal_(0)
    assert (matrix.max(1).values / matrix.sum(1)).mean() > 0.8
    flat = Dataset(same.inputs * 0, data.labels, data.classes, data.ids)
    matrix = Instance(0.5).corrupt(flat, 0).transition_matrix.fill_diagonal_(0)
    assert (matrix.max(1).values / matrix.sum(1)).max() < 0.35


def test_instance_noise_of_large_images_and_many_blocks() -> None:
    data = images(60, num_classes=2, side=160)
    assert BLOCK_VALUES // data.inputs[0].numel() < 60
    noisy = Instance(0.5).corrupt(data, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Instance(0.5).corrupt(data.subset(order), 0).labels, noisy.labels[order])
    assert 0.2 < noisy.realised_rate < 0.8
