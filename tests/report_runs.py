"""Finished runs written by hand, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def write_run(
    path: Path,
    *,
    num_samples: int = 200,
    classes: tuple[str, ...] = ("cat", "dog", "bird"),
    truth: bool = True,
    shape: tuple[int, ...] = (3, 8, 8),
    ids: list[Any] | None = None,
    fitted: bool = True,
    fallback: str | None = None,
    test: bool = True,
) -> Path:
    """A finished run in which every wrong label (about 20%) is found, by hand."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = np.array(classes, dtype=object)
    true = random.integers(0, len(classes), num_samples)
    given = np.where(random.random(num_samples) < 0.2, (true + 1) % len(classes), true)
    wrong = given != true
    quality = np.where(wrong, 0.1, 0.9) + 0.05 * random.random(num_samples)
    table = pd.DataFrame(
        {
            "id": [f"row-{k}" for k in range(num_samples)] if ids is None else ids,
            "given_label": names[given],
            "label_quality": quality.astype(np.float32),
            "predicted_label": names[true],
            "suggested_label": names[true],
            "suggestion_confidence": np.full(num_samples, 0.8, dtype=np.float32),
            "is_suspect": wrong,
        }
    )
    if truth:
        table["true_label"] = names[true]
    table.to_parquet(path / "labels.parquet", index=False)
    images = len(shape) == 3
    worst = np.argsort(quality)[:60]
    grid = np.linspace(0, 4, 50)
    bumps = np.stack([np.exp(-((grid - 0.2) ** 2)), 0.2 * np.exp(-((grid - 2.5) ** 2))])
    arrays = {
        "loss": -np.log(quality),
        "loss_grid": grid,
        "loss_density": bumps if fitted else np.zeros_like(bumps),
        "worst": worst,
        "neighbours": random.integers(0, num_samples, (len(worst), 3)),
        "similarity": random.random((len(worst), 3), dtype=np.float32),
    }
    if images:
        size = (len(worst), *shape)
        arrays["worst_images"] = random.integers(0, 255, size, dtype=np.uint8)
        size = (len(worst), 3, *shape)
        arrays["neighbour_images"] = random.integers(0, 255, size, dtype=np.uint8)
    np.savez_compressed(path / "evidence.npz", **arrays)
    config = {
        "data": "my data.npz",
        "method": "dividemix",
        "settings": {"dividemix.alpha": 4.0, "dividemix.threshold": None},
        "schedule": {"epochs": 4, "batch_size": 64, "lr": 0.02, "warmup": 1},
        "model": "small_resnet",
        "seed": 3,
        "on_bad_image": "error",
        "devices": 1,
    }
    described = {
        "config": config,
        "data": {
            "name": "pets",
            "kind": "images" if images else "embeddings",
            "num_samples": num_samples,
            "shape": list(shape),
            "classes": list(classes),
            "num_test": 50 if test else 0,
            "truth_known": truth,
            "label_hash": "0123456789abcdef0123",
        },
        "noise": None,
        "citation": "Li, Socher, Hoi, DivideMix, ICLR 2020",
        "versions": {"python": "3.11", "labelwise": "0.1.0"},
        "hardware": {"cpu": "some"},
        "commit": None,
    }
    (path / "config.json").write_text(json.dumps(described), encoding="utf-8")
    summary: dict[str, Any] = {
        "epochs": 4,
        "num_samples": num_samples,
        "estimated_noise_rate": 0.21,
        "num_suspects": int(wrong.sum()),
        "wall_seconds": 75.2,
        "images_per_second": 1234,
        "peak_memory_bytes": 2 * 10**9,
        "notes": ["1 image was skipped", "1 image was skipped"],
        "mixture_fallback": fallback,
    }
    if test:
        summary |= {"test_accuracy_last": 0.913, "test_accuracy_best": 0.934}
        summary["test_accuracy_last_epochs"] = 4
    if truth:
        summary |= {"realised_noise_rate": 0.19, "label_error_auroc": 0.987}
        summary |= {"suspect_recall": 0.8, "suggestion_accuracy": 0.95}
        summary |= {"label_accuracy_given": 0.81, "label_accuracy_suggested": 0.96}
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = [
        {
            "epoch": epoch,
            **({"test_accuracy": 0.9 + 0.01 * epoch} if test else {}),
            **({"clean_fraction_0": 0.8, "estimated_noise_rate": 0.2} if epoch > 1 else {}),
            "mix-0/labelled": 1 / epoch,
            "mix-1/labelled": float("nan") if epoch == 3 else 3 / epoch,
            "phase_seconds": {"mix-0": 1.0, "mix-1": 2.0},
        }
        for epoch in range(1, 5)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (path / "metrics.jsonl").write_text(text, encoding="utf-8")
    return path


NEW_SUMMARY = {
    "noise_rate_interval": [0.17, 0.26],
    "noise_rate_estimates": {"mixture": 0.21, "anchor points": 0.19},
    "expected_precision": 0.87,
    "expected_recall": 0.72,
    "suspect_threshold": 0.43,
    "calibration_error": 0.031,
    "calibration_error_truth": 0.027,
    "num_planted": 40,
    "quality_method": "evidence combined on labels that were made wrong on purpose",
}
KINDS = ("clean posterior", "margin", "agreement", "neighbour vote", "stability", "learned early")


def new_arrays(run: Path) -> dict[str, np.ndarray]:
    """What a run may hold beside the arrays of `write_run`: evidence, reliability, duplicates."""
    random = np.random.default_rng(1)
    described = json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]
    number, num_classes = described["num_samples"], len(described["classes"])
    share = np.linspace(0.05, 0.95, 10)
    reliability = np.stack([share, np.clip(share + 0.03, 0, 1), np.full(10, 20.0)], axis=1)
    reliability[4] = np.nan
    arrays: dict[str, Any] = {
        "evidence": random.random((number, len(KINDS)), dtype=np.float32),
        "evidence_names": np.array(KINDS),
        "reliability": reliability,
    }
    if described["truth_known"]:
        arrays["reliability_truth"] = reliability - [0, 0.02, 0]
    if num_classes <= 20:
        share = 0.8 * np.eye(num_classes) + 0.2 * np.roll(np.eye(num_classes), 1, axis=1)
        arrays |= {"transition": share, "transition_low": share * 0.75}
        arrays["transition_high"] = np.minimum(1, share * 1.25 + 0.01)
    else:
        arrays["pair_rows"] = np.array([[0, 1], [5, 2], [7, 3]])
        arrays["pair_counts"] = np.array([3.2, 40.4, 12.0])
        arrays |= {"pair_low": 0.5 * arrays["pair_counts"]}
        arrays |= {"pair_high": 2.0 * arrays["pair_counts"]}
    given = pd.read_parquet(run / "labels.parquet").given_label.to_numpy()
    pairs = [(k, k + 1) for k in range(number - 1) if given[k] != given[k + 1]][:30]
    arrays["duplicates"] = np.array(pairs)
    arrays["duplicate_similarity"] = np.linspace(1, 0.97, len(pairs)).astype(np.float32)
    if described["kind"] == "images":
        size = (len(pairs), 2, *described["shape"])
        arrays["duplicate_images"] = random.integers(0, 255, size, dtype=np.uint8)
    return arrays


