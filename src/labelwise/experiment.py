"""From a configuration to a run: read the data, resolve what was left open, assemble, finish."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from labelwise.audit.evidence import (
    audit_figures,
    evidence_arrays,
    gather_evidence,
    labels_table,
)
from labelwise.augment.view import ViewOptions, views
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset, Source, Truth
from labelwise.data.files import write_atomically, write_json
from labelwise.data.load import load, split
from labelwise.data.store import Store, input_statistics
from labelwise.errors import UserError
from labelwise.methods import all_settings, parse_method
from labelwise.models.build import NetworkSpec, auto_model, build_network
from labelwise.noise.parse import parse as parse_noise
from labelwise.rng import Draw
from labelwise.training import memory
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.engine import resolve_device, resolve_precision
from labelwise.training.evaluate import accuracy
from labelwise.training.folder import RunFolder
from labelwise.training.journal import Journal
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Problem
from labelwise.training.progress import Silent
from labelwise.training.ranks import Ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAST = 10
"""Epochs whose mean is the "last" accuracy."""


@dataclass(frozen=True)
class Prepared:
    """The data of a run, with truth and test data held apart from what is trained on.

    Args:
        train: training samples with the given labels.
        truth: their true labels, if known.
        test: test samples with labels that are taken as true, if there are any.
        noise: what was planted, for `config.json`.
    """

    train: Dataset
    truth: Truth | None
    test: Source | None
    noise: dict[str, Any] | None


def prepare(config: RunConfig, data: Any = None, labels: Any = None) -> Prepared:
    """Read, limit, plant noise, and set test data aside.

    Args:
        config: the run's configuration.
        data: data in memory; None reads `config.data`.
        labels: labels of data in memory.
    """
    source = load(
        config.data if data is None else data,
        labels=labels,
        label_column=config.label_column,
        truth_column=config.truth_column,
        image_size=config.image_size,
        on_bad_image=config.on_bad_image,
        limit=config.limit,
        seed=config.seed,
    )
    noise = None
    if config.noise is not None:
        base = source.truth or Truth(source.data.labels)
        noisy = parse_noise(config.noise).corrupt(source.data.with_labels(base.labels), config.seed)
        source = Source(source.data.with_labels(noisy.labels), base)
        noise = {
            "process": noisy.process,
            "requested_rate": noisy.requested_rate,
            "realised_rate": noisy.realised_rate,
            "transition_matrix": noisy.transition_matrix.tolist(),
        }
    test: Source | None = None
    if config.test is not None:
        test = load_test(config, source.data)
    elif source.truth is not None:
        source, test = split(source, seed=config.seed)
    return Prepared(source.data, source.truth, test, noise)


def load_test(config: RunConfig, train: Dataset) -> Source:
    """Read the test data into the training data's classes and shape.

    Its labels come from the truth column, the label column or the usual names, whichever the
    file has first; they are taken as true.
    """
    assert config.test is not None
    size = config.image_size
    channels = None
    if train.kind == "images":
        channels = train.shape[0]
        if size is None and train.shape[1] == train.shape[2] and train.shape[1] >= 4:
            size = train.shape[1]
    failure: UserError | None = None
    for column in dict.fromkeys((config.truth_column, config.label_column, None)):
        try:
            test = load(
                config.test,
                label_column=column,
                image_size=size,
                on_bad_image=config.on_bad_image,
                classes=train.classes,
                channels=channels,
            )
        except UserError as error:
            failure = failure or error
            continue
        if test.data.shape != train.shape:
            raise UserError(
                f"the test data {config.test} have shape {test.data.shape}, the training data "
                f"{train.shape}. Give an --image-size for both."
            )
        return test
    assert failure is not None
    raise failure


def bind(config: RunConfig, train: Dataset, method: Method | None = None) -> Method:
    """Build the method of a configuration and fix its schedule for the data."""
    problem = Problem(len(train), train.num_classes, train.kind, train.shape)
    chosen = parse_method(config.method, config.settings) if method is None else method
    if train.num_classes < 2:
        raise UserError("the data have only one class; labels can only be wrong between classes.")
    return chosen.bind(problem, config.schedule)


def resolve(config: RunConfig, train: Dataset, method: Method) -> RunConfig:
    """Fill in everything the user left open, so that `config.json` says what was used."""
    device = resolve_device(config.device)
    model = config.model
    if model == "auto":
        model = auto_model(train.shape, len(train), device != "cpu")
    return config.model_copy(
        update={
            "model": model,
            "device": device,
            "precision": resolve_precision(config.precision, device, train.shape),
            "method": method.spec,
            "settings": all_settings(method),
            "schedule": method.schedule.model_dump(),
        }
    )


def network_builder(
    config: RunConfig, train: Dataset, method: Method
) -> Callable[[int], nn.Module]:
    """Return a function that builds peer `number` with its own initial weights."""
    spec = NetworkSpec(config.model, train.shape, train.num_classes)
    mean, std = input_statistics(train.inputs)

    def build(number: int) -> nn.Module:
        draw = Draw(config.seed, phase=f"network-{number}")
        network = build_network(spec, mean, std, draw, method.heads)
        if train.kind == "images":
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    return build


def assemble(
    config: RunConfig,
    prepared: Prepared,
    method: Method,
    folder: RunFolder,
    listener: Silent,
    fabric: Fabric,
) -> Trainer:
    """Build the trainer of a resolved configuration on a launched engine.

    Raises:
        UserError: unknown model, or not enough memory.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train, test = prepared.train, prepared.test
    build = network_builder(config, train, method)
    networks = tuple(build(number) for number in range(method.num_peers))
    device = torch.device(config.device)
    num_test = 0 if test is None else len(test.data)
    memory.require_memory(predict_memory(config, train, method, networks[0], num_test), device)
    store = Store.of(train, fabric.device)
    options = ViewOptions.of(train)
    fitting = {n: c.for_data(options) for n, c in views().items() if train.kind in c.kinds}
    test_store = None if test is None else Store.of(test.data, fabric.device)
    ranks = Ranks(fabric)

    def evaluate(trained: tuple[nn.Module, ...]) -> dict[str, float]:
        if test_store is None:
            return {}
        truth = Truth(test_store.labels)
        return {"test_accuracy": accuracy(trained, test_store, truth, ranks)}

    return Trainer(
        method=method,
        fabric=fabric,
        plain=networks,
        store=store,
        views=fitting,
        seed=config.seed,
        checkpoints=Checkpoints(folder.checkpoint, config.digest() + train.label_hash()[:16]),
        journal=Journal(folder.metrics),
        evaluate=evaluate,
        listener=listener,
        checkpoint_every=config.checkpoint_every,
    )


