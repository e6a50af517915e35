"""Neighbour consensus: what the labels of a sample and its nearest neighbours have in common."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from labelwise.errors import UserError
from labelwise.estimation.estimator import Estimator, Evidence, row_normalised

NUM_NEIGHBOURS = 10
"""Neighbours looked at. Two identify the model; ten make it sure of a sample's class."""
CLASS_SHARE = 4
"""At most a quarter of an average class are looked at: neighbours beyond it are of others."""
ITERATIONS = 300
"""Most steps of expectation-maximisation."""
RESAMPLED_ITERATIONS = 30
"""Steps for a resample, which starts from the solution of the whole."""
TOLERANCE = 1e-5
"""It stops when no entry of the transition matrix moves by more."""
START_DIAGONAL = 0.6
"""Diagonal of the first transition matrix: a label is more often right than any other."""
MAX_ROWS = 50_000
"""Samples looked at (standard error of the rate: 0.2 points); evenly spaced ones stand for more."""
MAX_CELLS = 4_000_000
"""The same for samples times classes (32 MB of float64)."""
MAX_CLUSTERED_CLASSES = 50
"""Above it the second start, k-means with K centres, takes longer than everything else."""
PSEUDO_COUNT = 1e-9


@dataclass(frozen=True)
class Model:
    """A latent class model: `prior` (..., K) and `transition` (..., K, K), true -> given."""

    prior: Tensor
    transition: Tensor


