"""Features of every sample: computed on demand, or kept from the epoch's scoring pass."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from labelwise.training.context import Context

BANK = "features"
"""Name of the `FeatureBank` among a method's further modules."""


class FeatureBank(nn.Module):
    """Features (N, F) of the networks from the epoch's scoring, until they are dropped.

    Scoring runs every sample through every network; a method that then needs their features does
    not have to do so again. They are no state: a checkpoint leaves them out, and a run that is
    resumed between the two passes computes them anew, which gives the same bits.

    A method that has one hands it over among its `extras` under the name `BANK`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[int, Tensor]] = {}

    def keep(self, context: Context, number: int, features: Tensor) -> None:
        """Keep what the network `number` made of every sample in this epoch."""
        self.held[number] = (context.draw.epoch, features)

    def drop(self, number: int) -> None:
        """Free the memory."""
        self.held.pop(number, None)

    def of(self, context: Context, number: int) -> Tensor:
        """Features (N, F) of network `number`; it must not have moved since the scoring."""
        epoch, features = self.held.get(number, (-1, torch.empty(0)))
        if epoch != context.draw.epoch:
            features = features_of(context, number)
            self.keep(context, number, features)
        return features


def bank_of(context: Context) -> FeatureBank:
    """The bank of a method that has one."""
    return cast(FeatureBank, context.extras[BANK])


class Gathered:
    """Rows that come block by block, each from one rank, joined over the ranks at the end."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.rows: Tensor | None = None

    def put(self, index: Tensor, part: Tensor) -> None:
        """Set the rows `index` (B) to `part` (B, F)."""
        part = part.float()
        if self.rows is None:
            self.rows = part.new_zeros(len(self.context.store), part.shape[1])
        self.rows[index] = part

    def whole(self) -> Tensor:
        """All rows (N, F), on every rank."""
        assert self.rows is not None, "this rank has no sample"
        return self.context.ranks.sum(self.rows)


def features_of(context: Context, number: int) -> Tensor:
    """Features (N, F) of every sample by network `number`, unaugmented, on every rank."""
    gathered = Gathered(context)
    for index, outputs in context.score_blocks(number, ("features",)):
        gathered.put(index, outputs["features"])
    return gathered.whole()
