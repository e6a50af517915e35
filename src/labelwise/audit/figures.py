"""The report's charts of the final labels: the loss histogram and the reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Axes, Bars, Chart
from labelwise.audit.run_files import RunFiles

BINS = 56
TAIL = 0.999
"""The last bar holds the losses above this quantile, so that a few do not squeeze the rest."""
CURVES = ("reliability", "reliability_truth")
"""Reliability by planted wrong labels, and by the true labels where they are known."""
ROOT_FROM = 6.0
"""A tallest bar so many times the upper-quartile bar makes the axis a square-root one."""


@dataclass(frozen=True)
class LossFigure:
    """The loss histogram.

    Args:
        chart: the drawing; None where no loss is finite.
        fitted: whether two components could be fitted.
        root: whether the vertical axis is a square-root one.
        num_beyond: losses gathered in the last bar.
        num_not_finite: losses that are not numbers.
    """

    chart: Chart | None
    fitted: bool
    root: bool
    num_beyond: int
    num_not_finite: int


def loss_figure(run: RunFiles) -> LossFigure:
    """Histogram of the given labels' losses, with the fitted components scaled to counts."""
    loss = run.arrays["loss"].astype(np.float64)
    finite = np.isfinite(loss)
    num_bad = int((~finite).sum())
    if num_bad == len(loss):
        return LossFigure(None, False, False, 0, num_bad)
    kept = loss[finite]
    edge = float(np.quantile(kept, TAIL))
    last = float(kept.max()) if kept.max() < 1.15 * edge else edge
    last = last if last > kept.min() else float(kept.min()) + 1.0
    edges = np.linspace(min(0.0, float(kept.min())), last, BINS + 1)
    cut = np.minimum(kept, last)
    counts = np.histogram(cut, edges)[0]
    wrong = None
    if run.labels.truth is not None:
        is_wrong = (run.labels.given != run.labels.truth)[finite]
        wrong = np.histogram(cut[is_wrong], edges)[0]
    root = counts.max() > ROOT_FROM * max(1.0, float(np.quantile(counts[counts > 0], 0.75)))
    axes = Axes((float(edges[0]), last), (0.0, 1.08 * float(counts.max())), bool(root))
    density = np.nan_to_num(run.arrays["loss_density"].astype(float))
    fitted = bool(density.max(initial=0.0) > 0)
    lines = []
    if fitted:
        grid = run.arrays["loss_grid"].astype(float)
        shown = grid <= last
        scale = len(kept) * (edges[1] - edges[0])
        for name, style, values in zip(
            ("fitted: right labels", "fitted: wrong labels"),
            ("right", "wrong"),
            density,
            strict=True,
        ):
            lines.append(axes.line(name, style, grid[shown], scale * values[shown]))
    x_ticks, y_ticks = axes.ticks()
    chart = Chart(
        title="Loss of the given labels",
        words=(
            f"Histogram of {len(kept):,} losses between {kept.min():.2g} and {kept.max():.2g}; "
            f"half of them are below {np.median(kept):.2g}."
        ),
        x_label="loss of the given label (nats)",
        y_label="labels" + " (root scale)" * bool(root),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        lines=tuple(lines),
        bars=_loss_bars(axes, edges, counts, wrong),
    )
    return LossFigure(chart, fitted, bool(root), int((kept > last).sum()), num_bad)


def _loss_bars(
    axes: Axes, edges: np.ndarray, counts: np.ndarray, wrong: np.ndarray | None
) -> tuple[Bars, ...]:
    """One set of bars, or wrong labels stacked on right ones where truth is known."""
    zero = np.zeros(len(counts))
    if wrong is None:
        return (axes.columns("labels", "unknown", edges, zero, counts),)
    right = counts - wrong
    return (
        axes.columns("truly right", "right", edges, zero, right),
        axes.columns("truly wrong", "wrong", edges, right, counts),
    )


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability curve; a share is None where no sample tells.

    Args:
        quality: mean label quality in the bin.
        right: share of right labels, as estimated from the labels made wrong on purpose.
        truly_right: the same by the true labels.
        count: number of samples.
    """

    quality: float
    right: float | None
    truly_right: float | None
    count: int


@dataclass(frozen=True)
class Reliability:
    """The reliability curve: is a label of quality q right with probability q?"""

    chart: Chart
    bins: tuple[Bin, ...]


def reliability_figure(run: RunFiles) -> Reliability | None:
    """The share of right labels by label quality; None where nothing was measured."""
    measured = {
        name: run.arrays[name].astype(float)
        for name in CURVES
        if run.has(name) and run.arrays[name].ndim == 2 and run.arrays[name].shape[1] == 3
    }
    measured = {name: rows for name, rows in measured.items() if np.isfinite(rows[:, :2]).any()}
    if not measured:
        return None
    axes = Axes((0.0, 1.0), (0.0, 1.0))
    lines = [axes.line("as it should be", "s5 thin", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0)]
    words = []
    for name, style, title in zip(
        CURVES, ("s0", "s1"), ("by planted wrong labels", "by the true labels"), strict=True
    ):
        if name in measured:
            rows = measured[name][np.isfinite(measured[name][:, :2]).all(1)]
            lines.append(axes.line(title, style, rows[:, 0], rows[:, 1], len(rows)))
            worst = np.abs(rows[:, 0] - rows[:, 1]).max(initial=0.0)
            words.append(f"{title}, the curve is at most {worst:.2f} off the diagonal")
    x_ticks, y_ticks = axes.ticks(percent=True)
    chart = Chart(
        title="Right labels by label quality",
        words=f"Reliability curve: {'; '.join(words)}.",
        x_label="label quality (mean of the bin)",
        y_label="share of right labels",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        lines=tuple(lines),
    )
    return Reliability(chart, _bins(measured.get("reliability"), measured.get("reliability_truth")))


def _bins(planted: np.ndarray | None, truth: np.ndarray | None) -> tuple[Bin, ...]:
    """The bins that hold samples; both curves have the same ones, or only one is listed."""
    if planted is None or (truth is not None and len(truth) != len(planted)):
        planted, truth = (truth, truth) if planted is None else (planted, None)
    assert planted is not None
    known = truth if truth is not None else np.full_like(planted, np.nan)
    same = planted is truth
    found = []
    for one, other in zip(planted, known, strict=True):
        quality = one[0] if np.isfinite(one[0]) else other[0]
        if np.isfinite(quality):
            count = max(np.nan_to_num(one[2]), np.nan_to_num(other[2]))
            right = None if same else _share(one[1])
            found.append(Bin(float(quality), right, _share(other[1]), int(count)))
    return tuple(found)


def _share(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
