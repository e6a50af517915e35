"""Time and memory of an audit of 1,000,000 samples and 1,000 classes, from made-up probabilities.

Full probabilities would take 4 GB in float32; they are made block by block and only the 50
largest of every sample are kept. Labels are 20 % wrong, each true class having four classes it is
confused with. Peak memory is the resident memory of this process, so each part is measured after
the parts before it.

    python benchmarks/audit_scale.py --threads 1 --out benchmarks/audit_scale.json
    python benchmarks/audit_scale.py --samples 20000 --classes 100   # a quick look
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.estimation.anchors import Anchors
from labelwise.estimation.bootstrap import num_resamples, with_intervals
from labelwise.estimation.confident_joint import ConfidentJoint
from labelwise.estimation.dual import DualT
from labelwise.estimation.estimator import Evidence
from labelwise.estimation.pairs import confusable_pairs
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.outputs import commit, hardware, versions

WRONG = 0.2
CONFUSED_WITH = 4
BLOCK = 4096
MARGIN = 11.0
"""Logit of the true class above noise of unit variance."""


def made_up(num_samples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """True classes and given labels (N)."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(num_classes, (num_samples,), generator=generator)
    wrong = torch.rand(num_samples, generator=generator) < WRONG
    step = torch.randint(1, CONFUSED_WITH + 1, (num_samples,), generator=generator)
    return true, torch.where(wrong, (true + step) % num_classes, true)


def blocks(true: Tensor, labels: Tensor, num_classes: int) -> Iterator[Tensor]:
    """Probabilities (B, K) of a model that has seen the labels: a little mass is on the given."""
    generator = torch.Generator().manual_seed(1)
    for start in range(0, len(true), BLOCK):
        own, given = true[start : start + BLOCK], labels[start : start + BLOCK]
        logits = torch.randn(len(own), num_classes, generator=generator)
        logits += MARGIN * F.one_hot(own, num_classes) + 2 * F.one_hot(given, num_classes)
        yield logits.softmax(1)


def peak() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(rows: list[dict[str, Any]], part: str, work: Callable[[], Any]) -> Any:
    """Run a part and note its seconds and the peak so far."""
    start = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - start
    rows.append({"part": part, "seconds": round(seconds, 3), "peak_bytes": peak()})
    print(f"{part:32} {seconds:9.2f} s   peak {peak() / 2**20:8.0f} MiB", flush=True)
    return found


def main() -> None:
    """Measure every part once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--keep", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, classes = options.samples, options.classes
    rows: list[dict[str, Any]] = []
    true, labels = timed(rows, "labels (made up)", lambda: made_up(size, classes))
    timed(
        rows,
        "blocks alone (made up)",
        lambda: sum(len(block) for block in blocks(true, labels, classes)),
    )
    probabilities = timed(
        rows,
        "top probabilities, with blocks",
        lambda: TopProbabilities.from_blocks(
            blocks(true, labels, classes), labels, classes, options.keep
        ),
    )
    evidence = Evidence(probabilities)
    estimate = timed(rows, "confident joint", lambda: ConfidentJoint().estimate(evidence))
    quality = timed(rows, "label quality, sorted", probabilities.given.argsort)
    for other in (DualT(), Anchors()):
        timed(rows, other.name, partial(other.estimate, evidence))
    pairs = timed(rows, "confusable pairs", lambda: confusable_pairs(estimate, size))
    bounded = timed(rows, "bootstrap interval", lambda: with_intervals(ConfidentJoint(), evidence))
    wrong = true != labels
    worst = quality[: int(wrong.sum())]
    figures = {
        "samples": size,
        "classes": classes,
        "keep": options.keep,
        "threads": options.threads,
        "parts": rows,
        "peak_bytes": peak(),
        "full_probabilities_bytes": 4 * size * classes,
        "realised_rate": float(wrong.double().mean()),
        "estimated_rate": estimate.noise_rate,
        "interval": [bounded.low, bounded.high],
        "resamples": num_resamples(size, classes),
        "wrong_among_worst": float(wrong[worst].double().mean()),
        "pairs_planted": sum(1 <= (p.given - p.true) % classes <= CONFUSED_WITH for p in pairs),
        "pairs": len(pairs),
        "versions": versions(),
        "hardware": hardware("cpu"),
        "commit": commit(),
    }
    print({name: figures[name] for name in ("realised_rate", "estimated_rate", "interval")})
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
