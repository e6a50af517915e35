"""Two Gaussians over the loss, as in DivideMix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.selection.mixture import Mixture


@dataclass(frozen=True)
class GaussianMixture(Mixture):
    """Gaussian mixture on min-max normalised losses (Li et al., arXiv 2002.07394, section 3.1).

    The update is that of scikit-learn's `GaussianMixture`, which the authors use: hard 2-means
    start, variance floor *added* to each variance, stop on the change of the mean log-likelihood.

    Args:
        iterations: most EM iterations.
        tolerance: EM stops when the mean log-likelihood (nats) changes by less.
        variance_floor: added to each variance, in squared units of the normalised loss.

    Differences from the paper:
        1. The 2-means start is the exact optimum (found by a scan of the sorted losses), so no
           random seed is involved.
        2. The posterior is made monotone in the loss, and guard rails apply (`Mixture.fit`).
    """

    name: ClassVar[str] = "gaussian"
    citation: ClassVar[str] = "Li, Socher, Hoi. DivideMix. ICLR 2020. arXiv 2002.07394"
    iterations: int = 10
    tolerance: float = 1e-2
    variance_floor: float = 5e-4

    def bounds(self, ordered: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest loss."""
        return ordered[0], ordered[-1]

    def kept(self, x: Tensor) -> Tensor:
        """All samples."""
        return x

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters (2, 2) and weights (2) of the best split of sorted x (N) into two groups.

        Splitting after the k smallest, the squared distance within groups is least where
        `k (N - k) (mean_low - mean_high)^2` is greatest.
        """
        num_samples = len(x)
        total = x.cumsum(0)
        count = torch.arange(1, num_samples, device=x.device, dtype=x.dtype)
        below, above = total[:-1], total[-1] - total[:-1]
        between = (below / count - above / (num_samples - count)).square()
        split = (between * count * (num_samples - count)).argmax()
        first = (torch.arange(num_samples, device=x.device) <= split).to(x)
        share = torch.stack([first, 1.0 - first])
        return self.maximise(x, share), share.mean(1)

    def log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log density (C, M); parameters (C, 2) are mean and variance."""
        mean, variance = parameters.T[..., None]
        constant = -0.5 * (math.log(2.0 * math.pi) + variance.log())
        result: Tensor = (x - mean).square_().mul_(-0.5 / variance).add_(constant)
        return result

    def maximise(self, x: Tensor, share: Tensor) -> Tensor:
        """Weighted mean and variance (C, 2); the floor is added to the variance."""
        total = share.sum(1) + 10 * torch.finfo(x.dtype).eps
        mean = share @ x / total
        spread = (x - mean[:, None]).square_().mul_(share).sum(1) / total
        return torch.stack([mean, spread + self.variance_floor], dim=1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Means (C) and variances (C)."""
        return parameters[:, 0], parameters[:, 1]
