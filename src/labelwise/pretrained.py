"""Pre-training on its own: `pretrain`, and the `Pretrained` networks and features it leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from labelwise.config import RunConfig, read_json
from labelwise.data.dataset import Dataset
from labelwise.data.files import at_home, write_atomically, write_json, write_table
from labelwise.data.load import load
from labelwise.data.source import OnBadImage
from labelwise.data.store import Store
from labelwise.errors import UserError, unknown
from labelwise.experiment import IN_MEMORY, InMemory, Prepared
from labelwise.methods import known_methods
from labelwise.models.modes import evaluating
from labelwise.models.network import Network
from labelwise.outputs import peak_memory, save_model, stage_figures
from labelwise.pretraining import (
    chain_of,
    chosen_names,
    known_pretraining,
    parse_names,
    split_settings,
)
from labelwise.pretraining.start import read_start
from labelwise.result import Result
from labelwise.running import continue_run, first_process, place, read_config, start_run
from labelwise.training.figures import REPRESENTATION
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Trainer
from labelwise.training.progress import Silent

FEATURES = "features.npy"
IDS = "ids.csv"
MOST_FEATURES = 2**28
"""Up to so many numbers the features are written (1 GiB)."""
NOT_HERE = ("test", "noise", "plant", "pretrain", "schedule")
"""Options of a run that read labels; pre-training has none."""


class Pretrained(Result):
    """Pre-trained networks and the features they give, read from their folder."""

    @cached_property
    def features(self) -> np.ndarray:
        """Features (N, F) float32 of the training samples, of unit length, in the order of `ids`.

        They are the backbone's, of the unaugmented samples; the scalar product is the cosine.
        """
        path = self.path / FEATURES
        if not path.exists():
            raise UserError(f"{path} was not written: see the notes in {self.path}/summary.json.")
        found: np.ndarray = np.load(path)
        return found

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids (N) of the samples, as text."""
        table = pd.read_csv(self.path / IDS, dtype=str, keep_default_na=False)
        return table["id"].to_numpy()

    @cached_property
    def labels(self) -> pd.DataFrame:
        """There are none: no label was looked at."""
        self._refuse("no labels were audited")

    def predict_proba(self, data: Any, on_bad_image: OnBadImage = "error") -> np.ndarray:
        """There are no predictions: the networks have learnt no classes."""
        self._refuse("the networks have learnt no classes")

    def predict(self, data: Any, on_bad_image: OnBadImage = "error") -> pd.DataFrame:
        """There are no predictions: the networks have learnt no classes."""
        self._refuse("the networks have learnt no classes")

    def report(self, beside: str | Path | None = None) -> Path:
        """There is no report: no label was looked at."""
        self._refuse("no labels were audited, so there is nothing to report")

    def _refuse(self, reason: str) -> NoReturn:
        method = read_json(RunFolder(self.path).config)["config"]["method"]
        raise UserError(
            f"{self.path} is the folder of a pre-training ({method}): {reason}. Start a run from "
            f"its networks: `labelwise fit DATA --init {self.path}`."
        )


