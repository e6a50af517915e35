"""SANM around DivideMix, plainly (arXiv 2302.06805): six views a side, as its authors do.

Targets are guessed on two AutoAugment views. What is learnt from are these two, two RandAugment
views, and two masked copies of the first one: around its most and its least activated place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plain.dividemix import DivideMix, semi_supervised
from plain.images import uniform

RATIO, GAIN, ASPECT = (0.02, 0.07), 0.03, (0.8, 1.25)
RECONSTRUCTION_WEIGHT = 0.02
GUESSED_ON = 2
"""The first so many views of a side are those that targets are guessed on."""


def extremes(maps: Tensor, size: tuple[int, int]) -> tuple[list[Any], list[Any]]:
    """Row and column of the most and of the least activated pixel of every image.

    Args:
        maps: last feature map (B, F, h, w).
        size: of the images.
    """
    activation = maps.float().square().sum(1, keepdim=True)
    wide = F.interpolate(activation, size, mode="bilinear", align_corners=False).flatten(1)
    places = [wide.argmax(1), wide.argmin(1)]
    hot, cold = (torch.stack((p // size[1], p % size[1]), 1).tolist() for p in places)
    return hot, cold


def cover(
    images: Tensor,
    places: Sequence[Sequence[int]],
    ratios: Sequence[float],
    aspects: Sequence[float],
    fills: Tensor,
) -> Tensor:
    """A copy of the images with a box around a pixel of each.

    Args:
        images: (B, C, H, W).
        places: row and column of every box's centre.
        ratios: r; a box covers half of it.
        aspects: height over width of every box.
        fills: colour of every box (B, C), in the units of the images.
    """
    copies = images.clone()
    height, width = images.shape[2:]
    for number, (row, column) in enumerate(places):
        area = ratios[number] / 2 * height * width
        tall = min(height, max(1, round((area * aspects[number]) ** 0.5)))
        wide = min(width, max(1, round((area / aspects[number]) ** 0.5)))
        top = min(max(0, row - tall // 2), height - tall)
        left = min(max(0, column - wide // 2), width - wide)
        box = copies[number, :, top : top + tall, left : left + wide]
        box[:] = fills[number][:, None, None]
    return copies


def soften(targets: Tensor, ratios: Tensor) -> Tensor:
    """The top class pays r, at most what it has; the others share it."""
    top, place = targets.max(1, keepdim=True)
    paid = torch.minimum(ratios[:, None], top)
    softer = targets + paid / (targets.shape[1] - 1)
    return softer.scatter(1, place, top - paid)


@dataclass
class SANM(DivideMix):
    """DivideMix on six views a side, with reconstruction of the masked ones."""

    def masks(self, learner: int, view: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The hot and the cold copy of a view (B, C, H, W), and r (B)."""
        network = self.peers.networks[learner]
        mode = network.training
        network.eval()
        with torch.no_grad():
            maps = self.peers.maps(learner, view)
        network.train(mode)
        ratios = [uniform(*RATIO) + GAIN * (1 - weight) for weight in weights.tolist()]
        mean, std = (part.view(1, -1) for part in (network.mean, network.std))
        copies = []
        for places in extremes(maps, (view.shape[2], view.shape[3])):
            aspects = [uniform(*ASPECT) for _ in places]
            fills = (torch.rand(len(view), view.shape[1], device=view.device) - mean) / std
            copies.append(cover(view, places, ratios, aspects, fills))
        return copies[0], copies[1], torch.tensor(ratios, device=view.device)

    def masked_loss(
        self,
        learner: int,
        sides: Sequence[Side],
        share: float,
        partner: Tensor,
    ) -> Tensor:
        """The loss on mixed views and masked copies, and of the images that are rebuilt.

        Args:
            learner: number of the network that learns.
            sides: the labelled and the unlabelled one.
            share: λ of a row itself.
            partner: rows to mix with, of all sides' views and copies (M).
        """
        inputs = torch.cat([view for side in sides for view in (*side.views, *side.copies)])
        # What each row is to become: a masked copy its image without the mask.
        wholes = torch.cat([view for side in sides for view in (*side.views, *[side.views[0]] * 2)])
        targets = torch.cat(
            [
                aim
                for side in sides
                for aim in (*[side.target] * len(side.views), *[side.softer] * 2)
            ]
        )
        size, rows = len(sides[0].target), torch.arange(len(inputs), device=inputs.device)
        per_side = len(sides[0].views) + 2
        copies = rows[(rows // size) % per_side >= len(sides[0].views)]
        mixed = share * inputs + (1 - share) * inputs[partner]
        aims = share * targets + (1 - share) * targets[partner]
        whole = share * wholes + (1 - share) * wholes[partner]
        maps = self.peers.maps(learner, mixed)
        loss = semi_supervised(self.peers.head(learner, maps), aims, per_side * size, self.weight)
        with self.peers.autocast():
            rebuilt = self.peers.networks[learner].heads["reconstruction"](maps[copies])
        return loss + RECONSTRUCTION_WEIGHT * F.mse_loss(rebuilt.float(), whole[copies])

    def step(self, learner: int, labelled: Any, unlabelled: Any) -> float:
        """One step of one network with the other as its peer."""
        xs, labels, weights = self.peers.here(labelled)
        us, _, doubts = self.peers.here(unlabelled)
        self.modes(learner)
        on_x, on_u = self.targets(learner, xs[:GUESSED_ON], labels, weights, us[:GUESSED_ON])
        sides = []
        for views, target, clean in ((xs, on_x, weights), (us, on_u, doubts)):
            hot, cold, ratios = self.masks(learner, views[0], clean)
            sides.append(Side(views, (hot, cold), target, soften(target, ratios)))
        rows = sum(len(labels) * (len(side.views) + 2) for side in sides)
        share, partner = self.draw(rows)
        loss = self.masked_loss(learner, sides, share, partner)
        return self.peers.update(learner, loss)


@dataclass(frozen=True)
class Side:
    """One side of a batch.

    Args:
        views: inputs (B, C, H, W) each, the first of which was masked.
        copies: its masked copies.
        target: of the views (B, K).
        softer: of the copies (B, K).
    """

    views: Sequence[Tensor]
    copies: Sequence[Tensor]
    target: Tensor
    softer: Tensor
