"""SimCLR the plain way: views image by image through Pillow, and the loss as it is usually coded.

The views are those of SimCLR for CIFAR-10 (arXiv 2002.05709, appendix B.9), step by step as usual
image libraries do them on Pillow images: crops drawn again until they fit, colours jittered in a
random order, hue in HSV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from plain.images import uniform
from plain.networks import Peers

AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
STRENGTH, HUE = 0.4, 0.1
JITTERED, GREY = 0.8, 0.2
ATTEMPTS = 10
TEMPERATURE = 0.2
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def resized_crop(image: Image.Image) -> Image.Image:
    """Cut out a random box and bring it back to the image's size."""
    width, height = image.size
    for _ in range(ATTEMPTS):
        area = width * height * uniform(*AREA)
        aspect = math.exp(uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left = int(torch.randint(width - wide + 1, ()))
            top = int(torch.randint(height - high + 1, ()))
            box = (left, top, left + wide, top + high)
            return image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a fraction of the circle, through HSV."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def colour_jitter(image: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation and hue, in a random order."""
    for kind in torch.randperm(len(ENHANCERS) + 1).tolist():
        if kind < len(ENHANCERS):
            image = ENHANCERS[kind](image).enhance(uniform(1 - STRENGTH, 1 + STRENGTH))
        else:
            image = turn_hue(image, uniform(-HUE, HUE))
    return image


def simclr_view(image: Image.Image) -> Image.Image:
    """One view: resized crop, flip, colour jitter, grey."""
    image = resized_crop(image)
    if uniform(0, 1) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if uniform(0, 1) < JITTERED:
        image = colour_jitter(image)
    return image.convert("L").convert("RGB") if uniform(0, 1) < GREY else image


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent of (2·B, D) projections, the second views after the first."""
    unit = F.normalize(projections, dim=1)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    size = len(unit) // 2
    twin = torch.arange(2 * size, device=unit.device).roll(size)
    return F.cross_entropy(logits, twin)


@dataclass
class SimCLR:
    """One network and its projection head.

    Args:
        peers: the network.
        train: loader of two views.
    """

    peers: Peers
    train: Any = None

    def step(self, batch: Any) -> float:
        """One step, both views in one forward."""
        views, _, _ = self.peers.here(batch)
        projections = self.peers.logits(0, torch.cat(views), "projection")
        return self.peers.update(0, nt_xent(projections, TEMPERATURE))

    def epoch(self) -> None:
        """All images once."""
        self.peers.networks[0].train()
        for batch in self.train:
            self.step(batch)
