"""Cross-entropy, plainly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.nn import functional as F

from plain.networks import Peers


@dataclass
class CrossEntropy:
    """One network that takes the given labels as right.

    Args:
        peers: the network.
        train: loader of one weak view, label and weight.
        test: loader of the test images; None for no evaluation.
    """

    peers: Peers
    train: Any
    test: Any = None

    def step(self, batch: Any) -> float:
        """One step."""
        (images,), labels, _ = self.peers.here(batch)
        return self.peers.update(0, F.cross_entropy(self.peers.logits(0, images), labels))

    def epoch(self) -> float:
        """All images once, then the test accuracy."""
        self.peers.networks[0].train()
        for batch in self.train:
            self.step(batch)
        return 0.0 if self.test is None else self.peers.accuracy(self.test)
