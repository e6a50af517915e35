"""How long runs are going to take, from those that are done."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from labelwise.bench.plan import Task
from labelwise.bench.rows import Row


class Outlook:
    """Expected seconds of runs.

    The mean of finished runs of the same cell counts, or else of the same method under any noise;
    where there is none, what the suite says, times how much longer than that others took.

    Args:
        tasks: the runs that may come.
        rows: finished runs of theirs.
    """

    def __init__(self, tasks: Iterable[Task], rows: Iterable[Row]) -> None:
        self._by_cell: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._by_name: defaultdict[str, list[float]] = defaultdict(list)
        self._ratios: list[float] = []
        self._said = {task.cell.name: task.cell.seconds for task in tasks}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Learn from a finished run."""
        seconds = row.get("seconds")
        if row.get("status") != "done" or not isinstance(seconds, int | float):
            return
        name = str(row["name"])
        self._by_cell[name, str(row["column"])].append(seconds)
        self._by_name[name].append(seconds)
        said = self._said.get(name)
        if said:
            self._ratios.append(seconds / said)

    def seconds(self, task: Task) -> float | None:
        """Expected seconds of a run; None where nothing is known."""
        cell = task.cell
        for known in (self._by_cell.get((cell.name, cell.column)), self._by_name.get(cell.name)):
            if known:
                return statistics.mean(known)
        if cell.seconds is None:
            return None
        return cell.seconds * (statistics.median(self._ratios) if self._ratios else 1.0)

    def measured(self, task: Task) -> bool:
        """Whether runs of the same method are done, so that more than a guess is known."""
        return task.cell.name in self._by_name

    def left(self, tasks: Iterable[Task], workers: int) -> float | None:
        """Expected seconds until all are done; None where one of them is not known."""
        found = [self.seconds(task) for task in tasks]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            return None
        return max([sum(known) / workers, *known], default=0.0)
