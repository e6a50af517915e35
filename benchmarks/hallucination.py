"""Anchor hallucination beside its rivals: tables on digits, ablation, long tails, real images.

    python benchmarks/hallucination.py --out benchmarks/hallucination.json --workers 2
    python benchmarks/hallucination.py --suite ablation
    python benchmarks/hallucination.py --suite tails
    python benchmarks/hallucination.py --suite cifar --data TRAIN.parquet --test TEST.parquet

`table` trains on digits under instance-dependent and semantic noise, at the methods' own epochs
and, for CE and SANM around it, for as much time as anchor hallucination took. `ablation` runs
its recipes. `tails` thins out the training classes of digits, from all of their samples to a
twentieth; the test set keeps all classes alike. `cifar` trains on 10,000 CIFAR-10 images at
32 pixels with a small network. `cost` is for the seconds alone (`--workers 1`, an otherwise idle
machine): this method and DivideMix in turn. Each run is a process of its own with one thread; a
crash loses one run. Rows are written as they come, and rows that are there already are not run
again. No labels are planted beside the noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lab import LONG, Column, Job, Lab, arguments, failures, of_rows, paired
from labelwise.recipes.hallucination import recipes

METHODS = (
    "ce",
    f"ce, {LONG}",
    "sanm+ce",
    f"sanm+ce, {LONG}",
    "dividemix",
    "tscsi",
    "hallucination",
    "sanm+hallucination",
)
PARTS = ("hallucination-easy-only", "hallucination-nearest-easy")
NOISES = (
    *(f"instance:0.{tenths}" for tenths in (2, 3, 4, 5)),
    *(f"semantic:0.{tenths}" for tenths in (3, 4)),
)
LABELS = ("semantic_resnet",)
SUITES = ("table", "ablation", "tails", "cifar", "cost")
DIVISION = (
    "labelled_right",
    "hard_clean_kept",
    "wrong_mended",
    "easy_right",
    "corrected_right",
    "corrected_count",
)
LAST = 10
RAREST = 0.05
"""Share of the samples that the rarest class of the long-tailed digits keeps."""
ALONE = ["--set", "hallucination.easy_least=0", "--set", "hallucination.revive=0"]
"""No rule keeps a class alive."""
TAILS: dict[str, list[str]] = {
    "ce": ["--method", "ce"],
    "dividemix": ["--method", "dividemix"],
    "hallucination": ["--method", "hallucination"],
    "hallucination-easy-only": ["--recipe", "hallucination-easy-only"],
    "no least share": ["--method", "hallucination", *ALONE],
    "no upper bound": ["--recipe", "hallucination-unbalanced"],
    "neither": ["--recipe", "hallucination-unbalanced", *ALONE],
}
"""Runs on long tails, by name."""


def how(job: Job) -> list[str]:
    """The method or recipe of a job."""
    if job.suite == "tails":
        return TAILS[job.name]
    spec = job.name.removesuffix(f", {LONG}")
    return ["--recipe" if spec in recipes() else "--method", spec]


def long_tailed(folder: Path) -> tuple[Path, Path]:
    """Write digits with classes from frequent to rare, and a test set of all classes alike.

    Class k of 0 to 9 keeps the share `RAREST ** (k / 9)` of its training samples.
    """
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    kept, test, rows, held = train_test_split(
        *(images, digits.target), test_size=0.2, random_state=0, stratify=digits.target
    )
    chosen = []
    for label in range(10):
        own = np.flatnonzero(rows == label)
        chosen.append(own[: round(len(own) * RAREST ** (label / 9))])
    thin = np.concatenate(chosen)
    paths = folder / "tails.npz", folder / "test.npz"
    np.savez(paths[0], images=kept[thin], labels=rows[thin])
    np.savez(paths[1], images=test, labels=held)
    return paths


def measured_by(name: str) -> tuple[str, str]:
    """What trains as long as anchor hallucination: its own run and that one."""
    return name.removesuffix(f", {LONG}"), "hallucination"


def figures(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """How the data are divided: in the first epoch after warm-up, and in the last ones."""
    divided = [line for line in lines if "labelled_right" in line]
    found: dict[str, Any] = {}
    for name in DIVISION:
        if values := [line[name] for line in divided if name in line]:
            found[f"first_{name}"] = values[0]
            found[name] = mean(values[-LAST:])
    return found


COLUMNS: dict[str, Column] = {
    "last-10 %": of_rows("test_accuracy_last", 100),
    "best %": of_rows("test_accuracy_best", 100),
    "AUROC": of_rows("label_error_auroc", 1, 4),
    "labelled right %": of_rows("labelled_right", 100),
    "hard clean kept %": of_rows("hard_clean_kept", 100),
    "wrong mended %": of_rows("wrong_mended", 100),
    "corrections right %": of_rows("corrected_right", 100),
    "corrections": of_rows("corrected_count", 1, 0),
    "epochs": lambda rows: ", ".join(sorted({str(row["epochs"]) for row in rows})),
    "seconds": of_rows("train_seconds", 1, 0),
}


def table(rows: list[dict[str, Any]], suite: str) -> str:
    """Markdown: a line per noise and run, with the whole method's gain over it."""
    own = [row for row in rows if row["suite"] == suite and "error" not in row]
    columns = ("noise", "run", "n", "hallucination gains", *COLUMNS)
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    order = list(dict.fromkeys((*METHODS, *recipes(), *TAILS)))
    names = sorted({row["name"] for row in own}, key=order.index)
    for noise in sorted({row["noise"] for row in own}):
        whole = [r for r in own if (r["noise"], r["name"]) == (noise, "hallucination")]
        for name in names:
            of = [r for r in own if (r["noise"], r["name"]) == (noise, name)]
            if of:
                gain = "" if name == "hallucination" else paired(whole, of)
                cells = [noise, name, str(len(of)), gain, *(show(of) for show in COLUMNS.values())]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *failures(rows, suite)])


