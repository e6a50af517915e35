"""MixUp: train on convex combinations of pairs of samples and of their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from labelwise.augment.mix import mix_coefficient
from labelwise.config import MethodSettings
from labelwise.losses.classification import soft_cross_entropy
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.method import Method, Phase
from labelwise.training.mixing import mix_groups
from labelwise.training.steps import Supervised


class MixUpSettings(MethodSettings):
    """Settings of MixUp."""

    alpha: float = Field(4.0, gt=0, description="Beta(α, α) of the mixing coefficient; 4 or 32")
    view: str = Field("weak", description="view policy of the training images")


@dataclass(frozen=True)
class MixUpStep(Supervised):
    """Cross-entropy on mixed inputs and mixed labels (arXiv 1710.09412, equation 1).

    Args:
        alpha: Beta(α, α) parameter.
    """

    observes: ClassVar[bool] = False
    alpha: float = 4.0

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Mix every view with a random partner, then the soft cross-entropy."""
        coefficient = mix_coefficient(context.draw, self.alpha, "mix")
        inputs, targets = mix_groups(context, groups, coefficient)
        logits = context.logits(context.learner, inputs)
        return {"cross_entropy": soft_cross_entropy(logits, targets).mean()}


class MixUp(Method):
    """Train on mixtures of pairs, which slows the learning of wrong labels."""

    name = "mixup"
    summary = "convex combinations of pairs; slows the learning of wrong labels"
    citation = (
        "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412"
    )
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 best": 95.6,
        "cifar10 symmetric 50 best": 87.1,
        "cifar10 symmetric 80 best": 71.6,
        "cifar10 symmetric 90 best": 52.2,
        "cifar100 symmetric 20 best": 67.8,
        "cifar100 symmetric 50 best": 57.3,
        "cifar100 symmetric 80 best": 30.8,
        "cifar100 symmetric 90 best": 14.6,
    }
    presets: ClassVar = {
        "clean": {"alpha": 1.0},
        "noisy": {"alpha": 4.0},
        "severe": {"alpha": 32.0},
    }
    Settings = MixUpSettings
    settings: MixUpSettings

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all samples."""
        del epoch
        step = MixUpStep(view=self.settings.view, alpha=self.settings.alpha)
        return [Phase("train", step, trains=(0,))]
