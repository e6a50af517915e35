"""Optimisers: one per network, fused where the device has it."""

from __future__ import annotations

import torch
from torch import nn

from labelwise.config import Schedule


def build_optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, over all weights of one network, in one fused kernel."""
    if schedule.optimiser == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True
        )
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    if schedule.momentum:
        # A weight may get its first gradient late (a head that another phase trains); the fused
        # kernel wants all momenta or none. Zero is what the first step assumes.
        for weight in network.parameters():
            optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimiser


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = lr
