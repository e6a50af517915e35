"""Passes that train nothing: score every sample, and turn losses into clean probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.data.ledger import Column
from labelwise.selection.mixture import mixture
from labelwise.selection.noise_rate import estimate_noise_rate
from labelwise.selection.revive import revive_classes
from labelwise.training.context import Context
from labelwise.training.features import Gathered, bank_of
from labelwise.training.method import Pass
from labelwise.training.trace import observe

EARLY = Column("early_loss", initial=-1.0)
"""Losses of the first scoring (P, N), nats, for a method whose `Score` says which that is; -1: none
yet. Right after the warm-up wrong labels are not yet learnt: no later loss tells them apart so well
(ScanMix, arXiv 2103.11395, figure 3)."""


@dataclass(frozen=True)
class Score(Pass):
    """Cross-entropy and prediction of every sample, unaugmented, eval mode, for every network.

    Writes the ledger columns "loss" (nats) and "prediction"; DivideMix, arXiv 2002.07394, eq. 1.

    Args:
        history: name of a ledger column (P, N, W) that keeps the last W losses, or None.
        first: whether this is the run's first scoring, whose losses the column `EARLY` keeps.
        features: whether the method's `FeatureBank` keeps the features of the same forward.
    """

    observes: ClassVar[bool] = True
    history: str | None = None
    first: bool = False
    features: bool = False

    def run(self, context: Context) -> dict[str, float]:
        """Score this rank's samples in large batches."""
        heads = ("classes", "features") if self.features else ("classes",)
        for number in range(len(context.networks)):
            gathered = Gathered(context)
            for index, outputs in context.score_blocks(number, heads):
                logits = outputs["classes"].float()
                loss = F.cross_entropy(logits, context.store.labels[index], reduction="none")
                observe(context, number, index, logits)
                context.ledger.write("loss", number, index, loss)
                context.ledger.write("prediction", number, index, logits.argmax(1))
                if self.first:
                    context.ledger.write(EARLY.name, number, index, loss)
                if self.history is not None:
                    held = context.ledger[self.history][number, index]
                    rolled = torch.cat([held[:, 1:], loss[:, None]], dim=1)
                    context.ledger.write(self.history, number, index, rolled)
                if self.features:
                    gathered.put(index, outputs["features"])
            if self.features:
                bank_of(context).keep(context, number, gathered.whole())
        return {}


CLEAN_PRIOR = "clean_prior"
"""Decision: the share of right labels, where something else than the losses tells it."""


@dataclass(frozen=True)
class FitMixture(Pass):
    """Fit a two-component mixture to each network's losses; write the ledger column "clean".

    Args:
        family: "gaussian" or "beta".
        history: name of a ledger column (P, N, W) whose mean over the seen part of W replaces
            the last loss, or None.
        seen: how many of the W losses have been recorded.
        revive: a class keeps at least this fraction of the mean share of trusted labels; 0 for
            no such rule (`labelwise.selection.revive`).
        single_mode: whether losses with a single mode leave every label trusted
            (`labelwise.selection.mixture.Mixture.fit`).
    """

    family: str = "gaussian"
    history: str | None = None
    seen: int = 1
    revive: float = 0.0
    single_mode: bool = True

    def run(self, context: Context) -> dict[str, float]:
        """Fit on all samples, on every rank alike."""
        ledger = context.ledger
        figures = {}
        for number in range(len(context.networks)):
            losses = ledger["loss"][number]
            if self.history is not None:
                losses = ledger[self.history][number, :, -self.seen :].mean(dim=1)
            known = ledger.decisions.get(CLEAN_PRIOR)
            fit = mixture(self.family).fit(losses, self.single_mode, known)
            clean = self._revived(context, number, fit.clean, losses) if self.revive else fit.clean
            ledger.set("clean", number, clean)
            if fit.fallback:
                context.say(f"epoch {context.epoch + 1}, network {number}: {fit.fallback}")
            figures[f"clean_fraction{context.suffix(number)}"] = float((clean > 0.5).float().mean())
        figures["estimated_noise_rate"] = float(estimate_noise_rate(ledger["clean"]).mean())
        return figures

    def _revived(self, context: Context, number: int, clean: Tensor, losses: Tensor) -> Tensor:
        threshold = context.ledger.decisions.get("threshold", 0.5)
        labels, num_classes = context.store.labels, context.num_classes
        raised, starving = revive_classes(
            clean, losses, labels, threshold, num_classes, self.revive
        )
        if lost := int(starving.sum()):
            context.say(
                f"epoch {context.epoch + 1}, network {number}: {lost} of {num_classes} classes "
                "had hardly any trusted label; their lowest losses are trusted again"
            )
        return raised
