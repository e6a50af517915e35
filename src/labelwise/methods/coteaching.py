"""Co-teaching: two networks, each learns from its peer's small-loss samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from labelwise.config import MethodSettings, Schedule
from labelwise.losses.classification import soft_cross_entropy
from labelwise.selection.small_loss import small_loss_mask
from labelwise.training.context import Context
from labelwise.training.deciding import Decide
from labelwise.training.groups import Groups
from labelwise.training.method import Method, Phase, Problem
from labelwise.training.scoring import FitMixture, Score
from labelwise.training.steps import Supervised, mean_over_views
from labelwise.training.trace import observe


class CoTeachingSettings(MethodSettings):
    """Settings of Co-teaching."""

    noise_rate: float | None = Field(
        None, ge=0, lt=1, description="τ, fraction of wrong labels; None estimates it"
    )
    ramp_epochs: int | None = Field(
        None, ge=0, description="T_k, epochs until τ is reached (paper: 10); None: the warm-up"
    )
    view: str = Field("weak", description="view policy of the training images")


@dataclass(frozen=True)
class CoTeachingStep(Supervised):
    """Each network's gradient comes from the samples that have a small loss for its peer.

    arXiv 1804.06872, Algorithm 1. A sample's loss is the mean over its views, and its selection
    applies to all of them.

    Args:
        ramp: min(t / T_k, 1), the part of τ that is forgotten in this epoch.
        noise_rate: τ; None takes the one that was estimated, 0 before it was.
    """

    ramp: float = 1.0
    noise_rate: float | None = None

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Exchange small-loss selections between the two networks."""
        (group,) = groups.values()
        losses = []
        logits = []
        for number in context.trains:
            output = context.logits(number, group.inputs)
            observe(context, number, group.index, output[: len(group.index)])
            per_view = soft_cross_entropy(output, group.targets)
            losses.append(mean_over_views(per_view, len(group.views)))
            logits.append(output.detach())
        chosen = self.select(context, groups, losses, logits)
        ranks = context.ranks
        return {
            f"cross_entropy_{number}": (losses[number] * ranks.own(weight)).sum()
            * ranks.world
            / weight.sum().clamp_min(1)
            for number, weight in zip(context.trains, reversed(chosen), strict=True)
        }

    def select(
        self, context: Context, groups: Groups, losses: list[Tensor], logits: list[Tensor]
    ) -> list[Tensor]:
        """Masks of what each network *offers to its peer*, for the global batch."""
        del groups, logits
        return [small_loss_mask(context.ranks.whole(loss), self.keep(context)) for loss in losses]

    def keep(self, context: Context) -> float:
        """1 - R(t), the fraction of a batch to keep."""
        rate = self.noise_rate
        if rate is None:
            rate = context.ledger.decisions.get("forget_rate", 0.0)
        return 1.0 - self.ramp * rate


def forget_rate_rule(rate: float, num_classes: int) -> dict[str, float]:
    """τ is the estimated noise rate, at most 0.9."""
    del num_classes
    return {"forget_rate": min(rate, 0.9)}


class CoTeaching(Method):
    """Two networks teach each other with the samples they find easy.

    Differences from the paper:
        1. Where the noise rate τ is not given, it is estimated after the first warm-up epochs
           from the mixture over losses; the paper takes it as known. Nothing is forgotten until
           then, and as the ramp counts from the first epoch, it is complete by then with
           T_k = warm-up.
        2. Optimiser and schedule are this package's (SGD), not Adam over 200 epochs.
    """

    name = "coteaching"
    summary = "two networks, each trained on the other's small-loss samples"
    citation = "Han et al., Co-teaching, NeurIPS 2018, arXiv 1804.06872"
    paper_numbers: ClassVar = {"webvision best": 63.6}
    presets: ClassVar = {
        "symmetric-20": {"noise_rate": 0.2, "ramp_epochs": 10},
        "symmetric-50": {"noise_rate": 0.5, "ramp_epochs": 10},
        "pairflip-45": {"noise_rate": 0.45, "ramp_epochs": 10},
    }
    Settings = CoTeachingSettings
    settings: CoTeachingSettings

    @property
    def num_peers(self) -> int:
        """Two."""
        return 2

    @property
    def rows_per_sample(self) -> int:
        """Both networks run on the batch before either learns."""
        return 2

    @property
    def num_sides(self) -> int:
        """Two: both networks run on every sample."""
        return 2

    def default_schedule(self, problem: Problem) -> Schedule:
        """As many iterations as cross-entropy."""
        return Schedule.scaled(problem.num_samples, problem.kind, iterations=1500)

    def step(self, epoch: int) -> CoTeachingStep:
        """The step of an epoch."""
        return CoTeachingStep(
            view=self.settings.view, ramp=self.ramp(epoch), noise_rate=self.settings.noise_rate
        )

    def ramp(self, epoch: int) -> float:
        """min(t / T_k, 1)."""
        length = self.settings.ramp_epochs
        length = self.schedule.warmup if length is None else length
        return 1.0 if length == 0 else min(epoch / length, 1.0)

    def phases(self, epoch: int) -> list[Phase]:
        """Estimate τ once, early; then one pass with both networks."""
        phases = [Phase("train", self.step(epoch), trains=(0, 1))]
        first = min(max(1, self.schedule.warmup), self.schedule.epochs - 1)
        if self.settings.noise_rate is None and epoch == first:
            phases[:0] = [
                Phase("score", Score()),
                Phase("mixture", FitMixture()),
                Phase("decide", Decide(forget_rate_rule)),
            ]
        return phases
