"""What the runs cost, on which machines, and whether their times can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labelwise.bench.cells import NOTHING, Entry, Line, Table, nothing, with_n
from labelwise.bench.readings import Readings, Run, spread

UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
SIZES = ((2.0**30, "GiB", 2), (2.0**20, "MiB", 0))


def times(readings: Readings) -> Table | None:
    """Time per run and in total; a warning where machines or commits are mixed in a column."""
    spent = {
        (row, column): [run for run in readings.attempts(row, column) if seconds(run) is not None]
        for row in readings.rows
        for column in readings.columns
    }
    every = [seconds(run) or 0.0 for runs in spent.values() for run in runs]
    if not every:
        return None
    unit, name = next((u for u in UNITS if max(every) >= u[0]), UNITS[-1])
    lines = []
    for row in readings.rows:
        entries = []
        for column in readings.columns:
            done = [seconds(run) or 0.0 for run in spent[row, column] if run.done]
            text = with_n(spread(done), 1 / unit, 2, len(readings.seeds()))
            entries.append(Entry(text) if text else nothing(readings, row, column))
        total = sum(seconds(run) or 0.0 for c in readings.columns for run in spent[row, c])
        lines.append(Line(row, (*entries, _hours(total))))
    totals = [
        sum(seconds(run) or 0.0 for row in readings.rows for run in spent[row, column])
        for column in readings.columns
    ]
    below = (*(_hours(total, " h") for total in totals), _hours(sum(totals)))
    lines.append(Line("total, hours", below, summary=True))
    return Table(
        "time",
        "Time",
        f"{name.capitalize()} per run, whole runs, mean ± sample standard deviation over the "
        "seeds; totals in hours, failed attempts included where their time is known.",
        (*readings.columns, "total, hours"),
        tuple(lines),
        (*warnings(readings), *_twice(readings)),
    )


def total_seconds(readings: Readings) -> float:
    """Seconds of all runs, failed attempts included where their time is known."""
    return sum(
        seconds(run) or 0.0
        for row in readings.rows
        for column in readings.columns
        for run in readings.attempts(row, column)
    )


def _twice(readings: Readings) -> list[str]:
    """What is in a total twice: a run that goes on after a failure brings its time along."""
    if not any(seconds(run) and readings.recovered(run) for run in readings.failures):
        return []
    return [
        "Totals: what a failed attempt had committed counts in it and in the run that went on "
        "from there."
    ]


def _hours(total: float, unit: str = "") -> Entry:
    """A total of seconds in hours; nothing where nothing was run."""
    return Entry(f"{total / 3600:.2f}{unit}" if total else NOTHING)


def seconds(run: Run) -> float | None:
    """How long a run took as a whole, or its training alone where only that is known."""
    return run.figures.get("seconds", run.figures.get("wall_seconds"))


def warnings(readings: Readings) -> list[str]:
    """Columns whose times cannot be compared: other hardware, or other code."""
    found = []
    for column in readings.columns:
        runs = [run for row in readings.rows for run in readings.of(row, column) if run.done]
        for what, name in ((hardware, "hardware"), (commit, "commits")):
            kinds = sorted({what(run) for run in runs})
            if len(kinds) > 1:
                shown = "; ".join(map(_shortened, kinds[:4])) + ("; …" if len(kinds) > 4 else "")
                found.append(
                    f"Warning: times in {column} are of different {name} and cannot be "
                    f"compared: {shown}."
                )
    return found


def hardware(run: Run) -> str:
    """The machine of a run in words, and others where it was gone on with."""
    return " then ".join(machines(run))


def machines(run: Run) -> list[str]:
    """Each of them in words, the one where it began first."""
    return list(dict.fromkeys(_machine(origin.get("hardware")) for origin in origins(run)))


def origins(run: Run) -> list[Mapping[str, Any]]:
    """What a row says of where its run began, and of where it was gone on with."""
    later = run.raw.get("resumed_on")
    found = later if isinstance(later, list) else []
    return [run.raw, *(origin for origin in found if isinstance(origin, dict))]


def _machine(known: object) -> str:
    if not isinstance(known, dict) or not known:
        return "unknown hardware"
    return ", ".join(_part(str(name), value) for name, value in known.items() if value is not None)


def _part(name: str, value: object) -> str:
    if name in ("cpu", "gpu"):
        return str(value)
    if name == "threads":
        return f"{value} {'thread' if value == 1 else 'threads'}"
    return f"{name} {value}"


def commit(run: Run) -> str:
    """The commit of a run, and others that it was gone on with.

    One ends in "-dirty" where files were changed since.
    """
    found = (origin.get("commit") for origin in origins(run))
    known = (text if isinstance(text, str) and text else "unknown commit" for text in found)
    return " then ".join(dict.fromkeys(known))


def _shortened(text: str) -> str:
    """Without the later digits of commits; what stands behind them is kept."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", text)


def memory(readings: Readings) -> Table | None:
    """The largest peak memory of a cell's runs."""
    peaks = [run.figures.get("peak_memory_bytes", 0.0) for run in readings.done()]
    if not any(peaks):
        return None
    size, name, digits = next((s for s in SIZES if max(peaks) >= s[0]), SIZES[-1])
    lines = []
    for row in readings.rows:
        entries = []
        for column in readings.columns:
            found = readings.values(row, column, "peak_memory_bytes").values()
            text = f"{max(found) / size:.{digits}f}" if found else ""
            entries.append(Entry(text) if text else nothing(readings, row, column))
        lines.append(Line(row, tuple(entries)))
    caption = f"Largest peak memory of the runs of a cell, {name}."
    return Table("memory", "Peak memory", caption, readings.columns, tuple(lines))
