"""A short training that drifts from the given labels to what the network said of them so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from labelwise.config import MethodSettings, Schedule
from labelwise.losses.classification import one_hot
from labelwise.training import trace
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups, add_views
from labelwise.training.method import Method, Phase, Problem
from labelwise.training.steps import Supervised

WARM, GROWN = 0.3, 2 / 3
"""Shares of the epochs that are warm-up, and after which images have their whole side."""
LEAST_SIDE = 24
"""Images of a shorter side, pixels, are never made smaller."""


class SprintSettings(MethodSettings):
    """Settings of the short training."""

    view: str = Field("weak", description="view policy of the training images")
    trust: float = Field(
        0.8, ge=0, le=1, description="share of the mean prediction in the last targets; 0: labels"
    )
    ramp: float = Field(
        0.7, gt=0, le=1, description="part of the run in which that share grows, after the warm-up"
    )
    small_start: bool = Field(
        False, description="begin with half, then 3/4 of the side (from 24 pixels on)"
    )


@dataclass(frozen=True)
class SprintStep(Supervised):
    """Cross-entropy on targets (1 - a) · label + a · mean prediction.

    The mean is over what this run predicted for the sample in its epochs so far, as the trace of
    every run keeps it (`labelwise.training.trace`): single samples, augmented, while training.

    Args:
        share: a, in [0, 1].
        size: share of their side that images are brought to.
    """

    share: float = 0.0
    size: float = 1.0

    def views(self, context: Context, groups: Groups) -> Groups:
        """One augmented view of each side, with its drifting target."""
        return add_views(groups, {side: [self._one(context, side, groups)] for side in groups})

    def _one(self, context: Context, side: str, groups: Groups) -> tuple[Tensor, Tensor]:
        group = groups[side]
        inputs = context.view(group, self.view, f"{side}/0")
        return self.resized(inputs), self.targets(context, group)

    def resized(self, inputs: Tensor) -> Tensor:
        """Images (B, C, H, W) at this step's share of their side; embeddings as they are."""
        if self.size == 1 or inputs.ndim != 4 or min(inputs.shape[2:]) < LEAST_SIDE:
            return inputs
        size = [round(self.size * side) for side in inputs.shape[2:]]
        small = F.interpolate(inputs, size=size, mode="bilinear", antialias=True)
        return small.contiguous(memory_format=torch.channels_last)

    def targets(self, context: Context, group: Group) -> Tensor:
        """Soft targets (B, K); labels where nothing was predicted yet, or nothing is kept."""
        labels = one_hot(group.label, context.num_classes)
        if not self.share or trace.PROBABILITY not in context.ledger:
            return labels
        number = context.learner
        total = context.ledger[trace.PROBABILITY][number, group.index]
        count = context.ledger[trace.SEEN][number, group.index][:, None]
        mean = total / total.sum(1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
        return torch.where(count > 0, torch.lerp(labels, mean, self.share), labels)


@dataclass(frozen=True)
class SmallSprintStep(SprintStep):
    """The same on smaller images, which a wrapper leaves alone: its views have the whole side."""

    classifies: ClassVar[bool] = False


class Sprint(Method):
    """Plain training made for a short time, which labels that are wrong do little harm.

    Three things: targets that drift from the given label to the sample's own mean prediction, at
    a time when right labels are learnt and wrong ones are not yet; if wanted, smaller images
    first, of which those of half the side cost a quarter; and, by default, one cycle of the
    learning rate. `labelwise fit --budget` takes it where other methods have too few epochs.

    The share grows slowly and not to 1, since a network that knows its classes badly must go on
    learning from the labels: with `trust` 1 and `ramp` 0.1, ten epochs on 10,000 images of
    CIFAR-10 ended at 50 % of held-out human labels, with the defaults at 65 %, and without any such
    share at 69 %: so few epochs learn hardly any wrong label by heart, and `trust` 0 is best
    there. Where classes are easy, as in digits, 1 and 0.1 are.

    Differences from the paper:
        1. The mean over the run's epochs so far replaces the moving average, and its share grows
           in a straight line, as in Kim et al., Self-Knowledge Distillation with Progressive
           Refinement of Targets (arXiv 2006.12000), whose share ends at 0.8 too.
        2. Samples are not weighted by how sure their target is.
        3. Small images first, and one cycle, are not in the paper.
    """

    name = "sprint"
    summary = "a short training whose targets drift to its own mean predictions"
    citation = "Huang, Zhang, Zhang, Self-Adaptive Training, NeurIPS 2020, arXiv 2002.10319"
    Settings = SprintSettings
    settings: SprintSettings

    def default_schedule(self, problem: Problem) -> Schedule:
        """One cycle; as many samples as cross-entropy sees, in batches of 128 if they are many."""
        plan = super().default_schedule(problem)
        batch = max(plan.batch_size, 128 if problem.num_samples >= 10_000 else 0)
        plan = plan.override({"decay": "onecycle", "lr": round(5 * plan.lr, 4)})
        return self.with_warmup(plan.override({"batch_size": batch}), problem)

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """Three tenths of the epochs, during which labels are taken as they are.

        The mean prediction starts shortly before (`labelwise.training.trace.FIRST`).
        """
        del problem
        return schedule.override({"warmup": round(WARM * schedule.epochs)})

    def size_at(self, epoch: int) -> float:
        """The share of their side that images have in an epoch."""
        if not self.settings.small_start or epoch >= round(GROWN * self.schedule.epochs):
            return 1.0
        return 0.5 if epoch < self.schedule.warmup else 0.75

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all samples."""
        warmup, own = self.schedule.warmup, self.settings
        ramp = max(1.0, own.ramp * self.schedule.epochs)
        share = own.trust * min(1.0, max(0.0, (epoch + 1 - warmup) / ramp))
        size = self.size_at(epoch)
        kind = SprintStep if size == 1 else SmallSprintStep
        step = kind(own.view, share=share, size=size)
        return [Phase("train", step, trains=(0,), warmup=epoch < warmup)]
