"""The drawings of a suite's page as plain geometry; the page writes them as SVG in its colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Axes, Chart, Tick, round_values
from labelwise.bench.papers import paper_numbers
from labelwise.bench.readings import Readings, Run, number

WIDTH = 560
SIDE = 176
"""Where the names of the methods end."""
STEP = 24
MOST_LINES = 6
MOST_EPOCHS = 150
"""Longer curves are drawn at so many of their epochs."""
LONGEST = 22


@dataclass(frozen=True)
class Dots:
    """A method's accuracies in one column.

    Args:
        name: the method.
        label: its name, shortened to fit.
        y: its height.
        dots: where the seeds are, a little above and below each other.
        mean: where their mean is.
        paper: where the paper's number is, or None.
        words: all of it in words.
    """

    name: str
    label: str
    y: float
    dots: tuple[tuple[float, float], ...]
    mean: float
    paper: float | None
    words: str


@dataclass(frozen=True)
class DotPlot:
    """Accuracy of every method in one column."""

    title: str
    words: str
    ticks: tuple[Tick, ...]
    rows: tuple[Dots, ...]
    height: int
    paper: bool
    width: int = WIDTH
    left: int = SIDE
    right: int = WIDTH - 14


@dataclass(frozen=True)
class Curves:
    """Training curves of at most `MOST_LINES` methods with bands from lowest to highest seed."""

    chart: Chart
    bands: tuple[tuple[str, str], ...]
    """CSS class and SVG path of each band."""


def dot_plots(readings: Readings) -> list[DotPlot]:
    """A panel per column that has any accuracy: a dot per seed, the mean, the paper's number."""
    found = (_dot_plot(readings, column) for column in readings.columns)
    return [plot for plot in found if plot is not None]


def _dot_plot(readings: Readings, column: str) -> DotPlot | None:
    known: list[tuple[str, list[float], float | None]] = []
    for row in readings.rows:
        values = list(readings.values(row, column, "test_accuracy_last").values())
        if values:
            known.append((row, [100 * v for v in values], paper_numbers(readings, row, column)[0]))
    if not known:
        return None
    every = [v for _, values, paper in known for v in (*values, *_some(paper))]
    low, high = margins(min(every), max(every))
    ticks = round_values(low, high, count=6)

    def across(value: float) -> float:
        return round(SIDE + 10 + (value - low) / (high - low) * (WIDTH - SIDE - 34), 1)

    rows = []
    for place, (name, values, paper) in enumerate(known):
        mean = float(np.mean(values))
        words = f"{name}: mean {mean:.1f}, seeds {', '.join(f'{v:.1f}' for v in values)}"
        rows.append(
            Dots(
                name,
                shortened(name),
                _height(place, 0, 1),
                tuple((across(v), _height(place, k, len(values))) for k, v in enumerate(values)),
                across(mean),
                None if paper is None else across(paper),
                words + ("" if paper is None else f", paper {paper:.1f}"),
            )
        )
    return DotPlot(
        column,
        f"Test accuracy of the last epochs in percent, {column}. "
        + "; ".join(row.words for row in rows)
        + ".",
        tuple(Tick(across(v), f"{v:g}") for v in ticks),
        tuple(rows),
        14 + STEP * len(rows) + 34,
        any(row.paper is not None for row in rows),
    )


def _height(place: int, seed: int, count: int) -> float:
    """The height of a dot: seeds of one accuracy do not hide each other."""
    apart = min(4.0, 12.0 / count)
    return round(14 + STEP * place + apart * (seed - (count - 1) / 2), 1)


