"""Columns of a csv, tsv or parquet file, read only as far as they are needed."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from labelwise.data.labels import MISSING_TEXT
from labelwise.data.source import reading
from labelwise.data.wording import first_line
from labelwise.errors import UserError

Content = Literal["text", "number", "bytes", "image struct", "vector", "other"]
WHOLE = re.compile(r"-?(0|[1-9]\d*)")
DECIMAL = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
BATCH_ROWS = 512
"""Rows of encoded images held at a time."""


class Table(ABC):
    """A table whose columns are read one by one.

    Attributes:
        columns: column name to what it holds, in file order.
        num_rows: N.
    """

    columns: dict[str, Content]
    num_rows: int

    @abstractmethod
    def values(self, column: str) -> np.ndarray:
        """Return a whole column (N): numbers as they are, anything else as objects or None."""

    @abstractmethod
    def cells(self, column: str, rows: np.ndarray) -> Iterator[Any]:
        """Yield the cells at `rows` (rising), holding few of them at a time."""

    @abstractmethod
    def vectors(self, column: str) -> np.ndarray:
        """Return a column of equally long lists of numbers as (N, D) float32."""

    def class_names(self, column: str) -> Sequence[str] | None:
        """Return the class names the file itself gives to the integers of a column."""
        return None


class CsvTable(Table):
    """A csv or tsv file. Everything is text until a column as a whole turns out to be numbers."""

    def __init__(self, path: Path) -> None:
        import pandas as pd

        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        try:
            with reading(path):
                # Text keeps names such as 007 and NA, which pandas would read as 7 and missing.
                self.frame = pd.read_csv(
                    path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
                )
        except UserError:
            raise
        except ValueError as error:  # ParserError, EmptyDataError and UnicodeDecodeError are too
            raise UserError(
                f"cannot read {path} as a table: {first_line(error)}. Save it as UTF-8 text with "
                f"one header line and the same number of fields in every row."
            ) from error
        if not isinstance(self.frame.index, pd.RangeIndex):
            raise UserError(f"{path}: rows have more fields than the header names columns.")
        self.num_rows = len(self.frame)
        self.columns = {str(name): self._content(str(name)) for name in self.frame.columns}

    def _text(self, column: str) -> list[str | None]:
        values = self.frame[column].to_numpy(dtype=object)
        return [None if not isinstance(v, str) or v in MISSING_TEXT else v for v in values]

    def _content(self, column: str) -> Content:
        # One look at the first rows tells a column of names apart without parsing them all.
        head = [v for v in self.frame[column].head(100) if isinstance(v, str) and v]
        return "number" if head and all(DECIMAL.fullmatch(v) for v in head) else "text"

    def values(self, column: str) -> np.ndarray:
        """Return a column (N): whole numbers, floats or text, None where a cell is empty."""
        text = self._text(column)
        present = [v for v in text if v is not None]
        if len(present) == len(text) > 0 and all(WHOLE.fullmatch(v) for v in present):
            return np.array([int(v) for v in present])
        convert: type[int] | type[float] | type[str] = str
        if present and all(WHOLE.fullmatch(v) for v in present):
            convert = int
        elif present and all(DECIMAL.fullmatch(v) for v in present):
            convert = float
        result = np.empty(len(text), dtype=object)
        result[:] = [None if v is None else convert(v) for v in text]
        return result

    def cells(self, column: str, rows: np.ndarray) -> Iterator[Any]:
        """Yield the text of the cells at `rows`, None where a cell is empty."""
        text = self._text(column)
        return (text[row] for row in rows)

    def vectors(self, column: str) -> np.ndarray:
        """Refuse: a csv cell is text."""
        raise UserError(
            f"column {column!r} of a csv file cannot hold vectors. Use parquet or npz, or one "
            f"column per number."
        )


class ParquetTable(Table):
    """A parquet file; encoded images are streamed, so memory holds a few hundred at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            with reading(path):
                self.file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise UserError(
                f"cannot read {path} as parquet: {first_line(error)}. Write or copy it again."
            ) from error
        schema = self.file.schema_arrow
        self.num_rows = int(self.file.metadata.num_rows)
        self.columns = {field.name: _content(field.type) for field in schema}
        self.features = _features(schema.metadata or {})

    def _unreadable(self, column: str, error: Exception) -> UserError:
        return UserError(
            f"cannot read column {column!r} of {self.path}: {first_line(error)}. The file is "
            f"damaged: write or copy it again."
        )

    def _column(self, column: str) -> Any:
        import pyarrow as pa

        try:
            with reading(self.path):
                table = self.file.read(columns=[column])
        except pa.ArrowException as error:
            raise self._unreadable(column, error) from error
        values = table[column].combine_chunks()
        return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values

    def values(self, column: str) -> np.ndarray:
        """Return a column (N): numbers as they are, anything else as objects, None if null."""
        values = self._column(column)
        if self.columns[column] == "number" and not values.null_count:
            return np.asarray(values.to_numpy(zero_copy_only=False))
        # Not to_numpy: it would turn whole numbers with a null into floats.
        result = np.empty(len(values), dtype=object)
        result[:] = values.to_pylist()
        return result

    def cells(self, column: str, rows: np.ndarray) -> Iterator[Any]:
        """Yield the cells at `rows` (rising) as Python objects."""
        import pyarrow as pa

        start = 0
        batches = self.file.iter_batches(BATCH_ROWS, columns=[column], use_threads=False)
        try:
            for batch in batches:
                end = start + batch.num_rows
                low, high = np.searchsorted(rows, (start, end))
                if low < high:
                    yield from batch.column(0).take(pa.array(rows[low:high] - start)).to_pylist()
                start = end
                if high == len(rows):
                    return
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(column, error) from error

    def vectors(self, column: str) -> np.ndarray:
        """Return a column of equally long lists of numbers as (N, D) float32."""
        import pyarrow.compute as pc

        values = self._column(column)
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
        if len(wrong) or (len(lengths) and not lengths[0] > 0):
            row = int(wrong[0]) if len(wrong) else 0
            raise UserError(
                f"column {column!r} of {self.path}: row {row} holds {lengths[row]:g} numbers and "
                f"row 0 holds {lengths[0]:g}. All vectors need one length."
            )
        flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
        return flat.reshape(len(values), -1)

    def class_names(self, column: str) -> Sequence[str] | None:
        """Return the names in a Hugging Face `ClassLabel`, where the file's metadata holds one."""
        feature = self.features.get(column)
        names = feature.get("names") if isinstance(feature, dict) else None
        return names if isinstance(names, list) else None


def _content(kind: Any) -> Content:
    """Return what a column of this Arrow type holds."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _content(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    if types.is_struct(kind):
        return "image struct" if "bytes" in {field.name for field in kind} else "other"
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        return "vector"
    return "other"


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):  # written by something else: nothing to learn
        return {}
    return found if isinstance(found, dict) else {}
