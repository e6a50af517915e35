"""MoCo v2: a view of an image is told from a queue of other images' by a slow second encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from labelwise.errors import UserError
from labelwise.losses.contrastive import info_nce
from labelwise.models.network import Network
from labelwise.pretraining.contrastive import (
    Contrastive,
    ContrastiveSettings,
    num_steps,
    with_views,
)
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups
from labelwise.training.method import Method, Problem, Step

ENCODER = "moco_encoder"
QUEUE = "moco_queue"
LEAST_GROUP = 8  # rows: batch statistics of fewer are mostly noise
FASTEST, SLOWEST = 0.98, 0.999  # momentum; below, the queue's keys are of too different encoders


class MoCoSettings(ContrastiveSettings):
    """Settings of MoCo; None scales with the data."""

    epochs: int | None = Field(None, ge=1, description="epochs of pre-training (paper: 200, 800)")
    batch_size: int | None = Field(None, ge=4, description="images a step (paper: 256)")
    lr: float | None = Field(None, gt=0, description="learning rate (paper: 0.03 at 256)")
    temperature: float = Field(0.2, gt=0, description="τ of the contrastive loss (paper: 0.2)")
    queue: int | None = Field(
        None, ge=4, description="keys in the queue (paper: 65,536; half the images at most)"
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="of the key encoder (paper: 0.999; less for short runs)"
    )
    groups: int = Field(4, ge=1, description="groups with batch statistics of their own (paper: 8)")


class Queue(nn.Module):
    """The keys of the newest images, in a ring.

    Args:
        size: Q, number of keys.
        width: D; the keys are random unit vectors until real ones take their places.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put keys (B, D) in the place of the oldest; B is at most Q."""
        size = len(self.keys)
        assert len(keys) <= size, "more keys in a step than the queue holds"
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, slots, keys)
        self.pointer.add_(len(keys)).remainder_(size)


@dataclass(frozen=True)
class QueryAndKey(Step):
    """InfoNCE of every view of a group against the image's key and the queue.

    The key is of a view of its own that is no view of the group: it is not learnt from, and a
    wrapper neither sees nor counts it.

    Args:
        view: view policy.
        temperature: τ.
        momentum: m of θ_k ← m·θ_k + (1 - m)·θ_q.
        groups: groups that the keys' batch is cut into.
    """

    classifies: ClassVar[bool] = False

    view: str = "simclr"
    temperature: float = 0.2
    momentum: float = 0.999
    groups: int = 4

    def views(self, context: Context, groups: Groups) -> Groups:
        """The query: one view of every image."""
        return with_views(context, groups, self.view, ("query",))

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """InfoNCE; the key encoder moves before it, the queue after it."""
        ((side, group),) = groups.items()
        queue = cast(Queue, context.extras[QUEUE])
        self._follow(context)
        keys = self._keys(context, group, side)
        outputs = context.forward(context.learner, group.inputs, ("projection",))["projection"]
        queries = outputs.float().view(len(group.views), len(group.index), -1)
        # A copy: the backward pass needs the keys that stood there before the push.
        loss = info_nce(queries, keys, queue.keys.clone(), self.temperature)
        queue.push(context.ranks.whole(keys))
        return {"contrast": loss}

    @torch.no_grad()
    def _follow(self, context: Context) -> None:
        """Move the key encoder towards the network; the first step of all makes it a copy."""
        first = context.epoch == 0 and context.draw.step == 0
        follow = get_ema_multi_avg_fn(0.0 if first else self.momentum)  # type: ignore[no-untyped-call]
        held = list(context.extras[ENCODER].parameters())
        follow(held, list(context.plain[context.learner].parameters()), None)

    @torch.no_grad()
    def _keys(self, context: Context, group: Group, side: str) -> Tensor:
        """Keys (b, D) of this process's images, computed in shuffled groups."""
        inputs = context.view(group, self.view, f"{side}/key")
        order = context.draw.permutation(f"{side}/shuffle", len(inputs))
        count = max(1, min(self.groups, len(inputs) // LEAST_GROUP))
        with context.autocast():
            found = [
                context.extras[ENCODER](inputs[rows], heads=("projection",))["projection"]
                for rows in order.tensor_split(count)
            ]
        return F.normalize(torch.cat(found).float(), dim=1)[order.argsort()]


class MoCo(Contrastive):
    """Momentum contrast: negatives come from a queue, so the batch may be small.

    The key encoder is a copy of the network that follows it slowly, so that keys in the queue,
    made by earlier copies of it, can still be compared with new ones.

    Batch statistics could give the key away: they tell which images were in one batch. The paper
    shuffles the keys over its GPUs. Here each process shuffles its own keys and computes them in
    groups, so that a key carries the statistics of a random part of the batch.

    Differences from the paper (MoCo v2):
        1. Queue, momentum, epochs and learning rate scale with the data: the queue holds at most
           half of the images, so that few are the negatives of themselves; the momentum is
           1 - 6 / steps, between 0.98 and 0.999, so that in any run the key encoder has time to
           follow.
        2. Queries see the statistics of their process's whole batch; the paper's are cut into
           groups too.
        3. The learning rate is higher: runs here are shorter.
        4. The first keys in the queue are random, as in the paper; the first step of all copies
           the network into the key encoder, whatever came before it in the run.
    """

    name = "moco"
    summary = "contrastive pre-training against a queue; needs less memory than simclr"
    citation = "Chen, Fan, Girshick, He, MoCo v2, 2020, arXiv 2003.04297"
    usual_lr = 0.1
    Settings = MoCoSettings
    settings: MoCoSettings

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Fix the schedule, the queue and the momentum.

        Raises:
            UserError: a queue that cannot hold the keys of one step.
        """
        super().bind(problem, overrides)
        count = problem.num_samples
        size = min(self.schedule.batch_size, count)
        queue = self.settings.queue or size * max(1, min(65_536, count // 2) // size)
        if queue < size:
            raise UserError(
                f"moco: queue = {queue} cannot hold the {size} keys of one step. Set moco.queue "
                f"to {size} or more, or moco.batch_size to {queue} or less."
            )
        momentum = self.settings.momentum
        if momentum is None:
            momentum = min(SLOWEST, max(FASTEST, 1 - 6 / num_steps(self.schedule, count)))
            momentum = round(momentum, 4)
        resolved = {"queue": queue, "momentum": momentum}
        self.settings = self.settings.override(resolved, self.name)
        return self

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """The key encoder and the queue."""
        assert self.settings.queue is not None, "not bound"
        encoder = copy.deepcopy(network).requires_grad_(False).train()
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                # Only the batch's statistics are used; running ones would differ between ranks.
                module.momentum = 0.0
        width = list(network.heads["projection"].parameters())[-1].shape[0]
        return {ENCODER: encoder, QUEUE: Queue(self.settings.queue, width)}

    def step(self) -> Step:
        """Query, key and queue."""
        momentum = self.settings.momentum
        assert momentum is not None, "not bound"
        return QueryAndKey(
            self.settings.view, self.settings.temperature, momentum, self.settings.groups
        )
