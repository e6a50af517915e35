"""Tables of class probabilities with named columns, read in blocks of rows: csv, tsv, parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelwise.data.score_files import SCORE_KEYS, ScoreFile, chosen
from labelwise.data.source import reading
from labelwise.data.wording import first_line
from labelwise.errors import UserError

ID_COLUMN = "id"


class CsvFile(ScoreFile):
    """A csv or tsv file with a header line: one column per class, and perhaps `id`."""

    suffixes = (".csv", ".tsv")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.separator = "\t" if path.suffix.lower() == ".tsv" else ","
        header = [str(name).strip() for name in self._read(nrows=0).columns]
        if header and all(_is_number(name) and not name.isdecimal() for name in header):
            raise UserError(
                f"the first line of {path} holds numbers, so its columns have no names. Add a "
                f"header line with the class names, or save the array as .npy."
            )
        place = [at for at, name in enumerate(header) if name.lower() == ID_COLUMN]
        first = self._read(usecols=[place[0] if place else 0], dtype=str, keep_default_na=False)
        self.num_rows = len(first)
        if place:
            self.ids = first.iloc[:, 0].to_numpy(dtype=object)
        self.places = [at for at in range(len(header)) if at not in place[:1]]
        self.columns = tuple(header[at] for at in self.places)
        self.num_columns = len(self.columns)

    def _read(self, **options: Any) -> Any:
        import pandas as pd

        try:
            with reading(self.path):
                return pd.read_csv(
                    self.path, sep=self.separator, encoding="utf-8-sig", index_col=False, **options
                )
        except UserError:
            raise
        except ValueError as error:  # ParserError, EmptyDataError and UnicodeDecodeError are too
            raise UserError(
                f"cannot read {self.path} as a table of numbers: {first_line(error)}."
            ) from error

    def blocks(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield blocks as they are parsed."""
        wanted = [self.places[column] for column in columns]
        order = np.argsort(np.argsort(wanted))  # usecols comes back in the order of the file
        # Text is parsed through Python objects: smaller blocks keep the memory that of the others.
        count = max(1, self.block_rows // 4)
        start = 0
        try:
            with self._read(usecols=wanted, chunksize=count) as tables:
                for table in tables:
                    yield table.to_numpy(dtype=np.float32)[:, order]
                    start += len(table)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"{self.path}, from row {start} on: {first_line(error)}. Scores are numbers."
            ) from error


class ParquetFile(ScoreFile):
    """A parquet file: one column per class, or one column of lists, and perhaps `id`."""

    suffixes = (".parquet",)

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            with reading(path):
                self.file = pq.ParquetFile(path, memory_map=True)
        except pa.ArrowException as error:
            raise UserError(
                f"cannot read {path} as parquet: {first_line(error)}. Write or copy it again."
            ) from error
        schema = self.file.schema_arrow
        self.num_rows = int(self.file.metadata.num_rows)
        id_name = next((name for name in schema.names if name.lower() == ID_COLUMN), None)
        if id_name is not None:
            values = self.file.read(columns=[id_name]).column(0)
            self.ids = np.asarray(values.to_pylist(), dtype=object)
        self.list_column = _list_column(schema, path)
        if self.list_column is not None:
            self.num_columns = self._length_of_lists()
            return
        self.columns = tuple(name for name in schema.names if name != id_name)
        self.num_columns = len(self.columns)

    def _length_of_lists(self) -> int:
        for batch in self.file.iter_batches(1, columns=[self.list_column]):
            first = batch.column(0)[0].as_py()
            return 0 if first is None else len(first)
        return 0

    def blocks(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield blocks, a row group's columns at a time."""
        import pyarrow as pa

        try:
            if self.list_column is None:
                yield from self._columns(columns)
            else:
                yield from self._lists(columns)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"cannot read the scores of {self.path}: {first_line(error)}. Write it again."
            ) from error

    def _columns(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        assert self.columns is not None
        names = [self.columns[column] for column in columns]
        kinds = {field.name: field.type for field in self.file.schema_arrow}
        for name in names:
            if not _is_numeric(kinds[name]):
                raise UserError(f"column {name!r} of {self.path} holds {kinds[name]}, no numbers.")
        for batch in self.file.iter_batches(self.block_rows, columns=names):
            block = np.empty((batch.num_rows, len(names)), dtype=np.float32)
            for place, name in enumerate(names):
                block[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
            yield block

    def _lists(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        start = 0
        for batch in self.file.iter_batches(self.block_rows, columns=[self.list_column]):
            lists = batch.column(0)
            lengths = np.asarray([-1 if v is None else len(v) for v in lists])
            wrong = np.flatnonzero(lengths != self.num_columns)
            if len(wrong):
                raise UserError(
                    f"column {self.list_column!r} of {self.path}: row {start + int(wrong[0])} "
                    f"holds {max(0, int(lengths[wrong[0]]))} numbers, row 0 {self.num_columns}."
                )
            flat = lists.flatten().to_numpy(zero_copy_only=False)
            yield chosen(flat.reshape(len(lists), self.num_columns), columns)
            start += len(lists)


def _list_column(schema: Any, path: Path) -> str | None:
    """The column that holds one list of scores per row, if there is one."""
    from pyarrow import types

    def is_list(kind: Any) -> bool:
        of = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return of and _is_numeric(kind.value_type)

    lists = [field.name for field in schema if is_list(field.type)]
    named = [name for name in lists if name.lower() in SCORE_KEYS]
    if len(lists) > 1 and not named:
        raise UserError(
            f"{path} has several columns of lists ({', '.join(lists)}): name the one with the "
            f"scores pred_probs."
        )
    return next(iter(named or lists), None)


def _is_numeric(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_floating(kind) or types.is_integer(kind))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
