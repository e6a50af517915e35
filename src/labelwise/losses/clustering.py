"""Losses of semantic clustering (SCAN): neighbours agree, clusters share the data evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.losses.classification import full, log_probabilities


def neighbour_consistency(anchors: Tensor, neighbours: Tensor) -> Tensor:
    """Mean of -log⟨p_i, p_j⟩ over pairs (SCAN, arXiv 2005.12320, eq. 2, first term).

    It is least where both are sure of one and the same cluster.

    Args:
        anchors: cluster logits of x_i (B, K).
        neighbours: cluster logits of x_j (B, K), row by row the partners.

    Returns:
        A scalar (nats), at least 0.
    """
    both = log_probabilities(anchors) + log_probabilities(neighbours)
    return -torch.logsumexp(both, dim=1).mean()  # the sum of products, without underflow


def entropy(probability: Tensor) -> Tensor:
    """H(p) = -Σ p log p of one distribution (K), in nats; log K where it is even."""
    held = full(probability).clamp_min(1e-8)
    return -(held * held.log()).sum()


def balanced_cross_entropy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy in which every class weighs alike (SCAN, section 2.3, self-labelling).

    Args:
        logits: (M, K).
        targets: one-hot pseudo-labels (M, K); a row of zeros takes no part.
        counts: how many pseudo-labels of each class there are (K), over all processes.

    Returns:
        Mean over the classes that occur of their samples' mean cross-entropy (nats), as a share of
        this process: the sum over M, so that the processes' results add up. 0 without any sample.
    """
    each = -(targets * log_probabilities(logits)).sum(1)
    weight = (targets / counts.clamp_min(1)).sum(1)
    return (weight * each).sum() / (counts > 0).sum().clamp_min(1)
