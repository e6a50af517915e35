"""Small-loss selection: keep the samples whose loss is among the smallest of the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelwise.errors import UserError


def small_loss_mask(loss: Tensor, keep: float) -> Tensor:
    """Mark the `keep` fraction of samples with the smallest loss (Co-teaching, Algorithm 1).

    Han et al., arXiv 1804.06872. Exactly `floor(keep * B)` samples are marked, as in the authors'
    code, but never fewer than one while `keep > 0`. Of equal losses the earlier row wins; losses
    that are not finite come last.

    Args:
        loss: loss per sample (B).
        keep: fraction to keep, in [0, 1].

    Returns:
        Boolean mask (B).

    Raises:
        UserError: `keep` lies outside [0, 1].
    """
    if not 0.0 <= keep <= 1.0:
        raise UserError(f"the fraction to keep is {keep}; it must lie in [0, 1].")
    mask = torch.zeros_like(loss, dtype=torch.bool)
    # The small term keeps 0.29 * 100 = 28.999999999999996 from losing a sample.
    count = max(math.floor(keep * len(loss) + 1e-9), int(keep > 0.0))
    finite = torch.where(loss.isfinite(), loss, torch.inf)
    mask[finite.argsort(stable=True)[:count]] = True
    return mask


def forget_rate(epoch: int, noise_rate: float, ramp_epochs: int = 10) -> float:
    """Fraction of each batch to drop: `R(t) = noise_rate * min(t / ramp_epochs, 1)`.

    Han et al., arXiv 1804.06872, Algorithm 1, where `T_k = ramp_epochs` and `R` is what is kept.

    Args:
        epoch: epoch number t, 0-based: the first epoch drops nothing.
        noise_rate: final fraction to drop, in [0, 1).
        ramp_epochs: epochs until the final fraction is reached; 0 starts with it.

    Raises:
        UserError: `noise_rate` lies outside [0, 1).
    """
    if not 0.0 <= noise_rate < 1.0:
        raise UserError(f"the noise rate is {noise_rate}; it must lie in [0, 1).")
    return noise_rate * (min(epoch / ramp_epochs, 1.0) if ramp_epochs > 0 else 1.0)
