"""Anchor hallucination: hard samples get their label from anchors made between easy ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from labelwise.config import Schedule
from labelwise.data.ledger import Column
from labelwise.methods.dividemix import (
    Divided,
    DivideMix,
    DivideMixSettings,
    MixMatch,
)
from labelwise.models.hallucinator import Hallucinator
from labelwise.models.network import Network
from labelwise.selection.split import Split, split_by_clean
from labelwise.training.context import Context
from labelwise.training.correcting import (
    Anchors,
    Correct,
    SortOut,
    TrainHallucinator,
    name_of,
)
from labelwise.training.corrections import (
    CORRECTED,
    EASY,
    STATE,
    TARGET,
    TRUST,
    correction_columns,
)
from labelwise.training.features import BANK, FeatureBank
from labelwise.training.groups import Group
from labelwise.training.method import Phase, Problem
from labelwise.training.sampling import Sampling

WARMUP = 0.5
"""The warm-up, as a part of DivideMix's."""
Length = Literal["easy", "labelled"]


class HallucinationSettings(DivideMixSettings):
    """Settings of anchor hallucination: those of its semi-supervised learning, and its own."""

    easy_quantile: float = Field(
        0.5, ge=0, le=1, description="n_e: quantile of the classes' numbers of trusted labels"
    )
    easy_least: float = Field(
        0.5, ge=0, le=1, description="least easy share of a class, relative to the mean share"
    )
    anchors: Anchors = Field(
        "hallucinated",
        description="what votes: hallucinated; mixed (straight lines); easy samples; none",
    )
    anchors_per_sample: int = Field(10, ge=1, le=1000, description="anchors per easy sample")
    voters: int = Field(5, ge=1, le=100, description="K_a, most anchors that vote on a sample")
    doubtful: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of labels with w in (0.05, 0.95) below which corrections wait",
    )
    correct_after: float = Field(
        0.1, ge=0, le=1, description="how long they wait, as a part of the epochs after warm-up"
    )
    least_agreement: float = Field(
        0.8, ge=0, le=1, description="votes on held-out easy samples that must name their label"
    )
    vote_weight: float = Field(
        1.0, gt=0, le=1, description="weight of a unanimous vote in the co-refinement"
    )
    distinct_voters: bool = Field(
        True, description="an easy sample has one vote on a hard one, by its most similar anchor"
    )
    similarity_quantile: float = Field(
        0.1, ge=0, lt=1, description="anchors below this quantile of similarity do not vote"
    )
    closeness: float | None = Field(
        None, ge=0, le=1, description="λ_p, how near to the own class; None: from U(0.5, 1)"
    )
    similarity_weight: float = Field(20.0, ge=0, description="λ_s, weight of L_sim")
    hallucinator_width: int | None = Field(
        None, ge=1, description="hidden units; None: as many as features"
    )
    hallucinator_skip: bool = Field(
        True, description="add what the hallucinator learns to the point between both features"
    )
    hallucinator_steps: int = Field(50, ge=1, description="steps of its training an epoch")
    hallucinator_first_steps: int = Field(
        500, ge=1, description="steps of its first training, from random weights"
    )
    hallucinator_batch: int = Field(256, ge=2, description="pairs a step")
    hallucinator_lr: float = Field(1e-3, gt=0, description="its learning rate (Adam)")
    epoch_length: Length = Field(
        "labelled", description="an epoch goes once through the easy, or all labelled samples"
    )
    num_networks: int = Field(1, ge=1, le=2, description="one, or two that correct for each other")


@dataclass(frozen=True)
class Sorted(Divided):
    """Labelled: easy and corrected samples of the judge; unlabelled: the other hard ones.

    Args:
        epoch: whether an epoch is as long as the easy or as all labelled samples.
    """

    epoch: Length = "labelled"

    def counted(self, context: Context, split: Split) -> int:
        """Samples that an epoch goes through once."""
        if self.epoch == "labelled":
            return len(split.labelled)
        return int((context.ledger[STATE][self.judge] == EASY).sum())

    def split(self, context: Context) -> Split:
        """The two sides, neither empty."""
        ledger = context.ledger
        trust, target = ledger[TRUST][self.judge], ledger[TARGET][self.judge]
        return split_by_clean(trust, target, 0.0, context.num_classes)


@dataclass(frozen=True)
class SortedMixMatch(MixMatch):
    """MixMatch on the labels and weights that the sorting left.

    Args:
        vote_weight: weight of a unanimous vote.
    """

    vote_weight: float = 1.0

    def believed(self, context: Context, group: Group) -> tuple[Tensor, Tensor]:
        """Labels (B) of the labelled side and their weights (B) in the co-refinement."""
        state, target, trust = (
            context.ledger[name][context.peer][group.index] for name in (STATE, TARGET, TRUST)
        )
        return target, torch.where(state == CORRECTED, self.vote_weight * trust, trust)


