"""Anchor points: what a model says about the sample it is surest of, class by class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.estimation.estimator import Estimator, Evidence, given_marginal, with_prior
from labelwise.estimation.probabilities import TopProbabilities

QUANTILE = 0.97
"""Of a class's probabilities: its anchor. The largest may be an outlier (Patrini, section 4)."""


class Anchors(Estimator):
    """Transition matrix from anchor points (Patrini et al., arXiv 1609.03683, eqs. 12-13).

    The anchor of class i is the sample at the 97th percentile of `p_i(x)`, and row i of T is its
    probabilities `p(given | anchor)`. The prior of the true classes is the most likely one for
    the shares of the given labels.

    It assumes that some samples of every class certainly belong to it and that the probabilities
    are those of the *given* label, calibrated: an over-confident model gives too little noise, an
    under-fitted one too much.

    Differences from the paper:
        1. The percentile is taken over the samples that the model predicts to be i, so that it
           means the same with many classes as with few; with 100 classes the 97th percentile
           over all samples lies outside class i.
        2. Resampling weights shift the percentile (a weighted quantile).
        3. A class that is never predicted takes the sample with its largest probability; one that
           is never given is left without noise, and so without samples.
        4. Probabilities that were dropped are spread evenly over the dropped classes.
    """

    name: ClassVar[str] = "anchors"
    citation: ClassVar[str] = (
        "Patrini et al. Making Deep Neural Networks Robust to Label Noise: a Loss Correction "
        "Approach. CVPR 2017. arXiv 1609.03683"
    )

    def joint(self, evidence: Evidence, weights: Tensor | None = None) -> Tensor:
        """Joint (K, K) of the anchors' transition matrix."""
        transition = anchor_rows(evidence.probabilities, weights)
        return with_prior(transition, given_marginal(evidence, weights))


def anchor_rows(data: TopProbabilities, weights: Tensor | None = None) -> Tensor:
    """Probabilities (K, K) float64 of the anchor of every class, rows summing to 1."""
    anchors = anchor_points(data, weights)
    rows = data.dense(anchors).double()
    absent = torch.bincount(data.labels, minlength=data.num_classes) == 0
    rows[absent] = torch.eye(data.num_classes, dtype=torch.float64)[absent]
    missing = (1 - rows.sum(1, keepdim=True)).clamp_min(0)
    dropped = rows == 0
    rows += dropped * missing / dropped.sum(1, keepdim=True).clamp_min(1)
    return rows / rows.sum(1, keepdim=True)


def anchor_points(data: TopProbabilities, weights: Tensor | None = None) -> Tensor:
    """Row number (K) int64 of every class's anchor."""
    weight = torch.ones(len(data)) if weights is None else weights
    top, predicted = data.values[:, 0], data.predicted
    order = top.argsort(stable=True)
    order = order[predicted[order].argsort(stable=True)]  # by class, then by probability
    order = order[weight[order] > 0]
    sizes = torch.bincount(predicted[order], minlength=data.num_classes)
    anchors = torch.zeros(data.num_classes, dtype=torch.int64)
    for number, rows in enumerate(torch.split(order, sizes.tolist())):
        if len(rows) == 0:
            anchors[number] = _surest(data, number)
            continue
        passed = weight[rows].double().cumsum(0)
        place = torch.searchsorted(passed, QUANTILE * passed[-1])
        anchors[number] = rows[place.clamp_max(len(rows) - 1)]
    return anchors


def _surest(data: TopProbabilities, number: int) -> int:
    """The sample with the largest probability of a class."""
    wanted = torch.full_like(data.labels, number)
    return int(data.probability_of(wanted).argmax())
