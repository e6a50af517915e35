"""The batched augmentations against slow references: one image, one pixel at a time, and PIL."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from labelwise.augment.colour import Affine, brightness, contrast, hue, saturation
from labelwise.augment.geometry import (
    affine_matrix,
    crop_and_flip,
    cut_out,
    random_resized_crop,
    warp,
)
from labelwise.augment.operations import CODE, Choice, apply_choice
from labelwise.augment.policies import CIFAR10_POLICY
from labelwise.rng import Draw

torch.set_num_threads(1)


def pictures(count: int, channels: int = 3, height: int = 24, width: int = 20) -> Tensor:
    """Smooth random uint8 pictures of different range, so that no operation is trivial."""
    host = np.random.default_rng(0)
    coarse = torch.from_numpy(host.random((count, channels, 5, 5), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    span = torch.linspace(0.3, 1, count).view(-1, 1, 1, 1)
    return (smooth * span * 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_and_flip(channels: int, padding: int) -> None:
    images = pictures(40, channels)
    host = np.random.default_rng(1)
    top, left = host.integers(0, 2 * padding + 1, (2, 40))
    flip = host.random(40) < 0.5
    result = crop_and_flip(
        images, torch.from_numpy(top), torch.from_numpy(left), torch.from_numpy(flip), padding
    )
    for i, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        crop = padded[:, top[i] : top[i] + 24, left[i] : left[i] + 20]
        crop = crop[:, :, ::-1] if flip[i] else crop
        np.testing.assert_allclose(result[i].numpy(), crop.astype(np.float32) / 255, rtol=1e-6)


def sample_by_hand(image: np.ndarray, x: float, y: float, border: bool) -> np.ndarray:
    """Bilinear value of an image (C, H, W) at pixel coordinates, zeros or edges outside."""
    _, height, width = image.shape
    if border:
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    value = np.zeros(len(image))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value += weight * image[:, row, column]
    return value


def test_affine_map_per_pixel() -> None:
    """Rotation, shear and scale in pixels about the centre of an oblong image."""
    images = pictures(3, 2, 9, 13).float() / 255
    angle, scale = torch.tensor([30.0, -50.0, 0.0]), torch.tensor([1.0, 1.2, 0.8])
    shear_x, shear_y = torch.tensor([0.0, 0.1, 0.3]), torch.tensor([0.0, -0.2, 0.1])
    linear = affine_matrix(angle=angle, scale=scale, shear_x=shear_x, shear_y=shear_y, size=(9, 13))
    shift = torch.tensor([[0.0, 0.0], [0.1, -0.2], [0.3, 0.05]])
    result = warp(images, linear, shift, border=False, fill=0).numpy()
    for i, image in enumerate(images.numpy()):
        turn = math.radians(angle[i])
        rotate = np.array(((math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))))
        matrix = rotate @ np.array(((1, shear_x[i]), (shear_y[i], 1))) / float(scale[i])
        for row in range(9):
            for column in range(13):
                x, y = matrix @ np.array((column - 6.0, row - 4.0))
                x += 6.0 + float(shift[i, 0]) * 13 / 2
                y += 4.0 + float(shift[i, 1]) * 9 / 2
                expected = sample_by_hand(image, x, y, border=False)
                np.testing.assert_allclose(result[i, :, row, column], expected, atol=2e-5)


def test_resized_crop_per_pixel() -> None:
    images = pictures(4, 1, 12, 10).float() / 255
    draw = Draw(seed=5)
    result = random_resized_crop(images, draw, flip=True).numpy()
    share = draw.uniform("area", 4, low=0.2, high=1.0).numpy()
    aspect = np.exp(draw.uniform("ratio", 4, low=math.log(3 / 4), high=math.log(4 / 3)).numpy())
    place = draw.uniform("place", 4, 2, low=-1, high=1).numpy()
    flip = draw.uniform("flip", 4).numpy() < 0.5
    assert flip.any()
    for i, image in enumerate(images.numpy()):
        wide = min(math.sqrt(share[i] * aspect[i]), 1) * 10
        high = min(math.sqrt(share[i] / aspect[i]), 1) * 12
        left, top = (10 - wide) * (place[i, 0] + 1) / 2, (12 - high) * (place[i, 1] + 1) / 2
        for row in range(12):
            for column in range(10):
                seen = 9 - column if flip[i] else column
                x, y = left + (seen + 0.5) / 10 * wide - 0.5, top + (row + 0.5) / 12 * high - 0.5
                expected = sample_by_hand(image, x, y, border=True)
                np.testing.assert_allclose(result[i, :, row, column], expected, atol=2e-5)


def test_cut_out_per_pixel() -> None:
    images = torch.ones(30, 2, 9, 11)
    draw = Draw(seed=2)
    result = cut_out(images, draw, (4, 5), fill=0.25)
    rows, columns = (
        draw.integers("row", 30, low=0, high=9),
        draw.integers("column", 30, low=0, high=11),
    )
    for i in range(30):
        expected = np.ones((2, 9, 11))
        top, left = int(rows[i]) - 2, int(columns[i]) - 2
        expected[:, max(top, 0) : top + 4, max(left, 0) : left + 5] = 0.25
        np.testing.assert_array_equal(result[i].numpy(), expected)


def colour_by_hand(image: np.ndarray, b: float, c: float, s: float, h: float) -> np.ndarray:
    """Brightness, contrast, saturation and hue of one image (3, H, W), pixel by pixel."""

    def grey(pixel: np.ndarray) -> float:
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    out = image.astype(np.float64) * b
    pixels = [(row, column) for row in range(out.shape[1]) for column in range(out.shape[2])]
    mean = sum(grey(out[:, row, column]) for row, column in pixels) / len(pixels)
    for row, column in pixels:
        pixel = c * out[:, row, column] + (1 - c) * mean
        pixel = s * pixel + (1 - s) * grey(pixel)
        y, i, q = to_yiq(pixel)
        turn = 2 * math.pi * h
        i, q = math.cos(turn) * i + math.sin(turn) * q, math.cos(turn) * q - math.sin(turn) * i
        out[:, row, column] = from_yiq(y, i, q)
    return out.clip(0, 1)


def to_yiq(pixel: np.ndarray) -> tuple[float, float, float]:
    r, g, b = pixel
    y = 0.299 * r + 0.587 * g + 0.114 * b
    i = 0.5959 * r - 0.2746 * g - 0.3213 * b
    return y, i, 0.2115 * r - 0.5227 * g + 0.3112 * b


def from_yiq(y: float, i: float, q: float) -> np.ndarray:
    basis = np.array([to_yiq(unit) for unit in np.eye(3)]).T
    return np.linalg.solve(basis, np.array((y, i, q)))


def test_colour_matrix_per_pixel() -> None:
    images = pictures(6, height=6, width=7).float() / 255
    host = np.random.default_rng(3)
    factors = host.uniform((0.6, 0.6, 0.0, -0.1), (1.4, 1.4, 1.4, 0.1), (6, 4))
    b, c, s, h = torch.from_numpy(factors.astype(np.float32)).unbind(1)
    colour = brightness(Affine.identity(images), b)
    colour = hue(saturation(contrast(colour, c, images.mean((2, 3))), s), h)
    result = colour.apply(images).numpy()
    for i, image in enumerate(images.numpy()):
        np.testing.assert_allclose(result[i], colour_by_hand(image, *factors[i]), atol=2e-5)


def test_hue_turns_as_hsv_does() -> None:
    """A small positive turn moves the hue the way torchvision's and PIL's hue shift does."""
    pixel = torch.tensor([0.6, 0.4, 0.35]).view(1, 3, 1, 1)
    turned = hue(Affine.identity(pixel), torch.tensor([0.1])).apply(pixel).flatten().tolist()
    before, after = colorsys.rgb_to_hsv(0.6, 0.4, 0.35)[0], colorsys.rgb_to_hsv(*turned)[0]
    assert 0.05 < (after - before) % 1 < 0.15


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


PIL_OPERATIONS = {
    "brightness": (0.5, lambda image: ImageEnhance.Brightness(image).enhance(1.5)),
    "contrast": (-0.6, lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
    "saturation": (0.8, lambda image: ImageEnhance.Color(image).enhance(1.8)),
    "sharpness": (0.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
    "posterize": (3.0, lambda image: ImageOps.posterize(image, 5)),
    "solarize": (0.6, lambda image: ImageOps.solarize(image, 102)),
    "auto_contrast": (0.0, ImageOps.autocontrast),
    "equalize": (0.0, ImageOps.equalize),
    "invert": (0.0, ImageOps.invert),
    "identity": (0.0, lambda image: image),
    "rotate": (20.0, lambda image: image.rotate(20, resample=Image.Resampling.BILINEAR)),
}


@pytest.mark.parametrize("operation", PIL_OPERATIONS)
def test_operation_is_that_of_pil(operation: str) -> None:
    images = pictures(12, height=40, width=30)
    amount, expected = PIL_OPERATIONS[operation]
    choice = Choice(np.full(12, CODE[operation]), np.full(12, amount, dtype=np.float32))
    result = (apply_choice(images.float() / 255, choice) * 255).permute(0, 2, 3, 1).numpy()
    # PIL rounds to 8 bits (the mean grey too); its border of a rotated picture is not blended.
    tolerance = {
        "brightness": 1,
        "contrast": 1.5,
        "saturation": 2,
        "sharpness": 1.5,
        "auto_contrast": 1.1,
        "rotate": 2,
    }.get(operation, 1e-3)
    for i, image in enumerate(images):
        difference = np.abs(result[i] - np.asarray(expected(pil(image)), dtype=np.float64))
        if operation == "rotate":
            difference = difference[8:-8, 8:-8]
        assert difference.max() <= tolerance


def test_policy_is_the_published_one() -> None:
    """The 25 sub-policies agree with kornia's table (which leaves out unused magnitudes)."""
    table = pytest.importorskip("kornia.augmentation.auto.autoaugment.autoaugment")
    assert len(table.cifar10_policy) == len(CIFAR10_POLICY)
    for theirs, ours in zip(table.cifar10_policy, CIFAR10_POLICY, strict=True):
        for (name, chance, magnitude), own in zip(theirs, ours, strict=True):
            assert own[:2] == ({"color": "saturation"}.get(name, name), chance)
            assert magnitude in (None, own[2])
