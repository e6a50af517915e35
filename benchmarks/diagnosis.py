"""How well `labelwise diagnose` tells the noise rate: error and coverage over seeds.

python benchmarks/diagnosis.py --seeds 20 --out benchmarks/diagnosis.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from labelwise import diagnose
from labelwise.config import RunConfig
from labelwise.experiment import prepare
from labelwise.outputs import commit, hardware, versions

NOISES = tuple(f"{kind}:{rate}" for kind in ("symmetric", "instance") for rate in (0.2, 0.4, 0.6))
CLOSE = 0.03


def look(noise: str, seed: int, threads: int) -> dict[str, Any]:
    """One diagnosis of digits, beside the rate that is really wrong."""
    options = {"noise": noise, "seed": seed}
    truth = prepare(RunConfig.parse({"data": "digits", **options}, "the benchmark"))
    assert truth.truth is not None
    found = diagnose("digits", threads=threads, **options)
    true = float((truth.train.labels != truth.truth.labels).double().mean())
    return {
        **options,
        "realised": true,
        "estimated": found.noise_rate,
        "low": found.interval[0],
        "high": found.interval[1],
        "estimates": dict(found.estimates),
        "method": found.method,
        "seconds": found.seconds,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Error in points, hits and coverage by noise, as Markdown."""
    lines = [
        "| noise | n | error, points | within 3 points | interval covers | half-width | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise in dict.fromkeys(row["noise"] for row in rows):
        own = [row for row in rows if row["noise"] == noise]
        errors = [100 * (row["estimated"] - row["realised"]) for row in own]
        close = sum(abs(error) <= 100 * CLOSE for error in errors)
        covered = sum(row["low"] <= row["realised"] <= row["high"] for row in own)
        half = statistics.mean(50 * (row["high"] - row["low"]) for row in own)
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        lines.append(
            f"| {noise} | {len(own)} | {statistics.mean(errors):+.1f} ± {spread:.1f} | "
            f"{close} of {len(own)} | {covered} of {len(own)} | {half:.1f} | "
            f"{statistics.median(row['seconds'] for row in own):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every noise and seed, write the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/diagnosis.json"))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    described = {"versions": versions(), "hardware": hardware("cpu"), "commit": commit()}
    for seed in range(args.seeds):
        for noise in NOISES:
            rows.append(look(noise, seed, args.threads))
            args.out.write_text(json.dumps({**described, "rows": rows}, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
