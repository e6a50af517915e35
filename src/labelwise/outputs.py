"""What a run leaves behind: its description, the audited labels, the model, the summary."""

from __future__ import annotations

import itertools
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelwise.audit.evidence import Verdicts, reach_verdicts
from labelwise.audit.hardness import Sorting, hardness_arrays
from labelwise.audit.masks import mask_arrays
from labelwise.audit.observed import Observer
from labelwise.audit.outcome import (
    audit_figures,
    early_losses,
    evidence_arrays,
    labels_table,
)
from labelwise.audit.pred_probs import write_pred_probs
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.data.files import write_atomically, write_json, write_table
from labelwise.experiment import Prepared
from labelwise.models.build import NetworkSpec
from labelwise.pretraining import NONE, parse_names
from labelwise.pretraining.start import pretraining_of, start_hash
from labelwise.training.chain import Chain
from labelwise.training.figures import REPRESENTATION
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Wrapper

MOST_PROBABILITIES = 2**27
"""Up to so many the class probabilities are written (512 MiB)."""
LAST = 10
"""Epochs whose mean is the "last" accuracy."""


def describe(config: RunConfig, prepared: Prepared, method: Method) -> dict[str, Any]:
    """The content of `config.json`: configuration, data, noise, versions and hardware."""
    train = prepared.train
    start = {} if config.init is None else {"init_hash": start_hash(config.init)}
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
            "input_hash": train.input_hash(),
            "notes": list(train.notes),
        },
        "noise": prepared.noise,
        "pretrained_by": list(learnt_from(config)),
        **start,
        "citation": "; ".join(citations(method)),
        "versions": versions(),
        "hardware": hardware(config.device),
        "commit": commit(),
    }


def learnt_from(config: RunConfig) -> tuple[str, ...]:
    """The pre-training that the networks of a run go through, that of ``--init`` first."""
    before = () if config.init is None else pretraining_of(config.init)
    return tuple(dict.fromkeys((*before, *parse_names(config.pretrain or NONE))))


def citations(method: Method) -> tuple[str, ...]:
    """The papers of a method, of what it wraps and of the pre-training before it, each once."""
    parts = method.parts if isinstance(method, Chain) else (method,)
    found: list[str] = []
    for part in parts:
        found.append(part.citation)
        while isinstance(part, Wrapper):
            part = part.base
            found.append(part.citation)
    return tuple(dict.fromkeys(text for text in found if text))


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
    """The git commit of the package's source tree, or None when it is installed without one.

    It ends in "-dirty" where files under version control were changed since.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
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
    observer = Observer(
        trainer.plain,
        trainer.store,
        train.labels,
        trainer.views,
        trainer.ledger,
        prepared.planted,
        config.seed,
    )
    with torch.no_grad(), trainer.fabric.autocast():
        found = reach_verdicts(observer.gather(), trainer.plain, trainer.store, config.seed)
        masks = mask_arrays(
            trainer.method.shows_masks(),
            trainer.plain[0],
            trainer.store,
            found.quality,
            found.worst,
            prepared.planted,
            config.seed,
        )
        sorting = Sorting.of(trainer.ledger, prepared.planted)
        hardness = hardness_arrays(
            sorting,
            trainer.ledger,
            trainer.plain[0],
            trainer.store,
            trainer.extras.values(),
            config.seed,
        )
    table = labels_table(train, found, truth, sorting)
    write_table(table, folder.labels)
    write_table(table, folder.labels.with_suffix(".csv"))
    arrays = evidence_arrays(train, found, truth, early_losses(trainer.ledger, prepared.planted))
    arrays |= masks | hardness
    write_atomically(folder.evidence, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    if len(train) * train.num_classes <= MOST_PROBABILITIES:
        rows = torch.arange(len(train))
        blocks = (found.top.dense(part) for part in torch.split(rows, 65_536))
        write_pred_probs(folder.pred_probs, train.ids, train.classes, blocks)
    save_model(trainer, train, config, folder)
    summary = summary_of(trainer, prepared, config, found)
    write_json(folder.summary, summary)
    return summary


def summary_of(
    trainer: Trainer, prepared: Prepared, config: RunConfig, found: Verdicts
) -> dict[str, Any]:
    """What is told of a finished run in `summary.json`."""
    train, epochs = prepared.train, trainer.journal.rows()
    return {
        "method": config.method,
        "seed": config.seed,
        "data": train.name,
        "num_samples": len(train),
        "epochs": trainer.method.num_epochs,
        **accuracy_figures(epochs),
        **stage_figures(epochs),
        **audit_figures(train, found, prepared.truth),
        "wall_seconds": round(trainer.position.seconds, 3),
        "images_per_second": round(trainer.position.images / max(trainer.position.seconds, 1e-9)),
        "peak_memory_bytes": peak_memory(config.device),
        "notes": [
            *train.notes,
            *(note for row in epochs for note in row.get("notes", [])),
            *found.notes,
            *planted_note(prepared),
        ],
        "decisions": dict(trainer.ledger.decisions),
        "mixture_fallback": found.fallback,
    }


def planted_note(prepared: Prepared) -> list[str]:
    """What to tell the user about labels that were planted wrong."""
    if prepared.planted is None:
        return []
    return [
        f"{len(prepared.planted):,} labels were made wrong on purpose during training, to "
        "calibrate the audit by; in labels.csv they are as you gave them (--plant 0 plants none)"
    ]


def accuracy_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test accuracy: mean of the last epochs (the headline), best, and how many were averaged.

    Of the last ten epochs those count that were measured (`Schedule.evaluate_every`): ten
    measurements could reach back to the beginning of a run.
    """
    accuracy = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
    if not accuracy:
        return {}
    last = [row["test_accuracy"] for row in rows[-LAST:] if "test_accuracy" in row]
    last = last or accuracy[-1:]
    return {
        "test_accuracy_last": float(np.mean(last)),
        "test_accuracy_last_epochs": len(last),
        "test_accuracy_best": float(max(accuracy)),
    }


def stage_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What each stage of a run with pre-training took and came to, under the key "stages".

    A stage has its name, epochs, seconds, and the last figures of `REPRESENTATION` it measured.
    """
    stages: list[dict[str, Any]] = []
    for name, group in itertools.groupby(rows, lambda row: row.get("stage")):
        part = list(group)
        if name is None:
            continue
        measured = {key: row[key] for row in part for key in REPRESENTATION if key in row}
        seconds = sum(sum(row["phase_seconds"].values()) for row in part)
        stages.append({"name": name, "epochs": len(part), "seconds": round(seconds, 3), **measured})
    return {"stages": stages} if stages else {}


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
