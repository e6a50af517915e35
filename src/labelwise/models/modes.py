"""Modes of networks: put into eval mode for a while, and back again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class evaluating:
    """Put networks into eval mode for a block, and all their parts back into their own modes.

    Part by part: a frozen backbone is in another mode than the network it belongs to.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        self.modes = [(part, part.training) for network in networks for part in network.modules()]

    def __enter__(self) -> None:
        for network in self.networks:
            network.eval()

    def __exit__(self, *exception: object) -> None:
        for part, mode in self.modes:
            part.training = mode
