"""The image operations of AutoAugment and RandAugment, with another choice for every image.

A batch is sorted by operation, so that each operation runs once on the images that drew it; all
rotations, shears and shifts are one resampling, all linear colour changes one matrix product.

Why own code: kornia 0.9's policies choose once per call, so a batch keeps its variety only when
it is cut into small calls, and their choices come from the global generator, so the number of
processes would change them. Measured alternately in one run on one shared core, 32×32×3, batch
256, kornia in calls of 8 images, crop and flip included (`benchmarks/augment.py`), images a second:
AutoAugment 14,900 (kornia 3,700), RandAugment(2, 10) 14,300 (4,600), four operations 7,400 (2,800).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from labelwise.augment.colour import (
    Affine,
    brightness,
    constant,
    contrast,
    saturation,
)
from labelwise.augment.geometry import affine_matrix, warp

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
COLOURING = ("brightness", "contrast", "saturation", "invert")
OPERATIONS = (
    *("identity", *GEOMETRIC, *COLOURING),
    *("posterize", "solarize", "auto_contrast", "equalize", "sharpness"),
)
CODE = {operation: code for code, operation in enumerate(OPERATIONS)}

# What the greatest magnitude does (AutoAugment, arXiv 1805.09501, table 6); all but the last two
# take a random sign.
GREATEST = {
    "rotate": 30.0,  # degrees
    "shear_x": 0.3,  # pixels per pixel
    "shear_y": 0.3,
    "translate_x": 150 / 331,  # fraction of the side
    "translate_y": 150 / 331,
    "brightness": 0.9,  # factor 1 ± 0.9
    "contrast": 0.9,
    "saturation": 0.9,  # "color" in the paper
    "sharpness": 0.9,
    "posterize": 4.0,  # bits taken away
    "solarize": 1.0,  # 1 - threshold
}
UNSIGNED = ("posterize", "solarize")


@dataclass(frozen=True)
class Choice:
    """One operation for every image, on the host: drawing it needs no word from the device.

    Args:
        operation: index into `OPERATIONS` (B).
        amount: signed strength in the operation's own unit (B), see `GREATEST`.
    """

    operation: NDArray[np.int64]
    amount: NDArray[np.float32]

    @classmethod
    def of(
        cls, operation: NDArray[np.int64], level: NDArray[np.float64], sign: NDArray[np.float64]
    ) -> Choice:
        """Scale magnitudes `level` (B) in [0, 1], signed by `sign` (B), to each one's unit."""
        greatest = np.array([GREATEST.get(name, 0.0) for name in OPERATIONS])
        signed = np.array([name not in UNSIGNED for name in OPERATIONS])
        amount = level * greatest[operation] * np.where(signed[operation], sign, 1.0)
        return cls(operation, amount.astype(np.float32))


def apply_choice(images: Tensor, choice: Choice, fill: float = 0.0) -> Tensor:
    """Apply to every image the operation it drew.

    Args:
        images: float32 (B, C, H, W) in [0, 1], B > 0.
        choice: one operation and amount for every image.
        fill: value of what moves into the picture.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    order = np.argsort(choice.operation, kind="stable")
    back = np.argsort(order, kind="stable")
    codes, amounts = choice.operation[order], choice.amount[order]
    device = images.device
    amount = constant(amounts, device)
    ordered = images[torch.from_numpy(order).to(device, non_blocking=True)]
    parts: list[Tensor] = []
    for names, function in FAMILIES:
        first = int(np.searchsorted(codes, CODE[names[0]], side="left"))
        last = int(np.searchsorted(codes, CODE[names[-1]], side="right"))
        if last > first:
            rows = slice(first, last)
            kinds = codes[rows, None] == [CODE[name] for name in names]
            parts.append(function(ordered[rows], amount[rows], constant(kinds, device), fill))
    return torch.cat(parts)[torch.from_numpy(back).to(device, non_blocking=True)]


def _keep(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Leave the images as they are."""
    return images


