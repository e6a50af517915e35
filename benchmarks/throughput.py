"""labelwise against a plain implementation of the same training, alternated in one run.

Run: `python benchmarks/throughput.py [--minutes M] [--data FILE] [--json FILE] [--small]`.

The labelwise side is the package's own loop: its trainer runs phases whose plan is cut to the
number of steps that is timed, or all phases of an epoch. The plain side (`benchmarks/plain/`) is
the usual way to write the same mathematics: float32, one image at a time through Pillow in loader
workers, one forward per view (SimCLR: both views in one forward, as is usual there).

`--only simclr simclr-small` compares a step of contrastive pre-training, with the large and the
small network. `--only dividemix-epoch sanm-epoch simclr-epoch scanmix-epoch ce-epoch` compares
whole epochs of `--images N`: scoring, mixtures, training of both networks, evaluation. Where other
work shares the cores set OMP_WAIT_POLICY=PASSIVE, as the command line does: both sides get it, and
threads that wait do not take the cores from those that work.

Both sides take the same images, batch sizes, network class and optimiser. They live in two
processes, so that neither gets the other's memory allocator or thread pool, and take turns: while
one is timed the other waits. The plain loader's queue is full before the clock starts, so that its
workers refill it during plain steps only, as they do in the middle of an epoch. In a whole epoch
its loaders keep their workers from one epoch to the next, and start with empty queues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alternating import ROUNDS_AT_LEAST, Row
from bench import LARGE, SMALL, WORKERS, Bench, Options
from comparisons import COMPARISONS, STEPS
from labelwise import outputs

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures hold for."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        known = next(line for line in cpuinfo.splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        known = []
    return {
        **outputs.hardware(device),
        "flags": [flag for flag in FLAGS if flag in known],
        "versions": outputs.versions(),
        "commit": outputs.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--minutes", type=float, default=12.0, help="time for all comparisons")
    add("--data", type=Path, help="a manifest of images; else random ones")
    add("--json", type=Path, help="write the figures here")
    add("--small", action="store_true", help="small network, to try the script")
    add("--only", nargs="*", choices=sorted(COMPARISONS), help="comparisons; default: the steps")
    add("--simclr-batch", type=int, default=256, help="images of a SimCLR step")
    add("--threads", type=int, help="CPU threads; the default is PyTorch's")
    add("--workers", type=int, default=WORKERS, help="of each plain loader")
    add("--precision", default="auto", help="of the labelwise side")
    add("--plain-precision", default="32-true", help="of the plain side")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of both sides")
    add("--limit", type=int, default=4096, help="images read")
    add("--image-size", type=int, help="side of the images, pixels; default as they are, or 32")
    add("--batch", type=int, default=64, help="images a step and side")
    add("--images", type=int, default=512, help="images of a whole epoch")
    add("--test-images", type=int, default=128, help="images of its evaluation")
    add("--epoch-images", type=int, default=640, help="timed of a CE epoch's steps")
    add("--score-images", type=int, default=2048, help="timed of a score pass")
    add("--losses", type=int, default=1_000_000, help="for the mixture")
    add("--rounds", type=int, default=ROUNDS_AT_LEAST, help="turns of each side, at least")
    return parser.parse_args(arguments)


def options_of(given: argparse.Namespace) -> Options:
    """The options that the comparisons share."""
    named = {name: value for name, value in vars(given).items() if name in vars(Options())}
    return Options(**named, model=SMALL if given.small else LARGE)


def show_parts(row: Row) -> None:
    """Print where the time goes."""
    total = sum(row.parts.values())
    print(f"\nWhere labelwise's {row.name} goes (median):")
    for name, seconds in row.parts.items():
        print(f"  {name:26} {seconds:8.3f} s {seconds / total:6.1%}")


def main() -> int:
    given = parse()
    if given.threads:
        torch.set_num_threads(given.threads)
    found = machine(given.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options_of(given), Path(folder))
        print(f"{bench.model}, {bench.source}; {found['cpu']}, {found['threads']} threads")
        print(f"{' '.join(found['flags'])}; commit {found['commit']}; {found['versions']}\n")
        print(f"{'seconds: median (min..max)':40} {'labelwise':>30} {'plain':>30} {'ratio':>6}   n")
        chosen = {name: COMPARISONS[name] for name in given.only or STEPS}
        whole = sum(share for share, _ in chosen.values())
        rows = [
            row
            for share, compare in chosen.values()
            for row in compare(bench, 60 * given.minutes * share / whole)
        ]
    for row in rows:
        if row.note:
            print(f"  {row.name}: {row.note}")
        if row.parts:
            show_parts(row)
    if given.json:
        content = {
            "model": bench.model,
            "data": bench.source,
            "machine": found,
            "rows": [row.to_json() for row in rows],
            "step_parts_seconds": {row.name: row.parts for row in rows if row.parts},
        }
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
