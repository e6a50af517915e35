"""SimCLR: two views of an image are alike, views of different images are not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from labelwise.config import MethodSettings, Schedule
from labelwise.losses.contrastive import nt_xent
from labelwise.models.heads import Projection
from labelwise.pretraining.share import Share
from labelwise.training.context import Context
from labelwise.training.groups import Groups, add_views
from labelwise.training.method import Method, Phase, Problem, Step


class ContrastiveSettings(MethodSettings):
    """Settings that ways of contrastive pre-training share; None scales with the data."""

    epochs: int | None = Field(None, ge=1, description="epochs of pre-training (paper: 500)")
    batch_size: int | None = Field(None, ge=4, description="images a step (paper: 512)")
    lr: float | None = Field(None, gt=0, description="learning rate (paper: 0.4 at 512)")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty on all weights")
    temperature: float = Field(0.2, gt=0, description="τ of the contrastive loss (ScanMix: 0.1)")
    view: str = Field("simclr", description="view policy of both views")


@dataclass(frozen=True)
class TwoViews(Step):
    """NT-Xent between two views of every image.

    Args:
        view: view policy.
        temperature: τ.
    """

    view: str = "simclr"
    temperature: float = 0.2

    def views(self, context: Context, groups: Groups) -> Groups:
        """Two views of every image; there is no target, so it is left even."""
        added = {}
        for side, group in groups.items():
            even = torch.full(
                (len(group.index), context.num_classes),
                1 / context.num_classes,
                device=group.index.device,
            )
            added[side] = [
                (context.view(group, self.view, f"{side}/{number}"), even) for number in range(2)
            ]
        return add_views(groups, added)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """NT-Xent over the images of all processes, with gradient through all of them."""
        (group,) = groups.values()
        rows = len(group.index)
        outputs = context.forward(context.learner, group.inputs, ("projection",))
        own = outputs["projection"].view(-1, rows, outputs["projection"].shape[1])[:2]
        whole = context.ranks.everyone(own)
        place = torch.arange(rows, device=own.device) + context.ranks.rank * rows
        return {"contrast": nt_xent(own, whole, place, self.temperature)}


class SimCLR(Method):
    """Contrastive pre-training of the first network, which the others then start from.

    Differences from the paper:
        1. SGD with momentum and a cosine schedule, as in ScanMix, instead of LARS.
        2. The temperature is 0.2 by default, batch size and epochs scale with the data; 512, 0.4,
           500 epochs and 0.1 are ScanMix's.
    """

    name = "simclr"
    summary = "contrastive pre-training: two views of an image are alike"
    citation = "Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020, arXiv 2002.05709"
    kinds = frozenset({"images"})
    measures = "features"
    Settings = ContrastiveSettings
    settings: ContrastiveSettings

    @property
    def rows_per_sample(self) -> int:
        """Two views."""
        return 2

    def heads(self, num_features: int, num_classes: int) -> dict[str, nn.Module]:
        """The projection head."""
        return {"projection": Projection(num_features)}

    def default_schedule(self, problem: Problem) -> Schedule:
        """Batches of 256 and about 600 steps at 2,000 images, growing with the root of N."""
        return contrastive_schedule(self.settings, problem)

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all images; at the end the peers take over what was learnt."""
        step = TwoViews(self.settings.view, self.settings.temperature)
        phases = [Phase("contrast", step, trains=(0,))]
        if epoch == self.schedule.epochs - 1:
            phases.append(Phase("share", Share()))
        return phases


def contrastive_schedule(settings: ContrastiveSettings, problem: Problem) -> Schedule:
    """The schedule of contrastive pre-training: the settings, and for what is open the data's."""
    size = settings.batch_size or max(8, min(256, 2 ** round(math.log2(problem.num_samples / 5))))
    steps = math.ceil(problem.num_samples / size)
    wanted = 600 * max(1.0, math.sqrt(problem.num_samples / 2000))
    return Schedule(
        epochs=settings.epochs or max(10, min(500, round(wanted / steps))),
        warmup=0,
        batch_size=size,
        lr=settings.lr or round(0.2 * max(1.0, size / 256), 4),
        weight_decay=settings.weight_decay,
        decay="cosine",
    )
