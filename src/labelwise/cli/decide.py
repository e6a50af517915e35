"""`labelwise apply`: a person's decisions become a cleaned table of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labelwise.cli.shared import AsJson, app, friendly


@app.command()
@friendly
def apply(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    out: Annotated[Path, typer.Option(help="A .parquet, .csv or .tsv file.")],
    decisions: Annotated[
        Path | None, typer.Argument(help="decisions.csv, downloaded from the report's page.")
    ] = None,
    undecided: Annotated[
        str,
        typer.Option(help="Labels without a decision: keep, suggest or drop-suspects."),
    ] = "keep",
    data: Annotated[
        str | None,
        typer.Option(help="The folder or table the run was trained on, to join its inputs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write cleaned labels: what you decided in the report, and one rule for the rest."""
    from labelwise.audit.decisions import apply_decisions

    done = apply_decisions(
        run,
        decisions,
        out,
        undecided=undecided,  # type: ignore[arg-type]
        data=data,
    )
    if as_json:
        typer.echo(json.dumps(done.to_json(), indent=2))
        return
    counts = done.counts
    words = [f"{counts['kept']} kept, {counts['fixed']} fixed, {counts['dropped']} dropped"]
    if counts["suggested"]:
        words.append(f"{counts['suggested']} taken as suggested")
    words.append(f"{counts['undecided']} undecided, with the given label")
    typer.echo(f"{', '.join(words)}.")
    for note in done.notes:
        typer.echo(f"note: {note}")
    total = sum(counts.values()) - counts["dropped"]
    typer.echo(f"{total} labels in {done.path}")
