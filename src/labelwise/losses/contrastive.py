"""Contrastive losses: NT-Xent of SimCLR, and InfoNCE against a queue of MoCo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(own: Tensor, whole: Tensor, place: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR, arXiv 2002.05709, eq. 1).

    V views of M images give V·M unit vectors. Each of them must find the other views of its
    image among the V·M - 1 others; with several of them the mean of eq. 1 over them is taken.
    For V = 2 it is the paper's.

    Args:
        own: projections (V, b, D) of this process's images, view by view, not normalised.
        whole: projections (V, M, D) of all processes' images, with gradient; `own` among them.
        place: where this process's images stand in `whole` (b) int64.
        temperature: τ.

    Returns:
        Mean over the V·b anchors of this process (nats); the mean over the processes is the loss
        of the whole batch.
    """
    num_views, size = whole.shape[:2]
    assert num_views >= 2, "one view has no twin"
    anchors = F.normalize(own, dim=2).flatten(0, 1)
    others = F.normalize(whole, dim=2).flatten(0, 1)
    similarity = anchors @ others.T / temperature
    views = torch.arange(num_views, device=place.device)
    same = (place + views.unsqueeze(1) * size).T.repeat(num_views, 1)  # (V·b, V): image's views
    itself = views.repeat_interleave(len(place)).unsqueeze(1)  # which of them the anchor is
    total = similarity.scatter(1, same.gather(1, itself), -torch.inf).logsumexp(1)
    twins = similarity.gather(1, same).scatter(1, itself, 0.0).sum(1) / (num_views - 1)
    return (total - twins).mean()


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a query's key among a queue of others (MoCo, 1911.05722, eq. 1).

    Args:
        queries: projections (V, b, D) with gradient, view by view, not normalised.
        keys: unit vectors (b, D) of another view of the same images, without gradient.
        queue: unit vectors (Q, D) of other images, without gradient.
        temperature: τ.

    Returns:
        Mean over the V·b queries (nats).
    """
    anchors = F.normalize(queries, dim=2)
    positive = (anchors * keys).sum(2, keepdim=True)
    logits = torch.cat([positive, anchors @ queue.T], dim=2).flatten(0, 1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()
