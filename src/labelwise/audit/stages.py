"""The stages of a run, as its epochs tell them: pre-training first, the method itself last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from labelwise.audit.run_files import RunFiles
from labelwise.training.figures import REPRESENTATION, TEST_ACCURACY

Learns = Literal["features", "clusters", "classes"]

SPELLED = {"simclr": "SimCLR", "moco": "MoCo", "scan": "SCAN"}
"""How the papers spell the names of pre-training."""
FIGURES = {**REPRESENTATION, **TEST_ACCURACY}
"""What the last epoch of a stage may be judged by."""
IN_WORDS: dict[Learns, str] = {"features": "self-supervision", "clusters": "clustering"}
MEANINGS: dict[Learns, str] = {
    "features": "Two altered views of a picture are taught to look alike; no label is read.",
    "clusters": (
        "The samples are gathered into groups, similar ones into the same group; no label is read."
    ),
    "classes": "The method itself: it goes on from the stages before it and reads the labels.",
}


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        name: as `metrics.jsonl` has it; of the last stage the method as it was asked for.
        learns: what it teaches the networks.
        rows: its epochs (E), not empty.
    """

    name: str
    learns: Learns
    rows: tuple[dict[str, Any], ...]

    @property
    def short(self) -> str:
        """Its name alone, as the papers spell it."""
        return SPELLED.get(self.name, self.name)

    @property
    def title(self) -> str:
        """Its name in plain words."""
        kind = IN_WORDS.get(self.learns)
        return f"{kind} ({self.short})" if kind else self.short

    @property
    def meaning(self) -> str:
        """What it does, in one sentence."""
        return MEANINGS[self.learns]

    @property
    def epochs(self) -> list[float]:
        """Its epochs (E) as it counts them, from 1."""
        return own_epochs(self.rows)

    @property
    def seconds(self) -> float:
        """How long its phases took."""
        return sum(sum((row.get("phase_seconds") or {}).values()) for row in self.rows)

    @property
    def figures(self) -> dict[str, float]:
        """The last known value of each of `FIGURES` that it was judged by."""
        return {
            name: float(values[-1])
            for name in FIGURES
            if (values := [row[name] for row in self.rows if _is_number(row.get(name))])
        }


def read_stages(run: RunFiles) -> tuple[Stage, ...]:
    """The stages in their order; none where the run had no pre-training."""
    if not any("stage" in row for row in run.epochs):
        return ()
    groups = [(n, tuple(rows)) for n, rows in groupby(run.epochs, lambda row: row.get("stage"))]
    before = [Stage(str(name), _learns(rows), rows) for name, rows in groups[:-1]]
    # An epoch names a wrapper alone, the configuration all of "sanm+dividemix".
    return (*before, Stage(str(run.config["method"]), "classes", groups[-1][1]))


def main_rows(run: RunFiles) -> list[dict[str, Any]]:
    """The epochs of the method itself: all of them where there was no pre-training."""
    stages = read_stages(run)
    return list(stages[-1].rows) if stages else run.epochs


def own_epochs(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Epoch numbers counted from the first of `rows`."""
    return [float(row["epoch"] - rows[0]["epoch"] + 1) for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _learns(rows: tuple[dict[str, Any], ...]) -> Learns:
    if any(name.startswith("cluster") for row in rows for name in row):
        return "clusters"
    return "features"


def in_words(stages: tuple[Stage, ...]) -> str:
    """The stages before the last: "20 epochs of self-supervision (SimCLR) and 5 of …"."""
    parts: list[str] = []
    for stage in stages[:-1]:
        number = len(stage.rows)
        unit = "" if parts else f" epoch{'s' * (number != 1)}"
        parts.append(f"{number:,}{unit} of {stage.title}")
    return " and ".join(parts)
