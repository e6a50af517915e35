"""Features of easy, hard and corrected samples and of anchors, on two dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.models.modes import evaluating
from labelwise.rng import Draw
from labelwise.training.anchors import Make, Pairs, anchors_of, copied, mixed
from labelwise.training.corrections import CLOSENESS, CORRECTED, EASY, FAR, HARD, NEAR

SAMPLES = 1200
"""Samples in the picture, at most: t-SNE of these and the anchors takes about 4 s on one core."""
ANCHORS = 300
"""Voting anchors in the picture, at most."""
FEWEST = 10
"""Fewer points make no picture."""
PERPLEXITY = 30.0
ITERATIONS = 500
"""Of t-SNE, of which 250 with early exaggeration; more hardly change the picture."""
BLOCK = 256


def projection_arrays(
    state: np.ndarray,
    ledger: Ledger,
    network: nn.Module,
    store: Store,
    make: Make | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Coordinates of some samples and of anchors that voted on them, for `evidence.npz`.

    Anchors are made anew from the features that the network gives now; those that voted were made
    of the features at the beginning of the last epoch.

    Args:
        state: what became of every sample (N); those that are in no state are left out.
        ledger: of the finished run; its first network is shown.
        network: the first trained network.
        store: training inputs and the labels that were trained on (N).
        make: the hallucinator; None: anchors are mixed, or copies where they have no partner.
        seed: of the samples, the anchors and t-SNE.

    Returns:
        Nothing for fewer than `FEWEST` samples. Else `hardness_points` (M + A, 2) float32: of M
        samples and then of A anchors, both axes scaled alike into [0, 1];
        `hardness_point_rows` (M) int64: the samples; `hardness_anchor_rows` (A) int64: the sample
        that each anchor voted on; `hardness_anchor_labels` (A): for which class.
    """
    draw = Draw(seed, phase="report-hardness")
    rows = choose_points(state, draw)
    if len(rows) < FEWEST:
        return {}
    voted, place = _voters(ledger, rows[state[rows] == CORRECTED], draw)
    near, far = (ledger[name][0, voted, place].long() for name in (NEAR, FAR))
    samples = torch.from_numpy(rows).to(store.device)
    used = torch.unique(torch.cat([samples, near, far[far >= 0]]))
    own, first, second = (torch.searchsorted(used, part) for part in (samples, near, far))
    pairs = Pairs(first, second.where(far >= 0, -1), ledger[CLOSENESS][0, voted, place])
    with torch.no_grad(), evaluating([network]):
        features = _features(network, store, used)
        points = torch.cat([features[own], _made(pairs, features, make)])
    return {
        "hardness_points": flat(points.cpu().numpy(), draw),
        "hardness_point_rows": rows,
        "hardness_anchor_rows": voted.cpu().numpy(),
        "hardness_anchor_labels": store.labels[near].cpu().numpy(),
    }


def choose_points(state: np.ndarray, draw: Draw, count: int = SAMPLES) -> np.ndarray:
    """Draw samples for the picture so that every state is well seen.

    Each state gets an equal part of the places; what one does not fill the others share. Within a
    state every sample is equally likely.

    Args:
        state: of every sample (N).
        draw: gives the lots.
        count: samples at most.

    Returns:
        Row numbers int64, ascending.
    """
    groups = [np.flatnonzero(state == code) for code in (EASY, HARD, CORRECTED)]
    groups.sort(key=len)
    chosen = []
    for place, group in enumerate(groups):
        share = count // (len(groups) - place)
        lots = draw.numpy(f"points/{int(state[group[0]])}" if len(group) else "points")
        chosen.append(lots.permutation(group)[:share])
        count -= len(chosen[-1])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def flat(features: np.ndarray, draw: Draw) -> np.ndarray:
    """Project features (M, F) on two dimensions by t-SNE, by their cosine similarity.

    Features are brought to unit length, where the squared distance is 2 - 2 cos. t-SNE (van der
    Maaten and Hinton, 2008) is taken and not PCA since it keeps who is near to whom: on digits its
    trustworthiness (10 neighbours) is 0.99, that of two principal components 0.81 to 0.85.

    Args:
        features: (M, F) float32, M at least `FEWEST`.
        draw: gives its seed; it begins at the principal components.

    Returns:
        (M, 2) float32 in [0, 1], both axes scaled alike.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    size = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.nan_to_num(features / np.maximum(size, 1e-12)).astype(np.float32)
    unit = np.pad(unit, ((0, 0), (0, max(0, 2 - unit.shape[1]))))
    if unit.std(0).max() < 1e-6:
        return np.full((len(unit), 2), 0.5, dtype=np.float32)
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    seed = draw.seed_for("t-sne") % 2**32
    # Sums over threads are rounded in any order: one thread gives the same picture every time.
    with threadpool_limits(1):
        start = PCA(2, svd_solver="full").fit_transform(unit)
        found = TSNE(
            init=(start / start[:, 0].std() * 1e-4).astype(np.float32),
            perplexity=perplexity,
            max_iter=ITERATIONS,
            random_state=seed,
        ).fit_transform(unit)
    low, high = found.min(0), found.max(0)
    scaled = (found - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5
    return np.asarray(scaled, dtype=np.float32)


def _voters(ledger: Ledger, rows: np.ndarray, draw: Draw) -> tuple[Tensor, Tensor]:
    """At most `ANCHORS` of the anchors that voted on `rows`: the rows, and the voters' places."""
    index = torch.from_numpy(rows).to(ledger[NEAR].device)
    who, place = (ledger[NEAR][0, index] >= 0).nonzero(as_tuple=True)
    lots = np.sort(draw.numpy("anchors").permutation(len(who))[:ANCHORS])
    chosen = torch.from_numpy(lots).to(index.device)
    return index[who[chosen]], place[chosen]


def _features(network: nn.Module, store: Store, rows: Tensor) -> Tensor:
    """Features (R, F) of `rows` alone, unaugmented."""
    parts = [
        network(store.plain(index), heads=("features",))["features"].float()
        for index in torch.split(rows, BLOCK)
    ]
    return torch.cat(parts)


def _made(pairs: Pairs, features: Tensor, make: Make | None) -> Tensor:
    """Features (A, F) of anchors; one without a partner is a copy of its sample."""
    if not len(pairs):
        return features[:0]
    with torch.autocast(features.device.type, enabled=False):  # as they were made in training
        made = anchors_of(pairs, features, make or mixed)
    single = (pairs.far < 0)[:, None]
    return torch.where(single, anchors_of(pairs, features, copied), made)
