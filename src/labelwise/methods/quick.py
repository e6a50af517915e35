"""One short plain training, only to audit the labels."""

from __future__ import annotations

import math
from typing import ClassVar

from labelwise.config import Schedule
from labelwise.methods.ce import CrossEntropy
from labelwise.training.method import Problem

ITERATIONS = 450
"""Steps that a small data set gets: 20 epochs of digits."""
EPOCHS = 15
"""Epochs up to `PLENTY` samples; fewer, down to `FEWEST`, above."""
PLENTY, FEWEST, MOST = 50_000, 6, 60


class Quick(CrossEntropy):
    """Cross-entropy for a few epochs: long enough to learn the classes, too short for wrong labels.

    What a network learns first is right (Arpit et al., arXiv 1706.05394), so the predictions of a
    short training, taken while it trains and averaged, say more about the labels than those of
    its end; see `labelwise.training.trace`. `labelwise audit --quick` and `labelwise diagnose`
    train this way. For a model to use, take another method.
    """

    name = "quick"
    summary = "one short plain training, to audit labels and not to use the model"
    paper_numbers: ClassVar = {}

    def default_schedule(self, problem: Problem) -> Schedule:
        """A few hundred steps for small data, 15 passes for larger, fewer for very large."""
        usual = Schedule.scaled(problem.num_samples, problem.kind, iterations=1500)
        steps = math.ceil(problem.num_samples / usual.batch_size)
        passes = EPOCHS * min(1.0, (PLENTY / problem.num_samples) ** 0.25)
        epochs = round(min(MOST, max(FEWEST, passes, ITERATIONS / steps)))
        return usual.override({"epochs": epochs}).with_warmup(problem.num_samples)
