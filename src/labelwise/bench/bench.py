"""A bench: a suite, its data and its folder; which runs are due, and the tables of those done."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labelwise.bench.folder import BenchFolder
from labelwise.bench.identity import BUILT_IN
from labelwise.bench.plan import (
    Changes,
    Place,
    Task,
    assignments,
    choose_cells,
    split_by_columns,
    task_of,
    tasks_of,
)
from labelwise.bench.rows import Row, latest
from labelwise.bench.suites import Suite, find_suite
from labelwise.errors import UserError

MOST_SEEDS = 10_000
"""Seeds of one bench: more are a mistyped range."""
LARGEST_SEED = 999_999_999


@dataclass(frozen=True)
class Bench:
    """A suite on its data in its folder.

    Args:
        suite: the suite.
        folder: where rows, runs and tables are.
        place: the data.
        changes: what was asked for beside the suite itself.
    """

    suite: Suite
    folder: BenchFolder
    place: Place
    changes: Changes

    def tasks(
        self,
        methods: Sequence[str] | None = None,
        noises: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[list[Task], list[str]]:
        """The runs of some methods, noises and seeds, done or not; None: of all of the suite.

        A run that fills two places of the table is among them once.

        Returns:
            The runs, and notes on cells whose labels the data do not have.

        Raises:
            UserError: a method or noise that is not in the suite, or nothing is left.
        """
        cells, notes = split_by_columns(choose_cells(self.suite, methods, noises), self.place)
        if not cells:
            said = "".join(f" {note}." for note in notes)
            raise UserError(f"no cell of the suite {self.suite.name} is left to run.{said}")
        chosen = self.suite.seeds if seeds is None else tuple(dict.fromkeys(seeds))
        found = tasks_of(self.suite, cells, chosen, self.place, self.changes)
        return list({task.key: task for task in reversed(found)}.values())[::-1], notes

    def due(self, tasks: Iterable[Task], retry_failed: bool = False) -> list[Task]:
        """Those that are not done; those that failed only where they are to be tried again."""
        rows = latest(self.folder.rows.read()[0])
        over = {"done"} if retry_failed else {"done", "failed"}
        return [task for task in tasks if rows.get(task.key, {}).get("status") not in over]

    def failed(self, tasks: Iterable[Task]) -> list[Task]:
        """Those that failed, with no later attempt that finished."""
        rows = latest(self.folder.rows.read()[0])
        return [task for task in tasks if rows.get(task.key, {}).get("status") == "failed"]

    def counted(self) -> tuple[list[Row], list[str]]:
        """The rows of the suite as it is now, each in its place, and notes on others.

        All attempts at a run are among them in the order of the file: what the tables take of them
        is decided there. Names, places and the paper's numbers are the suite's, whatever they were
        when it ran.
        """
        rows, notes = self.folder.rows.read()
        attempts: dict[str, list[Row]] = {}
        for row in rows:
            attempts.setdefault(str(row.get("key")), []).append(row)
        seeds = {*self.suite.seeds, *(row["seed"] for row in rows if type(row.get("seed")) is int)}
        found: list[Row] = []
        used: set[str] = set()
        for cell in self.suite.cells:
            for seed in sorted(seeds):
                task = task_of(self.suite, cell, seed, self.place, self.changes)
                if task.key in attempts:
                    used.add(task.key)
                    own = cell.model_dump(
                        include={"name", "recipe", "row", "column", "paper_last", "paper_best"}
                    )
                    found += [{**row, **own} for row in attempts[task.key]]
        stale = len(attempts.keys() - used)
        if stale:
            runs = f"{stale} run{'s' * (stale != 1)}"
            notes.append(
                f"{runs} of other settings, data or an earlier suite left out of the tables"
            )
        return found, notes

    def write_tables(self) -> tuple[str, list[str]]:
        """Write the tables of what is there; return the main one as text, and notes."""
        # Plots and templates are only needed here.
        tables = importlib.import_module("labelwise.bench.tables")
        with self.folder.writing():
            rows, notes = self.counted()
            tables.write_tables(rows, self.suite, self.folder.path, self.command())
        return tables.text_brief(rows, self.suite), notes

    def command(self) -> str:
        """What runs it, or goes on with it; its folder as seen from the current one."""
        words = ["labelwise", "bench", self.suite.name]
        if self.suite.data is None:
            words += ["--data", self.place.data]
            words += [] if self.place.test is None else ["--test", self.place.test]
        for name in ("epochs", "limit"):
            value = getattr(self.changes, name)
            words += [] if value is None else [f"--{name}", str(value)]
        words += assignments(self.changes.settings, self.changes.schedule)
        path = self.folder.path
        if path.resolve() != folder_of(self.suite.name, None).resolve():
            here = Path.cwd()
            path = path.relative_to(here) if path.is_relative_to(here) else path
            words += ["--out", str(path)]
        return shlex.join(words)

    def remember(self) -> None:
        """Write down what this bench is, for `reopen`."""
        self.folder.remember(
            {
                "suite": self.suite.name,
                "place": self.place.model_dump(),
                "changes": self.changes.model_dump(),
            }
        )


def open_bench(
    suite: Suite, data: str | None, test: str | None, out: Path | None, changes: Changes
) -> Bench:
    """Look at the data of a suite.

    Raises:
        UserError: data are missing, or given where the suite has its own.
    """
    if suite.data is not None and (data is not None or test is not None):
        given = "--data" if data is not None else "--test"
        raise UserError(
            f"the suite {suite.name} has its own data ({suite.data}): leave {given} away."
        )
    wanted = suite.data or data
    if wanted is None:
        raise UserError(f"the suite {suite.name} needs {suite.needs}. Nothing is downloaded.")
    if suite.data is None and wanted in BUILT_IN:
        raise UserError(f"--data {wanted}: the suite {suite.name} needs {suite.needs}.")
    if suite.data is None and test is None:
        raise UserError(
            f"the suite {suite.name} needs --test as well: {suite.needs}. Nothing is downloaded."
        )
    place = Place.of(wanted, test)
    return Bench(suite, BenchFolder(folder_of(suite.name, out)), place, changes)


def reopen(name: str, out: Path | None) -> Bench:
    """The bench that a folder holds, as it was asked for last; its data are not looked at.

    Raises:
        UserError: there is none, or it is of another suite.
    """
    folder = BenchFolder(folder_of(name, out))
    folder.require_suite(name)
    asked = folder.remembered()
    if asked is None:
        raise UserError(f"{folder.path} holds no bench: run `labelwise bench {name}` first.")
    if asked.get("suite") != name:
        raise UserError(f"{folder.path} holds the suite {asked.get('suite')!r}, not {name!r}.")
    place = Place.parse(asked.get("place") or {}, str(folder.asked))
    changes = Changes.parse(asked.get("changes") or {}, str(folder.asked))
    return Bench(find_suite(name), folder, place, changes)


def folder_of(name: str, out: Path | None) -> Path:
    """Where a suite's bench is."""
    return out or Path("bench") / name


