"""Read a transition matrix from a .csv, .npy, .npz or .json file."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from labelwise.data.files import at_home
from labelwise.data.source import reading
from labelwise.errors import UserError

SUFFIXES = (".csv", ".json", ".npy", ".npz")
KEYS = ("matrix", "transition_matrix", "T")


def read_matrix(text: str) -> tuple[Any, tuple[str, ...]]:
    """Return the values (K, K) in a file and the class names it gives them (or none).

    - .csv: K lines of K numbers; a header line, a first column, or both may name the classes, in
      any order.
    - .npy: an array; .npz: an array `matrix`, and class names `classes` if it has them.
    - .json: a list of K lists, or an object with `matrix` (or `transition_matrix`) and `classes`.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if not text:
        raise UserError("noise 'matrix' has no file. Write matrix:FILE, such as matrix:T.csv.")
    path = at_home(text)
    suffix = path.suffix.lower()
    if path.exists() and suffix not in SUFFIXES:
        raise UserError(f"{path} cannot hold a matrix: its name must end in {', '.join(SUFFIXES)}.")
    try:
        with reading(path):
            if suffix == ".csv":
                return _from_csv(path)
            if suffix == ".json":
                return _from_mapping(path, json.loads(path.read_text(encoding="utf-8")))
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found, ()
            with found:
                return _from_mapping(path, dict(found))
    except UserError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, csv.Error) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read as a matrix: {reason}.") from error


def _from_mapping(path: Path, found: Any) -> tuple[Any, tuple[str, ...]]:
    if not isinstance(found, dict):
        return found, ()
    key = next((key for key in KEYS if key in found), None)
    if key is None:
        raise UserError(f"{path} has no `matrix`; it holds {', '.join(map(str, found))}.")
    return found[key], _unique(path, tuple(str(name) for name in found.get("classes", ())))


def _from_csv(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [[cell.strip() for cell in line] for line in csv.reader(file) if any(line)]
    width = max((len(line) for line in lines), default=0)
    short = [number for number, line in enumerate(lines) if len(line) != width]
    if not lines or short:
        what = f"line {short[0] + 1} has another number of cells" if short else "it is empty"
        raise UserError(f"{path} is not a table of K rows and K columns: {what}.")
    # K columns have K + 1 rows with a header: the shape says what is a name even where the
    # classes are called 0, 1, 2.
    height = len(lines)
    named_rows = width > height or (width == height and not _is_number(lines[0][0]))
    named_columns = height > width or (width == height and named_rows)
    columns = tuple(lines[0][named_rows:]) if named_columns else ()
    rows = tuple(line[0] for line in lines[named_columns:]) if named_rows else ()
    try:
        values = np.array([line[named_rows:] for line in lines[named_columns:]], dtype=float)
    except ValueError as error:
        raise UserError(f"{path}: {error!s} in the matrix.") from None
    _unique(path, columns)
    if rows and columns:
        return values[:, _places(path, rows, columns)], _unique(path, rows)
    return values, _unique(path, rows or columns)


def _places(path: Path, rows: tuple[str, ...], columns: tuple[str, ...]) -> list[int]:
    """The column of each row's class."""
    if set(rows) != set(columns):
        odd = sorted(set(rows) ^ set(columns))[0]
        raise UserError(f"{path}: class {odd!r} names a row or a column, but not both.")
    return [columns.index(name) for name in rows]


def _unique(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} names the class {twice[0]!r} twice.")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
