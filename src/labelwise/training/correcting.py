"""Passes of anchor hallucination: sort the samples, teach the hallucinator, correct hard ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from labelwise.losses.hallucination import anchor_dissimilarity
from labelwise.models.hallucinator import Hallucinator
from labelwise.models.network import Network
from labelwise.selection.easy import easy_set
from labelwise.selection.votes import count_votes
from labelwise.training.anchors import Make, Pairs, copied, draw_pairs, mixed, nearest_hard
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
)
from labelwise.training.features import bank_of
from labelwise.training.method import Pass

FROM = "correct_from"
"""Decision: the epoch after the warm-up, from 1, from which on labels are corrected."""
UNSURE = (0.05, 0.95)
"""A label is in doubt where P(it is right) lies between."""
Anchors = Literal["hallucinated", "mixed", "easy", "none"]


@dataclass(frozen=True)
class SortOut(Pass):
    """Choose the easy set; everything else is hard.

    Args:
        quantile: of the per-class counts.
        least: least share of a class.
        doubtful: share of labels in doubt below which corrections wait.
        wait: epochs that they wait then.
    """

    quantile: float = 0.5
    least: float = 0.5
    doubtful: float = 0.0
    wait: int = 0

    def run(self, context: Context) -> dict[str, float]:
        """Write the columns of every network."""
        ledger, labels = context.ledger, context.store.labels
        threshold = ledger.decisions["threshold"]
        if FROM not in ledger.decisions:
            self._decide(context)
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
            figures[f"easy{context.suffix(number)}"] = float(found.easy.float().mean())
            if starving := int(found.starving.sum()):
                context.say(
                    f"epoch {context.epoch + 1}, network {number}: {starving} of "
                    f"{context.num_classes} classes had far fewer easy samples than the others; "
                    "more of their lowest losses count as easy"
                )
        return figures

    def _decide(self, context: Context) -> None:
        """Let corrections wait where the losses alone tell right labels from wrong ones.

        Easy samples are pure then, and corrections by features that have not seen much yet are not.
        """
        ledger = context.ledger
        low, high = UNSURE
        clean = ledger["clean"]
        share = float(((clean > low) & (clean < high)).float().mean())
        start = 1 if share >= self.doubtful else 1 + self.wait
        ledger.decisions[FROM] = float(start)
        if start > 1:
            context.say(
                f"losses tell right labels from wrong ones ({share:.0%} are in doubt): hard "
                f"samples are corrected from epoch {context.epoch + start} on"
            )


def waits(context: Context, scored: int) -> bool:
    """Whether corrections wait still, in the `scored`-th epoch after the warm-up."""
    return scored < context.ledger.decisions[FROM]


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
        steps: of Adam, whose state starts anew every time.
        batch: pairs a step.
        lr: learning rate.
        weight: λ_s.
        closeness: λ_p, or None for U(0.5, 1).
        first_steps: steps of its first training; None: as many.
        scored: number of the epoch after the warm-up, from 1.
    """

    steps: int = 50
    batch: int = 256
    lr: float = 1e-3
    weight: float = 20.0
    closeness: float | None = None
    first_steps: int | None = None
    scored: int = 1

    def run(self, context: Context) -> dict[str, float]:
        """Train the hallucinator of every network, alike on every rank."""
        figures: dict[str, float] = {}
        if waits(context, self.scored):
            return figures
        for number in range(len(context.networks)):
            easy = easy_rows(context, number)
            if is_possible(context, easy):
                for name, value in self._train(context, number, easy).items():
                    figures[f"{name}{context.suffix(number)}"] = value
        return figures

    def _train(self, context: Context, number: int, easy: Tensor) -> dict[str, float]:
        features, labels = bank_of(context).of(context, number), context.store.labels
        module = hallucinator_of(context, number)
        module.measure(features[easy])
        steps = self.steps if int(module.rounds) else (self.first_steps or self.steps)
        module.rounds += 1
        head = cast(Network, context.plain[number]).heads["classes"]
        still = {name: weight.detach() for name, weight in head.named_parameters()}
        draw = context.draw.within(str(number))
        lot = draw.shared_integers("near", steps * self.batch, len(easy))
        pairs = draw_pairs(draw, easy[lot], easy, labels, self.closeness)
        optimiser = torch.optim.Adam(module.parameters(), self.lr)
        total = features.new_zeros(2)
        for step in range(steps):
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
            context.progress(step + 1, steps)
        for weight in module.parameters():  # equal on all ranks but for the device's rounding
            weight.data = context.ranks.sum(weight.data) / context.ranks.world
        named_mean, placed_mean = (total / steps).tolist()
        return {"anchor_cross_entropy": named_mean, "anchor_dissimilarity": placed_mean}


