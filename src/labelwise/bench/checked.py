"""From rows to runs: checked, one per cell and seed, and the rest named.

Rows come from a file that several processes wrote, perhaps over months and by several versions: a
missing key or a number that is none costs that number and a line in the report, never the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labelwise.bench.readings import CellLike, Readings, Run, SuiteLike, number

FRACTIONS = (
    "test_accuracy_last",
    "test_accuracy_best",
    "label_error_auroc",
    "label_error_average_precision",
    "suggestion_accuracy",
    "estimated_noise_rate",
    "realised_noise_rate",
)
AMOUNTS = ("wall_seconds", "seconds", "peak_memory_bytes")
SAME_IN_A_CELL = ("method", "dataset", "num_samples", "epochs", "model", "image_size", "settings")
"""What may not differ between the seeds of one cell, or their mean means nothing."""


def read_rows(rows: Sequence[Any], suite: SuiteLike) -> Readings:
    """Check the rows of a suite and sort them into its cells.

    Of several runs of one cell and seed the last finished one that has an accuracy counts, or the
    last finished one, or the last.

    Args:
        rows: what the file of rows holds, in its order.
        suite: the suite.
    """
    problems: list[str] = []
    runs: list[Run] = []
    for place, raw in enumerate(rows, 1):
        run = _read(raw, f"row {place}", problems)
        if run is not None:
            runs.append(run)
    cells: dict[tuple[str, str], CellLike] = {}
    for cell in suite.cells:
        cells.setdefault((cell.row, cell.column), cell)
    latest, replaced = _latest(runs)
    if replaced:
        problems.append(
            f"{replaced} finished {'row was' if replaced == 1 else 'rows were'} replaced by an"
            "other one of the same cell and seed."
        )
    inside: dict[tuple[str, str], list[Run]] = {}
    for run in latest:
        if (run.row, run.column) in cells:
            inside.setdefault((run.row, run.column), []).append(run)
    problems += _strangers(latest, suite) + _mixed(inside)
    return Readings(
        suite,
        tuple(dict.fromkeys(row for row, _ in cells)),
        tuple(dict.fromkeys(column for _, column in cells)),
        cells,
        {at: tuple(sorted(found, key=lambda run: run.seed)) for at, found in inside.items()},
        tuple(run for run in runs if not run.done),
        tuple(run for run in latest if (run.row, run.column) not in cells),
        tuple(problems),
        len(rows),
    )


def _read(raw: Any, place: str, problems: list[str]) -> Run | None:
    """A row as a run; None where it does not say what it is a run of."""
    if not isinstance(raw, Mapping):
        problems.append(f"{place} is left out: it is no JSON object but {_short(raw)}.")
        return None
    row, column, seed = raw.get("row"), raw.get("column"), raw.get("seed")
    for key, value, right in (
        ("row", row, isinstance(row, str)),
        ("column", column, isinstance(column, str)),
        ("seed", seed, isinstance(seed, int) and not isinstance(seed, bool)),
        ("status", raw.get("status"), raw.get("status") in ("done", "failed")),
    ):
        if not right:
            what = f"{key} is {_short(value)}" if key in raw else f"{key} is missing"
            problems.append(f"{place} is left out: its {what}.")
            return None
    assert isinstance(row, str)
    assert isinstance(column, str)
    assert isinstance(seed, int)
    done = raw["status"] == "done"
    figures, wrong = _figures(raw)
    if done and "test_accuracy_last" not in figures and "test_accuracy_last" not in wrong:
        wrong["test_accuracy_last"] = _short(raw.get("test_accuracy_last"))
    run = Run(
        row,
        column,
        seed,
        done,
        "" if done else str(raw.get("error") or "no reason was recorded"),
        figures,
        _curve(raw.get("accuracies")),
        raw,
    )
    problems += [f"{place} ({run.place}): {name} is {value}." for name, value in wrong.items()]
    return run


def _figures(raw: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers of a row, and those that cannot be: outside their range, or no numbers."""
    figures: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for name in (*FRACTIONS, *AMOUNTS):
        value = raw.get(name)
        found = number(value)
        if found is not None and 0 <= found <= (1 if name in FRACTIONS else math.inf):
            figures[name] = found
        elif value is not None:
            wrong[name] = _short(value)
    return figures, wrong


def _curve(values: Any) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)):
        return ()
    found = (number(value) for value in values)
    return tuple(math.nan if v is None or not 0 <= v <= 1 else v for v in found)


def _latest(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """One run per place, in the order of the file, and how many finished ones lost theirs."""
    kept: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        key = (run.row, run.column, run.seed)
        if key not in kept or run.worth >= kept[key].worth:
            kept[key] = run
    latest = list(kept.values())
    return latest, sum(run.done for run in runs) - sum(run.done for run in latest)


def _strangers(runs: Sequence[Run], suite: SuiteLike) -> list[str]:
    """Rows that say they are of another suite."""
    names = [run.raw["suite"] for run in runs if run.raw.get("suite") not in (None, suite.name)]
    others = sorted({_short(name) for name in names})
    if not names:
        return []
    return [f"{len(names)} rows say that they are of another suite: {', '.join(others)}."]


def _mixed(cells: Mapping[tuple[str, str], Sequence[Run]]) -> list[str]:
    """Cells whose seeds were not run alike."""
    found = []
    for (row, column), runs in cells.items():
        done = [run for run in runs if run.done]
        differing = [
            key for key in SAME_IN_A_CELL if len({repr(run.raw.get(key)) for run in done}) > 1
        ]
        if differing:
            found.append(
                f"{row}, {column}: the seeds were not run alike ({', '.join(differing)}); "
                "their mean is over unlike runs."
            )
    return found


def _short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
