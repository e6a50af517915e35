"""Recipes of cross-entropy, MixUp, Co-teaching and Co-teaching+ for every cell.

The numbers on CIFAR are those that DivideMix (arXiv 2002.07394) is compared with. How those runs
were set up is not known: backbone and schedule are DivideMix's, settings ours.
"""

from __future__ import annotations

from typing import Any

from labelwise.methods.ce import CrossEntropy
from labelwise.methods.coteaching import CoTeaching
from labelwise.methods.coteaching_plus import CoTeachingPlus
from labelwise.methods.mixup import MixUp
from labelwise.recipes.cells import Cell, filled, grid, start
from labelwise.recipes.recipe import Recipe

DIVIDEMIX = "arXiv 2002.07394"
QUOTED = "as quoted in later work, which does not say of which epoch"
SEVERE = 0.7
"""Share of wrong labels from which MixUp mixes as much as its severe preset."""


def source(cell: Cell) -> str:
    """Where the numbers of the plain methods stand."""
    if cell.planted:
        return f"{DIVIDEMIX}, table {1 if cell.kind == 'symmetric' else 2}"
    return QUOTED


def plain(cell: Cell, kind: type[Any], title: str, **settings: Any) -> Recipe:
    """The recipe of a method that has no schedule of its own."""
    own = {f"{kind.name}.{name}": value for name, value in settings.items()}
    recipe = start(cell).derive(method=kind.name, settings=own)
    return filled(recipe, cell, title, kind.paper_numbers, source(cell))


def ce(cell: Cell) -> Recipe:
    """Cross-entropy."""
    return plain(cell, CrossEntropy, "Cross-entropy")


def mixup(cell: Cell) -> Recipe:
    """MixUp, with α = 32 under severe noise."""
    preset = "severe" if cell.wrong > SEVERE else "noisy"
    return plain(cell, MixUp, "MixUp", **MixUp.presets[preset])


def coteaching(cell: Cell) -> Recipe:
    """Co-teaching, which is told the noise rate."""
    return plain(cell, CoTeaching, "Co-teaching", **told(cell))


def coteaching_plus(cell: Cell) -> Recipe:
    """Co-teaching+, which is told the noise rate."""
    return plain(cell, CoTeachingPlus, "Co-teaching+", **told(cell), initial_epochs=initial(cell))


def told(cell: Cell) -> dict[str, float]:
    """What both papers tell the method: τ, and how many epochs it takes to get there."""
    return {"noise_rate": round(cell.wrong, 3), "ramp_epochs": initial(cell, paper=10)}


def initial(cell: Cell, paper: int = 20) -> int:
    """The paper's number of first epochs; no more than a fifth of a short run's."""
    return min(paper, int(start(cell).schedule["epochs"]) // 5)


def recipes() -> dict[str, Recipe]:
    """A recipe per method and cell."""
    return {
        **grid("ce", ce),
        **grid("mixup", mixup),
        **grid("coteaching", coteaching),
        **grid("coteaching-plus", coteaching_plus),
    }
