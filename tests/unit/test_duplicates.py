"""Near duplicates with different labels: planted copies are found, alike samples are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from labelwise.audit import duplicates
from labelwise.audit.duplicates import find_duplicates

NUM = 600
COPIES = 40


def pictures(number: int = NUM, seed: int = 0) -> Tensor:
    """Smooth colour images (N, 3, 32, 32) uint8 with a little grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 6, 6, generator=generator) * 255
    smooth = F.interpolate(coarse, size=(32, 32), mode="bicubic")
    grain = 4 * torch.randn(smooth.shape, generator=generator)
    return (smooth + grain).clamp(0, 255).to(torch.uint8)


def jpeg(image: Tensor) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=75)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)


CHANGES = {
    "same": lambda images: images.clone(),
    "brighter": lambda images: (0.8 * images.float() + 25).to(torch.uint8),
    "shifted": lambda images: torch.roll(images, 1, 3),
    "jpeg": lambda images: torch.stack([jpeg(image) for image in images]),
}


def found_pairs(inputs: Tensor, labels: Tensor, **options: int) -> set[tuple[int, int]]:
    rows, similarity = find_duplicates(inputs, labels, 10_000, **options)
    assert rows.shape == (len(similarity), 2)
    assert (rows[:, 0] < rows[:, 1]).all()
    assert (np.diff(similarity) <= 0).all()
    assert (labels[rows[:, 0]] != labels[rows[:, 1]]).all()
    return {(int(one), int(other)) for one, other in rows}


@pytest.mark.parametrize("exact", [True, False], ids=["all pairs", "hashed"])
@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies(change: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "EXACT_SEARCH", 10**9 if exact else 0)
    images = pictures()
    inputs = torch.cat([images, CHANGES[change](images[:COPIES])])
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    labels[NUM:] = 1
    found = found_pairs(inputs, labels)
    planted = {(k, NUM + k) for k in range(COPIES)}
    assert len(found & planted) >= 0.9 * COPIES
    assert found <= planted
    labels[:] = 1
    assert not found_pairs(inputs, labels)  # copies that agree are no one's mistake


def test_digits_do_not_flood() -> None:
    images, truth = load_digits(return_X_y=True)
    inputs = torch.from_numpy(np.rint(images * 255 / 16).astype(np.uint8)).reshape(-1, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.from_numpy(truth).clone()
    wrong = torch.rand(len(noisy), generator=generator) < 0.4
    noisy[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=generator)
    assert len(found_pairs(inputs, noisy)) <= 5
    copies = torch.cat([inputs, (0.9 * inputs[:30].float()).to(torch.uint8)])
    labels = torch.cat([noisy, (noisy[:30] + 1) % 10])
    planted = {(k, len(inputs) + k) for k in range(30)}
    assert len(found_pairs(copies, labels) & planted) >= 27


def test_sets_of_exact_copies() -> None:
    images = pictures(8)
    inputs = torch.cat([images, images[:1].repeat(5, 1, 1, 1)])
    labels = torch.tensor([2, *[0] * 7, 1, 0, 0, 0, 2])
    rows, similarity = find_duplicates(inputs, labels)
    # Row 9 is the first with the set's usual label; every other opinion is paired with it.
    assert {tuple(pair) for pair in rows.tolist()} == {(0, 9), (8, 9), (9, 12)}
    assert (similarity == 1).all()
    assert len(find_duplicates(inputs, labels, limit=2)[0]) == 2


def test_images_of_one_colour_are_only_compared_exactly() -> None:
    blank = torch.full((4, 1, 16, 16), 7, dtype=torch.uint8)
    blank[2:] = 9
    labels = torch.tensor([0, 1, 0, 0])
    assert found_pairs(
        torch.cat([blank, pictures(50)[:, :1, :16, :16]]),
        torch.cat([labels, torch.zeros(50, dtype=torch.int64)]),
    ) == {(0, 1)}


def test_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 16, generator=generator)
    near = points[:20] + 0.01 * torch.randn(20, 16, generator=generator)
    labels = torch.zeros(340, dtype=torch.int64)
    labels[300:] = 1
    found = found_pairs(torch.cat([points, near, points[20:40]]), labels)
    assert found == {(k, 300 + k) for k in range(40)}


def test_hashing_agrees_with_all_pairs() -> None:
    prints = F.normalize(torch.randn(400, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    prints[200:] = F.normalize(prints[:200] + 0.02 * prints[200:], dim=1)
    rows, cosine = duplicates._hashed_neighbours(prints, 3, seed=0)
    assert torch.equal(rows[200:, 0], torch.arange(200))
    exact = (prints * prints[rows[:, 0]]).sum(1)
    assert torch.allclose(cosine[:, 0], exact, atol=1e-6)
    for row in rows.tolist():
        named = [other for other in row if other >= 0]
        assert len(set(named)) == len(named)
    again, _ = duplicates._hashed_neighbours(prints, 3, seed=0)
    assert torch.equal(rows, again)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3,)])
def test_few_samples(number: int, shape: tuple[int, ...]) -> None:
    inputs = torch.arange(number * int(np.prod(shape))).reshape(number, *shape)
    inputs = inputs.to(torch.uint8) if len(shape) == 3 else inputs.float()
    rows, similarity = find_duplicates(inputs.numpy(), np.arange(number))
    assert rows.shape[1] == 2
    assert len(rows) == len(similarity)
