"""What a step costs with SANM around it, and how much of it is masking: both sides alternated.

    OMP_NUM_THREADS=1 python benchmarks/sanm_cost.py --out benchmarks/sanm_cost.json

Both sides are the package's own loop on the same random images, in one process; they take turns,
and the medians are compared. "masking" times the drawing of the ratios, the boxes, the fill and
the softened targets for one batch. Not in it: the activation map, a forward of the network, which
stands apart; joining and mixing the channels that carry the unmasked images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise import outputs
from labelwise.losses.classification import one_hot
from labelwise.losses.masking import soften
from labelwise.methods.sanm import SANM, MaskedStep
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase
from rows import write_rows
from throughput import run_steps, trainer_of

HOSTS = ("ce", "mixup", "coteaching+", "dividemix")
CASES = (("digits' size", 8, "small_resnet"), ("CIFAR's size", 32, "small_resnet"))
LARGE = ("CIFAR's size", 32, "preact_resnet18")
BATCH, EPOCH, NUM = 64, 3, 1024


def prepared(
    spec: str, side: int, model: str, precision: str, folder: Path
) -> tuple[Trainer, Phase]:
    """A trainer and the phase of an epoch after the warm-up that is timed."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (NUM, 3, side, side), dtype=np.uint8))
    labels = draw.integers(0, 10, NUM)
    trainer = trainer_of(spec, (images, labels), model, folder, precision)
    trainer.ledger.decisions.update(threshold=0.5, lambda_u=25.0, loss_window=1.0)
    for number in range(len(trainer.networks)):
        clean = torch.from_numpy(draw.random(NUM)).float()
        trainer.ledger.set("clean", number, clean)
    phase = next(p for p in trainer.method.phases(EPOCH) if p.trains)
    return trainer, phase


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def masking(trainer: Trainer, phase: Phase, rounds: int) -> dict[str, float]:
    """Median seconds of the masking of one step, and of its activation map."""
    method, step = trainer.method, phase.step
    assert isinstance(method, SANM)
    assert isinstance(step, MaskedStep)
    context = trainer._context(phase)
    sides = ("clean", "noisy") if method.num_sides == 2 and len(phase.trains) == 1 else ("train",)
    views = 2 if len(sides) == 2 else 1
    images = trainer.store.plain(torch.arange(BATCH))
    target = one_hot(trainer.store.labels[:BATCH], 10)
    clean = torch.rand(BATCH)
    maps: list[Tensor | None] = [None]
    joined = torch.cat([images] * len(sides))

    def look() -> None:
        if step.guided(context, images):
            maps[0] = step.activation(context, joined)[:BATCH]

    def mask() -> None:
        for side in sides:
            draw = context.draw.within(side)
            ratio = step.masker.ratios(clean, draw)
            soften(target, ratio)
            step.masker(images, maps[0], ratio, draw, views)

    with torch.no_grad():
        looked = [seconds_of(look) for _ in range(rounds)]
        masked = [seconds_of(mask) for _ in range(rounds)]
    return {"map": statistics.median(looked), "masking": statistics.median(masked)}


def compare(host: str, case: tuple[str, int, str], options: argparse.Namespace) -> dict[str, Any]:
    """Time host and wrapper in turn."""
    name, side, model = case
    with tempfile.TemporaryDirectory() as folder:
        pair = [
            prepared(spec, side, model, options.precision, Path(folder) / str(number))
            for number, spec in enumerate((host, f"sanm+{host}"))
        ]
        steps = options.steps
        for trainer, phase in pair:
            run_steps(trainer, phase, steps)
        times: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for held, (trainer, phase) in zip(times, pair, strict=True):
                held.append(seconds_of(lambda t=trainer, p=phase: run_steps(t, p, steps)) / steps)  # type: ignore[misc]
        parts = masking(*pair[1], options.rounds * 3)
    plain, masked = (statistics.median(held) for held in times)
    row = {"host": host, "case": name, "side": side, "model": model, "rounds": options.rounds}
    row |= {"host_ms": plain * 1e3, "sanm_ms": masked * 1e3, "ratio": masked / plain}
    row |= {"map_ms": parts["map"] * 1e3, "masking_ms": parts["masking"] * 1e3}
    row["masking_share"] = parts["masking"] / masked
    row["all_host_ms"], row["all_sanm_ms"] = ([s * 1e3 for s in held] for held in times)
    return row


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/sanm_cost.json"))
    add("--precision", default="bf16-mixed", help="as of `labelwise fit --precision`")
    add("--rounds", type=int, default=9)
    add("--steps", type=int, default=4, help="steps a turn")
    add("--large", action="store_true", help="PreAct ResNet-18 at 32 pixels instead")
    options = parser.parse_args()
    cases = (LARGE,) if options.large else CASES
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    about = {
        "versions": outputs.versions(),
        "hardware": outputs.hardware("cpu"),
        "commit": outputs.commit(),
        "machine": platform.platform(),
        "precision": options.precision,
    }
    print("| size | network | host | host, ms | with SANM, ms | ratio | map, ms | masking, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        for host in HOSTS:
            row = compare(host, case, options)
            same = ("host", "case", "model")
            again = [r for r in rows if all(r[k] == row[k] for k in same)]
            rows = [r for r in rows if r not in again] + [row | about]
            print(
                f"| {row['side']} px | {row['model']} | {host} | {row['host_ms']:.1f} "
                f"| {row['sanm_ms']:.1f} | {row['ratio']:.2f} | {row['map_ms']:.1f} "
                f"| {row['masking_ms']:.2f} ({row['masking_share']:.1%}) |",
                flush=True,
            )
            write_rows(rows, options.out)


if __name__ == "__main__":
    main()
