"""The hallucinator: from the features of two samples to those of one that lies between them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Hallucinator(nn.Module):
    """A two-layer perceptron ([s_a, s_b], λ_p) -> s, (B, F) each.

    Anchor hallucination (Huang et al., ICIP 2024, arXiv 2407.07331): from the features of two easy
    samples of different classes it makes an anchor of the first one's class.

    Args:
        num_features: F.
        width: of the hidden layer.
        skip: whether the perceptron is added to λ_p s_a + (1 - λ_p) s_b, and starts as zero.

    Differences from the paper:
        1. λ_p, how near the anchor is to be to s_a, is an input too, and weighs both features: it
           is drawn anew for every pair, and a network that is not told it can only learn the mean.
        2. What the perceptron learns is added to the point between both features (`skip`): from
           random weights it takes many steps until an anchor is anywhere near the samples.
        3. Features are divided by their mean size (`scale`), so that the same weights and learning
           rate suit every backbone.
    """

    scale: Tensor
    rounds: Tensor

    def __init__(self, num_features: int, width: int, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.layers = nn.Sequential(
            nn.Linear(2 * num_features + 1, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, num_features),
        )
        if skip:
            for weight in self.layers[-1].parameters():
                nn.init.zeros_(weight)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))  # times it was trained

    def measure(self, features: Tensor) -> None:
        """Take the scale from features (N, F): their root mean square."""
        self.scale.copy_(features.square().mean().sqrt().clamp_min(1e-6))

    def forward(self, near: Tensor, far: Tensor, closeness: Tensor) -> Tensor:
        """Anchors (B, F) between `near` and `far` (B, F), at λ_p = `closeness` (B) in [0, 1]."""
        share = closeness[:, None]
        near, far = share * near, (1 - share) * far
        told = 4 * share - 3  # -1 to 1 over [0.5, 1]
        joined = torch.cat([2 * near / self.scale, 2 * far / self.scale, told], dim=1)
        learnt = cast(Tensor, self.layers(joined)) * self.scale
        return near + far + learnt if self.skip else learnt
