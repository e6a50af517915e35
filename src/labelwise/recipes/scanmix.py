"""ScanMix, tables 1 and 4 of arXiv 2103.11395: last-ten-epoch accuracies, and the ablation."""

from __future__ import annotations

from labelwise.methods.scanmix import ScanMix
from labelwise.recipes.dividemix import SCHEDULE
from labelwise.recipes.recipe import Recipe

CONTRAST = {
    "simclr.epochs": 500,
    "simclr.batch_size": 512,
    "simclr.lr": 0.4,
    "simclr.weight_decay": 1e-4,
    "simclr.temperature": 0.1,
}
CLUSTER = {"scan.epochs": 50, "scan.batch_size": 128, "scan.lr": 1e-4, "scan.weight_decay": 1e-4}
PAPER = {
    "scan.num_heads": 0,
    "scanmix.ask_neighbours": False,
    "scanmix.start_from_clusters": False,
    "scanmix.mild_cluster_lr": 1e-5,
}
WARMUP = {"cifar10": 10, "cifar100": 30}  # epochs
PERCENT = {"symmetric": (20, 50, 80, 90), "asymmetric": (40, 49)}
ENTROPY_WEIGHTS = (0, 1, 2, 10)
NEIGHBOURS = (5, 10, 50)


def cell(data: str, kind: str, percent: int) -> Recipe:
    """The recipe of one cell of table 1."""
    preset = f"{data}-{kind}-{percent}"
    return Recipe(
        method="scanmix",
        summary=f"ScanMix on {data.upper()} with {percent} % {kind} noise, 300 epochs",
        noise=f"{kind}:{percent / 100:g}",
        settings={**CONTRAST, **CLUSTER, **PAPER, **ScanMix.presets[preset]},
        schedule={**SCHEDULE, "warmup": WARMUP[data]},
        paper_accuracy=ScanMix.paper_numbers.get(f"{data} {kind} {percent} last"),
    )


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
    """The cells of table 1 and the ablation."""
    cells = {
        f"scanmix-{data}-{kind}-{percent}": cell(data, kind, percent)
        for data in WARMUP
        for kind, percents in PERCENT.items()
        for percent in percents
        if (data, kind) != ("cifar100", "asymmetric")
    }
    return {**cells, **ablation()}
