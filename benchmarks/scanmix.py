"""ScanMix and its parts: the ablation of the paper's table 4, sweeps of settings, real images.

    python benchmarks/scanmix.py --out benchmarks/scanmix.json --workers 2
    python benchmarks/scanmix.py --suite sweeps --share
    python benchmarks/scanmix.py --suite cifar --data TRAIN.parquet --test TEST.parquet --share

`table4` trains SCAN alone, DivideMix alone, pre-training with DivideMix (C2D) and ScanMix on
digits under several noises; `sweeps` changes one setting of ScanMix at a time under severe noise;
`cifar` trains on part of CIFAR-10 at half its resolution. Each run is a process of its own with
one thread; a crash loses one run. Rows are written as they come, and rows that are there already
are not run again. No labels are planted beside the noise.

`--share` pre-trains once per noise and seed instead of once per run, on the very training rows
of the runs (`labelwise pretrain digits` would take the test rows too, and which rows are test
rows depends on the noise); the hash of the inputs is compared. `wall_seconds` then leaves the
pre-training out, which stands in `pretraining_seconds`; the tables add them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from labelwise.methods import known_methods
from rows import call, mean, write_rows

SEVERE = "symmetric:0.9"
NOISES = ("symmetric:0.5", "symmetric:0.8", SEVERE, "asymmetric:0.4", "instance:0.4")
TITLES = {
    "scan": "SCAN alone, clusters named",
    "dividemix": "DivideMix alone",
    "c2d": "pre-training + DivideMix",
    "scanmix": "ScanMix",
}
SWEEPS = (
    "scanmix-without-estep-filter",
    *(f"scanmix-entropy-weight-{weight}" for weight in (0, 1, 2, 10)),
    *(f"scanmix-neighbours-{count}" for count in (5, 10, 50)),
)
CIFAR = ("ce", "dividemix", "c2d", "scanmix")
FIELDS = (
    "test_accuracy_last",
    "test_accuracy_best",
    "label_error_auroc",
    "label_error_average_precision",
    "estimated_noise_rate",
    "realised_noise_rate",
    "num_samples",
    "epochs",
    "wall_seconds",
    "peak_memory_bytes",
    "stages",
    "decisions",
)
FIGURES = ("knn_accuracy", "neighbour_purity", "cluster_accuracy", "clusters_used")


@dataclass(frozen=True)
class Job:
    """One run: of which suite, a recipe or method, the noise and the seed."""

    suite: str
    name: str
    noise: str
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others."""
        return dict(vars(self))

    @property
    def pretrains(self) -> bool:
        """Whether it begins with SimCLR."""
        return self.name not in ("ce", "dividemix")

    @property
    def clusters(self) -> bool:
        """Whether SCAN is part of it."""
        return self.name.startswith("scan")


