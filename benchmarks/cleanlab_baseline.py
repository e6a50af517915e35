"""cleanlab's usual recipe with labelwise's own network: the baseline of every comparison.

Cross-entropy is trained on four fifths of the given labels and predicts the held-out fifth, five
times; cleanlab scores the labels by those out-of-sample probabilities. The network, augmentation,
schedule and training rows are those that a labelwise run with the same options uses.

    python benchmarks/cleanlab_baseline.py --data digits --noise symmetric:0.5 --epochs 20
        --seed 0 --out benchmarks/cleanlab_baseline.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores

from labelwise.audit.judge import calibration_error, figures, judge
from labelwise.audit.with_cleanlab import ranking_figures, run_cleanlab
from labelwise.binding import bind, resolve
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.experiment import Prepared, assemble, prepare
from labelwise.models.stored import StoredModel
from labelwise.outputs import commit, hardware, versions
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.progress import Silent


def cross_validated(
    train: Dataset, epochs: int, seed: int, folds: int = 5, threads: int = 1
) -> tuple[np.ndarray, float]:
    """Out-of-sample class probabilities by cross-entropy of labelwise.

    Args:
        train: samples with given labels.
        epochs: epochs of every fold.
        seed: seed of the folds and of the training.
        folds: parts; stratified on the given labels, as cleanlab does it.
        threads: CPU threads.

    Returns:
        Probabilities (N, K) float32, and the seconds all folds took.
    """
    from sklearn.model_selection import StratifiedKFold

    torch.set_num_threads(threads)
    labels = train.labels.numpy()
    probabilities = np.zeros((len(train), train.num_classes), dtype=np.float32)
    start = time.perf_counter()
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    for kept, held in parts:
        model = trained(train.subset(kept), epochs, seed, threads)
        probabilities[held] = model.predict_proba(train.inputs[torch.from_numpy(held)]).numpy()
    return probabilities, time.perf_counter() - start


def trained(part: Dataset, epochs: int, seed: int, threads: int) -> StoredModel:
    """Train cross-entropy; not through `fit`, which would flip images it is handed in memory."""
    options = {"data": part.name, "method": "ce", "seed": seed, "threads": threads}
    config = RunConfig.parse({**options, "schedule": {"epochs": epochs}}, "the baseline")
    method = bind(config, part)
    config = resolve(config, part, method)
    fabric = launch(config.device, config.devices, config.precision)
    with tempfile.TemporaryDirectory() as place:
        prepared = Prepared(part, None, None, None)
        trainer = assemble(config, prepared, method, RunFolder(Path(place)), Silent(), fabric)
        trainer.train()
    networks = tuple(network.cpu().eval() for network in trainer.plain)
    return StoredModel(networks, part.classes, part.shape)


def baseline(options: dict[str, Any], epochs: int, folds: int, threads: int) -> dict[str, Any]:
    """One row: cleanlab on cross-validated probabilities.

    Args:
        options: fields of `RunConfig` that say what the data are.
        epochs: epochs of every fold.
        folds: parts.
        threads: CPU threads.
    """
    prepared = prepare(RunConfig.parse({**options, "method": "ce"}, "the baseline"))
    train, truth = prepared.train, prepared.truth
    probabilities, seconds = cross_validated(train, epochs, options["seed"], folds, threads)
    labels = train.labels.numpy()
    start = time.perf_counter()
    scores, issues = run_cleanlab(probabilities, labels)
    seconds_cleanlab = time.perf_counter() - start
    verdict = judge(TopProbabilities.of(torch.from_numpy(probabilities), train.labels))
    row: dict[str, Any] = {
        "method": "cleanlab-cv-ce",
        **options,
        "epochs": epochs,
        "folds": folds,
        "threads": threads,
        "num_samples": len(train),
        "num_classes": train.num_classes,
        "num_suspects": int(issues.sum()),
        "training_seconds": round(seconds, 2),
        "cleanlab_seconds": round(seconds_cleanlab, 3),
        "out_of_sample_agreement": float((probabilities.argmax(1) == labels).mean()),
    }
    row["labelwise_on_same"] = figures(verdict, truth)
    if truth is not None:
        wrong = (train.labels != truth.labels).numpy()
        margin = get_label_quality_scores(labels, probabilities, method="normalized_margin")
        row["realised_noise_rate"] = float(wrong.mean())
        row |= ranking_figures(wrong, 1 - scores, issues)
        row["quality_calibration_error"] = calibration_error(scores, ~wrong)
        row["normalized_margin"] = ranking_figures(wrong, 1 - margin, issues)
        row["out_of_sample_accuracy"] = float(
            (probabilities.argmax(1) == truth.labels.numpy()).mean()
        )
    found = versions() | {"cleanlab": version("cleanlab")}
    described = {"versions": found, "hardware": hardware("cpu"), "commit": commit()}
    return row | described


def main() -> None:
    """Run once, print the row and append it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--noise")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--label-column")
    parser.add_argument("--truth-column")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append the row to this .jsonl file")
    given = vars(parser.parse_args())
    out, epochs, folds, threads = (given.pop(n) for n in ("out", "epochs", "folds", "threads"))
    options = {name: value for name, value in given.items() if value is not None}
    row = json.dumps(baseline(options, epochs, folds, threads))
    if out is not None:
        with out.open("a", encoding="utf-8") as file:  # one write: a crash leaves whole lines
            file.write(row + "\n")
    print(row)


if __name__ == "__main__":
    main()
