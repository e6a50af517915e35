"""How runs are done: how many at a time, on what, with how many threads."""

from __future__ import annotations

import os
from dataclasses import dataclass

from labelwise.errors import UserError


@dataclass(frozen=True)
class How:
    """How runs are done.

    Args:
        workers: runs at a time.
        threads: CPU threads of each.
        device: auto, cpu or cuda.
        keep: whether run folders stay whole.
        minutes: no run is started later, nor one that is expected to end later; one of which
            nothing is known is started. None: no limit.
    """

    workers: int
    threads: int
    device: str
    keep: bool = False
    minutes: float | None = None

    @classmethod
    def chosen(
        cls,
        workers: int | None,
        threads: int | None,
        device: str,
        minutes: float | None,
        keep: bool = False,
    ) -> How:
        """What the user left open, by what there is: every core in use, one run at a time on a GPU.

        Raises:
            UserError: a number that means nothing, or a device that is not there.
        """
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: at least 1.")
        if minutes is not None and not minutes > 0:
            raise UserError(f"--minutes {minutes}: give a time above 0.")
        from labelwise.training.engine import resolve_device

        device = resolve_device(device)
        threads = threads or (1 if device == "cpu" else num_cores())
        workers = workers or (default_workers(threads) if device == "cpu" else 1)
        return cls(workers, threads, device, keep, minutes)


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(threads: int) -> int:
    """Runs at a time that fill the cores."""
    return max(1, num_cores() // threads)
