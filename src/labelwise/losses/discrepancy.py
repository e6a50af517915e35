"""How far two classifiers on the same features disagree."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.losses.classification import full


def discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Sum over the classes of the absolute difference of two predictions, Σ_c |p_c - q_c|.

    The measure of maximum classifier discrepancy (Saito et al., arXiv 1712.02560, equation 9, there
    the mean over the classes) and of TSCSI (arXiv 2207.14476).

    Args:
        first: logits (B, K) of one classifier.
        second: logits (B, K) of the other.

    Returns:
        (B), from 0 (the same prediction) to 2 (certain of different classes).
    """
    difference: Tensor = torch.softmax(full(first), -1) - torch.softmax(full(second), -1)
    return difference.abs().sum(-1)
