"""What the report shows of the noise and of near duplicates, as arrays for `evidence.npz`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.audit.cards import PICTURE
from labelwise.audit.copies import MOST
from labelwise.audit.duplicates import find_duplicates
from labelwise.data.dataset import Dataset
from labelwise.estimation.bootstrap import TABLE_CLASSES
from labelwise.estimation.estimator import Estimate
from labelwise.estimation.pairs import confusable_pairs


def transition_arrays(estimate: Estimate, num_samples: int) -> dict[str, np.ndarray]:
    """The estimated confusions between classes, with intervals where the estimate has them.

    Args:
        estimate: of any estimator or several combined; `bootstrap.with_intervals` gives intervals.
        num_samples: N, which turns shares into expected numbers.

    Returns:
        Up to `TABLE_CLASSES` classes, `transition` P(given = j | true = i) (K, K) and, with
        intervals, `transition_low` and `transition_high` (K, K), all float32. Always the pairs
        with the most expected wrong labels, most first: `pair_rows` (M, 2) int64, true and given
        class, and `pair_counts`, `pair_low`, `pair_high` (M) float64, expected numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    if estimate.transition is not None and len(estimate.prior) <= TABLE_CLASSES:
        arrays["transition"] = _single(estimate.transition)
        if estimate.transition_low is not None and estimate.transition_high is not None:
            arrays["transition_low"] = _single(estimate.transition_low)
            arrays["transition_high"] = _single(estimate.transition_high)
    pairs = confusable_pairs(estimate, num_samples)
    rows = np.array([(pair.true, pair.given) for pair in pairs], dtype=np.int64)
    return arrays | {
        "pair_rows": rows.reshape(-1, 2),
        "pair_counts": np.array([pair.count for pair in pairs], dtype=np.float64),
        "pair_low": np.array([pair.low for pair in pairs], dtype=np.float64),
        "pair_high": np.array([pair.high for pair in pairs], dtype=np.float64),
    }


def duplicate_arrays(data: Dataset) -> dict[str, np.ndarray]:
    """Near-duplicate samples whose given labels differ: at least one of both is wrong.

    Args:
        data: inputs and given labels (N).

    Returns:
        `duplicates` (D, 2) int64, row numbers, and `duplicate_similarity` (D) float32, most
        similar first; for images also `duplicate_images` (d, 2, C, H, W) uint8, those of the
        first d = min(D, 100) pairs, none larger than a card's picture.
    """
    rows, similarity = find_duplicates(data.inputs, data.labels)
    arrays = {"duplicates": rows, "duplicate_similarity": similarity}
    if data.kind == "images":
        shown = torch.from_numpy(rows[:MOST])
        pictures = _reduced(data.inputs[shown.reshape(-1)])
        arrays["duplicate_images"] = pictures.reshape(len(shown), 2, *pictures.shape[1:]).numpy()
    return arrays


def _single(table: Tensor) -> np.ndarray:
    return table.float().cpu().numpy()


def _reduced(images: Tensor) -> Tensor:
    """Images (M, C, H, W) uint8 on the CPU whose larger side is `PICTURE` pixels at most."""
    height, width = images.shape[-2:]
    scale = PICTURE / max(height, width)
    if scale >= 1 or not len(images):
        return images.cpu()
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).cpu()
