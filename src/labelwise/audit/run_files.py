"""Read what the report needs from a run folder, and nothing else."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelwise.config import read_json
from labelwise.data.dataset import NO_CLASS
from labelwise.errors import UserError
from labelwise.training.folder import RunFolder
from labelwise.training.journal import Journal

TEXT_COLUMNS = ("id", "given_label", "predicted_label", "suggested_label", "true_label")
NUMBER_COLUMNS = ("label_quality", "suggestion_confidence", "is_suspect")
ARRAYS = ("loss", "loss_grid", "loss_density", "worst", "neighbours", "similarity")


@dataclass(frozen=True)
class LabelColumns:
    """The audited labels as class numbers; texts are only made for the rows that are shown.

    Args:
        given: class of the given label (N) int64.
        suggested: class of the suggested label (N) int64.
        truth: class of the true label (N) int64, -1: no class (`NO_CLASS`); None where the truth
            is not known.
        suspect: whether the given label looks wrong (N) bool.
        quality: P(given label is right) (N) float.
        table: the columns as stored (an arrow table).
    """

    given: np.ndarray
    suggested: np.ndarray
    truth: np.ndarray | None
    suspect: np.ndarray
    quality: np.ndarray
    table: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.given)

    def texts(self, column: str, rows: np.ndarray) -> list[str]:
        """The values of a column at `rows`, as text."""
        return [str(value) for value in self.table.column(column).take(rows).to_pylist()]

    def numbers(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The values of a number column at `rows` (R) float."""
        return np.asarray(self.table.column(column).take(rows), dtype=float)


