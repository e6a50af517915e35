"""Class probabilities that were computed elsewhere, checked against the data and read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.data.files import at_home
from labelwise.data.score_files import NpyFile, NpzFile, ScoreFile
from labelwise.data.score_tables import CsvFile, ParquetFile
from labelwise.data.source import reading
from labelwise.data.wording import few, place, plural, quoted
from labelwise.errors import UserError, nearest, unknown

ScoreKind = Literal["probabilities", "logits", "log-probabilities"]
KINDS: tuple[ScoreKind, ...] = ("probabilities", "logits", "log-probabilities")
SUM_TOLERANCE = 0.02
"""How far from 1 a row of probabilities may sum: float16 and bfloat16 files are rounded."""
NEGATIVE = 1e-4
"""Negative values down to this are rounding."""
SHOWN_CLASSES = 12
FILES: tuple[type[ScoreFile], ...] = (NpyFile, NpzFile, CsvFile, ParquetFile)


@dataclass(frozen=True)
class Scores:
    """Class probabilities of the samples of a data set, in a file.

    Args:
        path: the file.
        rows: data row (M) int64 of every file row that is used, in the order of the file.
        num_classes: K.
        notes: how rows and columns were matched, for the user.
        are: what the numbers are.
        file: the open file.
        columns: its column of every class (K).
        used: whether each of its rows is wanted (R) bool.
    """

    path: Path
    rows: np.ndarray = field(repr=False)
    num_classes: int
    notes: tuple[str, ...]
    are: ScoreKind
    file: ScoreFile = field(repr=False)
    columns: tuple[int, ...] = field(repr=False)
    used: np.ndarray = field(repr=False)

    def blocks(self) -> Iterator[Tensor]:
        """Yield the probabilities (B, K) float32 of the rows `rows`, in that order.

        Raises:
            UserError: a row that holds no probabilities (or logits), named.
        """
        start = 0
        for block in self.file.blocks(self.columns):
            used = np.flatnonzero(self.used[start : start + len(block)])
            chosen = block if len(used) == len(block) else block[used]
            if len(chosen):
                yield self._probabilities(torch.from_numpy(chosen).float(), start + used)
            start += len(block)
        if start != self.file.num_rows:
            raise UserError(f"{self.path} has {start:,} rows, not {self.file.num_rows:,}.")

    def _probabilities(self, block: Tensor, rows: np.ndarray) -> Tensor:
        bad = (~block.isfinite().all(1)).nonzero().flatten()
        if self.are == "log-probabilities":  # log 0 is minus infinity
            bad = (block.isnan() | (block == torch.inf)).any(1).nonzero().flatten()
        if len(bad):
            values = block[int(bad[0])]
            column = int((~values.isfinite()).nonzero()[0])
            raise UserError(
                f"{self.path}, {self._place(rows[int(bad[0])])}: the score of column {column} is "
                f"{float(values[column])}. Every sample needs finite scores."
            )
        if self.are != "probabilities":
            return block.softmax(1)
        negative = (block < -NEGATIVE).any(1)
        total = block.sum(1)
        wrong = (negative | ((total - 1).abs() > SUM_TOLERANCE)).nonzero().flatten()
        if len(wrong):
            raise UserError(self._no_probabilities(block, int(wrong[0]), rows))
        block = block.clamp_min(0)
        total = block.sum(1, keepdim=True)
        # Whole rows stay as they are: dividing by 1.0000001 would break ties at random.
        return block / torch.where((total - 1).abs() < 1e-5, 1.0, total)

    def _no_probabilities(self, block: Tensor, at: int, rows: np.ndarray) -> str:
        where = f"{self.path}, {self._place(rows[at])}"
        row = block[at]
        if bool((row < 0).any()):
            is_log = bool((row <= 0).all()) and abs(float(row.exp().sum()) - 1) <= SUM_TOLERANCE
            kind = "log-probabilities" if is_log else "logits"
            return (
                f"{where}: the scores go from {float(row.min()):.4g} to {float(row.max()):.4g}; "
                f"these look like {kind}. Pass --pred-probs-are {kind}."
            )
        left = [] if self.file.columns is None else list(self.file.columns)
        used = set(self.columns)
        left = [name for column, name in enumerate(left) if column not in used]
        ignored = f" Columns that are no class were left out: {quoted(left)}." if left else ""
        hint = (
            " These look like logits: pass --pred-probs-are logits."
            if bool((row > 1 + SUM_TOLERANCE).any())
            else " Divide by the sum where they are scores of one softmax; scores of separate "
            "yes-or-no classifiers are no class probabilities."
        )
        return f"{where}: the scores sum to {float(row.sum()):.4g}, not to 1.{ignored}{hint}"

    def _place(self, row: int) -> str:
        ids = self.file.ids
        return f"row {row}" if ids is None else place(int(row), np.asarray(ids, dtype=object))


def open_scores(
    path: str | Path,
    classes: Sequence[str],
    ids: np.ndarray,
    keep: np.ndarray | None = None,
    are: str = "probabilities",
) -> Scores:
    """Open a file of class probabilities and match its rows and columns to the data.

    Rows: an `id` column (or key `ids`) is matched to the data's ids, in any order; without one
    the rows are those of the whole data, in its order. Columns: names that are the class names,
    in any order; columns without names, or named 0 to K - 1, are taken in the order of the
    data's classes (whole numbers by value, names by the alphabet), and a note says so.

    Args:
        path: .npy (R, K), .npz, .csv, .tsv or .parquet.
        classes: the data's class names (K).
        ids: ids of the whole data (N).
        keep: data rows (M) that are wanted, rising; None takes all.
        are: "probabilities", "logits" or "log-probabilities".

    Raises:
        UserError: the file does not fit the data; the message says where and what to do.
    """
    if are not in KINDS:
        raise unknown("kind of scores", are, KINDS)
    file = open_file(at_home(path))
    wanted = np.arange(len(ids)) if keep is None else keep
    columns, column_note = _match_columns(file, classes)
    rows, row_notes = _match_rows(file, ids, wanted)
    used = rows >= 0
    notes = (*([column_note] if column_note else []), *row_notes)
    return Scores(
        file.path,
        rows[used],
        len(classes),
        notes,
        are,
        file,
        tuple(columns),
        used,
    )


def open_file(path: Path) -> ScoreFile:
    """Open a file of scores by its ending.

    Raises:
        UserError: it does not exist, has another ending, or holds no table of numbers.
    """
    known = {suffix: kind for kind in FILES for suffix in kind.suffixes}
    suffix = path.suffix.lower()
    if suffix not in known:
        raise UserError(
            f"{path} has the ending {suffix or '(none)'!r}, which cannot be read as scores."
            f"{nearest(suffix, known)} Known: {', '.join(known)}."
        )
    with reading(path):
        path.stat()
    return known[suffix](path)  # type: ignore[call-arg]


def _match_columns(file: ScoreFile, classes: Sequence[str]) -> tuple[list[int], str]:
    """The file's column of every class, and what to tell the user about it."""
    if file.columns is None:
        if file.num_columns != len(classes):
            raise UserError(_wrong_number(file, classes))
        return list(range(len(classes))), _order_note(file, classes)
    position: dict[str, int] = {}
    for column, name in enumerate(file.columns):
        if name in position:
            raise UserError(f"{file.path} has two columns {name!r}: name each class once.")
        position[name] = column
    if all(name in position for name in classes):
        left = [name for name in file.columns if name not in set(classes)]
        note = f"columns of {file.path.name} that are no class left out: {quoted(left)}"
        return [position[name] for name in classes], note if left else ""
    numbers = [str(number) for number in range(len(classes))]
    numbered = [name for name in file.columns if name.isdecimal()]
    if len(numbered) == len(classes) and all(name in position for name in numbers):
        return [position[name] for name in numbers], _order_note(file, classes)
    missing = [name for name in classes if name not in position]
    free = [name for name in file.columns if name not in set(classes)]
    raise UserError(
        f"{file.path} has no column for {plural(len(missing), 'class', 'classes')}: "
        f"{quoted(missing)}.{nearest(missing[0], free)} Its columns are {quoted(file.columns, 8)}. "
        f"Name them like the data's classes, or 0 to {len(classes) - 1} in their order: "
        f"{quoted(classes, SHOWN_CLASSES)}."
    )


