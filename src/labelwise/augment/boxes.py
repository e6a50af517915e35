"""Boxes in images, one for every image of a batch: their sides, their places, what they cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Anchor = Literal["centre", "corner"]


def within(cell: Tensor, unit: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A pixel of a cell.

    Args:
        cell: row and column (B, 2) of the cell.
        unit: where in the cell (B, 2), in [0, 1).
        size: height and width of the images.
        grid: rows and columns of cells.

    Returns:
        Row and column (B, 2) int64.
    """
    row, column = (cell + unit).unbind(1)
    pixels = row * (size[0] / grid[0]), column * (size[1] / grid[1])
    return torch.stack(pixels, dim=1).long()


@dataclass(frozen=True)
class Boxes:
    """One box of every image.

    Args:
        top: first row (B) int64.
        left: first column (B) int64.
        height: rows (B) int64, 0 for no box.
        width: columns (B) int64, 0 for no box.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def inside(self, size: tuple[int, int]) -> Tensor:
        """Which pixels are covered (B, H, W) bool."""
        rows, columns = (torch.arange(side, device=self.top.device) for side in size)
        in_rows = (rows >= self.top[:, None]) & (rows < (self.top + self.height)[:, None])
        in_columns = (columns >= self.left[:, None]) & (columns < (self.left + self.width)[:, None])
        return in_rows[:, :, None] & in_columns[:, None, :]


def box_sides(share: Tensor, aspect: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Height and width of the boxes that cover a share of the image.

    Args:
        share: wanted share of the image's area (B), at least 0.
        aspect: height over width (B).
        size: height H and width W of the images.

    Returns:
        Heights and widths (B) int64: at least one pixel where the share is above 0, none where it
        is 0, and never the whole image.
    """
    height, width = size
    area = share * (height * width)
    tall, wide = (area * aspect).sqrt(), (area / aspect).sqrt()
    # What does not fit one way goes the other, as far as there is room.
    tall, wide = tall.maximum(area / width), wide.maximum(area / height)
    rows = tall.round().clamp(1, height).long()
    columns = wide.round().clamp(1, width).long()
    whole = (rows == height) & (columns == width)  # leave the last row or column uncovered
    rows, columns = (rows - whole.long(), columns) if height > 1 else (rows, columns - whole.long())
    some = (share > 0).long()
    return rows * some, columns * some


def place_boxes(
    pixels: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int], anchor: Anchor
) -> Boxes:
    """Put each box around its pixel, or with its first corner on it, moved inside the image.

    Args:
        pixels: row and column (B, 2) int64.
        rows: heights of the boxes (B).
        columns: widths of the boxes (B).
        size: height and width of the images.
        anchor: "centre" (paper) or "corner" (authors' code).
    """
    sides = torch.stack((rows, columns), dim=1)
    first = pixels - sides // 2 if anchor == "centre" else pixels
    top, left = first.clamp_min(0).unbind(1)
    return Boxes(top.minimum(size[0] - rows), left.minimum(size[1] - columns), rows, columns)
