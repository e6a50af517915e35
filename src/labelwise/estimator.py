"""The Python interface: `fit`, `resume` and `load_run`, which return a `Result`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from labelwise.audit.report import write_report
from labelwise.binding import build_method
from labelwise.config import RunConfig, Schedule, read_json
from labelwise.data.files import at_home
from labelwise.errors import UserError
from labelwise.experiment import IN_MEMORY, InMemory, Prepared, prepare
from labelwise.methods import all_settings
from labelwise.outputs import finish
from labelwise.planning.asked import require_budget
from labelwise.planning.budget import plan_within
from labelwise.pretrained import (
    load_pretrained,
    resume_pretraining,
    seen_before,
    starting_point,
)
from labelwise.pretraining import is_pretraining, parse_names, split_settings
from labelwise.result import Result
from labelwise.running import continue_run, first_process, place, read_config, start_run
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method
from labelwise.training.progress import Silent


def fit(
    data: Any,
    labels: Any = None,
    *,
    truth: Any = None,
    test: Any = None,
    method: str | Method | None = None,
    budget: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    listener: Silent | None = None,
    pretrain: str | None = None,
    init: str | Path | Result | None = None,
    **options: Any,
) -> Result:
    """Train on doubtful labels; return the model, the suspect labels and the report.

    Args:
        data: "digits", a folder of class folders, a manifest, an .npz, or images and embeddings
            in memory: arrays or tensors (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D).
        labels: labels (N) of data in memory, of any type; class names are their text.
        truth: true labels (N) of data in memory, where they are known; methods never see them.
        test: a data source to test on, or a pair (inputs, labels) in memory.
        method: a name such as "dividemix", or a method object; None takes DivideMix, or what the
            budget allows.
        budget: minutes in which to end, reading the data and the audit included. What is not
            given (method, epochs, batch size, learning rate) is then planned by short trials,
            and written to `config.json`.
        out: the run folder; None makes one in the system's temporary folder.
        settings: method settings by name, such as ``{"lambda_u": 25}``; those of the pre-training
            have its name in front, such as ``{"simclr.epochs": 100}``.
        schedule: fields of `Schedule`, such as ``{"decay": "cosine"}``.
        epochs: epochs of the method, warm-up included; None scales with the data.
        batch_size: samples a step; None scales with the data.
        lr: learning rate.
        listener: shows progress; None is silent.
        pretrain: pre-training without labels that runs first: "simclr", "moco", "simclr+scan", …
            or "none"; None takes what the method wants.
        init: folder of a finished `pretrain` or `fit` whose networks are started from. What they
            have been through is not repeated, unless `pretrain` asks for it.
        options: other fields of `RunConfig`: seed, model, noise, limit, label_column, …

    Raises:
        UserError: anything the caller can mend; nothing is left half-written.
    """
    start = time.monotonic()
    if isinstance(method, type):
        raise UserError(f"pass a method object, not the class: {method.__name__}().")
    if budget is not None and isinstance(method, Method):
        raise UserError("a budget plans methods by name: pass method='...', not an object.")
    in_memory = not isinstance(data, str | Path)
    own = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    own = {name: value for name, value in own.items() if value is not None}
    given = {**(schedule or {}), **own}
    Schedule.parse(given, "schedule")
    built = method if isinstance(method, Method) else None
    config = RunConfig.parse(
        {
            "data": IN_MEMORY if in_memory else place(data),
            **({} if method is None else {"method": built.spec if built else method}),
            "pretrain": pretrain,
            "init": starting_point(init),
            "settings": {**(all_settings(built) if built else {}), **(settings or {})},
            "schedule": given,
            "test": None if test is None else place(test),
            **options,
        },
        "the run",
    )
    parse_names(config.pretrain or "")
    if budget is not None:
        require_budget(budget, config)
    if built is None:
        built = build_method(config.method, config.settings)[0]
    elif split_settings(settings or {})[0]:
        raise UserError("give settings to the method object itself, not beside it.")
    if config.devices > 1 and out is None:
        raise UserError("several processes need one --out folder that all of them know.")
    target = None if out is None else RunFolder(at_home(out))
    if target is not None and first_process():
        target.require_free()  # before any data is read
    memory = InMemory(data, labels, truth, test) if in_memory else InMemory(None, test=test)
    prepared = prepare(config, memory)
    notes = seen_before(config, prepared.train, prepared.test)
    if budget is not None:
        config, prepared, said = plan_within(
            config, prepared, memory, budget, start, method_given=method is not None
        )
        built = build_method(config.method, config.settings)[0]
        notes = (*notes, *said)
    if notes:
        train = replace(prepared.train, notes=(*prepared.train.notes, *notes))
        prepared = replace(prepared, train=train)
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
    start_run(config, prepared, folder, listener, _audit, method, command)
    return Result(folder.path)


def _audit(trainer: Trainer, prepared: Prepared, config: RunConfig, folder: RunFolder) -> None:
    finish(trainer, prepared, config, folder)
    write_report(folder.path)


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
    config, _ = read_config(folder)
    if is_pretraining(config.method):
        memory = InMemory(data, labels, truth)
        return resume_pretraining(folder, config, memory, listener or Silent())
    if all(file.exists() for file in folder.outputs):
        return Result(folder.path)
    _require_resumable(folder)
    if config.data == IN_MEMORY and data is None:
        raise UserError("this run was given its data in memory: pass data and labels to resume.")
    if config.test == IN_MEMORY and test is None:
        raise UserError("this run was given its test data in memory: pass test to resume.")
    prepared = prepare(config, InMemory(data, labels, truth, test))
    continue_run(config, prepared, folder, listener or Silent(), _audit, method)
    return Result(folder.path)


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


def load_run(path: str | Path) -> Result:
    """Open a finished run.

    Raises:
        UserError: when the folder holds no finished run.
    """
    folder = RunFolder(Path(path))
    config, _ = read_config(folder)
    if not folder.summary.exists():
        raise UserError(f"the run in {path} is not finished: `labelwise resume {path}`.")
    return load_pretrained(path) if is_pretraining(config.method) else Result(folder.path)


__all__ = ["Interrupted", "Result", "fit", "load_run", "resume"]