def _wrong_number(file: ScoreFile, classes: Sequence[str]) -> str:
    return (
        f"{file.path} has {plural(file.num_columns, 'column')}, the data "
        f"{plural(len(classes), 'class', 'classes')}: {quoted(classes, SHOWN_CLASSES)}. One "
        f"column per class is needed; a csv or parquet file can name its columns, an .npz file "
        f"can hold `classes`."
    )


def _order_note(file: ScoreFile, classes: Sequence[str]) -> str:
    shown = few(classes, len(classes), SHOWN_CLASSES)
    return f"columns of {file.path.name} taken in the order of the classes: {shown}"


def _match_rows(
    file: ScoreFile, ids: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The data row of every file row, -1 where it is not wanted, and remarks."""
    rows = np.full(file.num_rows, -1, dtype=np.int64)
    if file.ids is None:
        if file.num_rows != len(ids):
            raise UserError(
                f"{file.path} has {plural(file.num_rows, 'row')}, the data "
                f"{plural(len(ids), 'sample')}. Give one row per sample in the order of the data, "
                f"or an id column."
            )
        rows[wanted] = wanted
        return rows, []
    import pandas as pd

    # Numbers in one file and text in the other are the same ids.
    index = pd.Index([str(value) for value in file.ids], dtype=object)
    twice = index[index.duplicated()]
    if len(twice):
        raise UserError(f"{file.path}: the id {twice[0]!r} occurs more than once.")
    names = np.asarray([str(value) for value in ids], dtype=object)
    found = index.get_indexer(pd.Index(names[wanted], dtype=object))
    missing = wanted[found < 0]
    if len(missing):
        raise UserError(
            f"{file.path} has no row for {plural(len(missing), 'sample')} of the data: id "
            f"{quoted([names[row] for row in missing[:4]])}{'…' if len(missing) > 4 else ''}."
            f"{nearest(names[missing[0]], index[:1000])} Every sample needs its scores."
        )
    rows[found] = wanted
    others = file.num_rows - len(wanted)
    unused = f"{plural(others, 'row')} of {file.path.name} not used: other ids"
    return rows, [unused] if others and len(wanted) == len(ids) else []


def read_features(path: str | Path, num_rows: int, keep: np.ndarray) -> Tensor:
    """Read feature vectors for the neighbours of doubtful samples.

    Args:
        path: .npy, or .npz with one array, of shape (N, D), in the order of the data.
        num_rows: N.
        keep: data rows (M) that are wanted.

    Returns:
        Features (M, D) float32.

    Raises:
        UserError: another form, or a value that is no finite number.
    """
    file = at_home(path)
    if file.suffix.lower() not in (*NpyFile.suffixes, *NpzFile.suffixes):
        raise UserError(f"features {file}: give an .npy or .npz file of shape (samples, numbers).")
    table = open_file(file)
    if table.num_rows != num_rows:
        raise UserError(
            f"features {file} have {plural(table.num_rows, 'row')}, the data "
            f"{plural(num_rows, 'sample')}. Give one row per sample, in the order of the data."
        )
    wanted = np.zeros(num_rows, dtype=bool)
    wanted[keep] = True
    found = np.empty((len(keep), table.num_columns), dtype=np.float32)
    start = end = 0
    for block in table.blocks(range(table.num_columns)):
        part = block[wanted[start : start + len(block)]]
        found[end : end + len(part)] = part
        start, end = start + len(block), end + len(part)
    features = torch.from_numpy(found)
    bad = (~features.isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise UserError(f"features {file}: row {int(keep[int(bad[0])])} is not all finite.")
    return features
