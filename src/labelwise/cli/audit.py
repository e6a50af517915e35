"""`labelwise audit`: which labels are wrong; `labelwise diagnose`: how many, and what to do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.shared import (
    SHOWN_NOTES,
    AsJson,
    Out,
    app,
    friendly,
    interrupted,
    listener_for,
    show_result,
)
from labelwise.errors import UserError, unknown

if TYPE_CHECKING:
    from labelwise.training.progress import Silent

COMPARABLE = ("cleanlab",)
PLANT = 0.03
"""Default of --plant, as in `RunConfig`, which takes long to import."""


@app.command()
@friendly
def audit(
    data: Annotated[str, typer.Argument(help="digits, a folder, a .csv/.parquet, an .npz/.npy")],
    quick: Annotated[
        bool, typer.Option("--quick", help="One short plain training; seconds for small data.")
    ] = False,
    method: Annotated[
        str | None, typer.Option(help="Method to train with; default dividemix.")
    ] = None,
    pred_probs: Annotated[
        Path | None,
        typer.Option(help="Class probabilities from anywhere: .npy, .npz, .csv, .tsv, .parquet."),
    ] = None,
    pred_probs_are: Annotated[
        str, typer.Option(help="probabilities, logits or log-probabilities.")
    ] = "probabilities",
    features: Annotated[
        Path | None,
        typer.Option(help="Features (.npy, .npz): better estimate, similar samples."),
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of given labels.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="Column of true labels.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    noise: Annotated[str | None, typer.Option(help="Plant noise: KIND:RATE.")] = None,
    model: Annotated[str, typer.Option(help="Backbone: labelwise's or any timm name.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Epochs; default scales with data.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    plant: Annotated[
        float, typer.Option(help="Share of labels made wrong on purpose, to calibrate; 0: none.")
    ] = PLANT,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    compare: Annotated[
        str | None, typer.Option(help="cleanlab: run it on the same probabilities.")
    ] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which labels are wrong: by a training, or by class probabilities of any model."""
    from labelwise.data.files import at_home
    from labelwise.training.folder import next_free

    if compare is not None and compare not in COMPARABLE:
        raise unknown("comparison", compare, COMPARABLE)
    folder = out or next_free(Path("runs"), f"{at_home(data).resolve().stem}-audit")
    if pred_probs is None:
        if features is not None or pred_probs_are != "probabilities":
            name = "--pred-probs-are" if features is None else "--features"
            raise UserError(f"{name} belongs to --pred-probs FILE: give both, or leave it away.")
        if quick and method is not None:
            raise UserError(f"--quick trains plainly: leave it or --method {method} away.")
        if compare is not None:
            raise UserError("--compare needs --pred-probs: out-of-sample class probabilities.")
        _train(
            data,
            folder,
            listener_for(f"audit of {Path(data).name}", quiet or as_json),
            as_json,
            method="quick" if quick else method or "dividemix",
            model=model,
            epochs=epochs,
            seed=seed,
            label_column=label_column,
            truth_column=truth_column,
            limit=limit,
            noise=noise,
            image_size=image_size,
            on_bad_image=on_bad_image,
            plant=plant,
            threads=threads,
        )
        return
    training = {
        "--quick": quick,
        "--method": method is not None,
        "--noise": noise is not None,
        "--epochs": epochs is not None,
        "--image-size": image_size is not None,
        "--model": model != "auto",
        "--on-bad-image": on_bad_image != "error",
        "--plant": plant != PLANT,
    }
    given = [name for name, is_given in training.items() if is_given]
    if given:
        raise UserError(f"{given[0]} belongs to a training: leave it or --pred-probs away.")
    import torch

    from labelwise.audit.external import ExternalConfig, audit_pred_probs
    from labelwise.outputs import commit, hardware, versions
    from labelwise.running import place

    if threads is not None:
        torch.set_num_threads(threads)
    summary = audit_pred_probs(
        ExternalConfig(
            data=place(data),
            pred_probs=pred_probs,
            are=pred_probs_are,
            features=features,
            label_column=label_column,
            truth_column=truth_column,
            limit=limit,
            seed=seed,
            compare=compare,
        ),
        folder,
        {"versions": versions(), "hardware": hardware("cpu"), "commit": commit()},
    )
    show(summary, folder, as_json)


