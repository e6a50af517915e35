"""SCAN: clusters whose neighbours agree, from the features of self-supervision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from labelwise.config import MethodSettings, Schedule
from labelwise.data.ledger import Column
from labelwise.losses.classification import one_hot
from labelwise.losses.clustering import (
    balanced_cross_entropy,
    entropy,
    neighbour_consistency,
)
from labelwise.models.heads import HeadSpec, Linear
from labelwise.pretraining.cluster_head import StartHead
from labelwise.pretraining.share import Share
from labelwise.training.context import Context
from labelwise.training.groups import Groups, add_views
from labelwise.training.method import Method, Pass, Phase, Problem, Step
from labelwise.training.neighbourhood import (
    CLUSTERING,
    MineNeighbours,
    NeighbourPairs,
    neighbour_column,
)

RESTARTS = 3
WEIGHT = "scan_entropy_weight"


class SCANSettings(MethodSettings):
    """Settings of SCAN; None scales with the data."""

    num_neighbours: int = Field(20, ge=1, le=1000, description="K, mined neighbours per image")
    entropy_weight: float = Field(5.0, ge=0, description="λ_e of the entropy of the mean (5)")
    epochs: int | None = Field(None, ge=1, description="epochs of clustering (paper: 50)")
    batch_size: int | None = Field(None, ge=4, description="pairs a step (paper: 128)")
    lr: float | None = Field(None, gt=0, description="learning rate of Adam (paper: 1e-4)")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on all weights")
    view: str = Field("strong", description="view policy of both partners")
    num_heads: int = Field(
        10, ge=0, le=100, description="heads tried on fixed features; the best starts. 0: none"
    )
    head_steps: int = Field(700, ge=1, description="updates of those heads")
    self_label_epochs: int = Field(
        0, ge=0, description="epochs of self-labelling after clustering (an option of the paper)"
    )
    self_label_threshold: float = Field(
        0.99, gt=0, lt=1, description="least confidence of a pseudo-label"
    )


@dataclass(frozen=True)
class Consistency(Step):
    """Neighbours fall in one cluster, and the clusters share the batch evenly.

    SCAN (arXiv 2005.12320), equation 2; ScanMix (arXiv 2103.11395), the clustering loss of the
    M-step: -mean log⟨p_i, p_j⟩ - λ_e H(mean p).

    Args:
        view: view policy of both partners.
        entropy_weight: λ_e, unless a collapse has raised it (the decision `WEIGHT`).
    """

    classifies: ClassVar[bool] = False

    view: str = "strong"
    entropy_weight: float = 5.0

    def views(self, context: Context, groups: Groups) -> Groups:
        """One view of each partner; clusters have no target, so it is left even."""
        return add_views(
            groups,
            {
                side: [(context.view(group, self.view, f"{side}/0"), even(context, group.index))]
                for side, group in groups.items()
            },
        )

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Both terms, over all views; view v of an anchor meets view v of its neighbour."""
        inputs = torch.cat([groups["anchors"].inputs, groups["neighbours"].inputs])
        logits = context.forward(context.learner, inputs, ("clusters",))["clusters"]
        anchors, neighbours = logits.chunk(2)
        mean = context.ranks.mean(anchors.float().softmax(1).mean(0))
        weight = max(self.entropy_weight, context.ledger.decisions.get(WEIGHT, 0.0))
        return {
            "consistency": neighbour_consistency(anchors, neighbours),
            "entropy": -weight * entropy(mean),
        }


@dataclass(frozen=True)
class SelfLabel(Step):
    """Learn the clusters of strong views from sure predictions on weak ones.

    SCAN (arXiv 2005.12320), section 2.3.

    Args:
        weak: view policy that pseudo-labels are made on.
        strong: view policy that is learnt from.
        threshold: least confidence of a pseudo-label.
    """

    classifies: ClassVar[bool] = False

    weak: str = "weak"
    strong: str = "strong"
    threshold: float = 0.99

    def views(self, context: Context, groups: Groups) -> Groups:
        """A strong view with the weak one's label; rows of zeros where that was not sure."""
        added = {}
        for side, group in groups.items():
            seen = context.view(group, self.weak, f"{side}/weak")
            guess = context.forward(context.learner, seen, ("clusters",))["clusters"]
            confidence, label = guess.float().softmax(1).max(1)
            target = one_hot(label, guess.shape[1]) * (confidence > self.threshold)[:, None]
            added[side] = [(context.view(group, self.strong, f"{side}/strong"), target)]
        return add_views(groups, added)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Class-balanced cross-entropy over all processes' sure samples."""
        (group,) = groups.values()
        logits = context.forward(context.learner, group.inputs, ("clusters",))["clusters"]
        counts = context.ranks.sum(group.targets.sum(0))
        term = balanced_cross_entropy(logits, group.targets, counts)
        return {"self_label": term * context.ranks.world}


