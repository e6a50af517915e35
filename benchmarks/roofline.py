"""How much of a speed ratio the processor allows: every convolution of PreAct ResNet-18 by itself.

Run: `python benchmarks/roofline.py --json benchmarks/roofline.json`.

Times forward, gradient of the input and gradient of the weights of each convolution, in float32
with the usual layout (the plain side of `throughput.py`) and in bfloat16 with channels last
(labelwise), both in one run, alternated, medians. Convolutions are more than 90 % of a step, so the
ratio of the two sums bounds what the same arithmetic can gain here; a matrix product of 2048 says
how near the peak the convolutions are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise import outputs
from labelwise.training.engine import keep_freed_memory

# channels in, channels out, size of the input, kernel, stride: how often in the network
LAYERS: dict[tuple[int, int, int, int, int], int] = {
    (3, 64, 32, 3, 1): 1,
    (64, 64, 32, 3, 1): 4,
    (64, 128, 32, 3, 2): 1,
    (64, 128, 32, 1, 2): 1,
    (128, 128, 16, 3, 1): 3,
    (128, 256, 16, 3, 2): 1,
    (128, 256, 16, 1, 2): 1,
    (256, 256, 8, 3, 1): 3,
    (256, 512, 8, 3, 2): 1,
    (256, 512, 8, 1, 2): 1,
    (512, 512, 4, 3, 1): 3,
}
SIDES = {"plain": (torch.float32, False), "labelwise": (torch.bfloat16, True)}


def calls(
    layer: tuple[int, int, int, int, int], batch: int, dtype: torch.dtype, last: bool
) -> dict[str, Callable[[], Any]]:
    """The passes of one convolution; the first layer's input needs no gradient."""
    num_in, num_out, size, kernel, stride = layer
    form = torch.channels_last if last else torch.contiguous_format

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype).contiguous(memory_format=form)

    image, weight = made(batch, num_in, size, size), made(num_out, num_in, kernel, kernel)
    out = made(batch, num_out, size // stride, size // stride)
    padding = kernel // 2

    def backward(of_input: bool) -> Callable[[], Any]:
        return lambda: torch.ops.aten.convolution_backward(
            out,
            image,
            weight,
            None,
            [stride, stride],
            [padding, padding],
            [1, 1],
            False,
            [0, 0],
            1,
            [of_input, not of_input, False],
        )

    found: dict[str, Callable[[], Any]] = {
        "forward": lambda: F.conv2d(image, weight, None, stride, padding),
        "weights": backward(of_input=False),
    }
    return found if num_in == 3 else found | {"input": backward(of_input=True)}


def seconds(call: Callable[[], Any]) -> float:
    """Once, on the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def measure(batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row per layer and pass: FLOP, median seconds of each side."""
    rows = []
    for layer, count in LAYERS.items():
        num_in, num_out, size, kernel, stride = layer
        work = 2 * batch * num_in * num_out * kernel**2 * (size // stride) ** 2
        sides = {name: calls(layer, batch, *how) for name, how in SIDES.items()}
        for part in sides["plain"]:
            for side in SIDES:
                seconds(sides[side][part])
            turns = [{side: seconds(sides[side][part]) for side in SIDES} for _ in range(rounds)]
            medians = {side: statistics.median(turn[side] for turn in turns) for side in SIDES}
            rows.append({"layer": layer, "count": count, "pass": part, "flop": work, **medians})
    return rows


def peak(dtype: torch.dtype, size: int = 2048, rounds: int = 7) -> float:
    """FLOP/s of a square matrix product."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    times = [seconds(lambda: left @ right) for _ in range(rounds)]
    return 2 * size**3 / statistics.median(times)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description="What the processor allows.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = measure(options.batch, options.rounds)
    print(f"batch {options.batch}, {options.threads} thread(s); GFLOP/s, plain and labelwise")
    for row in rows:
        rates = (row["flop"] / row[side] / 1e9 for side in SIDES)
        print(f"{row['layer']!s:24} {row['pass']:8}", *(f"{rate:7.0f}" for rate in rates))
    summary: dict[str, Any] = {"batch": options.batch, "threads": options.threads}
    for part in ("forward", "input", "weights", "all"):
        of = [row for row in rows if part in ("all", row["pass"])]
        spent = {side: sum(row["count"] * row[side] for row in of) for side in SIDES}
        work = sum(row["count"] * row["flop"] for row in of)
        summary[part] = {"ratio": spent["plain"] / spent["labelwise"]}
        summary[part] |= {f"{side}_gflops": work / spent[side] / 1e9 for side in SIDES}
    summary["matrix_gflops"] = {
        "float32": peak(torch.float32) / 1e9,
        "bfloat16": peak(torch.bfloat16) / 1e9,
    }
    for name, figure in summary.items():
        print(name, figure)
    if options.json:
        machine: dict[str, Any] = {"hardware": outputs.hardware("cpu")}
        machine |= {"versions": outputs.versions()}
        machine |= {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        content = {**summary, **machine, "commit": outputs.commit(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
