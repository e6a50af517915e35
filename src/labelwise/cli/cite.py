"""`labelwise cite`: the works that a run, method or recipe builds on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.shared import AsJson, app, friendly
from labelwise.errors import UserError, nearest

if TYPE_CHECKING:
    from labelwise.recipes.recipe import Recipe

Used = tuple[str, str]
"""What was used (method, noise, backbone, data, library) and its citation."""


@app.command()
@friendly
def cite(
    run: Annotated[str, typer.Argument(help="A run folder, or the name of a method or recipe.")],
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print BibTeX entries.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what to cite for exactly what a run used, labelwise last."""
    rows = cited(used_by(run))
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif bibtex:
        typer.echo("\n\n".join(row["bibtex"] for row in rows))
    else:
        for row in rows:
            typer.echo(f"{', '.join(row['for'])}: {row['citation']}")


def used_by(name: str) -> list[Used]:
    """What a run folder, a method or a recipe uses.

    Raises:
        UserError: it is none of them.
    """
    from labelwise.config import read_json
    from labelwise.data.files import at_home
    from labelwise.methods import known_methods
    from labelwise.pretraining import is_pretraining
    from labelwise.recipes import known_recipes
    from labelwise.training.folder import RunFolder

    folder = RunFolder(at_home(name))
    if folder.config.is_file():
        return list(of_run(read_json(folder.config), folder.path))
    recipes = known_recipes()
    if name in recipes:
        return list(of_recipe(recipes[name]))
    if is_pretraining(name) or set(name.split("+")) & set(known_methods()):
        return list(of_method(name))
    what = "is not a run folder (it has no config.json)" if folder.path.exists() else (
        "is no run folder, method or recipe"
    )  # fmt: skip
    known = [*known_methods(), *recipes]
    raise UserError(
        f"{name!r} {what}.{nearest(name, known)} Give the folder of a `labelwise fit`, a method "
        "(`labelwise methods`) or a recipe (`labelwise recipes`)."
    )


def of_run(described: Mapping[str, Any], folder: Path) -> Iterator[Used]:
    """What a run used, from its config.json.

    Raises:
        UserError: the file is not one of ours.
    """
    config, data = described.get("config"), described.get("data")
    if not isinstance(config, dict) or not isinstance(data, dict):
        raise UserError(f"{folder / 'config.json'} is not that of a labelwise run.")
    yield from of_pretraining(described.get("pretrained_by"))
    for citation in str(described.get("citation") or "").split("; "):
        yield "method", citation
    noise = described.get("noise")
    if isinstance(noise, dict):
        yield "noise", str(noise.get("citation") or "")
    column = str(config.get("label_column") or "")
    yield from of_column(column)
    yield "backbone", of_model(str(config.get("model", "")))
    named = (str(data.get("name", "")), Path(str(config.get("data", ""))).name)
    yield from of_data(named[0], column) or of_data(named[1], column)


def of_method(spec: str, pretrain: str | None = None) -> Iterator[Used]:
    """What a method cites, and the pre-training that it wants or is given."""
    from labelwise.methods import parse_method
    from labelwise.outputs import citations
    from labelwise.pretraining import (
        chosen_names,
        is_pretraining,
        known_pretraining,
        parse_names,
    )
    from labelwise.training.method import Problem

    names = parse_names(spec) if is_pretraining(spec) else ()
    own: tuple[str, ...] = ()
    if not names:
        method = parse_method(spec)
        problem = Problem(50_000, 10, "images", (3, 32, 32))
        given = None if pretrain is None else parse_names(pretrain)
        names = chosen_names(tuple(method.pretraining(problem)), given)
        own = citations(method)
    for citation in (*(known_pretraining()[name].citation for name in names), *own):
        yield "method", citation


def of_pretraining(names: Any) -> Iterator[Used]:
    """What pre-training cites, that of the networks a run was started from included."""
    from labelwise.pretraining import known_pretraining

    known = known_pretraining()
    for name in names if isinstance(names, list) else ():
        if str(name) in known:
            yield "method", known[str(name)].citation


def of_column(column: str) -> Iterator[Used]:
    """What the labels of a column cite: those called semantic are a classifier's confusions."""
    from labelwise.noise.parse import processes

    if column.startswith("semantic_"):
        yield "noise", processes()["semantic"].citation


def of_recipe(recipe: Recipe) -> Iterator[Used]:
    """What a recipe uses: method, noise, backbone and data set."""
    from labelwise.noise.parse import parse

    yield from of_method(recipe.method, pretrain=recipe.pretrain)
    if recipe.noise is not None:
        yield "noise", parse(recipe.noise).citation
    yield from of_column(recipe.label_column or "")
    yield "backbone", of_model(recipe.model)
    yield from of_data(recipe.dataset or "", "")


def of_model(name: str) -> str:
    """The citation of a backbone; "" for one that is chosen later."""
    from labelwise.discovery import discover
    from labelwise.models.build import TimmBackbone
    from labelwise.models.network import Backbone

    own = discover("labelwise.models", Backbone)
    if name in ("", "auto"):
        return ""
    return own[name].citation if name in own else TimmBackbone.citation


def of_data(name: str, column: str) -> list[Used]:
    """The works of a data set, where its name and label column tell which it is."""
    from labelwise.citations import works_of_data

    return [("data", work.text) for work in works_of_data(name, column)]


def cited(used: list[Used]) -> list[dict[str, Any]]:
    """A row per work, in order of first use and labelwise last.

    Returns:
        Per row `for` (what uses it), `citation`, `key` and `bibtex`.
    """
    from labelwise.citations import LIBRARY, WORKS, entry, escaped, find_work

    texts = {work.text: work for work in WORKS}
    rows: dict[str, dict[str, Any]] = {}
    for what, citation in used:
        if not citation:
            continue
        work = texts.get(citation) or find_work(citation)
        key = work.key if work else f"unknown{1 + sum('unknown' in name for name in rows)}"
        same = next((name for name, row in rows.items() if row["citation"] == citation), key)
        row = rows.setdefault(
            same,
            {
                "for": [],
                "citation": citation,
                "key": key,
                "bibtex": work.bibtex if work else entry("misc", key, {"note": escaped(citation)}),
            },
        )
        if what not in row["for"]:
            row["for"].append(what)
    library = {"for": ["library"], "citation": LIBRARY.text, "key": LIBRARY.key}
    return [*rows.values(), {**library, "bibtex": LIBRARY.bibtex}]