class Consensus(Estimator):
    """Clusterability of labels (Zhu et al., arXiv 2102.05291, "HOC", section 3).

    If a sample and its nearest neighbours have one true class and their labels were corrupted
    independently, the probability of their given labels is `P(a, b, c) = Σ_i p_i T_ia T_ib T_ic`
    (the third-order consensus pattern; its sums are the first and second). Two neighbours identify
    T and p where T is invertible. The joint is the mean of `P(true = i | labels of the sample and
    its neighbours)` over the samples given j.

    It assumes that neighbours in feature space share the true class (else it gives too much
    noise) and that neighbours do not share their wrong label (else too little: features of a
    network that has learnt its labels by heart, near-duplicates).

    Differences from the paper:
        1. T and p maximise the likelihood by expectation-maximisation (a latent class model with
           exchangeable views) instead of gradient descent on squared differences of the patterns:
           no learning rate, and the simplex is kept.
        2. Ten neighbours instead of two, fewer in small classes.
        3. True classes are named after the labels by the assignment with the most right labels;
           the paper's diagonal start lets a class go astray whose labels are mostly another's
           (instance-dependent noise). For the same reason there is a second start, from k-means on
           the neighbours' label counts; the more likely of both solutions is kept.
        4. The joint uses the posterior of each sample, not `p_i T_ij`: where neighbours are
           of another class, only T suffers.
        5. Up to 50,000 samples are used once instead of many rounds of sub-samples.

    Args:
        num_neighbours: neighbours looked at, at most; 2 is the paper's.

    Raises:
        UserError: fewer than two neighbours.
    """

    name: ClassVar[str] = "consensus"
    citation: ClassVar[str] = (
        "Zhu et al. Clusterability as an Alternative to Anchor Points When Learning with Noisy "
        "Labels. ICML 2021. arXiv 2102.05291"
    )
    needs_neighbours: ClassVar[bool] = True

    def __init__(self, num_neighbours: int = NUM_NEIGHBOURS) -> None:
        if num_neighbours < 2:
            raise UserError(f"consensus needs at least 2 neighbours, not {num_neighbours}.")
        self.num_neighbours = num_neighbours

    def check(self, evidence: Evidence) -> None:
        """Refuse fewer than two neighbours too."""
        super().check(evidence)
        assert evidence.neighbours is not None
        if evidence.neighbours.shape[1] < 2:
            raise UserError("consensus needs the two nearest neighbours of every sample, not one.")

    def joint(self, evidence: Evidence, weights: Tensor | None = None) -> Tensor:
        """Joint (K, K) of the more likely of two solutions."""
        rows, views = self._views(evidence)
        return self._solve(evidence, rows, views, weights)[1]

    def joints(self, evidence: Evidence, weights: Tensor) -> Tensor:
        """All weightings (R, K, K), each started from the solution of the unweighted samples."""
        rows, views = self._views(evidence)
        model, _, order = self._solve(evidence, rows, views, None)
        labels = evidence.probabilities.labels[rows]
        found = []
        for weight in weights[:, rows].double():
            weight = weight / weight.sum()
            _, share, _ = maximise(model, views, weight, RESAMPLED_ITERATIONS)
            found.append(_joint(share * weight[:, None], labels)[order])
        return torch.stack(found)

    def _views(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Rows used (n) and how often each label is given among a row and its neighbours (n, K)."""
        data, neighbours = evidence.probabilities, evidence.neighbours
        assert neighbours is not None
        size = data.num_classes
        rows = rows_used(len(data), size)
        count = max(2, min(self.num_neighbours, len(data) // (CLASS_SHARE * size)))
        views = F.one_hot(data.labels[rows], size).double()
        for column in neighbours[rows, :count].T:
            views.scatter_add_(1, data.labels[column, None], torch.ones(len(rows), 1).double())
        return rows, views

    def _solve(
        self, evidence: Evidence, rows: Tensor, views: Tensor, weights: Tensor | None
    ) -> tuple[Model, Tensor, Tensor]:
        """The model, its joint with true classes named, and their order (K) in the model."""
        labels = evidence.probabilities.labels[rows]
        weight = torch.ones(len(rows)).double() if weights is None else weights[rows].double()
        weight = weight / weight.sum()
        starts = [diagonal_start(views, weight)]
        if (clustered := clustered_start(views, labels)) is not None:
            starts.append(clustered)
        solved = [maximise(start, views, weight, ITERATIONS) for start in starts]
        model, share, _ = max(solved, key=lambda solution: solution[2])
        joint = _joint(share * weight[:, None], labels)
        order = named(joint)
        return model, joint[order], order


def rows_used(num_samples: int, num_classes: int) -> Tensor:
    """Row numbers (n) of the samples that are looked at: only these need neighbours."""
    count = min(num_samples, MAX_ROWS, max(1, MAX_CELLS // num_classes))
    return torch.arange(count) * num_samples // count


def diagonal_start(views: Tensor, weight: Tensor) -> Model:
    """Labels mostly right, wrong ones evenly spread, classes as frequent as their labels."""
    size = views.shape[1]
    transition = torch.full((size, size), (1 - START_DIAGONAL) / (size - 1)).double()
    transition.fill_diagonal_(START_DIAGONAL)
    prior = weight @ views
    return Model(prior / prior.sum(), transition)


def clustered_start(views: Tensor, labels: Tensor) -> Model | None:
    """Classes are clusters of the neighbours' label counts; None where there are too few or many.

    Rows are put into an order of their own first, so that theirs changes nothing.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    size = views.shape[1]
    if size > MAX_CLUSTERED_CLASSES:
        return None
    counts = views.numpy()
    walk = np.lexsort((labels.numpy(), *counts.T))
    if (np.abs(np.diff(counts[walk], axis=0)).sum(1) > 0).sum() + 1 < size:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(size, n_init=4, random_state=0).fit(np.sqrt(counts[walk]))
    cluster = F.one_hot(torch.from_numpy(found.labels_).long(), size).double()
    table = cluster.T @ views[torch.from_numpy(walk)] + 1e-3
    return Model(table.sum(1) / table.sum(), row_normalised(table))


def maximise(
    model: Model, views: Tensor, weight: Tensor, iterations: int
) -> tuple[Model, Tensor, float]:
    """Expectation-maximisation of a latent class model.

    Args:
        model: where to start.
        views: how often each label was seen in a row and its neighbours (n, K).
        weight: of every row (n), summing to 1.
        iterations: most steps.

    Returns:
        The model, the posterior of the true class (n, K), and the mean log-likelihood.
    """
    prior, transition = model.prior, model.transition
    for step in range(iterations + 1):
        log = transition.clamp_min(PSEUDO_COUNT).log()
        score = views @ log.T + prior.clamp_min(PSEUDO_COUNT).log()
        total = score.logsumexp(1)
        share = (score - total[:, None]).exp()
        if step == iterations:
            break
        mass = share * weight[:, None]
        after = row_normalised(mass.T @ views)
        moved = float((after - transition).abs().max())
        prior, transition = mass.sum(0), after
        if moved < TOLERANCE:
            break
    return Model(prior, transition), share, float(weight @ total)


def named(joint: Tensor) -> Tensor:
    """Order (K) of the latent classes that makes most labels right: row i becomes class i."""
    latent, label = linear_sum_assignment(-joint.numpy())
    order = torch.empty(len(joint), dtype=torch.int64)
    order[torch.from_numpy(label)] = torch.from_numpy(latent)
    return order


def _joint(mass: Tensor, labels: Tensor) -> Tensor:
    """Mass of every (latent class, given label) (K, K)."""
    size = mass.shape[1]
    joint = torch.zeros(size, size, dtype=torch.float64)
    return joint.index_add_(0, labels, mass).T.contiguous()
