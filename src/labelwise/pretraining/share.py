"""Hand the first network's weights to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from labelwise.training.context import Context
from labelwise.training.method import Pass

CLASS_HEAD = "heads.classes."


@dataclass(frozen=True)
class Share(Pass):
    """Give every network the first one's backbone and heads, but not its class head.

    Pre-training trains one network. The peers of co-training start from it, and differ by their
    class heads, unless a method makes those alike, and by the samples they see (C2D, arXiv
    2103.13646, section 3).
    """

    moves: ClassVar[bool] = True

    @torch.no_grad()
    def run(self, context: Context) -> dict[str, float]:
        """Copy weights and statistics."""
        first = context.plain[0].state_dict()
        for network in context.plain[1:]:
            for name, value in network.state_dict().items():
                if not name.startswith(CLASS_HEAD):
                    value.copy_(first[name])
        return {}
