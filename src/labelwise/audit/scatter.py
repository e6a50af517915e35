"""A picture of points in groups; each group is one SVG path, so that thousands stay light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 640
TALLEST = 640
FLATTEST = 320
MARGIN = 14
SHAPES = {
    "dot": "h0",  # drawn by the round ends of the stroke
    "square": "m-2.3-2.3h4.6v4.6h-4.6z",
    "diamond": "m0-4.6l4.6 4.6-4.6 4.6-4.6-4.6z",
    "plus": "m-3.6 0h7.2m-3.6-3.6v7.2",
}
"""What is drawn around a point that the path has moved to."""
LEGEND = (11.0, 7.0)
"""Where the mark is in the legend's drawing of 22 by 14."""
LONGEST = 14
"""A name in the picture is cut to so many characters."""


@dataclass(frozen=True)
class Marks:
    """One group of points.

    Args:
        name: what the legend calls it.
        style: CSS class.
        path: SVG path of all points.
        key: SVG path of one mark, for the legend.
        count: number of points.
    """

    name: str
    style: str
    path: str
    key: str
    count: int


@dataclass(frozen=True)
class Name:
    """A text in the picture: where, what is written, and the whole of it."""

    x: float
    y: float
    text: str
    whole: str


@dataclass(frozen=True)
class Scatter:
    """Everything the page needs to draw the points.

    Args:
        width: of the drawing.
        height: of the drawing.
        marks: the groups, the first drawn first.
        names: written over the points.
        words: what it shows, for those who cannot see it.
    """

    width: int
    height: int
    marks: tuple[Marks, ...]
    names: tuple[Name, ...]
    words: str


@dataclass(frozen=True)
class Canvas:
    """Places points, whose wider axis lies across, in a drawing of fixed width.

    Args:
        points: (M, 2).
    """

    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the drawing."""
        wide, high = self._spans()
        height = 2 * MARGIN + (WIDTH - 2 * MARGIN) * high / wide
        return WIDTH, round(float(np.clip(height, FLATTEST, TALLEST)))

    def placed(self) -> np.ndarray:
        """Drawing coordinates (M, 2), both axes scaled alike."""
        across = self._turned()
        wide, high = self._spans()
        width, height = self.size
        scale = min((width - 2 * MARGIN) / wide, (height - 2 * MARGIN) / high)
        middle = (across.min(0) + across.max(0)) / 2
        flipped = (across - middle) * np.array([1.0, -1.0])
        placed: np.ndarray = np.round(flipped * scale + np.array([width, height]) / 2, 1)
        return placed

    def _turned(self) -> np.ndarray:
        points = np.asarray(self.points, dtype=float)
        spans = points.max(0) - points.min(0)
        return points if spans[0] >= spans[1] else points[:, ::-1]

    def _spans(self) -> tuple[float, float]:
        across = self._turned()
        wide, high = across.max(0) - across.min(0)
        return max(float(wide), 1e-9), float(max(high, 1e-9))


def marks_of(name: str, style: str, shape: str, placed: np.ndarray) -> Marks:
    """A group of points (M, 2) in drawing coordinates."""
    drawn = SHAPES[shape]
    path = "".join(f"M{x:g} {y:g}{drawn}" for x, y in placed)
    return Marks(name, style, path, f"M{LEGEND[0]:g} {LEGEND[1]:g}{drawn}", len(placed))


def names_of(
    texts: Sequence[str], groups: np.ndarray, placed: np.ndarray, size: tuple[int, int]
) -> tuple[Name, ...]:
    """The names of groups, each where half of its points lie to every side.

    Args:
        texts: names of the K groups.
        groups: of each point (M), in [0, K).
        placed: the points (M, 2) in drawing coordinates.
        size: of the drawing.
    """
    found = []
    for group, whole in enumerate(texts):
        own = placed[groups == group]
        if not len(own):
            continue
        x, y = np.median(own, axis=0)
        text = whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"
        half = 4.5 * len(text) + 4
        inside = float(np.clip(x, min(half, size[0] / 2), max(size[0] - half, size[0] / 2)))
        found.append(Name(round(inside, 1), round(float(y), 1), text, whole))
    return tuple(found)
