"""`labelwise bench`: a suite of runs, and its tables with the papers' numbers beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.bench_lists import list_cells, list_suites, list_tasks
from labelwise.cli.bench_words import Teller, say_end, say_failed, show_tables
from labelwise.cli.shared import AsJson, Out, app, friendly, parse_assignments
from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.bench.bench import Bench
    from labelwise.bench.plan import Task
    from labelwise.bench.runner import Outcome


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
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of a run; default 1, on a GPU all.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Start no run after so many, nor one expected to end later; one whose time is "
            "not known is started."
        ),
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

    Runs that are done are not done again; failed ones only with --retry-failed. Runs that fail
    leave exit code 1.
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
        list_tasks(opened, tasks, how, as_json, retry_failed)
        return
    outcome = run(opened, tasks, how, keep_runs, retry_failed, quiet or as_json)
    show_tables(opened, as_json, outcome)
    say_end(opened, outcome)
    if outcome.failed:
        raise typer.Exit(1)


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
    from labelwise.audit.facts import duration
    from labelwise.bench.bench import check_settings
    from labelwise.bench.how import How
    from labelwise.bench.outlook import Outlook
    from labelwise.bench.runner import Outcome, Runner

    due = opened.due(tasks, retry_failed)
    alone = [] if retry_failed else opened.failed(tasks)
    over = len(tasks) - len(due) - len(alone)
    chosen = How.chosen(**how, keep=keep) if due else None
    check_settings(due)  # nothing is written for what cannot be run
    opened.folder.create(opened.suite.name)
    opened.remember()
    if alone and not quiet:
        typer.echo(say_failed(len(alone)), err=True)
    if chosen is None:
        return Outcome()
    outlook = Outlook(tasks, opened.counted()[0])
    if quiet:
        return Runner(opened.folder, due, chosen, outlook).run()
    known = outlook.left(due, chosen.workers)
    expected = "" if known is None else f", about {duration(known)}"
    done = f"{over} of {len(tasks)} runs are done; " if over else ""
    typer.echo(
        f"{done}{len(due)} run{'s' * (len(due) != 1)} to do, {chosen.workers} at a time{expected}",
        err=True,
    )
    with Teller(over, over + len(due)) as teller:
        return Runner(opened.folder, due, chosen, outlook, teller).run()