def jobs(options: argparse.Namespace) -> list[Job]:
    """All runs of a suite, seed by seed; the parts of the method in its table too."""
    names = {
        "table": (*METHODS, *PARTS),
        "ablation": tuple(recipes()),
        "tails": tuple(TAILS),
        "cifar": (*METHODS, *PARTS),
        "cost": ("dividemix", "hallucination"),
    }
    tails = ("instance:0.4", "semantic:0.3")
    cost = ("instance:0.2", "instance:0.5", "semantic:0.4")
    noises = {
        "table": NOISES,
        "ablation": NOISES[-1:],
        "tails": tails,
        "cifar": LABELS,
        "cost": cost,
    }
    return [
        Job(options.suite, name, noise, seed)
        for seed in options.seeds
        for noise in options.noises or noises[options.suite]
        for name in options.names or names[options.suite]
    ]


def main() -> None:
    """Run what is missing and print the table."""
    parser = arguments(__doc__, Path("benchmarks/hallucination.json"), SUITES)
    options = parser.parse_args()
    if options.suite == "cifar":
        options.epochs = options.epochs or 20
        if not options.table and not (options.data and options.test):
            parser.error("--suite cifar needs --data and --test")
    with TemporaryDirectory() as folder:
        train, test = long_tailed(Path(folder))

        def tails(job: Job) -> list[str]:
            return [str(train), "--test", str(test), "--noise", job.noise]

        data = tails if options.suite == "tails" else None
        lab = Lab(options, how, figures, measured_by, data)
        if not options.table:
            lab.run_all(jobs(options))
    suites = dict.fromkeys(row["suite"] for row in lab.rows)
    for suite in suites if options.table else (options.suite,):
        print(f"\n{suite}\n\n{table(lab.rows, suite)}")


if __name__ == "__main__":
    main()
