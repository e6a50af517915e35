"""MixUp: train on convex combinations of inputs and of their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.rng import Draw


def mix_coefficient(draw: Draw, alpha: float, purpose: str) -> float:
    """Draw λ ~ Beta(α, α) and return max(λ, 1 - λ), so that a mix stays nearer its first part.

    MixMatch (arXiv 1905.02249), equations 8 and 9. One number for the batch, drawn on the host and
    the same on every rank; α = 0 means no mixing (λ = 1).

    Args:
        draw: the randomness of this position.
        alpha: α ≥ 0; larger mixes more evenly.
        purpose: name of this use.

    Returns:
        A number in [0.5, 1].
    """
    assert alpha >= 0, f"alpha is {alpha}"
    if alpha == 0:
        return 1.0
    coefficient = draw.beta(purpose, alpha, alpha)
    return max(coefficient, 1 - coefficient)


def mixup(inputs: Tensor, targets: Tensor, lam: float, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Mix every row with its partner.

    x̃ᵢ = λ xᵢ + (1 - λ) x_{π(i)},  t̃ᵢ = λ tᵢ + (1 - λ) t_{π(i)}: MixUp (arXiv 1710.09412,
    section 1), MixMatch (arXiv 1905.02249, equations 10 and 11).

    Args:
        inputs: float32 (M, *S).
        targets: soft targets (M, K).
        lam: λ in [0, 1].
        partner: π, the row each row is mixed with (M) int64.

    Returns:
        Mixed inputs (M, *S), in the memory format of `inputs`, and mixed targets (M, K).

    Differences from the paper:
        1. As in MixMatch and DivideMix, λ is one number for the batch.
    """
    assert len(inputs) == len(targets) == len(partner)
    mixed = torch.lerp(inputs[partner], inputs, lam)
    return mixed, torch.lerp(targets[partner], targets, lam)
