"""`labelwise methods` and `recipes`: what there is to choose from."""

from __future__ import annotations

import json
from typing import Any

import typer

from labelwise.cli.shared import AsJson, app, friendly


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
