"""The run folder is the whole truth of a run: its files, columns and keys are a promise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import labelwise
from labelwise.config import Schedule
from labelwise.methods import known_methods, parse_method
from support import flip_labels, tiny_embeddings, tiny_images

FILES = {
    "config.json",
    "metrics.jsonl",
    "labels.parquet",
    "labels.csv",
    "summary.json",
    "report.html",
    "evidence.npz",
    "pred_probs.npy",
    "model",
    "checkpoint",
}
COLUMNS = [
    "id",
    "given_label",
    "label_quality",
    "predicted_label",
    "suggested_label",
    "suggestion_confidence",
    "is_suspect",
]
ALWAYS = {
    "method",
    "seed",
    "data",
    "num_samples",
    "epochs",
    "estimated_noise_rate",
    "num_suspects",
    "wall_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "notes",
    "decisions",
}
TESTED = {"test_accuracy_last", "test_accuracy_best", "test_accuracy_last_epochs"}
WITH_TRUTH = {
    "realised_noise_rate",
    "label_error_auroc",
    "label_error_average_precision",
    "suspect_recall",
    "label_accuracy_given",
    "label_accuracy_suggested",
}
WITH_SUSPECTS = {"suspect_precision", "suggestion_accuracy"}
FRACTIONS = (
    WITH_TRUTH
    | WITH_SUSPECTS
    | {"test_accuracy_last", "test_accuracy_best", "estimated_noise_rate"}
)
EPOCHS = 4
CASES = [(m, k, t) for m in ("ce", "dividemix") for k in ("images", "embeddings") for t in (0, 1)]


@pytest.fixture(
    scope="module", params=CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'truth' if c[2] else 'plain'}"
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run, and whether it knew the truth."""
    method, kind, truth = request.param
    make = tiny_images if kind == "images" else tiny_embeddings
    data = make(100, wrong=0.0)
    folder = tmp_path_factory.mktemp("run")
    true = np.array(data.classes)[data.labels.numpy()]
    given = np.array(data.classes)[flip_labels(data.labels, data.num_classes, 0.3).numpy()]
    ids = np.array([f"id {k}" for k in range(100)])
    arrays = {kind: data.inputs.numpy(), "labels": given, "ids": ids}
    np.savez(folder / "data.npz", **arrays, **({"truth": true} if truth else {}))
    result = labelwise.fit(
        folder / "data.npz",
        method=method,
        epochs=EPOCHS,
        batch_size=16,
        threads=1,
        out=folder / "run",
    )
    return result, bool(truth)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def no_number_outside(value: Any) -> None:
    """JSON for other programs holds neither NaN nor infinity."""
    if isinstance(value, dict):
        for item in value.values():
            no_number_outside(item)
    elif isinstance(value, list):
        for item in value:
            no_number_outside(item)
    elif isinstance(value, float):
        assert math.isfinite(value)


def test_every_file_is_there_and_none_else(run: Any) -> None:
    result, _ = run
    assert {path.name for path in result.path.iterdir()} == FILES
    everything = [path.name for path in result.path.rglob("*")]
    assert not [name for name in everything if name.endswith(".part")]


def test_config_says_what_was_used(run: Any) -> None:
    result, truth = run
    described = read(result.path / "config.json")
    expected = {
        "config",
        "config_digest",
        "data",
        "noise",
        "citation",
        "versions",
        "hardware",
        "commit",
    }
    assert expected <= set(described)
    no_number_outside(described)
    config, data = described["config"], described["data"]
    assert set(config["schedule"]) == set(Schedule.model_fields)
    assert config["schedule"]["epochs"] == EPOCHS
    settings = known_methods()[config["method"]].Settings.model_fields
    assert set(config["settings"]) == {f"{config['method']}.{name}" for name in settings}
    assert config["model"] != "auto"
    assert config["device"] != "auto"
    assert config["precision"] != "auto"
    assert {"python", "labelwise", "torch", "numpy"} <= set(described["versions"])
    assert len(data["label_hash"]) == 64
    assert data["truth_known"] is truth
    assert data["num_samples"] == len(result.labels)
    assert data["num_samples"] + data["num_test"] == 100


def test_metrics_have_a_line_per_epoch(run: Any) -> None:
    result, truth = run
    lines = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    for row in rows:
        no_number_outside(row)
        assert {"lr", "images", "notes", "phase_seconds"} <= set(row)
        assert all(seconds >= 0 for seconds in row["phase_seconds"].values())
        assert any(name.count("/") == 1 for name in row), "no loss term"
        assert ("test_accuracy" in row) is truth
        for name, value in row.items():
            if name == "test_accuracy" or name.startswith(("clean_fraction", "estimated_noise")):
                assert 0 <= value <= 1, name
    images = [row["images"] for row in rows]
    assert images == sorted(images)
    if result.summary["method"] == "dividemix":
        assert any(name.startswith("clean_fraction") for name in rows[-1])


