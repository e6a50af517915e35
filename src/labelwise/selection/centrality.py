"""Two signs of a right label: near the centre of its class, and agreed on by two classifiers.

TSCSI (Zhao et al., arXiv 2207.14476). Both are turned into probabilities by a two-component mixture
(`labelwise.selection.mixture`), centrality over all samples at once, agreement class by class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.losses.classification import one_hot
from labelwise.selection.mixture import Mixture

BLOCK = 16_384
"""Samples looked at at once."""


def class_centres(features: Tensor, predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Directions of the classes: the mean direction of the samples predicted as each.

    By predictions, not by given labels: where most labels of a class are wrong, the mean of the
    samples that carry it lies elsewhere. A class that is never predicted has no other centre
    than that of the samples that carry its label; one that no sample carries either has none.

    Args:
        features: (N, F).
        predicted: predicted classes (N) int64.
        labels: given labels (N) int64.
        num_classes: K.

    Returns:
        (K, F), rows of length 1, or 0 for a class without centre.
    """
    by_prediction = features.new_zeros(num_classes, features.shape[1], dtype=torch.float)
    by_label = torch.zeros_like(by_prediction)
    # By blocks, and as products: sums by index are in no fixed order on some devices.
    for start in range(0, len(features), BLOCK):
        part = slice(start, start + BLOCK)
        directions = F.normalize(features[part].float(), dim=1)
        by_prediction += one_hot(predicted[part], num_classes).T @ directions
        by_label += one_hot(labels[part], num_classes).T @ directions
    never = torch.bincount(predicted, minlength=num_classes) == 0
    return F.normalize(torch.where(never[:, None], by_label, by_prediction), dim=1)


def centre_distance(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Cosine distance of every sample from the centre of the class that its label says.

    Args:
        features: (N, F).
        labels: given labels (N) int64 in [0, K).
        centres: (K, F), rows of length 1.

    Returns:
        (N) in [0, 2].
    """
    parts = []
    for rows, given in zip(torch.split(features, BLOCK), torch.split(labels, BLOCK), strict=True):
        directions, own = F.normalize(rows.float(), dim=1), centres[given]
        # Half the squared chord is 1 - cos without the cancellation, where a mixture is fitted to
        # distances that are all small. What has no direction (length 0) counts as orthogonal.
        lengths = directions.square().sum(1).round() + own.square().sum(1).round()
        parts.append(((directions - own).square().sum(1) + 2 - lengths) / 2)
    return torch.cat(parts)


def consistency_by_class(
    discrepancy: Tensor, labels: Tensor, candidates: Tensor, num_classes: int, family: Mixture
) -> Tensor:
    """P(two classifiers agree on a sample as they do on right labels of its class).

    Some classes are harder than others, so each has a mixture of its own, fitted to its candidates
    alone. A class whose candidates are too few to fit, or all alike, is trusted
    (`labelwise.selection.mixture.Mixture.fit`).

    Args:
        discrepancy: disagreement of the classifiers (N), as the larger the worse.
        labels: given labels (N) int64 in [0, K).
        candidates: row numbers (M) int64 of the samples in question.
        num_classes: K.
        family: the mixture.

    Returns:
        (N); 0 for samples that are no candidates.
    """
    consistent = torch.zeros(len(labels), device=labels.device)
    order = candidates[labels[candidates].argsort(stable=True)]
    sizes = torch.bincount(labels[candidates], minlength=num_classes).tolist()
    for rows in torch.split(order, sizes):
        if len(rows):
            consistent[rows] = family.fit(discrepancy[rows], single_mode=False).clean
    return consistent
