"""One answer out of several estimates, with an interval that includes their disagreement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from labelwise.data.neighbours import nearest_neighbours
from labelwise.errors import UserError
from labelwise.estimation.bootstrap import LEVEL, with_intervals
from labelwise.estimation.consensus import NUM_NEIGHBOURS, rows_used
from labelwise.estimation.estimator import Estimate, Evidence, find_estimator
from labelwise.estimation.probabilities import TopProbabilities

LEADERS = ("consensus", "confident_joint", "dual", "anchors")
"""By their error on digits with planted noise (`docs/estimation.md`), smallest first."""
TOO_FAR = 0.10
"""Disagreement, as a difference of rates, above which the answer is "cannot tell"."""


@dataclass(frozen=True)
class Combined:
    """The answer.

    Args:
        estimate: of the leading estimator, with the interval of the rate widened.
        estimates: what every estimator said, the leader first.
        disagreement: median distance of the other rates from the leader's (0 without others).
        reason: None, or in plain words why the rate cannot be told.
    """

    estimate: Estimate
    estimates: tuple[Estimate, ...] = field(repr=False)
    disagreement: float
    reason: str | None

    @property
    def noise_rate(self) -> float:
        """The estimated fraction of wrong labels."""
        return self.estimate.noise_rate


def combine(estimates: Sequence[Estimate]) -> Combined:
    """Take the best-placed estimate and widen its interval by how far the others are from it.

    With z s the half-width of the leader's bootstrap interval and d the median distance of the
    other estimates, the half-width becomes `sqrt((z s)² + d²)`: never narrower than either. The
    first term is what another sample would change, the second what another set of assumptions
    would; neither sees an error that all estimators share (a class that the model never tells
    from another).

    The rate is the leader's and no average: where the assumptions of most estimators fail together
    (all that read probabilities, when a class has more wrong labels of one kind than right ones),
    an average would follow them.

    Args:
        estimates: of different estimators on the same samples, with intervals.

    Raises:
        UserError: there is none, or one has no interval.
    """
    if not estimates:
        raise UserError("there is no estimate to combine: give at least one.")
    ranked = sorted(estimates, key=lambda each: _place(each.name))
    leader = ranked[0]
    if leader.low is None or leader.high is None:
        raise UserError(f"the estimate of {leader.name!r} has no interval: use `with_intervals`.")
    rate, others = leader.noise_rate, [each.noise_rate for each in ranked[1:]]
    gap = statistics.median(abs(other - rate) for other in others) if others else 0.0
    # Ends that were cut off at 0 or 1 are mended from the other one.
    own = max(rate - leader.low, leader.high - rate)
    half = (own**2 + gap**2) ** 0.5
    widened = replace(leader, low=max(0.0, rate - half), high=min(1.0, rate + half))
    return Combined(widened, tuple(ranked), gap, _reason(ranked, gap))


def estimate_noise(
    probabilities: TopProbabilities,
    features: Tensor | None = None,
    *,
    neighbours: Tensor | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int | None = None,
    level: float = LEVEL,
) -> Combined:
    """Estimate the label noise of a data set with every estimator that can run, and combine.

    Args:
        probabilities: class probabilities and given labels.
        features: feature vectors (N, D) to find neighbours in; without them and without
            `neighbours`, `consensus` is left out.
        neighbours: row numbers (N, k >= 2) of nearest others, where they are known already.
        names: estimators; None takes all.
        seed: seed of the resampling.
        resamples: bootstrap resamples; None chooses by N.
        level: coverage that intervals aim at.

    Raises:
        UserError: unknown names, no estimator that can run, or values that cannot be used.
    """
    if neighbours is None and features is not None:
        neighbours = _neighbours(features, probabilities)
    evidence = Evidence(probabilities, neighbours)
    chosen = [find_estimator(name)() for name in (LEADERS if names is None else names)]
    runnable = []
    for estimator in chosen:
        try:
            estimator.check(evidence)
        except UserError:
            if names is not None:
                raise
            continue
        runnable.append(estimator)
    return combine(
        [
            with_intervals(each, evidence, seed=seed, resamples=resamples, level=level)
            for each in runnable
        ]
    )


def _place(name: str) -> tuple[int, str]:
    """Rank of an estimator; one that is not in the list comes last."""
    return (LEADERS.index(name) if name in LEADERS else len(LEADERS), name)


def _reason(ranked: Sequence[Estimate], gap: float) -> str | None:
    """Why the rate cannot be told, or None."""
    if gap <= TOO_FAR:
        return None
    said = ", ".join(f"{each.name} {100 * each.noise_rate:.0f} %" for each in ranked)
    causes = {
        True: "many wrong labels may be alike among similar samples, the model may have learnt "
        "wrong labels by heart or be too weak, or similar samples may be of different classes",
        False: "the probabilities may be of a weak model, or of one that has learnt wrong labels "
        "by heart; give features too",
    }[ranked[0].name == "consensus"]
    return (
        f"cannot tell: the estimators differ by {100 * gap:.0f} points ({said}); {causes}. "
        "Check some samples by hand."
    )


def _neighbours(features: Tensor, probabilities: TopProbabilities) -> Tensor:
    """Neighbours (N, k) of the rows that `consensus` looks at; those of the others stay 0."""
    _check_features(features, len(probabilities))
    rows = rows_used(len(probabilities), probabilities.num_classes)
    found, _ = nearest_neighbours(features, NUM_NEIGHBOURS, queries=rows.to(features.device))
    neighbours = torch.zeros((len(features), found.shape[1]), dtype=torch.int64)
    neighbours[rows] = found.cpu()
    return neighbours


def _check_features(features: Tensor, size: int) -> None:
    """Raise a `UserError` for features of the wrong shape or with values that are not finite."""
    if features.ndim != 2 or len(features) != size:
        raise UserError(
            f"features have shape {tuple(features.shape)}; give one row for each of the {size} "
            "samples"
        )
    bad = (~features.isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"row {int(bad[0])} of the features has a value that is not finite; give numbers only"
        )
