"""Confusions for Bayes' rule where neighbours are refused."""

from __future__ import annotations

import pytest
import torch

from labelwise.audit.posterior import best_other, qualities
from labelwise.audit.weighing import confusions
from labelwise.estimation.estimator import Estimate
from labelwise.estimation.probabilities import TopProbabilities


def diagonal(rate: float, size: int) -> Estimate:
    """An estimate of the confident joint with an even error of `rate`."""
    joint = torch.full((size, size), rate / size / (size - 1), dtype=torch.float64)
    return Estimate.from_joint("confident_joint", joint.fill_diagonal_((1 - rate) / size))


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7, 0.99])
def test_confusions_are_a_transition_matrix_in_which_labels_mean_something(
    size: int, rate: float
) -> None:
    table = confusions(diagonal(rate, size), torch.zeros(200, dtype=torch.int64))
    torch.testing.assert_close(table.sum(1), torch.ones(size))
    off = table[~torch.eye(size, dtype=torch.bool)]
    assert (off > 0).all(), "no label is beyond doubt"
    assert table.diagonal().min() > off.max(), "a label speaks for its own class"


def test_a_clearly_wrong_label_is_doubted_though_no_noise_was_estimated() -> None:
    labels = torch.arange(200) % 4
    probabilities = torch.full((200, 4), 0.001)
    probabilities[torch.arange(200), labels] = 0.997
    probabilities[7] = torch.tensor([0.001, 0.997, 0.001, 0.001])
    assert labels[7] != 1
    top = TopProbabilities.of(probabilities, labels)
    matrix = confusions(diagonal(0.0, 4), labels)
    quality, _ = qualities(top, matrix, 0.5)
    other, chance = best_other(top, matrix, 0.5)
    assert quality[7] < 0.5
    assert quality.argmin() == 7
    assert other[7] == 1
    assert chance[7] > 0.5
