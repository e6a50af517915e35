"""The report's section on easy, hard and corrected samples: what the vote of the anchors did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelwise.audit.charts import Chart
from labelwise.audit.curves import sorting_charts
from labelwise.audit.hardness_check import check_hardness
from labelwise.audit.run_files import RunFiles
from labelwise.audit.scatter import Canvas, Name, Scatter, marks_of, names_of
from labelwise.audit.tallies import MOST_CLASSES, MOST_HEATMAP
from labelwise.audit.voters import Correction, build_corrections
from labelwise.training.corrections import CORRECTED, EASY, HARD, UNSORTED

PICTURE = (
    "hardness_points",
    "hardness_point_rows",
    "hardness_anchor_rows",
    "hardness_anchor_labels",
)


@dataclass(frozen=True)
class State:
    """Samples of one state: their number, their share of all, and how many are rightly labelled.

    `right` is of the labels that are learnt from (of hard samples: of the given ones), a fraction;
    None where the truth is not known or there is no sample.
    """

    count: int
    share: float
    right: float | None


@dataclass(frozen=True)
class HardClass:
    """One class in the table.

    Args:
        name: of the class.
        easy: samples with this given label that are easy.
        hard: that stay hard.
        corrected: whose label was replaced or confirmed.
        gained: samples that the votes gave this label, from whatever class.
        easy_right: share of the easy ones whose label is right; None where not known.
        gained_right: the same of the samples that the votes gave it.
    """

    name: str
    easy: int
    hard: int
    corrected: int
    gained: int
    easy_right: float | None
    gained_right: float | None

    @property
    def count(self) -> int:
        """Samples with this given label."""
        return self.easy + self.hard + self.corrected

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of easy, corrected and hard samples, in percent."""
        whole = max(1, self.count)
        parts = (self.easy, self.corrected, self.hard)
        return (100 * parts[0] / whole, 100 * parts[1] / whole, 100 * parts[2] / whole)


@dataclass(frozen=True)
class Hardness:
    """What the section shows.

    Args:
        anchors: what voted (`labelwise.audit.hardness.kind_of`).
        easy: the samples of this state.
        corrected: the same.
        hard: the same.
        changed: corrected samples whose label was replaced.
        left_out: samples in whose place another label was trained on.
        classes: the class with the smallest share of easy samples first.
        charts: over the epochs.
        picture: the features on two dimensions; None where too few samples have any.
        cards: corrected samples.
        several: whether the run trained further networks, of which nothing is shown.
    """

    anchors: str
    easy: State
    corrected: State
    hard: State
    changed: int
    left_out: int
    classes: tuple[HardClass, ...]
    charts: tuple[Chart, ...]
    picture: Scatter | None
    cards: tuple[Correction, ...]
    several: bool


def build_hardness(run: RunFiles) -> Hardness | None:
    """The section; None for a run whose method does not sort samples, or never came to it.

    Raises:
        UserError: the arrays do not fit each other or the labels.
    """
    if not run.has("hardness_state", "hardness_target"):
        return None
    check_hardness(run)
    state = run.arrays["hardness_state"]
    if not (state != UNSORTED).any():
        return None
    target = run.arrays["hardness_target"]
    corrected = state == CORRECTED
    return Hardness(
        anchors=str(run.arrays.get("hardness_anchors", "none")),
        easy=_state(run, EASY),
        corrected=_state(run, CORRECTED),
        hard=_state(run, HARD),
        changed=int((target != run.labels.given)[corrected].sum()),
        left_out=int((state == UNSORTED).sum()),
        classes=class_rows(run),
        charts=tuple(sorting_charts(run)),
        picture=_picture(run) if run.has(*PICTURE) else None,
        cards=build_corrections(run),
        several=any("easy_1" in row for row in run.epochs),
    )


def class_rows(run: RunFiles) -> tuple[HardClass, ...]:
    """How the samples of each given class were sorted, the smallest share of easy ones first."""
    state, target = run.arrays["hardness_state"], run.arrays["hardness_target"]
    labels, number = run.labels, len(run.classes)

    def counted(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.bincount(classes[rows], minlength=number)

    easy, hard, corrected = (counted(state == s, labels.given) for s in (EASY, HARD, CORRECTED))
    gained = counted(state == CORRECTED, target)
    right: list[np.ndarray | None] = [None, None]
    if labels.truth is not None:
        good = target == labels.truth
        found = (counted((state == s) & good, target) for s in (EASY, CORRECTED))
        right = [
            part / np.maximum(1, whole) for part, whole in zip(found, (easy, gained), strict=True)
        ]
    share = easy / np.maximum(1, easy + hard + corrected)
    there = np.flatnonzero(easy + hard + corrected + gained)
    order = there[np.argsort(share[there], kind="stable")][:MOST_CLASSES]
    return tuple(
        HardClass(
            run.classes[k],
            int(easy[k]),
            int(hard[k]),
            int(corrected[k]),
            int(gained[k]),
            float(right[0][k]) if right[0] is not None and easy[k] else None,
            float(right[1][k]) if right[1] is not None and gained[k] else None,
        )
        for k in order.tolist()
    )


def _state(run: RunFiles, code: int) -> State:
    state, labels = run.arrays["hardness_state"], run.labels
    own = state == code
    count, whole = int(own.sum()), int((state != UNSORTED).sum())
    right = None
    if labels.truth is not None and count:
        used = labels.given if code == HARD else run.arrays["hardness_target"]
        right = float((used == labels.truth)[own].mean())
    return State(count, count / whole, right)


def _picture(run: RunFiles) -> Scatter:
    """The features of samples and anchors on two dimensions."""
    canvas = Canvas(run.arrays["hardness_points"])
    placed = canvas.placed()
    rows = run.arrays["hardness_point_rows"]
    samples, anchors = placed[: len(rows)], placed[len(rows) :]
    state, target = run.arrays["hardness_state"][rows], run.arrays["hardness_target"][rows]
    corrected = state == CORRECTED
    groups = [
        ("hard", "hard", "square", samples[state == HARD]),
        ("easy", "easy", "dot", samples[state == EASY]),
        ("anchors", "anchor", "plus", anchors),
    ]
    if run.labels.truth is None:
        groups.append(("corrected", "mended", "diamond", samples[corrected]))
    else:
        right = target == run.labels.truth[rows]
        groups.append(("corrected, rightly", "mended", "diamond", samples[corrected & right]))
        groups.append(("corrected, wrongly", "missed", "diamond", samples[corrected & ~right]))
    marks = tuple(marks_of(*group) for group in groups if len(group[3]))
    names: tuple[Name, ...] = ()
    if len(run.classes) <= MOST_HEATMAP:
        easy = state == EASY
        names = names_of(run.classes, target[easy], samples[easy], canvas.size)
    words = "Picture of the network's features, similar samples close together: " + ", ".join(
        f"{part.count:,} {part.name}" for part in marks
    )
    return Scatter(*canvas.size, marks, names, f"{words}.")
