"""Charts as plain geometry; the page draws them as inline SVG that follows its colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46
DOTS = 3
"""Lines of at most this many points also get dots."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        name: what the legend calls it.
        style: CSS class: its colour and dashes.
        path: SVG path.
        dots: points drawn as dots: all of a short line, else none.
    """

    name: str
    style: str
    path: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Bars:
    """Bars of one colour, as a single SVG path."""

    name: str
    style: str
    path: str


@dataclass(frozen=True)
class Chart:
    """Everything the page needs to draw a chart.

    Args:
        title: heading.
        words: what it shows, for those who cannot see it.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        x_ticks: marks of the horizontal axis.
        y_ticks: marks of the vertical axis.
        lines: drawn over the bars.
        bars: drawn first.
        note: one sentence for those who do not know the figure, or "".
    """

    title: str
    words: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Series, ...] = ()
    bars: tuple[Bars, ...] = ()
    note: str = ""
    width: int = field(default=WIDTH, init=False)
    height: int = field(default=HEIGHT, init=False)
    left: int = field(default=LEFT, init=False)
    right: int = field(default=WIDTH - RIGHT, init=False)
    top: int = field(default=TOP, init=False)
    bottom: int = field(default=HEIGHT - BOTTOM, init=False)


@dataclass(frozen=True)
class Axes:
    """Maps values to the drawing.

    Args:
        x: smallest and largest horizontal value.
        y: smallest and largest vertical value.
        root: draw the square root of the vertical axis, so that small counts stay visible.
        whole: horizontal values are whole numbers (epochs).
    """

    x: tuple[float, float]
    y: tuple[float, float]
    root: bool = False
    whole: bool = False

    def place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Drawing coordinates of points; values above the axis are cut at its top."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (np.clip(y, *self.y) - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        if self.root:
            up = np.sqrt(up)
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return np.round(LEFT + across * wide, 1), np.round(TOP + (1 - up) * high, 1)

    def ticks(self, percent: bool = False) -> tuple[tuple[Tick, ...], tuple[Tick, ...]]:
        """Marks of both axes at round values; `percent` writes the vertical ones as 20%."""
        marks_x = round_values(*self.x, count=8, whole=self.whole)
        marks_y = round_values(*self.y, count=5)
        if self.root:  # round values crowd at the top of a root axis
            top = self.y[1]
            marks_y = np.unique([_one_digit(top * share) for share in (0.0, 0.06, 0.25, 0.56, 1)])
            marks_y = marks_y[marks_y <= top]
        at_x, _ = self.place(marks_x, np.full(len(marks_x), self.y[0]))
        _, at_y = self.place(np.full(len(marks_y), self.x[0]), marks_y)
        shown = marks_y * 100 if percent else marks_y
        return (
            tuple(Tick(float(a), _text(v)) for a, v in zip(at_x, marks_x, strict=True)),
            tuple(
                Tick(float(a), _text(v) + "%" * percent) for a, v in zip(at_y, shown, strict=True)
            ),
        )

    def line(
        self, name: str, style: str, x: np.ndarray, y: np.ndarray, most_dots: int = DOTS
    ) -> Series:
        """A line through the finite points; it is broken where a value is missing."""
        known = np.isfinite(y)
        across, up = self.place(x, np.where(known, y, self.y[0]))
        parts = [
            f"{'L' if k and known[k - 1] else 'M'}{across[k]:g} {up[k]:g}"
            for k in np.flatnonzero(known)
        ]
        points = [(float(across[k]), float(up[k])) for k in np.flatnonzero(known)]
        return Series(
            name, style, "".join(parts), tuple(points) if len(points) <= most_dots else ()
        )

    def columns(
        self, name: str, style: str, edges: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> Bars:
        """Bars between `edges` (M + 1) from `low` to `high` (M); empty ones are left out."""
        left, bottom = self.place(edges[:-1], low)
        right, top = self.place(edges[1:], high)
        return Bars(
            name,
            style,
            "".join(
                f"M{left[k]:g} {bottom[k]:g}V{top[k]:g}H{max(left[k], right[k] - 0.6):g}"
                f"V{bottom[k]:g}Z"
                for k in np.flatnonzero(high > low)
            ),
        )


def round_values(low: float, high: float, count: int, whole: bool = False) -> np.ndarray:
    """About `count` round values within [low, high]."""
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10], integer=whole)
    values = np.asarray(locator.tick_values(low, high))
    slack = 1e-9 * (high - low)
    return values[(values >= low - slack) & (values <= high + slack)]


def lines_chart(
    title: str,
    columns: Mapping[str, Sequence[float]],
    epochs: Sequence[float],
    y_label: str,
    percent: bool = False,
    words: str = "",
    note: str = "",
) -> Chart | None:
    """A chart of figures per epoch; None where no figure was recorded.

    Args:
        title: heading.
        columns: values per epoch (NaN where missing) by the line's name.
        epochs: epoch numbers.
        y_label: name and unit of the vertical axis.
        percent: the values are fractions in [0, 1].
        words: what the chart shows; empty names the first and last values.
        note: a sentence of explanation, or "".
    """
    table = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    table = {name: values for name, values in table.items() if np.isfinite(values).any()}
    if not table:
        return None
    every = np.concatenate([values[np.isfinite(values)] for values in table.values()])
    low, high = float(every.min()), float(every.max())
    margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    bottom = 0.0 if 0 <= low < 0.5 * high else low - margin
    top = min(1.0, high + margin) if percent else high + margin
    x = np.asarray(epochs, dtype=float)
    axes = Axes((float(x.min()), float(max(x.max(), x.min() + 1))), (bottom, top), whole=True)
    x_ticks, y_ticks = axes.ticks(percent)
    lines = tuple(
        axes.line(name, f"s{place % 6}", x, values)
        for place, (name, values) in enumerate(table.items())
    )
    words = words or "; ".join(
        f"{name} from {ends[0]:.3g} to {ends[-1]:.3g}"
        for name, values in table.items()
        for ends in [values[np.isfinite(values)]]
    )
    words = f"{title} by epoch: {words}."
    return Chart(title, words, "epoch", y_label, x_ticks, y_ticks, lines, note=note)


def _one_digit(value: float) -> float:
    """Round down to one significant digit."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / unit) * unit


def _text(value: float) -> str:
    rounded = round(float(value), 6)
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
