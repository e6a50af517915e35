"""What the runs cost, on which machines, and whether their times can be compared."""

from __future__ import annotations

from labelwise.bench.cells import NOTHING, Entry, Line, Table, with_n
from labelwise.bench.readings import Readings, Run, spread

UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
SIZES = ((2.0**30, "GiB", 2), (2.0**20, "MiB", 0))


def times(readings: Readings) -> Table | None:
    """Time per run and in total; a warning where machines or commits are mixed in a column."""
    spent = {
        (row, column): [run for run in readings.of(row, column) if seconds(run) is not None]
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
            text = with_n(spread(done), 1 / unit, 2, len(readings.suite.seeds))
            entries.append(Entry(text or NOTHING))
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
        "seeds; totals in hours, failed runs included where their time is known.",
        (*readings.columns, "total, hours"),
        tuple(lines),
        tuple(warnings(readings)),
    )


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
                shown = "; ".join(kinds[:4]) + ("; …" if len(kinds) > 4 else "")
                found.append(
                    f"Warning: times in {column} are of different {name} and cannot be "
                    f"compared: {shown}."
                )
    return found


def hardware(run: Run) -> str:
    """The machine of a run in words."""
    known = run.raw.get("hardware")
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
    """The commit of a run, shortened."""
    known = run.raw.get("commit")
    return known[:12] if isinstance(known, str) and known else "unknown commit"


def memory(readings: Readings) -> Table | None:
    """The largest peak memory of a cell's runs."""
    peaks = [run.figures.get("peak_memory_bytes", 0.0) for run in readings.done()]
    if not any(peaks):
        return None
    size, name, digits = next((s for s in SIZES if max(peaks) >= s[0]), SIZES[-1])
    lines = []
    for row in readings.rows:
        found = (
            list(readings.values(row, column, "peak_memory_bytes").values())
            for column in readings.columns
        )
        entries = (Entry(f"{max(v) / size:.{digits}f}" if v else NOTHING) for v in found)
        lines.append(Line(row, tuple(entries)))
    caption = f"Largest peak memory of the runs of a cell, {name}."
    return Table("memory", "Peak memory", caption, readings.columns, tuple(lines))
