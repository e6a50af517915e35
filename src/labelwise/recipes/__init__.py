"""Recipes: whole configurations, named after the paper's table cell they reproduce.

A recipe module defines `recipes() -> dict[str, Recipe]`; one new file adds recipes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from labelwise.config import RunConfig
from labelwise.discovery import gather
from labelwise.errors import UserError
from labelwise.recipes.recipe import Recipe


@cache
def known_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return gather(__name__, "recipes")


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UserError: there is none; the nearest are named, not all of some hundreds.
    """
    found = known_recipes()
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name.lower(), found, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UserError(
        f"unknown recipe {name!r}.{hint} `labelwise recipes` lists all {len(found)}; "
        "--match TEXT, --dataset and --method shorten the list."
    )


def apply_recipe(
    name: str,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    schedule: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Merge a recipe with what the user set; the user wins.

    Args:
        name: recipe name.
        options: run options; those that are None, or "auto" for the model, are the recipe's.
        settings: method settings the user set.
        schedule: schedule fields the user set.

    Returns:
        Options, settings and schedule.
    """
    recipe = find_recipe(name)
    merged = dict(options)
    if merged.get("method") not in (None, recipe.method):
        raise UserError(
            f"recipe {name!r} is for the method {recipe.method!r}: leave "
            f"--method {merged['method']} away, or the recipe."
        )
    merged["method"] = recipe.method
    if merged.get("pretrain") is None:
        merged["pretrain"] = recipe.pretrain
    if merged.get("model") == "auto":
        merged["model"] = recipe.model
    if merged.get("noise") is None and merged.get("label_column") is None:
        merged["noise"] = recipe.noise
        merged["label_column"] = recipe.label_column
    if merged.get("image_size") is None:
        merged["image_size"] = recipe.image_size
    if merged.get("plant") == RunConfig.model_fields["plant"].default:
        merged["plant"] = 0.0  # the paper plants nothing beside its noise
    return merged, {**recipe.settings, **settings}, {**recipe.schedule, **schedule}
