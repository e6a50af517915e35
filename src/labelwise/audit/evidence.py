"""From a finished run to what is known about each label.

Evaluation and audit are the only places that may hold `Truth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from labelwise.data.dataset import Dataset, Truth
from labelwise.data.store import Store
from labelwise.selection.mixture import MixtureFit, mixture
from labelwise.selection.noise_rate import estimate_noise_rate
from labelwise.training.evaluate import evaluating

WORST = 60
NEIGHBOURS = 3
GRID = 200


@dataclass(frozen=True)
class Evidence:
    """What the audit found, per sample and in total.

    Args:
        quality: P(given label is right) (N).
        predicted: argmax of the networks' mean probability (N).
        suggested: the predicted label where the given one is suspect, else the given one (N).
        confidence: mean probability of the suggested label (N).
        suspect: whether the given label looks wrong (N) bool.
        loss: mean over networks of the cross-entropy of the given label (N), nats.
        fit: mixture fitted to `loss`, for the picture.
        fallback: which guard rail took over in the fits that give the quality, or None.
        worst: rows of the lowest-quality labels, worst first (at most `WORST`).
        neighbours: nearest other samples of each of them in feature space (W, 3).
        similarity: cosine similarity of each neighbour (W, 3).
    """

    quality: Tensor
    predicted: Tensor
    suggested: Tensor
    confidence: Tensor
    suspect: Tensor
    loss: Tensor
    fit: MixtureFit
    fallback: str | None
    worst: Tensor
    neighbours: Tensor
    similarity: Tensor


@torch.no_grad()
def gather_evidence(networks: Sequence[nn.Module], store: Store, block: int = 1024) -> Evidence:
    """Score every sample once more with the final networks and say what they think of its label.

    Args:
        networks: the trained networks.
        store: training inputs and given labels.
        block: batch size.
    """
    with evaluating(networks):
        parts = [
            _score(networks, store.plain(index), store.labels[index])
            for index in store.blocks(block)
        ]
    losses, own, predicted, top = (torch.cat(column) for column in zip(*parts, strict=True))
    quality, fallback = label_quality(losses)
    loss = losses.mean(1)
    fit = mixture("gaussian").fit(loss)
    # Many posteriors are exactly 0 or 1: the probability of the given label orders those.
    order = torch.argsort(quality + 1e-3 * own, stable=True)
    suspect = (quality < 0.5) & (predicted != store.labels)
    suggested = torch.where(suspect, predicted, store.labels)
    confidence = torch.where(suspect, top, own)
    worst = order[:WORST]
    neighbours, similarity = nearest(networks, store, worst, block)
    return Evidence(
        quality=quality,
        predicted=predicted,
        suggested=suggested,
        confidence=confidence,
        suspect=suspect,
        loss=loss,
        fit=fit,
        fallback=fallback,
        worst=worst,
        neighbours=neighbours,
        similarity=similarity,
    )


def label_quality(losses: Tensor) -> tuple[Tensor, str | None]:
    """P(given label is right): each network's mixture posterior, averaged over the networks.

    Args:
        losses: cross-entropy of the given label by each network (N, P), nats.

    Returns:
        The quality (N), and which guard rail took over in one of the fits, or None.
    """
    fits = [mixture("gaussian").fit(column) for column in losses.T]
    fallback = next((fit.fallback for fit in fits if fit.fallback), None)
    return torch.stack([fit.clean for fit in fits]).mean(0), fallback


def _score(
    networks: Sequence[nn.Module], inputs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses (B, P); the given label's mean probability, the prediction and its own, each (B)."""
    logits = torch.stack([network(inputs)["classes"].float() for network in networks])
    given = labels[None, :, None].expand(len(networks), -1, 1)
    loss = -logits.log_softmax(2).gather(2, given)[..., 0].T
    probability = logits.softmax(2).mean(0)
    top, predicted = probability.max(1)
    return loss, probability.gather(1, labels[:, None])[:, 0], predicted, top


