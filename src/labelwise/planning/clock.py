"""What is left of a budget, and what the end of a run takes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from labelwise.planning.speed import Speed

AIM = 0.88
"""Part of the budget that is planned: a machine a tenth slower still ends in time."""
OUTSIDE = 3.0
"""Seconds before and after the run proper: the interpreter, its imports, the last files."""
TRIAL = 0.03
"""Part of the budget that the trials of one method may take, or two batches where that is more."""
AUDIT = (1.0, 1.3e-3)
"""Seconds of the closing audit and report without its passes: at least, and per sample."""
PASSES = 6
"""Passes over all samples in the closing audit: plain, augmented, and of the references."""


@dataclass
class Clock:
    """The time of a run with a budget.

    Args:
        minutes: the budget.
        start: when the command began (`time.monotonic`).
        wait: elapsed over computing time in the trials: how much others slow this process down.
    """

    minutes: float
    start: float
    wait: float = 1.0

    @property
    def spent(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds that are still planned."""
        return AIM * 60 * self.minutes - OUTSIDE * self.wait - self.spent

    @property
    def trial(self) -> float:
        """Seconds that the trials of one method may take."""
        return TRIAL * 60 * self.minutes

    def needed(self, seconds: float) -> float:
        """Minutes of the least budget that has so many seconds left now."""
        return (seconds + OUTSIDE * self.wait + self.spent) / AIM / 60

    def closing(self, num_samples: int, speed: Speed) -> float:
        """Seconds that the audit and the report take after training."""
        audit = AUDIT[0] + num_samples * AUDIT[1]
        return self.wait * audit + PASSES * (speed.observe or speed.epoch / 4)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See how much others slow this process down while something is computed."""
        began, computed = time.monotonic(), time.process_time()
        yield
        elapsed = time.monotonic() - began
        self.wait = max(1.0, elapsed / max(0.2, time.process_time() - computed))