def check_settings(tasks: Iterable[Task]) -> None:
    """Raise a `UserError` for settings or schedules that a method does not have."""
    from labelwise.binding import build_method
    from labelwise.config import RunConfig, Schedule
    from labelwise.noise.parse import parse

    seen: set[tuple[str, str]] = set()
    for task in tasks:
        config = RunConfig.parse(task.config, f"the run {task.name}")
        if (task.cell.name, task.cell.column) not in seen:
            seen.add((task.cell.name, task.cell.column))
            build_method(config.method, config.settings)
            Schedule.parse(config.schedule, "schedule")
            if config.noise is not None:
                parse(config.noise)


def seeds_from(words: Iterable[str]) -> list[int]:
    """Seeds from words such as "0 1 2", "0,1" and "0-2".

    Raises:
        UserError: something else, or too much of it.
    """
    found: list[int] = []
    for word in " ".join(words).replace(",", " ").split():
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds {word!r} is no seed: give numbers such as 0-2 or '0 1 2'.")
        if max(len(first), len(last)) > len(str(LARGEST_SEED)):
            raise UserError(f"--seeds {word[:40]!r}: the largest seed is {LARGEST_SEED}.")
        begin, end = int(first), int(last or first)
        if end < begin:
            raise UserError(f"--seeds {word!r} names no seed: give the smaller one first.")
        if len(found) + end - begin >= MOST_SEEDS:
            raise UserError(f"--seeds {word!r}: at most {MOST_SEEDS:,} seeds at once.")
        found += range(begin, end + 1)
    if not found:
        raise UserError("--seeds names no seed: give numbers such as 0-2 or '0 1 2'.")
    return list(dict.fromkeys(found))
