"""Adversarial masking: cover what a network looks at most, and least, in a whole batch at once.

SANM (Tu et al., arXiv 2302.06805), sections 3.2 and 3.3. A `Masker` draws everything from the
position it is handed and gives masked copies of a batch with their places, so that training and
the report's pictures mask alike. Nothing here loops over images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.augment.boxes import Anchor, Boxes, box_sides, place_boxes, within
from labelwise.rng import Draw

Ratio = Literal["adaptive", "random", "fixed"]
Place = Literal["auto", "guided", "random"]
Spot = Literal["pixel", "cell"]
Sides = Literal["auto", "both", "either", "hot", "cold"]
Fill = Literal["random", "black"]

EQUAL = 1e-5
"""Relative difference of activations up to which they count as equal."""
FLAT = 1e-3
"""Relative spread of a map below which it has no place that stands out: behind a final layer
normalisation, as token models have it, the sum of squares is everywhere the same."""
COARSE = 4
"""Cells a side below which a map says too little of where: its cells are large parts of the image,
and all extremes of the resized map lie on the rim."""


def activation_map(maps: Tensor) -> Tensor:
    """How strongly each place of a feature map responds, A = Σ_c f_c².

    SANM (arXiv 2302.06805), section 3.2.

    Args:
        maps: last feature map (B, F, h, w).

    Returns:
        (B, h, w) float32, at least 0.
    """
    return maps.float().square().sum(1)


def has_relief(activation: Tensor) -> Tensor:
    """Whether some places of a map (B, h, w) stand out by more than `FLAT` of it (B) bool."""
    flat = activation.flatten(1)
    most = flat.amax(1)
    return most - flat.amin(1) > FLAT * most


def extreme_cells(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (B, 2) int64 of the most and of the least activated cell; first of equals.

    Equal up to rounding: the rim of a resized map is flat, and processors round differently.
    """
    flat, width = activation.flatten(1), activation.shape[2]
    most, least = flat.amax(1, keepdim=True), flat.amin(1, keepdim=True)
    slack = EQUAL * most
    found = (flat >= most - slack).float().argmax(1), (flat <= least + slack).float().argmax(1)
    hot, cold = (torch.stack((cell // width, cell % width), dim=1) for cell in found)
    return hot, cold


def extreme_pixels(activation: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The most and the least activated pixel of each image.

    Args:
        activation: (B, h, w).
        size: height H and width W of the images; the map is resized to them bilinearly.

    Returns:
        Rows and columns (B, 2) int64 of the hottest and of the coldest pixel; the first of equals.
    """
    wide = F.interpolate(activation.unsqueeze(1), size, mode="bilinear", align_corners=False)
    return extreme_cells(wide.squeeze(1))


@dataclass(frozen=True)
class Masked:
    """A masked copy of a batch.

    Args:
        images: (B, C, H, W), in the memory format of the originals.
        boxes: what is covered.
    """

    images: Tensor
    boxes: Boxes


@dataclass(frozen=True)
class Masker:
    """Settings of the masks, and the masking itself.

    Args:
        ratio: "adaptive" masks more where the label is doubtful, "random" draws alike for all,
            "fixed" takes `basic` for all.
        basic: mean of the drawn share of the image, for both boxes together.
        spread: it is drawn from basic ± spread.
        gain: what a label that is surely wrong adds to it.
        scale: factor on the ratio, for images so small that it would cover next to nothing.
        place: "guided" by the activation map (paper), "random", or "auto": random where the map has
            fewer than `COARSE` cells a side.
        spot: the extreme "pixel" of the resized map (paper), or a random pixel of its extreme
            "cell".
        anchor: whether the extreme pixel is the "centre" of its box or its first "corner".
        boxes: a copy with the "hot" box, one with the "cold" box, "both", one with "either",
            drawn for each image, or "auto": both where there are several views to add to.
        fill: one "random" value per image and channel, or "black".
        elongation: height over width is drawn from U(1 / elongation, elongation).
        cover: whether the boxes are covered at all; without, copies are as the originals.
    """

    ratio: Ratio = "adaptive"
    basic: float = 0.045
    spread: float = 0.025
    gain: float = 0.03
    scale: float = 1.0
    place: Place = "auto"
    spot: Spot = "pixel"
    anchor: Anchor = "centre"
    boxes: Sides = "auto"
    fill: Fill = "random"
    elongation: float = 1.25
    cover: bool = True

    def names(self, num_views: int) -> tuple[str, ...]:
        """What the copies of an image with so many views are called, hot before cold."""
        if self.boxes == "auto":
            return ("hot", "cold") if num_views > 1 else ("either",)
        return ("hot", "cold") if self.boxes == "both" else (self.boxes,)

    def guides(self, grid: tuple[int, int]) -> bool:
        """Whether an activation map of `grid` rows and columns says where the boxes are."""
        fine = min(grid) >= COARSE
        return self.cover and (self.place == "guided" or (self.place == "auto" and fine))

    def ratios(self, clean: Tensor, draw: Draw) -> Tensor:
        """Draw r, the share of each image that both boxes cover together (B).

        r = scale · (U(basic - spread, basic + spread) + gain · (1 - w)); never below 0 or above 1.

        Args:
            clean: w, P(given label is right) (B).
            draw: randomness; purpose "ratio".
        """
        if self.ratio == "fixed":
            return torch.full_like(clean, self.basic * self.scale).clamp(max=1)
        unit = draw.uniform("ratio", len(clean), low=-1, high=1)
        ratio = self.basic + self.spread * unit
        if self.ratio == "adaptive":
            ratio = ratio + self.gain * (1 - clean)
        return (ratio * self.scale).clamp(0, 1)

    def __call__(
        self,
        images: Tensor,
        activation: Tensor | None,
        ratio: Tensor,
        draw: Draw,
        num_views: int = 2,
    ) -> list[Masked]:
        """Give the masked copies of a batch, hot before cold.

        Args:
            images: (B, C, H, W) in [0, 1].
            activation: activation maps (B, h, w); None for random places.
            ratio: r (B); each box covers half of it.
            draw: randomness; purposes "<copy>/aspect", "<copy>/place", "<copy>/fill".
            num_views: views that the images have beside the copies, or had.
        """
        names = self.names(num_views)
        if not self.cover:
            none = torch.zeros(len(images), dtype=torch.int64, device=images.device)
            return [Masked(images, Boxes(none, none, none, none)) for _ in names]
        return [
            self._masked(images, ratio, self._pixels(name, images, activation, draw), draw, name)
            for name in names
        ]

    def _pixels(self, name: str, images: Tensor, activation: Tensor | None, draw: Draw) -> Tensor:
        """Row and column (B, 2) of the pixel that each box is for."""
        size = (images.shape[2], images.shape[3])
        unit = draw.uniform(f"{name}/place", len(images), 2)
        anywhere = within(torch.zeros_like(unit), unit, size, (1, 1))
        if activation is None:
            return anywhere
        if self.spot == "pixel":
            hot, cold = extreme_pixels(activation, size)
        else:
            grid = (activation.shape[1], activation.shape[2])
            hot, cold = (within(cell, unit, size, grid) for cell in extreme_cells(activation))
        if name == "either":
            chosen = torch.where(draw.uniform("either", len(hot), 1) < 0.5, hot, cold)
        else:
            chosen = hot if name == "hot" else cold
        return torch.where(has_relief(activation).unsqueeze(1), chosen, anywhere)

    def _masked(
        self, images: Tensor, ratio: Tensor, pixels: Tensor, draw: Draw, name: str
    ) -> Masked:
        count, channels, *size = images.shape
        whole = (size[0], size[1])
        aspect = draw.uniform(
            f"{name}/aspect", count, low=1 / self.elongation, high=self.elongation
        )
        rows, columns = box_sides(ratio / 2, aspect, whole)
        boxes = place_boxes(pixels, rows, columns, whole, self.anchor)
        fill = images.new_zeros(count, channels)
        if self.fill == "random":
            fill = draw.uniform(f"{name}/fill", count, channels).to(images.dtype)
        covered = boxes.inside(whole).unsqueeze(1)
        return Masked(torch.where(covered, fill[:, :, None, None], images), boxes)
