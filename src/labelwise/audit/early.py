"""The losses right after the warm-up: what the first division of the labels was made by.

ScanMix, arXiv 2103.11395, figure 3: the normalised losses of right and of wrong labels, early in
training. The less the two overlap, the less the first division goes wrong; how much they do is said
by the AUROC, and the losses of two runs on the same labels can be put side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Axes, Bars, Chart
from labelwise.audit.figures import ROOT_FROM
from labelwise.audit.run_files import RunFiles
from labelwise.errors import UserError

NAME = "early_loss"
BINS = 40
SAME = {"input_hash": "inputs", "label_hash": "given labels"}
"""What of the data two runs must share to be put side by side (`config.json`)."""


@dataclass(frozen=True)
class Panel:
    """The histogram of one run.

    Args:
        chart: the drawing.
        auroc: probability that a wrong label has a higher loss than a right one, ties counting
            half; None where the truth is not known or all labels are alike.
        num_left_out: labels without such a loss.
    """

    chart: Chart
    auroc: float | None
    num_left_out: int


@dataclass(frozen=True)
class EarlyFigure:
    """The histogram of a run, and of another beside it on the same axes.

    Args:
        panels: this run's, then the other's where there is one.
        root: whether the vertical axis is a square-root one.
    """

    panels: tuple[Panel, ...]
    root: bool


@dataclass(frozen=True)
class _Losses:
    """Normalised losses of one run.

    Args:
        title: of its panel.
        loss: (M) in [0, 1]; 0 is the run's smallest, 1 its largest.
        wrong: whether the label is wrong (M) bool; None where the truth is not known.
        num_left_out: labels without a loss.
    """

    title: str
    loss: np.ndarray
    wrong: np.ndarray | None
    num_left_out: int

    def groups(self) -> list[tuple[str, str, np.ndarray]]:
        """Name, style and losses of the groups that are told apart."""
        if self.wrong is None:
            return [("labels", "unknown", self.loss)]
        return [
            ("truly right", "right", self.loss[~self.wrong]),
            ("truly wrong", "wrong over", self.loss[self.wrong]),
        ]

    def counts(self, edges: np.ndarray) -> list[np.ndarray]:
        """Labels per bin of each group."""
        return [np.histogram(loss, edges)[0] for _, _, loss in self.groups()]


def early_figure(run: RunFiles, beside: RunFiles | None = None) -> EarlyFigure | None:
    """The histogram of the early losses; None where the run kept none.

    Args:
        run: the run of the report.
        beside: another run on the same samples and given labels, to compare with.

    Raises:
        UserError: the other run is on other data, or one of both kept no early losses.
    """
    if beside is None and not _has_losses(run):
        return None
    runs = (run,) if beside is None else (run, beside)
    if beside is not None:
        require_same_data(run, beside)
        for each in runs:
            _require_losses(each)
    losses = [_losses(each, alone=beside is None) for each in runs]
    edges = np.linspace(0.0, 1.0, BINS + 1)
    every = np.concatenate([count for part in losses for count in part.counts(edges)])
    usual = float(np.quantile(every[every > 0], 0.75))
    root = bool(every.max() > ROOT_FROM * max(1.0, usual))
    axes = Axes((0.0, 1.0), (0.0, 1.08 * float(every.max())), root)
    return EarlyFigure(tuple(_panel(part, axes, edges) for part in losses), root)


def require_same_data(run: RunFiles, other: RunFiles) -> None:
    """Raise a `UserError` unless both runs had the same inputs and the same given labels."""
    for each in (run, other):
        for key, what in SAME.items():
            if not each.data.get(key):
                raise UserError(
                    f"{each.path} does not say which {what} it had (config.json, data.{key}): it "
                    "is of an older version. Run it again to put it beside another."
                )
    differs = [what for key, what in SAME.items() if run.data[key] != other.data[key]]
    if differs:
        raise UserError(
            f"{other.path} cannot be put beside {run.path}: they differ in the "
            f"{' and the '.join(differs)} ({other.data['name']}, {len(other.labels):,} labels; "
            f"{run.data['name']}, {len(run.labels):,} labels). Train both on the same data, with "
            "the same --noise, --limit and --seed."
        )


def _has_losses(run: RunFiles) -> bool:
    return run.has(NAME) and bool(np.isfinite(run.arrays[NAME]).any())


def _require_losses(run: RunFiles) -> None:
    if not _has_losses(run):
        raise UserError(
            f"{run.path} has no losses from right after the warm-up: {run.config['method']} does "
            "not divide the labels by their loss, or the run is of an older version. Those of "
            "dividemix have them."
        )


def _losses(run: RunFiles, alone: bool) -> _Losses:
    loss = run.arrays[NAME].astype(np.float64)
    known = np.isfinite(loss)
    loss = loss[known]
    span = float(loss.max() - loss.min()) or 1.0
    wrong = None
    if run.labels.truth is not None:
        wrong = (run.labels.given != run.labels.truth)[known]
    title = "Loss after the warm-up" if alone else f"{_method(run)} · {run.path.name}"
    return _Losses(title, (loss - loss.min()) / span, wrong, int((~known).sum()))


def _method(run: RunFiles) -> str:
    """The method with its pre-training, where it is not the method's own."""
    before = run.config.get("pretrain")
    return str(run.config["method"]) + (f" after {before}" if before not in (None, "none") else "")


def _auroc(part: _Losses) -> float | None:
    if part.wrong is None or part.wrong.all() or not part.wrong.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(part.wrong, part.loss))


def _panel(part: _Losses, axes: Axes, edges: np.ndarray) -> Panel:
    auroc = _auroc(part)
    bars: tuple[Bars, ...] = tuple(
        axes.columns(name, style, edges, np.zeros(BINS), count)
        for (name, style, _), count in zip(part.groups(), part.counts(edges), strict=True)
    )
    middles = "; ".join(
        f"{len(loss):,} {name}, half of them below {np.median(loss):.2f}"
        for name, _, loss in part.groups()
        if len(loss)
    )
    x_ticks, y_ticks = axes.ticks()
    chart = Chart(
        title=part.title,
        words=f"Histogram of the normalised losses after the warm-up: {middles}"
        + (f"; AUROC {auroc:.3f}." if auroc is not None else "."),
        x_label="loss of the given label, scaled to 0–1",
        y_label="labels" + " (root scale)" * axes.root,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bars=bars,
    )
    return Panel(chart, auroc, part.num_left_out)
