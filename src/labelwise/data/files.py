"""Write files so that a crash or a full disk never leaves half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from labelwise.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def at_home(path: str | Path) -> Path:
    """A path with its leading `~` replaced; one of an unknown user is a file name like any other.

    `Path.expanduser` raises a RuntimeError for `~nobody/x`, which is a name that a file may have.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write aside, fsync, rename, fsync the folder: `path` is the old file or the whole new one.

    Args:
        path: the file to replace.
        write: called with the open binary file.

    Raises:
        UserError: when the disk is full or the folder cannot be written; the partial file is
            removed and the old one is untouched.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            raise explained(error, path) from error
        if isinstance(error, RuntimeError) and "write" in str(error):  # torch's zip writer
            raise UserError(f"cannot write {path}: {error}") from error
        raise


def explained(error: OSError, path: Path) -> UserError:
    """Turn an operating-system error at `path` into a message with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk is full: {path} could not be written. Free some space and run the command "
            "again (`labelwise resume` for an interrupted run); nothing committed before is lost."
        )
    if error.errno == errno.ENOENT and not path.parent.exists():
        return UserError(f"the folder {path.parent} does not exist: make it first.")
    return UserError(f"cannot write {path}: {error.strerror or error}. Choose another folder.")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, keys in the given order."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as .csv, .tsv or .parquet, by the file's ending, atomically.

    Raises:
        UserError: for another ending, or when it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        write_atomically(path, lambda file: table.to_parquet(file, index=False))
    elif suffix in (".csv", ".tsv"):
        text = table.to_csv(index=False, sep="," if suffix == ".csv" else "\t")
        write_atomically(path, lambda file: file.write(text.encode()))
    else:
        raise UserError(f"{path}: the output must end in .csv, .tsv or .parquet.")
