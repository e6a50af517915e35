"""A table that lists the samples: csv, tsv or parquet with image paths, images or embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from labelwise.data.assemble import assemble, where_in
from labelwise.data.dataset import Source
from labelwise.data.decode import Encoded
from labelwise.data.files import at_home
from labelwise.data.images import Content
from labelwise.data.source import DataSource, Options, Raw, has_suffix
from labelwise.data.tables import CsvTable, ParquetTable, Table
from labelwise.data.wording import few
from labelwise.errors import NoColumn, UserError, nearest

IMAGE_COLUMNS = ("image", "path", "file", "filename", "image_path", "img")
LABEL_COLUMNS = ("label", "given_label", "noisy_label", "target", "class")
VECTOR_COLUMNS = ("embedding", "embeddings", "features", "vector")
TRUTH_COLUMNS = ("true_label", "truth", "clean_label", "true")
IMAGE_CONTENT = ("text", "bytes", "image struct")


class Manifest(DataSource):
    """A csv, tsv or parquet file with one row a sample."""

    name: ClassVar[str] = "manifest"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".parquet")
    takes: ClassVar[frozenset[str]] = frozenset({"label_column", "truth_column"})

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` names a csv, tsv or parquet file."""
        return has_suffix(data, cls.suffixes)

    def read(self, data: object, options: Options) -> Source:
        """Read the listed samples; only the images that are kept are read and decoded."""
        path = at_home(str(data))
        table = ParquetTable(path) if path.suffix.lower() == ".parquet" else CsvTable(path)
        label, truth = _label_columns(path, table, options)
        id_column = _first(table, ("id",))
        ids = _ids(path, table, id_column)
        used = {column for column in (label, truth, id_column) if column is not None}
        inputs: np.ndarray | _Cells = np.empty((len(ids), 0))
        notes: tuple[str, ...] = ()
        if options.inputs:
            inputs, notes = _inputs(path, table, ids, used)
        raw = Raw(
            name=path.stem,
            place=f"the file {path}",
            ids=ids,
            inputs=inputs,
            given=None if label is None else table.values(label),
            truth=None if truth is None else table.values(truth),
            given_title=f"column {label!r} of {path.name}",
            truth_title=f"column {truth!r} of {path.name}",
            given_names=None if label is None else table.class_names(label),
            truth_names=None if truth is None else table.class_names(truth),
            notes=notes,
            remedy=_no_label(table, options),
        )
        return assemble(raw, options)


@dataclass(frozen=True)
class _Cells:
    """The image cells of a table: paths, bytes, or a struct of both."""

    path: Path
    table: Table
    column: str
    ids: np.ndarray

    def __call__(self, rows: np.ndarray) -> Iterable[Encoded]:
        cells = self.table.cells(self.column, rows)
        return (self._encoded(int(row), cell) for row, cell in zip(rows, cells, strict=True))

    def _encoded(self, row: int, cell: Any) -> Encoded:
        where = where_in(self.path.name, row, self.ids)
        content: Content = None
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            content = cell
        elif isinstance(cell, str) and cell:
            # Joining with an absolute path gives that path.
            content = self.path.parent / at_home(cell)
            where = f"{content} ({where})"
        return Encoded(where, content)


def _label_columns(path: Path, table: Table, options: Options) -> tuple[str | None, str | None]:
    """Return the columns of the given and the true labels."""
    for option, column in (
        ("--label-column", options.label_column),
        ("--truth-column", options.truth_column),
    ):
        if column is not None and column not in table.columns:
            raise NoColumn(
                f"{path} has no column {column!r} ({option}).{nearest(column, table.columns)} "
                f"Its columns are {', '.join(table.columns)}."
            )
    if options.label_column is not None:
        return options.label_column, options.truth_column
    # The truth must never slip in as the given labels because nothing else was found.
    given = _first(table, LABEL_COLUMNS, but=options.truth_column)
    return given, options.truth_column


def _no_label(table: Table, options: Options) -> str:
    truth = options.truth_column
    also = f" (also {truth!r} itself, when the given labels are the true ones)" if truth else ""
    return (
        f"Its columns are {', '.join(table.columns)}; none is called {', '.join(LABEL_COLUMNS)}. "
        f"Name the label column with --label-column{also}."
    )


def _first(table: Table, wanted: Sequence[str], but: str | None = None) -> str | None:
    """Return the first column with one of the wanted names, in any case of letters."""
    lower: dict[str, str] = {}
    for column in table.columns:
        if column != but:
            lower.setdefault(column.lower(), column)
    return next((lower[name] for name in wanted if name in lower), None)


def _ids(path: Path, table: Table, column: str | None) -> np.ndarray:
    if column is not None:
        return table.values(column)
    return np.arange(table.num_rows)


def _inputs(
    path: Path, table: Table, ids: np.ndarray, used: set[str]
) -> tuple[np.ndarray | _Cells, tuple[str, ...]]:
    """Find what the samples are: an image column, a vector column, or columns of numbers."""
    free = {name: kind for name, kind in table.columns.items() if name not in used}
    image = next(iter(_called(free, IMAGE_COLUMNS)), None)
    if image is not None:
        if free[image] not in IMAGE_CONTENT:
            raise UserError(
                f"column {image!r} of {path} holds {free[image]}s; paths or bytes of images are "
                f"needed. Rename it if it is something else."
            )
        return _Cells(path, table, image, ids), ()
    binary = [name for name, kind in free.items() if kind in ("bytes", "image struct")]
    if len(binary) == 1:
        return _Cells(path, table, binary[0], ids), ()
    vector = next(iter(_called(free, VECTOR_COLUMNS)), None)
    if vector is not None and free[vector] == "vector":
        return table.vectors(vector), ()
    # Numbers called like labels are labels: as features they would give the answer away.
    known = set(_called(free, LABEL_COLUMNS + TRUTH_COLUMNS))
    features = [name for name in free if name not in known]
    if features and all(free[name] == "number" for name in features):
        note = f"{len(features)} number columns used as features: {few(features, len(features))}"
        return _features(path, table, features, ids), (note,)
    raise UserError(
        f"{path} has no column of images. Its columns are {', '.join(table.columns)}; call the "
        f"one with the paths or bytes `image` (or {', '.join(IMAGE_COLUMNS[1:])}), or the one "
        f"with vectors `embedding`."
    )


def _called(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the columns with one of these names (any case of letters), in order of `names`."""
    return [column for name in names for column in columns if column.lower() == name]


def _features(path: Path, table: Table, columns: Sequence[str], ids: np.ndarray) -> np.ndarray:
    matrix = np.empty((len(ids), len(columns)), dtype=np.float32)
    for number, column in enumerate(columns):
        values = table.values(column)
        try:
            matrix[:, number] = values
        except (TypeError, ValueError) as error:
            raise UserError(f"column {column!r} of {path} is not all numbers: {error}") from error
    return matrix
