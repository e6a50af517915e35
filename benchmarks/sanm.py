"""SANM around its hosts: the table on digits, the ablations, real images, and the cost of a step.

    python benchmarks/sanm.py --out benchmarks/sanm.json --workers 2
    python benchmarks/sanm.py --suite ablation
    python benchmarks/sanm.py --suite cifar --data TRAIN.parquet --test TEST.parquet

`table` trains every host with and without SANM on digits under four noises; rows of ScanMix alone
that stand in `scanmix.json` are read from there. `ablation` runs the recipes around two
hosts. `cifar` trains on 10,000 CIFAR-10 images at 32 pixels with a small network: a host, SANM
around it for as many epochs, and the host for as much time as SANM took. Each run is a process of
its own with one thread; a crash loses one run. Rows are written as they come, and rows that are
there already are not run again. No labels are planted beside the noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lab import LONG, Column, Job, Lab, arguments, failures, job_of, of_rows, paired
from labelwise.recipes.sanm import CHANGES, RATIOS, WEIGHTS

HOSTS = ("ce", "mixup", "coteaching+", "dividemix", "c2d", "scanmix")
NOISES = ("symmetric:0.5", "symmetric:0.8", "asymmetric:0.4", "instance:0.4")
LABELS = ("human_random1", "symmetric_50")
ABLATION = tuple(
    f"sanm-{host}{name}"
    for host in ("ce", "dividemix")
    for name in (
        "",
        *(f"-{change}" for change in CHANGES),
        *(f"-ratio-{ratio}" for ratio in RATIOS),
        *(f"-reconstruction-{weight}" for weight in WEIGHTS),
    )
)


def how(job: Job) -> list[str]:
    """The method or recipe of a job."""
    spec = job.name.removesuffix(f", {LONG}")
    return ["--recipe", spec] if job.suite == "ablation" else ["--method", spec]


def measured_by(name: str) -> tuple[str, str]:
    """A host that trains as long as SANM around it: its own run and SANM's."""
    host = name.removesuffix(f", {LONG}")
    return host, f"sanm+{host}"


# -- tables ------------------------------------------------------------------------------------


def other_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of ScanMix without SANM that `scanmix.py` has measured on the same data."""
    path = folder / "scanmix.json"
    found = []
    for row in json.loads(path.read_text()) if path.exists() else []:
        shared = row["suite"] == "table4" and "error" not in row
        if shared and row["name"] == "scanmix" and row["noise"] in NOISES:
            whole = row["wall_seconds"] + (row.get("pretraining_seconds") or 0.0)
            found.append({**row, "suite": "table", "wall_seconds": whole})
    return found


def base_name(suite: str, name: str) -> str:
    """What a row is compared with: the host, or the whole of SANM in an ablation."""
    if suite == "ablation":
        return "-".join(name.split("-")[:2])
    return name.removeprefix("sanm+").removesuffix(f", {LONG}")


COLUMNS: dict[str, Column] = {
    "last-10 %": of_rows("test_accuracy_last", 100),
    "best %": of_rows("test_accuracy_best", 100),
    "AUROC": of_rows("label_error_auroc", 1, 4),
    "AP": of_rows("label_error_average_precision", 1, 3),
    "suggestions right %": of_rows("suggestion_accuracy", 100),
    "epochs": lambda rows: ", ".join(sorted({str(row["epochs"]) for row in rows})),
    "seconds": of_rows("wall_seconds", 1, 0),
}


def table(rows: list[dict[str, Any]], suite: str) -> str:
    """Markdown: a line per noise and run, with its gain over what it is compared with."""
    own = [row for row in rows if row["suite"] == suite and "error" not in row]
    columns = ("noise", "run", "n", "gain", *COLUMNS)
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    order = [*(f"{s}{h}" for h in HOSTS for s in ("", "sanm+")), *ABLATION]
    names = sorted(
        {row["name"] for row in own}, key=lambda n: order.index(n) if n in order else len(order)
    )
    for noise in dict.fromkeys((*NOISES, *(row["noise"] for row in own))):
        for name in names:
            of = [r for r in own if (r["noise"], r["name"]) == (noise, name)]
            base = [r for r in own if (r["noise"], r["name"]) == (noise, base_name(suite, name))]
            if of:
                gain = "" if base_name(suite, name) == name else paired(of, base)
                cells = [noise, name, str(len(of)), gain, *(show(of) for show in COLUMNS.values())]
                lines.append("| " + " | ".join(cells) + " |")
    lines += failures(rows, suite)
    return "\n".join(lines)


# -- which runs --------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> list[Job]:
    """All runs of a suite, seed by seed."""
    names: dict[str, tuple[str, ...]] = {
        "table": tuple(f"{prefix}{host}" for host in HOSTS for prefix in ("", "sanm+")),
        "ablation": ABLATION,
        "cifar": ("ce", "sanm+ce", f"ce, {LONG}"),
    }
    noises = {"table": NOISES, "ablation": ("symmetric:0.5", "instance:0.4"), "cifar": LABELS}
    return [
        Job(options.suite, name, noise, seed)
        for seed in options.seeds
        for noise in options.noises or noises[options.suite]
        for name in options.names or names[options.suite]
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__, Path("benchmarks/sanm.json"), ("table", "ablation", "cifar"))
    options = parser.parse_args()
    if options.suite == "cifar":
        options.epochs = options.epochs or 20
        if not options.table and not (options.data and options.test):
            parser.error("--suite cifar needs --data and --test")
    return options


def main() -> None:
    """Run what is missing and print the table."""
    options = parse()
    lab = Lab(options, how, measured_by=measured_by)
    own = {job_of(row) for row in lab.rows}
    others = [row for row in other_rows(Path(__file__).parent) if job_of(row) not in own]
    if options.epochs is not None:
        others = []
    if not options.table:
        measured = {job_of(row) for row in others}
        lab.run_all(job for job in jobs(options) if job not in measured)
    rows = lab.rows
    suites = dict.fromkeys(row["suite"] for row in rows) if options.table else (options.suite,)
    for suite in suites:
        print(f"\n{suite}\n\n{table([*others, *rows], suite)}")


if __name__ == "__main__":
    main()
