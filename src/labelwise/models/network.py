"""A network with one door: every tensor that needs a gradient goes through `Network.forward`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from labelwise.models.heads import Linear, MapHead
from labelwise.models.modes import evaluating

Outputs = dict[str, Tensor]
"""The named outputs asked for, each a tensor with the batch first."""


class Backbone(nn.Module, ABC):
    """Turns a normalised input batch into features.

    A subclass with a `name` is found by discovery and can be chosen with ``--model``.

    Attributes:
        kinds: the input kinds it takes: "images" (B, C, H, W) or "embeddings" (B, D).
        num_features: width F of the feature vector, set by the constructor.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images"})
    citation: ClassVar[str] = ""
    num_features: int

    @classmethod
    @abstractmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for inputs of `shape`: (C, H, W) or (D,)."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last feature map (B, F, h, w), or features (B, F) for embeddings.

        A backbone with another layout of its own returns that, and overrides `maps` and `pool`.
        """

    def maps(self, raw: Tensor) -> Tensor:
        """The feature map (B, F, h, w) of what `forward` returned; (B, F, 1, 1) of features."""
        return raw if raw.ndim == 4 else raw[:, :, None, None]

    def pool(self, raw: Tensor) -> Tensor:
        """The features (B, F) of what `forward` returned."""
        return raw.mean(dim=(2, 3)) if raw.ndim == 4 else raw


def map_size(backbone: Backbone, shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of a backbone's last feature map, by one forward in eval mode."""
    device = next((weight.device for weight in backbone.parameters()), torch.device("cpu"))
    with evaluating([backbone]), torch.no_grad():
        maps = backbone.maps(backbone(torch.zeros(1, *shape, device=device)))
    return maps.shape[2], maps.shape[3]


class Network(nn.Module):
    """Normalisation, a backbone and named heads behind one `forward`.

    Data-parallel wrappers synchronise gradients only in `forward`; a second public method would
    train on unsynchronised gradients without a word. Heads that are not asked for are not run.

    Args:
        backbone: features from normalised inputs.
        num_classes: K, width of the "classes" head.
        mean: per-channel (C) or per-feature (D) mean of the training inputs.
        std: the standard deviations likewise; zeros are treated as one.
        heads: further named heads (module from features (B, F), or of a `MapHead` from the feature
            map, to an output), for methods that need them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        mean: Tensor,
        std: Tensor,
        heads: dict[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.heads = nn.ModuleDict({"classes": Linear(backbone.num_features, num_classes)})
        self.heads.update(heads or {})
        self.map_sizes: dict[tuple[int, ...], tuple[int, int]] = {}
        std = torch.where(std > 0, std, torch.ones_like(std))
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std)

    def map_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the feature map of an input of `shape`, tried out once."""
        if shape not in self.map_sizes:
            self.map_sizes[shape] = map_size(self.backbone, shape)
        return self.map_sizes[shape]

    def forward(
        self,
        inputs: Tensor,
        heads: Iterable[str] = ("classes",),
        rows: Mapping[str, Tensor] | None = None,
    ) -> Outputs:
        """Run the backbone once and every head asked for.

        Args:
            inputs: images (B, C, H, W) in [0, 1], or embeddings (B, D) as given.
            heads: names among "features" (B, F), "feature_map" (B, F, h, w) and the network's
                heads; "classes" gives logits (B, K).
            rows: row numbers (R) int64 for heads of the network that are to run on some rows only,
                by name.

        Returns:
            A dictionary with exactly the outputs asked for.
        """
        shape = (1, -1, 1, 1) if inputs.ndim == 4 else (1, -1)
        raw = self.backbone((inputs - self.mean.view(shape)) / self.std.view(shape))
        features = self.backbone.pool(raw)
        outputs: Outputs = {}
        for name in heads:
            if name == "features":
                outputs[name] = features
            elif name == "feature_map":
                outputs[name] = self.backbone.maps(raw)
            else:
                head = self.heads[name]
                read = self.backbone.maps(raw) if isinstance(head, MapHead) else features
                outputs[name] = head(read if rows is None or name not in rows else read[rows[name]])
        return outputs
