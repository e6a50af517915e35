"""Recipes of DivideMix (arXiv 2002.07394) for every cell, which others build on."""

from __future__ import annotations

from typing import Any

from labelwise.methods.dividemix import DivideMix, paper_settings, settings_rule
from labelwise.recipes.cells import OURS, Cell, filled, grid, start
from labelwise.recipes.plain import source
from labelwise.recipes.recipe import Recipe

SCANMIX, SANM = "arXiv 2103.11395", "arXiv 2302.06805"
WEB = {"lambda_u": 0, "alpha": 0.5}
"""On mini-WebVision and Clothing1M: α is ScanMix's on the first, all else is ours."""


def division(cell: Cell) -> dict[str, Any]:
    """Settings of DivideMix's division and semi-supervised learning for a cell.

    Where the paper has none, λ_u is what `settings_rule` takes at the share of wrong labels.
    """
    if cell.key in DivideMix.presets:
        return dict(DivideMix.presets[cell.key])
    weight = settings_rule(cell.wrong, cell.num_classes)["lambda_u"]
    own: dict[str, Any] = paper_settings(lambda_u=weight)
    if cell.dataset in ("webvision", "clothing1m"):
        own |= WEB
    if cell.kind == "semantic":  # as under asymmetric noise (ScanMix)
        own |= {"confidence_penalty": 1.0}
    return own


def numbers_stand(cell: Cell) -> str:
    """Where the numbers of DivideMix stand."""
    if cell.kind == "semantic":
        return f"{SCANMIX}, which does not say of which epoch"
    if cell.key == "cifar10-asymmetric-49":
        return f"{SCANMIX}, table 1"
    if cell.dataset in ("webvision", "clothing1m"):  # where it is compared with
        quoted = SCANMIX if cell.dataset == "webvision" else SANM
        return f"{quoted}, which gives one number"
    return source(cell)


def by_paper(cell: Cell) -> bool:
    """Whether the paper has settings for a cell: those of 49 % asymmetric noise are of 40 %."""
    return cell.key in DivideMix.presets and cell.level != 49


def dividemix(cell: Cell) -> Recipe:
    """DivideMix."""
    recipe = start(cell).derive(method="dividemix", settings=division(cell))
    note = "" if by_paper(cell) else OURS
    return filled(recipe, cell, "DivideMix", DivideMix.paper_numbers, numbers_stand(cell), note)


def recipes() -> dict[str, Recipe]:
    """A recipe per cell."""
    return grid("dividemix", dividemix)
