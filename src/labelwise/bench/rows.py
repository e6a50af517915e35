"""Rows of finished and failed runs in `rows.jsonl`: appended whole, by any number of processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelwise.data.files import explained

Row = dict[str, Any]


@dataclass(frozen=True)
class RowFile:
    """The rows of a bench folder, one JSON object a line.

    A line is written at once and reaches the disk before `append` returns. A line that a crash cut
    short is ignored, and cut off before the next is appended.

    Args:
        path: the file; it need not exist.
    """

    path: Path

    def read(self) -> tuple[list[Row], list[str]]:
        """All whole rows in order, and notes on lines that are none."""
        rows: list[Row] = []
        notes: list[str] = []
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # never in the middle of another's write
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise explained(error, self.path) from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parsed(line)
            if row is not None:
                rows.append(row)
            elif number == len(lines):
                notes.append(f"{self.path}: the last line was cut short and is ignored")
            else:
                notes.append(f"{self.path}: line {number} is damaged and is ignored")
        return rows, notes

    def append(self, row: Row) -> None:
        """Add a row.

        Raises:
            UserError: the file cannot be written.
        """
        line = json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n"
        assert line.count(b"\n") == 1
        try:
            with _opened(self.path) as handle:
                whole = _mend(handle) + line
                if os.write(handle, whole) < len(whole):  # what was written is cut off next time
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
        except OSError as error:
            raise explained(error, self.path) from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, locked against other processes that append."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _mend(handle: int) -> bytes:
    """Cut off a last line that is not whole; return the end that a whole one still lacks."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return b""
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - 65_536)
        tail = os.pread(handle, size - start, start)
    last = tail.rpartition(b"\n")[2]
    if _parsed(last) is not None:  # edited by hand
        return b"\n"
    os.ftruncate(handle, size - len(last))
    return b""


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def latest(rows: Iterable[Row]) -> dict[str, Row]:
    """The row that counts of every key: a finished one, or else the last."""
    found: dict[str, Row] = {}
    for row in rows:
        key = str(row.get("key"))
        if row.get("status") == "done" or found.get(key, {}).get("status") != "done":
            found[key] = row
    return found
