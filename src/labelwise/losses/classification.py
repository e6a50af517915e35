"""Losses and target helpers of classification with soft targets: pure functions of tensors.

Half-precision inputs are computed in float32, so every function may be called under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """One-hot rows, float32 (B, K), of labels (B) int64.

    A label outside [0, K) gives a row of zeros: checking the range would make the host wait for
    the device, and is done once, where data are read.
    """
    classes = torch.arange(num_classes, device=labels.device)
    return (labels.unsqueeze(-1) == classes).to(torch.float32)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with soft targets, -Σ_c t_c log p_c, of each sample.

    DivideMix (arXiv 2002.07394), equation 9.

    Args:
        logits: (B, K).
        targets: soft targets (B, K), rows summing to 1.

    Returns:
        Losses (B).
    """
    return -(full(targets) * log_probabilities(logits)).sum(-1)


def squared_error(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Brier score of each sample, Σ_c (p_c - t_c)² / K.

    The unlabelled loss of MixMatch (arXiv 1905.02249, eq. 4) and DivideMix (arXiv 2002.07394,
    eq. 10); bounded, hence forgiving to wrong guesses.

    Args:
        probabilities: softmax of the logits (B, K).
        targets: soft targets (B, K).

    Returns:
        Losses (B); their mean is the term of the paper.

    Differences from the paper:
        1. DivideMix writes the squared norm; its mean over classes, which λ_u is tuned for, is
           the norm divided by K (MixMatch writes the division).
    """
    return (full(probabilities) - full(targets)).square().mean(-1)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Lower the entropy of each row: p_c^(1/T) / Σ_c p_c^(1/T).

    MixMatch (arXiv 1905.02249), equation 7; DivideMix (arXiv 2002.07394), equation 4.

    Args:
        probabilities: (B, K), not all zero in a row.
        temperature: T > 0; 1 changes nothing, towards 0 the row becomes one-hot.

    Returns:
        (B, K), rows summing to 1.
    """
    assert temperature > 0, f"temperature is {temperature}"
    p = full(probabilities)
    # Dividing by the largest first cancels out, and keeps small T from underflowing every class.
    scaled = p / p.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    powered = scaled.pow(1 / temperature)
    return powered / powered.sum(-1, keepdim=True)


def prior_penalty(mean_probabilities: Tensor, prior: Tensor | None = None) -> Tensor:
    """Divergence of the mean prediction from a class prior, Σ_c π_c log(π_c / p̄_c).

    DivideMix (arXiv 2002.07394), equation 11; keeps a network from giving every sample one class.

    Args:
        mean_probabilities: p̄, mean softmax over the batch (K).
        prior: π (K), summing to 1; uniform if not given.

    Returns:
        A scalar, at least 0 and 0 when p̄ = π.
    """
    mean = full(mean_probabilities).clamp(min=1e-7)
    if prior is None:
        prior = torch.full_like(mean, 1 / len(mean))
    return (torch.xlogy(prior, prior) - prior * mean.log()).sum()


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean negative entropy of the predictions, Σ_c p_c log p_c averaged over the batch.

    The confidence penalty (arXiv 1701.06548) that DivideMix (arXiv 2002.07394, eq. 2) adds to
    cross-entropy in the warm-up under asymmetric noise.

    Args:
        logits: (B, K).

    Returns:
        A scalar in [-log K, 0].
    """
    log_p = log_probabilities(logits)
    return (log_p.exp() * log_p).sum(-1).mean()


def linear_ramp(progress_epochs: float, length: float = 16.0) -> float:
    """Weight of a term that is ramped up linearly: progress / length, clipped to [0, 1].

    Args:
        progress_epochs: epochs since the ramp began, fractions included; may be negative.
        length: length of the ramp in epochs (MixMatch and DivideMix: 16); 0 for none.
    """
    if length <= 0:
        return 1.0
    return min(max(progress_epochs / length, 0.0), 1.0)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax (B, K) in full precision, finite even for a class masked by a logit of -∞."""
    log_p = torch.log_softmax(full(logits), dim=-1)
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)


def full(values: Tensor) -> Tensor:
    """Values in float32, or float64 if that is what they are."""
    return values if values.dtype == torch.float64 else values.float()