def write_full_run(path: Path, **options: Any) -> Path:
    """A run with all that the report can show."""
    run = write_run(path, **options)
    with np.load(run / "evidence.npz") as file:
        np.savez(run / "evidence.npz", **dict(file), **new_arrays(run))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | NEW_SUMMARY))
    return run


def judged_elsewhere(run: Path) -> Path:
    """Make a run one whose probabilities were computed elsewhere: nothing was trained."""
    path = run / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["external"] = {"pred_probs": "p.npy", "are": "logits", "features": None}
    described["command"] = "labelwise audit x --pred-probs p.npy"
    path.write_text(json.dumps(described), encoding="utf-8")
    (run / "metrics.jsonl").unlink()
    return run


STAGES = (("simclr", 6), ("scan", 4), ("scanmix", 5))
"""Names and epochs of the stages of `staged`."""


def stage_row(stage: str, epoch: int, known: bool) -> dict[str, Any]:
    """What an epoch (from 0) of a stage has in `metrics.jsonl`; `known`: whether the truth is."""
    accuracy, purity = ("accuracy", "purity") if known else ("agreement", "agreement")
    if stage == "simclr":
        measured = {
            f"knn_{accuracy}": 0.4 + 0.05 * epoch,
            f"neighbour_{purity}": 0.3 + 0.05 * epoch,
        }
        terms = {"contrast/contrast": 5.0 - 0.5 * epoch}
        return {**(measured if epoch % 2 else {}), **terms, "phase_seconds": {"contrast": 2.0}}
    if stage == "scan":
        measured = {f"cluster_{accuracy}": 0.6 + 0.1 * epoch, "clusters_used": 1.0}
        terms = {"cluster/consistency": 2.0 - 0.1 * epoch, "cluster/entropy": -1.0}
        return {**measured, **terms, "phase_seconds": {"cluster": 7.0}}
    row: dict[str, Any] = {"test_accuracy": 0.5 + 0.07 * epoch, "phase_seconds": {"mix-0": 30.0}}
    if epoch == 0:
        return row | {"warmup-0/cross_entropy": 2.0, "warmup-1/cross_entropy": 2.2}
    row |= {"clean_fraction_0": 0.8, "clean_fraction_1": 0.7, "estimated_noise_rate": 0.2}
    row |= {"kept_neighbours_0": 0.5 + 0.1 * epoch, "kept_neighbours_1": 0.4 + 0.1 * epoch}
    for peer in range(2):
        row |= {f"cluster-{peer}/consistency": 1.0, f"cluster-{peer}/entropy": -3.0 + peer}
        row |= {f"divide-{peer}/labelled": 1.5, f"divide-{peer}/unlabelled": 0.5}
    return row


