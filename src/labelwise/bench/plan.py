"""From a suite and what was asked for to tasks: runs with their configuration and their key."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from labelwise.bench.identity import columns_of
from labelwise.bench.suites import Cell, Suite
from labelwise.config import Strict
from labelwise.errors import unknown

FREE = ("threads", "device", "checkpoint_every")
"""Options that a run may differ in and still be the same run: its row names the hardware."""


class Changes(Strict):
    """What the user asked for beside the suite itself; remembered in `suite.json`."""

    epochs: int | None = Field(None, ge=1, description="epochs of every run")
    limit: int | None = Field(None, ge=2, description="samples to train on")
    settings: dict[str, Any] = Field(default_factory=dict, description="method settings")
    schedule: dict[str, Any] = Field(default_factory=dict, description="schedule fields")


class Place(Strict):
    """The data of a bench, and what they are: equal contents have equal identities."""

    data: str = Field(description="the data source")
    test: str | None = Field(None, description="data to test on")
    data_identity: str = Field(description="digest of the contents of `data`")
    test_identity: str | None = Field(None, description="digest of the contents of `test`")
    columns: tuple[str, ...] | None = Field(None, description="its columns; None: not known")

    @classmethod
    def of(cls, data: str, test: str | None) -> Place:
        """Look at the data.

        Raises:
            UserError: they do not exist or cannot be read.
        """
        from labelwise.bench.identity import identity_of

        columns = columns_of(data)
        return cls(
            data=data,
            test=test,
            data_identity=identity_of(data),
            test_identity=None if test is None else identity_of(test),
            columns=None if columns is None else tuple(columns),
        )


@dataclass(frozen=True)
class Task:
    """One run.

    Args:
        suite: name of the suite.
        dataset: what its data are called.
        cell: the cell of the table.
        seed: its seed.
        config: the fields of its `RunConfig`.
        key: digest of what decides its result.
        command: `labelwise fit …` that repeats it.
    """

    suite: str
    dataset: str
    cell: Cell
    seed: int
    config: Mapping[str, Any]
    key: str
    command: str

    @property
    def name(self) -> str:
        """Names its files."""
        words = f"{self.cell.row}-{self.cell.column}-{self.seed}-{self.key[:8]}"
        return re.sub(r"[^\w+.-]+", "_", words)


def tasks_of(
    suite: Suite, cells: Iterable[Cell], seeds: Sequence[int], place: Place, changes: Changes
) -> list[Task]:
    """The runs of some cells of a suite: seed by seed, so that tables fill evenly."""
    found = list(cells)
    return [task_of(suite, cell, seed, place, changes) for seed in seeds for cell in found]


def task_of(suite: Suite, cell: Cell, seed: int, place: Place, changes: Changes) -> Task:
    """The run of a cell and a seed."""
    options, settings, schedule = _asked(suite, cell, place, changes)
    command = _command(cell, seed, options, settings, schedule)
    if cell.recipe is None:
        options["method"] = cell.method
    else:
        from labelwise.recipes import apply_recipe

        # A recipe leaves open what is None, and the plant that is the default of a run.
        asked = {"method": None, "model": "auto", "plant": 0.03, **options}
        for name in ("pretrain", "noise", "label_column", "image_size"):
            asked.setdefault(name, None)
        options, settings, schedule = apply_recipe(cell.recipe, asked, settings, schedule)
    config = {**options, "seed": seed, "settings": settings, "schedule": schedule}
    decides = {name: value for name, value in config.items() if name not in FREE}
    decides |= {"data": place.data_identity, "test": place.test_identity}
    text = json.dumps(decides, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Task(suite.name, suite.dataset, cell, seed, config, key, command)


def _asked(
    suite: Suite, cell: Cell, place: Place, changes: Changes
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Run options, settings and schedule of a cell; what a recipe adds is not among them."""
    given: dict[str, Any] = {
        **suite.options,
        "data": place.data,
        "test": place.test,
        "noise": cell.noise,
        "label_column": cell.label_column,
        "pretrain": cell.pretrain,
        "model": cell.model,
        "image_size": cell.image_size,
        "limit": changes.limit or cell.limit,
    }
    truth = given.get("truth_column")
    columns = () if place.columns is None else place.columns
    if cell.label_column in (None, truth) or truth not in columns:
        given.pop("truth_column", None)
    epochs = changes.epochs or cell.epochs
    own = {} if epochs is None else {"epochs": epochs}
    return (
        {name: value for name, value in given.items() if value is not None},
        {**cell.settings, **changes.settings},
        {**cell.schedule, **own, **changes.schedule},
    )


def _command(
    cell: Cell,
    seed: int,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    schedule: Mapping[str, Any],
) -> str:
    """The command line of a run."""
    what = ["--method", cell.method] if cell.recipe is None else ["--recipe", cell.recipe]
    words = ["labelwise", "fit", str(options["data"]), *(str(word) for word in what)]
    for name, value in options.items():
        if name != "data" and (name, value) != ("model", "auto"):
            words += [
                f"--{name.replace('_', '-')}",
                f"{value:g}" if name == "plant" else str(value),
            ]
    return shlex.join([*words, "--seed", str(seed), *assignments(settings, schedule)])


def assignments(settings: Mapping[str, Any], schedule: Mapping[str, Any]) -> list[str]:
    """Settings and fields of a schedule as words of a command line."""
    words = []
    for prefix, values in (("", settings), ("schedule.", schedule)):
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            words += ["--set", f"{prefix}{name}={text}"]
    return words


def choose_cells(
    suite: Suite, methods: Sequence[str] | None, noises: Sequence[str] | None
) -> list[Cell]:
    """The cells of some methods and noises; None: of all.

    Raises:
        UserError: a name that no cell has.
    """
    found = list(suite.cells)
    if methods is not None:
        known = {name for cell in suite.cells for name in (cell.name, cell.row)}
        for name in methods:
            if not any(cell.is_called(name) for cell in suite.cells):
                raise unknown(f"method of the suite {suite.name}", name, known)
        found = [cell for cell in found if any(cell.is_called(name) for name in methods)]
    if noises is not None:
        known = {cell.label_column or cell.noise or cell.column for cell in suite.cells}
        for name in noises:
            if not any(cell.has_noise(name) for cell in suite.cells):
                raise unknown(f"noise of the suite {suite.name}", name, known)
        found = [cell for cell in found if any(cell.has_noise(name) for name in noises)]
    return found


def split_by_columns(cells: Iterable[Cell], place: Place) -> tuple[list[Cell], list[str]]:
    """The cells whose labels the data have, and a note on every column that is missing."""
    kept: list[Cell] = []
    missing: dict[str, int] = {}
    for cell in cells:
        column = cell.label_column
        if column is None or place.columns is None or column in place.columns:
            kept.append(cell)
        else:
            missing[column] = missing.get(column, 0) + 1
    return kept, [
        f"{count} cell{'s' * (count != 1)} left out: {place.data} has no column {column!r}"
        for column, count in missing.items()
    ]
