"""Semantic noise: hard samples get the label of the class they resemble."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.confusions import Judge, parts, pooled
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess

BLOCK_ROWS = 4096
"""Samples judged at once."""


class Semantic(NoiseProcess):
    """Labels confused by a classifier that was trained on part of the data.

    The semantic noise of RoG (Lee et al., arXiv 1901.11300, section 4): a classifier is trained on
    a part of the data with true labels and its wrong predictions become the given labels, so that
    the samples that are hard get the label of what they look like.

    1. Two disjoint parts of every class are chosen by the samples' ids, 20 % each, and a
       classifier (a perceptron with one hidden layer, on images pooled to 16 x 16) is trained on
       either. A sample is judged by the first, or by the second if the first was trained on it.
    2. Samples are ranked by how far the best wrong class lies above the true one in log
       probability, and the first `round(rate N)` get that class as their label.

    The number of wrong labels is exact. Labels wrong at a lower rate are wrong at a higher rate
    too. Samples of a class that the judge has not seen (classes of one sample) come last.

    Differences from the paper:
        1. The rate is chosen; in the paper it is the classifier's error rate (32 to 38 % on
           CIFAR-10 with three kinds of network). Above the error rate of the classifier here,
           samples that it barely gets right are flipped too.
        2. A small perceptron takes the place of DenseNet, ResNet and VGG: it confuses what looks
           alike in shape and colour, and makes more mistakes.
        3. No sample is judged by a classifier that has seen it.
    """

    name: ClassVar[str] = "semantic"
    citation: ClassVar[str] = (
        "Lee et al. Robust Inference via Generative Classifiers for Handling Noisy Labels. "
        "ICML 2019. arXiv 1901.11300"
    )
    convention: ClassVar[str] = "exact fraction of wrong labels"
    needs_inputs: ClassVar[bool] = True

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor | None:
        """None: it depends on the inputs (the identity at rate 0)."""
        return torch.eye(num_classes, dtype=torch.float64) if self.rate == 0.0 else None

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N)."""
        count = round(self.rate * len(data))
        if count == 0:
            return data.labels.clone()
        margin, best = confusions(data, draws)
        able = int((margin > -torch.inf).sum())
        if able < count:
            raise UserError(
                f"semantic noise can change {able:,} of the {len(data):,} labels of {data.name!r}, "
                f"fewer than rate {self.rate:g} asks for: its classes have too few samples to "
                "train a classifier on two parts of them."
            )
        # Equal margins are ordered by a draw of their own, so that no row order decides.
        order = np.lexsort((draws.uniform("tie").numpy(), -margin.numpy()))
        flipped = torch.from_numpy(order[:count].copy())
        given = data.labels.clone()
        given[flipped] = best[flipped]
        return given


def confusions(data: Dataset, draws: Draws) -> tuple[Tensor, Tensor]:
    """How much every sample resembles another class, judged by a classifier that never saw it.

    Args:
        data: samples with true labels.
        draws: chooses the parts and seeds the classifiers.

    Returns:
        Log-probability margin (N) float64 of the best wrong class over the true one (minus
        infinity where the judge knows no such sample), and that class (N) int64.
    """
    # Samples are handled in the order of their ids: the same arithmetic for every order of rows.
    walk = torch.from_numpy(np.argsort(draws.words, kind="stable"))
    labels = data.labels[walk]
    part = parts(labels, draws.uniform("part")[walk], data.num_classes)
    margin = torch.full((len(data),), -torch.inf, dtype=torch.float64)
    best = data.labels.clone()
    for number in (0, 1):
        own = part == number
        if int((torch.bincount(labels[own]) > 0).sum()) < 2:
            continue
        judge = Judge(pooled(data.inputs, walk[own]), labels[own], draws.seed_of("judge", number))
        judged = walk[~own] if number == 0 else walk[part == 0]
        for rows in torch.split(judged, BLOCK_ROWS):
            logits = judge.logits(pooled(data.inputs, rows), data.num_classes)
            true = data.labels[rows][:, None]
            known = logits.gather(1, true).squeeze(1)
            top = logits.scatter(1, true, -torch.inf).max(1)
            margin[rows] = torch.where(known > -torch.inf, top.values - known, -torch.inf)
            best[rows] = top.indices
    return margin, best
