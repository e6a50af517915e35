"""What a data source returns: inputs, given labels and ids, with the truth held apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["images", "embeddings"]
NO_CLASS = -1
"""True label of a sample that belongs to none of the classes: whatever its given label, it is
wrong. Such a sample is trained on and audited, and never tested on."""


@dataclass(frozen=True)
class Dataset:
    """Samples with given (possibly wrong) labels. Methods never see more than this.

    Args:
        inputs: images (N, C, H, W) uint8, or embeddings (N, D) float32.
        labels: given labels (N) int64 in [0, K); empty when the data has no labels.
        classes: the K class names, in label order.
        ids: N identifiers, kept as the source gave them (str or int).
        name: short name of the source, for logs and the report.
        flip: whether a horizontal flip leaves an image's class unchanged.
        notes: remarks of the source for the user (bad images skipped, labels dropped).
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    ids: np.ndarray
    name: str = "data"
    flip: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.inputs.ndim in (2, 4), f"inputs have shape {tuple(self.inputs.shape)}"
        assert self.inputs.dtype == (torch.uint8 if self.inputs.ndim == 4 else torch.float32)
        assert self.labels.dtype == torch.int64
        assert len(self.ids) == len(self.inputs)
        assert len(self.labels) in (0, len(self.inputs))

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def kind(self) -> Kind:
        """Either "images" (N, C, H, W) or "embeddings" (N, D)."""
        return "images" if self.inputs.ndim == 4 else "embeddings"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) or (D,)."""
        return tuple(self.inputs.shape[1:])

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    def label_hash(self) -> str:
        """SHA-256 of the given labels in row order: which labels a run was trained on."""
        return hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()

    def input_hash(self) -> str:
        """SHA-256 of the inputs in row order."""
        return hashlib.sha256(self.inputs.contiguous().numpy().data).hexdigest()

    def with_labels(self, labels: Tensor) -> Dataset:
        """Return the same samples with other given labels."""
        return Dataset(
            self.inputs, labels, self.classes, self.ids, self.name, self.flip, self.notes
        )

    def with_inputs(self, inputs: Tensor) -> Dataset:
        """Return the same labels and ids with other inputs of the same shape."""
        assert inputs.shape == self.inputs.shape
        return replace(self, inputs=inputs)

    def subset(self, rows: Sequence[int] | np.ndarray | Tensor) -> Dataset:
        """Return the samples at `rows`, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Dataset(
            self.inputs[index],
            self.labels[index] if len(self.labels) else self.labels,
            self.classes,
            self.ids[index.numpy()],
            self.name,
            self.flip,
            self.notes,
        )


@dataclass(frozen=True)
class Truth:
    """True labels, where a data set has them: only evaluation and audit may hold one.

    It is a type of its own, not a field of `Dataset`, so that no method, wrapper, loss or
    selection rule can be handed true labels by accident; a test checks that none imports it.

    Args:
        labels: true labels (N) int64, aligned with the data set's rows; `NO_CLASS` where a sample
            belongs to none of the classes.
    """

    labels: Tensor = field(repr=False)

    def subset(self, rows: Sequence[int] | np.ndarray | Tensor) -> Truth:
        """Return the truth of the samples at `rows`."""
        return Truth(self.labels[torch.as_tensor(rows, dtype=torch.int64)])


@dataclass(frozen=True)
class Source:
    """What reading a data source gives: the data set and, apart from it, the truth if known."""

    data: Dataset
    truth: Truth | None = None
