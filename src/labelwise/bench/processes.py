"""What the processes of runs are made with: their start, their environment, their stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Libraries that start threads of their own take their number from these."""


def context_for(device: str) -> BaseContext:
    """How processes are started: forked from one that has imported everything, where that is safe.

    CUDA does not survive a fork; its runs are started anew.
    """
    if device == "cuda":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["labelwise.bench.preload"])
    return context


@contextmanager
def environment(threads: int) -> Iterator[None]:
    """The variables that new processes take the number of threads from.

    Idle threads sleep rather than spin: beside other runs, spinning makes every step slower.
    """
    wanted = {**{name: str(threads) for name in POOLS}, "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class StopSignals:
    """Ctrl-C and SIGTERM as something that can be waited for."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._count = 0

    def fileno(self) -> int:
        """Readable once a signal came."""
        return self._read

    def take(self, number: int, frame: object) -> None:
        """The handler."""
        del number, frame
        os.write(self._write, b"x")

    def times(self) -> int:
        """How many signals came so far."""
        self._count += len(os.read(self._read, 64))
        return self._count

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take Ctrl-C and SIGTERM in; outside the main thread they are left alone."""
    stopped = StopSignals()
    old: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, stopped.take)
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        stopped.close()
