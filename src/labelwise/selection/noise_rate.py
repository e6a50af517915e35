"""Estimate how many labels are wrong from the clean probabilities."""

from __future__ import annotations

from torch import Tensor


def estimate_noise_rate(clean: Tensor) -> Tensor:
    """Expected fraction of wrong labels, `1 - mean(clean)`, as a scalar tensor on the device.

    Args:
        clean: P(given label is right) per sample (N); for several peers (..., N).
    """
    return 1.0 - clean.mean(-1)
