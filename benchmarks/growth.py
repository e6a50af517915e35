"""Time and memory of one DivideMix epoch as the data grow: 1,000 to 1,000,000 images.

Run: `python benchmarks/growth.py --data cifar10_train.parquet --json benchmarks/growth.json`, then
`--plot docs/growth.png` (or both at once).

Each size is a process of its own: one epoch of warm-up, then one whole epoch of DivideMix (scoring
with both networks, mixture, both networks' MixMatch), timed by the loop itself; memory is the
largest resident size of the process when training ends. Three series with 50 % symmetric noise:
`small_resnet` on real CIFAR-10, a network of two small convolutions (defined here) on the same, and
that network on random images with a learnable mark. It lets a million 32 x 32 images through in
minutes: labelwise's own share is measured there, not the network's.

Processor time is what is compared: unlike the time on the clock it does not change with what else
the machine does. The table gives it per 1,000 images, the slope of its log against the log of the
size (1 is linear), and the further bytes of the process per further image. Nothing is evaluated
on test images, nothing is committed to disk in between, and the audit that ends a run is not part
of an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

SERIES: dict[str, tuple[int, ...]] = {
    "small_resnet": (1_000, 10_000),
    "two_convolutions_cifar10": (1_000, 10_000, 50_000),
    "two_convolutions": (1_000, 10_000, 100_000, 1_000_000),
}
TITLES = {
    "small_resnet": "CIFAR-10, small ResNet",
    "two_convolutions_cifar10": "CIFAR-10, two small convolutions",
    "two_convolutions": "synthetic, two small convolutions",
}
NOISE, CLASSES, SIZE = 0.5, 10, 32
BATCH = {"small_resnet": 64, "two_convolutions_cifar10": 256, "two_convolutions": 256}


def marked_images(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Random images (N, 32, 32, 3) uint8 with a bright square whose place tells the class (N)."""
    import numpy as np

    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    images = draw.integers(0, 128, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for label in range(CLASSES):
        top, left = 6 * (label // 5) + 8, 6 * (label % 5) + 1
        rows = np.flatnonzero(labels == label)
        images[rows, top : top + 5, left : left + 5] |= 128
    return images, labels


def register_small_network() -> None:
    """Make the network of two convolutions known to labelwise under its name, in this process."""
    from torch import Tensor, nn
    from torch.nn import functional as F

    import labelwise.models.preact_resnet as home
    from labelwise.models.network import Backbone

    class TwoConvolutions(Backbone):
        """Two strided convolutions with batch normalisation: 13,000 weights at 8 x 8."""

        name = "two_convolutions"
        citation = ""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, 16, 5, stride=4, padding=2, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(32)
            self.num_features = 32

        @classmethod
        def build(cls, shape: Sequence[int]) -> Backbone:
            return cls(shape[0])

        def forward(self, inputs: Tensor) -> Tensor:
            inner = F.relu(self.norm1(self.first(inputs)), inplace=True)
            return F.relu(self.norm2(self.second(inner)), inplace=True)

    TwoConvolutions.__module__ = home.__name__
    home.TwoConvolutions = TwoConvolutions  # type: ignore[attr-defined]


def child(series: str, size: int, data: Path | None, threads: int) -> None:
    """Train one size and print its figures."""
    import torch

    torch.set_num_threads(threads)
    register_small_network()
    from labelwise import binding, experiment, outputs
    from labelwise.config import RunConfig
    from labelwise.data.load import load
    from labelwise.training.engine import launch
    from labelwise.training.folder import RunFolder
    from labelwise.training.progress import Silent

    if data is not None and series != "two_convolutions":
        read = load(str(data), label_column="label", limit=size).data
        images, labels = read.inputs, read.labels
    else:
        images, labels = marked_images(size)
    tested = (images[:100], labels[:100])  # asked for, so that no part of the images is set aside
    memory = experiment.InMemory(images, labels, test=tested)

    class Clock(Silent):
        """Notes the processor time at the end of every epoch."""

        ends: ClassVar[list[float]] = []

        def epoch(self, row: Mapping[str, Any]) -> None:
            self.ends.append(time.process_time())

    config = RunConfig.parse(
        {
            "data": experiment.IN_MEMORY,
            "test": experiment.IN_MEMORY,
            "method": "dividemix",
            "model": series.removesuffix("_cifar10"),
            "noise": f"symmetric:{NOISE}",
            "plant": 0.0,
            "schedule": {"epochs": 2, "warmup": 1, "batch_size": BATCH[series], "lr": 0.02},
            "device": "cpu",
            "checkpoint_every": 1e9,
        },
        "the benchmark",
    )
    prepared = experiment.prepare(config, memory)
    method = binding.bind(config, prepared.train)
    config = binding.resolve(config, prepared.train, method)
    fabric = launch(config.device, 1, config.precision)
    with tempfile.TemporaryDirectory() as place:
        folder, clock = RunFolder(Path(place)), Clock()
        trainer = experiment.assemble(config, prepared, method, folder, clock, fabric)
        trainer.evaluate = lambda networks, measures: {}
        trainer.train()
        row = trainer.journal.rows()[-1]
    phases = {name: s for name, s in row["phase_seconds"].items() if name != "evaluate"}
    figures = {
        "series": series,
        "images": len(prepared.train),
        "seconds": sum(phases.values()),
        "cpu_seconds": clock.ends[1] - clock.ends[0],
        "phase_seconds": phases,
        "clean_fraction": row.get("clean_fraction"),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "data_bytes": prepared.train.inputs.numel() * prepared.train.inputs.element_size(),
        "hardware": outputs.hardware("cpu"),
        "versions": outputs.versions(),
        "commit": outputs.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": config.precision,
    }
    print(json.dumps(figures))


def measure(series: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one size in a process of its own."""
    command = [sys.executable, __file__, "--child", series, str(size)]
    command += ["--threads", str(options.threads)]
    if options.data is not None:
        command += ["--data", str(options.data)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def slope(rows: list[dict[str, Any]], field: str) -> float:
    """Least-squares slope of the log of a field against the log of the number of images."""
    import numpy as np

    x = np.log([row["images"] for row in rows])
    y = np.log([row[field] for row in rows])
    return float(np.polyfit(x, y, 1)[0])


def bytes_per_image(rows: list[dict[str, Any]]) -> float:
    """Further bytes of the process per further image, between the smallest and largest size."""
    first, last = rows[0], rows[-1]
    return float((last["peak_bytes"] - first["peak_bytes"]) / (last["images"] - first["images"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| data, network | images | epoch, s | CPU s | CPU s per 1,000 | peak, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for series in SERIES:
        found = sorted((r for r in rows if r["series"] == series), key=lambda r: r["images"])
        for row in found:
            each = 1000 * row["cpu_seconds"] / row["images"]
            times = f"{row['seconds']:,.1f} | {row['cpu_seconds']:,.1f} | {each:.2f}"
            size, peak = f"{row['images']:,}", f"{row['peak_bytes'] / 2**20:,.0f}"
            lines += [f"| {TITLES[series]} | {size} | {times} | {peak} |"]
        if len(found) > 1:
            large = found[1:] if len(found) > 2 else found
            lines.append(
                f"| slope of log CPU time, all sizes / without the smallest | | | "
                f"{slope(found, 'cpu_seconds'):.2f} / {slope(large, 'cpu_seconds'):.2f} | | "
                f"{bytes_per_image(found):,.0f} bytes per image |"
            )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against the number of images, both axes logarithmic, with linear guides."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for series, marker in zip(SERIES, "osd", strict=True):
        found = sorted((r for r in rows if r["series"] == series), key=lambda r: r["images"])
        if not found:
            continue
        x = [row["images"] for row in found]
        seconds = [row["cpu_seconds"] for row in found]
        axes[0].loglog(x, seconds, marker=marker, label=TITLES[series])
        guide = [seconds[-1] * size / x[-1] for size in x]
        axes[0].loglog(x, guide, ":", color="grey", linewidth=1)
        axes[1].loglog(x, [r["peak_bytes"] / 2**20 for r in found], marker=marker)
        axes[1].loglog(x, [r["data_bytes"] / 2**20 for r in found], ":", color="grey", linewidth=1)
    axes[0].set(xlabel="training images", ylabel="CPU seconds", title="one DivideMix epoch")
    axes[1].set(xlabel="training images", ylabel="MiB", title="peak memory (dotted: the images)")
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, print the table, and draw."""
    parser = argparse.ArgumentParser(description="DivideMix's epoch as the data grow.")
    parser.add_argument("--data", type=Path, help="CIFAR-10 manifest; else marked random images")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/growth.json"))
    parser.add_argument("--plot", type=Path, help="write the plot here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--series", nargs="*", choices=SERIES, default=list(SERIES))
    parser.add_argument("--largest", type=int, default=1_000_000, help="no size above this")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options.data, options.threads)
        return
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for series in options.series:
        for size in SERIES[series]:
            known = any(r["series"] == series and r["asked"] == size for r in rows)
            if known or size > options.largest:
                continue
            rows.append(measure(series, size, options) | {"asked": size})
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
            print(series, size, f"{rows[-1]['seconds']:.1f} s", flush=True)
    print(table(rows))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
