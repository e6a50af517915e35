"""The class-balanced easy set: per class the lowest losses, about as many of each class."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class EasySet:
    """Which samples are easy.

    Args:
        easy: whether a sample is (N) bool.
        sizes: easy samples per class (K) int64.
        starving: classes with fewer samples above the threshold than their least share (K) bool.
        quota: n_e, most easy samples of a class but for its least share.
    """

    easy: Tensor = field(repr=False)
    sizes: Tensor
    starving: Tensor
    quota: int


def easy_set(
    clean: Tensor,
    losses: Tensor,
    labels: Tensor,
    num_classes: int,
    threshold: float = 0.5,
    quantile: float = 0.5,
    least: float = 0.5,
) -> EasySet:
    """Choose the lowest losses of every class, with a common quota.

    Anchor hallucination (arXiv 2407.07331): easy samples are those of low loss, class-balanced.
    With c_k the number of samples of given class k above the threshold:

    1. *Quota*: n_e is the `quantile` of the c_k over the classes that occur. A class gives its
       min(c_k, n_e) lowest losses.
    2. *Least share*: a class gives at least `least` of the mean share of trusted labels of its
       own size, and at least one sample, whatever the threshold says. The share is of its own
       samples: a rare class is not asked for what it does not have, a class whose labels are
       hardly trusted is not lost, and where classes are of very unequal size a frequent one
       gives more than n_e: it keeps half of what it would give without a quota.

    Of equal losses the earlier row wins; NaN counts as the largest.

    Args:
        clean: P(given label is right) (N).
        losses: loss per sample (N).
        labels: given labels (N) int64 in [0, K).
        num_classes: K.
        threshold: a sample is trusted above it.
        quantile: of the per-class counts; 1 for no upper bound.
        least: least share of a class, relative to the mean; 0 leaves it at one sample.
    """
    size = torch.bincount(labels, minlength=num_classes)
    trusted = clean.nan_to_num(nan=0.0) > threshold
    counts = torch.bincount(labels[trusted], minlength=num_classes)
    there = size > 0
    quota = max(1, round(float(torch.quantile(counts[there].double(), quantile))))
    share = trusted.double().mean()
    floor = torch.ceil(least * share * size - 1e-9).long().clamp_min(1).minimum(size)
    wanted = counts.clamp_max(quota).maximum(floor)
    # Trusted samples come first, then by loss: the mixture may read a mean of several losses.
    key = losses.nan_to_num(nan=torch.inf).argsort(stable=True)
    key = key[(~trusted[key]).long().argsort(stable=True)]
    by_class = key[labels[key].argsort(stable=True)]
    label = labels[by_class]
    place = torch.arange(len(labels), device=labels.device) - (size.cumsum(0) - size)[label]
    easy = torch.zeros_like(trusted).scatter_(0, by_class, place < wanted[label])
    return EasySet(easy, wanted.where(there, 0), (counts < floor) & there, quota)
