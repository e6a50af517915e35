"""Anchor hallucination: hard samples get their label from anchors made between easy ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from labelwise.config import Schedule
from labelwise.data.ledger import Column
from labelwise.losses.hallucination import anchor_dissimilarity
from labelwise.methods.dividemix import (
    Divided,
    DivideMix,
    DivideMixSettings,
    MixMatch,
)
from labelwise.models.hallucinator import Hallucinator
from labelwise.models.network import Network
from labelwise.selection.easy import easy_set
from labelwise.selection.split import Split, split_by_clean
from labelwise.selection.votes import count_votes
from labelwise.training.anchors import (
    Make,
    Pairs,
    copied,
    draw_pairs,
    mixed,
    nearest_hard,
)
from labelwise.training.context import Context
from labelwise.training.corrections import (
    CLOSENESS,
    CORRECTED,
    EASY,
    FAR,
    HARD,
    NEAR,
    SIMILARITY,
    STATE,
    TARGET,
    TRUST,
    correction_columns,
)
from labelwise.training.features import BANK, FeatureBank, bank_of
from labelwise.training.groups import Group
from labelwise.training.method import Pass, Phase, Problem
from labelwise.training.sampling import Sampling

WARMUP = 0.5
"""The warm-up, as a part of DivideMix's."""
Anchors = Literal["hallucinated", "mixed", "easy", "none"]
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
    anchors_per_sample: int = Field(5, ge=1, le=1000, description="anchors per easy sample")
    voters: int = Field(5, ge=1, le=100, description="K_a, most anchors that vote on a sample")
    similarity_quantile: float = Field(
        0.5, ge=0, lt=1, description="anchors below this quantile of similarity do not vote"
    )
    closeness: float | None = Field(
        None, ge=0, le=1, description="λ_p, how near to the own class; None: from U(0.5, 1)"
    )
    similarity_weight: float = Field(20.0, ge=0, description="λ_s, weight of L_sim")
    hallucinator_width: int | None = Field(
        None, ge=1, description="hidden units; None: as many as features"
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
class SortOut(Pass):
    """Choose the easy set; everything else is hard.

    Args:
        quantile: of the per-class counts.
        least: least share of a class.
    """

    quantile: float = 0.5
    least: float = 0.5

    def run(self, context: Context) -> dict[str, float]:
        """Write the columns of every network."""
        ledger, labels = context.ledger, context.store.labels
        threshold = ledger.decisions["threshold"]
        figures = {}
        for number in range(len(context.networks)):
            clean = ledger["clean"][number]
            found = easy_set(
                clean,
                ledger["loss"][number],
                labels,
                context.num_classes,
                threshold,
                self.quantile,
                self.least,
            )
            ledger.set(STATE, number, torch.where(found.easy, EASY, HARD))
            ledger.set(TARGET, number, labels)
            ledger.set(TRUST, number, torch.where(found.easy, clean.clamp_min(threshold), 0.0))
            figures[f"easy{suffix(context, number)}"] = float(found.easy.float().mean())
            if starving := int(found.starving.sum()):
                context.say(
                    f"epoch {context.epoch + 1}, network {number}: {starving} of "
                    f"{context.num_classes} classes had hardly any easy sample; their lowest "
                    "losses count as easy"
                )
        return figures


def suffix(context: Context, number: int) -> str:
    """What ends the name of a figure of one network."""
    return f"_{number}" if len(context.networks) > 1 else ""


def name_of(number: int) -> str:
    """Name of a network's hallucinator among the further modules."""
    return f"hallucinator_{number}"


def hallucinator_of(context: Context, number: int) -> Hallucinator:
    """The hallucinator of a network."""
    return cast(Hallucinator, context.extras[name_of(number)])


def easy_rows(context: Context, number: int) -> Tensor:
    """Rows (E) of the easy samples of a network."""
    return (context.ledger[STATE][number] == EASY).nonzero().flatten()


def is_possible(context: Context, easy: Tensor) -> bool:
    """Whether there are two classes to make anchors between, and samples to correct."""
    labels = context.store.labels
    return len(easy) < len(labels) and len(torch.unique(labels[easy])) > 1


@dataclass(frozen=True)
class TrainHallucinator(Pass):
    """Teach the hallucinator on pairs of easy samples, with the classifier held still.

    L = CE(classifier(s), y_a) + λ_s L_sim (`labelwise.losses.hallucination`).

    Args:
        steps: of Adam, whose state starts anew every epoch.
        batch: pairs a step.
        lr: learning rate.
        weight: λ_s.
        closeness: λ_p, or None for U(0.5, 1).
    """

    steps: int = 50
    batch: int = 256
    lr: float = 1e-3
    weight: float = 1.0
    closeness: float | None = None

    def run(self, context: Context) -> dict[str, float]:
        """Train the hallucinator of every network, alike on every rank."""
        figures = {}
        for number in range(len(context.networks)):
            easy = easy_rows(context, number)
            if is_possible(context, easy):
                for name, value in self._train(context, number, easy).items():
                    figures[f"{name}{suffix(context, number)}"] = value
        return figures

    def _train(self, context: Context, number: int, easy: Tensor) -> dict[str, float]:
        features, labels = bank_of(context).of(context, number), context.store.labels
        module = hallucinator_of(context, number)
        module.measure(features[easy])
        head = cast(Network, context.plain[number]).heads["classes"]
        still = {name: weight.detach() for name, weight in head.named_parameters()}
        draw = context.draw.within(str(number))
        lot = draw.shared_integers("near", self.steps * self.batch, len(easy))
        pairs = draw_pairs(draw, easy[lot], easy, labels, self.closeness)
        optimiser = torch.optim.Adam(module.parameters(), self.lr)
        total = features.new_zeros(2)
        for step in range(self.steps):
            part = pairs.part(slice(step * self.batch, (step + 1) * self.batch))
            near, far = features[part.near], features[part.far]
            anchor = module(near, far, part.closeness)
            logits = functional_call(head, still, (anchor,))
            named = F.cross_entropy(logits, labels[part.near])
            placed = anchor_dissimilarity(anchor, near, far, part.closeness).mean()
            optimiser.zero_grad(set_to_none=True)
            (named + self.weight * placed).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += torch.stack([named, placed]).detach()
            context.progress(step + 1, self.steps)
        for weight in module.parameters():  # equal on all ranks but for the device's rounding
            weight.data = context.ranks.sum(weight.data) / context.ranks.world
        named_mean, placed_mean = (total / self.steps).tolist()
        return {"anchor_cross_entropy": named_mean, "anchor_dissimilarity": placed_mean}


@dataclass(frozen=True)
class Correct(Pass):
    """Give hard samples the label that their nearest anchors vote for.

    Every anchor looks for the hard sample that is nearest to it. It is valid if that similarity is
    above a quantile of all anchors' similarities. A hard sample with a valid anchor takes the
    majority label of its most similar ones, with the share of the votes as its weight.

    Args:
        anchors: "hallucinated", "mixed" or "easy".
        per_sample: anchors of every easy sample, with fresh partners in every epoch.
        voters: K_a.
        quantile: of the similarities.
        closeness: λ_p, or None for U(0.5, 1).
    """

    anchors: Anchors = "hallucinated"
    per_sample: int = 5
    voters: int = 5
    quantile: float = 0.5
    closeness: float | None = None

    def run(self, context: Context) -> dict[str, float]:
        """Search and vote for every network; the features are not needed any more after that."""
        figures = {}
        for number in range(len(context.networks)):
            easy = easy_rows(context, number)
            for name, nothing in ((NEAR, -1), (FAR, -1), (CLOSENESS, 0), (SIMILARITY, 0)):
                held = context.ledger[name][number]
                context.ledger.set(name, number, torch.full_like(held, nothing))
            if is_possible(context, easy):
                for name, value in self._correct(context, number, easy).items():
                    figures[f"{name}{suffix(context, number)}"] = value
            bank_of(context).drop(number)
        return figures

    def _correct(self, context: Context, number: int, easy: Tensor) -> dict[str, float]:
        ledger, labels = context.ledger, context.store.labels
        state = ledger[STATE][number]
        hard = (state == HARD).nonzero().flatten()
        features = bank_of(context).of(context, number)
        pairs = self._pairs(context, number, easy)
        nearest, similarity = self._search(context, number, pairs, features, hard)
        # `torch.quantile` takes no more than 16 million numbers.
        place = int(self.quantile * (len(similarity) - 1))
        least = similarity.kthvalue(place + 1).values
        valid = (similarity >= least).nonzero().flatten()
        votes = count_votes(
            nearest[valid], similarity[valid], labels[pairs.near[valid]], len(labels), self.voters
        )
        changed = votes.label >= 0
        ledger.set(STATE, number, torch.where(changed, CORRECTED, state))
        ledger.set(TARGET, number, votes.label.where(changed, ledger[TARGET][number]))
        ledger.set(TRUST, number, votes.share.where(changed, ledger[TRUST][number]))
        there = votes.voters >= 0
        who = valid[votes.voters.clamp_min(0)]
        ledger.set(NEAR, number, pairs.near[who].where(there, -1))
        ledger.set(FAR, number, pairs.far[who].where(there, -1))
        ledger.set(CLOSENESS, number, pairs.closeness[who].where(there, 0.0))
        ledger.set(SIMILARITY, number, similarity[who].where(there, 0.0))
        figures = torch.stack(
            [changed.float().mean(), votes.share.sum() / changed.sum().clamp_min(1), least]
        ).tolist()
        names = ("corrected", "vote_share", "anchor_similarity_least")
        return dict(zip(names, figures, strict=True))

    def _pairs(self, context: Context, number: int, easy: Tensor) -> Pairs:
        if self.anchors == "easy":
            return Pairs(easy, torch.full_like(easy, -1), torch.ones_like(easy, dtype=torch.float))
        near = easy.repeat_interleave(self.per_sample)
        draw = context.draw.within(str(number))
        return draw_pairs(draw, near, easy, context.store.labels, self.closeness)

    def _search(
        self, context: Context, number: int, pairs: Pairs, features: Tensor, hard: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each rank searches for its share of the anchors."""
        ranks = context.ranks
        own = torch.arange(ranks.rank, len(pairs), ranks.world, device=hard.device)
        nearest, similarity = nearest_hard(
            pairs.part(own), features, hard, self._make(context, number)
        )
        if ranks.world == 1:
            return nearest, similarity
        rows = torch.zeros(len(pairs), dtype=torch.int64, device=hard.device)
        values = torch.zeros(len(pairs), device=hard.device)
        rows[own], values[own] = nearest, similarity
        return ranks.sum(rows), ranks.sum(values)

    def _make(self, context: Context, number: int) -> Make:
        if self.anchors == "hallucinated":
            return hallucinator_of(context, number)
        return mixed if self.anchors == "mixed" else copied


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
    """MixMatch on the labels and weights that the sorting left."""

    def believed(self, context: Context, group: Group) -> tuple[Tensor, Tensor]:
        """Labels (B) of the labelled side and their weights (B) in the co-refinement."""
        judge, index = context.peer, group.index
        return context.ledger[TARGET][judge][index], context.ledger[TRUST][judge][index]


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
    3. *Correction.* Every anchor looks for the hard sample that is nearest to it by cosine. The
       more similar half of the anchors is valid. A hard sample with valid anchors takes the label
       that most of its K_a most similar ones have (`labelwise.selection.votes`).
    4. *Semi-supervised learning.* MixMatch (DivideMix's, of one network) with easy and corrected
       samples as labelled: the label counts w, or the share of the votes. The other hard samples
       are unlabelled.

    There is no public code, and the sources give an outline. Differences from the paper, or what
    it leaves open and was decided here (each is a setting):
        1. A class gives its lowest losses up to n_e, the median over the classes of the number of
           trusted labels. A class of which hardly any label is trusted gives half of the mean
           share of its own size all the same, a class of any size at least one sample; the run
           says so. The paper states imbalance as its limit.
        2. λ_p is drawn for every pair and told to the hallucinator; L_sim is in
           `labelwise.losses.hallucination`. It is trained with Adam, long in the first epoch and
           briefly in later ones, on pairs drawn anew; five anchors vote for every easy sample.
        3. The threshold of a valid anchor is a quantile of the similarities, so that it means the
           same for every backbone.
        4. Samples that are not easy only because their class had its quota are hard ones too: the
           anchors may give them their label back.
        5. λ_u, the threshold on w and the window of losses follow from the estimated noise rate
           as in DivideMix, whose numbered differences hold here too.
        6. The warm-up is half as long as DivideMix's.
        7. Two networks (`num_networks=2`) sort and correct for each other.
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
        """As many epochs after the warm-up as DivideMix has."""
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
                found[name_of(number)] = Hallucinator(width, own.hallucinator_width or width)
        return found

    def teaching(self, first: bool) -> TrainHallucinator:
        """How the hallucinator is trained, the first time and later."""
        own = self.settings
        return TrainHallucinator(
            own.hallucinator_first_steps if first else own.hallucinator_steps,
            own.hallucinator_batch,
            own.hallucinator_lr,
            own.similarity_weight,
            own.closeness,
        )

    def divide(self, first: bool, scored: int) -> list[Phase]:
        """Score and fit as in DivideMix; then sort, teach the hallucinator, correct."""
        own = self.settings
        phases = super().divide(first, scored)
        phases.append(Phase("sort", SortOut(own.easy_quantile, own.easy_least)))
        if own.anchors == "hallucinated":
            phases.append(Phase("hallucinate", self.teaching(first)))
        if own.anchors != "none":
            correct = Correct(
                own.anchors,
                own.anchors_per_sample,
                own.voters,
                own.similarity_quantile,
                own.closeness,
            )
            phases.append(Phase("correct", correct))
        return phases

    def sampling(self, judge: int) -> Sampling:
        """By what the judge sorted and corrected."""
        return Sorted(judge, self.settings.at_least, self.settings.epoch_length)

    def mixmatch(self, age: int) -> MixMatch:
        """DivideMix's step, on corrected labels."""
        step = super().mixmatch(age)
        return SortedMixMatch(step.view, step.num_views, step.temperature, step.alpha, step.ramp)
