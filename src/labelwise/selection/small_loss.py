"""Small-loss selection: keep the samples whose loss is among the smallest of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import UserError


def small_loss_mask(loss: Tensor, keep: float, among: Tensor | None = None) -> Tensor:
    """Mark the `keep` fraction of samples with the smallest loss (Co-teaching, Algorithm 1).

    Han et al., arXiv 1804.06872. Of the M samples that may be marked, exactly `floor(keep * M)`
    are, as in the authors' code, but never fewer than one while `keep > 0`. Of equal losses the
    earlier row wins; losses that are not finite come last. Nothing is read back to the host.

    Args:
        loss: loss per sample (B).
        keep: fraction to keep, in [0, 1].
        among: the samples that may be marked (B) bool; None for all.

    Returns:
        Boolean mask (B).

    Raises:
        UserError: `keep` lies outside [0, 1].
    """
    if not 0.0 <= keep <= 1.0:
        raise UserError(f"the fraction to keep is {keep}; it must lie in [0, 1].")
    allowed = torch.ones_like(loss, dtype=torch.bool) if among is None else among
    finite = torch.where(loss.isfinite(), loss, torch.finfo(loss.dtype).max)
    order = torch.where(allowed, finite, torch.inf).argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(loss), device=loss.device))
    # The small term keeps 0.29 * 100 = 28.999999999999996 from losing a sample.
    count = (keep * allowed.sum().double() + 1e-9).floor().clamp_min(int(keep > 0.0))
    return allowed & (rank < count)