@dataclass(frozen=True)
class WatchClusters(Pass):
    """See whether the clusters have collapsed, and do what can be done.

    All images in one cluster make every pair agree: the entropy term is there to prevent it, but
    does not always. The clusters count as collapsed when the mean prediction spreads over fewer
    than max(1.2, K / 4) clusters (the exponential of its entropy). A head that says the same of
    every image is dead: what it says tells less than 2 % of log K about the image (the entropy of
    the mean less the mean entropy). Then the head starts anew and λ_e doubles, at most three
    times; if it is so at a last look, the run goes on without clusters.

    Args:
        entropy_weight: λ_e to begin with.
        last: whether this look is the last: nothing is started anew.
        networks: those that are looked at; the worst counts.
    """

    moves: ClassVar[bool] = True
    entropy_weight: float
    last: bool = False
    networks: tuple[int, ...] = (0,)

    def run(self, context: Context) -> dict[str, float]:
        """Average the predictions of all samples, and their entropies."""
        decisions = context.ledger.decisions
        if not decisions.get(CLUSTERING, 1.0):
            return {}
        looks = [self._look(context, number) for number in self.networks]
        spread, told, count = min(looks, key=lambda look: (look[0] == look[0], look[0]))
        least = min(look[1] for look in looks)
        # Comparisons fail, and so count as collapsed, where the head is not a number.
        alive = spread >= max(1.2, count / 4) and least >= 0.02 * math.log(count)
        collapsed = not alive
        if collapsed and self.last:
            decisions[CLUSTERING] = 0.0
            context.say(
                f"the images fall into {spread:.1f} of {count} clusters, which tell {told:.2f} "
                "nats about an image: clustering is left out, and the run goes on from the "
                "features alone"
            )
        elif collapsed and decisions.get("scan_restarts", 0.0) < RESTARTS:
            decisions["scan_restarts"] = decisions.get("scan_restarts", 0.0) + 1
            decisions[WEIGHT] = 2 * decisions.get(WEIGHT, self.entropy_weight) or 1.0
            restart_head(context)
            context.say(
                f"the clusters collapsed into {spread:.1f} of {count}, telling {told:.2f} nats: "
                f"their head starts anew with λ_e = {decisions[WEIGHT]:g}"
            )
        return {"cluster_spread": spread, "cluster_information": least}

    @staticmethod
    def _look(context: Context, number: int) -> tuple[float, float, int]:
        """Clusters in use, nats told about an image, and the number of clusters."""
        total = torch.zeros((), device=context.store.device)
        unsure = torch.zeros((), device=context.store.device)
        for _, outputs in context.score_blocks(number, ("clusters",)):
            probability = outputs["clusters"].float().softmax(1)
            total = total + probability.sum(0)
            unsure = unsure - torch.special.xlogy(probability, probability).sum()
        size = len(context.store)
        spread = entropy(context.ranks.sum(total) / size)
        told = spread - context.ranks.sum(unsure) / size
        return float(spread.exp()), float(told), total.numel()


def restart_head(context: Context) -> None:
    """Draw the first network's cluster head anew."""
    head = context.plain[0].get_submodule("heads.clusters")
    assert isinstance(head, nn.Linear)
    with context.draw.forked("clusters"):
        head.reset_parameters()


def even(context: Context, index: Tensor) -> Tensor:
    """Soft targets (B, K) that say nothing."""
    return torch.full(
        (len(index), context.num_classes), 1 / context.num_classes, device=index.device
    )


class SCAN(Method):
    """Semantic clustering by adopting nearest neighbours, as pre-training.

    The features must be good already: SCAN follows SimCLR or MoCo, or works on embeddings.

    Differences from the paper:
        1. Several heads are learnt on fixed features, and the one of least loss is then learnt
           together with the backbone (`labelwise.pretraining.cluster_head.StartHead`); the paper
           learns several with the backbone and keeps the best. `num_heads=0` starts at random.
        2. Collapsed clusters are noticed and the head is restarted (`WatchClusters`).
        3. Epochs and the learning rate scale with the data where they are not given.
    """

    name = "scan"
    summary = "semantic clustering: an image and its nearest neighbours share a cluster"
    citation = "Van Gansbeke et al., SCAN, ECCV 2020, arXiv 2005.12320"
    measures = "clusters"
    Settings = SCANSettings
    settings: SCANSettings

    @property
    def rows_per_sample(self) -> int:
        """An anchor and its neighbour."""
        return 2

    def columns(self) -> tuple[Column, ...]:
        """The neighbours."""
        return (neighbour_column(self.settings.num_neighbours),)

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The cluster head: as many clusters as classes."""
        return {"clusters": Linear(spec.num_features, spec.num_classes)}

    def default_schedule(self, problem: Problem) -> Schedule:
        """Batches of 128 and about 350 steps at 2,000 images, growing with the root of N."""
        size = self.settings.batch_size
        size = size or max(8, min(128, 2 ** round(math.log2(max(2, problem.num_samples / 10)))))
        steps = math.ceil(problem.num_samples / size)
        wanted = 350 * max(1.0, math.sqrt(problem.num_samples / 2000))
        epochs = self.settings.epochs or max(5, min(50, round(wanted / steps)))
        return Schedule(
            epochs=epochs + self.settings.self_label_epochs,
            warmup=0,
            batch_size=size,
            lr=self.settings.lr or 5e-4,
            weight_decay=self.settings.weight_decay,
            decay="none",
            optimiser="adam",
        )

    def phases(self, epoch: int) -> list[Phase]:
        """Mine neighbours once; learn the clusters, then perhaps from themselves; hand over."""
        settings = self.settings
        phases = []
        if epoch == 0:
            phases.append(Phase("neighbours", MineNeighbours(settings.num_neighbours)))
            if settings.num_heads:
                start = StartHead(settings.num_heads, settings.entropy_weight, settings.head_steps)
                phases.append(Phase("head", start))
        clustered = self.schedule.epochs - settings.self_label_epochs
        if epoch < clustered:
            phases.append(
                Phase(
                    "cluster",
                    Consistency(settings.view, settings.entropy_weight),
                    (0,),
                    NeighbourPairs(),
                )
            )
        else:
            threshold = settings.self_label_threshold
            step = SelfLabel(strong=settings.view, threshold=threshold)
            phases.append(Phase("self-label", step, trains=(0,)))
        last = epoch == self.schedule.epochs - 1
        if last or self.measured(epoch):
            final = last or epoch >= clustered  # self-labelling has nothing to start anew from
            phases.append(Phase("watch", WatchClusters(settings.entropy_weight, final)))
        if last:
            phases.append(Phase("share", Share()))
        return phases