def test_labels_have_a_row_per_training_sample(run: Any) -> None:
    result, truth = run
    table = pd.read_parquet(result.path / "labels.parquet")
    assert list(table.columns) == COLUMNS + (["true_label"] if truth else [])
    assert len(table) == result.summary["num_samples"]
    assert table["id"].is_unique
    assert table["id"].str.startswith("id ").all()
    assert not table.isna().any().any()
    assert table["is_suspect"].dtype == bool
    for column in ("label_quality", "suggestion_confidence"):
        assert table[column].between(0, 1).all()
    names = set(result.classes)
    for column in table.columns:
        if column.endswith("_label"):
            assert set(table[column]) <= names


def test_a_suspect_is_what_the_readme_says(run: Any) -> None:
    table = run[0].labels
    other = table["predicted_label"] != table["given_label"]
    expected = (table["label_quality"] < 0.5) & other
    # The table rounds the quality to six places.
    clear = (table["label_quality"] - 0.5).abs() > 1e-6
    assert (expected == table["is_suspect"])[clear].all()
    suggested = table["predicted_label"].where(table["is_suspect"], table["given_label"])
    assert (suggested == table["suggested_label"]).all()


def test_csv_and_parquet_hold_the_same(run: Any) -> None:
    path = run[0].path
    parquet = pd.read_parquet(path / "labels.parquet")
    csv = pd.read_csv(path / "labels.csv")
    assert list(csv.columns) == list(parquet.columns)
    for column in csv.columns:
        if parquet[column].dtype.kind == "f":
            np.testing.assert_allclose(csv[column], parquet[column], atol=1e-6)
        else:
            assert csv[column].tolist() == parquet[column].tolist()


def test_the_summary_has_every_key_and_fractions_lie_in_0_to_1(run: Any) -> None:
    result, truth = run
    summary = read(result.path / "summary.json")
    no_number_outside(summary)
    assert set(summary) >= ALWAYS | ((TESTED | WITH_TRUTH) if truth else set())
    if not truth:
        assert not (WITH_TRUTH | WITH_SUSPECTS | TESTED) & set(summary)
    for name in FRACTIONS & set(summary):
        assert 0 <= summary[name] <= 1, name
    assert (set(summary) >= WITH_SUSPECTS) is (truth and summary["num_suspects"] > 0)
    for name in ("wall_seconds", "images_per_second", "peak_memory_bytes"):
        assert summary[name] > 0, name


def test_the_summary_agrees_with_the_tables(run: Any) -> None:
    result, truth = run
    table, summary = result.labels, result.summary
    lines = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert summary["num_suspects"] == table["is_suspect"].sum()
    assert summary["estimated_noise_rate"] == pytest.approx(
        1 - table["label_quality"].mean(), abs=1e-5
    )
    assert summary["epochs"] == EPOCHS
    if not truth:
        return
    wrong = table["given_label"] != table["true_label"]
    right = table["suggested_label"] == table["true_label"]
    assert summary["realised_noise_rate"] == pytest.approx(wrong.mean())
    assert summary["label_accuracy_suggested"] == pytest.approx(right.mean())
    assert summary["suspect_recall"] == pytest.approx(table["is_suspect"][wrong].mean())
    accuracy = [row["test_accuracy"] for row in rows]
    assert summary["test_accuracy_last"] == pytest.approx(np.mean(accuracy[-10:]))
    assert summary["test_accuracy_best"] == max(accuracy)


def test_the_report_is_one_page_that_opens_offline(run: Any) -> None:
    page = (run[0].path / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    for outside in ('src="http', 'href="http', "url(http", "@import"):
        assert outside not in page


def test_the_model_is_what_is_needed_to_predict(run: Any) -> None:
    result, _ = run
    described = read(result.path / "model" / "model.json")
    count = described["num_networks"]
    names = {"model.json", *(f"network-{number}.pt" for number in range(count))}
    assert {path.name for path in (result.path / "model").iterdir()} == names
    assert count == parse_method(described["method"], described["settings"]).num_peers
    assert tuple(described["classes"]) == result.classes
    for number in range(count):
        state = torch.load(result.path / "model" / f"network-{number}.pt", weights_only=True)
        assert all(value.device.type == "cpu" for value in state.values())
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_at_most_two_checkpoints_are_kept(run: Any) -> None:
    folder = run[0].path / "checkpoint"
    assert (folder / "LAST").exists()
    assert 1 <= len(list(folder.glob("*.pt"))) <= 2


def test_evidence_is_read_without_pickle(run: Any) -> None:
    result, _ = run
    with np.load(result.path / "evidence.npz", allow_pickle=False) as arrays:
        assert {"loss", "loss_grid", "loss_density", "worst", "neighbours", "similarity"} <= set(
            arrays
        )
        assert arrays["loss"].shape == (len(result.labels),)
        quality = result.labels["label_quality"].to_numpy()
        # Qualities that differ by less are ordered by the probability of the given label.
        assert quality[arrays["worst"][0]] <= quality.min() + 1e-3 + 1e-6