class Hallucination(DivideMix):
    """One network, easy samples, and anchors between them that tell the labels of the hard ones.

    A small loss means that a sample is easy, not that its label is right: what is hard and rightly
    labelled is thrown away by every method that goes by the loss, and that is where wrong labels
    that depend on the sample are. After a warm-up every epoch does this:

    1. *Easy set.* Losses of all samples, a two-component mixture w over them, and of every class
       the samples of lowest loss (`labelwise.selection.easy`). All others are hard.
    2. *Hallucinator.* From the features s_a, s_b of two easy samples of different classes it makes
       an anchor s: L = CE(classifier(s), y_a) + λ_s L_sim, where L_sim (`losses.hallucination`)
       places the anchor between both, λ_p in [0.5, 1] nearer to s_a. The classifier is held still.
    3. *Correction.* Every anchor looks for the hard sample that is nearest to it by cosine. All
       but the least similar tenth of the anchors are valid. A hard sample with valid anchors takes
       the label that most of its K_a most similar ones have (`labelwise.selection.votes`).
    4. *Semi-supervised learning.* MixMatch (DivideMix's, of one network) with easy and corrected
       samples as labelled: the label counts w, or the share of the votes. The other hard samples
       are unlabelled.

    There is no public code, and the sources give an outline. Differences from the paper, or what
    it leaves open and was decided here (each is a setting):
        1. A class gives its lowest losses up to n_e, the median over the classes of the number of
           trusted labels, but half of the mean share of its own size in any case, and at least
           one sample; the run says so where few labels of a class are trusted. The paper states
           imbalance as its limit.
        2. λ_p is drawn for every pair and told to the hallucinator, which learns what to add to
           the point between both features; L_sim is in `labelwise.losses.hallucination`, and
           λ_s = 20. It is trained with Adam, long in the first epoch and briefly in later ones,
           on pairs drawn anew; ten anchors for every easy sample vote.
        3. An easy sample has one vote on a hard one, by the most similar of its anchors; otherwise
           the voters are mostly anchors of one easy sample, and always agree.
        4. The threshold of a valid anchor is a quantile of the similarities, so that it means the
           same for every backbone.
        5. Samples that are not easy only because their class had its quota are hard ones too: the
           anchors may give them their label back.
        6. λ_u, the threshold on w and the window of losses follow from the estimated noise rate
           as in DivideMix, whose numbered differences hold here too.
        7. The warm-up is half as long as DivideMix's.
        8. Corrections need anchors that know something: of the easy samples held out, four in five
           must get their own label by the votes of the others' anchors, or nothing is corrected in
           this epoch. And where the losses alone tell right from wrong labels at the start (less
           than a tenth of the labels are in doubt), easy samples are all but pure, and corrections
           wait for a tenth of the epochs, until the features are better.
        9. An easy label weighs w, but at least the threshold on it, so that a class that had to be
           kept alive counts.
        10. Under SANM the masks follow P(given label is right), as around any host: what was
           corrected is masked more, though its new label may be right.
        11. Two networks (`num_networks=2`) sort and correct for each other.
    """

    name = "hallucination"
    summary = "one network; anchors between easy samples correct the labels of hard ones"
    citation = (
        "Huang et al., Learning with Instance-Dependent Noisy Labels by Anchor Hallucination and "
        "Hard Sample Label Correction, ICIP 2024, arXiv 2407.07331"
    )
    paper_numbers: ClassVar = {}
    presets: ClassVar = {}
    Settings: ClassVar = HallucinationSettings
    settings: HallucinationSettings

    @property
    def num_peers(self) -> int:
        """One; two in an ablation."""
        return self.settings.num_networks

    @property
    def keeps_features(self) -> bool:
        """Anchors are made of them."""
        return self.settings.anchors != "none"

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """Half of DivideMix's: wrong labels that look right are learnt early."""
        plan = super().with_warmup(schedule, problem)
        return plan.override({"warmup": max(1, round(WARMUP * plan.warmup))})

    def default_schedule(self, problem: Problem) -> Schedule:
        """About as many epochs after the warm-up as DivideMix's default has."""
        plan = Schedule.scaled(problem.num_samples, problem.kind, iterations=1750)
        return self.with_warmup(plan, problem)

    def columns(self) -> tuple[Column, ...]:
        """DivideMix's, and what became of every sample."""
        return (*super().columns(), *correction_columns(self.settings.voters))

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """The hallucinators, and the features that scoring leaves for them."""
        own, width = self.settings, network.backbone.num_features
        if not self.keeps_features:
            return {}
        found: dict[str, nn.Module] = {BANK: FeatureBank()}
        if own.anchors == "hallucinated":
            for number in range(self.num_peers):
                found[name_of(number)] = Hallucinator(
                    width, own.hallucinator_width or width, own.hallucinator_skip
                )
        return found

    def wait(self) -> int:
        """Epochs after the warm-up without corrections, where losses tell right from wrong."""
        left = self.schedule.epochs - self.schedule.warmup
        return min(round(self.settings.correct_after * left), left - 1)

    def teaching(self, scored: int) -> TrainHallucinator:
        """How the hallucinator is trained, the first time and later."""
        own = self.settings
        return TrainHallucinator(
            own.hallucinator_steps,
            own.hallucinator_batch,
            own.hallucinator_lr,
            own.similarity_weight,
            own.closeness,
            own.hallucinator_first_steps,
            scored,
        )

    def divide(self, first: bool, scored: int) -> list[Phase]:
        """Score and fit as in DivideMix; then sort, teach the hallucinator, correct."""
        own = self.settings
        phases = super().divide(first, scored)
        sort = SortOut(own.easy_quantile, own.easy_least, own.doubtful, self.wait())
        phases.append(Phase("sort", sort))
        if own.anchors == "hallucinated":
            phases.append(Phase("hallucinate", self.teaching(scored)))
        if own.anchors != "none":
            correct = Correct(
                own.anchors,
                own.anchors_per_sample,
                own.voters,
                own.similarity_quantile,
                own.closeness,
                own.distinct_voters,
                own.least_agreement,
                scored,
            )
            phases.append(Phase("correct", correct))
        return phases

    def sampling(self, judge: int) -> Sampling:
        """By what the judge sorted and corrected."""
        return Sorted(judge, self.settings.at_least, self.settings.epoch_length)

    def mixmatch(self, age: int) -> MixMatch:
        """DivideMix's step, on corrected labels."""
        step = super().mixmatch(age)
        own = {name: getattr(step, name) for name in ("view", "num_views", "temperature", "alpha")}
        return SortedMixMatch(**own, ramp=step.ramp, vote_weight=self.settings.vote_weight)