def staged(run: Path) -> Path:
    """Make a run one of ScanMix: SimCLR, SCAN, then the method."""
    path = run / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["config"] |= {"method": "sanm+scanmix", "pretrain": "simclr+scan"}
    path.write_text(json.dumps(described), encoding="utf-8")
    known = bool(described["data"]["truth_known"])
    rows = [
        {"stage": stage, **stage_row(stage, epoch, known)}
        for stage, epochs in STAGES
        for epoch in range(epochs)
    ]
    text = "\n".join(json.dumps({"epoch": k + 1, **row}) for k, row in enumerate(rows))
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run


def with_early_losses(run: Path, spread: float = 0.5, method: str | None = None) -> Path:
    """Add losses of the first scoring, larger for wrong labels; the first 5 were not trained on.

    Args:
        run: the folder.
        spread: standard deviation; the two groups' means are 1 and 2.5.
        method: its new name, or None.
    """
    random = np.random.default_rng(4)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    wrong = arrays["loss"] > 0.5
    loss = np.where(wrong, 2.5, 1.0) + spread * random.standard_normal(len(wrong))
    loss[:5] = np.nan
    np.savez(run / "evidence.npz", **arrays, early_loss=loss.astype(np.float32))
    path = run / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["data"]["input_hash"] = "fedcba9876543210"
    if method is not None:
        described["config"]["method"] = method
    path.write_text(json.dumps(described), encoding="utf-8")
    return run


def with_masks(
    run: Path,
    size: tuple[int, int] = (8, 8),
    channels: int = 3,
    kinds: tuple[str, ...] = ("image", "hot", "cold", "rebuilt"),
    grid: tuple[int, int] = (4, 4),
) -> Path:
    """Add what a run that masks holds: four pairs, the last doubtful sample without a partner.

    Args:
        run: the folder.
        size: height and width of the pictures.
        channels: of the pictures, 1 or 3.
        kinds: of the pictures of each sample.
        grid: rows and columns of the activation map; fewer than four cells have no focus.
    """
    random = np.random.default_rng(5)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    number = len(arrays["loss"])
    doubtful = arrays["worst"][:4]
    given = pd.read_parquet(run / "labels.parquet").given_label.to_numpy()
    sure = [
        np.setdiff1d(np.flatnonzero(given == given[row]), arrays["worst"])[place]
        for place, row in enumerate(doubtful)
    ]
    copies = [kind for kind in kinds if kind not in ("image", "rebuilt")]
    arrays |= {
        "masks_rows": np.stack([doubtful, [*sure[:3], -1]], axis=1),
        "masks_kinds": np.array(kinds),
        "masks_pictures": random.integers(
            0, 255, (4, 2, len(kinds), channels, *size), dtype=np.uint8
        ),
        "masks_maps": random.integers(0, 255, (4, 2, *size), dtype=np.uint8),
        "masks_boxes": np.tile(np.float32([0.25, 0.5, 0.125, 0.25]), (4, 2, len(copies), 1)),
        "masks_grid": np.array(grid),
        "masks_ratio": np.array("adaptive"),
    }
    if grid[0] * grid[1] >= 4:
        wrong = arrays["loss"] > 0.5
        focus = np.where(wrong, 0.6, 0.4) + 0.05 * random.standard_normal(number)
        arrays["masks_focus_rows"] = np.arange(number)
        arrays["masks_focus"] = focus.astype(np.float32)
    np.savez_compressed(run / "evidence.npz", **arrays)
    return run


