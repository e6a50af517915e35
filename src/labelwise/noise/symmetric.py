"""Symmetric noise, inclusive: a fraction of the labels is redrawn from all classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess


class Symmetric(NoiseProcess):
    """Each label is redrawn with probability `rate`, uniformly from **all** K classes.

    The redrawn label may be the true one, so only `(1 - 1/K) rate` of the labels are wrong. This
    is the "symmetric" of DivideMix (arXiv 2002.07394), ScanMix and SANM.

    Differences from the paper:
        1. Each sample is redrawn independently; the authors redraw exactly `rate * N` of them, so
           realised rates here vary binomially.
    """

    name: ClassVar[str] = "symmetric"
    citation: ClassVar[str] = "Li, Socher, Hoi. DivideMix. ICLR 2020. arXiv 2002.07394"
    convention: ClassVar[str] = "probability that a label is redrawn, from all K classes"

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """`(1 - rate) I + rate / K`."""
        eye = torch.eye(num_classes, dtype=torch.float64)
        return (1.0 - self.rate) * eye + self.rate / num_classes

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N)."""
        redrawn = draws.uniform("flip") < self.rate
        return torch.where(redrawn, draws.integers("class", data.num_classes), data.labels)
