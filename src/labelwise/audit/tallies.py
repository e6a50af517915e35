"""Counts over all labels: which classes are mistaken for which, and how good each class is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelwise.audit.run_files import LabelColumns

MOST_HEATMAP = 20
"""More classes than this are listed as pairs."""
MOST_PAIRS = 20
SPREAD = 10
"""Bins of a class's label qualities."""
MOST_CLASSES = 1000
"""The table of classes stops after this many rows."""


@dataclass(frozen=True)
class Cell:
    """One cell of a heatmap: its text, its strength in [0, 1], and what it says in words.

    `span` is the interval of an estimate ("8–17"), or "".
    """

    text: str
    heat: float
    words: str
    diagonal: bool
    span: str = ""


@dataclass(frozen=True)
class Transition:
    """The estimated transition matrix.

    Args:
        cells: P(given = j | true = i), row i, column j.
        usual: median width of the intervals off the diagonal, a fraction.
        widest: largest width of them, a fraction.
        where: classes (true, given) of the widest one.
    """

    cells: list[list[Cell]]
    usual: float
    widest: float
    where: tuple[str, str]


@dataclass(frozen=True)
class EstimatedPair:
    """How many samples of a true class are expected to carry another label, with interval."""

    true: str
    given: str
    count: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """A given class that often looks like another.

    Args:
        given: given class.
        suggested: class that its samples look like.
        count: number of suspects of this pair.
        of_given: share of the samples labelled `given`.
        of_suggested: P(given | suggested), the estimated chance of this mistake.
    """

    given: str
    suggested: str
    count: int
    of_given: float
    of_suggested: float


