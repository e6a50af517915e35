"""Which method suits labels of this noise, in rules that say their reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

LITTLE, SEVERE = 0.03, 0.70
"""Noise rates below and above which the usual advice changes."""
TOO_WIDE = 0.25
"""An interval wider than this tells nothing."""
FEW, FEW_PER_CLASS = 200, 8
"""Fewer samples, or fewer in a class, tell nothing."""


@dataclass(frozen=True)
class Advice:
    """What to do.

    Args:
        method: to train with, or None where that cannot be told.
        settings: of it.
        interval: of the noise rate.
        reasons: in words.
    """

    method: str | None
    interval: tuple[float, float]
    reasons: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _disagreement(estimates: Mapping[str, float]) -> str:
    """How far apart the estimators are, to be read after the interval."""
    if len(estimates) < 2:
        return ""
    low, high = min(estimates, key=estimates.__getitem__), max(estimates, key=estimates.__getitem__)
    return (
        f": the estimators disagree, from {estimates[low]:.0%} ({low}) to "
        f"{estimates[high]:.0%} ({high})"
    )


def advise(
    rate: float,
    interval: tuple[float, float],
    estimates: Mapping[str, float],
    largest_pair: float,
    num_samples: int,
    num_classes: int,
    class_sizes: Tensor,
) -> Advice:
    """Recommend a method, or say that it cannot be told and why.

    The rules follow what the methods did on digits (`benchmarks/README.md`) and DivideMix's own
    settings (arXiv 2002.07394, section 4.2 and appendix): a confidence penalty where noise is
    concentrated in a few pairs of classes.

    Args:
        rate: estimated noise rate.
        interval: of it.
        estimates: the rate by every estimator.
        largest_pair: share of all labels that the most frequent confusion makes wrong.
        num_samples: N.
        num_classes: K.
        class_sizes: samples by given label (K).
    """
    doubts = []
    if num_samples < FEW:
        doubts.append(f"{num_samples} samples are too few; at least {FEW} are needed")
    small = int((class_sizes < FEW_PER_CLASS).sum())
    if small:
        has = "has" if small == 1 else "have"
        doubts.append(f"{small} of {num_classes} classes {has} fewer than {FEW_PER_CLASS} samples")
    if not doubts and interval[1] - interval[0] > TOO_WIDE:
        doubts.append(
            f"the rate lies anywhere between {interval[0]:.0%} and {interval[1]:.0%}"
            f"{_disagreement(estimates)}"
        )
    if doubts:
        said = tuple(f"cannot tell: {doubt}" for doubt in doubts)
        remedy = "more samples, or embeddings of a pre-trained model, may help"
        return Advice(None, interval, (*said, remedy))
    if rate < LITTLE:
        reason = (
            "hardly any label looks wrong: plain training does; look at the suspects and fix them"
        )
        return Advice("ce", interval, (reason,))
    if rate > SEVERE:
        reason = (
            f"about {rate:.0%} wrong labels is severe: the labels alone are a weak guide; take "
            "embeddings of a pre-trained model if you can"
        )
        return Advice("dividemix", interval, (reason,))
    even = rate / max(1, num_classes * (num_classes - 1))
    if largest_pair > 5 * even and num_classes > 2 and largest_pair > 0.02:
        reason = (
            f"wrong labels are concentrated: one confusion makes {largest_pair:.1%} of all labels "
            "wrong; a confidence penalty keeps warm-up from learning it"
        )
        return Advice("dividemix", interval, (reason,), {"confidence_penalty": 1})
    reason = "wrong labels are spread over many classes, which semi-supervised learning mends best"
    return Advice("dividemix", interval, (reason,))
