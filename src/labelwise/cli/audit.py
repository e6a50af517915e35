"""`labelwise audit`: which labels are wrong, by probabilities that are already there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from labelwise.cli.shared import SHOWN_NOTES, AsJson, Out, app, friendly
from labelwise.errors import UserError, unknown

COMPARABLE = ("cleanlab",)


@app.command()
@friendly
def audit(
    data: Annotated[str, typer.Argument(help="digits, a folder, a .csv/.parquet, an .npz/.npy")],
    pred_probs: Annotated[
        Path | None,
        typer.Option(help="Class probabilities from anywhere: .npy, .npz, .csv, .tsv, .parquet."),
    ] = None,
    pred_probs_are: Annotated[
        str, typer.Option(help="probabilities, logits or log-probabilities.")
    ] = "probabilities",
    features: Annotated[
        Path | None, typer.Option(help="Features (.npy, .npz), to show similar samples.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of given labels.")] = None,
    truth_column: Annotated[str | None, typer.Option(help="Column of true labels.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep a stratified sample.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    compare: Annotated[
        str | None, typer.Option(help="cleanlab: run it on the same probabilities.")
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Say which labels are wrong, from class probabilities of any model."""
    from labelwise.training.folder import next_free

    if compare is not None and compare not in COMPARABLE:
        raise unknown("comparison", compare, COMPARABLE)
    folder = out or next_free(Path("runs"), f"{Path(data).expanduser().resolve().stem}-audit")
    if pred_probs is None:
        raise UserError(
            "--pred-probs is missing: give a file of class probabilities, one row per sample. "
            "`labelwise fit` trains a model and audits the labels with it."
        )
    from labelwise.audit.external import ExternalConfig, audit_pred_probs
    from labelwise.estimator import place
    from labelwise.outputs import commit, hardware, versions

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