@dataclass(frozen=True)
class RunFiles:
    """The content of a finished run folder.

    Args:
        path: the folder.
        described: `config.json`.
        summary: `summary.json` without what is null or NaN.
        epochs: the lines of `metrics.jsonl`; none where nothing was trained.
        arrays: `evidence.npz`.
        labels: `labels.parquet`.
    """

    path: Path
    described: dict[str, Any]
    summary: dict[str, Any]
    epochs: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    labels: LabelColumns

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked for."""
        return dict(self.described["config"])

    @property
    def data(self) -> dict[str, Any]:
        """What it was trained on."""
        return dict(self.described["data"])

    def has(self, *names: str) -> bool:
        """Whether `evidence.npz` holds all of these arrays; those of older runs hold fewer."""
        return all(name in self.arrays for name in names)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return [str(name) for name in self.described["data"]["classes"]]


def read_run(path: Path) -> RunFiles:
    """Read a finished run folder.

    Raises:
        UserError: a file is missing, broken, or does not fit the others; the message names it.
    """
    folder = RunFolder(path)
    described = read_json(folder.config)
    for part, keys in (("config", ("data", "method")), ("data", ("name", "kind", "classes"))):
        found = described.get(part)
        absent = [key for key in keys if not isinstance(found, dict) or key not in found]
        if absent:
            raise _broken(folder.config, f"it has no {part}.{absent[0]}")
    if not folder.summary.exists():
        raise UserError(
            f"{folder.summary} does not exist: the run is not finished. "
            f"`labelwise resume {path}` finishes it."
        )
    # What was not estimated is left out, null or NaN: one way of saying so is enough from here on.
    summary = {k: value for k, value in read_json(folder.summary).items() if _is_known(value)}
    for key in ("num_samples", "num_suspects", "estimated_noise_rate"):
        if key not in summary:
            raise _broken(folder.summary, f"it has no {key}")
    classes = [str(name) for name in described["data"]["classes"]]
    labels = read_labels(folder.labels, classes)
    arrays = _read_arrays(folder.evidence, len(labels), len(classes))
    # Labels that were judged by probabilities from elsewhere have no training to show.
    untrained = bool(described.get("external")) and not folder.metrics.exists()
    epochs = [] if untrained else _read_epochs(folder.metrics)
    return RunFiles(path, described, summary, epochs, arrays, labels)


def read_labels(path: Path, classes: Sequence[str]) -> LabelColumns:
    """Read the audited labels.

    Raises:
        UserError: the file is missing or broken, or names a class that is not among `classes`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    _require(path)
    path = path.absolute()  # pyarrow takes a relative name with a colon for a URI
    try:
        present = set(pq.read_schema(path).names)
        wanted = [name for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS) if name in present]
        table = pq.read_table(path, columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise _broken(path, str(error).partition("\n")[0]) from error
    for name in (*TEXT_COLUMNS[:-1], *NUMBER_COLUMNS):
        if name not in present:
            raise _broken(path, f"it has no column {name}")

    def codes(name: str, num_null: int = 0) -> np.ndarray:
        column = table.column(name).cast(pa.large_string())
        found = pc.index_in(column, value_set=pa.array(classes, pa.large_string()))
        if found.null_count > num_null:
            raise _broken(path, f"{name} holds a class that config.json does not name")
        return np.asarray(found.fill_null(NO_CLASS), dtype=np.int64)

    def true_codes() -> np.ndarray:
        # An empty cell is the truth of a sample that belongs to none of the classes.
        return codes("true_label", table.column("true_label").null_count)

    return LabelColumns(
        given=codes("given_label"),
        suggested=codes("suggested_label"),
        truth=true_codes() if "true_label" in present else None,
        suspect=np.asarray(table.column("is_suspect"), dtype=bool),
        quality=np.asarray(table.column("label_quality"), dtype=np.float64),
        table=table,
    )


def _read_arrays(path: Path, num_samples: int, num_classes: int) -> dict[str, np.ndarray]:
    _require(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(path, str(error).partition("\n")[0]) from error
    for name in ARRAYS:
        if name not in arrays:
            raise _broken(path, f"it has no array {name}")
    if len(arrays["loss"]) != num_samples:
        raise _broken(path, f"it holds {len(arrays['loss']):,} losses for {num_samples:,} labels")
    for name in ("worst", "neighbours", "duplicates"):
        rows = arrays.get(name, np.empty(0))
        if rows.size and not 0 <= rows.min() <= rows.max() < num_samples:
            raise _broken(path, f"{name} names a row that labels.parquet does not have")
    _check_optional(path, arrays, num_samples, num_classes)
    return arrays


def _check_optional(
    path: Path, arrays: dict[str, np.ndarray], num_samples: int, num_classes: int
) -> None:
    """What older runs do not have must fit the rest where it is there."""
    square = (num_classes, num_classes)
    wanted: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("transition", "transition_low", "transition_high"), square),
        "evidence": (num_samples, len(arrays.get("evidence_names", ()))),
        "early_loss": (num_samples,),
    }
    if "duplicates" in arrays:
        number = len(arrays["duplicates"])
        wanted |= {"duplicates": (number, 2), "duplicate_similarity": (number,)}
    if "pair_rows" in arrays:
        number = len(arrays["pair_rows"])
        wanted["pair_rows"] = (number, 2)
        wanted |= dict.fromkeys(("pair_counts", "pair_low", "pair_high"), (number,))
        pairs = arrays["pair_rows"]
        if pairs.size and not 0 <= pairs.min() <= pairs.max() < num_classes:
            raise _broken(path, "pair_rows names a class that config.json does not have")
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            raise _broken(path, f"{name} has shape {arrays[name].shape}, not {shape}")


def _read_epochs(path: Path) -> list[dict[str, Any]]:
    _require(path)
    try:
        rows = Journal(path).rows()
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(path, str(error)) from error
    whole = [row for row in rows if isinstance(row, dict) and "epoch" in row]
    if not whole:
        raise _broken(path, "it holds no epoch")
    return whole


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: is {path.parent} a finished run? "
            f"`labelwise resume {path.parent}` writes what is missing."
        )


def _broken(path: Path, reason: str) -> UserError:
    reason = reason.partition("\n")[0].rstrip(".")
    return UserError(
        f"{path} is broken: {reason}. Remove it and `labelwise resume {path.parent}`, or run again."
    )
