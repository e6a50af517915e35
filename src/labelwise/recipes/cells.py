"""The cells of the papers' tables, and the base recipe of each data set that they derive from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
"""DivideMix on CIFAR (arXiv 2002.07394, section 4.1)."""

CIFAR10 = Recipe(method="ce", summary="", dataset="cifar10", schedule={**SCHEDULE, "warmup": 10})
CIFAR100 = CIFAR10.derive(dataset="cifar100", schedule={"warmup": 30})
CIFAR10N = CIFAR10.derive(dataset="cifar10n")
CIFAR100N = CIFAR100.derive(dataset="cifar100n")
ANIMAL10N = CIFAR10.derive(
    dataset="animal10n", model="vgg19_bn", image_size=64, schedule={"epochs": 100, "warmup": 5}
)
WEBVISION = CIFAR10.derive(
    dataset="webvision",
    model="inception_resnet_v2",
    image_size=227,
    schedule={"epochs": 100, "lr": 0.01, "weight_decay": 1e-3, "warmup": 1},
)
CLOTHING1M = CIFAR10.derive(
    dataset="clothing1m",
    model="resnet50",
    image_size=224,
    schedule={"epochs": 10, "batch_size": 32, "lr": 0.01, "weight_decay": 1e-3, "warmup": 1},
)
BASES: dict[str, Recipe] = {
    str(base.dataset): base
    for base in (CIFAR10, CIFAR100, CIFAR10N, CIFAR100N, WEBVISION, CLOTHING1M, ANIMAL10N)
}
"""What every recipe of a data set starts from: backbone, image size and schedule."""
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10n": "CIFAR-10N",
    "cifar100n": "CIFAR-100N",
    "webvision": "mini-WebVision",
    "clothing1m": "Clothing1M",
    "animal10n": "Animal-10N",
}
NUM_CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "cifar10n": 10,
    "cifar100n": 100,
    "webvision": 50,
    "clothing1m": 14,
    "animal10n": 10,
}

SEMANTIC = {"densenet": 0.32, "resnet": 0.38, "vgg": 0.34}
"""The classifiers whose confusions are the labels, with the share of wrong ones on CIFAR-10.

Those on CIFAR-100 are not known to us, and taken to be the same.
"""
NETWORKS = {"densenet": "DenseNet", "resnet": "ResNet", "vgg": "VGG"}
HUMAN = {
    "aggregate": 0.090,
    "random1": 0.172,
    "random2": 0.181,
    "random3": 0.176,
    "worst": 0.402,
}
"""The label sets of CIFAR-10N, with the share of wrong ones."""
AS_LABELLED = {"cifar100n": 0.402, "webvision": 0.20, "clothing1m": 0.385, "animal10n": 0.08}
"""Data sets with one set of labels, with the share of wrong ones: CIFAR-100N's as its authors
give it, the others about as they are commonly given. No number of a paper follows from them."""
HUMAN_100 = "human"
"""What labelwise calls the labels of CIFAR-100N."""

OURS = "settings ours"
RATES_OURS = "learning rate, warm-up and λ_u ours"
SIMCLR_OURS = "SimCLR as in ScanMix"


@dataclass(frozen=True)
class Cell:
    """A column of a table: a data set under some noise.

    Args:
        dataset: one of `BASES`.
        kind: "symmetric", "asymmetric", "semantic", "instance", "human", or "" for data with one
            set of labels of their own.
        level: percent of planted noise, the classifier or the label set; "" where there is none.
    """

    dataset: str
    kind: str = ""
    level: int | str = ""

    @property
    def key(self) -> str:
        """As it stands in a recipe's name: "cifar10-symmetric-50", "cifar10n-worst"."""
        kind = "" if self.kind == "human" else self.kind
        return "-".join(str(part) for part in (self.dataset, kind, self.level) if part != "")

    @property
    def column(self) -> str:
        """The heading of the column."""
        if self.planted:
            return f"{self.kind} {self.level} %"
        return f"{self.kind} {self.level}" if self.kind else "as labelled"

    @property
    def words(self) -> str:
        """What follows the method's name in the summary."""
        title = TITLES[self.dataset]
        kind = "instance-dependent" if self.kind == "instance" else self.kind
        if self.planted:
            return f"{title} with {self.level} % {kind} noise"
        if self.kind == "semantic":
            return f"{title} labelled by a {NETWORKS[str(self.level)]}'s confusions"
        return f"{title} with the human labels {self.level!r}" if self.kind else title

    @property
    def planted(self) -> bool:
        """Whether its noise is drawn here, at a rate, and not a column of labels."""
        return self.kind in ("symmetric", "asymmetric", "instance")

    @property
    def noise(self) -> str | None:
        """What to plant."""
        return f"{self.kind}:{int(self.level) / 100:g}" if self.planted else None

    @property
    def label_column(self) -> str | None:
        """The column of the given labels, where the noise is not planted."""
        if self.kind in ("semantic", "human"):
            return f"{self.kind}_{self.level}"
        return HUMAN_100 if self.dataset == "cifar100n" else None

    @property
    def num_classes(self) -> int:
        """K."""
        return NUM_CLASSES[self.dataset]

    @property
    def wrong(self) -> float:
        """The share of labels that are wrong, about."""
        if self.kind == "semantic":
            return SEMANTIC[str(self.level)]
        if not self.planted:
            return HUMAN[str(self.level)] if self.kind else AS_LABELLED[self.dataset]
        rate = int(self.level) / 100
        if self.kind == "symmetric":  # inclusive: some labels are redrawn as they were
            return rate * (1 - 1 / self.num_classes)
        return rate / 2 if self.kind == "asymmetric" else rate  # half of CIFAR-10's classes flip