class Lab:
    """Runs jobs through the command line; shares pre-training where that was asked for."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def run(self, job: Job) -> dict[str, Any]:
        """Train once and return the row, or a row with the end of the error."""
        shared = self.options.share and job.pretrains
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            out = Path(folder) / "run"
            try:
                start = self.pretrained(job) if shared else None
                init = [] if start is None else ["--init", str(start["folder"])]
                noise = ["--noise", job.noise, "--plant", "0"]  # nothing wrong beside the noise
                test = ["--test", str(self.options.test)] if job.suite == "cifar" else []
                how = [*noise, *test, *self.method(job, shared), *init]
                summary = call("fit", *self.data(job), *how, out=out)
                return {**job.key, **read_row(out, summary, start)}
            except RuntimeError as error:
                return {**job.key, "error": str(error)[-500:]}

    def data(self, job: Job) -> list[str]:
        """Arguments that say what is read; the noise is planted in it."""
        options = self.options
        limit = options.limit
        found = ["digits"]
        if job.suite == "cifar":
            found = [str(options.data), "--label-column", "label"]
            found += ["--image-size", str(options.image_size)]
            limit = limit or 10_000
        found += [] if limit is None else ["--limit", str(limit)]
        return [*found, "--seed", str(job.seed)]

    def method(self, job: Job, shared: bool) -> list[str]:
        """Arguments that say how."""
        options = self.options
        found = ["--method" if job.suite == "cifar" else "--recipe", job.name]
        if options.epochs is not None and job.name != "scan":
            found += ["--epochs", str(options.epochs)]
        if job.pretrains and not shared:
            found += assigned("simclr.epochs", options.simclr_epochs)
        return [*found, *(assigned("scan.epochs", options.scan_epochs) if job.clusters else [])]

    def pretrained(self, job: Job) -> dict[str, Any]:
        """The folder and the figures of SimCLR on the training rows of a noise and seed.

        Runs of other settings but the same noise and seed get the same; the first makes it.

        Raises:
            RuntimeError: it failed.
        """
        epochs, limit = self.options.simclr_epochs, self.options.limit
        place = self.folder / f"simclr-{job.suite}-{job.noise}-{job.seed}".replace(":", "-")
        with self.locks[place.name]:
            if (place / "summary.json").exists():
                pass
            elif job.suite == "cifar":  # with --test all rows are for training
                how = ["--method", "simclr", *assigned("simclr.epochs", epochs)]
                how += ["--truth-column", "label"]  # figures only
                call("pretrain", *self.data(job), *how, out=place)
            else:
                with get_context("spawn").Pool(1) as pool:
                    try:
                        pool.apply(pretrain_digits, (job, limit, epochs, place))
                    except Exception as error:
                        raise RuntimeError(f"pre-training: {error}") from error
        summary = json.loads((place / "summary.json").read_text())
        described = json.loads((place / "config.json").read_text())
        return {
            "folder": place,
            "seconds": summary["wall_seconds"],
            "images": summary["num_samples"] * summary["epochs"],
            "stages": summary["stages"],
            "input_hash": described["data"]["input_hash"],
        }


def pretrain_digits(job: Job, limit: int | None, epochs: int | None, out: Path) -> None:
    """SimCLR on the training rows of a run on digits, as the run itself splits them."""
    from labelwise.config import RunConfig
    from labelwise.experiment import prepare
    from labelwise.pretrained import finish_pretraining
    from labelwise.running import start_run
    from labelwise.training.folder import RunFolder
    from labelwise.training.progress import Silent

    read = {"data": "digits", "seed": job.seed, "limit": limit, "plant": 0.0, "threads": 1}
    prepared = prepare(RunConfig.parse({**read, "noise": job.noise}, "the benchmark"))
    how = {"method": "simclr", "pretrain": "simclr"}
    settings = {} if epochs is None else {"simclr.epochs": epochs}
    config = RunConfig.parse({**read, **how, "settings": settings}, "the benchmark")
    alone = replace(prepared, test=None, noise=None)
    start_run(config, alone, RunFolder(out), Silent(), finish_pretraining)


def assigned(name: str, value: object) -> list[str]:
    """Arguments that set a setting; None leaves it."""
    return [] if value is None else ["--set", f"{name}={value}"]


def read_row(out: Path, summary: dict[str, Any], start: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of a finished run; `start` is the pre-training that it shares with others."""
    described = json.loads((out / "config.json").read_text())
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    row = {field: summary.get(field) for field in FIELDS}
    stages = [*(start["stages"] if start else []), *(summary.get("stages") or [])]
    row["stages"] = stages
    for figure in FIGURES:
        row[figure] = next((s[figure] for s in reversed(stages) if figure in s), None)
    # Images drawn for steps: a second view, and scoring, are not counted.
    row["image_passes"] = epochs[-1]["images"] + (start["images"] if start else 0)
    row["pretraining_seconds"] = start["seconds"] if start else None
    if start and start["input_hash"] != described["data"]["input_hash"]:
        raise RuntimeError("the shared pre-training was on other rows than the run")
    config = described["config"]
    row["settings"], row["schedule"] = config["settings"], config["schedule"]
    return row | {key: described[key] for key in ("versions", "hardware", "commit")}


# -- tables ------------------------------------------------------------------------------------


def paper(name: str, noise: str) -> str:
    """The number of CIFAR-10 that the paper of a method gives; "-" where it is not known."""
    kind, _, rate = noise.partition(":")
    found = known_methods()[name].paper_numbers if name in known_methods() else {}
    cell = f"cifar10 {kind} {round(100 * float(rate))}"
    for which in ("last", "best"):
        if f"{cell} {which}" in found:
            return f"{found[f'{cell} {which}']:.1f}{'' if which == 'last' else ' (best)'}"
    return "-"


COLUMNS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "n": lambda of: str(len(of)),
    "last-10 accuracy %": lambda of: mean((r["test_accuracy_last"] for r in of), 100),
    "best %": lambda of: mean((r["test_accuracy_best"] for r in of), 100),
    "label-error AUROC": lambda of: mean((r["label_error_auroc"] for r in of), 1, 3),
    "estimated rate": lambda of: mean((r["estimated_noise_rate"] for r in of), 1, 3),
    "realised": lambda of: mean((r["realised_noise_rate"] for r in of), 1, 3),
    "k-NN %": lambda of: mean((r["knn_accuracy"] for r in of), 100),
    "neighbour purity %": lambda of: mean((r["neighbour_purity"] for r in of), 100),
    "cluster accuracy %": lambda of: mean((r["cluster_accuracy"] for r in of), 100),
    "images, 1,000": lambda of: mean((r["image_passes"] for r in of), 1e-3, 0),
    "seconds": lambda of: mean((total_seconds(r) for r in of), 1, 0),
}