def _train(data: str, folder: Path, listener: Silent, as_json: bool, **options: Any) -> None:
    from labelwise import estimator

    try:
        result = estimator.fit(data, out=folder, listener=listener, **options)
    except estimator.Interrupted:
        interrupted(folder)
    show_result(result, as_json)


@app.command()
@friendly
def diagnose(
    data: Annotated[str, typer.Argument(help="digits, a folder, a .csv/.parquet, an .npz/.npy")],
    minutes: Annotated[float, typer.Option(help="Budget, without reading the data.")] = 0.5,
    label_column: Annotated[str | None, typer.Option(help="Column of given labels.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="Column of true labels.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    noise: Annotated[str | None, typer.Option(help="Plant noise: KIND:RATE.")] = None,
    model: Annotated[str, typer.Option(help="Backbone: labelwise's or any timm name.")] = "auto",
    image_size: Annotated[int | None, typer.Option(help="Resize to this square, px.")] = None,
    on_bad_image: Annotated[str, typer.Option(help="Unreadable images: error or skip.")] = "error",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate how many labels are wrong and which classes are confused; recommend a method."""
    if not minutes > 0:  # before the slow imports
        raise UserError(f"--minutes is {minutes:g}: give a positive number, such as 0.5.")
    from labelwise.diagnosis import diagnose as look
    from labelwise.training.loop import Interrupted

    options = {
        "label_column": label_column,
        "truth_column": truth_column,
        "limit": limit,
        "noise": noise,
        "image_size": image_size,
        "model": None if model == "auto" else model,
        "on_bad_image": None if on_bad_image == "error" else on_bad_image,
    }
    listener = listener_for(f"diagnosis of {Path(data).name}", quiet or as_json)
    try:
        found = look(
            data,
            minutes=minutes,
            out=out,
            listener=listener,
            threads=threads,
            seed=seed,
            **{name: value for name, value in options.items() if value is not None},
        )
    except Interrupted:
        typer.echo("stopped.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    words = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in options.items() if v]
    typer.echo(found.to_text(" ".join([shlex.quote(data), *words])))
    if out is not None:
        typer.echo(f"Report: {out / 'report.html'}")


def show(summary: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Print what was found: a few plain lines, or the summary as JSON."""
    if as_json:
        typer.echo(json.dumps({**summary, "run": str(folder)}, indent=2))
        return
    typer.echo(
        f"{summary['num_suspects']:,} of {summary['num_samples']:,} labels look wrong; "
        f"{summary['expected_precision']:.0%} of them are expected to be."
        if summary["num_suspects"]
        else f"None of the {summary['num_samples']:,} labels looks wrong."
    )
    low, high = summary["noise_rate_interval"]
    typer.echo(
        f"Estimated noise rate {summary['estimated_noise_rate']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%})."
    )
    if "label_error_auroc" in summary:
        typer.echo(
            f"Truth is known: {summary['realised_noise_rate']:.1%} are wrong, "
            f"label-error AUROC {summary['label_error_auroc']:.3f}."
        )
    if "cleanlab" in summary:
        from labelwise.audit.with_cleanlab import comparison_table

        typer.echo(f"\n{comparison_table(summary)}\n")
    for note in summary["notes"][:SHOWN_NOTES]:
        typer.echo(f"note: {note}")
    if len(summary["notes"]) > SHOWN_NOTES:
        typer.echo(f"note: {len(summary['notes']) - SHOWN_NOTES} more in summary.json")
    typer.echo(f"Labels: {folder / 'labels.csv'}")
    if (folder / "report.html").exists():
        typer.echo(f"Report: {folder / 'report.html'}")
