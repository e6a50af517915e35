"""The two views every method can use: plain (the data as they are) and weak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from labelwise.augment.geometry import random_crop_flip, to_unit
from labelwise.augment.view import BOTH, View, ViewOptions
from labelwise.data.dataset import Kind
from labelwise.rng import Draw


@dataclass(frozen=True)
class Plain(View):
    """The data as they are: images divided by 255, embeddings unchanged. Nothing is drawn."""

    name: ClassVar[str] = "plain"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    citation: ClassVar[str] = ""

    @classmethod
    def for_data(cls, options: ViewOptions) -> Self:
        """Build the view; it has no settings."""
        return cls()

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """The images in [0, 1]."""
        return to_unit(batch) if batch.dtype == torch.uint8 else batch.clone()

    def embeddings(self, batch: Tensor, draw: Draw) -> Tensor:
        """A copy of the embeddings."""
        return batch.clone()


@dataclass(frozen=True)
class Weak(View):
    """Random crop of the zero-padded image and flip; noise and feature dropout for embeddings.

    Args:
        padding: width of the zero border in pixels.
        flip: whether half of the images are mirrored.
        noise: standard deviation of the noise added to a feature, relative to the feature's own.
        dropout: share of the features that are replaced by their mean.
        std: standard deviation of each feature (D), or one for all.
        mean: mean of each feature (D), or one for all.
    """

    name: ClassVar[str] = "weak"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    citation: ClassVar[str] = "He et al., Deep residual learning, arXiv 1512.03385"

    padding: int = 4
    flip: bool = True
    noise: float = 0.1
    dropout: float = 0.1
    std: Tensor | float = field(default=1.0, compare=False, repr=False)
    mean: Tensor | float = field(default=0.0, compare=False, repr=False)

    @classmethod
    def for_data(cls, options: ViewOptions) -> Self:
        """Pad by an eighth of the side; flip where the data allow it."""
        padding = options.padding
        return cls(padding=padding, flip=options.flip, std=options.std, mean=options.mean)

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """Crop and flip."""
        return random_crop_flip(batch, draw, self.padding, self.flip)

    def embeddings(self, batch: Tensor, draw: Draw) -> Tensor:
        """Add noise, then replace dropped features by their mean."""
        std, mean = _on(self.std, batch), _on(self.mean, batch)
        rows, width = batch.shape
        noisy = batch + draw.normal("noise", rows, width) * (std * self.noise)
        dropped = draw.uniform("dropout", rows, width) < self.dropout
        return torch.where(dropped, mean.expand_as(batch), noisy)


def _on(value: Tensor | float, like: Tensor) -> Tensor:
    """A statistic as a tensor beside `like`."""
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype, non_blocking=True)
    return torch.full((1,), value, dtype=like.dtype, device=like.device)
