"""Gaussian blur with another strength for every image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labelwise.rng import Draw


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur every image with its own Gaussian, as two one-dimensional convolutions.

    All images are laid side by side as channels of one, so that the whole batch is two calls,
    each channel with its own kernel.

    Args:
        images: float32 (B, C, H, W).
        sigma: standard deviations (B) in pixels, above 0.
        radius: the kernel has 2 · radius + 1 pixels; below both sides of the image, which is
            mirrored at its borders.
    """
    count, channels, height, width = images.shape
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-offset.square() / (2 * sigma.square().unsqueeze(1)), dim=1)
    kernel = kernel.repeat_interleave(channels, dim=0)
    wide = images.reshape(1, count * channels, height, width)
    wide = F.pad(wide, (radius,) * 4, mode="reflect")
    wide = F.conv2d(wide, kernel[:, None, None, :], groups=count * channels)
    wide = F.conv2d(wide, kernel[:, None, :, None], groups=count * channels)
    return wide.view(images.shape)


def random_blur(
    images: Tensor,
    draw: Draw,
    *,
    probability: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    share: float = 0.1,
) -> Tensor:
    """Blur some of the images, each with its own strength (SimCLR, 2002.05709, appendix A).

    Args:
        images: float32 (B, C, H, W).
        draw: randomness; purposes "blurred", "sigma".
        probability: share of the images that are blurred.
        sigma: range of the standard deviation, pixels.
        share: width of the kernel as a share of the shorter side.
    """
    count = len(images)
    strength = draw.uniform("sigma", count, low=sigma[0], high=sigma[1])
    # Which ones is drawn on the host: picking rows by a mask on the device would wait for it.
    chosen = draw.numpy("blurred").random(count * draw.world) < probability
    rows = torch.from_numpy(np.flatnonzero(chosen[draw.rank :: draw.world]))
    if len(rows) == 0:
        return images
    rows = rows.to(images.device, non_blocking=True)
    radius = max(1, round(share * min(images.shape[-2:]) / 2))
    blurred = gaussian_blur(images[rows], strength[rows], radius)
    return images.index_copy(0, rows, blurred)
