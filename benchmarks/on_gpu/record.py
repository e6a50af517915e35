"""The rows of a run on a GPU: appended one by one, never written twice, read to go on."""

from __future__ import annotations

import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

POISONED = ("device-side assert", "illegal memory access", "unspecified launch failure")
"""After such an error nothing more can be run in the same process."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    Args:
        out: folder of the rows and the page.
        device: "cuda" or "cpu".
        data: training manifest; None for random images.
        test: test manifest.
        minutes: for all parts together.
        tiny: a rehearsal: tiny images and networks, as few rounds as possible.
        seeds: of the suite, as typed.
        suite_options: further options of `labelwise bench`.
        run: name of this run; what was tried in it is not tried again.
        commit: of the copy, where it has no `.git`.
    """

    out: Path
    device: str = "cuda"
    data: Path | None = None
    test: Path | None = None
    minutes: float = 60.0
    tiny: bool = False
    seeds: str | None = None
    suite_options: str = ""
    run: str = ""
    commit: str | None = None

    @property
    def rows(self) -> Path:
        """The rows."""
        return self.out / ("tiny.jsonl" if self.tiny else "gpu.jsonl")

    @property
    def page(self) -> Path:
        """The page for people."""
        return self.rows.with_suffix(".md")


@dataclass(frozen=True)
class Item:
    """A thing to do.

    Args:
        name: unique within its part.
        run: does it in about so many seconds, and returns what came of it.
        weight: its share of the part's time.
        again: whether it goes on where an earlier run has stopped, and is never done for good.
    """

    name: str
    run: Callable[[float], dict[str, Any]]
    weight: float = 1.0
    again: bool = False


class Failed(Exception):
    """A check that did not hold.

    Attributes:
        result: the figures.
    """

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows; a last one that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row, whole and on disk, behind whatever a crash has left."""
    text = json.dumps(row) + "\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def environment(settings: Settings) -> dict[str, Any]:
    """What a row holds for: device, versions, commit."""
    from labelwise import outputs

    found = {
        **outputs.hardware(settings.device),
        "versions": outputs.versions(),
        "cuda": torch.version.cuda,
        "commit": settings.commit or outputs.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": settings.run,
    }
    if settings.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu_memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": driver(),
        }
    return found


def driver() -> str | None:
    """Version of the NVIDIA driver, if it can be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = asked.stdout.split("\n")
    return lines[0].strip() or None


def is_over(rows: Sequence[dict[str, Any]], part: str, item: Item, run: str) -> bool:
    """Whether an item is done, or was tried in this run."""
    own = [row for row in rows if (row["part"], row["item"]) == (part, item.name)]
    done = any(row["status"] == "done" for row in own) and not item.again
    return done or any(row["run"] == run for row in own)


def run_items(settings: Settings, part: str, items: Sequence[Item], seconds: float) -> bool:
    """Do what is left of a part within some time; return whether the device can still be used."""
    rows = read_rows(settings.rows)
    left = [item for item in items if not is_over(rows, part, item, settings.run)]
    about, end = environment(settings), time.monotonic() + seconds
    for place, item in enumerate(left):
        start = time.monotonic()
        row: dict[str, Any] = {"part": part, "item": item.name}
        usable = True
        if start >= end:
            row |= {"status": "skipped", "error": "no time was left"}
        else:
            own = item.weight / sum(later.weight for later in left[place:])
            outcome, usable = attempt(item, (end - start) * own)
            row |= outcome
        row |= {"seconds": round(time.monotonic() - start, 3), **about}
        append_row(settings.rows, row)
        print(f"{part} {item.name}: {row['status']}, {row['seconds']:.1f} s", flush=True)
        if not usable:
            return False
    return True


def attempt(item: Item, seconds: float) -> tuple[dict[str, Any], bool]:
    """Do one item; what came of it, and whether the device can still be used."""
    try:
        return {"status": "done", "result": item.run(seconds)}, True
    except Exception as error:
        outcome: dict[str, Any] = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
        if isinstance(error, Failed):
            outcome["result"] = error.result
        release()
        return outcome, not any(words in str(error) for words in POISONED)


def release() -> None:
    """Give freed device memory back."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError:
            return
