"""The classifiers whose confusions are semantic noise: trained on parts, judging the rest."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

SHARE = 0.2
"""Share of each class in either part."""
LEAST = 20
"""Samples of each class in either part, as far as half of the class goes."""
MOST = 10_000
"""Samples in a part of large data (but `LEAST` of each class)."""
LARGEST_SIDE = 16
"""Images with a longer side (pixels) are average-pooled to it."""
HIDDEN = 128
BATCH = 64
STEPS = 2_000
MOST_EPOCHS = 60
BLOCK_VALUES = 1 << 24
"""Input values converted to float32 at once (64 MiB)."""


def parts(labels: Tensor, level: Tensor, num_classes: int) -> Tensor:
    """Which part (N) int64 each sample is trained on: 0, 1, or -1 for neither.

    Args:
        labels: true labels (N).
        level: a uniform number per sample (N) that orders the samples of a class.
        num_classes: K.
    """
    part = torch.full((len(labels),), -1)
    for label in range(num_classes):
        rows = (labels == label).nonzero().flatten()
        rows = rows[level[rows].argsort(stable=True)]
        wanted = min(SHARE * len(rows), MOST * len(rows) / len(labels))
        size = min(max(math.ceil(wanted), LEAST), len(rows) // 2)
        part[rows[:size]], part[rows[size : 2 * size]] = 0, 1
    return part


class Judge:
    """A perceptron with one hidden layer (scikit-learn's), trained with Adam.

    Args:
        features: inputs (n, S) float32 of the training part.
        labels: their true labels (n), of at least two classes.
        seed: of the initial weights and the order of the samples.
    """

    def __init__(self, features: np.ndarray, labels: Tensor, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self.mean = features.mean(0, dtype=np.float64).astype(np.float32)
        spread = features.std(0, dtype=np.float64)
        self.scale = np.where(spread > 0, 1 / np.maximum(spread, 1e-12), 0).astype(np.float32)
        inputs, target = self._standardised(features), labels.numpy()
        self.classes = torch.from_numpy(np.unique(target))
        batch = min(BATCH, len(inputs))
        self.network = MLPClassifier(
            (HIDDEN,), alpha=1e-2, batch_size=batch, random_state=seed % 2**32
        )
        epochs = min(MOST_EPOCHS, math.ceil(STEPS * batch / len(inputs)))
        for _ in range(epochs):
            self.network.partial_fit(inputs, target, classes=self.classes.numpy())

    def logits(self, features: np.ndarray, num_classes: int) -> Tensor:
        """Unnormalised log probabilities (B, K) float64; -inf for classes that were not seen."""
        first, last = self.network.coefs_
        hidden = np.maximum(self._standardised(features) @ first + self.network.intercepts_[0], 0)
        found = torch.from_numpy((hidden @ last + self.network.intercepts_[1]).astype(np.float64))
        if found.shape[1] == 1:  # two classes: the log odds of the second
            found = torch.cat([torch.zeros_like(found), found], dim=1)
        logits = torch.full((len(found), num_classes), -torch.inf, dtype=torch.float64)
        logits[:, self.classes] = found
        return logits

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        standardised: np.ndarray = (features - self.mean) * self.scale
        return standardised


def pooled(inputs: Tensor, rows: Tensor) -> np.ndarray:
    """Features (B, S) float32 of the samples at `rows`: pooled pixels, or the embedding."""
    if inputs.ndim == 2:
        return inputs[rows].numpy()
    height, width = (min(side, LARGEST_SIDE) for side in inputs.shape[-2:])
    block = max(1, BLOCK_VALUES // max(1, inputs[0].numel()))
    found = []
    for part in torch.split(rows, block):
        images = inputs[part].float()
        if (height, width) != tuple(images.shape[-2:]):
            images = adaptive_avg_pool2d(images, (height, width))
        found.append(images.flatten(1) / 255)
    return torch.cat(found).numpy()
