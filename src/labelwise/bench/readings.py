"""What is known of a suite: its cells, and the runs of each by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BASELINE = "ce"


class CellLike(Protocol):
    """One cell of the main table."""

    @property
    def row(self) -> str:
        """Its row: the method."""

    @property
    def column(self) -> str:
        """Its column: the noise."""

    @property
    def paper_last(self) -> float | None:
        """The paper's test accuracy, mean of the last epochs, percent."""

    @property
    def paper_best(self) -> float | None:
        """The paper's test accuracy at its best epoch, percent."""


class SuiteLike(Protocol):
    """What the tables ask of a suite."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def title(self) -> str:
        """A heading."""

    @property
    def summary(self) -> str:
        """A sentence or two on what is run."""

    @property
    def cells(self) -> Sequence[CellLike]:
        """The cells in the order of the table."""

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of every cell."""


@dataclass(frozen=True)
class Run:
    """A row that says where it belongs.

    Args:
        row: row of the table.
        column: column of the table.
        seed: its seed.
        done: whether it finished.
        error: why it failed, or "".
        figures: the numbers that are numbers and in their range, by name.
        curve: test accuracy by measured epoch, fractions; NaN where unreadable.
        raw: the row as it was written.
    """

    row: str
    column: str
    seed: int
    done: bool
    error: str
    figures: Mapping[str, float]
    curve: tuple[float, ...]
    raw: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it belongs, in words."""
        return f"{self.row or '(no name)'}, {self.column or '(no name)'}, seed {self.seed}"

    @property
    def worth(self) -> int:
        """Of two runs of one place the one of greater worth counts."""
        return self.done + (self.done and "test_accuracy_last" in self.figures)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; `sd` is None for one value."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Readings:
    """A suite and what is known of it.

    Args:
        suite: the suite.
        rows: rows of the table, in the suite's order.
        columns: columns of the table, in the suite's order.
        cells: the suite's cells by (row, column).
        runs: one run per (row, column, seed) of the suite, by seed.
        failures: every failed run, in order, whether or not another attempt finished.
        outside: runs whose row or column is not in the suite, one per place.
        problems: what is wrong with the rows, in words.
        num_rows: how many rows there were.
    """

    suite: SuiteLike
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], CellLike]
    runs: Mapping[tuple[str, str], tuple[Run, ...]]
    failures: tuple[Run, ...]
    outside: tuple[Run, ...]
    problems: tuple[str, ...]
    num_rows: int

    def of(self, row: str, column: str) -> tuple[Run, ...]:
        """The runs of a cell, by seed."""
        return self.runs.get((row, column), ())

    def every(self) -> list[Run]:
        """All runs of the suite, in the order of the table."""
        return [run for row in self.rows for column in self.columns for run in self.of(row, column)]

    def done(self) -> list[Run]:
        """The finished ones of `every`."""
        return [run for run in self.every() if run.done]

    def attempts(self, row: str, column: str) -> list[Run]:
        """The finished runs of a cell, and every failed attempt at one."""
        done = [run for run in self.of(row, column) if run.done]
        return done + [run for run in self.failures if (run.row, run.column) == (row, column)]

    def seeds(self) -> tuple[int, ...]:
        """The suite's seeds, and others that were run."""
        return tuple(dict.fromkeys((*self.suite.seeds, *sorted(run.seed for run in self.every()))))

    def num_planned(self) -> int:
        """How many runs there are to be: of every cell with each of the seeds."""
        return len(self.cells) * len(self.seeds())

    def values(self, row: str, column: str, name: str) -> dict[int, float]:
        """A figure of a cell's finished runs, by seed."""
        return {
            run.seed: run.figures[name]
            for run in self.of(row, column)
            if run.done and name in run.figures
        }

    def recovered(self, failure: Run) -> bool:
        """Whether another attempt at a failed run finished."""
        at = (failure.row, failure.column)
        return any(run.done and run.seed == failure.seed for run in self.runs.get(at, ()))

    def baseline(self) -> str | None:
        """The row of plain cross-entropy, or None."""
        if BASELINE in self.rows:
            return BASELINE
        named = {run.row for run in self.every() if run.raw.get("method") == BASELINE}
        return next((row for row in self.rows if row in named), None)


def number(value: Any) -> float | None:
    """A finite number, or None; True is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and sample standard deviation; None of no values."""
    found = np.fromiter(values, dtype=float)
    if not len(found):
        return None
    sd = float(found.std(ddof=1)) if len(found) > 1 else None
    return Spread(float(found.mean()), sd, len(found))
