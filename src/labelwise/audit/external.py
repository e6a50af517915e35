"""Audit the labels of a data set by class probabilities that were computed anywhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labelwise.audit.estimate_arrays import duplicate_arrays, transition_arrays
from labelwise.audit.judge import Verdict, figures, judge
from labelwise.audit.report import write_report
from labelwise.audit.with_cleanlab import (
    compare_with_cleanlab,
    require_cleanlab,
    require_size,
)
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset, Source, Truth
from labelwise.data.files import write_atomically, write_json, write_table
from labelwise.data.load import load_labels, load_rows, stratified_rows
from labelwise.data.neighbours import nearest_neighbours
from labelwise.data.scores import Scores, open_scores, read_features
from labelwise.errors import UserError
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.consensus import NUM_NEIGHBOURS
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.selection.mixture import mixture
from labelwise.training.folder import RunFolder

METHOD = "pred-probs"
"""What `config.json` and the report call such an audit."""
WORST, NEIGHBOURS, GRID = 60, 3, 200
THUMBNAIL = 96
"""Side in pixels of the report's pictures where the images differ in size."""
COPIES_AMONG = 20_000
"""Near duplicates are searched among so many samples at most: that reads every input."""


@dataclass(frozen=True)
class ExternalConfig:
    """What is audited, and by what.

    Args:
        data: data source, as `labelwise.data.load.load` takes it by name.
        pred_probs: file of class probabilities; see `labelwise.data.scores.open_scores`.
        are: "probabilities", "logits" or "log-probabilities".
        features: file of feature vectors (N, D), to show similar samples; or None.
        label_column: column of the given labels.
        truth_column: column of the true labels.
        limit: keep a stratified sample of this size.
        seed: decides which samples `limit` keeps, and the resampling of the intervals.
        compare: "cleanlab" runs it on the same probabilities.
    """

    data: str
    pred_probs: Path
    are: str = "probabilities"
    features: Path | None = None
    label_column: str | None = None
    truth_column: str | None = None
    limit: int | None = None
    seed: int = 0
    compare: str | None = None


