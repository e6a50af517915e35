"""The run folder: its files, and the lock that keeps two runs out of one folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labelwise.data.files import explained
from labelwise.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """Names and paths of a run folder's files.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """A line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def labels(self) -> Path:
        """A row per training sample (the .csv beside it holds the same)."""
        return self.path / "labels.parquet"

    @property
    def summary(self) -> Path:
        """The run's totals."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def evidence(self) -> Path:
        """Arrays behind the report."""
        return self.path / "evidence.npz"

    @property
    def pred_probs(self) -> Path:
        """Class probabilities (N, K) behind the verdicts, in the order of the labels."""
        return self.path / "pred_probs.npy"

    @property
    def model(self) -> Path:
        """Weights and what is needed to predict."""
        return self.path / "model"

    @property
    def checkpoint(self) -> Path:
        """Resumable state."""
        return self.path / "checkpoint"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What a finished run has written."""
        csv = self.labels.with_suffix(".csv")
        model = self.model / "model.json"
        return (self.labels, csv, self.evidence, model, self.summary, self.report)

    def _holds_something(self) -> bool:
        return any(child.suffix != ".part" for child in self.path.iterdir())

    def require_free(self) -> None:
        """Raise a `UserError` when the folder already holds something."""
        try:
            if self.path.exists() and (not self.path.is_dir() or self._holds_something()):
                hint = (
                    f"continue it with `labelwise resume {self.path}` or choose"
                    if self.config.exists()
                    else "choose"
                )
                raise UserError(f"the output folder {self.path} is in use: {hint} another --out.")
        except OSError as error:
            raise explained(error, self.path) from error

    def create(self) -> None:
        """Make the folder.

        Raises:
            UserError: when it already holds something, or cannot be made.
        """
        self.require_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, self.path) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends.

        Raises:
            UserError: when another process is training in it.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self.path}. Wait for it, or choose another --out."
            ) from None
        else:
            yield
        finally:
            os.close(handle)


def next_free(parent: Path, stem: str) -> Path:
    """The first of `parent/stem`, `parent/stem-2`, … that does not exist."""
    number = 1
    while True:
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            return path
        number += 1
