"""The data and options that all comparisons of speed share, and labelwise's trainers on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alternating import ROUNDS_AT_LEAST
from labelwise.training.loop import Trainer
from plain.networks import CLASSES
from trainers import LONG, trainer_of

SMALL, LARGE = "small_resnet", "preact_resnet18"
SIMCLR_STEPS = 10
WORKERS = 5  # of each loader, as the published code has it
CLUSTER_BATCH = 128


@dataclass(frozen=True)
class Options:
    """What all comparisons share. The plain side's process gets it too.

    Args:
        data: a manifest of images with a column "label"; None for random images.
        limit: images read.
        image_size: of random images, and what others are resized to; None leaves them.
        model: backbone of both sides.
        device: "cpu" or "cuda".
        precision: of labelwise's side.
        plain_precision: of the plain side.
        threads: CPU threads; None leaves PyTorch's number.
        workers: of each plain loader.
        batch: images a step and side.
        images: of a whole epoch.
        test_images: of its evaluation.
        epoch_images: of the steps of a cross-entropy epoch.
        score_images: of a scoring pass.
        simclr_batch: images of a SimCLR step.
        losses: for the mixture.
        rounds: turns of each side, at least.
        apart: whether the plain side gets a process of its own.
    """

    data: Path | None = None
    limit: int = 4096
    image_size: int | None = None
    model: str = LARGE
    device: str = "cpu"
    precision: str = "auto"
    plain_precision: str = "32-true"
    threads: int | None = None
    workers: int = WORKERS
    batch: int = 64
    images: int = 512
    test_images: int = 128
    epoch_images: int = 640
    score_images: int = 2048
    simclr_batch: int = 256
    losses: int = 1_000_000
    rounds: int = ROUNDS_AT_LEAST
    apart: bool = True


class Bench:
    """The data that all comparisons share, and how to train on them.

    Args:
        options: of the run.
        folder: for labelwise's checkpoints; the plain side needs none.
    """

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self.options, self.folder, self.model = options, folder, options.model
        # Both sides of every division in full batches, of DivideMix and of the clustering pass.
        lot = max(2 * options.batch, CLUSTER_BATCH)
        self.images = max(1, options.images // lot) * lot
        count = max(options.limit, self.images + options.test_images)
        self.inputs, self.labels, self.source = read_images(options.data, count, options.image_size)
        self.pixels = self.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.epoch_steps = max(1, min(options.epoch_images, len(self.labels)) // options.batch)
        self.scored = min(options.score_images, len(self.labels))
        self.clean = half_right(len(self.labels))
        self.part_clean = half_right(self.images)

    def losses(self) -> np.ndarray:
        """Losses like those of a data set with half its labels wrong (N) float32."""
        draw, size = np.random.default_rng(0), self.options.losses
        low, high = draw.gamma(1.0, 0.2, size), draw.gamma(8.0, 0.3, size)
        return np.where(draw.random(size) < 0.5, low, high).astype(np.float32)

    def simclr_steps(self, model: str) -> int:
        """Steps a turn: many of the small network, whose loader works on into the other's turn."""
        wanted = SIMCLR_STEPS if model == SMALL else 1
        return max(1, min(wanted, len(self.labels) // self.options.simclr_batch))

    def trainer(self, method: str, **options: Any) -> Trainer:
        """Labelwise's side on all images, or on those of an epoch.

        Args:
            method: as typed after ``--method``.
            options: `part` for the images of an epoch and its test images, `batch`, and what
                `trainer_of` takes.
        """
        own, test = self.options, None
        data = (self.inputs, self.labels)
        if options.pop("part", False):
            end = self.images + own.test_images
            test = (self.inputs[self.images : end], self.labels[self.images : end])
            data = (self.inputs[: self.images], self.labels[: self.images])
        batch = options.pop("batch", own.batch)
        schedule = {} if batch is None else {**LONG, "batch_size": batch}
        assert self.folder is not None, "the plain side trains nothing of labelwise"
        given: dict[str, Any] = {
            "model": self.model,
            "device": own.device,
            "precision": own.precision,
            "schedule": schedule,
            **options,
        }
        return trainer_of(method, data, self.folder / method, test=test, **given)

    def pretrainer(self, model: str, size: int, **options: Any) -> Trainer:
        """Labelwise's side of SimCLR alone."""
        settings = {"simclr.batch_size": size, "simclr.epochs": 4}
        given: dict[str, Any] = {"pretrain": "simclr", "settings": settings, **options}
        return self.trainer("simclr", batch=None, model=model, **given)


def half_right(count: int) -> np.ndarray:
    """Clean probabilities (N) of which a random half is near one, the other near zero."""
    draw = np.random.default_rng(0)
    right = draw.permutation(count) < count // 2
    noise = draw.uniform(0.0, 0.1, count)
    return np.where(right, 1 - noise, noise)


def read_images(
    path: Path | None, limit: int, size: int | None = None
) -> tuple[Tensor, np.ndarray, str]:
    """Images (N, 3, H, W) uint8 and labels of a file, or random ones without a file."""
    if path is not None and path.exists():
        from labelwise.data.load import load

        data = load(str(path), label_column="label", limit=limit, image_size=size).data
        return data.inputs, data.labels.numpy(), path.name
    draw, side = torch.Generator().manual_seed(0), size or 32
    inputs = torch.randint(0, 256, (limit, 3, side, side), generator=draw, dtype=torch.uint8)
    return inputs, np.arange(limit) % CLASSES, "random images"