def cells_of(kind: str, datasets: tuple[str, ...], levels: tuple[int | str, ...]) -> list[Cell]:
    """Every level of a kind of noise on some data sets."""
    return [Cell(dataset, kind, level) for dataset in datasets for level in levels]


BOTH = ("cifar10", "cifar100")
CELLS = (
    *cells_of("symmetric", BOTH, (20, 50, 80, 90)),
    *cells_of("asymmetric", ("cifar10",), (40, 49)),
    *cells_of("semantic", BOTH, tuple(SEMANTIC)),
    *cells_of("instance", BOTH, (20, 30, 40, 50)),
    *cells_of("human", ("cifar10n",), tuple(HUMAN)),
    *(Cell(dataset) for dataset in AS_LABELLED),
)
"""Every cell that there is a recipe for, per method."""


def start(cell: Cell) -> Recipe:
    """The base recipe of a cell's data set, with the cell's labels."""
    return BASES[cell.dataset].derive(
        noise=cell.noise, label_column=cell.label_column, column=cell.column
    )


def filled(
    recipe: Recipe,
    cell: Cell,
    title: str,
    numbers: Mapping[str, float],
    source: str = "",
    note: str = OURS,
) -> Recipe:
    """The recipe with its summary, and with the paper's numbers for the cell.

    Args:
        recipe: with its method and all that it sets.
        cell: the cell that it fills.
        title: what users call the method.
        numbers: percent by "cifar10 symmetric 50 best", …; what is not there is not known.
        source: where they stand.
        note: a word on the settings: `OURS` where the paper's are not known.
    """
    epochs = recipe.schedule["epochs"]
    length = f", {epochs} epochs" if epochs > 1 else ""
    last, best = (
        numbers.get(f"{cell.key.replace('-', ' ')} {which}") for which in ("last", "best")
    )
    known = last is not None or best is not None
    return recipe.derive(
        row=recipe.method,
        summary=f"{title} on {cell.words}{length}{f' ({note})' if note else ''}",
        paper_accuracy=last,
        paper_best=best,
        source=source if known else "",
    )


def grid(prefix: str, row: Callable[[Cell], Recipe]) -> dict[str, Recipe]:
    """A recipe per cell.

    Args:
        prefix: what the names start with.
        row: makes a cell's recipe.
    """
    return {f"{prefix}-{cell.key}": row(cell) for cell in CELLS}
