"""The samples on the device: uint8 images or float32 embeddings, gathered by row number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset


@dataclass(frozen=True)
class Store:
    """Inputs and given labels on one device. Methods read samples only through it.

    Args:
        inputs: images (N, C, H, W) uint8, or embeddings (N, D) float32.
        labels: given labels (N) int64.
        num_classes: K.
    """

    inputs: Tensor
    labels: Tensor
    num_classes: int

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Store:
        """Copy a data set to `device`."""
        return cls(data.inputs.to(device), data.labels.to(device), data.num_classes)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the samples live."""
        return self.inputs.device

    def rows(self, index: Tensor) -> Tensor:
        """Gather raw samples (B, *S) at `index`, in the stored dtype."""
        return self.inputs.index_select(0, index)

    def plain(self, index: Tensor) -> Tensor:
        """Gather unaugmented network inputs (B, *S): images in [0, 1], channels-last."""
        return as_input(self.rows(index))

    def blocks(self, size: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """Yield this rank's row numbers in order, `size` at a time."""
        own = torch.arange(rank, len(self), world, device=self.device)
        yield from torch.split(own, size)


def as_input(rows: Tensor) -> Tensor:
    """Turn stored rows into network inputs: uint8 images become floats in [0, 1]."""
    if rows.dtype != torch.uint8:
        return rows
    return rows.float().div_(255.0).contiguous(memory_format=torch.channels_last)


def input_statistics(inputs: Tensor, sample: int = 20_000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel (C) or feature (D), in network-input units.

    Args:
        inputs: images (N, C, H, W) uint8, or embeddings (N, D) float32.
        sample: at most this many rows, evenly spaced, are read.
    """
    stride = -(-len(inputs) // sample)
    dims = (0, 2, 3) if inputs.ndim == 4 else (0,)
    scale = 255.0 if inputs.dtype == torch.uint8 else 1.0
    total = inputs.new_zeros(inputs.shape[1], dtype=torch.float64)
    square, count = torch.zeros_like(total), 0
    for block in torch.split(inputs[::stride], 512):  # small blocks: large images are many bytes
        values = block.double() / scale
        total += values.sum(dims)
        square += values.square().sum(dims)
        count += values.numel() // len(total)
    mean = total / count
    variance = (square / count - mean.square()).clamp_min(0)
    return mean.float(), variance.sqrt().float()
