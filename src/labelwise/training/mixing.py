"""MixUp over all views of all sides of a batch, alike for any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.augment.mix import mixup
from labelwise.training.context import Context
from labelwise.training.groups import Groups


def mix_groups(
    context: Context, groups: Groups, coefficient: float, purpose: str = "partner"
) -> tuple[Tensor, Tensor]:
    """Mix every view of every side with a partner drawn from all of them.

    One random permutation of all rows of the *global* batch gives the partners, so partners
    cross sides, views and processes, and the number of processes changes nothing.

    Args:
        context: for the draw and the other ranks.
        groups: sides with their views; M rows in all on this rank.
        coefficient: λ in [0.5, 1], the row's own share.
        purpose: names the draw.

    Returns:
        Mixed inputs (M, *S) and targets (M, K), side by side, view by view.
    """
    inputs = torch.cat([group.inputs for group in groups.values()])
    targets = torch.cat([group.targets for group in groups.values()])
    world = context.ranks.world
    rows = len(inputs)
    partner = context.draw.permutation(purpose, rows * world)
    if world == 1:
        return mixup(inputs, targets, coefficient, partner)
    chosen = context.ranks.own(partner)
    return (
        coefficient * inputs + (1 - coefficient) * context.ranks.whole(inputs)[chosen],
        coefficient * targets + (1 - coefficient) * context.ranks.whole(targets)[chosen],
    )