def curve_charts(readings: Readings, column: str) -> list[Curves]:
    """Test accuracy by epoch: charts of a few methods on one scale, the baseline in each."""
    known = {row: found for row in readings.rows if (found := _bands(readings, row, column))}
    if not known:
        return []
    first = readings.baseline()
    shared = [first] if first is not None else []
    others = [row for row in readings.rows if row not in shared]
    size = MOST_LINES - len(shared)
    # Groups are those of the whole suite: a method looks alike in every column.
    groups = [others[k : k + size] for k in range(0, len(others), size)] or [[]]
    groups = [group for group in groups if set(group) & set(known)] or [shared]
    values = np.concatenate([v[np.isfinite(v)] for _, *found in known.values() for v in found])
    low, high = margins(100 * float(values.min()), 100 * float(values.max()))
    last = max(float(epochs[-1]) for epochs, *_ in known.values())
    axes = Axes((1.0, max(last, 2.0)), (max(low, 0.0) / 100, min(high, 100.0) / 100), whole=True)
    charts = []
    for place, group in enumerate(groups):
        title = column if len(groups) == 1 else f"{column} ({place + 1} of {len(groups)})"
        styles = {row: f"s{k}" for k, row in enumerate(dict.fromkeys((*shared, *group)))}
        charts.append(_curves(title, {r: known[r] for r in styles if r in known}, styles, axes))
    return charts


def _curves(
    title: str,
    chosen: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    styles: dict[str, str],
    axes: Axes,
) -> Curves:
    lines, bands, words = [], [], []
    for row, (epochs, mean, low, high) in chosen.items():
        style = styles[row]
        lines.append(axes.line(row, style, epochs, mean))
        bands.append((style, _band(axes, epochs, low, high)))
        finite = mean[np.isfinite(mean)]
        words.append(
            f"{row} from {100 * finite[0]:.1f} to {100 * finite[-1]:.1f}, "
            f"at best {100 * finite.max():.1f}"
        )
    x_ticks, y_ticks = axes.ticks(percent=True)
    chart = Chart(
        title,
        f"Test accuracy by epoch in percent, mean over the seeds, {title}: {'; '.join(words)}.",
        "epoch",
        "test accuracy",
        x_ticks,
        y_ticks,
        tuple(lines),
    )
    return Curves(chart, tuple(bands))


def _bands(
    readings: Readings, row: str, column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Epochs and mean, lowest and highest accuracy of the seeds; None without any curve."""
    runs = [run for run in readings.of(row, column) if run.done and run.curve]
    if not runs:
        return None
    curves = [run.curve for run in runs]
    length = max(map(len, curves))
    table = np.full((len(curves), length), np.nan)
    for place, curve in enumerate(curves):
        table[place, : len(curve)] = curve
    # Seeds of unlike length (another schedule) are averaged where they are known.
    known = np.isfinite(table)
    if not known.any():
        return None
    count = known.sum(0)
    mean = np.where(known, table, 0).sum(0) / np.where(count, count, np.nan)
    low = np.where(known, table, np.inf).min(0)
    high = np.where(known, table, -np.inf).max(0)
    low[count == 0] = high[count == 0] = np.nan
    chosen = np.unique(np.linspace(0, length - 1, min(length, MOST_EPOCHS)).round().astype(int))
    first, every = _measured(runs[0])
    return first + every * chosen.astype(float), mean[chosen], low[chosen], high[chosen]


def _measured(run: Run) -> tuple[int, int]:
    """The first epoch that a run measured, and how many epochs lie between two such."""
    schedule = run.raw.get("schedule")
    known = schedule if isinstance(schedule, Mapping) else {}
    epochs, every = (number(known.get(name)) for name in ("epochs", "evaluate_every"))
    if not epochs or not every or every < 1:
        return 1, 1
    return int((epochs - 1) % every) + 1, int(every)  # the last one is measured


def _band(axes: Axes, epochs: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The area between two lines, a piece for every stretch that is known."""
    known = np.flatnonzero(np.isfinite(low))
    parts = []
    for stretch in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        across, bottom = axes.place(epochs[stretch], low[stretch])
        _, top = axes.place(epochs[stretch], high[stretch])
        points = [f"{x:g} {y:g}" for x, y in zip(across, top, strict=True)]
        points += [f"{x:g} {y:g}" for x, y in zip(across[::-1], bottom[::-1], strict=True)]
        parts.append("M" + "L".join(points) + "Z")
    return "".join(parts)


def shortened(name: str) -> str:
    """A name that fits beside a drawing."""
    name = name or "(no name)"
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def margins(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, a little beyond the values."""
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _some(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)
