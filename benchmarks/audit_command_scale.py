"""Time and peak memory of `labelwise audit --pred-probs` on many samples and classes.

A file of float16 probabilities is made on disk (2 kB per sample at 1,000 classes), the command
audits it in a process of its own, and the file is removed.

    python benchmarks/audit_command_scale.py --samples 1000000 --classes 1000
        --out benchmarks/audit_command_scale.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NOISE = 0.2
"""Share of the labels that are drawn anew."""
BLOCK = 4096


def make(folder: Path, num_samples: int, num_classes: int, seed: int = 0) -> None:
    """Write `pred_probs.npy` and `labels.parquet` (id, label, true_label)."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(seed)
    true = draw.integers(0, num_classes, num_samples)
    given = true.copy()
    changed = draw.random(num_samples) < NOISE
    given[changed] = draw.integers(0, num_classes, int(changed.sum()))
    path = folder / "pred_probs.npy"
    shape = (num_samples, num_classes)
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_samples, BLOCK):
            part = true[start : start + BLOCK]
            logits = draw.standard_normal((len(part), num_classes), dtype=np.float32)
            sharpness = 2 + 8 * draw.random(len(part), dtype=np.float32)
            logits[np.arange(len(part)), part] += sharpness
            values = np.exp(logits - logits.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
            file.write(values.astype("<f2").tobytes())
    names = [f"class-{number:04d}" for number in range(num_classes)]
    frame = pd.DataFrame({"id": np.arange(num_samples)})
    for column, codes in (("label", given), ("true_label", true)):
        frame[column] = pd.Categorical.from_codes(codes, names)
    frame.to_parquet(folder / "labels.parquet")


def measure(num_samples: int, num_classes: int, scratch: Path | None) -> dict[str, Any]:
    """Make the files, run the command, and return the row."""
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place)
        # In a process of its own: a child's peak starts from its parent's memory.
        maker = [sys.executable, __file__, "--samples", str(num_samples)]
        maker += ["--classes", str(num_classes), "--make", place]
        subprocess.run(maker, check=True)
        size = (folder / "pred_probs.npy").stat().st_size
        command = [sys.executable, "-m", "labelwise.cli", "audit", str(folder / "labels.parquet")]
        command += ["--pred-probs", str(folder / "pred_probs.npy"), "--truth-column", "true_label"]
        command += ["--out", str(folder / "run"), "--json"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    assert status == 0, text
    summary = json.loads(text)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "num_samples": num_samples,
        "num_classes": num_classes,
        "file_bytes": size,
        "seconds": round(seconds, 1),
        "audit_seconds": summary["wall_seconds"],
        "peak_memory_bytes": usage.ru_maxrss * unit,
        "estimated_noise_rate": summary["estimated_noise_rate"],
        "noise_rate_interval": summary["noise_rate_interval"],
        "realised_noise_rate": summary["realised_noise_rate"],
        "label_error_auroc": summary["label_error_auroc"],
        "expected_precision": summary["expected_precision"],
        "suspect_precision": summary["suspect_precision"],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def main() -> None:
    """Measure once, print the row and append it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--scratch", type=Path, help="folder for the file of probabilities")
    parser.add_argument("--out", type=Path, help="append the row to this .jsonl file")
    parser.add_argument("--make", type=Path, help="only write the files into this folder")
    options = parser.parse_args()
    if options.make is not None:
        make(options.make, options.samples, options.classes)
        return
    row = measure(options.samples, options.classes, options.scratch)
    from labelwise.outputs import commit, hardware, versions

    row |= {"versions": versions(), "hardware": hardware("cpu"), "commit": commit()}
    text = json.dumps(row)
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as file:  # one write: whole lines only
            file.write(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
