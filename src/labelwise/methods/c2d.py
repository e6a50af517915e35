"""C2D: contrast to divide. Self-supervised features first, then DivideMix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from labelwise.config import Schedule
from labelwise.methods.dividemix import DivideMix, DivideMixSettings
from labelwise.training.method import Phase, Problem


class C2DSettings(DivideMixSettings):
    """Settings of C2D: those of DivideMix, and how the warm-up treats the features."""

    frozen_warmup: bool = Field(
        True, description="warm up the class heads alone, on frozen features (ScanMix)"
    )
    warmup_lr: float = Field(
        0.02, gt=0, description="learning rate of the frozen warm-up, falling to 0 over it"
    )


class C2D(DivideMix):
    """Pre-training without labels, a short warm-up, then DivideMix.

    Under severe noise the warm-up of DivideMix learns wrong labels before the mixture can tell
    them. Features from the images alone make right labels easy and wrong ones hard at once.

    Differences from the paper:
        1. The warm-up trains the class heads on frozen features, as ScanMix does, and its learning
           rate falls to zero; `frozen_warmup=false` trains everything, as the paper does.
        2. Those of `labelwise.methods.dividemix.DivideMix`.
    """

    name = "c2d"
    summary = "self-supervised features (SimCLR), then DivideMix"
    citation = "Zheltonozhskii et al., C2D, WACV 2022, arXiv 2103.13646"
    kinds = frozenset({"images"})
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 best": 96.4,
        "cifar10 symmetric 50 best": 95.3,
        "cifar10 symmetric 80 best": 94.4,
        "cifar10 symmetric 90 best": 93.6,
        "cifar10 asymmetric 40 best": 93.5,
        "cifar100 symmetric 20 best": 78.7,
        "cifar100 symmetric 50 best": 76.4,
        "cifar100 symmetric 80 best": 67.8,
        "cifar100 symmetric 90 best": 58.7,
        "webvision best": 79.4,
        "clothing1m best": 74.30,
    }
    presets: ClassVar = DivideMix.presets
    Settings: ClassVar = C2DSettings
    settings: C2DSettings

    def pretraining(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """SimCLR."""
        del problem
        return {"simclr": {}}

    def default_schedule(self, problem: Problem) -> Schedule:
        """DivideMix's, with a shorter warm-up."""
        return self.with_warmup(super().default_schedule(problem), problem)

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """Some 260 steps of warm-up: the features are there already."""
        steps = math.ceil(problem.num_samples / schedule.batch_size)
        wanted = min(schedule.epochs // 4, max(2, round(260 / steps)))
        return schedule.override({"warmup": max(1, wanted)})

    def warmup_lr(self, epoch: int) -> float:
        """The learning rate of a frozen warm-up epoch: a cosine that ends at 0."""
        part = min(1.0, epoch / max(1, self.schedule.warmup))
        return self.settings.warmup_lr * 0.5 * (1 + math.cos(math.pi * part))

    def phases(self, epoch: int) -> list[Phase]:
        """DivideMix's, the warm-up on frozen features."""
        phases = super().phases(epoch)
        if not self.settings.frozen_warmup:
            return phases
        lr = self.warmup_lr(epoch)
        return [replace(phase, frozen=True, lr=lr) if phase.warmup else phase for phase in phases]
