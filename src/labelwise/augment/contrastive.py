"""The view of contrastive pre-training: simclr."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from labelwise.augment.blur import random_blur
from labelwise.augment.colour import colour_jitter
from labelwise.augment.geometry import (
    random_affine,
    random_flip,
    random_resized_crop,
    to_unit,
)
from labelwise.augment.view import IMAGES, View, ViewOptions
from labelwise.data.dataset import Kind
from labelwise.rng import Draw

SMALL = 12  # pixels: up to here a picture is too coarse for resized crops and colour jitter
LARGE = 96  # pixels: from here on views are blurred too


@dataclass(frozen=True)
class SimCLR(View):
    """The views of contrastive pre-training: resized crop, flip, colour jitter, grey, blur.

    SimCLR (arXiv 2002.05709), appendix A and B.9, with ScanMix's settings.

    Args:
        flip: whether half of the images are mirrored.
        area: smallest share of the image a crop keeps.
        jitter: strength of brightness, contrast, saturation and hue.
        grey: share of the images that become grey.
        blur: share of the images that are blurred.
        small: use the views for tiny images instead: random affine map (±20°, ±25 % size, shear,
            shift), intensity, noise.
        intensity: largest relative change of intensity of a small image.
        noise: standard deviation of the noise added to a small image, of the range [0, 1].

    Differences from the paper:
        1. Images below 96 pixels are not blurred, as in its CIFAR experiments; larger ones are,
           with a kernel of a tenth of the side.
        2. Tiny images (up to 12 pixels) get views of our own, where crops would leave nothing.
    """

    name: ClassVar[str] = "simclr"
    kinds: ClassVar[frozenset[Kind]] = IMAGES
    citation: ClassVar[str] = "Chen et al., SimCLR, arXiv 2002.05709"

    flip: bool = True
    area: float = 0.2
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    grey: float = 0.2
    blur: float = 0.0
    small: bool = False
    intensity: float = 0.3
    noise: float = 0.05

    @classmethod
    def for_data(cls, options: ViewOptions) -> Self:
        """Choose the kind of view, and whether to blur, by the image size."""
        blur = 0.5 if min(options.size) >= LARGE else 0.0
        return cls(flip=options.flip, blur=blur, small=max(options.size) <= SMALL)

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """One contrastive view."""
        images = to_unit(batch)
        if self.small:
            return self._small(images, draw)
        cropped = random_resized_crop(images, draw, area=(self.area, 1.0), flip=self.flip)
        jittered = colour_jitter(cropped, draw, strength=self.jitter, grey=self.grey)
        if self.blur == 0:
            return jittered
        return random_blur(jittered, draw, probability=self.blur).clamp_(0, 1)

    def _small(self, images: Tensor, draw: Draw) -> Tensor:
        """Affine map, intensity and noise."""
        moved = random_affine(images, draw)
        mirrored = random_flip(draw, len(images), self.flip).view(-1, 1, 1, 1)
        moved = torch.where(mirrored, moved.flip(-1), moved)
        low, high = 1 - self.intensity, 1 + self.intensity
        factor = draw.uniform("intensity", len(images), 1, 1, 1, low=low, high=high)
        noise = draw.normal("noise", *images.shape) * self.noise
        return (moved * factor + noise).clamp_(0, 1)
