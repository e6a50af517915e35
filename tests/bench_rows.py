"""Made-up rows of a suite, as `labelwise bench` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

METHODS = ("ce", "mixup", "coteaching+", "dividemix", "scanmix", "sanm+scanmix")
NOISES = ("symmetric:0.5", "symmetric:0.8", "asymmetric:0.4")
HEIGHT = {"ce": 0.62, "mixup": 0.66, "coteaching+": 0.71, "dividemix": 0.93, "scanmix": 0.945}
HARDNESS = {"symmetric:0.5": 0.0, "symmetric:0.8": 0.2, "asymmetric:0.4": 0.06}


@dataclass(frozen=True)
class FakeCell:
    row: str
    column: str
    paper_last: float | None = None
    paper_best: float | None = None
    source: str = ""


@dataclass(frozen=True)
class FakeSuite:
    name: str = "toy"
    title: str = "Toy: six methods under three kinds of noise"
    summary: str = "Made-up numbers, to look at the tables."
    cells: tuple[FakeCell, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


PAPERS = {
    ("dividemix", "symmetric:0.5"): (94.4, 94.6),
    ("scanmix", "symmetric:0.8"): (92.6, 93.5),
    ("scanmix", "asymmetric:0.4"): (None, 93.7),
}


def suite(methods: tuple[str, ...] = METHODS, noises: tuple[str, ...] = NOISES) -> FakeSuite:
    return FakeSuite(
        cells=tuple(
            FakeCell(
                method,
                noise,
                *PAPERS.get((method, noise), (None, None)),
                "arXiv 2103.11395",
            )
            for noise in noises
            for method in methods
        )
    )


def row(method: str, noise: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A finished run whose numbers follow from its place alone."""
    random = np.random.default_rng([seed, *method.encode(), *noise.encode()])
    top = HEIGHT.get(method, 0.95) - HARDNESS.get(noise, 0.1) * (1.2 - HEIGHT.get(method, 0.95))
    epochs = np.arange(1, 31)
    falls = 0.004 * np.maximum(epochs - 12, 0) * (method in ("ce", "mixup"))
    curve = top * (1 - np.exp(-epochs / 4)) - falls + random.normal(0, 0.006, len(epochs))
    curve = [round(float(v), 4) for v in np.clip(curve, 0, 1)]
    rate = float(noise.partition(":")[2] or 0.4)
    return {
        "suite": "toy",
        "name": method,
        "method": method,
        "recipe": None,
        "row": method,
        "column": noise,
        "dataset": "digits",
        "noise": noise,
        "label_column": None,
        "seed": seed,
        "status": "done",
        "test_accuracy_last": float(np.mean(curve[-10:])),
        "test_accuracy_last_epochs": 10,
        "test_accuracy_best": max(curve),
        "accuracies": curve,
        "label_error_auroc": float(np.clip(top + random.normal(0, 0.01), 0, 1)),
        "label_error_average_precision": 0.9,
        "suggestion_accuracy": float(np.clip(top - 0.05 + random.normal(0, 0.01), 0, 1)),
        "estimated_noise_rate": rate + float(random.normal(0, 0.02)),
        "realised_noise_rate": rate - 0.01 + 0.004 * seed,
        "num_samples": 1438,
        "epochs": 30,
        "wall_seconds": 10.0 + 8 * len(method),
        "seconds": 12.0 + 8 * len(method) + seed,
        "peak_memory_bytes": 400_000_000 + 10_000_000 * len(method),
        "paper_last": None,
        "paper_best": None,
        "settings": {},
        "schedule": {},
        "model": "mlp",
        "image_size": None,
        "decisions": {},
        "config_digest": "0" * 16,
        "versions": {"python": "3.11.9", "torch": "2.6.0", "labelwise": "0.1.0"},
        "hardware": {"cpu": "Made-up CPU @ 2.00GHz", "threads": 1},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "date": f"2026-01-02T03:0{seed}:00+00:00",
        "command": f"labelwise fit digits --method {method} --noise {noise} --seed {seed}",
    } | changes


def failed(method: str, noise: str, seed: int, error: str = "no room") -> dict[str, Any]:
    """A run that failed."""
    whole = row(method, noise, seed)
    keep = ("suite", "name", "method", "row", "column", "seed", "date", "command")
    return {key: whole[key] for key in keep} | {"status": "failed", "error": error, "seconds": 3.0}


def rows(
    methods: tuple[str, ...] = METHODS, noises: tuple[str, ...] = NOISES
) -> list[dict[str, Any]]:
    """Every cell and seed once."""
    return [row(m, n, seed) for seed in (0, 1, 2) for n in noises for m in methods]


def troubled() -> list[Any]:
    """Rows of all kinds: failures, gaps, several machines, bad numbers, strangers."""
    found: list[Any] = [
        r
        for r in rows()
        if (r["row"], r["column"], r["seed"])
        not in {
            ("scanmix", "symmetric:0.8", 2),
            ("coteaching+", "asymmetric:0.4", 0),
            ("coteaching+", "asymmetric:0.4", 1),
            ("coteaching+", "asymmetric:0.4", 2),
            *(("sanm+scanmix", "symmetric:0.5", seed) for seed in (0, 1)),
            *(("mixup", "symmetric:0.5", seed) for seed in (0, 1, 2)),
        }
    ]
    found += [failed("coteaching+", "asymmetric:0.4", seed) for seed in (0, 1)]
    found.append(failed("scanmix", "symmetric:0.8", 2, "<b>loss</b> is NaN & 50% | x_1"))
    found.insert(0, failed("ce", "symmetric:0.5", 0, "killed"))
    found.append(row("mixup", "symmetric:0.5", 0, test_accuracy_last=None))
    found.append(row("mixup", "symmetric:0.5", 1, test_accuracy_last=float("nan")))
    found.append(row("retired", "symmetric:0.5", 0))
    found.append(row("retired", "symmetric:0.5", 1))
    found.append(
        row(
            "ce",
            "symmetric:0.8",
            1,
            hardware={"cpu": "Another CPU", "threads": 4, "gpu": "Made-up GPU"},
            commit="fedcba9876543210fedcba9876543210fedcba98",
        )
    )
    found += [
        "no row",
        None,
        {},
        {"row": "ce", "column": "symmetric:0.5", "status": "done"},
        row("ce", "symmetric:0.5", 7, status="running"),
        row("dividemix", "asymmetric:0.4", 2, label_error_auroc=3.0, accuracies=["x", None, 0.5]),
    ]
    return found