def pretrain(
    data: Any,
    labels: Any = None,
    *,
    truth: Any = None,
    method: str = "simclr",
    out: str | Path | None = None,
    init: str | Path | Result | None = None,
    classes: int | None = None,
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    listener: Silent | None = None,
    **options: Any,
) -> Pretrained:
    """Train networks on samples whose labels are not looked at, for `fit(init=...)` or other use.

    Args:
        data: as for `fit`; labels are not needed. All samples are trained on.
        labels: labels (N) of data in memory, if there are any: k-NN figures are taken by them.
        truth: true labels (N) of data in memory: figures are taken by these where they are known.
        method: "simclr", "moco", or one of them and "scan", as in "simclr+scan".
        out: the run folder; None makes one in the system's temporary folder.
        init: folder of a finished `pretrain` or `fit` whose networks are started from.
        classes: number of clusters for data without labels; only scan makes any.
        settings: settings by name, such as ``{"temperature": 0.1}``, or, where there are several
            parts, with the part's in front, such as ``{"simclr.temperature": 0.1}``.
        epochs: of a single part; of several ``{"simclr.epochs": 100}`` and so on.
        batch_size: samples a step, likewise.
        lr: learning rate, likewise.
        listener: shows progress; None is silent.
        options: other fields of `RunConfig`: seed, model, limit, image_size, device, …

    Raises:
        UserError: anything the caller can mend; nothing is left half-written.
    """
    names = _names(method)
    for name in NOT_HERE:
        if name in options:
            raise UserError(f"{name} means nothing for pre-training, which reads no labels.")
    if classes is not None and classes < 2:
        raise UserError(f"--classes {classes}: at least 2 clusters are needed.")
    own = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    given = {**(settings or {}), **{name: v for name, v in own.items() if v is not None}}
    in_memory = not isinstance(data, str | Path)
    full = full_names(names, given)
    chain_of(names, split_settings(full)[1])  # wrong values are said before any data is read
    spec = "+".join(names)
    config = RunConfig.parse(
        {
            "data": IN_MEMORY if in_memory else place(data),
            "method": spec,
            "pretrain": spec,
            "init": starting_point(init),
            "settings": full,
            "plant": 0.0,
            **options,
        },
        "the pre-training",
    )
    if config.devices > 1 and out is None:
        raise UserError("several processes need one --out folder that all of them know.")
    target = None if out is None else RunFolder(at_home(out))
    if target is not None and first_process():
        target.require_free()  # before any data is read
    memory = InMemory(data, labels, truth) if in_memory else InMemory()
    prepared = prepare_pretraining(config, memory, classes)
    folder = target or RunFolder(Path(tempfile.mkdtemp(prefix="labelwise-")))
    start_run(config, prepared, folder, listener or Silent(), finish_pretraining)
    return Pretrained(folder.path)


def resume_pretraining(
    folder: RunFolder, config: RunConfig, memory: InMemory, listener: Silent
) -> Pretrained:
    """Continue an interrupted pre-training to its end; a finished one is only returned.

    Args:
        folder: the run folder.
        config: its resolved configuration.
        memory: the data again, if they were in memory.
        listener: shows progress.
    """
    if all(path.exists() for path in (folder.summary, folder.model / "model.json")):
        return Pretrained(folder.path)
    if config.data == IN_MEMORY and memory.data is None:
        raise UserError("this run was given its data in memory: pass the data to resume.")
    num_classes = len(read_config(folder)[1]["classes"])
    prepared = prepare_pretraining(config, memory, num_classes)
    continue_run(config, prepared, folder, listener, finish_pretraining)
    return Pretrained(folder.path)


def load_pretrained(path: str | Path) -> Pretrained:
    """Open the folder of a finished pre-training."""
    return Pretrained(Path(path))


def starting_point(init: str | Path | Result | None) -> str | None:
    """The whole path of the folder that networks are started from.

    Raises:
        UserError: when there is no finished run.
    """
    if init is None:
        return None
    if isinstance(init, Result):
        init = init.path
    if not isinstance(init, str | Path) or not str(init).strip():
        raise UserError(f"init is {init!r}: give the folder of a finished pre-training or run.")
    read_start(init)
    return str(at_home(init).resolve())


def _names(method: str) -> tuple[str, ...]:
    """The parts of a pre-training in order, or a message that says what was meant instead."""
    known = known_pretraining()
    for name in str(method).split("+"):
        if name not in known and name in known_methods():
            raise UserError(
                f"{name} is a method, which learns from labels: `labelwise fit DATA --method "
                f"{name}`. Pre-training is one of: {', '.join(known)}."
            )
    names = chosen_names((), parse_names(method))
    if not names:
        raise UserError(f"--method {method}: choose one of {', '.join(known)}.")
    return names


