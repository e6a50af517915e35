"""What every run goes through: its folder, the engine, training that can be stopped, the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig, read_json
from labelwise.data.files import at_home, write_json
from labelwise.errors import UnusableFolder, UserError
from labelwise.experiment import IN_MEMORY, Prepared, assemble
from labelwise.outputs import describe
from labelwise.pretraining import is_pretraining
from labelwise.pretraining.start import start_hash
from labelwise.training.chain import Chain
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method
from labelwise.training.progress import Silent

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Finish = Callable[[Trainer, Prepared, RunConfig, RunFolder], object]
"""What is done once training has ended: writes everything that the run leaves behind."""


def start_run(
    config: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    listener: Silent,
    finish: Finish,
    method: Method | None = None,
    command: str | None = None,
) -> None:
    """Train on prepared data in a new run folder, and finish.

    Args:
        config: as parsed; what it leaves open is resolved.
        prepared: its data.
        folder: must be free.
        listener: shows progress.
        finish: called by the first process once training has ended.
        method: the method object; None builds the configuration's.
        command: the command line that repeats the run, where it is not `labelwise fit`.
    """
    method = bind(config, prepared.train, method)
    config = resolve(config, prepared.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with owned(folder, fabric, new=True):
        if fabric.is_global_zero:
            described = describe(config, prepared, method)
            if command is not None:
                described["command"] = command
            write_json(folder.config, described)
        _train(config, prepared, method, folder, listener, fabric, finish)


def continue_run(
    config: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    listener: Silent,
    finish: Finish,
    method: Method | None = None,
) -> None:
    """Take a run up where it was last committed, to its end.

    Args:
        config: as resolved when the run began.
        prepared: its data.
        folder: where it began.
        listener: shows progress.
        finish: called by the first process once training has ended.
        method: the method object; None builds the configuration's.

    Raises:
        UnusableFolder: other data or other initial weights than the run began with.
    """
    described = read_json(folder.config)
    _require_same(config, prepared, folder, described)
    # What was said when the run began holds to its end.
    train = replace(prepared.train, notes=tuple(described["data"].get("notes", ())))
    prepared = replace(prepared, train=train)
    method = bind(config, prepared.train, method, resolved=True)
    fabric = launch(config.device, config.devices, config.precision)
    with owned(folder, fabric, new=False):
        _train(config, prepared, method, folder, listener, fabric, finish)


def _require_same(
    config: RunConfig, prepared: Prepared, folder: RunFolder, described: Mapping[str, Any]
) -> None:
    """Raise an `UnusableFolder` for data or initial weights other than those it began with."""
    found = {"labels": prepared.train.label_hash(), "inputs": prepared.train.input_hash()}
    for name, hashed in found.items():
        if hashed != described["data"].get(f"{name[:-1]}_hash"):
            raise UnusableFolder(
                f"the {name} of {config.data} are not those the run started with. Restore them, "
                "or start a new run."
            )
    begun = any(folder.checkpoint.glob("*.pt"))  # the weights that --init gave are in there
    if (
        config.init is not None
        and not begun
        and start_hash(config.init) != described.get("init_hash")
    ):
        raise UnusableFolder(
            f"--init {config.init}: its weights are not those the run started with. Restore them, "
            "or start a new run."
        )


def _train(
    config: RunConfig,
    prepared: Prepared,
    method: Method,
    folder: RunFolder,
    listener: Silent,
    fabric: Fabric,
    finish: Finish,
) -> None:
    trainer = assemble(config, prepared, method, folder, listener, fabric)
    trainer.resume()
    parts = method.parts if isinstance(method, Chain) else ()
    stages = tuple((part.spec, part.schedule.epochs) for part in parts)
    listener.start(trainer.method.num_epochs, trainer.position.epoch, stages)
    try:
        with stopping() as stop:
            trainer.should_stop = stop.is_set
            trainer.train()
    except Interrupted as stop_asked:
        raise _stopped(stop_asked, folder) from None
    finally:
        listener.close()
    if fabric.is_global_zero:
        try:
            finish(trainer, prepared, config, folder)
        except KeyboardInterrupt:  # training is committed; only the end has to be done again
            raise _stopped(Interrupted(), folder) from None
    fabric.barrier()


def _stopped(asked: Interrupted, folder: RunFolder) -> Interrupted:
    """Tell the caller where to continue."""
    asked.path = folder.path
    asked.args = (f"stopped; continue with labelwise.resume({str(folder.path)!r})",)
    return asked


@contextmanager
def owned(folder: RunFolder, fabric: Fabric, new: bool) -> Iterator[None]:
    """Hold the run folder; only the first of several processes makes and locks it.

    A new folder in which nothing was committed when an error ends the run is taken away.
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    had = [path for path in (folder.path, folder.path.parent) if path.exists()]
    if new:
        folder.create()
    with folder.locked():
        fabric.barrier()
        try:
            yield
        except UserError:
            if new:
                _remove_if_empty(folder, keep=had)
            raise


def _remove_if_empty(folder: RunFolder, keep: list[Path]) -> None:
    """Take away a run folder in which nothing was committed, and the parent made for it.

    Args:
        folder: the run folder.
        keep: folders that were there before the run.
    """
    if folder.checkpoint.exists() or folder.metrics.exists():
        return
    with suppress(OSError):  # the error that ended the run matters, not this one
        folder.config.unlink(missing_ok=True)
        for path in (folder.path, folder.path.parent):
            if path not in keep and not any(path.iterdir()):
                path.rmdir()


def first_process() -> bool:
    """Whether this is the process that the user started, not one launched beside it."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current step.

    A second Ctrl-C stops at once. Outside the main thread signals are left alone.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: object) -> None:
        del number, frame
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def place(data: Any) -> str:
    """How `config.json` names data: a file by its whole path, so that any folder can resume.

    Raises:
        UserError: for the folder of a pre-training, which is often meant to be started from.
    """
    if not isinstance(data, str | Path):
        return IN_MEMORY
    path = at_home(data)
    inside = path.parent.is_file()  # of an archive, such as cifar-10-python.tar.gz/test_batch
    if not str(data).strip() or not (path.exists() or inside):
        return str(data)
    if (path / "config.json").is_file():
        _refuse_pretraining(path)
    return str(path.resolve())


def _refuse_pretraining(path: Path) -> None:
    try:
        method = str(read_json(path / "config.json")["config"]["method"])
    except (UserError, KeyError, TypeError):
        return  # some other file of that name
    if is_pretraining(method):
        raise UserError(
            f"{path} is no data: it is the folder of a pre-training ({method}). To start from its "
            f"networks: `labelwise fit DATA --init {path}`."
        )


def read_config(folder: RunFolder) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run and the description of its data, from `config.json`.

    Raises:
        UserError: when the file cannot be read.
        UnusableFolder: when it is missing or damaged, or another version wrote it.
    """
    try:
        described = read_json(folder.config)
        for key in ("config", "data"):
            if not isinstance(described.get(key), dict):
                raise UserError(f"{folder.config} is damaged: its {key!r} is missing.")
        return RunConfig.parse(described["config"], "config.json"), described["data"]
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # the file itself may be whole
            raise
        raise UnusableFolder(str(error)) from error
