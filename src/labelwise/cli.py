"""The command line: every command is a few lines over the Python interface.

Only what a command needs is imported, inside it, so that `labelwise --help` answers at once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.estimator import Result
    from labelwise.training.progress import Silent

P = ParamSpec("P")
SHOWN_NOTES = 4

app = typer.Typer(
    help="Train on partly wrong labels, and find out which labels are wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write.")]


def friendly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn users' errors into one message and exit code 2, and Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            from labelwise.data.files import explained

            typer.echo(f"error: {explained(error, Path(error.filename or '.'))}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stopped.", err=True)
            raise typer.Exit(130) from None

    return run


def parse_assignments(pairs: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split ``--set`` values into method settings and schedule fields (``schedule.lr=0.01``)."""
    settings: dict[str, Any] = {}
    schedule: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {pair!r} is not of the form name=value, such as lambda_u=25.")
        try:
            value = json.loads(text)
        except ValueError:
            value = {"None": None, "True": True, "False": False}.get(text, text)
        prefix, _, field = name.strip().rpartition(".")
        (schedule if prefix == "schedule" else settings)[
            field if prefix == "schedule" else name.strip()
        ] = value
    return settings, schedule


def listener_for(title: str, quiet: bool) -> Silent:
    """A live bar on a terminal, silence elsewhere."""
    from labelwise.training.progress import Silent, Terminal

    return Terminal(title) if sys.stderr.isatty() and not quiet else Silent()


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
    model: Annotated[str, typer.Option(help="Backbone: labelwise's or any timm name.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Epochs; default scales with data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    label_column: Annotated[str | None, typer.Option(help="Column of given labels.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="Column of true labels.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to test on.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    noise: Annotated[str | None, typer.Option(help="Plant noise: KIND:RATE.")] = None,
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
    from labelwise.training.folder import next_free

    settings, schedule = parse_assignments(assign or [])
    options: dict[str, Any] = {
        "method": method,
        "model": model,
        "seed": seed,
        "label_column": label_column,
        "truth_column": truth_column,
        "test": test,
        "limit": limit,
        "noise": noise,
        "image_size": image_size,
        "on_bad_image": on_bad_image,
        "device": device,
        "devices": devices,
        "precision": precision,
        "threads": threads,
        "checkpoint_every": checkpoint_every,
    }
    if recipe is not None:
        from labelwise.recipes import apply_recipe

        options, settings, schedule = apply_recipe(recipe, options, settings, schedule)
    options["method"] = options["method"] or "dividemix"
    stem = Path(data).expanduser().resolve().stem
    folder = out or next_free(Path("runs"), f"{stem}-{options['method']}")
    listener = listener_for(f"{options['method']} on {Path(data).name}", quiet or as_json)
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
            **options,
        )
    except estimator.Interrupted:
        _interrupted(folder)
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
        _interrupted(run)
    show_result(result, as_json)


@app.command()
@friendly
def report(run: Annotated[Path, typer.Argument(help="The run folder.")]) -> None:
    """Write the report of a finished run again."""
    from labelwise.estimator import load_run

    typer.echo(load_run(run).report())


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


@app.command()
@friendly
def methods(as_json: AsJson = False) -> None:
    """List the methods with their settings and papers."""
    from labelwise.methods import known_methods

    rows = [
        {
            "name": name,
            "summary": cls.summary,
            "citation": cls.citation,
            "works_on": sorted(cls.kinds),
            "presets": {preset: dict(values) for preset, values in cls.presets.items()},
            "paper_numbers": dict(cls.paper_numbers),
            "settings": {
                field: {"default": info.default, "description": info.description}
                for field, info in cls.Settings.model_fields.items()
            },
        }
        for name, cls in sorted(known_methods().items())
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(f"{row['name']}: {row['summary']}\n    {row['citation']}")
        settings: dict[str, Any] = row["settings"]  # type: ignore[assignment]
        for field, info in settings.items():
            typer.echo(f"    --set {field}={info['default']}    {info['description']}")
        presets: dict[str, Any] = row["presets"]  # type: ignore[assignment]
        if presets:
            typer.echo(f"    --set preset=NAME    {', '.join(presets)}")


@app.command()
@friendly
def recipes(as_json: AsJson = False) -> None:
    """List the recipes: whole configurations of the papers' table cells."""
    from labelwise.recipes import known_recipes

    found = known_recipes()
    if as_json:
        typer.echo(json.dumps({n: r.model_dump() for n, r in found.items()}, indent=2))
        return
    for name, recipe in found.items():
        number = "" if recipe.paper_accuracy is None else f" (paper: {recipe.paper_accuracy} %)"
        typer.echo(f"{name}{number}: {recipe.summary}")


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


def show_result(result: Result, as_json: bool) -> None:
    """Print what a run found: a few plain lines, or the summary as JSON."""
    from labelwise.estimator import first_process

    if not first_process():
        return
    summary = result.summary
    if as_json:
        typer.echo(json.dumps({**summary, "run": str(result.path)}, indent=2))
        return
    total = summary["num_samples"]
    typer.echo(f"{summary['num_suspects']} of {total} labels look wrong", nl=False)
    typer.echo(f" (estimated noise rate {summary['estimated_noise_rate']:.1%}).")
    if "test_accuracy_last" in summary:
        count = summary["test_accuracy_last_epochs"]
        last = "the last epoch" if count == 1 else f"mean of the last {count} epochs"
        typer.echo(
            f"Test accuracy {summary['test_accuracy_last']:.1%} ({last}), "
            f"best {summary['test_accuracy_best']:.1%}."
        )
    if "label_error_auroc" in summary:
        typer.echo(
            f"Truth is known: {summary['realised_noise_rate']:.1%} are wrong, "
            f"label-error AUROC {summary['label_error_auroc']:.3f}."
        )
    for note in summary["notes"][:SHOWN_NOTES]:
        typer.echo(f"note: {note}")
    if len(summary["notes"]) > SHOWN_NOTES:
        typer.echo(f"note: {len(summary['notes']) - SHOWN_NOTES} more in summary.json")
    typer.echo(f"Labels: {result.path / 'labels.csv'}\nReport: {result.path / 'report.html'}")


def _interrupted(folder: Path) -> None:
    typer.echo(f"stopped; continue with: labelwise resume {folder}", err=True)
    raise typer.Exit(130) from None


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train on partly wrong labels, and find out which labels are wrong."""
    if version:
        from labelwise import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The `labelwise` command.

    Idle threads of the CPU pool sleep rather than spin (set before PyTorch is imported): on a
    machine that is shared, spinning makes every step several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


if __name__ == "__main__":
    main()
