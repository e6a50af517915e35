"""How concentrated the activation is on wrong and on right labels: the pictures in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Axes, Chart
from labelwise.audit.masks import SURE, quarter
from labelwise.audit.run_files import RunFiles

BINS = 30
FEWEST = 10
"""A group of fewer samples has no spread worth showing."""


@dataclass(frozen=True)
class FocusGroup:
    """The focus of a group of samples: its name, their number, mean and standard deviation."""

    name: str
    number: int
    mean: float
    spread: float


@dataclass(frozen=True)
class Focus:
    """How much of the activation lies in the strongest quarter of the cells.

    Args:
        chart: histogram of two groups of samples.
        groups: wrong or doubtful labels, then right or sure ones.
        difference: between their means, the first minus the second.
        interval: of the difference, 95 %.
        even: what an even map would have.
        cells: cells of the quarter, and of the whole map.
        by_truth: whether the groups are by the true labels.
    """

    chart: Chart
    groups: tuple[FocusGroup, FocusGroup]
    difference: float
    interval: tuple[float, float]
    even: float
    cells: tuple[int, int]
    by_truth: bool

    @property
    def differs(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.interval[0] > 0 or self.interval[1] < 0


def focus_figure(run: RunFiles) -> Focus | None:
    """Histogram of the focus of wrong and right labels, or doubtful and sure ones.

    None where the run did not measure it, or one of both groups has fewer than `FEWEST` samples.
    """
    if not run.has("masks_focus", "masks_focus_rows"):
        return None
    values = run.arrays["masks_focus"].astype(float)
    rows = run.arrays["masks_focus_rows"].astype(np.int64)[np.isfinite(values)]
    values = values[np.isfinite(values)]
    labels = run.labels
    if labels.truth is not None:
        names = ("truly wrong", "truly right")
        first = labels.given[rows] != labels.truth[rows]
        second = ~first
    else:
        names = ("doubtful labels", "sure labels")
        first, second = labels.suspect[rows], labels.quality[rows] >= SURE
    parts = (values[first], values[second])
    if min(map(len, parts)) < FEWEST:
        return None
    wrong, right = (
        FocusGroup(name, len(part), float(part.mean()), float(part.std(ddof=1)))
        for name, part in zip(names, parts, strict=True)
    )
    cells = math.prod(int(side) for side in run.arrays["masks_grid"])
    even = quarter(cells) / cells
    difference = wrong.mean - right.mean
    margin = 1.96 * math.hypot(*(g.spread / math.sqrt(g.number) for g in (wrong, right)))
    return Focus(
        _focus_chart(parts, (wrong, right), even),
        (wrong, right),
        difference,
        (difference - margin, difference + margin),
        even,
        (quarter(cells), cells),
        labels.truth is not None,
    )


def _focus_chart(
    parts: tuple[np.ndarray, np.ndarray], groups: tuple[FocusGroup, FocusGroup], even: float
) -> Chart:
    """Both groups on the same axes, each as shares of its own number."""
    every = np.concatenate(parts)
    edges = np.linspace(min(even, float(every.min())), float(every.max()) + 1e-6, BINS + 1)
    shares = [np.histogram(part, edges)[0] / len(part) for part in parts]
    axes = Axes((float(edges[0]), float(edges[-1])), (0.0, 1.08 * float(np.max(shares))))
    drawn = [
        axes.columns(group.name, style, edges, np.zeros(BINS), share)
        for group, style, share in zip(groups, ("wrong over", "right"), shares, strict=True)
    ]
    words = "; ".join(
        f"{group.name}: mean {group.mean:.2f}, standard deviation {group.spread:.2f}, "
        f"{group.number:,} samples"
        for group in groups
    )
    x_ticks, y_ticks = axes.ticks(percent=True)
    return Chart(
        title="How concentrated the activation is",
        words=f"Histogram of the activation's share in its strongest quarter: {words}.",
        x_label="activation in the strongest quarter of the map",
        y_label="share of each group",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bars=(drawn[1], drawn[0]),
    )
