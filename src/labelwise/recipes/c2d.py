"""Recipes of C2D (arXiv 2103.13646) for every cell: pre-training, then DivideMix's recipe."""

from __future__ import annotations

from typing import Any

from labelwise.methods.c2d import C2D
from labelwise.recipes.cells import OURS, SIMCLR_OURS, Cell, filled, grid
from labelwise.recipes.dividemix import by_paper, dividemix
from labelwise.recipes.recipe import Recipe

CONTRAST = {
    "simclr.epochs": 500,
    "simclr.batch_size": 512,
    "simclr.lr": 0.4,
    "simclr.weight_decay": 1e-4,
    "simclr.temperature": 0.1,
}
"""SimCLR as ScanMix has it (arXiv 2103.11395); the settings of C2D's own are not known."""
MOMENTUM = {
    "moco.epochs": 500,
    "moco.batch_size": 128,
    "moco.lr": 0.015,
    "moco.temperature": 0.2,
    "moco.momentum": 0.999,
}
"""MoCo v2 as ScanMix has it on mini-WebVision; the queue is 65,536 or half of the images."""
WARMUP = 5  # epochs


def features(cell: Cell) -> dict[str, Any]:
    """Fields of a recipe that pre-trains: what comes first, and its settings."""
    if cell.dataset == "webvision":
        return {"pretrain": "moco", "settings": MOMENTUM}
    if cell.dataset == "clothing1m":  # a million images: its epochs scale with them
        return {"pretrain": "moco"}
    return {"settings": CONTRAST}


def c2d(cell: Cell) -> Recipe:
    """C2D: the whole network warms up, briefly, on features from the images alone."""
    recipe = dividemix(cell).derive(**features(cell))
    epochs = min(WARMUP, recipe.schedule["warmup"])
    recipe = recipe.derive(
        method="c2d", settings={"c2d.frozen_warmup": False}, schedule={"warmup": epochs}
    )
    if cell.dataset == "webvision":
        recipe = recipe.derive(model="resnet50")  # the paper's number is for this one
    quoted = "arXiv 2302.06805" if cell.dataset == "clothing1m" else "arXiv 2103.13646"
    note = SIMCLR_OURS if by_paper(cell) else OURS
    return filled(recipe, cell, "C2D", C2D.paper_numbers, quoted, note)


def recipes() -> dict[str, Recipe]:
    """A recipe per cell."""
    return grid("c2d", c2d)