def predict_memory(
    config: RunConfig, train: Dataset, method: Method, network: nn.Module, num_test: int = 0
) -> dict[str, int]:
    """Predicted memory of a run by part, bytes."""
    per_sample = sum(
        torch.empty((), dtype=column.dtype).element_size() * int(np.prod(column.shape, dtype=int))
        for column in method.all_columns()
    )
    rows = method.schedule.batch_size * method.rows_per_sample
    return memory.predict_bytes(
        network,
        method.num_peers,
        train.inputs,
        rows,
        per_sample * method.num_peers,
        config.precision != "32-true",
        num_test=num_test,
    )


def describe(config: RunConfig, prepared: Prepared, method: Method) -> dict[str, Any]:
    """The content of `config.json`: configuration, data, noise, versions and hardware."""
    train = prepared.train
    return {
        "config": config.model_dump(),
        "config_digest": config.digest(),
        "data": {
            "name": train.name,
            "kind": train.kind,
            "num_samples": len(train),
            "shape": list(train.shape),
            "classes": list(train.classes),
            "num_test": 0 if prepared.test is None else len(prepared.test.data),
            "truth_known": prepared.truth is not None,
            "label_hash": train.label_hash(),
            "notes": list(train.notes),
        },
        "noise": prepared.noise,
        "citation": method.citation,
        "versions": versions(),
        "hardware": hardware(config.device),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in ("labelwise", "torch", "numpy", "lightning-fabric", "scikit-learn", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """The processor and accelerator, and how many threads are used."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration, IndexError):
        pass
    found: dict[str, Any] = {"cpu": name, "threads": torch.get_num_threads()}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str | None:
    """The git commit of the package's source tree, or None when it is installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def finish(
    trainer: Trainer, prepared: Prepared, config: RunConfig, folder: RunFolder
) -> dict[str, Any]:
    """Audit the finished run and write labels, evidence, model and summary.

    Returns:
        The summary.
    """
    train, truth = prepared.train, prepared.truth
    rows = trainer.journal.rows()
    own = trainer.ledger["clean"] if trainer.method.scores_every_epoch else None
    with trainer.fabric.autocast():
        evidence = gather_evidence(trainer.plain, trainer.store, own)
    table = labels_table(train, evidence, truth)
    write_atomically(folder.labels, lambda file: table.to_parquet(file, index=False))
    csv = folder.labels.with_suffix(".csv")
    write_atomically(csv, lambda file: file.write(table.to_csv(index=False).encode()))
    arrays = evidence_arrays(train, evidence)
    write_atomically(folder.evidence, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    save_model(trainer, train, config, folder)
    summary = {
        "method": config.method,
        "seed": config.seed,
        "data": train.name,
        "num_samples": len(train),
        "epochs": trainer.schedule.epochs,
        **accuracy_figures(rows),
        **audit_figures(train, evidence, truth),
        "wall_seconds": round(trainer.position.seconds, 3),
        "images_per_second": round(trainer.position.images / max(trainer.position.seconds, 1e-9)),
        "peak_memory_bytes": peak_memory(config.device),
        "notes": [*train.notes, *(note for row in rows for note in row.get("notes", []))],
        "decisions": dict(trainer.ledger.decisions),
        "mixture_fallback": evidence.fit.fallback if own is None else None,
    }
    write_json(folder.summary, summary)
    return summary


def accuracy_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test accuracy: mean of the last epochs (the headline), best, and how many were averaged."""
    accuracy = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
    if not accuracy:
        return {}
    last = accuracy[-LAST:]
    return {
        "test_accuracy_last": float(np.mean(last)),
        "test_accuracy_last_epochs": len(last),
        "test_accuracy_best": float(max(accuracy)),
    }


def peak_memory(device: str) -> int:
    """Largest memory used so far, bytes: of the device, or resident on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def save_model(trainer: Trainer, train: Dataset, config: RunConfig, folder: RunFolder) -> None:
    """Write the weights and what is needed to predict with them."""
    folder.model.mkdir(exist_ok=True)
    for number, network in enumerate(trainer.plain):
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        path = folder.model / f"network-{number}.pt"
        write_atomically(path, lambda file, state=state: torch.save(state, file))  # type: ignore[misc]
    spec = NetworkSpec(config.model, train.shape, train.num_classes)
    write_json(
        folder.model / "model.json",
        {
            "network": spec.to_json(),
            "num_networks": len(trainer.plain),
            "classes": list(train.classes),
            "kind": train.kind,
            "method": config.method,
            "settings": config.settings,
            "precision": config.precision,
        },
    )
