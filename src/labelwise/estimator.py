"""The Python interface: `fit`, `resume`, `load_run`, and the `Result` they return."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labelwise.audit.report import write_report
from labelwise.config import RunConfig, Schedule, read_json
from labelwise.data.files import at_home, write_json
from labelwise.data.load import load
from labelwise.data.source import OnBadImage
from labelwise.errors import UserError
from labelwise.experiment import (
    IN_MEMORY,
    InMemory,
    Prepared,
    assemble,
    bind,
    heads_of,
    prepare,
    resolve,
)
from labelwise.methods import all_settings, parse_method
from labelwise.models.stored import StoredModel, read_model
from labelwise.outputs import describe, finish
from labelwise.pretraining import split_settings
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Interrupted
from labelwise.training.method import Method
from labelwise.training.progress import Silent

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Result:
    """A finished run, read from its folder.

    Args:
        path: the run folder.
    """

    path: Path

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One row per training sample: given and suggested label, quality, and so on."""
        return pd.read_parquet(RunFolder(self.path).labels)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's totals: accuracy, estimated noise rate, time, memory."""
        return read_json(RunFolder(self.path).summary)

    @cached_property
    def model(self) -> StoredModel:
        """The trained networks."""
        folder = RunFolder(self.path)
        config = read_config(folder)[0]
        try:
            heads = heads_of(config)
        except UserError:  # a method object of the caller's own: its extra heads cannot be known
            heads = None
        return read_model(folder.model, heads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.model.classes

    def predict_proba(self, data: Any, on_bad_image: OnBadImage = "error") -> np.ndarray:
        """Class probabilities (N, K) for images or embeddings in any form `fit` takes."""
        return self._predict(data, on_bad_image)[1]

    def predict(self, data: Any, on_bad_image: OnBadImage = "error") -> pd.DataFrame:
        """Predictions for new data.

        Args:
            data: arrays, a folder, a manifest, … ; labels are not needed. Images are brought to
                the size and colours the model was trained on.
            on_bad_image: "error" stops at unreadable images, "skip" leaves them out.

        Returns:
            One row per sample: `id`, `predicted_label`, `confidence`.
        """
        ids, probability = self._predict(data, on_bad_image)
        names = np.asarray(self.classes, dtype=object)
        return pd.DataFrame(
            {
                "id": ids,
                "predicted_label": names[probability.argmax(1)],
                "confidence": probability.max(1).round(6),
            }
        )

    def _predict(self, data: Any, on_bad_image: OnBadImage) -> tuple[np.ndarray, np.ndarray]:
        shape = self.model.shape
        images = len(shape) == 3
        given = tuple(getattr(data, "shape", ()))
        if images and given in (shape, (*shape[1:], shape[0])):
            raise UserError(f"{given} is a single image: pass a batch of one, images[None].")
        config = read_config(RunFolder(self.path))[0]
        loaded = load(
            data,
            image_size=shape[1] if images and shape[1] == shape[2] else config.image_size,
            on_bad_image=on_bad_image,
            require_labels=False,
            channels=shape[0] if images else None,
        ).data
        if loaded.shape != shape:
            raise UserError(
                f"the model takes inputs of shape {shape}, the data have {loaded.shape}."
            )
        return loaded.ids, self.model.predict_proba(loaded.inputs).numpy()

    def report(self) -> Path:
        """Write `report.html` again from the run folder and return its path."""
        return write_report(self.path)


def fit(
    data: Any,
    labels: Any = None,
    *,
    truth: Any = None,
    test: Any = None,
    method: str | Method = "dividemix",
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    listener: Silent | None = None,
    **options: Any,
) -> Result:
    """Train on doubtful labels; return the model, the suspect labels and the report.

    Args:
        data: "digits", a folder of class folders, a manifest, an .npz, or images and embeddings
            in memory: arrays or tensors (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D).
        labels: labels (N) of data in memory, of any type; class names are their text.
        truth: true labels (N) of data in memory, where they are known; methods never see them.
        test: a data source to test on, or a pair (inputs, labels) in memory.
        method: a name such as "dividemix", or a method object.
        out: the run folder; None makes one in the system's temporary folder.
        settings: method settings by name, such as ``{"lambda_u": 25}``.
        schedule: fields of `Schedule`, such as ``{"decay": "cosine"}``.
        epochs: epochs of the whole run; None scales with the data.
        batch_size: samples a step; None scales with the data.
        lr: learning rate.
        listener: shows progress; None is silent.
        options: other fields of `RunConfig`: seed, model, noise, limit, label_column, …

    Raises:
        UserError: anything the caller can mend; nothing is left half-written.
    """
    if isinstance(method, type):
        raise UserError(f"pass a method object, not the class: {method.__name__}().")
    in_memory = not isinstance(data, str | Path)
    own = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    own = {name: value for name, value in own.items() if value is not None}
    given = {**(schedule or {}), **own}
    Schedule.parse(given, "schedule")
    built = method if isinstance(method, Method) else None
    config = RunConfig.parse(
        {
            "data": IN_MEMORY if in_memory else place(data),
            "method": built.spec if built else method,
            "settings": all_settings(built) if built else dict(settings or {}),
            "schedule": given,
            "test": None if test is None else place(test),
            **options,
        },
        "the run",
    )
    if built is None:
        built = parse_method(config.method, split_settings(config.settings)[0])
    elif settings:
        raise UserError("give settings to the method object itself, not beside it.")
    if config.devices > 1 and out is None:
        raise UserError("several processes need one --out folder that all of them know.")
    target = None if out is None else RunFolder(at_home(out))
    if target is not None and first_process():
        target.require_free()  # before any data is read
    memory = InMemory(data, labels, truth, test) if in_memory else InMemory(None, test=test)
    prepared = prepare(config, memory)
    folder = target or RunFolder(Path(tempfile.mkdtemp(prefix="labelwise-")))
    return train_and_finish(config, prepared, folder, listener or Silent(), built)


def train_and_finish(
    config: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    listener: Silent,
    method: Method | None = None,
    command: str | None = None,
) -> Result:
    """Train on prepared data in a new run folder, audit the labels and write the report.

    Args:
        config: as parsed; what it leaves open is resolved.
        prepared: its data.
        folder: must be free.
        listener: shows progress.
        method: the method object; None builds the configuration's.
        command: the command line to name in the report, where it is not `labelwise fit`.
    """
    method = bind(config, prepared.train, method)
    config = resolve(config, prepared.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with _owned(folder, fabric, new=True):
        if fabric.is_global_zero:
            described = describe(config, prepared, method)
            if command is not None:
                described["command"] = command
            write_json(folder.config, described)
        return _run(config, prepared, method, folder, listener, fabric)


def resume(
    path: str | Path,
    data: Any = None,
    labels: Any = None,
    *,
    truth: Any = None,
    test: Any = None,
    method: Method | None = None,
    listener: Silent | None = None,
) -> Result:
    """Continue an interrupted run to its end; a finished one is only returned.

    Args:
        path: the run folder.
        data: the data again, if they were in memory.
        labels: their labels again.
        truth: their true labels again.
        test: the test data again.
        method: the method object again, where it is one of your own that discovery cannot find.
        listener: shows progress; None is silent.

    Raises:
        UserError: not a run folder, other data than before, or no whole checkpoint.
    """
    folder = RunFolder(Path(path))
    config, described = read_config(folder)
    if all(file.exists() for file in folder.outputs):
        return Result(folder.path)
    _require_resumable(folder)
    if config.data == IN_MEMORY and data is None:
        raise UserError("this run was given its data in memory: pass data and labels to resume.")
    if config.test == IN_MEMORY and test is None:
        raise UserError("this run was given its test data in memory: pass test to resume.")
    prepared = prepare(config, InMemory(data, labels, truth, test))
    hashes = {
        "labels": (prepared.train.label_hash(), "label_hash"),
        "inputs": (prepared.train.input_hash(), "input_hash"),
    }
    for name, (found, key) in hashes.items():
        if found != described.get(key):
            raise UserError(
                f"the {name} of {config.data} are not those the run started with. Restore them, "
                "or start a new run."
            )
    method = bind(config, prepared.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with _owned(folder, fabric, new=False):
        return _run(config, prepared, method, folder, listener or Silent(), fabric)


def _require_resumable(folder: RunFolder) -> None:
    """Raise a `UserError` for a folder that no training can go on from."""
    described = read_json(folder.config)
    command = str(described.get("command") or "")
    if "external" in described or command.startswith("labelwise diagnose"):
        kind = "an audit of given probabilities" if "external" in described else "a diagnosis"
        raise UserError(f"{folder.path} holds {kind}, which is not resumed: run it again.")
    if "pretrain" not in described["config"]:
        raise UserError(
            f"{folder.path} was begun by an older version, whose checkpoints lack what the audit "
            "needs: start it again in another --out."
        )


def read_config(folder: RunFolder) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run and the description of its data, from `config.json`.

    Raises:
        UserError: when the file is missing or damaged.
    """
    described = read_json(folder.config)
    for key in ("config", "data"):
        if not isinstance(described.get(key), dict):
            raise UserError(f"{folder.config} is damaged: its {key!r} is missing.")
    return RunConfig.parse(described["config"], "config.json"), described["data"]


def place(data: Any) -> str:
    """How `config.json` names data: a file by its whole path, so that any folder can resume."""
    if not isinstance(data, str | Path):
        return IN_MEMORY
    path = at_home(data)
    return str(path.resolve()) if str(data).strip() and path.exists() else str(data)


def load_run(path: str | Path) -> Result:
    """Open a finished run.

    Raises:
        UserError: when the folder holds no finished run.
    """
    folder = RunFolder(Path(path))
    read_config(folder)
    if not folder.summary.exists():
        raise UserError(f"the run in {path} is not finished: `labelwise resume {path}`.")
    return Result(folder.path)


def _run(
    config: RunConfig,
    prepared: Prepared,
    method: Method,
    folder: RunFolder,
    listener: Silent,
    fabric: Fabric,
) -> Result:
    trainer = assemble(config, prepared, method, folder, listener, fabric)
    trainer.resume()
    listener.start(trainer.method.num_epochs, trainer.position.epoch)
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
            write_report(folder.path)
        except KeyboardInterrupt:  # training is committed; only the audit has to be done again
            raise _stopped(Interrupted(), folder) from None
    fabric.barrier()
    return Result(folder.path)


def _stopped(asked: Interrupted, folder: RunFolder) -> Interrupted:
    """Tell the caller where to continue."""
    asked.path = folder.path
    asked.args = (f"stopped; continue with labelwise.resume({str(folder.path)!r})",)
    return asked


@contextmanager
def _owned(folder: RunFolder, fabric: Fabric, new: bool) -> Iterator[None]:
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


__all__ = ["Interrupted", "Result", "fit", "load_run", "resume"]
