"""The page of a suite: one HTML file that opens offline, without a script or a request."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import labelwise.audit
from labelwise.audit.facts import KeyNumber, duration
from labelwise.bench import plots
from labelwise.bench.against_time import scatters
from labelwise.bench.cells import plural
from labelwise.bench.costs import machines, total_seconds, warnings
from labelwise.bench.paired import verdicts
from labelwise.bench.papers import paper_table
from labelwise.bench.provenance import sections
from labelwise.bench.readings import Readings
from labelwise.bench.summaries import tables

if TYPE_CHECKING:
    from jinja2 import Environment

FARTHEST = 20.0
"""Percentage points below the best from which a cell has the full colour."""


def render_page(readings: Readings, command: str = "") -> str:
    """The page as HTML.

    Args:
        readings: the suite and its runs.
        command: what runs it; "" where no more is known than its name.
    """
    suite = readings.suite
    found = tables(readings)
    curves = [plots.curve_charts(readings, column) for column in readings.columns]
    return (
        _environment()
        .get_template("page.bench.jinja")
        .render(
            title=suite.title or suite.name,
            suite=suite,
            command=command or f"labelwise bench {suite.name}",
            numbers=key_numbers(readings),
            warnings=warnings(readings),
            num_problems=len(readings.problems),
            verdicts=verdicts(readings),
            main=found[0],
            tables=found[1:],
            papers=paper_table(readings),
            dots=plots.dot_plots(readings),
            curves=[chart for charts in curves for chart in charts],
            scatters=scatters(readings),
            methods=readings.rows,
            sections=sections(readings),
            ran=bool(readings.num_rows),
            farthest=FARTHEST,
        )
        .lstrip()
    )


def key_numbers(readings: Readings) -> list[KeyNumber]:
    """What was run, on what, and for how long."""
    done = len(readings.done())
    failed = len(readings.every()) - done
    used = sorted({machine for run in readings.done() for machine in machines(run)})
    machine = used[0] if len(used) == 1 else "listed below" if used else ""
    shape = (
        (len(readings.rows), "method"),
        (len(readings.columns), "column"),
        (len(readings.seeds()), "seed"),
    )
    return [
        KeyNumber(
            "Runs finished",
            f"{done} of {readings.num_planned()}",
            ", ".join(f"{count} {plural(count, word)}" for count, word in shape),
        ),
        KeyNumber("Runs failed", str(failed), "reasons below" if failed else ""),
        KeyNumber(
            "Time in total",
            duration(total_seconds(readings)),
            "all runs and failed attempts, one after another",
        ),
        KeyNumber("Machines", str(len(used)), machine),
    ]


def heat(below: float | None) -> float:
    """How much colour a cell gets for its distance to the best, 0 to 1; small ones stay visible."""
    return 0.0 if below is None else round(min(below / FARTHEST, 1.0) ** 0.5, 3)


def gap(below: float) -> str:
    """The distance to the best of the column in words."""
    return f"−{below:.1f}" if below >= 0.05 else f"−{below:.2f}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The style and the drawing of charts are those of the label report.
    shared = Path(next(iter(labelwise.audit.__path__)))
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["heat"] = heat
    environment.filters["gap"] = gap
    return environment
