"""DivideMix, Tables 1 and 2 of arXiv 2002.07394: last-ten-epoch accuracies."""

from __future__ import annotations

from labelwise.methods.dividemix import DivideMix
from labelwise.recipes.recipe import Recipe

SCHEDULE = {
    "epochs": 300,
    "batch_size": 64,
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "decay": "step",
    "decay_at": 0.5,
    "decay_factor": 0.1,
}
WARMUP = {"cifar10": 10, "cifar100": 30}  # epochs


def cell(preset: str) -> Recipe:
    """The recipe of one table cell, such as "cifar10-symmetric-50"."""
    data, kind, percent = preset.split("-")
    number = DivideMix.paper_numbers.get(f"{data} {kind} {percent} last")
    return Recipe(
        method="dividemix",
        summary=f"DivideMix on {data.upper()} with {percent} % {kind} noise, 300 epochs",
        noise=f"{kind}:{int(percent) / 100:g}",
        settings=dict(DivideMix.presets[preset]),
        schedule={**SCHEDULE, "warmup": WARMUP[data]},
        paper_accuracy=number,
    )


def recipes() -> dict[str, Recipe]:
    """One recipe per preset of the method."""
    return {f"dividemix-{preset}": cell(preset) for preset in DivideMix.presets}