@dataclass(frozen=True)
class ClassRow:
    """One class in the table of classes; `wrong` is None where truth is not known.

    `spread` counts its samples by label quality, in `SPREAD` equal bins from 0 to 1.
    """

    name: str
    count: int
    suspects: int
    share: float
    quality: float | None
    wrong: float | None
    spread: tuple[int, ...]

    @property
    def bars(self) -> str:
        """The spread as an SVG path in a box of 10 * SPREAD by 24, on a square-root scale."""
        most = max(*self.spread, 1)
        heights = [24 * (count / most) ** 0.5 for count in self.spread]
        return "".join(
            f"M{10 * k + 1} 24V{24 - max(height, 1.5):.3g}h8V24Z"
            for k, height in enumerate(heights)
            if height
        )

    @property
    def words(self) -> str:
        """The spread in words."""
        low, high = sum(self.spread[: SPREAD // 5]), sum(self.spread[-(SPREAD // 5) :])
        between = self.count - low - high
        return f"quality below 0.2: {low:,}, between: {between:,}, above 0.8: {high:,}"


def confusion(labels: LabelColumns, num_classes: int) -> np.ndarray:
    """Number of samples (K, K) by given label (row) and suggested label (column)."""
    flat = labels.given * num_classes + labels.suggested
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_cells(counts: np.ndarray, classes: Sequence[str]) -> list[list[Cell]]:
    """The confusion as a heatmap: the strongest off-diagonal count is 1."""
    off = counts * ~np.eye(len(counts), dtype=bool)
    heat = (off / max(1, off.max())) ** 0.7
    return [
        [
            Cell(
                text=f"{counts[i, j]:,}" if counts[i, j] else "",
                heat=round(float(heat[i, j]), 2),
                words=f"{counts[i, j]:,} labelled {classes[i]}, suggested {classes[j]}",
                diagonal=i == j,
            )
            for j in range(len(counts))
        ]
        for i in range(len(counts))
    ]


def transition_cells(counts: np.ndarray, classes: Sequence[str]) -> list[list[Cell]]:
    """P(given = j | suggested = i) as a heatmap, row i, column j; empty rows stay empty."""
    by_suggested = counts.T
    share = by_suggested / np.maximum(1, by_suggested.sum(1, keepdims=True))
    return [
        [
            Cell(
                text=f"{100 * share[i, j]:.0f}" if share[i, j] >= 0.005 else "",
                heat=0.0
                if i == j or share[i, j] < 0.005
                else round(float(np.sqrt(share[i, j])), 2),
                words=f"{share[i, j]:.1%} of {classes[i]} carry the label {classes[j]}",
                diagonal=i == j,
            )
            for j in range(len(counts))
        ]
        for i in range(len(counts))
    ]


def estimated_transition(
    share: np.ndarray, low: np.ndarray, high: np.ndarray, classes: Sequence[str]
) -> Transition:
    """The estimate P(given = j | true = i) (K, K) as a heatmap with its intervals.

    Args:
        share: the estimate.
        low: lower ends of its intervals.
        high: upper ends.
        classes: class names in label order.
    """
    number = len(classes)
    share, low, high = (np.nan_to_num(np.clip(part, 0, 1)) for part in (share, low, high))
    cells = [
        [
            Cell(
                text=f"{100 * share[i, j]:.0f}" if share[i, j] >= 0.005 else "",
                heat=0.0 if i == j else round(float(np.sqrt(share[i, j])), 2),
                words=(
                    f"{share[i, j]:.1%} of {classes[i]} carry the label {classes[j]}, "
                    f"between {low[i, j]:.1%} and {high[i, j]:.1%}"
                ),
                diagonal=i == j,
                span=f"{100 * low[i, j]:.0f}–{100 * high[i, j]:.0f}" if high[i, j] >= 0.015 else "",
            )
            for j in range(number)
        ]
        for i in range(number)
    ]
    width = np.where(np.eye(number, dtype=bool), -1.0, high - low)
    i, j = divmod(int(width.argmax()), number)
    usual = float(np.median(width[width >= 0])) if number > 1 else 0.0
    return Transition(cells, usual, max(0.0, float(width[i, j])), (classes[i], classes[j]))


def estimated_pairs(
    rows: np.ndarray,
    counts: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    classes: Sequence[str],
) -> list[EstimatedPair]:
    """The pairs (true, given) (M, 2) with the most expected wrong labels (M), most first."""
    order = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    return [
        EstimatedPair(
            classes[rows[k, 0]],
            classes[rows[k, 1]],
            float(counts[k]),
            float(low[k]),
            float(high[k]),
        )
        for k in order
    ]


def frequent_pairs(labels: LabelColumns, classes: Sequence[str]) -> list[Pair]:
    """The most frequent (given, suggested) pairs of different classes; memory O(N + K)."""
    num_classes = len(classes)
    differs = labels.given != labels.suggested
    flat = labels.given[differs] * num_classes + labels.suggested[differs]
    pairs, counts = np.unique(flat, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    per_given = np.bincount(labels.given, minlength=num_classes)
    per_suggested = np.bincount(labels.suggested, minlength=num_classes)
    return [
        Pair(
            given=classes[i],
            suggested=classes[j],
            count=count,
            of_given=count / int(per_given[i]),
            of_suggested=count / int(per_suggested[j]),
        )
        for i, j, count in ((*divmod(int(pairs[k]), num_classes), int(counts[k])) for k in order)
    ]


def class_rows(labels: LabelColumns, classes: Sequence[str]) -> list[ClassRow]:
    """Per class, the largest share of suspects first (at most `MOST_CLASSES`)."""
    num_classes = len(classes)

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels.given, weights=weights, minlength=num_classes)

    count, suspects = total(), total(labels.suspect.astype(float))
    divisor = np.maximum(1, count)
    share, quality = suspects / divisor, total(labels.quality) / divisor
    wrong = None
    if labels.truth is not None:
        wrong = total((labels.given != labels.truth).astype(float)) / divisor
    place = np.clip((np.nan_to_num(labels.quality) * SPREAD).astype(np.int64), 0, SPREAD - 1)
    flat = np.bincount(labels.given * SPREAD + place, minlength=num_classes * SPREAD)
    spread = flat.reshape(num_classes, SPREAD)
    order = np.argsort(-share, kind="stable")[:MOST_CLASSES]
    return [
        ClassRow(
            name=classes[k],
            count=int(count[k]),
            suspects=int(suspects[k]),
            share=float(share[k]),
            quality=float(quality[k]) if count[k] else None,
            wrong=float(wrong[k]) if wrong is not None and count[k] else None,
            spread=tuple(spread[k].tolist()),
        )
        for k in order
    ]
