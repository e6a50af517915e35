"""A lab that trains one run per process, keeps its rows, and does not run a row twice."""

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

from rows import call, mean, write_rows

LONG = "for as long"
"""Ends the name of a run that trains for as much time as another one."""
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


@dataclass(frozen=True)
class Job:
    """One run: of which suite, a method or recipe, the noise (or label column) and the seed."""

    suite: str
    name: str
    noise: str
    seed: int


def job_of(row: dict[str, Any]) -> Job:
    """The run that a row is of."""
    return Job(row["suite"], row["name"], row["noise"], row["seed"])


def train_seconds(rows: Iterable[dict[str, Any]]) -> float:
    """Seconds of all phases but the evaluation."""
    return sum(
        seconds
        for row in rows
        for name, seconds in row["phase_seconds"].items()
        if name != "evaluate"
    )


class Lab:
    """Runs jobs on one thread each; a run that trains as long as others waits for their rows.

    Args:
        options: `out`, `workers`, `epochs`, and for the suite "cifar" `data`, `test` and `limit`.
        how: the arguments of `labelwise fit` for the name of a job: its method or recipe.
        data: the arguments of `labelwise fit` for the data of a job; None: digits with the noise,
            and for the suite "cifar" part of CIFAR-10 with the labels of that name.
        figures: what a row takes from the lines of `metrics.jsonl`, beside `FIELDS`.
        measured_by: for the name of a run that trains as long as another one, the names of the run
            with its method and of that other run.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        how: Callable[[Job], list[str]],
        figures: Callable[[list[dict[str, Any]]], dict[str, Any]] = lambda lines: {},
        measured_by: Callable[[str], tuple[str, str]] = lambda name: (name, name),
        data: Callable[[Job], list[str]] | None = None,
    ) -> None:
        self.options, self.how, self.figures = options, how, figures
        self.data = data or self.digits_or_cifar
        self.measured_by = measured_by
        path = options.out
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        self.known = {job_of(row): row for row in self.rows if "error" not in row}
        self.locks: defaultdict[Job, threading.Lock] = defaultdict(threading.Lock)
        self.writing = threading.Lock()

    def run_all(self, jobs: Iterable[Job]) -> None:
        """Run what is not known yet, several at a time."""
        wanted = [job for job in jobs if job not in self.known]
        self.rows[:] = [row for row in self.rows if job_of(row) not in set(wanted)]
        with ThreadPoolExecutor(self.options.workers) as pool:
            for done in as_completed([pool.submit(self.row, job) for job in wanted]):
                done.result()

    def row(self, job: Job) -> dict[str, Any]:
        """The row of a job, run where it is not known yet."""
        with self.locks[job]:
            if job not in self.known:
                try:
                    self.known[job] = self.run(job)
                except RuntimeError as error:
                    self.known[job] = {**vars(job), "error": str(error)[-500:]}
                with self.writing:
                    self.rows.append(self.known[job])
                    write_rows(self.rows, self.options.out)
                told = self.known[job].get("error") or self.known[job]["test_accuracy_last"]
                print(job.suite, job.name, job.noise, job.seed, told, flush=True)
            return self.known[job]

    def run(self, job: Job) -> dict[str, Any]:
        """Train once through the command line and return the row.

        Raises:
            RuntimeError: it failed.
        """
        epochs, data = self.epochs(job), self.data(job)
        how = self.how(job) + ([] if epochs is None else ["--epochs", str(epochs)])
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            summary = call("fit", *data, *how, "--plant", "0", "--seed", str(job.seed), out=out)
            described = json.loads((out / "config.json").read_text())
            text = (out / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        row = {**vars(job), **{field: summary.get(field) for field in FIELDS}}
        row["train_seconds"] = train_seconds(lines)
        row |= self.figures(lines)
        config = described["config"]
        row["settings"], row["schedule"] = config["settings"], config["schedule"]
        return row | {key: described[key] for key in ("versions", "hardware", "commit")}

    def digits_or_cifar(self, job: Job) -> list[str]:
        """The data of a job."""
        if job.suite != "cifar":
            return ["digits", "--noise", job.noise]
        options = self.options
        data = [str(options.data), "--label-column", job.noise, "--truth-column", "label"]
        data += ["--test", str(options.test), "--limit", str(options.limit)]
        return [*data, "--model", "small_resnet"]

    def epochs(self, job: Job) -> int | None:
        """Epochs of a job; None for those of the method."""
        if not job.name.endswith(LONG):
            return None if self.options.epochs is None else int(self.options.epochs)
        own, other = (
            self.row(Job(job.suite, name, job.noise, job.seed))
            for name in self.measured_by(job.name)
        )
        for row in (own, other):
            if "error" in row:
                raise RuntimeError(f"the run that it is measured by failed: {row['name']}")
        return round(own["epochs"] * other["train_seconds"] / own["train_seconds"])


def of_rows(field: str, scale: float = 1.0, digits: int = 1) -> Column:
    """A column: the mean of a field, which not every row has."""
    return lambda rows: mean((row.get(field) for row in rows), scale, digits)


def failures(rows: list[dict[str, Any]], suite: str) -> list[str]:
    """A line for every run that failed."""
    return [
        f"failed: {row['name']} {row['noise']} {row['seed']}: {row['error'][-200:]}"
        for row in rows
        if row["suite"] == suite and "error" in row
    ]


def paired(rows: list[dict[str, Any]], base: list[dict[str, Any]], scale: float = 100) -> str:
    """Mean ± standard deviation of the differences in accuracy, seed by seed, in points."""
    by_seed = {row["seed"]: row["test_accuracy_last"] for row in base}
    gains = [
        row["test_accuracy_last"] - by_seed[row["seed"]] for row in rows if row["seed"] in by_seed
    ]
    return mean(gains, scale)


def arguments(description: str | None, out: Path, suites: tuple[str, ...]) -> Any:
    """A parser with the arguments that such scripts share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=out)
    add("--suite", choices=suites, default=suites[0])
    add("--seeds", type=int, nargs="*", default=[0, 1, 2])
    add("--workers", type=int, default=2)
    add("--names", nargs="*", help="methods or recipes of the suite; default all")
    add("--noises", nargs="*", help="noises, or label columns of CIFAR-10; default all")
    add("--table", action="store_true", help="print the tables of what is there; run nothing")
    add("--epochs", type=int, help="default scales with the data; cifar: 20")
    add("--limit", type=int, default=10_000, help="images (cifar)")
    add("--data", type=Path, help="training manifest (cifar)")
    add("--test", type=Path, help="test manifest (cifar)")
    return parser
