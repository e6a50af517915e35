"""How good features and clusters are, for the user's eyes: nothing is selected by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from labelwise.data.dataset import NO_CLASS, Truth
from labelwise.data.neighbours import nearest_neighbours
from labelwise.data.store import Store
from labelwise.models.modes import evaluating
from labelwise.rng import Draw
from labelwise.training.ranks import Ranks

NUM_NEIGHBOURS = 20
MOST_REFERENCES = 20_000
MOST_QUERIES = 5_000


@dataclass(frozen=True)
class Representation:
    """Measures features and clusters of the training samples against the true labels.

    Where the truth is not known the given labels take its place and the figures are called
    agreement instead of accuracy.

    Args:
        store: the training samples.
        truth: their true labels, or None.
        ranks: the other processes, which share the work.
        seed: of the samples that are measured, where there are more than `MOST_REFERENCES`.
    """

    store: Store
    truth: Truth | None
    ranks: Ranks
    seed: int

    def __call__(
        self, network: nn.Module, measures: Literal["features", "clusters"]
    ) -> dict[str, float]:
        """Figures of one network, 0 to 1.

        Returns:
            For features: `knn_accuracy` (the vote of the 20 nearest other samples names the true
            class) and `neighbour_purity` (share of those 20 that are of the same true class). For
            clusters: `cluster_accuracy` (with the best one-to-one map from clusters to classes)
            and `clusters_used` (share of the clusters that are some sample's most likely one).
        """
        rows = self._rows()
        known = self.truth is not None
        labels = self.store.labels if self.truth is None else self.truth.labels
        labels = labels.to(rows.device)[rows]
        if measures == "features":
            vote, purity = knn_figures(
                self._outputs(network, rows, "features"), labels, self.store.num_classes
            )
            return {
                "knn_accuracy" if known else "knn_agreement": vote,
                "neighbour_purity" if known else "neighbour_agreement": purity,
            }
        assigned = self._outputs(network, rows, "clusters").argmax(1)
        accuracy, used = cluster_figures(assigned, labels, self.store.num_classes)
        name = "cluster_accuracy" if known else "cluster_agreement"
        return {name: accuracy, "clusters_used": used}

    def _rows(self) -> Tensor:
        size = len(self.store)
        if size <= MOST_REFERENCES:
            return torch.arange(size, device=self.store.device)
        draw = Draw(self.seed, phase="representation", device=self.store.device)
        return draw.permutation("rows", size)[:MOST_REFERENCES].sort().values

    def _outputs(self, network: nn.Module, rows: Tensor, head: str, block: int = 1024) -> Tensor:
        """Outputs (M, F) of one head for the rows (M), unaugmented; each rank runs its share."""
        found: Tensor | None = None
        own = torch.arange(self.ranks.rank, len(rows), self.ranks.world, device=rows.device)
        with evaluating([network]), torch.no_grad():
            for places in torch.split(own, block):
                part = network(self.store.plain(rows[places]), heads=(head,))[head].float()
                if found is None:
                    found = part.new_zeros(len(rows), part.shape[1])
                found[places] = part
        assert found is not None
        return self.ranks.sum(found)


def knn_figures(features: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Leave-one-out vote of the nearest neighbours by cosine, and their purity.

    Args:
        features: (N, F).
        labels: classes (N) int64; samples of none (-1) vote for nothing and are not asked.
        num_classes: K.

    Returns:
        Share of samples whose neighbours' majority is their class; mean share of neighbours that
        are of the sample's class.
    """
    asked = (labels != NO_CLASS).nonzero().flatten()
    stride = -(-len(asked) // MOST_QUERIES)
    asked = asked[:: max(1, stride)].contiguous()
    near, _ = nearest_neighbours(features, NUM_NEIGHBOURS, queries=asked)
    if near.numel() == 0:
        return 0.0, 0.0
    theirs = labels[near]
    votes = torch.zeros(len(asked), num_classes + 1, device=features.device)
    votes.scatter_add_(1, theirs.where(theirs >= 0, num_classes), torch.ones_like(theirs).float())
    own = labels[asked]
    vote = (votes[:, :num_classes].argmax(1) == own).float().mean()
    return float(vote), float((theirs == own[:, None]).float().mean())


def cluster_figures(assigned: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Accuracy of clusters under the best one-to-one map to classes, and share of them in use.

    Args:
        assigned: cluster of every sample (N) int64 in [0, K).
        labels: classes (N) int64, -1 for none.
        num_classes: K.
    """
    counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=labels.device)
    columns = labels.where(labels >= 0, num_classes)
    counts.index_put_((assigned, columns), torch.ones_like(labels), accumulate=True)
    table = counts[:, :num_classes].cpu().numpy()
    match: Callable[..., tuple[list[int], list[int]]] = linear_sum_assignment
    rows, classes = match(table, maximize=True)
    used = float((counts.sum(1) > 0).float().mean())
    return float(table[rows, classes].sum() / max(1, table.sum())), used
