"""What an augmentation is: a whole batch in, a random view of it out, on the device.

A `View` is found by its name, is built for the data at hand, and takes every random number from
the `Draw` it is handed, so that the same position always gives the same view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset, Kind
from labelwise.discovery import discover, find
from labelwise.errors import UserError
from labelwise.rng import Draw

IMAGES: frozenset[Kind] = frozenset({"images"})
BOTH: frozenset[Kind] = frozenset({"images", "embeddings"})


@dataclass(frozen=True)
class ViewOptions:
    """What a view must know of the data it is built for.

    Args:
        kind: "images" or "embeddings".
        flip: whether a horizontal flip leaves an image's class unchanged.
        size: height and width of the images in pixels; (0, 0) for embeddings.
        channels: number of image channels; 0 for embeddings.
        std: standard deviation of each feature (D), or one for all; embeddings only.
        mean: mean of each feature (D), or one for all; embeddings only.
    """

    kind: Kind = "images"
    flip: bool = True
    size: tuple[int, int] = (32, 32)
    channels: int = 3
    std: Tensor | float = field(default=1.0, compare=False)
    mean: Tensor | float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, data: Dataset) -> ViewOptions:
        """Read the options off a data set (embedding statistics from all its rows)."""
        if data.kind == "images":
            channels, height, width = data.shape
            return cls(flip=data.flip, size=(height, width), channels=channels)
        std, mean = torch.std_mean(data.inputs, dim=0, correction=0)
        return cls(kind="embeddings", flip=False, size=(0, 0), channels=0, std=std, mean=mean)

    @property
    def padding(self) -> int:
        """Crop padding in pixels: an eighth of the shorter side, at least 1 (4 for 32, 1 for 8)."""
        return max(1, round(min(self.size) / 8))


class View(ABC):
    """A random view of a batch; subclasses are frozen dataclasses whose fields are settings.

    A subclass names itself, states the kinds of data it is for, builds itself for a data set
    (`for_data`), and implements `images`, `embeddings` or both.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]]
    citation: ClassVar[str]

    @classmethod
    @abstractmethod
    def for_data(cls, options: ViewOptions) -> Self:
        """Build the view with the defaults that suit the data."""

    def __call__(self, batch: Tensor, draw: Draw) -> Tensor:
        """Return one random view of every row; `batch` is left as it was.

        Args:
            batch: images (B, C, H, W), uint8 or float32 in [0, 1]; or embeddings (B, D) float32.
            draw: the randomness of this position. Two views drawn at one position need two
                prefixes (`Draw.within`), or they will be the same view.

        Returns:
            float32 of the same shape; images in [0, 1], channels-last if the batch was.

        Raises:
            UserError: the view does not exist for this kind of data.
        """
        kind: Kind = "images" if batch.ndim == 4 else "embeddings"
        self.require(kind)
        if len(batch) == 0:
            return batch.to(torch.float32)
        own = draw.within(self.name)
        if kind == "embeddings":
            return self.embeddings(batch, own)
        view = self.images(batch, own)
        return view.contiguous(memory_format=memory_format(batch))

    @classmethod
    def require(cls, kind: Kind) -> None:
        """Raise a `UserError` that names the views to use instead if `kind` is not served."""
        if kind not in cls.kinds:
            fitting = sorted(name for name, view in views().items() if kind in view.kinds)
            raise UserError(
                f"view {cls.name!r} is not for {kind}. Views for {kind}: {', '.join(fitting)}."
            )

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """View of images (B, C, H, W): float32 in [0, 1]."""
        raise NotImplementedError

    def embeddings(self, batch: Tensor, draw: Draw) -> Tensor:
        """View of embeddings (B, D): float32."""
        raise NotImplementedError


def memory_format(batch: Tensor) -> torch.memory_format:
    """The memory format a view of `batch` is returned in."""
    last = not batch.is_contiguous() and batch.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def views() -> dict[str, type[View]]:
    """Every view there is, by name."""
    return discover("labelwise.augment", View)


def build_view(name: str, options: ViewOptions) -> View:
    """Build the view called `name` for the data described by `options`.

    Raises:
        UserError: no view has that name, or it does not exist for this kind of data.
    """
    view = find("view", name, "labelwise.augment", View)  # type: ignore[type-abstract]
    view.require(options.kind)
    return view.for_data(options)
