"""Confusable class pairs: between which classes the wrong labels lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from labelwise.estimation.bootstrap import LEVEL, normal_quantile
from labelwise.estimation.estimator import Estimate


@dataclass(frozen=True)
class Pair:
    """Samples of one class that were given the label of another.

    Args:
        true: the class they belong to.
        given: the label they were given.
        count: expected number of such samples.
        low: lower end of its interval.
        high: upper end.
        rate: P(given | true), how often a sample of the class gets this label.
        symmetry: 0 where all confusion goes this way to 1 where as much goes back:
            min / max of the expected numbers in both directions.
        confusion: wrong labels between the two classes, both directions, as a fraction of all
            samples of the two.
    """

    true: int
    given: int
    count: float
    low: float
    high: float
    rate: float
    symmetry: float
    confusion: float


def confusable_pairs(
    estimate: Estimate, num_samples: int, limit: int = 20, level: float = LEVEL
) -> list[Pair]:
    """Pairs (true class, given label) by the expected number of wrong labels, most first.

    The interval of a count is that of the transition matrix where it was resampled, and never
    narrower than that of a Poisson number with this mean, `count ± z sqrt(count)`.

    Args:
        estimate: of any estimator; its joint may be sparse.
        num_samples: N.
        limit: how many pairs at most; pairs with less than half a sample expected are left out.
        level: coverage of the interval.
    """
    joint = estimate.joint
    if joint.is_sparse:
        joint = joint.coalesce()
        places, mass = joint.indices(), joint.values()
        wrong = places[0] != places[1]
        places, mass = places[:, wrong], mass[wrong]
        top = mass.topk(min(limit, len(mass))).indices
        chosen = places[:, top].T.tolist()
    else:
        off = joint.clone().fill_diagonal_(0)
        top = off.flatten().topk(min(limit, off.numel())).indices
        chosen = [[int(place) // len(off), int(place) % len(off)] for place in top]
    pairs = [_pair(estimate, place, num_samples, level) for place in chosen]
    return [pair for pair in pairs if pair.true != pair.given and pair.count >= 0.5]


def _pair(estimate: Estimate, place: Sequence[int], num_samples: int, level: float) -> Pair:
    """The facts of one cell of the joint."""
    true, given = place
    joint, prior = estimate.joint, estimate.prior
    mass, back = float(joint[true, given]), float(joint[given, true])
    count, members = mass * num_samples, float(prior[true])
    half = normal_quantile(level) * count**0.5
    low, high = count - half, count + half
    if estimate.transition_low is not None and estimate.transition_high is not None:
        scale = members * num_samples
        low = min(low, float(estimate.transition_low[true, given]) * scale)
        high = max(high, float(estimate.transition_high[true, given]) * scale)
    both = members + float(prior[given])
    return Pair(
        true=true,
        given=given,
        count=count,
        low=max(0.0, low),
        high=min(float(num_samples), high),
        rate=mass / members if members > 0 else 0.0,
        symmetry=min(mass, back) / max(mass, back, torch.finfo(torch.float64).tiny),
        confusion=(mass + back) / both if both > 0 else 0.0,
    )
