"""The Python interface: `fit`, `resume`, `load_run`, and the `Result` they return."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labelwise.audit.report import write_report
from labelwise.config import RunConfig, Schedule, read_json
from labelwise.data.files import write_json
from labelwise.data.load import load
from labelwise.errors import UserError
from labelwise.experiment import Prepared, assemble, bind, prepare, resolve
from labelwise.methods import all_settings, parse_method
from labelwise.models.stored import StoredModel, read_model
from labelwise.outputs import describe, finish
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
        config = RunConfig.parse(read_json(folder.config)["config"], "config.json")
        try:
            heads = parse_method(config.method, config.settings).heads
        except UserError:  # a method object of the caller's own: its extra heads cannot be known
            heads = None
        return read_model(folder.model, heads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.model.classes

    def predict_proba(self, data: Any) -> np.ndarray:
        """Class probabilities (N, K) for images or embeddings in any form `fit` takes."""
        return self._predict(data)[1]

    def predict(self, data: Any) -> pd.DataFrame:
        """Predictions for new data.

        Args:
            data: arrays, a folder, a manifest, … ; labels are not needed.

        Returns:
            One row per sample: `id`, `predicted_label`, `confidence`.
        """
        ids, probability = self._predict(data)
        names = np.asarray(self.classes, dtype=object)
        return pd.DataFrame(
            {
                "id": ids,
                "predicted_label": names[probability.argmax(1)],
                "confidence": probability.max(1).round(6),
            }
        )

    def _predict(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = self.model.shape
        images = len(shape) == 3
        config = read_json(RunFolder(self.path).config)["config"]
        loaded = load(
            data,
            image_size=shape[1] if images and shape[1] == shape[2] else config["image_size"],
            on_bad_image=config["on_bad_image"],
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
        labels: labels (N) of data in memory, of any type.
        method: a name such as "dividemix", or a method object.
        out: the run folder; None makes one in the system's temporary folder.
        settings: method settings by name, such as ``{"lambda_u": 25}``.
        schedule: fields of `Schedule`, such as ``{"decay": "cosine"}``.
        epochs: epochs of the whole run; None scales with the data.
        batch_size: samples a step; None scales with the data.
        lr: learning rate.
        listener: shows progress; None is silent.
        options: other fields of `RunConfig`: seed, model, noise, test, limit, label_column, …

    Raises:
        UserError: anything the caller can mend; nothing is left half-written.
    """
    in_memory = not isinstance(data, str | Path)
    fields = {"epochs": epochs, "batch_size": batch_size, "lr": lr, **(schedule or {})}
    given = {name: value for name, value in fields.items() if value is not None}
    Schedule.parse(given, "schedule")
    built = method if isinstance(method, Method) else None
    config = RunConfig.parse(
        {
            "data": "(in memory)" if in_memory else str(data),
            "method": built.spec if built else method,
            "settings": all_settings(built) if built else dict(settings or {}),
            "schedule": given,
            **options,
        },
        "the run",
    )
    if built is None:
        built = parse_method(config.method, config.settings)
    elif settings:
        raise UserError("give settings to the method object itself, not beside it.")
    if config.devices > 1 and out is None:
        raise UserError("several processes need one --out folder that all of them know.")
    target = None if out is None else RunFolder(Path(out))
    if target is not None and first_process():
        target.require_free()  # before any data is read
    prepared = prepare(config, data if in_memory else None, labels)
    built = bind(config, prepared.train, built)
    config = resolve(config, prepared.train, built)
    folder = target or RunFolder(Path(tempfile.mkdtemp(prefix="labelwise-")))
    fabric = launch(config.device, config.devices, config.precision)
    with _owned(folder, fabric, new=True):
        if fabric.is_global_zero:
            write_json(folder.config, describe(config, prepared, built))
        return _run(config, prepared, built, folder, listener or Silent(), fabric)


def resume(
    path: str | Path, data: Any = None, labels: Any = None, *, listener: Silent | None = None
) -> Result:
    """Continue an interrupted run to its end; a finished one is only returned.

    Args:
        path: the run folder.
        data: the data again, if they were in memory.
        labels: their labels again.
        listener: shows progress; None is silent.

    Raises:
        UserError: not a run folder, other data than before, or no whole checkpoint.
    """
    folder = RunFolder(Path(path))
    described = read_json(folder.config)
    config = RunConfig.parse(described["config"], "config.json")
    if config.data == "(in memory)" and data is None:
        raise UserError("this run was given its data in memory: pass data and labels to resume.")
    prepared = prepare(config, data, labels)
    if prepared.train.label_hash() != described["data"]["label_hash"]:
        raise UserError(
            f"the labels of {config.data} are not those the run started with. Restore them, or "
            "start a new run."
        )
    method = bind(config, prepared.train)
    fabric = launch(config.device, config.devices, config.precision)
    with _owned(folder, fabric, new=False):
        return _run(config, prepared, method, folder, listener or Silent(), fabric)


def load_run(path: str | Path) -> Result:
    """Open a finished run.

    Raises:
        UserError: when the folder holds no finished run.
    """
    folder = RunFolder(Path(path))
    read_json(folder.config)
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
    listener.start(trainer.schedule.epochs, trainer.position.epoch)
    try:
        with stopping() as stop:
            trainer.should_stop = stop.is_set
            trainer.train()
    finally:
        listener.close()
    if fabric.is_global_zero:
        finish(trainer, prepared, config, folder)
        write_report(folder.path)
    fabric.barrier()
    return Result(folder.path)


@contextmanager
def _owned(folder: RunFolder, fabric: Fabric, new: bool) -> Iterator[None]:
    """Hold the run folder; only the first of several processes makes and locks it.

    A new folder in which nothing was committed when an error ends the run is taken away.
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    if new:
        folder.create()
    with folder.locked():
        fabric.barrier()
        try:
            yield
        except UserError:
            if new:
                _remove_if_empty(folder)
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


def _remove_if_empty(folder: RunFolder) -> None:
    """Take away a run folder in which nothing was committed."""
    if folder.checkpoint.exists() or folder.metrics.exists():
        return
    folder.config.unlink(missing_ok=True)
    if folder.path.exists() and not any(folder.path.iterdir()):
        folder.path.rmdir()


__all__ = ["Interrupted", "Result", "fit", "load_run", "resume"]
