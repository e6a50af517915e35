"""`labelwise noise`: the noise processes there are; plant one and look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelwise.cli.shared import AsJson, app, friendly
from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.data.dataset import Dataset
    from labelwise.noise.process import NoisyLabels

MOST_CLASSES = 20
"""More classes than this are listed as pairs."""
MOST_PAIRS = 20


@app.command()
@friendly
def noise(
    data: Annotated[str | None, typer.Argument(help="The data source.")] = None,
    noise: Annotated[
        str | None, typer.Option(help="KIND:RATE, such as symmetric:0.4; none lists the kinds.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file of ids and labels.")
    ] = None,
    images_out: Annotated[
        Path | None, typer.Option(help="An .npz of inputs and given labels, to train on.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    truth_column: Annotated[
        str | None, typer.Option(help="Column of true labels, to plant the noise on.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
    list_kinds: Annotated[bool, typer.Option("--list", help="List the kinds of noise.")] = False,
    as_json: AsJson = False,
) -> None:
    """Plant noise in a data set's labels, say what it did and write it to a table."""
    if list_kinds or (noise is None and out is None and images_out is None):
        return list_processes(as_json)
    if noise is None:
        raise UserError("no --noise was given. `labelwise noise --list` shows the kinds.")
    if data is None:
        raise UserError(f"noise {noise!r} needs data: labelwise noise DATA --noise {noise}.")
    from labelwise.data.load import load
    from labelwise.noise.parse import parse

    process = parse(noise)
    found = load(
        data,
        label_column=label_column,
        truth_column=truth_column,
        image_size=image_size,
        limit=limit,
        seed=seed,
        on_bad_image=on_bad_image,  # type: ignore[arg-type]
    )
    # As `labelwise fit` does: where the truth is known, noise is planted on it.
    base = found.data.labels if found.truth is None else found.truth.labels
    source = found.data.with_labels(base)
    noisy = process.for_data(data).corrupt(source, seed)
    if out is not None:
        write_labels(source, noisy, out)
    if images_out is not None:
        write_inputs(source, noisy, images_out)
    if as_json:
        typer.echo(json.dumps({**noisy.to_json(), "classes": list(source.classes)}, indent=2))
    else:
        show(source, noisy, [path for path in (out, images_out) if path is not None])


def list_processes(as_json: bool) -> None:
    """Print every process with what its rate counts, its known matrix and its paper."""
    from labelwise.noise.parse import processes

    rows = [
        {
            "name": name,
            "usage": f"{name}:{process.usage}",
            "summary": process.summary(),
            "rate": process.convention,
            "depends_on": "sample" if process.needs_inputs else "class",
            "citation": process.citation,
        }
        for name, process in sorted(processes().items())
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(f"{row['usage']}: {row['summary']}\n    rate: {row['rate']}")
        typer.echo(f"    {row['citation']}")


def write_labels(data: Dataset, noisy: NoisyLabels, out: Path) -> None:
    """Write id, given and true label; with foreign inputs their true label is empty."""
    import numpy as np
    import pandas as pd

    from labelwise.data.files import write_table

    names = np.array([*data.classes, None], dtype=object)  # NO_CLASS, -1, is the last
    columns = {
        "id": data.ids,
        "given_label": names[noisy.labels.numpy()],
        "true_label": names[noisy.truth.numpy()],
    }
    if noisy.inputs is not None:
        columns["is_foreign"] = noisy.foreign.numpy()
    write_table(pd.DataFrame(columns), out)


def write_inputs(data: Dataset, noisy: NoisyLabels, out: Path) -> None:
    """Write inputs and given labels as an .npz that labelwise reads.

    The true labels are in it unless there are foreign inputs, which have none: then `is_foreign`
    says which, and `label_before` what they were before.
    """
    import numpy as np

    from labelwise.data.files import write_atomically

    if out.suffix.lower() != ".npz":
        raise UserError(f"{out}: the output of --images-out must end in .npz.")
    names = np.array(data.classes)
    inputs = data.inputs if noisy.inputs is None else noisy.inputs
    arrays = {
        "images" if data.kind == "images" else "embeddings": inputs.numpy(),
        "labels": names[noisy.labels.numpy()],
        "ids": data.ids.astype(str) if data.ids.dtype == object else data.ids,
    }
    if noisy.inputs is None:
        arrays["true_labels"] = names[noisy.truth.numpy()]
    else:
        arrays["is_foreign"] = noisy.foreign.numpy()
        arrays["label_before"] = names[data.labels.numpy()]
    write_atomically(out, lambda file: np.savez_compressed(file, **arrays))


def show(data: Dataset, noisy: NoisyLabels, written: list[Path]) -> None:
    """Print the rates, the realised transition matrix and the paper."""
    what = "labels changed" if noisy.inputs is None else "inputs replaced by foreign ones"
    places = f"; written to {', '.join(map(str, written))}" if written else ""
    typer.echo(f"{noisy.realised_rate:.1%} of {len(data)} {what}{places}")
    typer.echo(f"{noisy.process}: requested rate {noisy.requested_rate:.4g}", nl=False)
    typer.echo(f", realised rate {noisy.realised_rate:.4g}")
    for line in matrix_lines(data.classes, noisy) or pair_lines(data.classes, noisy):
        typer.echo(line)
    typer.echo(noisy.citation)


def matrix_lines(classes: tuple[str, ...], noisy: NoisyLabels) -> list[str]:
    """The realised matrix in per cent, true classes in the rows; none for many classes."""
    if len(classes) > MOST_CLASSES:
        return []
    short = [name if len(name) <= 10 else name[:9] + "…" for name in classes]
    width = max(map(len, short))
    lines = ["Realised transition matrix, % (rows: true class, columns: given label):"]
    lines.append(" " * width + "".join(f" {name:>{max(5, len(name))}}" for name in short))
    for name, row in zip(short, noisy.transition_matrix.tolist(), strict=True):
        cells = zip(short, row, strict=True)
        shown = "".join(f" {100 * value:>{max(5, len(other))}.1f}" for other, value in cells)
        lines.append(f"{name:<{width}}{shown}")
    return lines


def pair_lines(classes: tuple[str, ...], noisy: NoisyLabels) -> list[str]:
    """The most frequent confusions, by their share of the true class."""
    wrong = noisy.transition_matrix.clone().fill_diagonal_(0.0).flatten()
    top = wrong.topk(min(MOST_PAIRS, len(wrong)))
    lines = ["Most frequent confusions (true class → given label):"]
    for share, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        true, given = divmod(place, len(classes))
        if share > 0:
            lines.append(f"  {classes[true]} → {classes[given]}  {share:.1%}")
    return lines
