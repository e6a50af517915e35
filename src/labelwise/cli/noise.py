"""`labelwise noise`: plant noise and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelwise.cli.shared import app, friendly


@app.command()
@friendly
def noise(
    data: Annotated[str, typer.Argument(help="The data source.")],
    noise: Annotated[str, typer.Option(help="KIND:RATE, such as symmetric:0.4")],
    out: Annotated[Path, typer.Option(help="A .csv or .parquet file of ids and labels.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
) -> None:
    """Plant noise in a data set's labels and write both to a table."""
    import numpy as np
    import pandas as pd

    from labelwise.data.files import write_table
    from labelwise.data.load import load
    from labelwise.noise.parse import parse

    process = parse(noise)
    source = load(
        data,
        label_column=label_column,
        image_size=image_size,
        limit=limit,
        seed=seed,
        on_bad_image=on_bad_image,  # type: ignore[arg-type]
    ).data
    noisy = process.corrupt(source, seed)
    names = np.asarray(source.classes, dtype=object)
    table = pd.DataFrame(
        {
            "id": source.ids,
            "given_label": names[noisy.labels.numpy()],
            "true_label": names[source.labels.numpy()],
        }
    )
    write_table(table, out)
    typer.echo(f"{noisy.realised_rate:.1%} of {len(source)} labels changed; written to {out}")
