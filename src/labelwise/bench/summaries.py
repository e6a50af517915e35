"""What the rows of a suite say, as tables that text, Markdown, LaTeX and HTML write alike.

Means are over the seeds, ± is the sample standard deviation (n - 1). Methods are compared with
plain cross-entropy seed by seed: runs of one seed share the noise, the data and the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from labelwise.bench.cells import (
    BEST,
    BOLD,
    CLOSE,
    NOTHING,
    Entry,
    Line,
    Table,
    nothing,
    plural,
    plus_minus,
    signed,
    with_n,
)
from labelwise.bench.costs import memory, times
from labelwise.bench.paired import comparison
from labelwise.bench.papers import paper_words
from labelwise.bench.readings import Readings, spread

NEAR = 0.5
"""Percentage points within which a mean counts as near the best."""


def tables(readings: Readings) -> list[Table]:
    """The main table, whole, then the others that have anything to say, without empty rows."""
    further = (
        comparison(readings),
        _accuracy(
            readings,
            "best",
            "Best epoch",
            "test_accuracy_best",
            "Test accuracy of the best epoch in percent. The test data chose it: an upper bound, "
            "not what one would have got.",
        ),
        _figure(readings, "auroc", "Finding wrong labels", "label_error_auroc", 1.0, 3, 0.005),
        _accuracy(
            readings,
            "suggestions",
            "Suggested labels",
            "suggestion_accuracy",
            "Of the labels that a run suspects, the share whose suggested label is the true one, "
            "percent.",
        ),
        noise_rates(readings),
        times(readings),
        memory(readings),
    )
    return [main_table(readings), *(table.trimmed() for table in further if table is not None)]


def main_table(readings: Readings) -> Table:
    """Last-epoch test accuracy with the paper's numbers beside it."""
    lines = []
    for row in readings.rows:
        entries = []
        for column in readings.columns:
            entry = _spread_entry(readings, row, column, "test_accuracy_last", 100.0, 1)
            paper = paper_words(readings, row, column)
            entries.append(replace(entry, details=(paper,)) if paper else entry)
        lines.append(Line(row, tuple(entries)))
    known = any(entry.details for line in lines for entry in line.entries)
    seeds = readings.seeds()
    listed = f" ({', '.join(map(str, seeds))})" if len(seeds) < 40 else ""
    table = Table(
        "main",
        "Test accuracy, last epochs",
        "Test accuracy in percent, mean of the last epochs; mean ± sample standard deviation over "
        f"{len(seeds)} {plural(len(seeds), 'seed')}{listed}, n where it is another number.",
        readings.columns,
        _marked(lines, _means(readings, "test_accuracy_last"), NEAR / 100),
    )
    notes = []
    if not readings.num_rows:
        notes.append(f"Nothing has been run yet: labelwise bench {readings.suite.name} runs it.")
    elif not readings.done():
        notes.append("No run of this suite has finished yet.")
    notes += _mark_notes(table, f"{NEAR:g} points")
    if known:
        notes.append(
            "paper: the number that the paper prints, last epochs first and its best epoch in "
            "brackets; then ours minus the paper's, last epochs against last epochs (best against "
            "best where the paper gives that alone)."
        )
    return replace(table, notes=tuple(notes))


def noise_rates(readings: Readings) -> Table | None:
    """Estimated noise rates beside those that the labels really have."""
    if not _any(readings, "estimated_noise_rate"):
        return None
    full = len(readings.seeds())
    realised = []
    for column in readings.columns:
        by_seed: dict[int, float] = {}
        for row in readings.rows:
            by_seed = readings.values(row, column, "realised_noise_rate") | by_seed
        realised.append(Entry(plus_minus(spread(by_seed.values()), 100.0, 1) or NOTHING))
    lines = [Line("realised", tuple(realised), summary=True)]
    for row in readings.rows:
        entries = []
        for column in readings.columns:
            rates = readings.values(row, column, "estimated_noise_rate")
            truth = readings.values(row, column, "realised_noise_rate")
            error = spread(rates[seed] - truth[seed] for seed in sorted(rates.keys() & truth))
            text = with_n(spread(rates.values()), 100.0, 1, full)
            if text and error is not None:
                text += f" ({signed(100 * error.mean)})"
            entries.append(Entry(text) if text else nothing(readings, row, column))
        lines.append(Line(row, tuple(entries)))
    return Table(
        "noise-rate",
        "Estimated noise rate",
        "Share of wrong labels in percent as each method estimates it, mean ± sample standard "
        "deviation over the seeds; in parentheses estimated minus realised. First row: realised.",
        readings.columns,
        tuple(lines),
    )


