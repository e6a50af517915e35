"""Colour changes as one affine matrix per image: brightness, contrast, saturation, hue, grey.

Each of them maps a pixel's channel vector v to M·v + t, so any sequence of them is one C×(C+1)
matrix per image and a whole batch is one batched matrix product. Contrast and saturation blend
with the luma Y = 0.299 R + 0.587 G + 0.114 B; hue is a rotation of the (I, Q) plane of YIQ, which
leaves luma alone.

Why own code: the whole SimCLR view runs at 28,900 images a second, with kornia's operations at
5,500 (one shared core, 32×32×3, batch 256, alternated in one run; `benchmarks/augment.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelwise.rng import Draw

LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as PIL and torchvision use
YIQ = np.array((LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)), dtype=np.float32)


def constant(values: object, device: torch.device) -> Tensor:
    """Put a small host-side float table on the device without making the host wait for it."""
    table = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return table.to(device, non_blocking=True)


def luma_weights(channels: int, device: torch.device) -> Tensor:
    """Weights (C) of the grey value: Rec. 601 for 3 channels, the plain mean otherwise."""
    if channels == 3:
        return constant(LUMA, device)
    return torch.full((channels,), 1 / channels, device=device)


@dataclass(frozen=True)
class Affine:
    """A colour map v → matrix · v + offset for every image.

    Args:
        matrix: (B, C, C).
        offset: (B, C).
    """

    matrix: Tensor
    offset: Tensor

    @classmethod
    def identity(cls, images: Tensor) -> Affine:
        """The map that changes nothing, for a batch (B, C, H, W)."""
        count, channels = images.shape[:2]
        eye = torch.eye(channels, device=images.device).expand(count, channels, channels)
        return cls(eye, torch.zeros(count, channels, device=images.device))

    def then(self, matrix: Tensor, offset: Tensor | None = None) -> Affine:
        """This map followed by another, given as (B, C, C) and (B, C)."""
        moved = (matrix @ self.offset.unsqueeze(-1)).squeeze(-1)
        return Affine(matrix @ self.matrix, moved if offset is None else moved + offset)

    def apply(self, images: Tensor) -> Tensor:
        """Map every pixel of float32 images (B, C, H, W) and clip to [0, 1]."""
        mapped = torch.baddbmm(self.offset.unsqueeze(-1), self.matrix, images.flatten(2))
        return mapped.view(images.shape).clamp_(0, 1)


def brightness(colour: Affine, factor: Tensor) -> Affine:
    """Multiply by `factor` (B)."""
    scale = factor.view(-1, 1)
    return Affine(colour.matrix * scale.unsqueeze(-1), colour.offset * scale)


def contrast(colour: Affine, factor: Tensor, mean: Tensor) -> Affine:
    """Blend with the image's mean grey value: c·v + (1 - c)·Ȳ.

    Args:
        colour: the map so far.
        factor: c (B).
        mean: mean of each channel (B, C) of the image *before* `colour`.
    """
    channels = mean.shape[1]
    seen = (colour.matrix @ mean.unsqueeze(-1)).squeeze(-1) + colour.offset
    grey = seen @ luma_weights(channels, mean.device)
    scaled = brightness(colour, factor)
    return Affine(scaled.matrix, scaled.offset + ((1 - factor) * grey).unsqueeze(-1))


def saturation(colour: Affine, factor: Tensor) -> Affine:
    """Blend every pixel with its own grey value: s·v + (1 - s)·Y(v); `factor` s (B)."""
    channels = colour.matrix.shape[1]
    weights = luma_weights(channels, factor.device)
    eye = torch.eye(channels, device=factor.device)
    amount = factor.view(-1, 1, 1)
    return colour.then(amount * eye + (1 - amount) * weights.expand(channels, channels))


def hue(colour: Affine, turn: Tensor) -> Affine:
    """Rotate the hue by `turn` (B) of a full circle, in the (I, Q) plane; 3 channels only."""
    to_yiq = constant(YIQ, turn.device)
    from_yiq = constant(np.linalg.inv(YIQ), turn.device)
    angle = turn * (2 * math.pi)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    one = torch.ones_like(angle)
    # This sense turns red towards yellow for a positive turn, as HSV does.
    rows = (one, zero, zero, zero, cos, sin, zero, -sin, cos)
    rotation = torch.stack(rows, dim=-1).view(-1, 3, 3)
    return colour.then(from_yiq @ rotation @ to_yiq)


def colour_jitter(
    images: Tensor,
    draw: Draw,
    *,
    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    probability: float = 0.8,
    grey: float = 0.2,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, and make some images grey (SimCLR).

    SimCLR, arXiv 2002.05709, appendix A. Images with other than 3 channels get brightness and
    contrast only.

    Args:
        images: float32 (B, C, H, W) in [0, 1].
        draw: randomness; purposes "jitter", "jittered", "grey".
        strength: largest change of brightness, contrast and saturation (relative) and of hue (as
            a fraction of the circle).
        probability: share of the images that are jittered.
        grey: share of the images that become grey.

    Differences from the paper:
        1. The order is fixed (brightness, contrast, saturation, hue) and values are clipped once
           at the end: that is what makes the whole a single matrix.
        2. Hue turns in YIQ, not in HSV; luma is kept instead of the HSV value.
    """
    count, channels = images.shape[:2]
    change = draw.uniform("jitter", count, 4, low=-1, high=1)
    change = change * (draw.uniform("jittered", count, 1) < probability)
    factor = 1 + change * constant(strength, images.device)
    colour = brightness(Affine.identity(images), factor[:, 0])
    colour = contrast(colour, factor[:, 1], images.mean((2, 3)))
    if channels == 3:
        colour = saturation(colour, factor[:, 2])
        colour = hue(colour, factor[:, 3] - 1)
        colour = saturation(colour, (draw.uniform("grey", count) >= grey).float())
    return colour.apply(images)
