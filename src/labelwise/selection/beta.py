"""Two beta distributions over the loss, as in M-correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.selection.mixture import Mixture


@dataclass(frozen=True)
class BetaMixture(Mixture):
    """Beta mixture on losses normalised by percentiles (Arazo et al., arXiv 1904.11238, sec. 3.2).

    Losses outside the 5th to 95th percentile are left out of the fit; those two percentiles are
    0 and 1 of the normalised axis, and values are clipped to `[margin, 1 - margin]`. The M-step
    matches weighted moments (eqs. 8-9): `alpha = m (m (1 - m) / s^2 - 1)`,
    `beta = alpha (1 - m) / m`.

    Args:
        iterations: most EM iterations.
        tolerance: EM stops when the mean log-likelihood (nats) changes by less; 0 never stops.
        trim: fraction of the losses left out of the fit at each end.
        margin: distance that clipped values keep from 0 and 1.

    Differences from the paper:
        1. The posterior is evaluated at every sample, not looked up on a grid of 100 points.
        2. Where the two percentiles coincide (most losses equal), nothing is left out.
        3. Parameters are kept within [0.01, 10000], variances above 1e-8.
        4. The posterior is made monotone in the loss, and guard rails apply (`Mixture.fit`).
    """

    name: ClassVar[str] = "beta"
    citation: ClassVar[str] = (
        "Arazo et al. Unsupervised Label Noise Modeling and Loss Correction. ICML 2019. "
        "arXiv 1904.11238"
    )
    iterations: int = 10
    tolerance: float = 0.0
    trim: float = 0.05
    margin: float = 1e-3

    def bounds(self, ordered: Tensor) -> tuple[Tensor, Tensor]:
        """The two percentiles; smallest and largest loss where the percentiles coincide."""
        last = len(ordered) - 1
        cut = int(self.trim * last)
        low, high = ordered[cut], ordered[last - cut]
        degenerate = high <= low
        return torch.where(degenerate, ordered[0], low), torch.where(degenerate, ordered[-1], high)

    def kept(self, x: Tensor) -> Tensor:
        """Samples between the bounds, which lie at 0 and 1."""
        return x[(x >= 0.0) & (x <= 1.0)]

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Beta(1, 2) and Beta(2, 1) with equal weights, as in the authors' code."""
        return x.new_tensor([[1.0, 2.0], [2.0, 1.0]]), x.new_tensor([0.5, 0.5])

    def log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log density (C, M) at clipped points; parameters (C, 2) are alpha and beta."""
        alpha, beta = parameters.T[..., None]
        clipped = self._clip(x)
        constant = torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)
        log_x, log_rest = clipped.log(), torch.log1p(-clipped)
        result: Tensor = ((alpha - 1.0) * log_x).addcmul_(beta - 1.0, log_rest).add_(constant)
        return result

    def maximise(self, x: Tensor, share: Tensor) -> Tensor:
        """Method of moments: parameters (C, 2) from weighted means and variances."""
        clipped = self._clip(x)
        total = share.sum(1) + 10 * torch.finfo(x.dtype).eps
        mean = (share @ clipped / total).clamp(self.margin, 1.0 - self.margin)
        variance = (clipped - mean[:, None]).square_().mul_(share).sum(1) / total
        alpha = mean * (mean * (1.0 - mean) / variance.clamp_min(1e-8) - 1.0)
        return torch.stack([alpha, alpha * (1.0 - mean) / mean], dim=1).clamp(1e-2, 1e4)

    def single(self, x: Tensor) -> Tensor:
        """One beta with a single mode (1, 2): below 1 a beta has two modes, at both ends."""
        return super().single(x).clamp_min(1.0)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Means (C) and variances (C) of beta distributions."""
        total = parameters.sum(1)
        mean = parameters[:, 0] / total
        return mean, mean * (1.0 - mean) / (total + 1.0)

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(self.margin, 1.0 - self.margin)
