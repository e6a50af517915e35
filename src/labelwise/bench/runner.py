"""Run tasks, several at a time, each in a process of its own; a crash loses one run."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from labelwise.bench.folder import BenchFolder
from labelwise.bench.how import How
from labelwise.bench.outlook import Outlook
from labelwise.bench.plan import Task
from labelwise.bench.processes import StopSignals, context_for, environment, stop_signals
from labelwise.bench.result import failed_row
from labelwise.bench.rows import Row, latest
from labelwise.bench.worker import DONE, FAILED, STOPPED, TAKEN, Orders, work


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
        with self.bench.at_work() as is_alone, stop_signals() as stopped:
            try:
                self._run(stopped)
            except BaseException:  # such as a full disk: no run may outlive the bench
                self._stop(times=1)
                raise
            self.outcome.left += self.waiting
            if not (self.outcome.left or self.outcome.elsewhere) and is_alone():
                # Nobody begins with it any more.
                shutil.rmtree(self.bench.pretrained, ignore_errors=True)
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
        # A run whose row says that it is done is done, however its process came to its end.
        ended = code in (DONE, FAILED) or (row or {}).get("status") == "done"
        if not ended and (code == STOPPED or self.outcome.interrupted):
            self.outcome.left.append(run.task)
            return
        if row is None or not ended:
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