@dataclass(frozen=True)
class Correct(Pass):
    """Give hard samples the label that their nearest anchors vote for.

    Every anchor looks for the hard sample that is nearest to it. It is valid if that similarity is
    not below a quantile of all anchors' similarities. A hard sample with a valid anchor takes the
    majority label of its most similar ones, with the share of the votes as its weight.

    Nothing is corrected where anchors of one half of the easy samples do not know the labels of the
    other half: features that do not tell classes apart cannot tell the labels of hard samples.

    Args:
        anchors: "hallucinated", "mixed" or "easy".
        per_sample: anchors of every easy sample, with fresh partners in every epoch.
        voters: K_a.
        quantile: of the similarities.
        closeness: λ_p, or None for U(0.5, 1).
        distinct: whether an easy sample has one vote on a hard one, by its most similar anchor.
        agreement: least share of right votes on held-out easy samples; 0 asks none.
        scored: number of the epoch after the warm-up, from 1.
    """

    anchors: Anchors = "hallucinated"
    per_sample: int = 10
    voters: int = 5
    quantile: float = 0.1
    closeness: float | None = None
    distinct: bool = True
    agreement: float = 0.0
    scored: int = 1

    def run(self, context: Context) -> dict[str, float]:
        """Search and vote for every network; the features are not needed any more after that."""
        figures = {}
        for number in range(len(context.networks)):
            easy = easy_rows(context, number)
            for name, nothing in ((NEAR, -1), (FAR, -1), (CLOSENESS, 0), (SIMILARITY, 0)):
                held = context.ledger[name][number]
                context.ledger.set(name, number, torch.full_like(held, nothing))
            if is_possible(context, easy) and not waits(context, self.scored):
                for name, value in self._correct(context, number, easy).items():
                    figures[f"{name}{context.suffix(number)}"] = value
            bank_of(context).drop(number)
        return figures

    def _correct(self, context: Context, number: int, easy: Tensor) -> dict[str, float]:
        ledger, labels = context.ledger, context.store.labels
        state = ledger[STATE][number]
        hard = (state == HARD).nonzero().flatten()
        features = bank_of(context).of(context, number)
        pairs = self._pairs(context, number, easy)
        known = 1.0
        if self.agreement > 0:
            known = self._agreement(context, number, pairs, features, easy)
        if known < self.agreement:
            context.say(
                f"epoch {context.epoch + 1}, network {number}: anchors name {known:.0%} of "
                "held-out easy labels; nothing is corrected while they know so few"
            )
            return {"vote_agreement": known, "corrected": 0.0}
        nearest, similarity = self._search(context, number, pairs, features, hard)
        # `torch.quantile` takes no more than 16 million numbers.
        place = int(self.quantile * (len(similarity) - 1))
        least = similarity.kthvalue(place + 1).values
        valid = (similarity >= least).nonzero().flatten()
        near = pairs.near[valid]
        votes = count_votes(
            nearest[valid],
            similarity[valid],
            labels[near],
            len(labels),
            self.voters,
            near if self.distinct else None,
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
        asked = {"vote_agreement": known} if self.agreement > 0 else {}
        return asked | dict(zip(names, figures, strict=True))

    def _agreement(
        self, context: Context, number: int, pairs: Pairs, features: Tensor, easy: Tensor
    ) -> float:
        """Share of held-out easy samples whose label the anchors of the others name.

        One half of the easy samples lends its anchors, the other half plays the hard samples.
        """
        labels = context.store.labels
        half = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        order = context.draw.within(str(number)).permutation("halves", len(easy))
        half[easy[order[: len(easy) // 2]]] = True
        own, asked = pairs.part(half[pairs.near]), easy[~half[easy]]
        if not len(own):
            return 0.0
        nearest, similarity = self._search(context, number, own, features, asked)
        votes = count_votes(
            nearest, similarity, labels[own.near], len(labels), self.voters, own.near
        )
        named = votes.label >= 0
        return float((votes.label == labels)[named].float().mean())

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
        make = self._make(context, number)
        nearest, similarity = nearest_hard(
            pairs.part(own), features, hard, make, progress=context.progress
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
