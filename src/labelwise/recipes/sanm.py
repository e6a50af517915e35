"""Recipes of SANM (arXiv 2302.06805) around DivideMix and C2D for every cell, and ablations."""

from __future__ import annotations

from typing import Any

from labelwise.methods.sanm import SANM
from labelwise.recipes.c2d import c2d
from labelwise.recipes.cells import OURS, SIMCLR_OURS, Cell, filled, grid
from labelwise.recipes.dividemix import by_paper, dividemix
from labelwise.recipes.recipe import Recipe

SMALL = ("cifar10", "cifar100", "cifar10n", "cifar100n")
"""Data sets of the size of image that `PAPER` is for."""
HOSTS = ("ce", "dividemix")
PAPER = {
    "sanm.basic_ratio": 0.045,
    "sanm.ratio_spread": 0.025,
    "sanm.ratio_gain": 0.03,
    "sanm.place": "guided",
    "sanm.spot": "pixel",
    "sanm.boxes": "both",
    "sanm.keep_views": True,
    "sanm.guess_view": "autoaugment",
    "sanm.learn_view": "randaugment",
    "sanm.num_learn_views": 2,
    "sanm.warmup_clip": 1.0,
}
"""What the paper and its code do around DivideMix on CIFAR, for images of that size."""
RATIOS = (0.02, 0.1, 0.2, 0.3, 0.4)  # beside the default, 0.045
WEIGHTS = (0.1, 1)
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "without-amg": ("nothing covered", {"sanm.amg": False}),
    "without-nlr": ("targets as they were", {"sanm.nlr": False}),
    "without-smr": ("no reconstruction", {"sanm.smr": False}),
    "without-any": (
        "copies alone: nothing covered, softened or rebuilt",
        {"sanm.amg": False, "sanm.nlr": False, "sanm.smr": False},
    ),
    "fixed-ratio": ("one ratio for all", {"sanm.ratio": "fixed"}),
    "random-ratio": ("a ratio that does not know the label", {"sanm.ratio": "random"}),
    "random-place": ("boxes at random places", {"sanm.place": "random"}),
    "guided-pixel": (
        "boxes at the extreme pixel of the activation map",
        {"sanm.place": "guided", "sanm.spot": "pixel"},
    ),
    "guided-cell": (
        "boxes in the extreme cell of the activation map",
        {"sanm.place": "guided", "sanm.spot": "cell"},
    ),
    "corner": ("the extreme pixel as the corner of its box", {"sanm.anchor": "corner"}),
    "hot": ("hot boxes alone", {"sanm.boxes": "hot"}),
    "cold": ("cold boxes alone", {"sanm.boxes": "cold"}),
    "both": ("a copy with either box", {"sanm.boxes": "both"}),
    "either": ("one copy, with one of the two boxes", {"sanm.boxes": "either"}),
    "added": ("copies beside the host's views", {"sanm.keep_views": True}),
    "instead": ("copies in place of the host's views", {"sanm.keep_views": False}),
    "black": ("black boxes", {"sanm.fill": "black"}),
    "unmasked-warmup": ("no masks in the warm-up", {"sanm.mask_warmup": False}),
}


def ablation(host: str) -> dict[str, Recipe]:
    """SANM around a host, its parts one by one, and sweeps; for any data."""
    whole = Recipe(method=f"sanm+{host}", model="auto", summary=f"SANM around {host}")
    found = {f"sanm-{host}": whole}
    for name, (words, settings) in CHANGES.items():
        found[f"sanm-{host}-{name}"] = whole.changed(f"SANM around {host}: {words}", **settings)
    for ratio in RATIOS:
        found[f"sanm-{host}-ratio-{ratio}"] = whole.changed(
            f"SANM around {host}: basic ratio {ratio}", **{"sanm.basic_ratio": ratio}
        )
    for weight in WEIGHTS:
        found[f"sanm-{host}-reconstruction-{weight}"] = whole.changed(
            f"SANM around {host}: reconstruction weighs {weight}",
            **{"sanm.reconstruction_weight": weight},
        )
    return found


def around(host: Recipe, cell: Cell, title: str, note: str) -> Recipe:
    """SANM around a host's recipe, as written and as coded.

    On images of CIFAR's size it trains for 360 epochs and lowers the learning rate after 150.

    Args:
        host: the host's recipe for the cell.
        cell: the cell.
        title: what users call the host.
        note: a word on the settings.
    """
    recipe = host.derive(method=f"sanm+{host.method}")
    if cell.dataset in SMALL:
        recipe = recipe.derive(settings=PAPER, schedule={"epochs": 360, "decay_at": 150 / 360})
    if cell.dataset == "clothing1m":
        recipe = recipe.derive(settings={"sanm.reconstruction_weight": 0.3})
    mark = f", around {host.method}"
    numbers = {
        f"{name.removesuffix(mark)} best": value
        for name, value in SANM.paper_numbers.items()
        if name.endswith(mark)
    }
    where = "arXiv 2302.06805; a running maximum in the authors' code"
    return filled(recipe, cell, f"SANM around {title}", numbers, where, note)


def around_dividemix(cell: Cell) -> Recipe:
    """SANM around DivideMix."""
    return around(dividemix(cell), cell, "DivideMix", "" if by_paper(cell) else OURS)


def around_c2d(cell: Cell) -> Recipe:
    """SANM around C2D, with the warm-up of DivideMix.

    The settings of SimCLR are ScanMix's: the sources of SANM do not give their own.
    """
    warmup = dividemix(cell).schedule["warmup"]
    note = SIMCLR_OURS if by_paper(cell) else OURS
    return around(c2d(cell).derive(schedule={"warmup": warmup}), cell, "C2D", note)


def recipes() -> dict[str, Recipe]:
    """A recipe per cell around either host, and ablations around two."""
    found = {**grid("sanm-dividemix", around_dividemix), **grid("sanm-c2d", around_c2d)}
    known = found["sanm-c2d-cifar10-symmetric-50"]
    found["sanm-c2d-cifar10-symmetric-50-corner"] = known.changed(
        "the same with the extreme pixel as its box's corner (authors' code)",
        **{"sanm.anchor": "corner"},
    ).derive(row="sanm+c2d, corner", column=known.column)
    for host in HOSTS:
        found.update(ablation(host))
    return found