def _move(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Rotate, shear or shift each image: `kinds` (B, 5) has a one where `GEOMETRIC` was drawn."""
    angle, shear_x, shear_y, shift_x, shift_y = (kinds * amount.unsqueeze(-1)).unbind(-1)
    height, width = images.shape[-2:]
    linear = affine_matrix(
        angle=angle,
        scale=torch.ones_like(angle),
        shear_x=shear_x,
        shear_y=shear_y,
        size=(height, width),
    )
    centre = torch.stack((shift_x, shift_y), dim=-1) * 2  # the picture is 2 wide
    return warp(images, linear, centre, border=False, fill=fill)


def _colour(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Change brightness, contrast or saturation by 1 + amount, or invert; `kinds` (B, 4)."""
    factor = 1 + kinds * amount.unsqueeze(-1)
    colour = brightness(Affine.identity(images), factor[:, 0])
    colour = contrast(colour, factor[:, 1], images.mean((2, 3)))
    colour = saturation(colour, factor[:, 2])
    inverted = kinds[:, 3]
    colour = brightness(colour, 1 - 2 * inverted)
    return Affine(colour.matrix, colour.offset + inverted.unsqueeze(-1)).apply(images)


def _posterize(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Keep the 8 - round(amount) highest bits of every 8-bit value."""
    step = torch.exp2(amount.round()).view(-1, 1, 1, 1)
    values = (images * 255).round_()
    return torch.floor(values / step).mul_(step).mul_(1 / 255)


def _solarize(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Invert the values at or above 1 - amount."""
    return torch.where(images >= 1 - amount.view(-1, 1, 1, 1), 1 - images, images)


def _auto_contrast(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Stretch every channel to the full range; a constant channel stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    flat = span < 1 / 255
    return torch.where(flat, images, (images - low) / span.masked_fill(flat, 1)).clamp_(0, 1)


def _equalize(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Spread every channel's 8-bit histogram evenly, by PIL's integer rule.

    With n pixels of which m have the largest value, s = ⌊(n - m) / 255⌋ and a value that k pixels
    lie below becomes ⌊(⌊s/2⌋ + k) / s⌋; a channel with s = 0 stays (so do all images under 255
    pixels).
    """
    values = (images * 255).round_().long().flatten(2)
    count = torch.zeros((*values.shape[:2], 256), dtype=torch.int64, device=images.device)
    count.scatter_add_(2, values, torch.ones_like(values))
    top = count.gather(2, values.amax(-1, keepdim=True))
    step = (values.shape[-1] - top) // 255
    below = count.cumsum(-1) - count
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    spread = table.gather(2, values).to(images.dtype).mul_(1 / 255)
    return torch.where(step > 0, spread, images.flatten(2)).view(images.shape)


def _sharpness(images: Tensor, amount: Tensor, kinds: Tensor, fill: float) -> Tensor:
    """Blend with PIL's 3×3 smoothing (centre 5, others 1, of 13): factor 1 + amount.

    Border pixels have no full neighbourhood and stay.
    """
    inner = images[:, :, 1:-1, 1:-1]
    smooth = (F.avg_pool2d(images, 3, stride=1) * 9 + inner * 4) / 13
    detail = F.pad(inner - smooth, (1, 1, 1, 1))
    return (images + detail * amount.view(-1, 1, 1, 1)).clamp_(0, 1)


Function = Callable[[Tensor, Tensor, Tensor, float], Tensor]
# In the order of OPERATIONS: each function serves one run of neighbouring codes.
FAMILIES: tuple[tuple[tuple[str, ...], Function], ...] = (
    (("identity",), _keep),
    (GEOMETRIC, _move),
    (COLOURING, _colour),
    (("posterize",), _posterize),
    (("solarize",), _solarize),
    (("auto_contrast",), _auto_contrast),
    (("equalize",), _equalize),
    (("sharpness",), _sharpness),
)
