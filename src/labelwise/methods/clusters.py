"""Clusters named by the given labels: what SCAN alone makes of noisy labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from labelwise.config import MethodSettings, Schedule
from labelwise.data.ledger import Column
from labelwise.models.heads import HeadSpec, Linear
from labelwise.selection.agreement import noise_rate_from_pairs
from labelwise.training.context import Context
from labelwise.training.method import Method, Pass, Phase, Problem
from labelwise.training.neighbourhood import (
    CLUSTERING,
    NEIGHBOURS,
    MineNeighbours,
    neighbour_column,
)
from labelwise.training.scoring import FitMixture, Score

NAMED = "clusters_named"
"""Decision: 1 where the class heads began as the named clusters."""
TOLD = "noise_rate_of_neighbours"
"""Decision: the noise rate that neighbours tell, before anything is learnt from the labels."""


class ClustersSettings(MethodSettings):
    """Settings of the clusters, for SCAN before it."""

    num_neighbours: int = Field(20, ge=1, le=1000, description="K, mined neighbours per image")
    entropy_weight: float = Field(5.0, ge=0, description="λ_e of the entropy of the mean (5)")


def name_clusters(assigned: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The class of every cluster (K) int64: one to one, so that most given labels agree.

    Args:
        assigned: cluster of every sample (N) int64 in [0, K).
        labels: given labels (N).
        num_classes: K.
    """
    place = assigned * num_classes + labels
    counts = torch.bincount(place, minlength=num_classes**2).view(num_classes, num_classes)
    # Large classes must not outvote: what counts is how much more often than by chance.
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum().clamp_min(1)
    clusters, classes = linear_sum_assignment((counts - expected).cpu().numpy(), maximize=True)
    named = torch.empty(num_classes, dtype=torch.int64)
    named[torch.as_tensor(clusters)] = torch.as_tensor(classes)
    return named.to(labels.device)


def share(classes: Tensor, every: Tensor) -> Tensor:
    """Share of the samples in each class (K) of `classes` (N); `every` (K) has them all once."""
    return torch.bincount(classes, minlength=len(every)) / max(1, len(classes))


@dataclass(frozen=True)
class NameClusters(Pass):
    """Turn the cluster head into the class heads, cluster by cluster.

    All networks get the same head; they come apart by the samples they see. Nothing is done where
    clusters were given up.

    Args:
        scale: factor on the weights: below 1 the heads are less sure.
        least: noise rate, as the neighbours tell it, from which this is done; 0 for always.
        agreement: how far the names must agree with the given labels, from 0 (chance) to 1 (as
            often as labels are right at the rate that neighbours tell).
    """

    moves: ClassVar[bool] = True
    scale: float = 1.0
    least: float = 0.0
    agreement: float = 0.0

    @torch.no_grad()
    def run(self, context: Context) -> dict[str, float]:
        """Assign every sample, name the clusters, and copy their weights."""
        decisions = context.ledger.decisions
        decisions[NAMED] = 0.0
        decisions.pop(TOLD, None)
        if not decisions.get(CLUSTERING, 1.0):
            return {}
        assigned = torch.zeros_like(context.store.labels)
        for index, outputs in context.score_blocks(0, ("clusters",)):
            assigned[index] = outputs["clusters"].argmax(1)
        assigned = context.ranks.sum(assigned)
        labels, near = context.store.labels, context.ledger[NEIGHBOURS][0]
        rate = noise_rate_from_pairs(labels, assigned, near, context.num_classes)
        named = name_clusters(assigned, labels, context.num_classes)
        agreed = float((named[assigned] == labels).float().mean())
        decisions[TOLD] = rate
        figures = {"noise_rate_of_neighbours": rate, "named_agreement": agreed}
        if rate < self.least:
            return figures
        chance = float((share(named[assigned], named) * share(labels, named)).sum())
        if self.agreement and agreed < chance + self.agreement * max(0.0, 1 - rate - chance):
            context.say(
                f"named clusters agree with {agreed:.1%} of the given labels, too few at a noise "
                f"rate of {rate:.0%}: they do not seem to be the classes, whose heads start anew"
            )
            return figures
        source = context.plain[0].get_submodule("heads.clusters")
        for network in context.plain:
            for name, weight in network.get_submodule("heads.classes").named_parameters():
                weight[named] = self.scale * source.get_parameter(name)
        decisions[NAMED] = 1.0
        return figures


class Clusters(Method):
    """SimCLR and SCAN without any label; the given labels only name the clusters.

    As long as right labels are commoner in a cluster than those of any other class, wrong ones
    change nothing, however many they are. But clusters that are not classes stay wrong.

    Differences from the paper:
        1. SCAN names its clusters by true labels, to be evaluated; here the given ones do it.
    """

    name = "clusters"
    summary = "semantic clusters (SCAN) named by the given labels: no training on labels at all"
    citation = "Van Gansbeke et al., SCAN, ECCV 2020, arXiv 2005.12320"
    learns = False
    Settings: ClassVar = ClustersSettings
    settings: ClustersSettings

    def pretraining(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """SimCLR for images, then SCAN."""
        scan = self.settings.model_dump()
        return ({"simclr": {}} if problem.kind == "images" else {}) | {"scan": scan}

    def columns(self) -> tuple[Column, ...]:
        """The neighbours."""
        return (neighbour_column(self.settings.num_neighbours),)

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The cluster head."""
        return {"clusters": Linear(spec.num_features, spec.num_classes)}

    def default_schedule(self, problem: Problem) -> Schedule:
        """One epoch: there is nothing to train."""
        return super().default_schedule(problem).override({"epochs": 1, "warmup": 0})

    def phases(self, epoch: int) -> list[Phase]:
        """Name the clusters, then score the labels by them."""
        mine = Phase("neighbours", MineNeighbours(self.settings.num_neighbours))
        first = [mine, Phase("name", NameClusters())] if epoch == 0 else []
        return [*first, Phase("score", Score()), Phase("mixture", FitMixture())]
