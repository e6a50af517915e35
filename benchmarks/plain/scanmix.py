"""ScanMix, plainly (arXiv 2103.11395): DivideMix on strong views, then the clustering pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plain.dividemix import DivideMix

LR, CLUSTER_LR = 0.02, 1e-3
ENTROPY_WEIGHT = 5.0


def cluster_loss(anchors: Tensor, neighbours: Tensor) -> Tensor:
    """-mean log⟨p_i, p_j⟩ - λ_e H(mean p) of cluster logits (B, K)."""
    first, second = anchors.softmax(1), neighbours.softmax(1)
    consistency = -(first * second).sum(1).log().mean()
    mean = first.mean(0).clamp(min=1e-8)
    return consistency + ENTROPY_WEIGHT * (mean * mean.log()).sum()


@dataclass
class ScanMix(DivideMix):
    """DivideMix's epoch, and the clusters of both networks.

    Args:
        pairs: loader of strong views of anchors and of their neighbours.
    """

    pairs: Any = None

    def cluster_step(self, learner: int, batch: Any) -> float:
        """One step of the clustering pass, both partners in one forward."""
        self.modes(learner)
        anchors, neighbours = self.peers.here(batch)
        joined = torch.cat([anchors, neighbours])
        logits = self.peers.logits(learner, joined, "clusters")
        return self.peers.update(learner, cluster_loss(*logits.chunk(2)))

    def epoch(self) -> float:
        """Divide, train both networks, cluster with both, and the test accuracy."""
        self.divide()
        for learner in range(2):
            self.learn(learner)
        self.peers.set_lr(CLUSTER_LR)
        for learner in range(2):
            for batch in self.pairs:
                self.cluster_step(learner, batch)
        self.peers.set_lr(LR)
        return self.peers.accuracy(self.test)
