"""Where the numbers come from: failures, unreadable rows, machines, versions, commands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from labelwise.bench.cells import plural
from labelwise.bench.costs import commit, hardware, origins, total_seconds
from labelwise.bench.readings import Readings, Run, spread

MOST = 12
"""Items of a list that are shown; the rest is counted."""


@dataclass(frozen=True)
class Section:
    """A heading and sentences below it; `fold` where most readers will not want them."""

    key: str
    title: str
    items: tuple[str, ...]
    fold: bool = False


def sections(readings: Readings) -> list[Section]:
    """What stands below the tables; a section that has nothing to say is left out."""
    found = (
        Section("failures", "Failed runs", tuple(_failures(readings))),
        Section("problems", "Rows with something wrong", readings.problems),
        Section(
            "outside", "Rows that this suite does not have any more", tuple(_outside(readings))
        ),
        Section("provenance", "Where the numbers come from", tuple(_provenance(readings))),
        Section("commands", "Commands", tuple(_commands(readings)), fold=True),
    )
    return [section for section in found if section.items]


def _failures(readings: Readings) -> list[str]:
    return [
        f"{run.place}: {run.error}"
        + (" (a later attempt finished)" if readings.recovered(run) else "")
        for run in readings.failures
    ]


def _outside(readings: Readings) -> list[str]:
    """A line per cell that is not in the suite."""
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in readings.outside:
        cells.setdefault((run.row, run.column), []).append(run)
    found = []
    for (row, column), runs in sorted(cells.items()):
        values = [run.figures.get("test_accuracy_last") for run in runs if run.done]
        value = spread(v for v in values if v is not None)
        failed = sum(not run.done for run in runs)
        text = f"test accuracy, last epochs {100 * value.mean:.1f}" if value else "no accuracy"
        if value and value.sd is not None:
            text += f" ± {100 * value.sd:.1f}"
        text += f" (n {value.n if value else 0}{f', {failed} failed' if failed else ''})"
        found.append(f"{row or '(no name)'}, {column or '(no name)'}: {text}")
    return found


def _provenance(readings: Readings) -> list[str]:
    runs = readings.every()
    done, cells, seeds = len(readings.done()), len(readings.cells), len(readings.seeds())
    found = [
        f"{done} finished runs, {len(runs) - done} failed, of {readings.num_planned()} planned "
        f"({cells} {plural(cells, 'cell')} × {seeds} {plural(seeds, 'seed')})."
    ]
    if not runs:
        return found
    hours = total_seconds(readings) / 3600
    found.append(f"{hours:.2f} hours of runs in total, failed attempts included.")
    finished = readings.done()
    found += _counted("Hardware", (hardware(run) for run in finished))
    found += _counted("Versions", (versions(run) for run in finished))
    found += _counted("Commit", (commit(run) for run in finished))
    dates = sorted(str(run.raw["date"]) for run in runs if run.raw.get("date"))
    if dates:
        found.append(f"Date: {dates[0]}" + (f" to {dates[-1]}" if dates[-1] != dates[0] else ""))
    return found


def _commands(readings: Readings) -> list[str]:
    """What was run, once for all seeds."""
    commands = (
        str(run.raw.get("command") or "unknown") for run in readings.done() or readings.every()
    )
    return list(dict.fromkeys(re.sub(r"--seed[ =]\d+", "--seed S", text) for text in commands))


def _counted(name: str, values: Iterable[str]) -> list[str]:
    """Each value with the number of its rows, the commonest first."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    if len(counts) == 1:
        return [f"{name}: {counts[0][0]}"]
    found = [f"{name}: {value} ({count} {plural(count, 'row')})" for value, count in counts[:MOST]]
    if len(counts) > MOST:
        rest = sum(count for _, count in counts[MOST:])
        found.append(
            f"{name}: {len(counts) - MOST} more ({rest} {plural(rest, 'row')}), see rows.jsonl"
        )
    return found


def versions(run: Run) -> str:
    """The versions of a run in words, and others that it was gone on with."""
    return " then ".join(dict.fromkeys(_versions(o.get("versions")) for o in origins(run)))


def _versions(known: object) -> str:
    if not isinstance(known, dict) or not known:
        return "unknown versions"
    return ", ".join(f"{name} {value}" for name, value in known.items())
