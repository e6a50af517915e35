"""The tables of the papers: every recipe of a data set, by its row and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from labelwise.bench.suites.suite import Cell, Suite
from labelwise.errors import UserError
from labelwise.recipes.recipe import Recipe

MANIFEST = "a manifest or a folder of class folders (--data), and its test images (--test)"
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10n": "CIFAR-10N",
    "cifar100n": "CIFAR-100N",
    "webvision": "WebVision (50 classes)",
    "clothing1m": "Clothing1M",
    "animal10n": "Animal-10N",
}
NEEDS = {
    "cifar10": "CIFAR-10: the original folder or a manifest (--data), and its test images (--test)",
    "cifar100": "CIFAR-100: the original folder or a manifest (--data), and its test images "
    "(--test)",
    "cifar10n": "CIFAR-10 with the label columns of CIFAR-10N: a manifest (--data), and the test "
    "images (--test)",
    "cifar100n": "CIFAR-100 with the label column of CIFAR-100N: a manifest (--data), and the test "
    "images (--test)",
    "webvision": f"the first 50 classes of WebVision: {MANIFEST}",
    "clothing1m": f"Clothing1M: {MANIFEST}",
    "animal10n": f"Animal-10N: {MANIFEST}",
}


def cell_of(name: str, recipe: Recipe) -> Cell:
    """The cell that a recipe fills; one without a row is a row of its own."""
    return Cell(
        name=name,
        recipe=name,
        row=recipe.row or name,
        column=recipe.column or recipe.label_column or recipe.noise or "as given",
        noise=recipe.noise,
        label_column=recipe.label_column,
        paper_last=recipe.paper_accuracy,
        paper_best=recipe.paper_best,
        source=recipe.source,
    )


def from_recipes(dataset: str, recipes: Mapping[str, Recipe] | None = None) -> Suite:
    """The suite of every recipe of a data set; of two for one place the first is taken.

    Args:
        dataset: as the recipes name it.
        recipes: by name; None: all there are.

    Raises:
        UserError: no recipe is for these data.
    """
    if recipes is None:
        from labelwise.recipes import known_recipes

        recipes = known_recipes()
    cells: dict[tuple[str, str], Cell] = {}
    for name, recipe in recipes.items():
        if recipe.dataset == dataset:
            cell = cell_of(name, recipe)
            if (cell.row, cell.column) in cells:
                cell = cell.model_copy(update={"row": name})
            cells[cell.row, cell.column] = cell
    if not cells:
        raise UserError(
            f"suite {dataset!r} is empty: no recipe is for {TITLES[dataset]}. `labelwise recipes` "
            "lists what there is; a recipe of your own belongs in src/labelwise/recipes/."
        )
    return Suite(
        name=dataset,
        title=f"{TITLES[dataset]}: the tables of the papers",
        summary=f"Every recipe for {TITLES[dataset]}, with the paper's numbers beside ours",
        dataset=dataset,
        needs=NEEDS[dataset],
        hardware="a GPU",
        cells=tuple(cells.values()),
        seeds=(0, 1, 2),
        options={"truth_column": "label"},
    )


def suites() -> dict[str, Callable[[], Suite]]:
    """A suite per data set of the papers."""
    return {dataset: partial(from_recipes, dataset) for dataset in TITLES}
