"""Every method on digits under several noises, three seeds: the project's standing regression.

Each run is a process of its own with one thread; a crash loses one run. Rows are appended to the
JSON file as they come, and rows that are there already are not run again.

    python benchmarks/digits.py --out benchmarks/digits.json --workers 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NOISES = ("symmetric:0.5", "symmetric:0.8", "asymmetric:0.4", "instance:0.4")
METHODS = ("ce", "mixup", "coteaching", "coteaching+", "dividemix")
FIELDS = (
    "test_accuracy_last",
    "test_accuracy_best",
    "label_error_auroc",
    "label_error_average_precision",
    "estimated_noise_rate",
    "realised_noise_rate",
    "suspect_precision",
    "suspect_recall",
    "suggestion_accuracy",
    "label_accuracy_suggested",
    "wall_seconds",
    "epochs",
)


def run(method: str, noise: str, seed: int) -> dict[str, Any]:
    """Train once through the command line and return the row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "labelwise.cli", "fit", "digits", "--noise", noise]
        command += ["--method", method, "--seed", str(seed), "--threads", "1", "--json"]
        command += ["--plant", "0"]  # nothing may be wrong beside the noise that is compared
        done = subprocess.run(
            [*command, "--out", str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return {"method": method, "noise": noise, "seed": seed, "error": done.stderr[-500:]}
        summary = json.loads(done.stdout)
        config = json.loads((out / "config.json").read_text())
    row = {"method": method, "noise": noise, "seed": seed}
    row |= {field: summary.get(field) for field in FIELDS}
    row |= {key: config[key] for key in ("versions", "hardware", "commit")}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, a row per noise and method."""
    lines = [
        "| noise | method | n | last-10 accuracy % | best % | label-error AUROC | AP "
        "| estimated / realised rate | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for noise in NOISES:
        for method in METHODS:
            of = [r for r in rows if (r["noise"], r["method"]) == (noise, method)]
            of = [r for r in of if "error" not in r]
            if not of:
                continue

            def show(field: str, scale: float, digits: int, of: list[dict[str, Any]] = of) -> str:
                values = [r[field] * scale for r in of if r[field] is not None]
                if not values:
                    return "-"
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"

            rates = (
                f"{statistics.mean(r['estimated_noise_rate'] for r in of):.3f} / "
                f"{statistics.mean(r['realised_noise_rate'] for r in of):.3f}"
            )
            lines.append(
                f"| {noise} | {method} | {len(of)} | {show('test_accuracy_last', 100, 1)} "
                f"| {show('test_accuracy_best', 100, 1)} | {show('label_error_auroc', 1, 3)} "
                f"| {show('label_error_average_precision', 1, 3)} | {rates} "
                f"| {show('wall_seconds', 1, 0)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/digits.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--noises", nargs="*", default=NOISES)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(r["method"], r["noise"], r["seed"]) for r in rows if "error" not in r}
    wanted = [
        (method, noise, seed)
        for seed in range(options.seeds)
        for noise in options.noises
        for method in options.methods
        if (method, noise, seed) not in done
    ]
    with ThreadPoolExecutor(options.workers) as pool:
        for row in pool.map(lambda job: run(*job), wanted):
            rows.append(row)
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(
                row["method"], row["noise"], row["seed"], row.get("test_accuracy_last"), flush=True
            )
    print(table(rows))


if __name__ == "__main__":
    main()