def full_names(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of pre-training by their full names, such as ``simclr.epochs``.

    Args:
        names: the parts of the run.
        settings: values by name; a name without a part is of the only part that has it.

    Raises:
        UserError: a setting that no part has, or that several have.
    """
    known = known_pretraining()
    found: dict[str, Any] = {}
    for name, value in settings.items():
        prefix, dot, field = name.rpartition(".")
        if dot and prefix not in known:
            raise unknown("part of the pre-training", prefix, names)
        fields = {part: known[part].Settings.model_fields for part in names}
        owners = [part for part in names if field in fields[part] or field == "preset"]
        if not dot and len(owners) != 1:
            if not owners:
                every = {field for part in names for field in fields[part]}
                raise unknown(f"setting of {'+'.join(names)}", field, every)
            which = " or ".join(f"{part}.{field}" for part in owners)
            raise UserError(f"{field} is a setting of several parts: --set {which}.")
        found[name if dot else f"{owners[0]}.{field}"] = value
    return found


def prepare_pretraining(
    config: RunConfig, memory: InMemory, num_classes: int | None = None
) -> Prepared:
    """Read the samples; labels are read for figures only, and where there are none it is zeros.

    Args:
        config: the run's configuration.
        memory: data handed over in memory.
        num_classes: number of clusters; None for as many as the labels have classes.

    Raises:
        UserError: data that cannot be used, or fewer clusters than classes.
    """
    source = load(
        config.data if memory.data is None else memory.data,
        labels=memory.labels,
        truth=memory.truth,
        label_column=config.label_column,
        truth_column=config.truth_column,
        image_size=config.image_size,
        on_bad_image=config.on_bad_image,
        limit=config.limit,
        seed=config.seed,
        require_labels=False,
    )
    data = source.data
    shown = data.labels if source.truth is None else source.truth.labels
    classes = data.classes if len(shown) else ()
    if num_classes is not None and num_classes < len(classes):
        raise UserError(
            f"--classes {num_classes}: the data have labels of {len(classes)} classes. Leave "
            "--classes away, or give more."
        )
    width = max(1, num_classes or len(classes))
    classes += tuple(f"cluster {number}" for number in range(len(classes), width))
    labels = data.labels if len(data.labels) else torch.zeros(len(data), dtype=torch.int64)
    labelled = len(shown) > 0 and bool((shown != shown[0]).any())
    train = replace(data, labels=labels, classes=classes)
    return Prepared(train, source.truth, None, None, labelled=labelled)


def finish_pretraining(
    trainer: Trainer, prepared: Prepared, config: RunConfig, folder: RunFolder
) -> None:
    """Write the model, the features and the summary of a finished pre-training."""
    train, rows = prepared.train, trainer.journal.rows()
    save_model(trainer, train, config, folder)
    notes = [*train.notes, *(note for row in rows for note in row.get("notes", []))]
    network = trainer.plain[0]
    assert isinstance(network, Network)
    width = network.backbone.num_features
    write_table(pd.DataFrame({"id": train.ids}), folder.path / IDS)
    if len(train) * width <= MOST_FEATURES:
        found = unit_features(network, trainer.store)
        write_atomically(folder.path / FEATURES, lambda file: np.save(file, found))
    else:
        notes.append(f"{FEATURES} was not written: {len(train):,} times {width:,} numbers are many")
    seconds = trainer.position.seconds
    write_json(
        folder.summary,
        {
            "method": config.method,
            "seed": config.seed,
            "data": train.name,
            "num_samples": len(train),
            "num_features": width,
            "epochs": trainer.method.num_epochs,
            **{name: row[name] for row in rows for name in REPRESENTATION if name in row},
            **stage_figures(rows),
            "wall_seconds": round(seconds, 3),
            "images_per_second": round(trainer.position.images / max(seconds, 1e-9)),
            "peak_memory_bytes": peak_memory(config.device),
            "notes": notes,
            "decisions": dict(trainer.ledger.decisions),
        },
    )


@torch.no_grad()
def unit_features(network: Network, store: Store, block: int = 1024) -> np.ndarray:
    """Features (N, F) float32 of all samples, unaugmented, in eval mode, of unit length."""
    found: np.ndarray = np.empty((len(store), network.backbone.num_features), dtype=np.float32)
    with evaluating([network]):
        for index in store.blocks(block):
            part = network(store.plain(index), heads=("features",))["features"].float()
            found[index.cpu().numpy()] = F.normalize(part, dim=1).cpu().numpy()
    return found


def seen_before(config: RunConfig, train: Dataset, test: object) -> tuple[str, ...]:
    """A note where test samples were set aside that `--init` may have been trained on.

    Only a folder that started afresh and was trained on exactly these rows is known not to have
    seen the others.
    """
    if config.init is None or config.test is not None or test is None:
        return ()
    described = read_json(Path(config.init) / "config.json")
    theirs = described.get("data") or {}
    afresh = (described.get("config") or {}).get("init") is None
    if afresh and theirs.get("input_hash") == train.input_hash():
        return ()
    return (
        f"the networks of --init were trained on {theirs.get('num_samples', 0):,} samples of "
        f"{theirs.get('name', 'other data')}, those set aside for testing here perhaps among "
        "them: give --test for a figure that is beyond doubt",
    )


__all__ = ["Pretrained", "pretrain"]
