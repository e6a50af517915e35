"""`labelwise methods` and `recipes`: what there is to choose from."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.shared import AsJson, app, friendly
from labelwise.errors import UserError, unknown

if TYPE_CHECKING:
    from labelwise.recipes.recipe import Recipe
    from labelwise.training.method import Method

CIFAR = ("cifar-10-batches-bin", "--test", "cifar-10-batches-bin/test_batch.bin")
CIFAR_100 = ("cifar-100-binary", "--test", "cifar-100-binary/test.bin")
DATA: dict[str | None, tuple[str, ...]] = {
    "cifar10": CIFAR,
    "cifar10n": CIFAR,
    "cifar100": CIFAR_100,
    "cifar100n": CIFAR_100,
    "webvision": ("DATA", "--test", "TEST"),
    "clothing1m": ("DATA", "--test", "TEST"),
    "animal10n": ("DATA", "--test", "TEST"),
}
"""The data that a recipe is for, as they stand on a command line."""
LABELS = {
    "cifar10n": "CIFAR-10_human.pt of CIFAR-N beside the batches",
    "cifar100n": "CIFAR-100_human.pt of CIFAR-N beside the batches",
}
"""Where the given labels come from, where they are not those of the data."""


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
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show all that this one sets.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Those for a data set: cifar10, cifar100n, webvision, …")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Those of a method.")] = None,
    match: Annotated[str | None, typer.Option(help="Those with this in name or summary.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes: whole configurations of the papers' table cells.

    Numbers are the paper's test accuracies in percent, mean of the last epochs and best epoch.
    """
    from labelwise.recipes import find_recipe, known_recipes

    found = known_recipes() if name is None else {name: find_recipe(name)}
    for word, value, field in (("data set", dataset, "dataset"), ("method", method, "method")):
        if value is not None:
            values = {getattr(recipe, field) for recipe in found.values()} - {None}
            if value not in values:
                raise unknown(f"{word} of a recipe", value, values)
            found = {n: r for n, r in found.items() if getattr(r, field) == value}
    if match is not None:
        wanted = match.casefold()
        found = {n: r for n, r in found.items() if wanted in f"{n} {r.summary}".casefold()}
    if as_json:
        typer.echo(json.dumps({n: r.model_dump() for n, r in found.items()}, indent=2))
        return
    if not found:
        raise UserError("no recipe is all of that: leave one of the filters out.")
    lines = table(found, sys.stdout.isatty()) if name is None else shown(name, found[name])
    typer.echo("\n".join(lines))


def table(found: Mapping[str, Recipe], headings: bool) -> Iterator[str]:
    """The recipes as aligned lines, by data set.

    Args:
        found: the recipes by name.
        headings: whether to say what stands in the columns, and to name the data sets; without
            them there is a line per recipe, for programs.
    """
    from labelwise.recipes.cells import TITLES

    width = max(map(len, found), default=0)
    for dataset in (*TITLES, None):
        group = {n: r for n, r in found.items() if r.dataset == dataset}
        if headings and group:
            title = f"{TITLES[dataset] if dataset else 'any data'}"
            yield f"\n{title:{width}}  {'last':>5}  {'best':>5}"
        for name, recipe in group.items():
            last, best = percent(recipe.paper_accuracy), percent(recipe.paper_best)
            yield f"{name:{width}}  {last:>5}  {best:>5}  {recipe.column or recipe.summary}"


def percent(number: float | None) -> str:
    """A number of a paper; "-" where it is not known."""
    if number is None:
        return "-"
    return f"{number:.1f}" if round(number, 1) == number else f"{number:.2f}"


def needed(recipe: Recipe) -> Iterator[str]:
    """What the command takes for granted."""
    data = DATA.get(recipe.dataset, ("DATA",))
    if "DATA" in data:
        tested = " and TEST" if "TEST" in data else ""
        yield f"DATA{tested}: yours, a folder of class folders or a table of images and labels"
    column = recipe.label_column
    if column is not None:
        own = f"{column}.npy or {column}.txt beside the batches, which you have to have"
        yield f"its labels {column!r}: {LABELS.get(str(recipe.dataset), own)}"
        yield "or a table with this column, and --truth-column for the true labels"


def shown(name: str, recipe: Recipe) -> Iterator[str]:
    """All that a recipe sets, and how to run it."""
    yield f"{name}: {recipe.summary}"
    if recipe.source:
        last, best = percent(recipe.paper_accuracy), percent(recipe.paper_best)
        yield f"paper, test accuracy in percent: last epochs {last}, best {best} ({recipe.source})"
    words = ["labelwise", "fit", *DATA.get(recipe.dataset, ("DATA",))]
    yield f"\nRun it:\n    {shlex.join([*words, '--recipe', name])}"
    yield from (f"    {note}" for note in needed(recipe))
    options = {
        "--method": recipe.method,
        "--model": recipe.model,
        "--pretrain": recipe.pretrain,
        "--noise": recipe.noise,
        "--label-column": recipe.label_column,
        "--image-size": recipe.image_size,
        "--plant": 0,
    }
    sets = {**recipe.settings, **{f"schedule.{n}": v for n, v in recipe.schedule.items()}}
    yield "\nWhat it sets; what you give beside it wins:"
    yield from (f"    {option} {value}" for option, value in options.items() if value is not None)
    for setting, value in sets.items():
        yield f"    --set {setting}={value if isinstance(value, str) else json.dumps(value)}"
