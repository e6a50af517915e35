"""Finding wrong labels: one labelwise run beside cleanlab's cross-validation, on equal terms.

Same data, same network, same augmentation and learning rates.

For every data set and seed three rows: `cleanlab` (five-fold cross-validated cross-entropy,
benchmarks/cleanlab_baseline.py), `quick` (`labelwise audit --quick`) and a robust method
(`labelwise audit`). Rows are appended as they come; those that are there are not run again.

    python benchmarks/audit.py --suite digits --out benchmarks/audit.jsonl
    python benchmarks/audit.py --suite cifar --data cifar10_train.parquet
    python benchmarks/audit.py --table benchmarks/audit.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cleanlab_baseline import baseline
from labelwise import fit

DIGITS = ("symmetric:0.5", "instance:0.4", "asymmetric:0.4", "pairflip:0.4")
HUMAN = ("human_aggregate", "human_random1", "semantic_resnet")
FIGURES = (
    "label_error_auroc",
    "label_error_average_precision",
    "suspect_precision",
    "suspect_recall",
    "expected_precision",
    "calibration_error",
    "calibration_error_truth",
    "estimated_noise_rate",
    "noise_rate_interval",
    "realised_noise_rate",
    "num_samples",
    "num_suspects",
    "suggestion_accuracy",
    "test_accuracy_last",
    "epochs",
    "wall_seconds",
)


def ours(method: str, options: dict[str, Any], epochs: int | None, threads: int) -> dict[str, Any]:
    """One labelwise run through the Python interface, timed from the first step to the report."""
    options = dict(options)
    data = options.pop("data")
    with tempfile.TemporaryDirectory() as folder:
        start, busy = time.perf_counter(), time.process_time()
        result = fit(
            data, method=method, out=Path(folder) / "run", epochs=epochs, threads=threads, **options
        )
        whole, busy = time.perf_counter() - start, time.process_time() - busy
        config = json.loads((result.path / "config.json").read_text())
        summary = result.summary
    row = {name: summary.get(name) for name in FIGURES}
    row |= {"total_seconds": round(whole, 2), "processor_seconds": round(busy, 2)}
    return row | {key: config[key] for key in ("versions", "hardware", "commit")}


def jobs(suite: str, data: str, seeds: Iterable[int], args: argparse.Namespace) -> list[tuple]:
    """(tool, options, epochs) of a suite."""
    found = []
    for seed in seeds:
        if suite == "digits":
            sets = [{"data": "digits", "noise": noise, "seed": seed} for noise in DIGITS]
        else:
            common = {"data": data, "truth_column": "label", "limit": 12_500, "seed": seed}
            sets = [{**common, "label_column": column} for column in HUMAN]
        for options in sets:
            found.append(("cleanlab", options, 20 if suite == "digits" else 15))
            found.append(("quick", options, None))
            found.append((args.robust, options, args.robust_epochs))
    return found


def identity(row: dict[str, Any]) -> tuple:
    """What makes a row the same run."""
    place = Path(str(row["data"])).name
    return (row["tool"], place, row.get("noise"), row.get("label_column"), row["seed"])


def table(rows: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, as Markdown."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        _, place, noise, column, _ = identity(row)
        groups.setdefault((place, noise or column, row["tool"]), []).append(row)
    heads = ("AUROC", "AP", "precision", "recall", "expected precision", "ECE", "rate", "seconds")
    keys = (
        "label_error_auroc",
        "label_error_average_precision",
        "suspect_precision",
        "suspect_recall",
        "expected_precision",
        "calibration_error_truth",
        "estimated_noise_rate",
        "total_seconds",
    )
    lines = [
        "| labels | tool | n | " + " | ".join(heads) + " |",
        "|---|---|---|" + "---|" * len(heads),
    ]
    for (_, noise, tool), members in groups.items():
        true = statistics.mean(row["realised_noise_rate"] for row in members)
        cells = []
        for key in keys:
            values = [row[key] for row in members if row.get(key) is not None]
            digits = 0 if key == "total_seconds" else 3
            if not values:
                cells.append("–")
                continue
            text = f"{statistics.mean(values):.{digits}f}"
            if len(values) > 1:
                text += f" ± {statistics.stdev(values):.{digits}f}"
            cells.append(text)
        lines.append(
            f"| {noise} ({true:.1%} wrong) | {tool} | {len(members)} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=("digits", "cifar"))
    parser.add_argument("--data", default="cifar10_train.parquet", help="for the suite cifar")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--robust", default="dividemix", help="method of the robust row")
    parser.add_argument("--robust-epochs", type=int)
    parser.add_argument("--tools", nargs="*", help="only these tools")
    parser.add_argument("--columns", nargs="*", help="only these noises or label columns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/audit.jsonl"))
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    path = args.table or args.out
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if args.suite:
        torch.set_num_threads(args.threads)
        done = {identity(row) for row in rows}
        for tool, options, epochs in jobs(args.suite, args.data, range(args.seeds), args):
            name = options.get("noise") or options.get("label_column")
            row: dict[str, Any] = {"tool": tool, **options}
            row["data"] = Path(str(options["data"])).name
            skipped = (args.tools and tool not in args.tools) or (
                args.columns and name not in args.columns
            )
            if skipped or identity(row) in done:
                continue
            if tool == "cleanlab":
                busy = time.process_time()
                found = baseline(options, epochs, 5, args.threads)
                found["total_seconds"] = found["training_seconds"] + found["cleanlab_seconds"]
                found["processor_seconds"] = round(time.process_time() - busy, 2)
                found["calibration_error_truth"] = found.pop("quality_calibration_error")
                row = found | row
            else:
                row |= ours(tool, options, epochs, args.threads)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(json.dumps({k: row.get(k) for k in ("tool", "seed", *FIGURES)}), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
