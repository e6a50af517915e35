"""What theory and the papers promise, on digits: wrong labels are learnt late, and can be found.

Cross-entropy ends near the accuracy of its labels, because it learns the wrong ones too; methods
for noisy labels must end clearly above it, and must repair labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import labelwise


@dataclass(frozen=True)
class Case:
    """Digits with wrong labels, and untouched ones for testing."""

    inputs: np.ndarray
    given: np.ndarray
    truth: np.ndarray
    test_inputs: np.ndarray
    test_truth: np.ndarray


def digits(seed: int, num: int, rate: float, *, images: bool) -> Case:
    """Draw a training set, redraw `rate` of its labels from all classes, and a test set."""
    values, labels = load_digits(return_X_y=True)
    inputs = values.astype(np.float32)
    if images:
        inputs = (values.reshape(-1, 8, 8) * 15).astype(np.uint8)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(labels))
    train, test = order[:num], order[num : num + 400]
    given = labels[train].copy()
    redrawn = draw.permutation(num)[: round(rate * num)]
    given[redrawn] = draw.integers(0, 10, len(redrawn))
    return Case(inputs[train], given, labels[train], inputs[test], labels[test])


@dataclass(frozen=True)
class Figures:
    """What a run achieved."""

    accuracy: float
    repaired: float
    quality: np.ndarray


def run(case: Case, method: str, out: Path, **options: Any) -> Figures:
    """Train for a short while; measure what was never shown."""
    result = labelwise.fit(
        case.inputs, case.given, method=method, out=out, threads=1, checkpoint_every=1e6, **options
    )
    classes = np.array([int(name) for name in result.classes])
    predicted = classes[result.predict_proba(case.test_inputs).argmax(1)]
    table = result.labels
    suggested = table["suggested_label"].astype(int).to_numpy()
    assert list(table["id"]) == list(range(len(case.given)))
    return Figures(
        accuracy=float((predicted == case.test_truth).mean()),
        repaired=float((suggested == case.truth).mean()),
        quality=table["label_quality"].to_numpy(),
    )


def test_dividemix_beats_cross_entropy(tmp_path: Path) -> None:
    case = digits(seed=0, num=600, rate=0.4, images=False)
    options = {"epochs": 30, "batch_size": 32, "seed": 0}
    plain = run(case, "ce", tmp_path / "ce", **options)
    divided = run(case, "dividemix", tmp_path / "dividemix", **options)
    right = case.given == case.truth
    given = float(right.mean())
    assert plain.accuracy < given + 0.15, "cross-entropy should have learnt wrong labels by now"
    assert divided.accuracy > plain.accuracy + 0.07
    assert divided.accuracy > 0.82
    assert divided.repaired > given + 0.1, "suggestions should be better than the given labels"
    # The audit reads plain training by its whole course, so that its suggestions are good too.
    assert divided.repaired > 0.9
    assert divided.repaired > plain.repaired + 0.02
    assert divided.quality[right].mean() > divided.quality[~right].mean() + 0.4


def test_everything_is_learnt_from_clean_labels(tmp_path: Path) -> None:
    """Without noise no method may do harm, and few labels may be doubted."""
    case = digits(seed=1, num=600, rate=0.0, images=False)
    for method in ("ce", "mixup"):
        figures = run(case, method, tmp_path / method, epochs=15, batch_size=32)
        assert figures.accuracy > 0.93, method
        assert figures.repaired > 0.97, method


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["dividemix", "coteaching", "coteaching+", "mixup"])
def test_methods_beat_cross_entropy_on_images(tmp_path: Path, method: str, seed: int) -> None:
    """Long enough for cross-entropy to have learnt its labels by heart."""
    case = digits(seed, num=800, rate=0.5, images=True)
    plain = run(case, "ce", tmp_path / "ce", epochs=100, seed=seed)
    robust = run(case, method, tmp_path / "robust", seed=seed)
    margin = {"dividemix": 0.1, "mixup": 0.0}.get(method, 0.05)
    assert robust.accuracy > plain.accuracy + margin


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_scanmix_learns_from_labels_of_which_most_are_wrong(tmp_path: Path, seed: int) -> None:
    """81 % wrong: DivideMix alone loses classes, and its clean side fills with wrong labels."""
    options: dict[str, Any] = {"noise": "symmetric:0.9", "seed": seed, "plant": 0, "threads": 1}
    options["epochs"] = 30
    found = {
        method: labelwise.fit("digits", method=method, out=tmp_path / method, **options).summary
        for method in ("dividemix", "scanmix")
    }
    assert found["scanmix"]["test_accuracy_last"] > 0.93
    assert found["scanmix"]["test_accuracy_last"] > found["dividemix"]["test_accuracy_last"] + 0.1
    assert found["scanmix"]["label_error_auroc"] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["symmetric:0.5", "instance:0.4"])
@pytest.mark.parametrize("seed", range(3))
def test_masking_keeps_plain_training_from_wrong_labels(
    tmp_path: Path, noise: str, seed: int
) -> None:
    """SANM around cross-entropy ends above it and finds more of the wrong labels."""
    options: dict[str, Any] = {"noise": noise, "seed": seed, "plant": 0, "threads": 1}
    found = {
        method: labelwise.fit("digits", method=method, out=tmp_path / method, **options).summary
        for method in ("ce", "sanm+ce")
    }
    assert found["sanm+ce"]["test_accuracy_last"] > found["ce"]["test_accuracy_last"] + 0.03
    assert found["sanm+ce"]["label_error_auroc"] > found["ce"]["label_error_auroc"]


@pytest.mark.slow
def test_anchors_mend_labels_that_depend_on_the_sample(tmp_path: Path) -> None:
    """Semantic noise is on the hard samples: half of what is wrong is to be mended."""
    figures = {}
    for method in ("ce", "hallucination"):
        result = labelwise.fit(
            "digits",
            method=method,
            noise="semantic:0.4",
            seed=0,
            plant=0,
            threads=1,
            out=tmp_path / method,
        )
        figures[method] = result.summary["test_accuracy_last"]
    rows = [json.loads(line) for line in (tmp_path / "hallucination" / "metrics.jsonl").open()]
    assert figures["hallucination"] > figures["ce"] + 0.12
    assert rows[-1]["corrected_right"] > 0.9
    assert rows[-1]["wrong_mended"] > 0.35
