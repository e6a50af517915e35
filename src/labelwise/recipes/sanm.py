"""SANM (arXiv 2302.06805): the cell whose number is known, ablations and sweeps."""

from __future__ import annotations

from typing import Any

from labelwise.methods.c2d import C2D
from labelwise.methods.sanm import SANM
from labelwise.recipes.dividemix import SCHEDULE
from labelwise.recipes.recipe import Recipe
from labelwise.recipes.scanmix import CONTRAST

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


def published() -> dict[str, Recipe]:
    """SANM around C2D on CIFAR-10 with 50 % symmetric noise, as written and as coded.

    The settings of SimCLR are ScanMix's: the sources of SANM do not give their own.
    """
    paper = Recipe(
        method="sanm+c2d",
        summary="SANM around C2D on CIFAR-10 with 50 % symmetric noise, 360 epochs",
        noise="symmetric:0.5",
        settings={
            **CONTRAST,
            **C2D.presets["cifar10-symmetric-50"],
            "c2d.frozen_warmup": False,
            **PAPER,
        },
        schedule={**SCHEDULE, "epochs": 360, "decay_at": 150 / 360, "warmup": 10},
        paper_accuracy=SANM.paper_numbers["cifar10 symmetric 50, around c2d"],
    )
    code = paper.changed(
        "the same with the extreme pixel as its box's corner (authors' code)",
        **{"sanm.anchor": "corner"},
    )
    return {
        "sanm-c2d-cifar10-symmetric-50": paper,
        "sanm-c2d-cifar10-symmetric-50-corner": code,
    }


def recipes() -> dict[str, Recipe]:
    """The published cell, and ablations around two hosts."""
    found = published()
    for host in HOSTS:
        found.update(ablation(host))
    return found
