"""Recipes: whole configurations, named after the paper's table cell they reproduce.

A recipe module defines `recipes() -> dict[str, Recipe]`; one new file adds recipes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from labelwise.config import RunConfig
from labelwise.errors import UserError, unknown
from labelwise.recipes.recipe import Recipe


@cache
def known_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    found: dict[str, Recipe] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "recipes"):
            found.update(module.recipes())
    return found


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
    found = known_recipes()
    if name not in found:
        raise unknown("recipe", name, found)
    recipe = found[name]
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
    if merged.get("plant") == RunConfig.model_fields["plant"].default:
        merged["plant"] = 0.0  # the paper plants nothing beside its noise
    return merged, {**recipe.settings, **settings}, {**recipe.schedule, **schedule}
