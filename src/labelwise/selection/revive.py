"""Keep starving classes alive: a class that the networks have lost cannot come back by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def revive_classes(
    clean: Tensor,
    losses: Tensor,
    labels: Tensor,
    threshold: float,
    num_classes: int,
    fraction: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Raise the clean probability of the lowest losses of classes that few labels are trusted of.

    Under severe noise two look-alike classes can melt into one during warm-up. All labels of the
    lost class then have high losses, none is trusted, and as semi-supervised learning ignores
    what it does not trust, the class never returns. But *within* its labels the right ones still
    have the lower losses. With `s` the share of all labels above the threshold, a class below
    `fraction * s` has its `ceil(fraction * s * size)` lowest losses raised to the middle between
    the threshold and 1; their label then counts again, without being fully trusted.

    Args:
        clean: P(given label is right) (N).
        losses: loss per sample (N); orders the samples of a class.
        labels: given labels (N) int64 in [0, K).
        threshold: a sample is trusted above it.
        num_classes: K.
        fraction: least share of trusted labels, relative to that of all classes; 0 for never.

    Returns:
        The raised probabilities (N), and which classes were starving (K) bool.
    """
    trusted = clean > threshold
    size = torch.bincount(labels, minlength=num_classes)
    alive = torch.bincount(labels[trusted], minlength=num_classes)
    least = fraction * trusted.double().mean()
    starving = (alive < least * size) & (size > 0)
    quota = torch.ceil(least * size)
    order = losses.nan_to_num(nan=torch.inf).argsort(stable=True)
    by_class = order[labels[order].argsort(stable=True)]
    label = labels[by_class]
    place = torch.arange(len(labels), device=labels.device) - (size.cumsum(0) - size)[label]
    chosen = starving[label] & (place < quota[label])
    raised = torch.zeros_like(trusted).scatter_(0, by_class, chosen)
    level = (1.0 + threshold) / 2
    return torch.where(raised, clean.clamp_min(level), clean), starving
