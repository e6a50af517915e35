"""What SANM asks of masked copies: softer targets, and the picture without the mask."""

from __future__ import annotations

from torch import Tensor

from labelwise.losses.classification import full


def soften(targets: Tensor, ratio: Tensor) -> Tensor:
    """Noisy label regularisation: the top class pays what the mask took, the others share it.

    SANM (arXiv 2302.06805), section 3.3: t_top loses r, every other class gains r / (K - 1).

    Args:
        targets: soft targets (B, K), rows summing to 1.
        ratio: r, masked share of each image (B) in [0, 1].

    Returns:
        Targets (B, K), rows summing to 1; with r = 0 as they were.

    Differences from the paper:
        1. The top class pays at most what it has, so that a target never turns negative.
        2. Of several top classes the first pays.
    """
    top, place = targets.max(dim=1, keepdim=True)
    paid = ratio.to(targets.dtype)[:, None].minimum(top)
    share = paid / max(1, targets.shape[1] - 1)
    return (targets + share).scatter(1, place, top - paid)


def reconstruction_error(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of each rebuilt image (B), over its channels and pixels.

    SANM (arXiv 2302.06805), section 3.4.

    Args:
        rebuilt: what the decoder made of the masked image (B, C, H, W).
        images: the image without the mask, in the same units.
    """
    return (full(rebuilt) - full(images)).square().flatten(1).mean(1)
