"""SimCLR: two views of an image are alike, views of different images are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.losses.contrastive import nt_xent
from labelwise.pretraining.contrastive import Contrastive, with_views
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.method import Step


@dataclass(frozen=True)
class TwoViews(Step):
    """NT-Xent between the views of every image: two, and any that a wrapper adds.

    Args:
        view: view policy.
        temperature: τ.
    """

    classifies: ClassVar[bool] = False

    view: str = "simclr"
    temperature: float = 0.2

    def views(self, context: Context, groups: Groups) -> Groups:
        """Two views of every image."""
        return with_views(context, groups, self.view, ("0", "1"))

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """NT-Xent over the images of all processes, with gradient through all of them."""
        (group,) = groups.values()
        rows = len(group.index)
        outputs = context.forward(context.learner, group.inputs, ("projection",))["projection"]
        own = outputs.float().view(len(group.views), rows, -1)
        whole = context.ranks.everyone(own)
        place = torch.arange(rows, device=own.device) + context.ranks.rank * rows
        return {"contrast": nt_xent(own, whole, place, self.temperature)}


class SimCLR(Contrastive):
    """Contrastive pre-training of the first network, which the others then start from.

    Differences from the paper:
        1. SGD with momentum and a cosine schedule, as in ScanMix, instead of LARS.
        2. The temperature is 0.2 by default, batch size and epochs scale with the data; 512, 0.4,
           500 epochs and 0.1 are ScanMix's.
        3. Batch statistics are of each process's images, not of all processes'.
    """

    name = "simclr"
    summary = "contrastive pre-training: two views of an image are alike"
    citation = "Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020, arXiv 2002.05709"
    usual_lr = 0.2

    @property
    def rows_per_sample(self) -> int:
        """Two views."""
        return 2

    def step(self) -> Step:
        """Two views and NT-Xent."""
        return TwoViews(self.settings.view, self.settings.temperature)
