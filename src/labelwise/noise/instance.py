"""Instance-dependent noise: similar inputs of a class get the same wrong label."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from labelwise.data.dataset import Dataset
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess

RATE_SPREAD = 0.1
"""Standard deviation of a sample's flip probability before truncation to [0, 1]."""
LARGEST_SIDE = 32
"""Images with a longer side (pixels) are average-pooled to it before the projection."""
BLOCK_VALUES = 1 << 22
"""Input values converted to float64 at once (32 MiB)."""


class Instance(NoiseProcess):
    """Noise that depends on the input (Xia et al., arXiv 2006.07836, Algorithm 2).

    Sample i, with input x and true class y:

    1. flip probability `q_i` ~ normal(`rate`, 0.1^2) truncated to [0, 1];
    2. logits `x W_y` with one projection `W_c` (S, K) ~ N(0, 1) **per true class** c, the logit of
       y itself set to minus infinity;
    3. given label ~ `q_i softmax(logits)`, with `1 - q_i` on the true class.

    Truncation moves the mean of `q_i`: the realised rate is 0.129 at rate 0.1 and 0.206 at 0.2.

    Differences from the paper:
        1. Each image is standardised over its own values (zero mean, unit variance), not with the
           statistics of the data set, so that a sample's noise depends on that sample alone.
           Embeddings are scaled to norm `sqrt(D)`. A constant image has equal logits.
        2. Images are average-pooled to at most 32 x 32 pixels first (memory of `W`).
        3. Rate 0 changes nothing (truncation would leave 8 % wrong labels).
        4. Whether a label flips and to which class are two draws: the same distribution.
    """

    name: ClassVar[str] = "instance"
    citation: ClassVar[str] = (
        "Xia et al. Part-dependent Label Noise. NeurIPS 2020. arXiv 2006.07836"
    )
    convention: ClassVar[str] = "mean of a sample's flip probability before truncation to [0, 1]"
    needs_inputs: ClassVar[bool] = True

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor | None:
        """None: it depends on the inputs (the identity at rate 0)."""
        return torch.eye(num_classes, dtype=torch.float64) if self.rate == 0.0 else None

    def projection(self, draws: Draws, label: int, size: int, num_classes: int) -> Tensor:
        """Projection (S, K) float64 of inputs whose true class is `label`."""
        return draws.normal("projection", label, size, num_classes)

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N). Only flipped samples are projected, a block of rows at a time."""
        given = data.labels.clone()
        if self.rate == 0.0:
            return given
        flipped = draws.uniform("flip") < flip_probability(draws.uniform("rate"), self.rate)
        choice = draws.uniform("class")
        # Rows are walked in the order of their ids: the shapes and places of matrix products, and
        # with them the last bits of the logits, are then the same for every order of the rows.
        walk = torch.from_numpy(np.argsort(draws.words, kind="stable"))
        walk = walk[flipped[walk]]
        sizes = torch.bincount(data.labels[walk], minlength=data.num_classes).tolist()
        by_class = torch.split(walk[data.labels[walk].argsort(stable=True)], sizes)
        block = max(1, BLOCK_VALUES // max(1, data.inputs[0].numel()))
        for label, rows in enumerate(by_class):
            if len(rows) == 0:
                continue
            size = standardised(data.inputs[rows[:1]]).shape[1]
            projection = self.projection(draws, label, size, data.num_classes)
            for part in torch.split(rows, block):
                logits = standardised(data.inputs[part]) @ projection
                given[part] = pick(logits, label, choice[part])
        return given


def flip_probability(uniform: Tensor, rate: float) -> Tensor:
    """Truncated normal (N) on [0, 1] around `rate`, by inverting its distribution function."""
    ends = torch.tensor([-rate, 1.0 - rate], dtype=torch.float64) / RATE_SPREAD
    below, up_to = torch.special.ndtr(ends)
    quantile: Tensor = torch.special.ndtri(below + uniform * (up_to - below))
    return (rate + RATE_SPREAD * quantile).clamp(0.0, 1.0)


def standardised(inputs: Tensor) -> Tensor:
    """Flattened inputs (B, S) float64, each standardised by its own values (see `Instance`)."""
    if inputs.ndim == 2:
        rows = inputs.double()
        norm = rows.norm(dim=1, keepdim=True)
        scale = rows.shape[1] ** 0.5 / norm
        return rows * torch.where(norm > 0, scale, 0.0)
    images = inputs.double()
    height, width = (min(side, LARGEST_SIDE) for side in images.shape[-2:])
    if (height, width) != tuple(images.shape[-2:]):
        images = adaptive_avg_pool2d(images, (height, width))
    rows = images.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    spread = rows.square().mean(1, keepdim=True).sqrt()
    return rows * torch.where(spread > 0, 1.0 / spread, 0.0)


def pick(logits: Tensor, own: int, uniform: Tensor) -> Tensor:
    """Draw a class (B) from softmax(logits) (B, K) with class `own` ruled out."""
    logits[:, own] = -torch.inf
    cumulated = logits.softmax(1).cumsum(1)
    level = uniform[:, None] * cumulated[:, -1:]
    passed: Tensor = cumulated <= level
    return passed.sum(1).clamp_max(logits.shape[1] - 1)
