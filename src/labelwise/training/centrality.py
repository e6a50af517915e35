"""Passes of TSCSI: how central samples are in their class, and where two classifiers agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from labelwise.losses.discrepancy import discrepancy
from labelwise.models.heads import Twins
from labelwise.models.network import Network
from labelwise.selection.centrality import centre_distance, class_centres, consistency_by_class
from labelwise.selection.mixture import mixture
from labelwise.selection.split import split_by_clean
from labelwise.training.context import Context
from labelwise.training.corrections import CONSISTENT
from labelwise.training.features import bank_of
from labelwise.training.method import Pass

TWINS = "twins"
"""Name of the head that holds the two classifiers."""
DISTANCES = "recent_distances"
"""Ledger column: cosine distances (P, N, W) from the centre of the given class, newest last."""


BLOCK = 65_536
"""Samples whose twins are compared at once."""


def twin_discrepancy(context: Context, number: int) -> Tensor:
    """How far the twins of network `number` disagree on every sample (N), unaugmented."""
    twins = cast(Twins, cast(Network, context.plain[number]).heads[TWINS])
    features = bank_of(context).of(context, number)
    with torch.no_grad():
        parts = [
            discrepancy(twins.first(rows), twins.second(rows))
            for rows in torch.split(features, BLOCK)
        ]
    return torch.cat(parts)


@dataclass(frozen=True)
class MeasureCentrality(Pass):
    """Write every sample's distance from the centre of its given class into `DISTANCES`."""

    def run(self, context: Context) -> dict[str, float]:
        """Centres and distances of all samples, on every rank alike."""
        ledger, labels = context.ledger, context.store.labels
        for number in range(len(context.networks)):
            features = bank_of(context).of(context, number)
            predicted = ledger["prediction"][number]
            centres = class_centres(features, predicted, labels, context.num_classes)
            distance = centre_distance(features, labels, centres)
            held = ledger[DISTANCES][number]
            ledger.set(DISTANCES, number, torch.cat([held[:, 1:], distance[:, None]], 1))
        return {}


@dataclass(frozen=True)
class MeasureConsistency(Pass):
    """Write into `CONSISTENT` how surely the diverged twins agree on every central sample.

    Args:
        family: of the mixtures, one for each class.
        least: from which probability on a sample counts as agreed on, for the figures.
    """

    family: str = "gaussian"
    least: float = 0.3

    def run(self, context: Context) -> dict[str, float]:
        """Discrepancies and their mixtures, on every rank alike; drops the features."""
        figures = {}
        context.ledger.decisions[CONSISTENT] = self.least
        for number in range(len(context.networks)):
            apart = twin_discrepancy(context, number)
            bank_of(context).drop(number)
            central = split_by_clean(
                context.ledger["clean"][number],
                context.store.labels,
                context.ledger.decisions["threshold"],
                context.num_classes,
            ).labelled
            consistent = consistency_by_class(
                apart,
                context.store.labels,
                central,
                context.num_classes,
                mixture(self.family),
            )
            context.ledger.set(CONSISTENT, number, consistent)
            agreed = (consistent[central] >= self.least).float().mean()
            figures[f"agreed_fraction{context.suffix(number)}"] = float(agreed)
        return figures
