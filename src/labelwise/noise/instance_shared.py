"""Instance-dependent noise with one projection that all classes share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from labelwise.noise.draws import Draws
from labelwise.noise.instance import Instance


class InstanceShared(Instance):
    """Like `Instance`, with a single projection `W` (S, K) for all true classes.

    A common variant in re-implementations of Xia et al. (arXiv 2006.07836). It is another noise:
    one direction of the input decides the wrong label whatever the class, so that wrong labels
    of different classes agree and are easier to learn.

    Differences from the paper:
        1. One projection instead of one per true class; the rest as in `Instance`.
    """

    name: ClassVar[str] = "instance-shared"
    citation: ClassVar[str] = (
        "Variant with one projection of: Xia et al. Part-dependent Label Noise. NeurIPS 2020. "
        "arXiv 2006.07836"
    )

    def projection(self, draws: Draws, label: int, size: int, num_classes: int) -> Tensor:
        """Projection (S, K) float64, the same for every class."""
        return draws.normal("projection", 0, size, num_classes)
