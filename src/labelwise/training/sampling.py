"""Which samples a phase draws, and into which sides of the batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.rng import Draw
from labelwise.training.context import Context


class Sampling(ABC):
    """Which samples a phase draws, and into which sides of the batch."""

    @abstractmethod
    def plan(self, context: Context, batch_size: int) -> dict[str, Tensor]:
        """Draw the whole phase: side -> row numbers (steps, B), equal on every rank.

        All sides have the same number of steps; `batch_size` counts samples over all ranks.
        """


def batch_rows(num_rows: int, batch_size: int, world: int) -> int:
    """Rows of one global batch: `batch_size`, or all rows if there are fewer, in equal shares.

    A number that the ranks cannot share equally is cut to one that they can.
    """
    size = min(batch_size, num_rows)
    return max(world, size - size % world)


def full_batches(order: Tensor, batch_size: int, world: int = 1) -> Tensor:
    """Cut row numbers into full batches (steps, B); the last is filled up from the first ones.

    Batches of one size keep batch statistics alike and never leave a single sample over. With
    fewer rows than a batch, the batch is all rows.
    """
    size = batch_rows(len(order), batch_size, world)
    steps = -(-len(order) // size)
    return torch.cat([order, order[: steps * size - len(order)]]).view(steps, size)


@dataclass(frozen=True)
class Everything(Sampling):
    """Every sample once, in random order, on a single side called "all"."""

    def plan(self, context: Context, batch_size: int) -> dict[str, Tensor]:
        """Permute all rows."""
        order = context.draw.permutation("order", len(context.store))
        return {"all": full_batches(order, batch_size, context.ranks.world)}


def deal(rows: Tensor, draw: Draw, side: str, steps: int, size: int) -> Tensor:
    """Deal rows (M) into full batches (steps, size), going round in fresh permutations."""
    rounds = math.ceil(steps * size / len(rows))
    order = [rows[draw.permutation(f"{side}/{turn}", len(rows))] for turn in range(rounds)]
    return torch.cat(order)[: steps * size].view(steps, size)
