"""ScanMix: self-supervision, semantic clustering and semi-supervised learning in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from labelwise.config import Schedule
from labelwise.data.dataset import Kind
from labelwise.data.ledger import Column
from labelwise.methods.c2d import C2D, C2DSettings
from labelwise.methods.clusters import NAMED, TOLD, NameClusters
from labelwise.methods.dividemix import DivideMix, MixMatch, settings_rule
from labelwise.models.heads import HeadSpec, Linear
from labelwise.pretraining.scan import Consistency, WatchClusters
from labelwise.selection.agreement import noise_rate_from_pairs
from labelwise.selection.noise_rate import estimate_noise_rate
from labelwise.training.context import Context
from labelwise.training.deciding import Rule
from labelwise.training.groups import Groups
from labelwise.training.method import Pass, Phase, Problem
from labelwise.training.neighbourhood import (
    NEIGHBOURS,
    CountKept,
    MineNeighbours,
    NeighbourPairs,
    neighbour_column,
)
from labelwise.training.scoring import CLEAN_PRIOR

FROZEN, WARMUP_LR = "frozen_warmup", "warmup_lr"
"""Decisions: whether the warm-up leaves the backbone alone, and its learning rate."""
MOST = 0.5
"""Noise rate from which neighbours and losses together are believed: most labels are wrong."""
NAMED_AGREEMENT = 0.7
"""How far the clusters' names must agree with the given labels: about the clusters' accuracy."""
NAMED_SCALE = 0.3
"""Factor on the cluster head's weights where it becomes the class head: SCAN's heads are too sure
for a warm-up on labels of which most are wrong."""
SEVERE = 0.6
"""Predicted noise rate above which clustering leads and views are strong (authors' code)."""


class ScanMixSettings(C2DSettings):
    """Settings of ScanMix. None means: chosen from the estimated noise rate, and said."""

    num_neighbours: int = Field(20, ge=1, le=1000, description="K, mined neighbours per image")
    entropy_weight: float = Field(5.0, ge=0, description="λ_e of the entropy of the mean (5; 2)")
    cluster_lr: float | None = Field(
        None, ge=0, description="learning rate of the clustering pass (1e-3 above 60 % noise)"
    )
    mild_cluster_lr: float = Field(
        0.0, ge=0, description="the same at up to 60 % noise; 0 leaves it out (authors' code: 1e-5)"
    )
    cluster_batch: int = Field(128, ge=4, description="pairs a step of the clustering pass")
    cluster_view: str = Field("strong", description="view policy of the clustering pass")
    estep_filter: bool = Field(
        True, description="keep a neighbour only if the peer predicts the anchor's class for it"
    )
    start_from_clusters: bool = Field(
        True,
        description="neighbours decide the warm-up: named clusters under severe noise, the whole "
        "network under little (ours); false: fresh heads on frozen features, as in the paper",
    )
    named_lr: float = Field(
        0.002, gt=0, description="warmup_lr of heads that start as named clusters"
    )
    ask_neighbours: bool = Field(
        True, description="let neighbours tell the share of right labels under severe noise (ours)"
    )
    strong_views: bool | None = Field(
        None, description="strong views in the MixMatch pass (above 60 % noise)"
    )
    strong_view: str = Field("strong", description="what a strong view is")


@dataclass(frozen=True)
class ChosenMixMatch(MixMatch):
    """MixMatch on weak or strong views, as was decided from the predicted noise.

    Args:
        strong: view policy under severe noise.
    """

    strong: str = "strong"

    def views(self, context: Context, groups: Groups) -> Groups:
        """MixMatch's views under the chosen policy."""
        name = self.strong if context.ledger.decisions["strong_views"] else self.view
        return replace(self, view=name, strong=name).mixmatch(context, groups)

    def mixmatch(self, context: Context, groups: Groups) -> Groups:
        """The views of MixMatch itself."""
        return super().views(context, groups)


@dataclass(frozen=True)
class SetWarmup(Pass):
    """Decide how the warm-up learns, by what the class heads start from and by the noise.

    Args:
        named: learning rate of heads that start as named clusters.
        fresh: learning rate of heads that start at random, on frozen features.
        free: learning rate of the whole network, where neighbours tell little noise: features that
            took on the clusters' mistakes can leave them again.
    """

    named: float
    fresh: float
    free: float

    def run(self, context: Context) -> dict[str, float]:
        """Write the decisions."""
        decisions = context.ledger.decisions
        mild = decisions.get(TOLD, 1.0) <= SEVERE
        decisions[FROZEN] = float(not mild)
        lr = self.named if decisions.get(NAMED) else self.fresh
        decisions[WARMUP_LR] = self.free if mild else lr
        return {}


@dataclass(frozen=True)
class AskNeighbours(Pass):
    """See from the neighbours how severe the noise is, before the losses are divided.

    After a warm-up under severe noise the two groups of losses overlap, and the mixture takes up
    to twice as many labels for right as are. Neighbours tell the rate better then
    (`labelwise.selection.agreement`). Where both say that most labels are wrong, the share of right
    labels is held in the mixture at what the larger rate leaves. Where the losses do not say so
    the classifier cannot tell right labels yet, and the few that it would pick are not right.
    """

    def run(self, context: Context) -> dict[str, float]:
        """Compare both rates and decide."""
        ledger = context.ledger
        rates = [
            noise_rate_from_pairs(
                context.store.labels, predicted, ledger[NEIGHBOURS][0], context.num_classes
            )
            for predicted in ledger["prediction"]
        ]
        told = sum(rates) / len(rates)
        fitted = float(estimate_noise_rate(ledger["clean"]).mean())
        if min(told, fitted) > MOST:
            ledger.decisions[CLEAN_PRIOR] = 1 - max(told, fitted)
            context.say(
                f"neighbours carry the same label as seldom as at {told:.0%} noise, the losses "
                f"look like {fitted:.0%}: {1 - max(told, fitted):.0%} of them are taken for right"
            )
        return {"noise_rate_of_neighbours": told}


@dataclass(frozen=True)
class ScanMixRule:
    """DivideMix's settings and ScanMix's own from the estimated noise rate.

    Args:
        mild_lr: learning rate of the clustering pass where the noise is not severe.
    """

    mild_lr: float = 0.0

    def __call__(self, rate: float, num_classes: int) -> dict[str, float]:
        """Decisions for an estimated noise rate among K classes."""
        severe = rate > SEVERE
        return {
            **settings_rule(rate, num_classes),
            "cluster_lr": 1e-3 if severe else self.mild_lr,
            "strong_views": float(severe),
        }


class ScanMix(C2D):
    """Expectation-maximisation over who is whose semantic neighbour, and DivideMix in turn.

    The latent variable of the EM view (section 3.2) is z_ji: whether image j is of image i's
    semantic cluster.

    *E-step.* q(z_ji) = 1 if x_j is among the K nearest neighbours of x_i in the self-supervised
    features **and** the classifier predicts one class for both; else 0
    (`labelwise.training.neighbourhood.kept`). The predictions are the peer's.

    *M-step.* Two losses in turn, in every epoch: ℓ_MLE, the semi-supervised loss of DivideMix
    (`MixMatch`), and ℓ_CLU = -mean_i Σ_j q(z_ji) log(p_i · p_j) - λ_e H(mean p)
    (`labelwise.pretraining.scan.Consistency`), each with its own learning rate and batch. The
    classes and the clusters are two linear heads on one backbone; both losses train it.

    Before: SimCLR, then SCAN on the neighbours mined from it, then a warm-up of the class heads on
    frozen features.

    Differences from the paper:
        1. One neighbour per anchor and iteration is drawn from those that the E-step keeps (as in
           the authors' code), not the sum over all; an anchor without any is left out.
        2. Predictions of the E-step are those of the epoch's scoring pass, unaugmented.
        3. Where the predicted noise is at most 60 % there is no clustering pass. The authors' code
           gives it a learning rate of 1e-5 (`mild_cluster_lr`), which moves next to nothing itself,
           but leaves its momentum to the next MixMatch step, at 2,000 times that rate.
        4. λ_e is 5 (SCAN's practice, the authors' code), the text says 2.
        5. Collapsed clusters are noticed (`WatchClusters`); the run then goes on as C2D.
        6. Embeddings skip SimCLR: they are features already.
        7. Under severe noise the neighbours' labels tell the share of right ones (`AskNeighbours`);
           `ask_neighbours=false` leaves that to the mixture alone, as in the paper.
        8. Where neighbours tell more than 60 % noise and the clusters seem to be classes, the class
           heads start as the clusters, named by the given labels, and warm up slowly
           (`start_from_clusters`); in the paper they start at random. At 90 % noise a linear
           classifier on SimCLR's features names at best 78 to 84 % of the digits rightly, named
           clusters 97 to 98 % (`benchmarks/cluster_heads.json`).
        9. Where neighbours tell less than 60 % noise the warm-up trains the whole network, as in
           DivideMix, so that features can leave the clusters' mistakes; the paper freezes them.
        10. Those of `labelwise.methods.c2d.C2D`.
    """

    name = "scanmix"
    summary = "self-supervised features, semantic clusters and DivideMix in turn: severe noise"
    citation = (
        "Sachdeva, Cordeiro, Belagiannis, Reid, Carneiro, ScanMix, Pattern Recognition 2023, "
        "arXiv 2103.11395"
    )
    kinds: ClassVar[frozenset[Kind]] = frozenset({"images", "embeddings"})
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 last": 95.7,
        "cifar10 symmetric 50 last": 93.9,
        "cifar10 symmetric 80 last": 92.6,
        "cifar10 symmetric 90 last": 90.3,
        "cifar10 asymmetric 40 last": 93.4,
        "cifar10 asymmetric 49 last": 87.1,
        "cifar100 symmetric 20 last": 76.0,
        "cifar100 symmetric 50 last": 75.4,
        "cifar100 symmetric 80 last": 65.0,
        "cifar100 symmetric 90 last": 58.2,
        "cifar10 symmetric 20 best": 96.0,
        "cifar10 symmetric 50 best": 94.5,
        "cifar10 symmetric 80 best": 93.5,
        "cifar10 symmetric 90 best": 91.0,
        "cifar10 asymmetric 40 best": 93.7,
        "cifar10 asymmetric 49 best": 88.7,
        "cifar100 symmetric 20 best": 77.0,
        "cifar100 symmetric 50 best": 75.7,
        "cifar100 symmetric 80 best": 66.0,
        "cifar100 symmetric 90 best": 58.5,
        "cifar10 semantic densenet best": 89.7,
        "cifar10 semantic resnet best": 85.58,
        "cifar10 semantic vgg best": 89.96,
        "cifar100 semantic densenet best": 68.44,
        "cifar100 semantic resnet best": 67.36,
        "cifar100 semantic vgg best": 67.34,
        "webvision best": 77.72,
    }
    Settings: ClassVar = ScanMixSettings
    decided: ClassVar[tuple[str, ...]] = (*C2D.decided, "cluster_lr", "strong_views")
    settings: ScanMixSettings

    def pretraining(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """SimCLR for images, then SCAN with this method's neighbours and λ_e."""
        own = self.settings
        scan = {"num_neighbours": own.num_neighbours, "entropy_weight": own.entropy_weight}
        return ({"simclr": {}} if problem.kind == "images" else {}) | {"scan": scan}

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """DivideMix's: under little noise the whole network warms up."""
        return DivideMix.with_warmup(self, schedule, problem)

    def rule(self) -> Rule:
        """DivideMix's and ScanMix's own."""
        return ScanMixRule(self.settings.mild_cluster_lr)

    def mixmatch(self, age: int) -> MixMatch:
        """DivideMix's step, on the views that were decided."""
        step = super().mixmatch(age)
        own = {name: getattr(step, name) for name in ("view", "num_views", "temperature", "alpha")}
        return ChosenMixMatch(**own, ramp=step.ramp, strong=self.settings.strong_view)

    def columns(self) -> tuple[Column, ...]:
        """DivideMix's, and the neighbours."""
        return (*super().columns(), neighbour_column(self.settings.num_neighbours))

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The cluster head."""
        return {"clusters": Linear(spec.num_features, spec.num_classes)}

    def divide(self, first: bool, scored: int) -> list[Phase]:
        """Score, divide, decide; and mine the neighbours where no part before has done so."""
        phases = super().divide(first, scored)
        if first:
            *divided, decide = phases
            mine = Phase("neighbours", MineNeighbours(self.settings.num_neighbours))
            phases = [mine, *divided]
            if self.settings.ask_neighbours:
                again = replace(divided[-1], name="mixture-again")
                phases += [Phase("ask", AskNeighbours()), again]
            phases.append(decide)
        return [*phases, Phase("filter", CountKept())] if self.filters else phases

    def named(self, warmup: list[Phase], epoch: int) -> list[Phase]:
        """A warm-up of class heads that start as clusters: slow, or wrong labels spoil them."""
        falling = self.warmup_lr(epoch)
        slow = falling * self.settings.named_lr / self.settings.warmup_lr
        phases = [
            Phase("set-warmup", SetWarmup(slow, falling, self.schedule.lr_at(epoch))),
            *(replace(phase, lr=WARMUP_LR, frozen=FROZEN) for phase in warmup),
        ]
        if epoch > 0:
            return phases
        name = NameClusters(NAMED_SCALE, SEVERE, NAMED_AGREEMENT)
        mine = MineNeighbours(self.settings.num_neighbours)
        return [Phase("neighbours", mine), Phase("name", name), *phases]

    @property
    def filters(self) -> bool:
        """Whether the E-step looks at predictions."""
        return self.settings.estep_filter

    def phases(self, epoch: int) -> list[Phase]:
        """C2D's, and after the division of both networks the clustering pass of both."""
        phases = super().phases(epoch)
        settings = self.settings
        if phases[0].warmup:
            named = settings.start_from_clusters and settings.frozen_warmup
            return self.named(phases, epoch) if named else phases
        step = Consistency(settings.cluster_view, settings.entropy_weight)
        for number in range(self.num_peers):
            judge = (number + 1) % self.num_peers
            phases.append(
                Phase(
                    f"cluster-{number}",
                    step,
                    (number,),
                    NeighbourPairs(judge if self.filters else None, "cluster_lr"),
                    judge=judge,
                    lr="cluster_lr",
                    batch_size=settings.cluster_batch,
                )
            )
        if (self.schedule.epochs - 1 - epoch) % max(1, self.schedule.epochs // 20) == 0:
            both = tuple(range(self.num_peers))
            phases.append(Phase("watch", WatchClusters(settings.entropy_weight, True, both)))
        return phases