def with_hardness(run: Path, anchors: str = "hallucinated", networks: int = 1) -> Path:
    """Add what a run of anchor hallucination holds.

    The first four samples are in no state, since another label was trained on there. Up to 14
    samples are shown, the last of them with half of the votes; on the first voted two more anchors
    than are kept.

    Args:
        run: the folder.
        anchors: what voted: "hallucinated", "mixed", "easy" or "none".
        networks: of the run; two have figures under two names.
    """
    random = np.random.default_rng(6)
    described = json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    number, classes = len(arrays["loss"]), [str(name) for name in described["classes"]]
    table = pd.read_parquet(run / "labels.parquet")
    given = np.array([classes.index(name) for name in table.given_label])
    looks = np.array([classes.index(name) for name in table.suggested_label])
    state = np.where(
        given == looks, random.choice([1, 1, 2], number), random.choice([2, 3], number)
    )
    state[np.flatnonzero(state == 2)[:6]] = 3  # confirmed
    state[:4] = 0
    if anchors == "none":
        state[state == 3] = 2
    corrected = np.flatnonzero(state == 3)
    target = np.where(state == 3, looks, given)
    trust = np.select([state == 1, state == 3], [0.9, 1.0], 0.0)
    changed = corrected[looks[corrected] != given[corrected]]
    shown = changed[:14]
    trust[shown[-1:]] = 0.5
    easy = np.flatnonzero(state == 1)
    near = random.choice(easy, (len(shown), 4))
    near[:, 3] = np.where(np.arange(len(shown)) % 2, near[:, 3], -1)
    far = np.full_like(near, -1) if anchors == "easy" else random.choice(easy, near.shape)
    far[near < 0] = -1
    voters = np.unique(np.concatenate([near, far])[np.concatenate([near, far]) >= 0])
    points = np.flatnonzero(state > 0)
    voted = np.repeat(corrected, 2)
    own: dict[str, Any] = {
        "state": state.astype(np.uint8),
        "target": np.where(state > 0, target, -1).astype(np.int8),
        "trust": trust.astype(np.float16),
        "anchors": np.array(anchors),
        "rows": shown,
        "voters": (near >= 0).sum(1) + 2 * (np.arange(len(shown)) == 0),
        "near": near,
        "far": far,
        "near_labels": np.where(near < 0, -1, target[shown][:, None]),
        "far_labels": np.where(far < 0, -1, given[far]),
        "closeness": np.where(near < 0, 0, random.uniform(0.5, 1, near.shape)).astype("f4"),
        "similarity": np.where(near < 0, 0, random.uniform(0.5, 1, near.shape)).astype("f4"),
        "points": random.random((len(points) + len(voted), 2), dtype=np.float32),
        "point_rows": points,
        "anchor_rows": voted,
        "anchor_labels": target[voted],
    }
    if described["kind"] == "images":
        size = tuple(described["shape"])
        own["images"] = random.integers(0, 255, (len(shown), *size), dtype=np.uint8)
        own["voter_rows"] = voters
        own["voter_images"] = random.integers(0, 255, (len(voters), *size), dtype=np.uint8)
    arrays |= {f"hardness_{name}": values for name, values in own.items()}
    np.savez_compressed(run / "evidence.npz", **arrays)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for epoch, row in enumerate(rows[1:]):  # the first is a warm-up
        for end in ("",) if networks == 1 else ("_0", "_1"):
            row[f"easy{end}"] = 0.6 - 0.02 * epoch
            row[f"anchor_cross_entropy{end}"] = 0.3 / (1 + epoch)
            row[f"anchor_dissimilarity{end}"] = 0.12
            if anchors != "none":
                row |= {f"corrected{end}": 0.1 + 0.02 * epoch, f"vote_share{end}": 0.97}
                row[f"anchor_similarity_least{end}"] = 0.9
        if described["truth_known"]:
            row |= {"labelled_right": 0.9, "easy_right": 0.95, "hard_clean_kept": 0.7}
            row |= {"corrected_right": 0.9 + 0.02 * epoch} if anchors != "none" else {}
            row |= {"wrong_mended": 0.3}
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return run