def _accuracy(readings: Readings, key: str, title: str, name: str, caption: str) -> Table | None:
    return _figure(readings, key, title, name, 100.0, 1, NEAR / 100, caption)


def _figure(
    readings: Readings,
    key: str,
    title: str,
    name: str,
    scale: float,
    digits: int,
    near: float,
    caption: str = "Area under the ROC curve of label quality against truly wrong labels (1 is "
    "perfect, 0.5 is chance).",
) -> Table | None:
    """A table of one figure, marked like the main one; None where no run has it."""
    if not _any(readings, name):
        return None
    lines = [
        Line(
            row,
            tuple(
                _spread_entry(readings, row, column, name, scale, digits, failures=False)
                for column in readings.columns
            ),
        )
        for row in readings.rows
    ]
    marked = _marked(lines, _means(readings, name), near, gaps=False)
    table = Table(
        key,
        title,
        f"{caption} Mean ± sample standard deviation over the seeds.",
        readings.columns,
        marked,
    )
    unit = " points" if scale == 100 else ""
    return replace(table, notes=tuple(_mark_notes(table, f"{near * scale:g}{unit}")))


def _any(readings: Readings, name: str) -> bool:
    return any(name in run.figures for run in readings.done())


def _means(readings: Readings, name: str) -> Callable[[str, int], float | None]:
    """Looks up the mean of a row by the place of its column."""

    def mean(row: str, place: int) -> float | None:
        found = spread(readings.values(row, readings.columns[place], name).values())
        return None if found is None else found.mean

    return mean


def _marked(
    lines: list[Line],
    mean: Callable[[str, int], float | None],
    near: float,
    gaps: bool = True,
) -> tuple[Line, ...]:
    """The lines with the best of each column marked, and those near it."""
    best = [
        max((v for line in lines if (v := mean(line.name, k)) is not None), default=None)
        for k in range(len(lines[0].entries) if lines else 0)
    ]
    found = []
    for line in lines:
        entries = []
        for place, entry in enumerate(line.entries):
            value, top = mean(line.name, place), best[place]
            if value is None or top is None:
                entries.append(entry)
                continue
            # Differences such as 0.965 - 0.96 are not exact: what reads as 0.5 counts as 0.5.
            gap = top - value
            mark = BEST if gap < 1e-12 else CLOSE if gap <= near + 1e-9 else ""
            entries.append(replace(entry, mark=mark, below=100 * gap if gaps else None))
        found.append(replace(line, entries=tuple(entries)))
    return tuple(found)


def _mark_notes(table: Table, near: str) -> list[str]:
    notes = [f"{BOLD} best of its column."] if table.marked(BEST) else []
    if table.marked(CLOSE):
        notes.append(f"†: within {near} of the best of its column.")
    return notes


def _spread_entry(
    readings: Readings,
    row: str,
    column: str,
    name: str,
    scale: float,
    digits: int,
    failures: bool = True,
) -> Entry:
    """Mean ± sd of a cell, what failed in it, or that there is nothing."""
    runs = readings.of(row, column)
    value = spread(readings.values(row, column, name).values())
    failed = sum(not run.done for run in runs) if failures else 0
    if value is not None:
        return Entry(with_n(value, scale, digits, len(readings.seeds()), failed))
    if failed:
        return Entry(f"failed ({failed})")
    if runs and failures:
        return Entry(f"unreadable ({len(runs)})")
    return nothing(readings, row, column)
