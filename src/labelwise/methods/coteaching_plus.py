"""Co-teaching+: exchange small-loss samples among those the two networks disagree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from labelwise.methods.coteaching import (
    CoTeaching,
    CoTeachingSettings,
    CoTeachingStep,
)
from labelwise.selection.small_loss import small_loss_mask
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.steps import mean_over_views


class CoTeachingPlusSettings(CoTeachingSettings):
    """Settings of Co-teaching+."""

    initial_epochs: int | None = Field(
        None, ge=0, description="epochs of plain Co-teaching first (paper: 20); None: the warm-up"
    )


@dataclass(frozen=True)
class CoTeachingPlusStep(CoTeachingStep):
    """Small losses among the disagreements (arXiv 1901.04215, Algorithm 1, lines 5-8)."""

    def select(
        self, context: Context, groups: Groups, losses: list[Tensor], logits: list[Tensor]
    ) -> list[Tensor]:
        """Offer the small-loss samples on which the predictions differ.

        Predictions are of the mean softmax over a sample's views. A batch without any
        disagreement falls back to the small losses of all.
        """
        (group,) = groups.values()
        num_views = len(group.views)
        first, second = (
            mean_over_views(output.float().softmax(1), num_views).argmax(1) for output in logits
        )
        differ = context.ranks.whole(first != second)
        among = differ | ~differ.any()
        whole = context.ranks.whole
        return [small_loss_mask(whole(loss), self.keep(context), among) for loss in losses]


class CoTeachingPlus(CoTeaching):
    """Co-teaching whose networks are kept apart by learning only where they disagree.

    Differences from the paper:
        1. A batch without disagreement uses the small losses of all its samples.
        2. τ is estimated where it is not given, as in Co-teaching here.
    """

    name = "coteaching+"
    summary = "Co-teaching on the samples the two networks disagree on"
    citation = "Yu et al., How does Disagreement Help Generalization against Label Corruption?, "
    citation += "ICML 2019, arXiv 1901.04215"
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 best": 89.5,
        "cifar10 symmetric 50 best": 85.7,
        "cifar10 symmetric 80 best": 67.4,
        "cifar10 symmetric 90 best": 47.9,
        "cifar100 symmetric 20 best": 65.6,
        "cifar100 symmetric 50 best": 51.8,
        "cifar100 symmetric 80 best": 27.9,
        "cifar100 symmetric 90 best": 13.7,
    }
    presets: ClassVar = {
        name: {**values, "initial_epochs": 20} for name, values in CoTeaching.presets.items()
    }
    Settings = CoTeachingPlusSettings
    settings: CoTeachingPlusSettings

    def step(self, epoch: int) -> CoTeachingStep:
        """Plain Co-teaching first, then the disagreement step."""
        initial = self.settings.initial_epochs
        initial = self.schedule.warmup if initial is None else initial
        kind = CoTeachingStep if epoch < initial else CoTeachingPlusStep
        return kind(
            view=self.settings.view, ramp=self.ramp(epoch), noise_rate=self.settings.noise_rate
        )
