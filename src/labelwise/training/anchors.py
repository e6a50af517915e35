"""Anchors: drawn as pairs of easy samples, made block by block, and matched with hard samples.

No block of anchors outlives its search: what is kept of an anchor is which samples it comes from,
how near it is to which hard sample, and its number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.data.neighbours import Progress, nearest_among
from labelwise.rng import Draw

BLOCK = 4096
"""Anchors made and searched with at once."""

Make = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From features s_a (B, F), s_b (B, F) and λ_p (B) to anchors (B, F)."""


@dataclass(frozen=True)
class Pairs:
    """What anchors are made of.

    Args:
        near: rows (A) int64 of the samples whose class the anchors have.
        far: rows (A) int64 of their partners of other classes; -1 for anchors that are copies.
        closeness: λ_p (A) in [0, 1].
    """

    near: Tensor
    far: Tensor
    closeness: Tensor

    def __len__(self) -> int:
        return len(self.near)

    def part(self, rows: slice | Tensor) -> Pairs:
        """Some of them."""
        return Pairs(self.near[rows], self.far[rows], self.closeness[rows])


def draw_closeness(draw: Draw, count: int, fixed: float | None) -> Tensor:
    """λ_p of `count` anchors: fixed, or from U(0.5, 1)."""
    if fixed is not None:
        return torch.full((count,), fixed, device=draw.device)
    generator = draw.generator("closeness")
    return 0.5 + 0.5 * torch.rand(count, generator=generator, device=draw.device)


def draw_pairs(
    draw: Draw, near: Tensor, easy: Tensor, labels: Tensor, fixed: float | None = None
) -> Pairs:
    """Give every row of `near` a partner, any easy sample of another class being equally likely.

    Args:
        draw: gives the partners under the purpose "partner", λ_p under "closeness".
        near: rows (A) int64, which may repeat.
        easy: rows of the easy samples (E) int64, of two classes at least.
        labels: given labels of all samples (N) int64.
        fixed: λ_p, or None for U(0.5, 1).
    """
    ordered = easy[labels[easy].argsort(stable=True)]
    size = torch.bincount(labels[ordered])
    end = size.cumsum(0)
    own = labels[near]
    others = len(ordered) - size[own]
    generator = draw.generator("partner")
    lot = torch.rand(len(near), generator=generator, device=near.device, dtype=torch.float64)
    place = (lot * others).long().minimum(others - 1)
    # Skip the stretch of one's own class.
    place = place + size[own] * (place >= end[own] - size[own])
    return Pairs(near, ordered[place], draw_closeness(draw, len(near), fixed))


def nearest_hard(
    pairs: Pairs,
    features: Tensor,
    hard: Tensor,
    make: Make,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The hard sample nearest to every anchor, by cosine.

    Memory is O(A) beside the features: anchors are made, compared and dropped by blocks.

    Args:
        pairs: what the A anchors are made of.
        features: of all samples (N, F).
        hard: rows of the hard samples (H) int64, not empty.
        make: makes anchors of features.
        block: anchors at once.
        progress: told how far the search has come.

    Returns:
        Rows (A) int64 among `hard`, and cosine similarities (A).
    """
    unit = features[hard]
    unit /= unit.norm(dim=1, keepdim=True).clamp_min(1e-12)  # in place: no second copy
    places = torch.zeros(len(pairs), dtype=torch.int64, device=features.device)
    similarity = torch.zeros(len(pairs), device=features.device)
    everyone = torch.arange(len(hard), device=features.device)
    for start in range(0, len(pairs), block):
        part = pairs.part(slice(start, start + block))
        anchors = F.normalize(anchors_of(part, features, make), dim=1)
        nobody = torch.full_like(part.near, -1)
        found, value = nearest_among(anchors, nobody, unit, everyone, 1)
        places[start : start + block] = found[:, 0]
        similarity[start : start + block] = value[:, 0]
        if progress is not None:
            progress(min(start + block, len(pairs)), len(pairs))
    return hard[places], similarity


def anchors_of(pairs: Pairs, features: Tensor, make: Make) -> Tensor:
    """Features (A, F) of anchors."""
    with torch.no_grad():
        return make(features[pairs.near], features[pairs.far.clamp_min(0)], pairs.closeness)


def mixed(near: Tensor, far: Tensor, closeness: Tensor) -> Tensor:
    """Anchors on the straight line between both features: what a hallucinator is compared with."""
    weight = closeness[:, None]
    return weight * near + (1 - weight) * far


def copied(near: Tensor, far: Tensor, closeness: Tensor) -> Tensor:
    """Easy samples themselves as anchors."""
    del far, closeness
    return near
