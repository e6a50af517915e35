"""What is asked of a hallucinated anchor: the class of one sample, a place between the two."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def anchor_dissimilarity(anchor: Tensor, near: Tensor, far: Tensor, closeness: Tensor) -> Tensor:
    """L_sim = 1 - [λ_p cos(s, s_a) + (1 - λ_p) cos(s, s_b)] of every anchor (B).

    Anchor hallucination (arXiv 2407.07331). It is least where s lies in the plane of both, and
    for λ_p = 1 where s points as s_a does.

    Args:
        anchor: s (B, F).
        near: s_a, features of the sample whose class the anchor has (B, F).
        far: s_b, features of a sample of another class (B, F).
        closeness: λ_p (B) in [0, 1].

    Differences from the paper:
        1. The sources give no formula: this form is ours.
    """
    to_near = F.cosine_similarity(anchor, near, dim=1)
    to_far = F.cosine_similarity(anchor, far, dim=1)
    return 1 - (closeness * to_near + (1 - closeness) * to_far)
