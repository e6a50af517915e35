"""Predicted against measured peak memory of short real trainings, each in a process of its own.

Run: `python benchmarks/memory.py [CASE ...] [--data FILE] [--threads N] [--json FILE]`.

The prediction is the one a run makes before it starts; the measurement is `peak_memory_bytes` of
its summary, the largest resident memory of its process. This script itself loads nothing large,
because a child process starts with its parent's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

IMAGES = {"label_column": "label", "noise": "symmetric:0.5"}
CASES: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "noise": "symmetric:0.5"},
    "embeddings": {"data": "embeddings"},
    "small-bf16": {**IMAGES, "model": "small_resnet", "limit": 1500},
    "small-float32": {**IMAGES, "model": "small_resnet", "limit": 1500, "precision": "32-true"},
    "small-few": {**IMAGES, "model": "small_resnet", "limit": 400},
    "resnet18-few": {**IMAGES, "model": "preact_resnet18", "limit": 150},
    "resnet18-ce": {**IMAGES, "model": "preact_resnet18", "limit": 600, "method": "ce"},
    "resnet18": {**IMAGES, "model": "preact_resnet18", "limit": 300, "batch_size": 64},
}
TARGET = 0.2
RUN = {"epochs": 2, "schedule": {"warmup": 1}}
"""One epoch of warm-up and one of everything else."""


def child(name: str, data: str | None, threads: int | None) -> None:
    """Train one case and print its figures."""
    import numpy as np
    import torch

    import labelwise
    from labelwise.training import memory

    if threads:
        torch.set_num_threads(threads)
    case = {"data": data, **CASES[name]}
    draw = np.random.default_rng(0)
    if case["data"] == "embeddings":
        case["data"] = draw.normal(size=(20_000, 512)).astype(np.float32)
        case["labels"] = draw.integers(0, 10, len(case["data"]))
    elif case["data"] is None:
        size = case["limit"]
        case["data"] = draw.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        case["labels"] = np.arange(size) % 10
        del case["label_column"]
    predicted: dict[str, int] = {}
    require = memory.require_memory

    def listen(parts: dict[str, int], device: torch.device) -> None:
        predicted.update(parts)
        require(parts, device)

    memory.require_memory = listen  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        result = labelwise.fit(out=Path(folder) / "run", device="cpu", **RUN, **case)
        peak = result.summary["peak_memory_bytes"]
    print(json.dumps({"peak": peak, "predicted": predicted}))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--child", name]
    if options.data is not None:
        command += ["--data", str(options.data)]
    environment = dict(os.environ)
    if options.threads:
        command += ["--threads", str(options.threads)]
        environment["OMP_NUM_THREADS"] = str(options.threads)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    total = sum(figures["predicted"].values())
    return {"case": name, **figures, "total": total, "error": total / figures["peak"] - 1}


def show(row: dict[str, Any]) -> str:
    """A line of the table."""
    mebi = 2**20
    parts = ", ".join(
        f"{part} {size / mebi:.0f}" for part, size in row["predicted"].items() if size >= mebi
    )
    missed = "" if abs(row["error"]) <= TARGET else "  OUTSIDE"
    figures = f"{row['peak'] / mebi:9.0f} {row['total'] / mebi:10.0f} {row['error']:+7.0%}"
    return f"{row['case']:15} {figures}{missed}   {parts}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Predicted against measured peak memory.")
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--data", help="a manifest of 32x32 images; else random ones")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.cases[0], options.data, options.threads)
        return 0
    print(f"{'MiB':15} {'measured':>9} {'predicted':>10} {'error':>7}   parts predicted")
    rows = []
    for name in options.cases:
        rows.append(measure(name, options))
        print(show(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(abs(row["error"]) > TARGET for row in rows))


if __name__ == "__main__":
    sys.exit(main())
