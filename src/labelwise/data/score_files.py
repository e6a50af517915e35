"""Files of class probabilities, read in blocks of rows: what they have in common, npy, npz."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from labelwise.data.source import reading
from labelwise.data.wording import first_line
from labelwise.errors import UserError

CELLS = 4_000_000
"""Numbers of a block: 16 MB in float32; csv text takes several times as much while it is read."""
SCORE_KEYS = ("pred_probs", "probabilities", "probs", "scores", "logits")
"""Names of the array in an .npz file, or of the list column in a parquet file."""


class ScoreFile(ABC):
    """A table of scores (R, C): its columns, its ids, and its rows in blocks.

    Attributes:
        path: the file.
        num_rows: R.
        columns: C names, or None where the file does not name its columns.
        num_columns: C.
        ids: R identifiers, or None where the file holds none.
    """

    suffixes: ClassVar[tuple[str, ...]]
    path: Path
    num_rows: int
    num_columns: int
    columns: tuple[str, ...] | None = None
    ids: np.ndarray | None = None

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, CELLS // max(1, self.num_columns))

    @abstractmethod
    def blocks(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield consecutive rows of the chosen columns (B, len(columns)) as floats."""


class NpyFile(ScoreFile):
    """A single array (R, C), mapped: only the block that is worked on is in memory."""

    suffixes = (".npy",)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.array = mapped(path)
        _check_matrix(self.array.shape, self.array.dtype, path)
        self.num_rows, self.num_columns = self.array.shape

    def blocks(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield blocks, and let go of the mapped pages that were read."""
        for start in range(0, self.num_rows, self.block_rows):
            # Opened anew for every block: pages of a long-lived map count as this program's memory.
            part = mapped(self.path)[start : start + self.block_rows]
            yield chosen(part, columns)


class NpzFile(ScoreFile):
    """An array in an archive, with `ids` and `classes` where it holds them.

    Its rows are unpacked as they are needed; an array in Fortran order is read as a whole.
    """

    suffixes = (".npz",)

    def __init__(self, path: Path) -> None:
        self.path = path
        with _archive(path) as file:
            keys = list(file.files)
            arrays = {key: file[key] for key in ("ids", "classes") if key in keys}
        found = [key for key in SCORE_KEYS if key in keys]
        rest = [key for key in keys if key not in arrays]
        if not found and len(rest) != 1:
            raise UserError(
                f"{path} has the keys {', '.join(keys) or 'none'}: name the scores pred_probs."
            )
        self.key = found[0] if found else rest[0]
        with self._opened() as (shape, dtype, fortran, _):
            _check_matrix(shape, dtype, path)
            self.num_rows, self.num_columns = shape
            self.fortran = fortran
        self.ids = arrays.get("ids")
        if "classes" in arrays:
            self.columns = tuple(str(name) for name in arrays["classes"].tolist())
            if len(self.columns) != self.num_columns:
                raise UserError(
                    f"{path}: {len(self.columns)} classes for {self.num_columns} columns."
                )
        if self.ids is not None and len(self.ids) != self.num_rows:
            raise UserError(f"{path}: {len(self.ids):,} ids for {self.num_rows:,} rows.")

    def _opened(self) -> Any:
        return _Member(self.path, f"{self.key}.npy")

    def blocks(self, columns: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield blocks as they are unpacked."""
        if self.fortran:
            with _archive(self.path) as file:
                whole = file[self.key]
            for start in range(0, self.num_rows, self.block_rows):
                yield chosen(whole[start : start + self.block_rows], columns)
            return
        with self._opened() as (shape, dtype, _, stream):
            for start in range(0, shape[0], self.block_rows):
                count = min(self.block_rows, shape[0] - start)
                wanted = count * shape[1] * dtype.itemsize
                raw = stream.read(wanted)
                if len(raw) < wanted:
                    raise UserError(f"{self.path} ends too early. Write or copy it again.")
                yield chosen(np.frombuffer(raw, dtype).reshape(count, shape[1]), columns)


def mapped(path: Path) -> np.ndarray:
    """Map an .npy file into memory, or say what is wrong with it."""
    try:
        with reading(path):
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except (ValueError, EOFError) as error:
        raise UserError(
            f"cannot read {path} as a NumPy array of numbers: {first_line(error)}."
        ) from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise UserError(f"{path} is an archive of arrays: rename it to .npz.")
    return found


class _Member:
    """A stored array of an .npz file as (shape, dtype, Fortran order, stream of its bytes)."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> tuple[tuple[int, ...], np.dtype[Any], bool, Any]:
        self.archive = zipfile.ZipFile(self.path)
        self.stream = self.archive.open(self.name)
        version = np.lib.format.read_magic(self.stream)
        header = np.lib.format.read_array_header_1_0
        if version[0] > 1:
            header = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(self.stream)
        return shape, dtype, fortran, self.stream

    def __exit__(self, *error: object) -> None:
        self.stream.close()
        self.archive.close()


def _archive(path: Path) -> Any:
    try:
        with reading(path):
            return np.load(path, allow_pickle=False)
    except UserError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} as .npz: {first_line(error)}.") from error


def _check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if len(shape) != 2:
        raise UserError(
            f"{path} has shape {shape}: scores have one row per sample and one column per class."
        )
    if dtype.kind not in "fiu":
        raise UserError(f"{path} holds {dtype}: scores are numbers.")


def chosen(block: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """The chosen columns as float32, copied only where they must be."""
    if list(columns) != list(range(block.shape[1])):
        block = block[:, list(columns)]
    return np.array(block, dtype=np.float32)
