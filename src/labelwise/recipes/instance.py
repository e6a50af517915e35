"""Recipes of anchor hallucination (arXiv 2407.07331) and TSCSI (arXiv 2207.14476) for every cell.

Both were made for instance-dependent noise. The numbers of their tables are not known, nor the
settings of anchor hallucination. The authors' code of TSCSI (uitrbn/TSCSI_IDN) trains a ResNet-34
after 30 epochs of warm-up; backbone and warm-up here are those of all recipes on the same data, so
that methods can be compared.
"""

from __future__ import annotations

from labelwise.methods.hallucination import WARMUP, Hallucination
from labelwise.methods.tscsi import TSCSI
from labelwise.recipes.cells import OURS, Cell, filled, grid, start
from labelwise.recipes.dividemix import dividemix
from labelwise.recipes.recipe import Recipe


def hallucination(cell: Cell) -> Recipe:
    """Anchor hallucination, with the settings that follow from the data."""
    recipe = start(cell)
    warmup = max(1, round(WARMUP * recipe.schedule["warmup"]))
    recipe = recipe.derive(method="hallucination", schedule={"warmup": warmup})
    return filled(recipe, cell, "Anchor hallucination", Hallucination.paper_numbers)


def tscsi(cell: Cell) -> Recipe:
    """TSCSI, with its authors' settings for CIFAR-10 with instance-dependent noise.

    All but backbone and warm-up are theirs on that noise; on other data they are not known.
    """
    own = TSCSI.presets["cifar10-instance"]
    recipe = dividemix(cell).model_copy(update={"settings": dict(own)})
    theirs = (cell.dataset, cell.kind) == ("cifar10", "instance")
    note = f"{OURS}: backbone and warm-up" if theirs else OURS
    recipe = recipe.derive(method="tscsi")
    return filled(recipe, cell, "TSCSI", TSCSI.paper_numbers, note=note)


def recipes() -> dict[str, Recipe]:
    """A recipe per method and cell."""
    return {**grid("hallucination", hallucination), **grid("tscsi", tscsi)}
