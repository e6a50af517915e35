"""The network for embeddings: a small multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from labelwise.models.network import Backbone


class MLP(Backbone):
    """Two hidden layers with batch normalisation over embeddings (B, D).

    Args:
        num_inputs: D, the embedding width.
        width: hidden width F.
    """

    name: ClassVar[str] = "mlp"
    kinds: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def __init__(self, num_inputs: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )
        self.num_features = width

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for embeddings of shape (D,)."""
        return cls(shape[0], 256 if shape[0] >= 32 else 128)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) standardised embeddings -> (B, F) features."""
        features: Tensor = self.layers(inputs)
        return features
