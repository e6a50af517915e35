"""`labelwise pretrain`: networks and features from samples whose labels are not looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelwise.cli.shared import (
    AsJson,
    Out,
    app,
    friendly,
    interrupted,
    listener_for,
    parse_assignments,
    show_result,
)
from labelwise.errors import UserError


@app.command()
@friendly
def pretrain(
    data: Annotated[str, typer.Argument(help="digits, a folder, a .csv/.parquet, an .npz/.npy")],
    method: Annotated[str, typer.Option(help="simclr, moco, simclr+scan, …")] = "simclr",
    init: Annotated[
        str | None, typer.Option(help="Folder of a pre-training or run to start from.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of clusters for data without labels (scan).")
    ] = None,
    model: Annotated[str, typer.Option(help="Backbone: labelwise's or any timm name.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Epochs; default scales with data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    label_column: Annotated[str | None, typer.Option(help="Labels, for k-NN figures.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="True labels, for figures.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a sample of this size.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes or GPUs.")] = 1,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between commits.")] = 15.0,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting: temperature=0.1, scan.epochs=20; repeatable."),
    ] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn from the samples alone; write the model and the features, to start runs from."""
    settings, schedule = parse_assignments(assign or [])
    if schedule:
        name = next(iter(schedule))
        raise UserError(
            f"--set schedule.{name} belongs to `labelwise fit`: pre-training has epochs, "
            "batch_size, lr and weight_decay, as in --set simclr.epochs=100."
        )
    from labelwise import pretrained
    from labelwise.data.files import at_home
    from labelwise.training.folder import next_free
    from labelwise.training.loop import Interrupted

    folder = out or next_free(Path("runs"), f"{at_home(data).resolve().stem}-{method}")
    try:
        result = pretrained.pretrain(
            data,
            method=method,
            out=folder,
            init=init,
            classes=classes,
            settings=settings,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            listener=listener_for(f"{method} on {Path(data).name}", quiet or as_json),
            model=model,
            seed=seed,
            label_column=label_column,
            truth_column=truth_column,
            limit=limit,
            image_size=image_size,
            on_bad_image=on_bad_image,
            device=device,
            devices=devices,
            precision=precision,
            threads=threads,
            checkpoint_every=checkpoint_every,
        )
    except Interrupted:
        interrupted(folder)
    show_result(result, as_json)
