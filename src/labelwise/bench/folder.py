"""The bench folder: rows, run folders, logs, what was asked for, and who runs what."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelwise.bench.plan import Task
from labelwise.bench.rows import RowFile
from labelwise.config import read_json
from labelwise.data.files import explained, write_json
from labelwise.errors import UserError

WRITING = 16**15
"""The byte that is locked to write tables; those below are the runs'."""


@dataclass(frozen=True)
class BenchFolder:
    """Names and paths of a bench folder.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def rows(self) -> RowFile:
        """A line per run."""
        return RowFile(self.path / "rows.jsonl")

    @property
    def asked(self) -> Path:
        """The suite and what was asked for last."""
        return self.path / "suite.json"

    @property
    def pretrained(self) -> Path:
        """Networks that several runs begin with."""
        return self.path / "pretrained"

    def run(self, task: Task) -> Path:
        """The run folder of a task."""
        return self.path / "runs" / task.name

    def log(self, task: Task) -> Path:
        """What a run has printed; gone once it is done."""
        return self.path / "logs" / f"{task.name}.log"

    def create(self, suite: str) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            UserError: it cannot, or it holds another suite.
        """
        self.require_suite(suite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(self._open_claims())
        except OSError as error:
            raise explained(error, self.path) from error

    def require_suite(self, suite: str) -> None:
        """Raise a `UserError` where the rows are of another suite."""
        others = {row.get("suite") for row in self.rows.read()[0]} - {suite}
        if others:
            name = next(str(other) for other in others)
            raise UserError(
                f"{self.rows.path} holds rows of the suite {name!r}, not of {suite!r}: choose "
                "another --out."
            )

    def remember(self, asked: dict[str, Any]) -> None:
        """Write down what was asked for, so that the tables can be written again."""
        with self.writing():
            write_json(self.asked, asked)

    def remembered(self) -> dict[str, Any] | None:
        """What was asked for last; None where nothing was."""
        return read_json(self.asked) if self.asked.exists() else None

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Hold a run for this process, which no other then does; False where another holds it.

        The claim is a lock on one byte of one file, whose place is the key: it goes with the
        process, however that ends, and leaves no file behind.
        """
        handle = self._open_claims()
        try:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key[:15], 16))
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    @contextmanager
    def at_work(self) -> Iterator[Callable[[], bool]]:
        """Run tasks of this folder; what it gives says whether no other bench does so too.

        Asked once at the end, it then keeps other benches from beginning until this one is over.
        """
        handle = os.open(self.path / ".at-work", os.O_RDWR | os.O_CREAT, 0o644)

        def is_alone() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield is_alone
        finally:
            os.close(handle)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write files that all processes write: one at a time, or their parts would be mixed up."""
        try:
            handle = self._open_claims()
        except OSError as error:
            raise explained(error, self.path) from error
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX, 1, WRITING)
            yield
        finally:
            os.close(handle)

    def _open_claims(self) -> int:
        return os.open(self.path / ".claims", os.O_RDWR | os.O_CREAT, 0o644)