def total_seconds(row: dict[str, Any]) -> float:
    """Seconds of the run, with the pre-training that it shared with others."""
    return float(row["wall_seconds"]) + float(row["pretraining_seconds"] or 0.0)


def table(rows: list[dict[str, Any]], suite: str) -> str:
    """Markdown: a line per noise and recipe, the paper's number beside ours for table 4."""
    known = [row for row in rows if "error" not in row]
    own = [row for row in known if row["suite"] == suite]
    if suite == "sweeps":  # the whole of ScanMix to compare with
        noises = {row["noise"] for row in own}
        whole = [row for row in known if (row["suite"], row["name"]) == ("table4", "scanmix")]
        own += [row for row in whole if row["noise"] in noises]
    published = suite == "table4"
    columns = ["noise", "method", *(["paper, CIFAR-10 %"] if published else []), *COLUMNS]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for noise in dict.fromkeys((*NOISES, *(row["noise"] for row in own))):
        for name in dict.fromkeys((*TITLES, *SWEEPS, *(row["name"] for row in own))):
            of = [row for row in own if (row["noise"], row["name"]) == (noise, name)]
            if of:
                cells = [noise, TITLES.get(name, name)]
                cells += [paper(name, noise)] if published else []
                cells += [column(of) for column in COLUMNS.values()]
                lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    if published:
        text += (
            "\n\nThe paper's column is the main table of each method's paper (CIFAR-10, mean of "
            "the last\nepochs, C2D's best epoch); '-' is not known to us, nor are the numbers of "
            "ScanMix's table 4\nitself. Ours are on digits: compare the order, not the numbers."
        )
    failed = [row for row in rows if "error" in row and row["suite"] == suite]
    for row in failed:
        text += f"\nfailed: {row['name']} {row['noise']} {row['seed']}: {row['error'][-200:]}"
    return text


# -- which runs --------------------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> list[Job]:
    """All runs of a suite, seed by seed."""
    names: tuple[str, ...] = {"table4": tuple(TITLES), "sweeps": SWEEPS, "cifar": CIFAR}[
        options.suite
    ]
    noises = {"table4": NOISES, "sweeps": (SEVERE,), "cifar": ("symmetric:0.8",)}[options.suite]
    return [
        Job(options.suite, name, noise, seed)
        for seed in range(options.seeds)
        for noise in options.noises or noises
        for name in options.names or names
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/scanmix.json"))
    add("--suite", choices=("table4", "sweeps", "cifar"), default="table4")
    add("--seeds", type=int, default=3)
    add("--workers", type=int, default=2)
    add("--names", nargs="*", help="recipes (cifar: methods) of the suite; default all")
    add("--noises", nargs="*", help="default: those of the suite")
    add("--share", action="store_true", help="one pre-training per noise and seed (digits)")
    add("--table", action="store_true", help="print the tables of what is there; run nothing")
    add("--epochs", type=int, help="of the main part; default scales with the data")
    add("--simclr-epochs", type=int, help="default scales with the data")
    add("--scan-epochs", type=int, help="default scales with the data")
    add("--limit", type=int, help="images; default: all of digits, 10,000 of CIFAR-10")
    add("--image-size", type=int, default=16, help="pixels (cifar)")
    add("--data", type=Path, help="training manifest (cifar)")
    add("--test", type=Path, help="test manifest (cifar)")
    options = parser.parse_args()
    if options.suite == "cifar" and not options.table and not (options.data and options.test):
        parser.error("--suite cifar needs --data and --test")
    return options


def job_of(row: dict[str, Any]) -> Job:
    """The run that a row is of."""
    return Job(row["suite"], row["name"], row["noise"], row["seed"])


def main() -> None:
    """Run what is missing and print the table."""
    options = parse()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {job_of(row) for row in rows if "error" not in row}
    wanted = [] if options.table else [job for job in jobs(options) if job not in done]
    rows = [row for row in rows if job_of(row) not in wanted]  # errors that are tried again
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        lab = Lab(options, Path(folder))
        for future in as_completed([pool.submit(lab.run, job) for job in wanted]):
            row = future.result()
            rows.append(row)
            write_rows(rows, options.out)
            told = row.get("error") or row["test_accuracy_last"]
            print(row["suite"], row["name"], row["noise"], row["seed"], told, flush=True)
    suites = dict.fromkeys(row["suite"] for row in rows) if options.table else (options.suite,)
    for suite in suites:
        print(f"\n{suite}\n\n{table(rows, suite)}")


if __name__ == "__main__":
    main()
