"""What the ways of contrastive pre-training have in common: settings, schedule, phases."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from labelwise.config import MethodSettings, Schedule
from labelwise.errors import UserError
from labelwise.models.heads import HeadSpec, Projection
from labelwise.pretraining.share import Share
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups, add_views
from labelwise.training.method import Method, Phase, Problem, Step

FEWEST = 4  # images; with fewer there is nothing to tell an image from


class ContrastiveSettings(MethodSettings):
    """Settings that ways of contrastive pre-training share; None scales with the data."""

    epochs: int | None = Field(None, ge=1, description="epochs of pre-training (paper: 500)")
    batch_size: int | None = Field(None, ge=4, description="images a step (paper: 512)")
    lr: float | None = Field(None, gt=0, description="learning rate (paper: 0.4 at 512)")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on all weights")
    temperature: float = Field(0.2, gt=0, description="τ of the contrastive loss (ScanMix: 0.1)")
    view: str = Field("simclr", description="view policy of both views")


class Contrastive(Method):
    """Trains the first network without labels; at the end the others take over what it learnt.

    Class attributes:
        usual_lr: learning rate for batches up to 256, in proportion to the size above.
    """

    usual_lr: ClassVar[float]

    kinds = frozenset({"images"})
    measures = "features"
    Settings = ContrastiveSettings
    settings: ContrastiveSettings
    asked_batch: int | None = None
    """Batch size that the user set, where the data are fewer and it was cut to them."""

    @abstractmethod
    def step(self) -> Step:
        """What is done with a batch."""

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The projection head."""
        return {"projection": Projection(spec.num_features)}

    def default_schedule(self, problem: Problem) -> Schedule:
        """Batches of 256 and about 600 steps at 2,000 images, growing with the root of N.

        A batch is never larger than the data: the learning rate must be that of the real one.
        """
        settings, count = self.settings, problem.num_samples
        size = settings.batch_size or max(8, min(256, 2 ** round(math.log2(count / 5))))
        size = min(size, count)
        wanted = 600 * max(1.0, math.sqrt(count / 2000))
        return Schedule(
            epochs=settings.epochs or max(10, min(500, round(wanted / math.ceil(count / size)))),
            warmup=0,
            batch_size=size,
            lr=settings.lr or round(self.usual_lr * max(1.0, size / 256), 4),
            weight_decay=settings.weight_decay,
            decay="cosine",
        )

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Fix the schedule, and write what it came to into the settings, for `config.json`.

        Raises:
            UserError: other data than images, or too few of them.
        """
        if problem.kind in self.kinds and problem.num_samples < FEWEST:
            raise UserError(
                f"pre-training {self.name!r} tells images from each other and needs {FEWEST} at "
                f"least, but there are {problem.num_samples}. Use --pretrain none."
            )
        super().bind(problem, overrides)
        asked = self.settings.batch_size
        if asked is not None and asked > self.schedule.batch_size:
            self.asked_batch = asked
        names = ("epochs", "batch_size", "lr", "weight_decay")
        used = {name: getattr(self.schedule, name) for name in names}
        self.settings = self.settings.override(used, self.name)
        return self

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all images; at the end the peers take over what was learnt."""
        phases = [Phase("contrast", self.step(), trains=(0,))]
        if epoch == self.schedule.epochs - 1:
            phases.append(Phase("share", Share()))
        return phases


def num_steps(schedule: Schedule, num_samples: int) -> int:
    """Steps of the whole pre-training."""
    return schedule.epochs * math.ceil(num_samples / min(schedule.batch_size, num_samples))


def with_views(
    context: Context, groups: Groups, view: str, purposes: tuple[str, ...]
) -> dict[str, Group]:
    """Add a view of every image for each purpose; there is no target, so it is left even.

    Args:
        context: where the draws come from.
        groups: the batch.
        view: view policy.
        purposes: names of the draws.
    """
    added = {}
    for side, group in groups.items():
        shape = (len(group.index), context.num_classes)
        even = torch.full(shape, 1 / context.num_classes, device=group.index.device)
        added[side] = [(context.view(group, view, f"{side}/{name}"), even) for name in purposes]
    return add_views(groups, added)
