"""Recipes of ScanMix and SCAN (arXiv 2103.11395, 2005.12320) for every cell, and the ablation."""

from __future__ import annotations

from labelwise.methods.clusters import Clusters
from labelwise.methods.scanmix import ScanMix
from labelwise.recipes.c2d import features
from labelwise.recipes.cells import OURS, RATES_OURS, Cell, filled, grid, start
from labelwise.recipes.dividemix import SCANMIX, by_paper, dividemix, division
from labelwise.recipes.recipe import Recipe

CLUSTER = {"scan.epochs": 50, "scan.batch_size": 128, "scan.lr": 1e-4, "scan.weight_decay": 1e-4}
PAPER = {
    "scan.num_heads": 0,
    "scanmix.ask_neighbours": False,
    "scanmix.start_from_clusters": False,
    "scanmix.mild_cluster_lr": 1e-5,
}
ENTROPY_WEIGHTS = (0, 1, 2, 10)
NEIGHBOURS = (5, 10, 50)


def scanmix(cell: Cell) -> Recipe:
    """ScanMix without what labelwise adds to it."""
    recipe = dividemix(cell).derive(method="scanmix", **features(cell))
    recipe = recipe.derive(settings={**CLUSTER, **PAPER, **division(cell)})
    note = "" if by_paper(cell) else RATES_OURS if cell.dataset == "webvision" else OURS
    one = "" if cell.planted else ", which gives one number"
    table = f"{SCANMIX}, table 1" if cell.planted else f"{SCANMIX}{one}"
    return filled(recipe, cell, "ScanMix", ScanMix.paper_numbers, table, note)


def scan(cell: Cell) -> Recipe:
    """SCAN, whose clusters the cell's labels name: nothing is trained on them."""
    recipe = start(cell).derive(method="clusters", **features(cell))
    recipe = recipe.derive(
        settings={**CLUSTER, "scan.num_heads": 0}, schedule={"epochs": 1, "warmup": 0}
    )
    return filled(recipe, cell, "SCAN, named by the labels,", Clusters.paper_numbers)


def part(method: str, summary: str) -> Recipe:
    """A part of the ablation: for any data, with schedules that scale with it."""
    return Recipe(method=method, model="auto", summary=summary)


def ablation() -> dict[str, Recipe]:
    """Table 4 in miniature: the parts of ScanMix alone, and its settings one by one."""
    whole = part("scanmix", "ScanMix, whole")
    found = {
        "scan": part("clusters", "SCAN alone, its clusters named by the given labels"),
        "dividemix": part("dividemix", "DivideMix alone"),
        "c2d": part("c2d", "pre-training, then DivideMix"),
        "scanmix": whole,
        "scanmix-paper": whole.changed(
            "ScanMix without what labelwise adds to it",
            **PAPER,
        ),
        "scanmix-without-estep-filter": whole.changed(
            "ScanMix that takes every mined neighbour", **{"scanmix.estep_filter": False}
        ),
    }
    for weight in ENTROPY_WEIGHTS:
        found[f"scanmix-entropy-weight-{weight}"] = whole.changed(
            f"ScanMix with λ_e = {weight} (default 5)", **{"scanmix.entropy_weight": weight}
        )
    for count in NEIGHBOURS:
        found[f"scanmix-neighbours-{count}"] = whole.changed(
            f"ScanMix with K = {count} neighbours (default 20)",
            **{"scanmix.num_neighbours": count},
        )
    return found


def recipes() -> dict[str, Recipe]:
    """A recipe per cell of both methods, and the ablation."""
    return {**grid("scanmix", scanmix), **grid("scan", scan), **ablation()}
