"""Plain cross-entropy: the baseline that learns the wrong labels too."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from labelwise.config import MethodSettings
from labelwise.training.method import Method, Phase
from labelwise.training.steps import Supervised


class CrossEntropySettings(MethodSettings):
    """Settings of cross-entropy."""

    view: str = Field("weak", description="view policy of the training images")


class CrossEntropy(Method):
    """Train on the given labels as if they were right."""

    name = "ce"
    summary = "plain training on the given labels, the baseline"
    citation = "Goodfellow, Bengio, Courville, Deep Learning, MIT Press 2016, section 6.2"
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 best": 86.8,
        "cifar10 symmetric 50 best": 79.4,
        "cifar10 symmetric 80 best": 62.9,
        "cifar10 symmetric 90 best": 42.7,
        "cifar10 asymmetric 40 best": 85.0,
        "cifar100 symmetric 20 best": 62.0,
        "cifar100 symmetric 50 best": 46.7,
        "cifar100 symmetric 80 best": 19.9,
        "cifar100 symmetric 90 best": 10.1,
        "cifar10n aggregate best": 91.7,
        "cifar10n random1 best": 90.2,
        "cifar10n worst best": 83.9,
        "clothing1m best": 69.2,
        "animal10n best": 79.4,
    }
    Settings = CrossEntropySettings
    settings: CrossEntropySettings

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all samples."""
        del epoch
        return [Phase("train", Supervised(self.settings.view), trains=(0,))]
