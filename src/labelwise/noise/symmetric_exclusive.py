"""Symmetric noise, exclusive: a fraction of the labels is redrawn from the other classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess


class SymmetricExclusive(NoiseProcess):
    """Each label is wrong with probability `rate`, uniformly one of the other K - 1 classes.

    This is the "symmetric" of F-correction (arXiv 1609.03683) and Co-teaching (arXiv 1804.06872).
    """

    name: ClassVar[str] = "symmetric-exclusive"
    citation: ClassVar[str] = (
        "Patrini et al. Making Deep Neural Networks Robust to Label Noise. CVPR 2017. "
        "arXiv 1609.03683"
    )

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """`1 - rate` on the diagonal, `rate / (K - 1)` elsewhere."""
        eye = torch.eye(num_classes, dtype=torch.float64)
        return (1.0 - self.rate) * eye + self.rate / (num_classes - 1) * (1.0 - eye)

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N): flipped ones move on by 1 to K - 1 classes, modulo K."""
        flipped = draws.uniform("flip") < self.rate
        shift = 1 + draws.integers("class", data.num_classes - 1)
        return torch.where(flipped, (data.labels + shift) % data.num_classes, data.labels)
