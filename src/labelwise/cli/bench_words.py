"""What `labelwise bench` says: a line per run, the tables, and how to go on."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from labelwise.bench.bench import Bench
    from labelwise.bench.rows import Row
    from labelwise.bench.runner import Outcome, Runner


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
        from labelwise.audit.facts import duration

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
    """Write the tables; print the main one and what to look at, or the rows as JSON."""
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
    typer.echo(
        f"All tables: {opened.folder.path / 'page.html'}, and table.txt, table.md, table.tex there",
        err=True,
    )


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


def say_failed(count: int) -> str:
    """That runs failed earlier and are left alone."""
    return f"{count} failed earlier: try again with --retry-failed"
