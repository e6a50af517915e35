"""Recipes: whole configurations, named after the paper's table cell they reproduce.

A recipe module defines `recipes() -> dict[str, Recipe]`; one new file adds recipes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from labelwise.config import RunConfig, Schedule
from labelwise.discovery import gather
from labelwise.errors import UserError
from labelwise.recipes.recipe import Recipe

COUNTED = ("initial_epochs", "ramp_epochs")
"""Settings that are numbers of epochs of the whole run; they shrink and grow with it."""


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
    *,
    marked: bool = False,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Merge a recipe with what the user set; the user wins.

    Args:
        name: recipe name.
        options: run options; those that are None are the recipe's.
        settings: method settings the user set.
        schedule: schedule fields the user set. Epochs other than the recipe's scale its warm-up
            and the settings in `COUNTED`.
        marked: whether None marks all that the user left open; else an option that is a run's
            default is left open too.

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
    if not marked:
        merged |= {key: None for key in ("model", "plant") if _is_default(merged, key)}
    merged["method"] = recipe.method
    if merged.get("noise") is None and merged.get("label_column") is None:
        merged["noise"] = recipe.noise
        merged["label_column"] = recipe.label_column
    for key in ("pretrain", "model", "image_size"):
        if merged.get(key) is None:
            merged[key] = getattr(recipe, key)
    if merged.get("plant") is None:
        merged["plant"] = 0.0  # the paper plants nothing beside its noise
    if "epochs" in schedule:
        recipe = _lasting(recipe, Schedule.parse({"epochs": schedule["epochs"]}, "schedule").epochs)
    return merged, {**recipe.settings, **settings}, {**recipe.schedule, **schedule}


def _is_default(options: Mapping[str, Any], name: str) -> bool:
    return name in options and options[name] == RunConfig.model_fields[name].default


def _lasting(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe for another number of epochs: what it counts in epochs keeps its share of them.

    Without this a warm-up of 30 among 300 epochs would be all of a run of 30. Pre-training has
    epochs of its own, which stay.
    """
    own = recipe.schedule.get("epochs", epochs)

    def scaled(value: int | None) -> int | None:
        return value and max(1, round(value * epochs / own))  # none stays none

    warmup = {key: scaled(value) for key, value in recipe.schedule.items() if key == "warmup"}
    counted = {
        key: scaled(value)
        for key, value in recipe.settings.items()
        if key.rpartition(".")[2] in COUNTED
    }
    return recipe.derive(schedule=warmup, settings=counted)
