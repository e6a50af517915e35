"""What `labelwise bench` lists: suites, their cells, and the runs of a bench."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from labelwise.cli.bench_words import say_failed
from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.bench.bench import Bench
    from labelwise.bench.plan import Task
    from labelwise.bench.suites import Suite


def list_suites(as_json: bool) -> None:
    """Print what suites there are."""
    from labelwise.bench.suites import known_suites

    rows: list[dict[str, Any]] = []
    for name, build in known_suites().items():
        try:
            suite = build()
        except UserError as error:
            rows.append({"name": name, "empty": str(error)})
            continue
        rows.append(
            {
                "name": name,
                "title": suite.title,
                "summary": suite.summary,
                "cells": len(suite.cells),
                "seeds": list(suite.seeds),
                "runs": len(suite.cells) * len(suite.seeds),
                "needs": suite.needs,
                "hardware": suite.hardware,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        if "empty" in row:
            typer.echo(f"{row['name']}: {row['empty']}")
            continue
        typer.echo(f"{row['name']}: {row['summary']}")
        seeds = len(row["seeds"])
        typer.echo(f"    {row['cells']} cells, {seeds} seed{'s' * (seeds != 1)}")
        typer.echo(f"    needs {row['needs']}; for {row['hardware']}")


def list_cells(suite: Suite, as_json: bool) -> None:
    """Print the cells of a suite whose data were not given."""
    rows = [cell.model_dump(exclude_none=True) for cell in suite.cells]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for cell in suite.cells:
        number = "" if cell.paper_last is None else f"  paper {cell.paper_last} %"
        typer.echo(f"{cell.row}  {cell.column}{number}")
    typer.echo(f"needs {suite.needs}; for {suite.hardware}")


def list_tasks(
    opened: Bench,
    tasks: list[Task],
    how: Mapping[str, Any],
    as_json: bool,
    retry_failed: bool = False,
) -> None:
    """Print the runs of a bench by cell: how many are done or failed, and how long one takes.

    Args:
        opened: the bench.
        tasks: the runs.
        how: what was asked for, by the names of `How.chosen`.
        as_json: for a program to read.
        retry_failed: whether those that failed are to do.
    """
    from labelwise.audit.facts import duration
    from labelwise.bench.how import How
    from labelwise.bench.outlook import Outlook

    rows, _ = opened.counted()
    outlook = Outlook(tasks, rows)
    due = opened.due(tasks, retry_failed)
    undone = {task.key for task in opened.due(tasks, retry_failed=True)}
    failed = {task.key for task in opened.failed(tasks)}
    cells: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        cells.setdefault((task.cell.row, task.cell.column), []).append(task)
    found = []
    for (row, column), own in cells.items():
        seconds = outlook.seconds(own[0])
        found.append(
            {
                "row": row,
                "column": column,
                "runs": len(own),
                "done": sum(task.key not in undone for task in own),
                "failed": sum(task.key in failed for task in own),
                "hours_of_a_run": None if seconds is None else round(seconds / 3600, 4),
                "measured": outlook.measured(own[0]),
                "command": own[0].command,
            }
        )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    wide = max(len(str(item["row"])) for item in found)
    for item in found:
        hours = item["hours_of_a_run"]
        expected = "not known" if hours is None else f"{hours:.3f} h a run"
        if hours is not None and not item["measured"]:
            expected += " (not measured here)"
        failures = f", {item['failed']} failed" if item["failed"] else ""
        typer.echo(
            f"{item['row']:{wide}}  {item['column']}  {item['done']}/{item['runs']} done"
            f"{failures}  {expected}"
        )
    at_once = How.chosen(**how).workers
    left = outlook.left(due, at_once)
    if left is not None:
        runs = f"{len(due)} run{'s' * (len(due) != 1)}"
        typer.echo(f"{runs} to do, {at_once} at a time: about {duration(left)}")
    if failed and not retry_failed:
        typer.echo(say_failed(len(failed)))
