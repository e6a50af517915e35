"""Part of CIFAR-10 at 16 pixels with a small network: what two cores can do in an hour or two."""

from __future__ import annotations

from collections.abc import Callable

from labelwise.bench.suites.suite import Cell, Suite

EPOCHS = 20
LIMIT = 20_000
SIDE = 16
SECONDS = {
    "ce": 180,
    "mixup": 190,
    "coteaching": 360,
    "dividemix": 1300,
    "sanm+ce": 260,
    "hallucination": 500,
}
"""Methods in the order of the table, and what a run of each is expected to take on one thread."""
NOISES = {"symmetric 50 %": "symmetric:0.5", "asymmetric 40 %": "asymmetric:0.4"}
LABELS = {"human, aggregate": "human_aggregate", "semantic, ResNet": "semantic_resnet"}


def cifar10_lite() -> Suite:
    """Six methods, two noises that are planted and two columns of given labels, one seed."""
    given = [(column, {"noise": noise}) for column, noise in NOISES.items()]
    given += [(column, {"label_column": label}) for column, label in LABELS.items()]
    return Suite(
        name="cifar10-lite",
        title=f"CIFAR-10 in small: {LIMIT:,} images of {SIDE} pixels, a small network",
        summary=f"Part of CIFAR-10 at {SIDE} x {SIDE} pixels, small_resnet, {EPOCHS} epochs for "
        "every method; whole test set",
        dataset="cifar10",
        needs="CIFAR-10: a manifest with images and true labels, or the original folder (--data), "
        "and its test images (--test); columns human_aggregate and semantic_resnet where there are",
        hardware="a CPU; an hour or two on two cores",
        cells=tuple(
            Cell(
                name=name,
                method=name,
                row=name,
                column=column,
                model="small_resnet",
                image_size=SIDE,
                epochs=EPOCHS,
                limit=LIMIT,
                seconds=seconds,
                **labels,
            )
            for column, labels in given
            for name, seconds in SECONDS.items()
        ),
        seeds=(0,),
        options={"plant": 0.0, "truth_column": "label"},
    )


def suites() -> dict[str, Callable[[], Suite]]:
    """The suite by its name."""
    return {"cifar10-lite": cifar10_lite}
