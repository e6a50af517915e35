"""The dual-T estimator: through the predicted class, which can be counted, to the given label."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from labelwise.estimation.anchors import anchor_rows
from labelwise.estimation.estimator import (
    Estimator,
    Evidence,
    given_marginal,
    row_normalised,
    weighted_counts,
    with_prior,
)

SHARPNESS = 10
"""Two classes whose probabilities differ by a factor of 1.6 are told apart with 99 %."""


class DualT(Estimator):
    """Dual-T estimator (Yao et al., arXiv 2006.07805, eqs. 3-5).

    An intermediate class y' stands between the true class and the given label:
    `T = T♠ T♣`, where `T♠ (i, l) = P(y' = l | true = i)` comes from anchor points and
    `T♣ (l, j) = P(given = j | y' = l)` from counting given labels among the samples predicted l.

    The counts need no calibration, so only the (smaller) step to the predicted class suffers from
    it. It assumes that predicted classes are nearly always the true ones: each one that is not
    counts as a wrong label (too much noise from a weak model), and each wrong label that the model
    has learnt by heart as a right one.

    Differences from the paper:
        1. The posterior of y' is the model's, raised to the power `SHARPNESS` and normalised. The
           paper takes it as it is although the counts use the most probable class; of a
           calibrated model, whose anchors show the noise itself, the product would then hold the
           noise twice.
        2. Anchors are found as in `anchors`.
    """

    name: ClassVar[str] = "dual"
    citation: ClassVar[str] = (
        "Yao et al. Dual T: Reducing Estimation Error for Transition Matrix in Label-noise "
        "Learning. NeurIPS 2020. arXiv 2006.07805"
    )

    def joint(self, evidence: Evidence, weights: Tensor | None = None) -> Tensor:
        """Joint (K, K) of the composed transition matrix."""
        data = evidence.probabilities
        size = data.num_classes
        counts = weighted_counts(data.predicted * size + data.labels, weights, size * size)
        second = row_normalised(counts.reshape(size, size))
        first = row_normalised(anchor_rows(data, weights) ** SHARPNESS)
        return with_prior(first @ second, given_marginal(evidence, weights))
