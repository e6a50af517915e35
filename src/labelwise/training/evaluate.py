"""Accuracy of the trained networks; the only part of training that ever sees truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labelwise.data.dataset import Truth
from labelwise.data.store import Store, as_input
from labelwise.models.modes import evaluating
from labelwise.training.ranks import Ranks


@torch.no_grad()
def probabilities(networks: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Mean softmax (B, K) of the networks on unaugmented inputs; they must be in eval mode."""
    total = torch.stack([network(inputs)["classes"].float().softmax(1) for network in networks])
    return total.mean(0)


def predict_proba(networks: Sequence[nn.Module], store_inputs: Tensor, block: int = 1024) -> Tensor:
    """Mean softmax (N, K) of the networks for stored inputs, in blocks, on their device."""
    with evaluating(networks):
        parts = [
            probabilities(networks, as_input(rows)) for rows in torch.split(store_inputs, block)
        ]
    return torch.cat(parts)


def accuracy(
    networks: Sequence[nn.Module], test: Store, truth: Truth, ranks: Ranks, block: int = 1024
) -> float:
    """Fraction of test samples that the networks' mean prediction gets right."""
    right = torch.zeros((), dtype=torch.float64, device=test.device)
    with evaluating(networks):
        for index in test.blocks(block, ranks.rank, ranks.world):
            predicted = probabilities(networks, test.plain(index)).argmax(1)
            right += (predicted == truth.labels.to(test.device)[index]).sum()
    return float(ranks.sum(right)) / len(test)