def audit_pred_probs(
    config: ExternalConfig, out: Path, environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Audit labels by a file of class probabilities and write the folder.

    The probabilities are read in blocks, and of every sample only the largest are kept: memory is
    O(N · 50), whatever the number of classes. Images are decoded for the report's cards, and
    where they are few to find near duplicates.

    Args:
        config: what is audited, and by what.
        out: folder for config.json, labels.parquet, labels.csv, evidence.npz, summary.json and
            report.html.
        environment: versions and hardware, for `config.json`.

    Returns:
        The summary.

    Raises:
        UserError: the files do not fit each other; the message says where and what to do.
    """
    start = time.perf_counter()
    folder = RunFolder(out)
    folder.require_free()
    if config.compare is not None:
        require_cleanlab()
    run = RunConfig.parse(
        {
            "data": config.data,
            "method": METHOD,
            "seed": config.seed,
            "label_column": config.label_column,
            "truth_column": config.truth_column,
            "limit": config.limit,
            "plant": 0.0,
        },
        "the audit",
    )
    everything, rows = read_labels(config)
    source = Source(
        everything.data.subset(rows), everything.truth and everything.truth.subset(rows)
    )
    data = source.data
    if config.compare is not None:
        require_size(len(data), data.num_classes)
    scores = open_scores(config.pred_probs, data.classes, everything.data.ids, rows, config.are)
    top = read_top(scores, everything.data.labels, rows)
    features = None
    if config.features is not None:
        features = read_features(config.features, len(everything.data), rows)
    verdict = judge(top, features, config.seed)
    arrays = evidence_arrays(verdict, features)
    notes = [*data.notes, *scores.notes, *verdict.notes, *add_pictures(arrays, config, rows)]
    arrays |= copies(config, rows, arrays)
    summary = {
        "method": METHOD,
        "seed": config.seed,
        "data": data.name,
        "num_samples": len(data),
        **figures(verdict, source.truth),
        "wall_seconds": round(time.perf_counter() - start, 3),
    }
    if config.compare is not None:
        dense = np.concatenate([block.numpy() for block in scores.blocks()])
        summary["cleanlab"] = compare_with_cleanlab(
            dense[np.argsort(scores.rows)],
            data.labels.numpy(),
            verdict.suspect.numpy(),
            None if source.truth is None else (data.labels != source.truth.labels).numpy(),
        )
    if config.compare is not None and features is not None:
        notes.insert(0, "compared: labelwise used the features too, cleanlab the probabilities")
    folder.create()
    with folder.locked():
        described = describe(run, config, data, source.truth, arrays, environment or {})
        write_json(folder.config, described)
        table = labels_table(data, verdict, source.truth)
        write_table(table, folder.labels)
        write_table(table, folder.labels.with_suffix(".csv"))
        write_atomically(folder.evidence, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
        write_json(folder.summary, {**summary, "notes": notes})
        write_report(out)
    return {**summary, "notes": notes}


def read_labels(config: ExternalConfig) -> tuple[Source, np.ndarray]:
    """Ids and labels of the whole data set, and the rows (M), rising, that are audited."""
    source = load_labels(
        config.data, label_column=config.label_column, truth_column=config.truth_column
    )
    rows = np.arange(len(source.data))
    if config.limit is not None:
        rows = stratified_rows(source.data.labels.numpy(), config.limit, config.seed)
    return source, rows


def read_top(scores: Scores, labels: Tensor, rows: np.ndarray) -> TopProbabilities:
    """The largest probabilities of the samples `rows` (M), whatever the order of the file.

    Args:
        scores: the file.
        labels: given labels of the whole data (N).
        rows: the data rows, rising.
    """
    own = labels[torch.from_numpy(scores.rows)]
    top = TopProbabilities.from_blocks(scores.blocks(), own, scores.num_classes)
    if np.array_equal(scores.rows, rows):
        return top
    return top.rows(torch.from_numpy(np.argsort(scores.rows)))


def labels_table(data: Dataset, verdict: Verdict, truth: Truth | None) -> pd.DataFrame:
    """The audit as one row per sample, in the order of the data, as a training run writes it."""
    names = np.asarray([*data.classes, None], dtype=object)  # NO_CLASS, -1, is the last
    columns: dict[str, Any] = {
        "id": data.ids,
        "given_label": names[data.labels.numpy()],
        "label_quality": verdict.posterior.quality.numpy().round(6),
        "predicted_label": names[verdict.top.predicted.numpy()],
        "suggested_label": names[verdict.suggested.numpy()],
        "suggestion_confidence": verdict.confidence.numpy().round(6),
        "is_suspect": verdict.suspect.numpy(),
    }
    if truth is not None:
        columns["true_label"] = names[truth.labels.numpy()]
    return pd.DataFrame(columns)


def evidence_arrays(verdict: Verdict, features: Tensor | None) -> dict[str, np.ndarray]:
    """What the report shows beyond the table: losses, the worst labels and why, confusions."""
    quality, given = verdict.posterior.quality, verdict.top.given
    # Many qualities are exactly equal: the probability of the given label orders those.
    worst = torch.argsort(quality.double() + 1e-6 * given.double(), stable=True)[:WORST]
    loss = -given.clamp_min(1e-6).log()
    fit = mixture("gaussian").fit(loss)
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    near = torch.zeros((len(worst), 0), dtype=torch.int64)
    similarity = torch.zeros((len(worst), 0))
    evidence = {"probability": given, "label posterior": quality}
    if features is not None:
        near, similarity = nearest_neighbours(features, NUM_NEIGHBOURS, queries=worst)
        labels = verdict.top.labels
        vote = torch.full_like(quality, torch.nan)  # only asked where the report shows it
        vote[worst] = (labels[near] == labels[worst, None]).float().mean(1)
        evidence["neighbour vote"] = vote
        near, similarity = near[:, :NEIGHBOURS], similarity[:, :NEIGHBOURS]
    tensors = {
        "loss": loss,
        "loss_grid": fit.to_loss(grid),
        "loss_density": fit.density(grid) / max(float(fit.high - fit.low), 1e-12),
        "worst": worst,
        "neighbours": near,
        "similarity": similarity,
        "evidence": torch.stack(list(evidence.values()), dim=1),
    }
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays["evidence_names"] = np.array(list(evidence))
    return arrays | transition_arrays(verdict.estimate, len(quality))


def add_pictures(
    arrays: dict[str, np.ndarray], config: ExternalConfig, rows: np.ndarray
) -> list[str]:
    """Decode the images of the cards, if the data are images, into `arrays`; return remarks.

    Args:
        arrays: those of `evidence_arrays`.
        config: what is audited.
        rows: the data rows that are audited.
    """
    worst, near = arrays["worst"], arrays["neighbours"]
    wanted = np.unique(rows[np.concatenate([worst, near.reshape(-1)])])
    pictures = None
    for size in (None, THUMBNAIL):
        try:
            pictures = load_rows(
                config.data,
                wanted,
                label_column=config.label_column,
                truth_column=config.truth_column,
                image_size=size,
            ).data
            break
        except UserError as error:
            reason = str(error)
    if pictures is None:
        return [f"no pictures in the report: {reason.partition('. ')[0]}"]
    if pictures.kind != "images":
        return []
    images = pictures.inputs.numpy()
    arrays["worst_images"] = images[np.searchsorted(wanted, rows[worst])]
    if near.size:
        arrays["neighbour_images"] = images[np.searchsorted(wanted, rows[near])]
    return []


def copies(
    config: ExternalConfig, rows: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Near duplicates among the audited samples, where they are few and can be read.

    Args:
        config: what is audited.
        rows: the data rows that are audited.
        arrays: those of `add_pictures`.
    """
    if len(rows) > COPIES_AMONG:
        return {}
    pictures = arrays.get("worst_images")
    small = pictures is None or max(pictures.shape[2:]) <= THUMBNAIL
    try:
        found = load_rows(
            config.data,
            rows,
            label_column=config.label_column,
            truth_column=config.truth_column,
            image_size=None if small else THUMBNAIL,
        )
    except UserError:  # labels alone, or images that cannot be read: said beside the cards
        return {}
    return duplicate_arrays(found.data)


def describe(
    run: RunConfig,
    config: ExternalConfig,
    data: Dataset,
    truth: Truth | None,
    arrays: Mapping[str, np.ndarray],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `config.json`, with the keys of a training run's."""
    pictures = arrays.get("worst_images")
    return {
        "config": run.model_dump(),
        "config_digest": run.digest(),
        "data": {
            "name": data.name,
            "kind": "embeddings" if pictures is None else "images",
            "num_samples": len(data),
            "shape": [] if pictures is None else list(pictures.shape[1:]),
            "classes": list(data.classes),
            "num_test": 0,
            "truth_known": truth is not None,
            "label_hash": data.label_hash(),
            "notes": list(data.notes),
        },
        "noise": None,
        "external": {
            "pred_probs": str(config.pred_probs),
            "are": config.are,
            "features": None if config.features is None else str(config.features),
        },
        "command": command(config),
        "citation": ConfidentJoint.citation,
        **environment,
    }


def command(config: ExternalConfig) -> str:
    """The command line that repeats the audit."""
    import shlex

    parts = ["labelwise", "audit", config.data, "--pred-probs", str(config.pred_probs)]
    if config.are != "probabilities":
        parts += ["--pred-probs-are", config.are]
    for name in ("features", "label_column", "truth_column", "limit", "compare"):
        value = getattr(config, name)
        if value is not None:
            parts += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*parts, "--seed", str(config.seed)])
