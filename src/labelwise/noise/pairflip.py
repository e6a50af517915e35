"""Pair flip: a fraction of each class takes the label of the next class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess


class PairFlip(NoiseProcess):
    """Class c becomes `c + 1 mod K` with probability `rate` (Co-teaching, arXiv 1804.06872).

    Above 0.5 most labels of a class are wrong, and no method can tell which of the two is right.
    """

    name: ClassVar[str] = "pairflip"
    citation: ClassVar[str] = "Han et al. Co-teaching. NeurIPS 2018. arXiv 1804.06872"

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """`1 - rate` on the diagonal, `rate` right of it."""
        eye = torch.eye(num_classes, dtype=torch.float64)
        return (1.0 - self.rate) * eye + self.rate * eye.roll(1, dims=1)

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N)."""
        flipped = draws.uniform("flip") < self.rate
        return torch.where(flipped, (data.labels + 1) % data.num_classes, data.labels)
