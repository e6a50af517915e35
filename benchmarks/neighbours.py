"""Time and memory of the exact neighbour search, and what a million rows would take.

    python benchmarks/neighbours.py [--threads N] [--queries Q] [--json benchmarks/neighbours.json]

Whole searches are timed up to 100,000 rows. Of the largest table only `--queries` rows look for
neighbours, against all of it, and the time is scaled: time = a · N² · D, so Q queries against N
rows take a · Q · N · D and all of them N / Q times as long. The result is N · K · (8 + 4) bytes
(row numbers and similarities); beside it and the N · D · 4 bytes of unit vectors there are only
blocks, two at once. "peak" is measured: how far the resident memory of a process that does
nothing else rises during the search, result and unit vectors included; "predicted" is the formula.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise import outputs
from labelwise.data.files import write_json
from labelwise.data.neighbours import BLOCK, nearest_neighbours

SIZES = (10_000, 50_000, 100_000)
LARGEST = 1_000_000
WIDTH, COUNT = 128, 20
KINDS = ("random", "clustered")
CLUSTERS, SPREAD = 100, 0.5
MIB = 2**20


def features(kind: str, size: int, width: int) -> Tensor:
    """Unit vectors (N, D): in all directions, or around `CLUSTERS` centres in mixed order."""
    draw = torch.Generator().manual_seed(0)
    found = torch.randn(size, width, generator=draw)
    if kind == "clustered":
        centres = torch.randn(CLUSTERS, width, generator=draw)
        found.mul_(SPREAD).add_(centres[torch.randint(CLUSTERS, (size,), generator=draw)])
    return F.normalize(found, dim=1)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(
    kind: str, size: int, queries: int | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Search once; seconds, and how far the peak rose."""
    torch.set_num_threads(options.threads)
    table = features(kind, size, options.width)
    nearest_neighbours(table[:2000], options.count)  # wake the threads and kernels
    # Rows in mixed order already: the first are a sample.
    rows = None if queries is None else torch.arange(min(queries, size))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = resident()
    start, start_cpu = time.perf_counter(), time.process_time()
    found, _ = nearest_neighbours(table, options.count, queries=rows)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    asked = len(found)
    rate = seconds / (asked * size * options.width)
    return {
        "kind": kind,
        "rows": size,
        "queries": asked,
        "seconds": seconds,
        "cpu_seconds": cpu,  # far below threads * seconds: the cores were not free
        "picoseconds_per_product": rate * 1e12,  # a of a · N² · D
        "seconds_all_rows": rate * size * size * options.width,
        "peak_bytes": peak - before,
        "predicted_bytes": predicted(asked, size, options),
        "result_bytes_all_rows": size * options.count * 12,
    }


def predicted(asked: int, size: int, options: argparse.Namespace) -> int:
    """Result, unit vectors and two blocks of similarities (the last and the next), in bytes."""
    count, width = int(options.count), int(options.width)
    return asked * count * 12 + size * width * 4 + 2 * BLOCK * BLOCK * 4


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = [
        "| features | N | queries | seconds | CPU s | s for all N | a, ps | peak MiB "
        "| predicted MiB | result for all N, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"| {row['kind']} | {row['rows']:,} | {row['queries']:,} | {row['seconds']:.2f} "
        f"| {row['cpu_seconds']:.2f} | {row['seconds_all_rows']:,.1f} "
        f"| {row['picoseconds_per_product']:.2f} "
        f"| {row['peak_bytes'] / MIB:.0f} | {row['predicted_bytes'] / MIB:.0f} "
        f"| {row['result_bytes_all_rows'] / MIB:.0f} |"
        for row in rows
    ]
    return "\n".join(head + lines)


def main() -> None:
    """Measure every case in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=8192, help="of the largest table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="whole searches")
    parser.add_argument("--largest", type=int, default=LARGEST, help="0: leave it out")
    parser.add_argument("--width", type=int, default=WIDTH, help="D")
    parser.add_argument("--count", type=int, default=COUNT, help="K")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    cases: list[tuple[str, int, int | None]] = [(k, n, None) for k in KINDS for n in options.sizes]
    cases += [(kind, options.largest, options.queries) for kind in KINDS if options.largest]
    rows = []
    for case in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (*case, options)))
        print(f"{case[0]}, {case[1]:,} rows: {rows[-1]['seconds']:.2f} s", flush=True)
    machine = {**outputs.hardware("cpu"), "threads": options.threads}
    print(f"\n{machine}; D = {options.width}, K = {options.count}\n\n{table(rows)}")
    if options.json:
        about = {"width": options.width, "count": options.count, "block": BLOCK}
        made = {"hardware": machine, "versions": outputs.versions(), "commit": outputs.commit()}
        formula = "seconds = a N^2 D; bytes = 12 Q K + 4 N D + 8 block^2"
        write_json(options.json, {**about, "formula": formula, **made, "rows": rows})


if __name__ == "__main__":
    main()
