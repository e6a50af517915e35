"""A good start for the cluster head: the best of several, learnt on features that stay fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from labelwise.losses.classification import log_probabilities
from labelwise.training.context import Context
from labelwise.training.method import Pass
from labelwise.training.neighbourhood import NEIGHBOURS, all_features

LR = 1e-2
LENGTH = 7.0
"""Features are brought to this mean length, so that the learning rate suits any backbone."""
MOST_LOGITS = 2**23
"""Cluster logits of all candidates at once, at most (32 MiB)."""
JUDGED = 20_000
"""Samples on which the candidates are compared, at most."""


def candidate_losses(
    anchors: Tensor, neighbours: Tensor, entropy_weight: float
) -> tuple[Tensor, Tensor]:
    """SCAN's loss (arXiv 2005.12320, eq. 2) of several heads at once.

    Args:
        anchors: cluster logits of H heads (B, H, K).
        neighbours: those of the partners.
        entropy_weight: λ_e.

    Returns:
        -mean log⟨p_i, p_j⟩ (H) and -λ_e H(mean p) (H).
    """
    log_p, log_q = log_probabilities(anchors), log_probabilities(neighbours)
    agreement = -torch.logsumexp(log_p + log_q, dim=2).mean(0)
    mean = log_p.exp().mean(0).clamp_min(1e-8)
    return agreement, entropy_weight * (mean * mean.log()).sum(1)


@dataclass(frozen=True)
class StartHead(Pass):
    """Learn several linear cluster heads on the fixed features and keep the one of least loss.

    Clusters that merge two classes and split a third share the data evenly too: only how well
    neighbours agree tells them from the right ones, and no single start finds those reliably. On
    digits ten heads found between 81 and 98 % of the classes, the one of least loss 97 to 98 % on
    each of three seeds (`benchmarks/cluster_heads.json`). The backbone is not run.

    Args:
        num_heads: H, candidates.
        entropy_weight: λ_e.
        steps: updates of the candidates.
    """

    moves: ClassVar[bool] = True
    num_heads: int
    entropy_weight: float
    steps: int = 700

    def run(self, context: Context) -> dict[str, float]:
        """Learn, compare, and copy the best into the first network."""
        head = context.plain[0].get_submodule("heads.clusters")
        assert isinstance(head, nn.Linear)
        features = all_features(context, own=True)
        scale = LENGTH / features.norm(dim=1).mean().clamp_min(1e-8)
        near = context.ledger[NEIGHBOURS][0]
        count = head.out_features
        with context.draw.forked("candidates"), torch.enable_grad():
            heads = nn.Linear(features.shape[1], self.num_heads * count).to(features.device)
            self._learn(context, heads, features * scale, near)
        with torch.no_grad():
            best, losses = self._best(context, heads, features * scale, near)
            rows = slice(best * count, (best + 1) * count)
            head.weight.copy_(heads.weight[rows] * scale)
            head.bias.copy_(heads.bias[rows])
        return {"head_loss": float(losses.min()), "head_loss_worst": float(losses.max())}

    def _split(self, logits: Tensor) -> Tensor:
        return logits.view(len(logits), self.num_heads, -1)

    def _learn(self, context: Context, heads: nn.Linear, features: Tensor, near: Tensor) -> None:
        optimiser = torch.optim.Adam(heads.parameters(), lr=LR, weight_decay=1e-4, fused=True)
        wanted = max(128, 10 * heads.out_features // self.num_heads)
        size = min(len(features), wanted, max(128, MOST_LOGITS // heads.out_features))
        for step in range(self.steps):
            draw = context.draw.at(phase=context.draw.phase, step=step)
            rows = draw.shared_integers("rows", size, len(features))
            lot = draw.shared_integers("partner", size, near.shape[1])
            partner = near[rows, lot].long()
            partner = torch.where(partner >= 0, partner, rows)
            logits = self._split(heads(features[torch.cat([rows, partner])]))
            anchors, others = logits.chunk(2)
            agreement, spread = candidate_losses(anchors, others, self.entropy_weight)
            optimiser.zero_grad(set_to_none=True)
            (agreement + spread).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % 50 == 0:
                context.progress(step, self.steps)

    def _best(
        self, context: Context, heads: nn.Linear, features: Tensor, near: Tensor
    ) -> tuple[int, Tensor]:
        """The number of the head with the least loss over all neighbours, and all losses (H)."""
        most = min(JUDGED, max(128, MOST_LOGITS // heads.out_features))
        rows = context.draw.permutation("judged", len(features))[:most]
        anchors = self._split(heads(features[rows]))
        losses = torch.zeros(self.num_heads, device=features.device)
        for place in range(near.shape[1]):
            partner = near[rows, place].long()
            partner = torch.where(partner >= 0, partner, rows)
            agreement, spread = candidate_losses(
                anchors, self._split(heads(features[partner])), self.entropy_weight
            )
            losses += (agreement + spread) / near.shape[1]
        return int(losses.nan_to_num(torch.inf).argmin()), losses
