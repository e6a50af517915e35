"""Contrastive losses: NT-Xent of SimCLR, and InfoNCE against a queue of MoCo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(own: Tensor, whole: Tensor, place: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR, arXiv 2002.05709, eq. 1).

    Two views of M images give 2M unit vectors. Each of them must find its twin, the other view of
    the same image, among the 2M - 1 others.

    Args:
        own: projections (2, b, D) of this process's images, view by view, not normalised.
        whole: projections (2, M, D) of all processes' images, with gradient; `own` among them.
        place: where this process's images stand in `whole` (b) int64.
        temperature: τ.

    Returns:
        Mean over the 2b anchors of this process (nats); the mean over the processes is the loss of
        the whole batch.
    """
    anchors = F.normalize(own.float(), dim=2).flatten(0, 1)
    others = F.normalize(whole.float(), dim=2).flatten(0, 1)
    size = whole.shape[1]
    logits = anchors @ others.T / temperature
    itself = torch.cat([place, place + size])
    twin = torch.cat([place + size, place])
    rows = torch.arange(len(anchors), device=logits.device)
    logits = logits.index_put((rows, itself), logits.new_tensor(-torch.inf))
    return F.cross_entropy(logits, twin)
