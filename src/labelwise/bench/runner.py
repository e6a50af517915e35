"""Run tasks, several at a time, each in a process of its own; a crash loses one run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any

from labelwise.bench.folder import BenchFolder
from labelwise.bench.outlook import Outlook
from labelwise.bench.plan import Task
from labelwise.bench.result import failed_row
from labelwise.bench.rows import Row, latest
from labelwise.bench.worker import DONE, FAILED, STOPPED, TAKEN, Orders, work
from labelwise.errors import UserError

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Libraries that start threads of their own take their number from these."""


@dataclass(frozen=True)
class How:
    """How runs are done.

    Args:
        workers: runs at a time.
        threads: CPU threads of each.
        device: auto, cpu or cuda.
        keep: whether run folders stay whole.
        minutes: no run is started that is not expected to end within so many; None: no limit.
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


@dataclass
class Outcome:
    """What became of the tasks.

    Args:
        done: rows of runs that finished now.
        failed: rows of runs that failed now.
        elsewhere: tasks that another process does.
        left: tasks that were not done.
        interrupted: whether the user stopped it.
    """

    done: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    elsewhere: list[Task] = field(default_factory=list)
    left: list[Task] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Running:
    """A run that goes on: its process, and when it began."""

    task: Task
    process: Any
    began: float


class Runner:
    """Starts runs, waits for them, and takes note of how they end.

    Args:
        bench: the folder.
        tasks: the runs to do, in order.
        how: how they are done.
        outlook: how long they are going to take.
        tell: called with every row that comes, and what is known of the rest.
        work: the main function of a run's process.
    """

    def __init__(
        self,
        bench: BenchFolder,
        tasks: Sequence[Task],
        how: How,
        outlook: Outlook,
        tell: Callable[[Row, Runner], object] = lambda row, runner: None,
        work: Callable[[Task, Orders], None] = work,
    ) -> None:
        self.bench, self.how, self.outlook, self.tell = bench, how, outlook, tell
        self.work = work
        self.waiting = list(tasks)
        self.num_tasks = len(self.waiting)
        self.running: dict[int, Running] = {}
        self.outcome = Outcome()
        self.began = time.monotonic()
        self.context = context_for(how.device)

    def run(self) -> Outcome:
        """Do all that there is time for; Ctrl-C or SIGTERM stops it, so that it can go on."""
        with stop_signals() as stopped:
            try:
                self._run(stopped)
            except BaseException:  # such as a full disk: no run may outlive the bench
                self._stop(times=1)
                raise
        self.outcome.left += self.waiting
        if not (self.outcome.left or self.outcome.elsewhere):
            shutil.rmtree(self.bench.pretrained, ignore_errors=True)  # nobody begins with it
        return self.outcome

    def _run(self, stopped: StopSignals) -> None:
        while True:
            while not self.outcome.interrupted and len(self.running) < self.how.workers:
                if not self._start_one():
                    break
            if not self.running:
                return
            for ready in connection.wait([*self.running, stopped.fileno()]):
                if ready == stopped.fileno():
                    self._stop(stopped.times())
                else:
                    self._end(self.running.pop(ready))  # type: ignore[arg-type]

    def seconds_left(self) -> float | None:
        """Expected seconds until the last run ends; None where it is not known."""
        tasks = [*self.waiting, *(run.task for run in self.running.values())]
        return self.outlook.left(tasks, self.how.workers)

    def _start_one(self) -> bool:
        """Start the next run that there is time for; False where there is none."""
        for number, task in enumerate(self.waiting):
            if self._fits(task):
                del self.waiting[number]
                self._start(task)
                return True
        return False

    def _fits(self, task: Task) -> bool:
        if self.how.minutes is None:
            return True
        rest = 60 * self.how.minutes - (time.monotonic() - self.began)
        expected = self.outlook.seconds(task)
        return rest > 0 and (expected is None or expected <= rest)

    def _start(self, task: Task) -> None:
        how = self.how
        orders = Orders(self.bench.path, how.threads, how.device, how.keep)
        process = self.context.Process(target=self.work, args=(task, orders), name=task.name)  # type: ignore[attr-defined]
        with environment(how.threads):
            process.start()
        self.running[process.sentinel] = Running(task, process, time.monotonic())

    def _end(self, run: Running) -> None:
        """Take note of how a run ended."""
        run.process.join()
        code = run.process.exitcode
        run.process.close()
        row = latest(self.bench.rows.read()[0]).get(run.task.key)
        seconds = time.monotonic() - run.began
        if code == TAKEN:
            self.outcome.elsewhere.append(run.task)
            return
        if code == STOPPED or (self.outcome.interrupted and code not in (DONE, FAILED)):
            self.outcome.left.append(run.task)
            return
        if code not in (DONE, FAILED) or row is None:
            row = failed_row(run.task, self._reason(run.task, code), seconds)
            self.bench.rows.append(row)
        if row["status"] == "done":
            self.outlook.add(row)
            self.outcome.done.append(row)
        else:
            self.outcome.failed.append(row)
        self.tell(row, self)

    def _reason(self, task: Task, code: int | None) -> str:
        """Why a process ended that could not say so itself."""
        words = f"the process ended with status {code}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            words = f"the process was killed by {name}"
            if -code == signal.SIGKILL:
                words += ", as the system does when memory runs out"
        log = self.bench.log(task)
        tail = log.read_text(errors="replace").strip()[-400:] if log.exists() else ""
        return f"{words}: {tail}" if tail else words

    def _stop(self, times: int) -> None:
        """Ask the runs to commit and end; the second time, end them at once."""
        self.outcome.interrupted = True
        for run in self.running.values():
            if times > 1:
                run.process.kill()
            else:
                run.process.terminate()


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
