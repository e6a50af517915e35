"""Images one by one: a Pillow image in, normalised float views out, in loader workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from labelwise.augment.operations import GREATEST, UNSIGNED
from labelwise.augment.policies import CIFAR10_POLICY, RANDAUGMENT

Transform = Callable[[Image.Image], Image.Image]
FILL_SECONDS = 3.0
LEVELS = 30  # magnitudes of RandAugment
ENHANCED = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


class Images(TorchDataset[Any]):
    """Images one by one: a view for each transform (none: the image as it is), label, weight.

    Args:
        images: (N, H, W, C) uint8.
        labels: given labels (N).
        clean: P(given label is right) (N).
        transforms: one for each view.
        mean: of each channel (C), in [0, 1].
        std: likewise.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        clean: np.ndarray,
        transforms: Sequence[Transform],
        mean: np.ndarray,
        std: np.ndarray,
    ) -> None:
        self.images, self.labels, self.clean = images, labels, clean
        self.transforms = tuple(transforms)
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[list[Tensor], int, float]:
        image = Image.fromarray(self.images[row])
        views = [self.tensor(transform(image)) for transform in self.transforms]
        return views or [self.tensor(image)], int(self.labels[row]), float(self.clean[row])

    def tensor(self, image: Image.Image) -> Tensor:
        """To a normalised float tensor (C, H, W)."""
        values = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255.0
        return torch.from_numpy((values - self.mean) / self.std)


class Pairs(Images):
    """Every image with one of its neighbours, drawn among those of the same predicted class.

    Args:
        images: as in `Images`, which the other arguments belong to.
        neighbours: rows (N, K) of the mined neighbours.
        prediction: predicted classes (N), of the peer.
    """

    def __init__(
        self, *images: Any, neighbours: np.ndarray, prediction: np.ndarray, **more: Any
    ) -> None:
        super().__init__(*images, **more)
        self.neighbours, self.prediction = neighbours, prediction

    def __getitem__(self, row: int) -> Any:
        """Views of the anchor and of its neighbour, under the first transform."""
        near = self.neighbours[row]
        same = near[self.prediction[near] == self.prediction[row]]
        other = int(same[torch.randint(len(same), ())]) if len(same) else row
        pair = (Image.fromarray(self.images[place]) for place in (row, other))
        return [self.tensor(self.transforms[0](image)) for image in pair]


def uniform(low: float, high: float) -> float:
    """One number; torch's generator, because every loader worker has its own seed for it."""
    return float(torch.empty(()).uniform_(low, high))


def weak(image: Image.Image) -> Image.Image:
    """Crop out of a black border of an eighth of the side, flip every other."""
    width, height = image.size
    padding = max(1, round(min(width, height) / 8))
    left, top = (int(torch.randint(2 * padding + 1, ())) for _ in range(2))
    wide = ImageOps.expand(image, padding)
    crop = wide.crop((left, top, left + width, top + height))
    flip = float(torch.rand(())) < 0.5
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop


def autoaugment(image: Image.Image) -> Image.Image:
    """Crop, flip, and one of the 25 sub-policies of two operations (arXiv 1805.09501)."""
    image = weak(image)
    policy = CIFAR10_POLICY[int(torch.randint(len(CIFAR10_POLICY), ()))]
    for operation, chance, magnitude in policy:
        if uniform(0, 1) < chance:
            image = operate(image, operation, magnitude / 9)
    return image


def randaugment(image: Image.Image, count: int = 2, magnitude: float | None = 10) -> Image.Image:
    """Crop, flip, and some random operations (arXiv 1909.13719); None: of any magnitude."""
    image = weak(image)
    for _ in range(count):
        operation = RANDAUGMENT[int(torch.randint(len(RANDAUGMENT), ()))]
        level = uniform(0, 1) if magnitude is None else magnitude / LEVELS
        image = operate(image, operation, level)
    return image


def strong(image: Image.Image) -> Image.Image:
    """Four random operations, and one box of half the side blanked (SCAN, arXiv 2005.12320)."""
    image = randaugment(image, 4, None)
    width, height = image.size
    column, row = int(torch.randint(width, ())), int(torch.randint(height, ()))
    left, top = column - width // 4, row - height // 4
    blanked = image.copy()
    blanked.paste(0, (max(0, left), max(0, top), left + width // 2, top + height // 2))
    return blanked


def operate(image: Image.Image, operation: str, level: float) -> Image.Image:
    """One operation of the policies.

    Args:
        image: RGB.
        operation: its name.
        level: strength in [0, 1]; the sign is drawn, for operations that have one.
    """
    amount = level * GREATEST.get(operation, 0.0)
    if operation not in UNSIGNED and uniform(0, 1) < 0.5:
        amount = -amount
    if operation in ENHANCED:
        return ENHANCED[operation](image).enhance(1 + amount)
    if operation == "rotate":
        return image.rotate(amount, Image.Resampling.BILINEAR)
    if operation.startswith(("shear", "translate")):
        return moved(image, operation, amount)
    if operation == "posterize":
        return ImageOps.posterize(image, 8 - round(amount))
    if operation == "solarize":
        return ImageOps.solarize(image, math.ceil((1 - amount) * 255))
    if operation == "invert":
        return ImageOps.invert(image)
    if operation == "auto_contrast":
        return ImageOps.autocontrast(image)
    if operation == "equalize":
        return ImageOps.equalize(image)
    assert operation == "identity", operation
    return image


def moved(image: Image.Image, operation: str, amount: float) -> Image.Image:
    """Sheared about the centre, or shifted by a share of the side; black comes in."""
    width, height = image.size
    lines = {
        "shear_x": (1, amount, -amount * height / 2, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, -amount * width / 2),
        "translate_x": (1, 0, amount * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * height),
    }
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, affine, lines[operation], bilinear)


def loader(
    data: Images, batch: int, workers: int, *, shuffle: bool = True, pin: bool = False
) -> DataLoader[Any]:
    """Batches of one epoch, full ones where they are shuffled; its workers stay for the next."""
    return DataLoader(
        data,
        batch,
        shuffle=shuffle,
        drop_last=shuffle,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )


def endless(data: Images, batch: int, workers: int, pin: bool = False) -> Iterator[Any]:
    """Random full batches without end, from a queue that is full."""
    sampler = RandomSampler(data, replacement=True, num_samples=10**9)
    batches = iter(DataLoader(data, batch, sampler=sampler, num_workers=workers, pin_memory=pin))
    next(batches)
    if workers:
        time.sleep(FILL_SECONDS)
    return batches
