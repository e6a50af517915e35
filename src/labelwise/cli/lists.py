"""`labelwise methods` and `recipes`: what there is to choose from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from labelwise.cli.shared import AsJson, app, friendly

if TYPE_CHECKING:
    from labelwise.training.method import Method


@app.command()
@friendly
def methods(as_json: AsJson = False) -> None:
    """List the methods and the ways of pre-training, with their settings and papers."""
    from labelwise.methods import known_methods
    from labelwise.pretraining import known_pretraining

    rows = [row_of(cls, pretraining=False) for _, cls in sorted(known_methods().items())]
    before = [row_of(cls, pretraining=True) for cls in known_pretraining().values()]
    if as_json:
        typer.echo(json.dumps([*rows, *before], indent=2))
        return
    typer.echo("Methods, for --method:\n")
    for row in rows:
        show_row(row, prefix="")
    typer.echo("\nPre-training, for --pretrain or `labelwise pretrain`:\n")
    for row in before:
        show_row(row, prefix=f"{row['name']}.")


def row_of(cls: type[Method], pretraining: bool) -> dict[str, Any]:
    """What there is to say of a method or a way of pre-training, for programs."""
    return {
        "name": cls.name,
        "pretraining": pretraining,
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


def show_row(row: Mapping[str, Any], prefix: str) -> None:
    """Print a method for people.

    Args:
        row: as `row_of` gives it.
        prefix: what stands before the name of its settings.
    """
    typer.echo(f"{row['name']}: {row['summary']}\n    {row['citation']}")
    for field, info in row["settings"].items():
        typer.echo(f"    --set {prefix}{field}={info['default']}    {info['description']}")
    if row["presets"]:
        typer.echo(f"    --set {prefix}preset=NAME    {', '.join(row['presets'])}")


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
