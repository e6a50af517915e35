"""Labels made wrong on purpose, in a small random part of the data, to calibrate the audit by.

Which labels are wrong is unknown, but these are known to be: how they come out of training shows
what a wrong label looks like on this very data set, with this network and this schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.rng import key

FEWEST = 20
"""Fewer planted labels say nothing; then none is planted."""
MOST = 2000
"""More planted labels add nothing."""


@dataclass(frozen=True)
class Planted:
    """Labels that were made wrong on purpose.

    Args:
        rows: row numbers (M) int64, ascending.
        labels: the planted labels (M) int64, each another class than the given one.
    """

    rows: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def in_place_of(self, labels: Tensor) -> Tensor:
        """The given labels (N) with the planted ones put in."""
        changed = labels.clone()
        changed[self.rows.to(labels.device)] = self.labels.to(labels.device)
        return changed


def plant_wrong_labels(data: Dataset, share: float, seed: int) -> Planted | None:
    """Choose random samples and give each another class, all others being equally likely.

    Args:
        data: samples with given labels; they are not changed.
        share: fraction of the labels; at most `MOST` labels are planted.
        seed: of the run.

    Returns:
        What was planted, or None where that would be fewer than `FEWEST` labels.
    """
    count = min(MOST, round(share * len(data)))
    if count < FEWEST or data.num_classes < 2:
        return None
    generator = np.random.default_rng(key(seed, "planted"))
    rows = np.sort(generator.choice(len(data), count, replace=False))
    shift = torch.from_numpy(generator.integers(1, data.num_classes, count))
    chosen = torch.from_numpy(rows)
    return Planted(chosen, (data.labels[chosen] + shift) % data.num_classes)
