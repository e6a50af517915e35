"""Heads: small modules from features, or from the last feature map, to a named output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RECONSTRUCTION = "reconstruction"
"""Name of the head that rebuilds the image."""


@dataclass(frozen=True)
class HeadSpec:
    """What a head must fit.

    Args:
        num_features: F, width of the features.
        num_classes: K.
        shape: shape of one input, (C, H, W) or (D,).
        map_size: gives height and width of the last feature map; asked only by heads that read
            it, for it costs a forward.
    """

    num_features: int
    num_classes: int
    shape: tuple[int, ...]
    map_size: Callable[[], tuple[int, int]] = lambda: (1, 1)


class MapHead(nn.Module):
    """A head that reads the last feature map (B, F, h, w) in place of the features (B, F)."""


class Linear(nn.Linear):
    """A linear head (B, F) -> (B, K), initialised by PyTorch's default rule."""


class Projection(nn.Sequential):
    """The two-layer head of contrastive learning, (B, F) -> (B, D).

    SimCLR (arXiv 2002.05709, section 2.1): what is compared is not the features but a small
    network's view of them, which is thrown away afterwards.

    Args:
        num_features: F.
        width: D, width of the output; it is not normalised.
    """

    def __init__(self, num_features: int, width: int = 128) -> None:
        super().__init__(
            nn.Linear(num_features, num_features),
            nn.ReLU(inplace=True),
            nn.Linear(num_features, width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, D)."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected


class Twins(nn.Module):
    """Two linear classifiers on the same features, apart from the one that predicts.

    They learn without moving the features, and the features may be moved to suit both without
    moving them: the same logits are given twice, once with a gradient for the classifiers alone,
    once for the features alone. So a single forward serves both.

    Args:
        num_features: F.
        num_classes: K.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.first = Linear(num_features, num_classes)
        self.second = Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> logits (B, 2, 2, K): gradient to the twins, to the features; first, second."""
        pair = (self.first, self.second)
        held = [F.linear(features, head.weight.detach(), head.bias.detach()) for head in pair]
        learnt = [head(features.detach()) for head in pair]
        return torch.stack([torch.stack(learnt, 1), torch.stack(held, 1)], 1)


class Decoder(MapHead):
    """A light decoder from the last feature map to the image, in the network's input units.

    SANM (arXiv 2302.06805), section 3.4: transposed convolutions that double the size and halve
    the width, for PreAct ResNet-18 at 32 pixels 512 -> 256 -> 128 -> 3 (authors' code).

    Args:
        num_features: F.
        map_size: height and width of the feature map.
        shape: (C, H, W) of the images.

    Differences from the paper:
        1. As many doublings as lie between the feature map and the image; what is left (an image
           side that is no power of two times the map's) is resized bilinearly at the end.
        2. The first layer gives at most 256 channels, a later one at least 16.
        3. ReLU stands between the layers, and no batch normalisation (the sources do not say).
    """

    WIDEST, NARROWEST = 256, 16

    def __init__(
        self, num_features: int, map_size: tuple[int, int], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, *size = shape
        self.size = (size[0], size[1])
        ratio = max(size[0] / map_size[0], size[1] / map_size[1])
        doublings = max(0, round(math.log2(ratio)))
        layers: list[nn.Module] = []
        width = num_features
        for _ in range(doublings - 1):
            narrower = max(self.NARROWEST, min(self.WIDEST, width // 2))
            layers += [
                nn.ConvTranspose2d(width, narrower, 4, 2, 1),
                nn.ReLU(inplace=True),
            ]
            width = narrower
        last = (
            nn.ConvTranspose2d(width, channels, 4, 2, 1)
            if doublings
            else nn.Conv2d(width, channels, 3, 1, 1)
        )
        self.layers = nn.Sequential(*layers, last)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, C, H, W)."""
        images = cast(Tensor, self.layers(maps))
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        return images
