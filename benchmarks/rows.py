"""What the benchmark scripts share: one command as a process, rows on disk, means in a table."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labelwise.data.files import write_atomically


def call(command: str, *arguments: str, out: Path) -> dict[str, Any]:
    """Run one command of labelwise on one thread and return its JSON.

    Raises:
        RuntimeError: it failed; the text is what it wrote.
    """
    own = [sys.executable, "-m", "labelwise.cli", command, *arguments]
    own += ["--threads", "1", "--json", "--out", str(out)]
    done = subprocess.run(own, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def mean(values: Iterable[float | None], scale: float = 1.0, digits: int = 1) -> str:
    """Mean ± standard deviation of those that are known; "-" where none is."""
    known = [value * scale for value in values if value is not None]
    if not known:
        return "-"
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.{digits}f} ± {spread:.{digits}f}"


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write all rows aside, then rename: a crash leaves the file as it was."""
    text = json.dumps(rows, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
