"""Heads: small modules from features to a named output."""

from __future__ import annotations

from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear head (B, F) -> (B, K), initialised by PyTorch's default rule."""


class Projection(nn.Sequential):
    """The two-layer head of contrastive learning, (B, F) -> (B, D).

    SimCLR (arXiv 2002.05709, section 2.1): what is compared is not the features but a small
    network's view of them, which is thrown away afterwards.

    Args:
        num_features: F.
        width: D, width of the output; it is not normalised.
    """

    def __init__(self, num_features: int, width: int = 128) -> None:
        super().__init__(
            nn.Linear(num_features, num_features),
            nn.ReLU(inplace=True),
            nn.Linear(num_features, width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, D)."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected
