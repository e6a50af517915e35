"""What a suite of runs is: cells of a table, each run with several seeds."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from labelwise.config import Strict


class Cell(Strict):
    """One cell of the table: a method or recipe on data with one kind of noise."""

    name: str = Field(description="method or recipe")
    method: str | None = Field(None, description="method; None: the recipe's")
    recipe: str | None = Field(None, description="recipe; None: the method as it is")
    row: str = Field(description="row of the table")
    column: str = Field(description="column of the table")
    noise: str | None = Field(None, description="noise to plant")
    label_column: str | None = Field(None, description="column of the given labels")
    pretrain: str | None = Field(None, description="pre-training; None: the method's own")
    model: str = Field("auto", description="backbone")
    image_size: int | None = Field(None, description="side of the images, pixels")
    epochs: int | None = Field(None, description="epochs; None scales with the data")
    limit: int | None = Field(None, description="samples to train on; None: all")
    settings: dict[str, Any] = Field(default_factory=dict, description="method settings")
    schedule: dict[str, Any] = Field(default_factory=dict, description="schedule fields")
    paper_last: float | None = Field(None, description="the paper's last epochs, percent")
    paper_best: float | None = Field(None, description="the paper's best epoch, percent")
    source: str = Field("", description="where the paper's numbers stand")
    seconds: float | None = Field(None, description="seconds that one run is expected to take")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Cell:
        assert (self.method is None) != (self.recipe is None), "a method or a recipe, not both"
        return self

    def is_called(self, name: str) -> bool:
        """Whether `name` is its method, recipe or row."""
        return name in (self.name, self.method, self.recipe, self.row)

    def has_noise(self, name: str) -> bool:
        """Whether `name` is its noise, its column of labels or its column of the table."""
        return name in (self.noise, self.label_column, self.column)


class Suite(Strict):
    """A table: its cells, the seeds of every cell, and the data they need."""

    name: str = Field(description="what the command line calls it")
    title: str = Field(description="heading of the table")
    summary: str = Field(description="a sentence or two for users")
    dataset: str = Field(description="what the data are called")
    data: str | None = Field(None, description="data that everyone has; None: --data is needed")
    needs: str = Field("nothing", description="data it needs, in words")
    hardware: str = Field("a CPU", description="hardware that it is meant for")
    cells: tuple[Cell, ...] = Field(description="in the order of the table")
    seeds: tuple[int, ...] = Field((0,), description="seeds of every cell")
    options: dict[str, Any] = Field(
        default_factory=dict, description="run options of all cells, such as plant"
    )

    @model_validator(mode="after")
    def _has_no_place_twice(self) -> Suite:
        places = {(cell.row, cell.column) for cell in self.cells}
        assert len(places) == len(self.cells), f"suite {self.name}: a place of the table twice"
        return self
