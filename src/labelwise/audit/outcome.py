"""What the audit leaves behind: the table of labels, the totals, the arrays of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labelwise.audit.estimate_arrays import duplicate_arrays, transition_arrays
from labelwise.audit.evidence import EVIDENCE, Verdicts
from labelwise.audit.fusion import (
    curve_error,
    reliability,
    right_by_chance,
    true_reliability,
)
from labelwise.audit.hardness import Sorting
from labelwise.audit.with_cleanlab import ranking_figures
from labelwise.data.dataset import Dataset, Truth
from labelwise.data.ledger import Ledger
from labelwise.estimation.consensus import Consensus
from labelwise.noise.planting import Planted
from labelwise.training.scoring import EARLY

GRID = 200


def labels_table(
    data: Dataset, found: Verdicts, truth: Truth | None, sorting: Sorting | None = None
) -> pd.DataFrame:
    """The audit as one row per training sample, in the order of the data.

    A sample that belongs to no class (planted open-set noise) has no `true_label`. Methods that
    sort samples add what became of each (`sorting`).
    """
    names = np.asarray([*data.classes, None], dtype=object)
    columns: dict[str, Any] = {
        "id": data.ids,
        "given_label": names[data.labels.numpy()],
        "label_quality": _numpy(found.quality).round(6),
        "predicted_label": names[_numpy(found.predicted)],
        "suggested_label": names[_numpy(found.suggested)],
        "suggestion_confidence": _numpy(found.confidence).round(6),
        "is_suspect": _numpy(found.suspect),
    }
    if truth is not None:
        columns["true_label"] = names[truth.labels.numpy()]
    if sorting is not None:
        columns |= sorting.columns(data.classes)
    return pd.DataFrame(columns)


def audit_figures(data: Dataset, found: Verdicts, truth: Truth | None) -> dict[str, Any]:
    """Totals of the audit; the figures that need truth are left out where it is not known."""
    by_neighbours = found.estimate.name == Consensus.name
    figures: dict[str, Any] = {
        "estimated_noise_rate": found.noise_rate,
        "noise_rate_interval": list(found.interval),
        "noise_rate_estimates": found.rates,
        "noise_rate_estimator": Consensus.name if by_neighbours else "quality",
        "num_suspects": int(found.suspect.sum()),
        "expected_precision": found.expected_precision,
        "expected_recall": found.expected_recall,
        "suspect_threshold": 0.5,
        "num_planted": len(found.planted_quality),
        "quality_method": found.method,
    }
    if len(found.planted_quality):
        figures["calibration_error"] = curve_error(_planted_curve(found))
        figures["planted_found"] = float((found.planted_quality < 0.5).float().mean())
    if truth is None:
        return figures
    wrong = _numpy(data.labels != truth.labels)
    suspect = _numpy(found.suspect)
    right = _numpy(found.suggested == truth.labels)
    if foreign := int((truth.labels < 0).sum()):
        figures["num_foreign"] = foreign
    figures["realised_noise_rate"] = float(wrong.mean())
    quality = _numpy(found.quality.double())
    figures["calibration_error_truth"] = curve_error(true_reliability(quality, ~wrong))
    figures |= ranking_figures(wrong, 1 - quality, suspect)
    if suspect.any():
        figures["suggestion_accuracy"] = float(right[suspect].mean())
    figures["label_accuracy_given"] = float(1 - wrong.mean())
    figures["label_accuracy_suggested"] = float(right.mean())
    return figures


def early_losses(ledger: Ledger, planted: Planted | None) -> np.ndarray | None:
    """The losses of the run's first scoring (N) nats, the mean over networks.

    NaN where the given label was not trained on, because another was planted in its place.

    Args:
        ledger: of the finished run.
        planted: labels made wrong on purpose.

    Returns:
        None where the method keeps no such losses.
    """
    if EARLY.name not in ledger or bool((ledger[EARLY.name] < 0).any()):
        return None
    loss = _numpy(ledger[EARLY.name].mean(dim=0)).copy()
    if planted is not None:
        loss[_numpy(planted.rows)] = np.nan
    return loss


def evidence_arrays(
    data: Dataset, found: Verdicts, truth: Truth | None, early: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the report shows beyond the table, as arrays for `evidence.npz`.

    Args:
        data: the samples with their given labels.
        found: what the audit says of them.
        truth: the true labels, where they are known.
        early: losses of the first scoring (N), or None (`early_losses`).
    """
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    fit = found.fit
    worst, neighbours = found.worst, found.neighbours
    arrays = {
        "loss": _numpy(found.loss),
        "loss_grid": _numpy(fit.to_loss(grid)),
        "loss_density": _numpy(fit.density(grid)) / max(float(fit.high - fit.low), 1e-12),
        "worst": _numpy(worst),
        "neighbours": _numpy(neighbours),
        "similarity": _numpy(found.similarity),
        "evidence": _numpy(found.signs.float()),
        "evidence_names": np.asarray(EVIDENCE),
        **transition_arrays(found.estimate, len(data)),
        **duplicate_arrays(data),
    }
    if len(found.planted_quality):
        arrays["reliability"] = _planted_curve(found)
    if early is not None:
        arrays[EARLY.name] = early
    if truth is not None:
        right = _numpy(data.labels == truth.labels)
        arrays["reliability_truth"] = true_reliability(_numpy(found.quality.double()), right)
    if data.kind == "images":
        arrays["worst_images"] = _numpy(data.inputs[worst])
        arrays["neighbour_images"] = _numpy(
            data.inputs[neighbours.flatten()].reshape(*neighbours.shape, *data.shape)
        )
    return arrays


def _planted_curve(found: Verdicts) -> np.ndarray:
    quality, planted = (_numpy(part.double()) for part in (found.quality, found.planted_quality))
    chance = right_by_chance(found.noise_rate, found.top.num_classes)
    return reliability(quality, planted, found.noise_rate, by_chance=chance)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
