"""What a short training is given: its network, its settings, and images that are small enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.discovery import discover
from labelwise.methods.sprint import LEAST_SIDE as LEAST_HALVED
from labelwise.models.build import auto_model
from labelwise.models.convnet import ConvNet
from labelwise.models.network import Backbone
from labelwise.models.preact_resnet import SmallResNet
from labelwise.training.engine import resolve_device

LEAST_SIDE, SMALLEST_SIDE = 16, 24
"""Sides in pixels: from which `convnet` is taken, and below which images are not made smaller."""


def takes_any_size(model: str) -> bool:
    """Whether a backbone, or the one that "auto" stands for, takes images of whatever size."""
    return model == "auto" or model in discover("labelwise.models", Backbone)


def sprint_settings(shape: Sequence[int], model: str) -> dict[str, Any]:
    """Settings of `sprint`, which begins with smaller images where they are large enough.

    Its targets drift on embeddings and tiny images alone: on larger ones a few epochs know the
    classes too badly (CIFAR-10, ten epochs: 65 instead of 69 % of held-out labels).

    Args:
        shape: of a sample, (C, H, W) or (D,).
        model: the backbone; those of others may take images of one size alone.
    """
    side = min(shape[1:]) if len(shape) == 3 else 0
    settings: dict[str, Any] = {"trust": 0.0} if side >= LEAST_SIDE else {}
    if side >= LEAST_HALVED and takes_any_size(model):
        settings["small_start"] = True
    return settings


def network_for(config: RunConfig, train: Dataset, short: bool) -> str:
    """The backbone: `convnet` instead of the small ResNet, and for any short training.

    Args:
        config: as parsed; a model that it names is kept.
        train: the training data.
        short: whether the training is short.
    """
    shape = train.shape
    if config.model != "auto" or config.init is not None or len(shape) == 1:
        return config.model
    accelerated = resolve_device(config.device) != "cpu"
    usual = auto_model(shape, len(train), accelerated)
    small = short or usual == SmallResNet.name
    return ConvNet.name if small and min(shape[1:]) >= LEAST_SIDE else usual


def smaller_sides(config: RunConfig, train: Dataset) -> list[int]:
    """Sides, pixels, that images may be brought to for the sake of epochs; the largest first.

    None where the user gave the size, or weights or a backbone that have one; and none for images
    that are not square, of which a smaller square would leave a part out.
    """
    shape = train.shape
    given = config.image_size is not None or config.init is not None
    if given or len(shape) == 1 or shape[1] != shape[2] or not takes_any_size(config.model):
        return []
    return [shape[1] // part for part in (2, 4, 8) if shape[1] // part >= SMALLEST_SIDE]
