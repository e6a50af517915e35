"""Accuracy against time as plain geometry: numbered points that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Axes, Chart
from labelwise.bench.costs import UNITS, seconds
from labelwise.bench.plots import margins
from labelwise.bench.readings import Readings, spread


@dataclass(frozen=True)
class Mark:
    """A numbered point: where it is, where its number stands, and what it is."""

    x: float
    y: float
    text_x: float
    text_y: float
    number: int
    words: str


@dataclass(frozen=True)
class Scatter:
    """Accuracy against time in one column; `chart` holds the axes."""

    chart: Chart
    marks: tuple[Mark, ...]


def scatters(readings: Readings) -> list[Scatter]:
    """Mean accuracy against mean time, a panel per column; methods by their number in the table."""
    found = (_scatter(readings, column) for column in readings.columns)
    return [plot for plot in found if plot is not None]


def _scatter(readings: Readings, column: str) -> Scatter | None:
    points: list[tuple[int, str, float, float]] = []
    for place, row in enumerate(readings.rows, 1):
        accuracy = spread(readings.values(row, column, "test_accuracy_last").values())
        spent = (seconds(run) for run in readings.of(row, column) if run.done)
        time = spread(value for value in spent if value)
        if accuracy is not None and time is not None:
            points.append((place, row, time.mean, accuracy.mean))
    if not points:
        return None
    longest = max(time for _, _, time, _ in points)
    unit, name = next((u for u in UNITS if longest >= u[0]), UNITS[-1])
    low, high = margins(*(100 * f(p[3] for p in points) for f in (min, max)))
    axes = Axes((0.0, 1.08 * longest / unit), (low / 100, min(high, 101.0) / 100))
    across, up = axes.place(
        np.array([p[2] / unit for p in points]), np.array([p[3] for p in points])
    )
    x_ticks, y_ticks = axes.ticks(percent=True)
    words = [f"{row} ({n}) {100 * a:.1f} after {t / unit:.2f} {name}" for n, row, t, a in points]
    chart = Chart(
        column,
        f"Test accuracy of the last epochs in percent against {name} per run, {column}: "
        f"{'; '.join(words)}.",
        f"{name} per run",
        "test accuracy",
        x_ticks,
        y_ticks,
    )
    texts = _free_places(list(zip(across.tolist(), up.tolist(), strict=True)), chart)
    return Scatter(
        chart,
        tuple(
            Mark(float(x), float(y), *text, point[0], said)
            for x, y, text, point, said in zip(across, up, texts, points, words, strict=True)
        ),
    )


def _free_places(points: Sequence[tuple[float, float]], chart: Chart) -> list[tuple[float, float]]:
    """A place near each point for its number, away from the other points and numbers."""
    taken: list[tuple[float, float]] = []
    for x, y in points:
        candidates = [
            (x + radius * math.cos(angle), y + radius * math.sin(angle))
            for radius in (16, 26, 38, 52)
            for angle in np.linspace(0, 2 * math.pi, 8, endpoint=False)
        ]
        inside = [
            (a, b)
            for a, b in candidates
            if chart.left + 8 <= a <= chart.right - 8 and chart.top <= b <= chart.bottom - 8
        ]
        others = [p for p in (*points, *taken) if p != (x, y)]
        best = max(
            inside or candidates,
            # Near is better, as soon as nothing else is within reach of the number's width.
            key=lambda at: (
                min([18.0, *(math.dist(at, p) for p in others)]) - 0.02 * math.dist(at, (x, y))
            ),
        )
        taken.append((round(best[0], 1), round(best[1], 1)))
    return taken
