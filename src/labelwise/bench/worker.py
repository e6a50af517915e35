"""One run in a process of its own: claim it, train or go on, append its row, tidy up."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelwise.bench.folder import BenchFolder
from labelwise.bench.plan import Task
from labelwise.bench.result import RESUMED, done_row, failed_row, note_resumption
from labelwise.bench.rows import latest
from labelwise.errors import UnusableFolder, UserError
from labelwise.training.progress import Silent

if TYPE_CHECKING:
    from labelwise.config import RunConfig
    from labelwise.experiment import Prepared
    from labelwise.running import Finish
    from labelwise.training.folder import RunFolder
    from labelwise.training.loop import Trainer

DONE, FAILED, TAKEN, STOPPED = 0, 4, 3, 130
"""Exit codes of a run's process."""
KEPT = ("config.json", "metrics.jsonl", "summary.json", RESUMED)
GRACE = 60.0
"""Seconds that a run has to commit when the bench has died."""


@dataclass(frozen=True)
class Orders:
    """How a run is to be done.

    Args:
        folder: the bench folder.
        threads: CPU threads.
        device: auto, cpu or cuda; a run that goes on stays on the device where it began.
        keep: whether the whole run folder stays, with model and report.
    """

    folder: Path
    threads: int
    device: str
    keep: bool


def work(task: Task, orders: Orders) -> None:
    """The main function of the process; its exit code says how it ended."""
    bench = BenchFolder(orders.folder)
    # Ctrl-C in the terminal reaches the bench alone, which asks its runs to stop one by one.
    os.setpgrp()
    _follow_parent()
    with bench.claimed(task.key) as mine:
        if not mine:
            sys.exit(TAKEN)
        if latest(bench.rows.read()[0]).get(task.key, {}).get("status") == "done":
            sys.exit(DONE)
        with _logged(bench.log(task)):
            code = _run(task, orders, bench)
        if code == DONE:
            bench.log(task).unlink(missing_ok=True)
    sys.exit(code)


def _run(task: Task, orders: Orders, bench: BenchFolder) -> int:
    from labelwise.training.loop import Interrupted

    path, began = bench.run(task), time.monotonic()
    try:
        trained = train(task, orders, path)
        row = done_row(task, path, time.monotonic() - began - trained)
    except (Interrupted, KeyboardInterrupt):
        return STOPPED
    except Exception as error:
        traceback.print_exc()
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        bench.rows.append(failed_row(task, words, time.monotonic() - began))
        return FAILED
    bench.rows.append(row)
    if not orders.keep:
        tidy(path)
    return DONE


def train(task: Task, orders: Orders, path: Path) -> float:
    """Train the run, or go on with what is there; return the seconds of training and waiting.

    Where nobody can go on with the run folder, the run starts again. It is kept where something
    else is amiss that may be mended: no memory or disk left, data that are not there.

    Raises:
        UserError: the run cannot be done now.
    """
    from labelwise.training.folder import RunFolder

    folder = RunFolder(path)
    if folder.summary.exists() and (not orders.keep or folder.report.exists()):
        return 0.0
    if folder.config.exists():
        try:
            return _proceed(task, orders, folder, resumed=True)
        except UnusableFolder as error:
            print(f"starting again: {error}", file=sys.stderr)
    if path.exists():
        shutil.rmtree(path)
    return _begin(task, orders, folder)


def _begin(task: Task, orders: Orders, folder: RunFolder) -> float:
    """Train from the beginning, or from the end of a pre-training that another run went through."""
    from labelwise.bench.share import begin_after, leave, stage_of
    from labelwise.config import RunConfig
    from labelwise.experiment import prepare
    from labelwise.running import start_run
    from labelwise.training.loop import Interrupted

    here = {"threads": orders.threads, "device": orders.device}
    config = RunConfig.parse({**task.config, **here}, f"the run {task.name}")
    config = config.model_copy(update=_places(task))
    _use_threads(orders.threads)
    prepared = prepare(config)
    stage = stage_of(config, prepared, BenchFolder(orders.folder).pretrained)
    if stage is None:
        clock = Clock()
        start_run(config, prepared, folder, clock, _finisher(orders.keep))
        return clock.seconds
    began = time.monotonic()
    with stage.held():
        waited = time.monotonic() - began  # for another run: no time of this one's
        if stage.path.exists():
            begin_after(stage, config, prepared, folder)
            seconds = 0.0
        else:
            clock = StageClock(stage.epochs)
            try:
                start_run(config, prepared, folder, clock, _finisher(orders.keep))
            except Interrupted:
                if not clock.reached:
                    raise
            leave(stage, folder, prepared)
            seconds = clock.seconds
    return waited + seconds + _proceed(task, orders, folder)


def _proceed(task: Task, orders: Orders, folder: RunFolder, resumed: bool = False) -> float:
    """Go on with a run; `resumed` where another process began it.

    Its data are read from where they are now; that they are the same is seen by their contents.
    """
    from labelwise.experiment import prepare
    from labelwise.running import continue_run, read_config

    config = read_config(folder)[0].model_copy(update={"threads": orders.threads})
    _use_threads(orders.threads)
    if resumed:
        _require_device(config.device, folder)
        note_resumption(folder.path, config.device)
    clock = Clock()
    prepared = prepare(config.model_copy(update=_places(task)))
    continue_run(config, prepared, folder, clock, _finisher(orders.keep))
    return clock.seconds


def _require_device(device: str, folder: RunFolder) -> None:
    """Raise a `UserError` where the device is not there on which a run began."""
    from labelwise.training.engine import resolve_device

    if device == "cuda" and resolve_device("auto") != device:
        raise UserError(
            f"the run began on {device}, and PyTorch sees none here. Go on with it where there is "
            f"one; to begin it anew here, delete {folder.path} first."
        )


def _places(task: Task) -> dict[str, str | None]:
    """Where the data of a run are."""
    from labelwise.running import place

    test = task.config.get("test")
    return {"data": place(task.config["data"]), "test": None if test is None else place(test)}


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


class Clock(Silent):
    """Measures how long training takes; what is around it is the rest of a run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = time.monotonic()

    def start(self, epochs: int, done: int, stages: Sequence[tuple[str, int]] = ()) -> None:
        """Training begins."""
        self._began = time.monotonic()

    def close(self) -> None:
        """Training has ended."""
        self.seconds = time.monotonic() - self._began


class StageClock(Clock):
    """Asks a run to stop where a stage ends, as Ctrl-C does: it commits at that very moment.

    Args:
        epochs: of the stage.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.reached = False

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Ask at the end of the last epoch."""
        if row["epoch"] == self.epochs:
            self.reached = True
            signal.raise_signal(signal.SIGTERM)


def _finisher(keep: bool) -> Finish:
    from labelwise.audit.report import write_report
    from labelwise.outputs import finish

    def end(trainer: Trainer, prepared: Prepared, config: RunConfig, folder: RunFolder) -> None:
        finish(trainer, prepared, config, folder)
        if keep:  # otherwise it would be deleted at once
            write_report(folder.path)

    return end


def tidy(path: Path) -> None:
    """Delete what only a run that is kept needs: weights, checkpoint, labels, evidence."""
    for item in path.iterdir():
        if item.name in KEPT:
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send what the run writes, and where it crashes, to a file.

    Raises:
        UserError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        faulthandler.enable(file)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            faulthandler.disable()


def _follow_parent() -> None:
    """End with the bench, however it ends: commit, or be gone after a while.

    The process that forked this one is the fork server, which outlives a bench that is killed.
    """
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(STOPPED)

    threading.Thread(target=follow, name="follow the bench", daemon=True).start()