@torch.no_grad()
def nearest(
    networks: Sequence[nn.Module], store: Store, rows: Tensor, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The nearest other samples of `rows` (W) by cosine of the first network's features.

    Streams over the data and keeps the best so far: memory O(block + W).

    Returns:
        Row numbers (W, 3) and cosine similarities (W, 3), nearest first.
    """

    def features(index: Tensor) -> Tensor:
        outputs = networks[0](store.plain(index), heads=("features",))
        return nn.functional.normalize(outputs["features"].float(), dim=1)

    count = min(NEIGHBOURS, len(store) - 1)
    with evaluating(networks):
        query = features(rows)
        best = query.new_full((len(rows), count), -2.0)
        found = torch.zeros((len(rows), count), dtype=torch.int64, device=store.device)
        for index in store.blocks(block):
            similarity = query @ features(index).T
            similarity.masked_fill_(rows[:, None] == index[None], -2.0)
            values = torch.cat([best, similarity], dim=1)
            places = torch.cat([found, index.expand(len(rows), -1)], dim=1)
            best, chosen = values.topk(count, dim=1)
            found = places.gather(1, chosen)
    return found, best


def labels_table(data: Dataset, evidence: Evidence, truth: Truth | None) -> pd.DataFrame:
    """The audit as one row per training sample, in the order of the data."""
    names = np.asarray(data.classes, dtype=object)
    columns: dict[str, Any] = {
        "id": data.ids,
        "given_label": names[data.labels.numpy()],
        "label_quality": _numpy(evidence.quality).round(6),
        "predicted_label": names[_numpy(evidence.predicted)],
        "suggested_label": names[_numpy(evidence.suggested)],
        "suggestion_confidence": _numpy(evidence.confidence).round(6),
        "is_suspect": _numpy(evidence.suspect),
    }
    if truth is not None:
        columns["true_label"] = names[truth.labels.numpy()]
    return pd.DataFrame(columns)


def audit_figures(data: Dataset, evidence: Evidence, truth: Truth | None) -> dict[str, Any]:
    """Totals of the audit; the figures that need truth are left out where it is not known."""
    figures: dict[str, Any] = {
        "estimated_noise_rate": float(estimate_noise_rate(evidence.quality)),
        "num_suspects": int(evidence.suspect.sum()),
    }
    if truth is None:
        return figures
    wrong = _numpy(data.labels != truth.labels)
    suspect = _numpy(evidence.suspect)
    right = _numpy(evidence.suggested.cpu() == truth.labels)
    figures["realised_noise_rate"] = float(wrong.mean())
    if 0 < wrong.sum() < len(wrong):
        from sklearn.metrics import average_precision_score, roc_auc_score

        doubt = 1 - _numpy(evidence.quality)
        figures["label_error_auroc"] = float(roc_auc_score(wrong, doubt))
        figures["label_error_average_precision"] = float(average_precision_score(wrong, doubt))
        figures["suspect_recall"] = float(suspect[wrong].mean())
    if suspect.any():
        figures["suspect_precision"] = float(wrong[suspect].mean())
        figures["suggestion_accuracy"] = float(right[suspect].mean())
    figures["label_accuracy_given"] = float(1 - wrong.mean())
    figures["label_accuracy_suggested"] = float(right.mean())
    return figures


def evidence_arrays(data: Dataset, evidence: Evidence) -> dict[str, np.ndarray]:
    """What the report shows beyond the table, as arrays for `evidence.npz`."""
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    fit = evidence.fit
    worst, neighbours = evidence.worst.cpu(), evidence.neighbours.cpu()
    arrays = {
        "loss": _numpy(evidence.loss),
        "loss_grid": _numpy(fit.to_loss(grid)),
        "loss_density": _numpy(fit.density(grid)) / max(float(fit.high - fit.low), 1e-12),
        "worst": _numpy(worst),
        "neighbours": _numpy(neighbours),
        "similarity": _numpy(evidence.similarity),
    }
    if data.kind == "images":
        arrays["worst_images"] = _numpy(data.inputs[worst])
        arrays["neighbour_images"] = _numpy(
            data.inputs[neighbours.flatten()].reshape(*neighbours.shape, *data.shape)
        )
    return arrays


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
