"""`labelwise bench`: a suite of runs, and its tables with the papers' numbers beside ours."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.shared import AsJson, Out, app, friendly, parse_assignments
from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.bench.bench import Bench
    from labelwise.bench.plan import Task
    from labelwise.bench.rows import Row
    from labelwise.bench.runner import Outcome, Runner


@app.command()
@friendly
def bench(
    suite: Annotated[str | None, typer.Argument(help="The suite; none: list them.")] = None,
    data: Annotated[str | None, typer.Option(help="The suite's training data.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to test on.")] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(help="Seeds: 0-2, '0 1 2'; default the suite's.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Only these, as in ce,dividemix.")] = None,
    noises: Annotated[str | None, typer.Option(help="Only these, as in symmetric:0.5.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples to train on.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of every run, as in schedule.lr=0.01; repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; default cores / threads, 1 on a GPU.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run; default 1.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    minutes: Annotated[
        float | None, typer.Option(help="Start no run that would not end within so many.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try runs again that failed.")
    ] = False,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Keep models, labels and reports of runs.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Write the tables of what is there; run nothing.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List suites, or cells and hours.")] = False,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no line per run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite: every cell with every seed, resumable; write its tables.

    Runs that are done are not done again; failed ones only with --retry-failed.
    """
    if suite is None:
        list_suites(as_json)
        return
    from labelwise.bench import bench as benches
    from labelwise.bench.plan import Changes
    from labelwise.bench.suites import find_suite
    from labelwise.data.files import at_home

    settings, schedule = parse_assignments(assign or [])
    changes = Changes.parse(
        {"epochs": epochs, "limit": limit, "settings": settings, "schedule": schedule}, "bench"
    )
    out = None if out is None else at_home(out)
    found = find_suite(suite)
    if table and (data, test, changes) == (None, None, Changes()):
        show_tables(benches.reopen(suite, out), as_json)
        return
    if show and found.data is None and data is None:
        list_cells(found, as_json)
        return
    opened = benches.open_bench(found, data, test, out, changes)
    opened.folder.require_suite(suite)
    if table:
        show_tables(opened, as_json)
        return
    tasks, notes = opened.tasks(
        words(methods), words(noises), None if seeds is None else benches.seeds_from(seeds)
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    how = {"workers": workers, "threads": threads, "device": device, "minutes": minutes}
    if show:
        list_tasks(opened, tasks, workers, threads, as_json)
        return
    outcome = run(opened, tasks, how, keep_runs, retry_failed, quiet or as_json)
    show_tables(opened, as_json, outcome)
    say_end(opened, outcome)


def words(text: str | None) -> list[str] | None:
    """The names in a list with commas."""
    if text is None:
        return None
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise UserError(f"{text!r} names nothing: give names with commas between them.")
    return found


def run(
    opened: Bench,
    tasks: list[Task],
    how: dict[str, Any],
    keep: bool,
    retry_failed: bool,
    quiet: bool,
) -> Outcome:
    """Do what is due."""
    from labelwise.bench.bench import check_settings
    from labelwise.bench.outlook import Outlook
    from labelwise.bench.runner import How, Outcome, Runner

    due = opened.due(tasks, retry_failed)
    chosen = How.chosen(**how, keep=keep) if due else None
    check_settings(due)  # nothing is written for what cannot be run
    opened.folder.create(opened.suite.name)
    opened.remember()
    if chosen is None:
        return Outcome()
    outlook = Outlook(tasks, opened.counted()[0])
    over = len(tasks) - len(due)
    if not quiet:
        known = outlook.left(due, chosen.workers)
        expected = "" if known is None else f", about {duration(known)}"
        done = f"{over} of {len(tasks)} runs are done; " if over else ""
        typer.echo(
            f"{done}{len(due)} run{'s' * (len(due) != 1)} to do, {chosen.workers} at a time"
            f"{expected}",
            err=True,
        )
    if quiet:
        return Runner(opened.folder, due, chosen, outlook).run()
    with Teller(over, len(tasks)) as teller:
        return Runner(opened.folder, due, chosen, outlook, teller).run()


class Teller:
    """Prints a line for every run that ends, on a terminal above a bar.

    Args:
        done: runs that were done before.
        total: of all runs.
    """

    def __init__(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        self.done, self.total = done, total
        columns = (BarColumn(bar_width=40), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Teller:
        """Show the bar."""
        if sys.stderr.isatty():
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take it away."""
        self.bar.stop()

    def __call__(self, row: Row, runner: Runner) -> None:
        """Print the line."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        width = len(str(self.total))
        accuracy = row.get("test_accuracy_last")
        if row["status"] == "failed":
            came = f"FAILED: {row['error'].splitlines()[0][:200]}"
        else:
            came = "done" if accuracy is None else f"{100 * accuracy:.1f} %"
        left = runner.seconds_left()
        rest = "" if not left else f"  ({duration(left)} left)"
        typer.echo(
            f"[{self.done:>{width}}/{self.total}] {row['row']}  {row['column']}  seed "
            f"{row['seed']}  {came}  {duration(row['seconds'])}{rest}",
            err=True,
        )


def show_tables(opened: Bench, as_json: bool, outcome: Outcome | None = None) -> None:
    """Write the tables, and print them as text or the rows as JSON."""
    text, notes = opened.write_tables()
    if as_json:
        rows, _ = opened.counted()
        found: dict[str, Any] = {
            "suite": opened.suite.name,
            "folder": str(opened.folder.path),
            "rows": rows,
            "notes": notes,
        }
        if outcome is not None:
            found |= {
                "done": len(outcome.done),
                "failed": len(outcome.failed),
                "elsewhere": len(outcome.elsewhere),
                "left": len(outcome.left),
                "interrupted": outcome.interrupted,
            }
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    typer.echo(text)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"Tables: {opened.folder.path / 'page.html'}", err=True)


def say_end(opened: Bench, outcome: Outcome) -> None:
    """Say what is left, and how to go on; leave with 130 where it was stopped."""
    again = shlex.join(["labelwise", *sys.argv[1:]])
    if outcome.elsewhere:
        count = len(outcome.elsewhere)
        typer.echo(f"{count} more are being run by another `labelwise bench`", err=True)
    if outcome.failed:
        logs = opened.folder.path / "logs"
        typer.echo(
            f"{len(outcome.failed)} failed (logs in {logs}); try them again with: "
            f"{again}{'' if '--retry-failed' in sys.argv else ' --retry-failed'}",
            err=True,
        )
    if outcome.interrupted:
        typer.echo(f"stopped with {len(outcome.left)} runs left; go on with: {again}", err=True)
        raise typer.Exit(130)
    if outcome.left:
        typer.echo(f"{len(outcome.left)} runs left; go on with: {again}", err=True)


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


def list_cells(suite: Any, as_json: bool) -> None:
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
    opened: Bench, tasks: list[Task], workers: int | None, threads: int | None, as_json: bool
) -> None:
    """Print the runs of a bench by cell: how many are done, and how long one takes."""
    from labelwise.bench.outlook import Outlook
    from labelwise.bench.runner import default_workers

    rows, _ = opened.counted()
    outlook = Outlook(tasks, rows)
    due = {task.key for task in opened.due(tasks, retry_failed=True)}
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
                "done": sum(task.key not in due for task in own),
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
        typer.echo(
            f"{item['row']:{wide}}  {item['column']}  {item['done']}/{item['runs']} done  "
            f"{expected}"
        )
    at_once = workers or default_workers(threads or 1)
    left = outlook.left([task for task in tasks if task.key in due], at_once)
    if left is not None:
        typer.echo(f"{len(due)} runs to do, {at_once} at a time: about {duration(left)}")


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 3 min, 2 h 5 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
