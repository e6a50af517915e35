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
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelwise.recipes.sanm import CHANGES, RATIOS, WEIGHTS
from rows import call, mean, write_rows

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
FIELDS = (
    "test_accuracy_last",
    "test_accuracy_best",
    "label_error_auroc",
    "label_error_average_precision",
    "suggestion_accuracy",
    "estimated_noise_rate",
    "realised_noise_rate",
    "num_samples",
    "epochs",
    "wall_seconds",
    "peak_memory_bytes",
)
Column = Callable[[list[dict[str, Any]]], str]
LONG = "for as long"
"""Ends the name of a host that trains for as much time as SANM around it."""


@dataclass(frozen=True)
class Job:
    """One run: of which suite, a method or recipe, the noise (or label column) and the seed."""

    suite: str
    name: str
    noise: str
    seed: int


def run(job: Job, options: argparse.Namespace, epochs: int | None) -> dict[str, Any]:
    """Train once through the command line and return the row.

    Raises:
        RuntimeError: it failed.
    """
    spec = job.name.removesuffix(f", {LONG}")
    how = ["--recipe", spec] if job.suite == "ablation" else ["--method", spec]
    data = ["digits", "--noise", job.noise]
    if job.suite == "cifar":
        data = [str(options.data), "--label-column", job.noise, "--truth-column", "label"]
        data += ["--test", str(options.test), "--limit", str(options.limit)]
        data += ["--model", "small_resnet"]
    how += [] if epochs is None else ["--epochs", str(epochs)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = call("fit", *data, *how, "--plant", "0", "--seed", str(job.seed), out=out)
        described = json.loads((out / "config.json").read_text())
        lines = (out / "metrics.jsonl").read_text().splitlines()
    row = {**vars(job), **{field: summary.get(field) for field in FIELDS}}
    row["train_seconds"] = train_seconds(json.loads(line) for line in lines)
    config = described["config"]
    row["settings"], row["schedule"] = config["settings"], config["schedule"]
    return row | {key: described[key] for key in ("versions", "hardware", "commit")}


def train_seconds(rows: Iterable[dict[str, Any]]) -> float:
    """Seconds of all phases but the evaluation."""
    return sum(
        seconds
        for row in rows
        for name, seconds in row["phase_seconds"].items()
        if name != "evaluate"
    )


class Lab:
    """Runs jobs; a host that trains as long as SANM waits for the two rows it is measured by."""

    def __init__(self, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
        self.options, self.rows = options, rows
        self.known = {job_of(row): row for row in rows if "error" not in row}
        self.locks: defaultdict[Job, threading.Lock] = defaultdict(threading.Lock)
        self.writing = threading.Lock()

    def row(self, job: Job) -> dict[str, Any]:
        """The row of a job, run where it is not known yet."""
        with self.locks[job]:
            if job not in self.known:
                try:
                    self.known[job] = run(job, self.options, self.epochs(job))
                except RuntimeError as error:
                    self.known[job] = {**vars(job), "error": str(error)[-500:]}
                with self.writing:
                    self.rows.append(self.known[job])
                    write_rows(self.rows, self.options.out)
                told = self.known[job].get("error") or self.known[job]["test_accuracy_last"]
                print(job.suite, job.name, job.noise, job.seed, told, flush=True)
            return self.known[job]

    def epochs(self, job: Job) -> int | None:
        """Epochs of a job; None for those of the method."""
        if job.suite != "cifar" or not job.name.endswith(LONG):
            return None if self.options.epochs is None else int(self.options.epochs)
        host = job.name.removesuffix(f", {LONG}")
        plain, masked = (
            self.row(Job(job.suite, name, job.noise, job.seed)) for name in (host, f"sanm+{host}")
        )
        for row in (plain, masked):
            if "error" in row:
                raise RuntimeError(f"the run that it is measured by failed: {row['name']}")
        return round(int(self.options.epochs) * masked["train_seconds"] / plain["train_seconds"])


def job_of(row: dict[str, Any]) -> Job:
    """The run that a row is of."""
    return Job(row["suite"], row["name"], row["noise"], row["seed"])


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


def paired(rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation of the differences in accuracy, seed by seed, in points."""
    by_seed = {row["seed"]: row["test_accuracy_last"] for row in base}
    gains = [
        row["test_accuracy_last"] - by_seed[row["seed"]] for row in rows if row["seed"] in by_seed
    ]
    return mean(gains, 100)


def base_name(suite: str, name: str) -> str:
    """What a row is compared with: the host, or the whole of SANM in an ablation."""
    if suite == "ablation":
        return "-".join(name.split("-")[:2])
    return name.removeprefix("sanm+").removesuffix(f", {LONG}")


def of_rows(field: str, scale: float = 1.0, digits: int = 1) -> Column:
    """A column: the mean of a field, which not every row has."""
    return lambda rows: mean((row.get(field) for row in rows), scale, digits)


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
    lines += [
        f"failed: {row['name']} {row['noise']} {row['seed']}: {row['error'][-200:]}"
        for row in rows
        if row["suite"] == suite and "error" in row
    ]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/sanm.json"))
    add("--suite", choices=("table", "ablation", "cifar"), default="table")
    add("--seeds", type=int, nargs="*", default=[0, 1, 2])
    add("--workers", type=int, default=2)
    add("--names", nargs="*", help="methods or recipes of the suite; default all")
    add("--noises", nargs="*", help="noises, or label columns of CIFAR-10; default all")
    add("--table", action="store_true", help="print the tables of what is there; run nothing")
    add("--epochs", type=int, help="default scales with the data; cifar: 20")
    add("--limit", type=int, default=10_000, help="images (cifar)")
    add("--data", type=Path, help="training manifest (cifar)")
    add("--test", type=Path, help="test manifest (cifar)")
    options = parser.parse_args()
    if options.suite == "cifar":
        options.epochs = options.epochs or 20
        if not options.table and not (options.data and options.test):
            parser.error("--suite cifar needs --data and --test")
    return options


def main() -> None:
    """Run what is missing and print the table."""
    options = parse()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    own = {job_of(row) for row in rows}
    others = [row for row in other_rows(Path(__file__).parent) if job_of(row) not in own]
    if options.epochs is not None:
        others = []
    if not options.table:
        measured = {job_of(row) for row in others}
        wanted = [job for job in jobs(options) if job not in measured]
        rows = [row for row in rows if "error" not in row or job_of(row) not in wanted]
        lab = Lab(options, rows)
        with ThreadPoolExecutor(options.workers) as pool:
            for future in as_completed([pool.submit(lab.row, job) for job in wanted]):
                future.result()
    suites = dict.fromkeys(row["suite"] for row in rows) if options.table else (options.suite,)
    for suite in suites:
        print(f"\n{suite}\n\n{table([*others, *rows], suite)}")


if __name__ == "__main__":
    main()
