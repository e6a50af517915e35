"""Neighbour pairs: mined once from the features, drawn as batches, filtered by predictions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.data.ledger import Column
from labelwise.data.neighbours import nearest_neighbours
from labelwise.training.context import Context
from labelwise.training.features import features_of
from labelwise.training.method import Pass
from labelwise.training.sampling import Sampling, full_batches

NEIGHBOURS = "neighbours"
MINED = "neighbours_mined"
CLUSTERING = "clustering"
"""Decision: 0 where clustering was given up for this run."""
BLOCK = 65_536
"""Anchors whose neighbours are drawn at once."""


def neighbour_column(count: int) -> Column:
    """The ledger column of the neighbours: row numbers (K), -1 for none; the first peer's."""
    return Column(NEIGHBOURS, torch.int32, shape=(count,), initial=-1)


@dataclass(frozen=True)
class MineNeighbours(Pass):
    """Find the K nearest neighbours of every sample in the first network's features, once.

    Embeddings are their own features: what they come from knows more than a fresh network.

    Args:
        count: K; with fewer other samples, all of them.
    """

    count: int = 20

    def run(self, context: Context) -> dict[str, float]:
        """Search, unless an earlier part of the run has done so."""
        if context.ledger.decisions.get(MINED):
            return {}
        features = all_features(context)
        size, ranks = len(features), context.ranks
        if size - 1 < self.count:
            context.say(
                f"{size} samples have no {self.count} neighbours each: all {size - 1} others "
                "are taken, which says little"
            )
        own = torch.arange(ranks.rank, size, ranks.world, device=features.device)
        near, _ = nearest_neighbours(features, self.count, queries=own, progress=context.progress)
        held = torch.full((len(own), self.count), -1, dtype=torch.int64, device=near.device)
        held[:, : near.shape[1]] = near
        context.ledger.write(NEIGHBOURS, 0, own, held)
        context.ledger.decisions[MINED] = 1.0
        return {}


def all_features(context: Context, own: bool = False) -> Tensor:
    """Features (N, F) of every sample, unaugmented, on every rank.

    Args:
        context: of the pass.
        own: ask the first network even where the samples are embeddings.
    """
    if context.store.inputs.ndim == 2 and not own:
        return context.store.inputs
    return features_of(context, 0)


def kept(neighbours: Tensor, own: Tensor, prediction: Tensor | None) -> Tensor:
    """q(z_ji): which neighbours x_j of an anchor x_i are used (B, K) bool.

    The E-step of ScanMix (arXiv 2103.11395, section 3.2): a mined neighbour counts only if it is
    predicted to be of the anchor's class.

    Args:
        neighbours: row numbers (B, K), -1 for none.
        own: the anchors' row numbers (B).
        prediction: predicted classes of all samples (N); None keeps every neighbour.
    """
    there = neighbours >= 0
    if prediction is None:
        return there
    return there & (prediction[neighbours.clamp_min(0).long()] == prediction[own, None])


@dataclass(frozen=True)
class NeighbourPairs(Sampling):
    """Every anchor once, each with one of its neighbours drawn at random.

    Anchors without a neighbour that counts are left out. Where clustering was given up there is
    nothing to draw.

    Args:
        judge: the network whose predictions filter the neighbours; None keeps all of them.
        lr: the decision that is the phase's learning rate; where it is 0 nothing is drawn.
    """

    judge: int | None = None
    lr: str | None = None

    def plan(self, context: Context, batch_size: int) -> dict[str, Tensor]:
        """Draw pairs, then cut them into full batches."""
        decisions = context.ledger.decisions
        if not decisions.get(CLUSTERING, 1.0) or (self.lr and not decisions.get(self.lr, 1.0)):
            return nothing(context)
        partner = draw_partners(context, self.judge)
        anchors = (partner >= 0).nonzero().flatten()
        if len(anchors) < max(2, context.ranks.world):
            context.say(
                f"phase {context.draw.phase}: hardly any sample has a neighbour of its predicted "
                "class; the clustering pass is left out"
            )
            return nothing(context)
        order = anchors[context.draw.permutation("order", len(anchors))]
        batches = full_batches(order, batch_size, context.ranks.world)
        return {"anchors": batches, "neighbours": partner[batches]}


def nothing(context: Context) -> dict[str, Tensor]:
    """A plan without steps."""
    empty = torch.zeros((0, 1), dtype=torch.int64, device=context.store.device)
    return {"anchors": empty, "neighbours": empty}


def draw_partners(context: Context, judge: int | None) -> Tensor:
    """One random neighbour that counts of every sample (N) int64, -1 where there is none."""
    column = context.ledger[NEIGHBOURS][0]
    prediction = None if judge is None else context.ledger["prediction"][judge]
    size, count = column.shape
    generator = context.draw.generator("partner")
    found = torch.empty(size, dtype=torch.int64, device=column.device)
    for start in range(0, size, BLOCK):
        near = column[start : start + BLOCK]
        own = torch.arange(start, start + len(near), device=near.device)
        keep = kept(near, own, prediction)
        lot = torch.rand((len(near), count), generator=generator, device=near.device)
        chosen = lot.masked_fill(~keep, -1.0).argmax(1)
        drawn = near.gather(1, chosen[:, None])[:, 0].long()
        found[start : start + len(near)] = drawn.where(keep.any(1), -1)
    return found


@dataclass(frozen=True)
class CountKept(Pass):
    """Note what share of the mined neighbours the E-step keeps, for each network's judge."""

    def run(self, context: Context) -> dict[str, float]:
        """Compare predictions, block by block."""
        if not context.ledger.decisions.get(CLUSTERING, 1.0):
            return {}
        column, peers = context.ledger[NEIGHBOURS][0], len(context.networks)
        everyone = torch.arange(len(column), device=column.device)
        figures = {}
        for number in range(peers):
            prediction = context.ledger["prediction"][(number + 1) % peers]
            held = [
                kept(near, own, prediction).sum()
                for near, own in zip(
                    torch.split(column, BLOCK), torch.split(everyone, BLOCK), strict=True
                )
            ]
            mined = (column >= 0).sum().clamp_min(1)
            figures[f"kept_neighbours_{number}"] = float(torch.stack(held).sum() / mined)
        return figures
