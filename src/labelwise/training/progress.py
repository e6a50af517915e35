"""What the user sees while a run goes on: a live bar on a terminal, silence elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from labelwise.training.figures import SHORT


class Silent:
    """A listener that shows nothing."""

    def say(self, message: str) -> None:
        """Tell the user something once."""

    def start(self, epochs: int, done: int, stages: Sequence[tuple[str, int]] = ()) -> None:
        """Called before the first epoch.

        Args:
            epochs: of the whole run, pre-training included.
            done: how many are over, in a run that is resumed.
            stages: name and epochs of every stage in order; empty where there is only one.
        """

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        """Called before every step."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Called with every finished epoch's figures."""

    def close(self) -> None:
        """Called when training ends, however it ends."""


class Terminal(Silent):
    """A progress bar over epochs with phase, throughput and time left, on standard error.

    Args:
        title: what is being trained.
    """

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("[dim]{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self.title = title
        self._shown = 0.0
        self._epochs = 1
        self._images = 0
        self._since = time.monotonic()
        self._rate = ""
        self._stages: list[tuple[int, str]] = []
        self._measured = ""

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        self.console.print(f"  {message}", highlight=False)

    def start(self, epochs: int, done: int, stages: Sequence[tuple[str, int]] = ()) -> None:
        """Show the bar."""
        self._epochs = epochs
        ends = itertools.accumulate(length for _, length in stages)
        self._stages = [(end, name) for end, (name, _) in zip(ends, stages, strict=True)]
        self.task = self.progress.add_task(
            self.title, total=epochs, completed=done, epoch=f"{done + 1}/{epochs}", detail=""
        )
        self.progress.start()

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        """Move the bar, at most five times a second."""
        now = time.monotonic()
        if now - self._shown > 0.2:
            self._shown = now
            detail = f"{self._stage(epoch)}{name} {step}/{steps}{self._rate}{self._measured}"
            self.progress.update(self.task, epoch=f"{epoch + 1}/{self._epochs}", detail=detail)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Take the throughput from the finished epoch."""
        now = time.monotonic()
        images = int(row["images"])
        speed = (images - self._images) / max(now - self._since, 1e-9)
        self._rate = f", {speed:,.0f} samples/s"
        found = [f", {short} {row[key]:.1%}" for key, short in SHORT.items() if key in row]
        # Features are not measured in every epoch; the last figure stands until its stage ends.
        ended = any(end == row["epoch"] for end, _ in self._stages)
        self._measured = "" if ended else "".join(found) or self._measured
        self._images, self._since = images, now
        self.progress.update(self.task, completed=row["epoch"])

    def _stage(self, epoch: int) -> str:
        """The stage of an epoch (0-based), to stand before the phase; "" where there is one."""
        return next((f"{name}: " for end, name in self._stages if epoch < end), "")

    def close(self) -> None:
        """Take the bar away."""
        self.progress.stop()
