"""The noise rate from how often neighbours carry the same given label."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 65_536
"""Anchors that are compared at once."""


def same_pairs(classes: Tensor, neighbours: Tensor, num_classes: int) -> tuple[float, float]:
    """How often an anchor and its neighbour are of one class, and how often two samples at random.

    Args:
        classes: class of every sample (N) int64.
        neighbours: row numbers (N, K), -1 for none.
        num_classes: number of classes.
    """
    same = torch.zeros((), dtype=torch.int64, device=classes.device)
    for near, own in zip(torch.split(neighbours, BLOCK), torch.split(classes, BLOCK), strict=True):
        theirs = classes[near.clamp_min(0).long()]
        same += ((theirs == own[:, None]) & (near >= 0)).sum()
    pairs = (neighbours >= 0).sum().clamp_min(1)
    share = torch.bincount(classes, minlength=num_classes).double() / max(1, len(classes))
    return float(same / pairs), float(share.square().sum())


def noise_rate_from_pairs(
    labels: Tensor, predictions: Tensor, neighbours: Tensor, num_classes: int
) -> float:
    """The rate of uniform noise at which neighbours would agree as often as they do.

    If noise moves a label to another class evenly, a label keeps its class's say with weight
    q = 1 - e K / (K - 1), e being the rate, and two samples of one class agree q² more often than
    by chance. Neighbours that are not of one class dilute this, by as much as their predictions
    agree less than always. The published form of the idea, without neighbours, is that of INCV
    (Chen et al., arXiv 1905.05040, section 3: accuracy = (1 - e)² + e² / (K - 1)).

    Predictions agree more often than classes where a network is smooth, so the rate is too high
    where neighbours are impure; under noise that follows the images it is too low.

    Args:
        labels: given labels (N) int64.
        predictions: predicted classes (N) int64.
        neighbours: row numbers (N, K), -1 for none.
        num_classes: K.

    Returns:
        The rate e in [0, (K - 1) / K].
    """
    agree, chance = same_pairs(labels, neighbours, num_classes)
    alike, by_chance = same_pairs(predictions, neighbours, num_classes)
    excess = (agree - chance) / max(1e-6, 1 - chance)
    pure = (alike - by_chance) / max(1e-6, 1 - by_chance)
    weight = min(1.0, max(0.0, excess / max(pure, 0.05))) ** 0.5
    return float((1 - weight) * (num_classes - 1) / num_classes)
