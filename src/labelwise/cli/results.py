"""Commands on a finished run: `labelwise report` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelwise.cli.shared import app, friendly


@app.command()
@friendly
def report(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Another run on the same samples and labels: its losses right after the warm-up "
            "are drawn beside this run's."
        ),
    ] = None,
) -> None:
    """Write the report of a finished run again."""
    from labelwise.estimator import load_run

    typer.echo(load_run(run).report(beside))


@app.command()
@friendly
def predict(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    data: Annotated[str, typer.Argument(help="Images or embeddings; labels are not needed.")],
    out: Annotated[Path, typer.Option(help="A .csv or .parquet file.")],
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
) -> None:
    """Classify new data with a finished run's model."""
    from labelwise.data.files import write_table
    from labelwise.estimator import load_run

    table = load_run(run).predict(data, on_bad_image)  # type: ignore[arg-type]
    write_table(table, out)
    typer.echo(f"{len(table)} predictions in {out}")
