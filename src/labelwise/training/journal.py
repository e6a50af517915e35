"""`metrics.jsonl`: one line per epoch, each written whole and once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelwise.data.files import explained, write_atomically


@dataclass(frozen=True)
class Journal:
    """The epochs' figures.

    Args:
        path: the `metrics.jsonl` of the run.
    """

    path: Path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's line and fsync it."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explained(error, self.path) from error

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines; a line torn by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def forget_from(self, epoch: int) -> None:
        """Drop the lines of epochs (0-based) that will be run again."""
        if not self.path.exists():
            return
        kept = [row for row in self.rows() if row["epoch"] <= epoch]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
