"""`labelwise fit`, `resume` and `demo`; pre-training alone is in `cli.pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from labelwise.estimator import Result


@app.command()
@friendly
def fit(
    data: Annotated[str, typer.Argument(help="digits, a folder, a .csv/.parquet, an .npz/.npy")],
    method: Annotated[
        str | None, typer.Option(help="See `labelwise methods`; default dividemix.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A whole configuration; see `labelwise recipes`.")
    ] = None,
    pretrain: Annotated[
        str | None,
        typer.Option(help="simclr, moco, simclr+scan, … or none; default: what the method wants."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Folder of a pre-training or run to start from.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone: labelwise's or any timm name; default auto.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Minutes to end in; plans what is not given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; default scales with data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    label_column: Annotated[str | None, typer.Option(help="Column of given labels.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="Column of true labels.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to test on.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    noise: Annotated[str | None, typer.Option(help="Plant noise: KIND:RATE.")] = None,
    plant: Annotated[
        float | None,
        typer.Option(
            help="Share of labels made wrong on purpose, to calibrate; default 0.03, or 0 with a "
            "recipe."
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes or GPUs.")] = 1,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between commits.")] = 15.0,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting: lambda_u=25, schedule.decay=cosine; repeatable."),
    ] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train on doubtful labels; write the model, the ranked labels and a report."""
    from labelwise import estimator
    from labelwise.data.files import at_home
    from labelwise.training.folder import next_free

    settings, schedule = parse_assignments(assign or [])
    options: dict[str, Any] = {
        "method": method,
        "pretrain": pretrain,
        "init": init,
        "model": model,
        "seed": seed,
        "label_column": label_column,
        "truth_column": truth_column,
        "test": test,
        "limit": limit,
        "noise": noise,
        "plant": plant,
        "image_size": image_size,
        "on_bad_image": on_bad_image,
        "device": device,
        "devices": devices,
        "precision": precision,
        "threads": threads,
        "checkpoint_every": checkpoint_every,
    }
    if recipe is not None and budget is not None:
        from labelwise.errors import UserError

        raise UserError(
            f"--recipe {recipe} says how long to train, and so does --budget: leave one away."
        )
    if recipe is not None:
        from labelwise.recipes import apply_recipe

        own = settings
        asked = schedule if epochs is None else {**schedule, "epochs": epochs}
        options, settings, schedule = apply_recipe(recipe, options, settings, asked, marked=True)
        if pretrain is not None or init is not None:
            from labelwise.pretrained import starting_point
            from labelwise.pretraining import fitting_settings, parse_names
            from labelwise.pretraining.start import pretraining_of

            given = None if pretrain is None else parse_names(pretrain)
            start = starting_point(init)
            done = () if start is None else pretraining_of(start)
            settings = {**fitting_settings(settings, given, done), **own}
    title = options["method"] or ("dividemix" if budget is None else "budget")
    stem = at_home(data).resolve().stem
    folder = out or next_free(Path("runs"), f"{stem}-{title}")
    listener = listener_for(f"{title} on {Path(data).name}", quiet or as_json)
    try:
        result = estimator.fit(
            data,
            out=folder,
            settings=settings,
            schedule=schedule,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            listener=listener,
            budget=budget,
            **{name: value for name, value in options.items() if value is not None},
        )
    except estimator.Interrupted:
        interrupted(folder)
    show_result(result, as_json)


@app.command()
@friendly
def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run to its end."""
    from labelwise import estimator

    try:
        result = estimator.resume(run, listener=listener_for(run.name, quiet or as_json))
    except estimator.Interrupted:
        interrupted(run)
    show_result(result, as_json)


@app.command()
@friendly
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the two runs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """See it work in about a minute: digits with 40 % wrong labels, CE beside DivideMix."""
    from labelwise import estimator
    from labelwise.training.folder import next_free

    parent = out or next_free(Path("runs"), "demo")
    options: dict[str, Any] = {"noise": "instance:0.4", "seed": seed}
    typer.echo("scikit-learn's digits with 40 % instance-dependent label noise planted.\n")
    results: list[Result] = []
    try:
        for method, epochs in (("ce", 40), ("dividemix", 50)):
            listener = listener_for(method, quiet=False)
            results.append(
                estimator.fit(
                    "digits",
                    method=method,
                    out=parent / method,
                    epochs=epochs,
                    listener=listener,
                    **options,
                )
            )
    except estimator.Interrupted:
        typer.echo("stopped.", err=True)
        raise typer.Exit(130) from None
    columns = (
        ("test accuracy, last epochs", "test_accuracy_last", "{:.1%}"),
        ("AUROC of label errors", "label_error_auroc", "{:.3f}"),
        ("estimated noise rate", "estimated_noise_rate", "{:.1%}"),
        ("realised noise rate", "realised_noise_rate", "{:.1%}"),
        ("seconds", "wall_seconds", "{:.0f}"),
    )
    names = [result.summary["method"] for result in results]
    typer.echo(f"{'':28}" + "".join(f"{name:>12}" for name in names))
    for title, key, form in columns:
        cells = "".join(f"{form.format(result.summary[key]):>12}" for result in results)
        typer.echo(f"{title:28}{cells}")
    report_path = (results[-1].path / "report.html").resolve()
    typer.echo(f"\nThe wrong labels that DivideMix found, with pictures: {report_path}")
