from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from labelwise.audit import with_cleanlab
from labelwise.audit.estimate_arrays import transition_arrays
from labelwise.audit.external import ExternalConfig, audit_pred_probs, labels_table
from labelwise.audit.judge import CLUSTERED, clusterable, figures, judge
from labelwise.audit.posterior import denoised_labels, label_posterior, smoothed, with_mean
from labelwise.audit.run_files import read_labels
from labelwise.cli import app
from labelwise.data.dataset import NO_CLASS, Truth
from labelwise.data.load import load
from labelwise.data.neighbours import nearest_neighbours
from labelwise.errors import UserError
from labelwise.estimation.consensus import Consensus
from labelwise.estimation.estimator import Estimate, Evidence
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.noise.parse import parse

CLASSES = 4


def simulated(
    count: int, flatten: float = 1.0, rate: float = 0.3, seed: int = 0, ambiguity: float = 0.15
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities, given labels and truth of a world in which Bayes' rule is exact.

    True classes are drawn from calibrated p(x); labels go wrong by a class-dependent matrix. What
    is handed over is p to the power `flatten`, normalised: a model that is too flat or too sharp.
    """
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.full(CLASSES, ambiguity), count)
    p = np.clip(p, 1e-4, None)
    p /= p.sum(1, keepdims=True)
    matrix = transition(rate)
    true = (p.cumsum(1) > draw.random((count, 1))).argmax(1)
    given = (matrix[true].cumsum(1) > draw.random((count, 1))).argmax(1)
    shown = p**flatten
    shown /= shown.sum(1, keepdims=True)
    return torch.from_numpy(shown), torch.from_numpy(given), torch.from_numpy(true)


def transition(rate: float) -> np.ndarray:
    """Noise that goes to the next class more often than to the others."""
    off = np.full((CLASSES, CLASSES), rate / 2 / (CLASSES - 2))
    for row in range(CLASSES):
        off[row, (row + 1) % CLASSES] = rate / 2
        off[row, row] = 1 - rate
    return off


def estimate_of(matrix: np.ndarray) -> Estimate:
    return Estimate.from_joint("given", torch.from_numpy(matrix / len(matrix)))


def error_of_calibration(quality: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    place = np.minimum((quality * bins).astype(int), bins - 1)
    shares = [
        (place == b).mean() * abs(quality[place == b].mean() - right[place == b].mean())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(shares))


def test_posterior_is_bayes_rule() -> None:
    shown, given, _ = simulated(3000)
    top = TopProbabilities.of(shown, given)
    estimate = estimate_of(transition(0.3))
    found = label_posterior(top, estimate)
    assert found.temperature == pytest.approx(1.0, abs=0.1)
    matrix = smoothed(estimate, given)
    for row in range(50):  # the formula as a slow loop
        q = shown[row].clamp_min(1e-3 / CLASSES) ** (1 / found.temperature)
        weight = [float(q[j] * matrix[j, given[row]]) for j in range(CLASSES)]
        assert float(found.quality[row]) == pytest.approx(
            weight[int(given[row])] / sum(weight), abs=1e-4
        )
        predicted = int(shown[row].argmax())
        assert float(found.predicted[row]) == pytest.approx(
            weight[predicted] / sum(weight), abs=1e-4
        )


@pytest.mark.parametrize("flatten", [0.3, 1.0, 2.0])
def test_temperature_undoes_a_flat_or_sharp_model(flatten: float) -> None:
    shown, given, true = simulated(20_000, flatten)
    found = label_posterior(TopProbabilities.of(shown, given), estimate_of(transition(0.3)))
    assert found.temperature == pytest.approx(flatten, rel=0.12)
    right = (given == true).numpy()
    assert error_of_calibration(found.quality.double().numpy(), right) < 0.02
    if flatten != 1:
        own = shown.gather(1, given[:, None])[:, 0].numpy()
        assert error_of_calibration(own, right) > 0.05


def test_quality_rises_with_the_probability_of_the_given_label() -> None:
    base, given, _ = simulated(500)
    own = torch.linspace(0.01, 0.98, 40, dtype=torch.float64)
    row = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    rows = torch.cat([own[:, None], (1 - own)[:, None] * row[1:] / row[1:].sum()], dim=1)
    top = TopProbabilities.of(
        torch.cat([base, rows]), torch.cat([given, torch.zeros(40, dtype=torch.int64)])
    )
    quality = label_posterior(top, estimate_of(transition(0.3))).quality[-40:]
    assert (quality.diff() > 0).all()


def test_kept_probabilities_are_enough() -> None:
    draw = torch.Generator().manual_seed(0)
    true = torch.randint(0, 80, (2000,), generator=draw)
    logits = torch.randn(2000, 80, generator=draw)
    logits[torch.arange(2000), true] += 9
    given = torch.where(torch.rand(2000, generator=draw) < 0.2, (true + 7) % 80, true)
    full = judge(TopProbabilities.of(logits.softmax(1), given, keep=80))
    kept = judge(TopProbabilities.of(logits.softmax(1), given, keep=10))
    assert (full.posterior.quality - kept.posterior.quality).abs().mean() < 0.01
    assert (full.suspect == kept.suspect).double().mean() > 0.99
    assert kept.confidence.max() <= 1.0001


def test_a_sparse_estimate_gives_the_same_verdicts_as_even_noise() -> None:
    shown, given, _ = simulated(2000)
    even = np.full((CLASSES, CLASSES), 0.1) + 0.6 * np.eye(CLASSES)
    top = TopProbabilities.of(shown, given)
    dense = label_posterior(top, estimate_of(even))
    joint = torch.from_numpy(even / CLASSES).to_sparse()
    sparse = label_posterior(top, Estimate.from_joint("given", joint))
    assert (dense.quality - sparse.quality).abs().max() < 1e-3


def test_interval_and_expected_precision_hold_the_truth() -> None:
    for seed in range(4):
        shown, given, true = simulated(2000, rate=0.2, seed=seed, ambiguity=0.03)
        verdict = judge(TopProbabilities.of(shown, given), seed=seed)
        wrong = (given != true).numpy()
        low, high = verdict.interval
        assert low <= wrong.mean() <= high
        assert high - low < 0.15
        precision = wrong[verdict.suspect.numpy()].mean()
        assert verdict.expected_precision == pytest.approx(precision, abs=0.08)
        again = judge(TopProbabilities.of(shown, given), seed=seed)
        assert again.interval == verdict.interval


def cross_validated(noise: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-sample probabilities of neighbour votes on digits, given labels and truth."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    data = load("digits").data
    given = parse(noise).corrupt(data, 0).labels.numpy()
    inputs = data.inputs.numpy().reshape(len(data), -1) / 255
    model = KNeighborsClassifier(15)
    table = cross_val_predict(model, inputs, given, cv=5, method="predict_proba")
    return table.astype(np.float32), given, data.labels.numpy()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with instance-dependent noise as .npz, and probabilities, features and labels."""
    folder = tmp_path_factory.mktemp("digits")
    table, given, true = cross_validated("instance:0.4")
    images = load("digits").data.inputs.numpy()[:, 0]
    np.savez(folder / "digits.npz", images=images, labels=given, truth=true)
    np.save(folder / "probs.npy", table)
    np.save(folder / "features.npy", images.reshape(len(images), -1).astype(np.float32))
    frame = pd.DataFrame({"id": np.arange(len(given)) + 1000, "label": given, "true": true})
    frame.to_csv(folder / "labels.csv", index=False)
    scores = pd.DataFrame(table, columns=[str(k) for k in range(10)]).assign(id=frame["id"])
    scores.sample(frac=1, random_state=0).to_parquet(folder / "probs.parquet", index=False)
    return folder


@pytest.mark.parametrize(("noise", "bound"), [("symmetric:0.5", 0.03), ("instance:0.4", 0.08)])
def test_calibrated_on_digits_and_ranks_better_than_self_confidence(
    noise: str, bound: float
) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    table, given, true = cross_validated(noise)
    verdict = judge(TopProbabilities.of(torch.from_numpy(table), torch.from_numpy(given)))
    wrong = given != true
    quality = verdict.posterior.quality.double().numpy()
    own = table[np.arange(len(given)), given]
    assert error_of_calibration(quality, ~wrong) < bound < error_of_calibration(own, ~wrong)
    assert roc_auc_score(wrong, -quality) > roc_auc_score(wrong, -own)
    assert average_precision_score(wrong, -quality) > average_precision_score(wrong, -own)


def test_neighbours_find_what_the_model_has_learnt() -> None:
    from sklearn.metrics import roc_auc_score

    table, given, true = cross_validated("asymmetric:0.4")
    data = load("digits").data
    features = data.inputs.flatten(1).float()
    top = TopProbabilities.of(torch.from_numpy(table), torch.from_numpy(given))
    wrong = given != true
    alone, helped = judge(top), judge(top, features)
    found = [
        (
            roc_auc_score(wrong, -v.posterior.quality.numpy()),
            error_of_calibration(v.posterior.quality.double().numpy(), ~wrong),
        )
        for v in (alone, helped)
    ]
    assert found[0][0] < 0.9 < 0.98 < found[1][0]
    assert found[1][1] < 0.06 < found[0][1]
    low, high = helped.interval
    assert low <= wrong.mean() <= high
    assert float(1 - helped.posterior.quality.mean()) == pytest.approx(helped.estimate.noise_rate)
    assert "transition_low" in transition_arrays(helped.estimate, len(top))
    assert "transition_low" in transition_arrays(alone.estimate, len(top))
    misleading = judge(top, torch.randn(features.shape, generator=torch.Generator().manual_seed(0)))
    assert "features not used for the noise rate" in misleading.notes[0]
    assert torch.equal(misleading.posterior.quality, alone.posterior.quality)


def consensus_of(
    top: TopProbabilities, features: torch.Tensor
) -> tuple[Estimate, torch.Tensor, float]:
    near = nearest_neighbours(features, 10)[0]
    estimate = Consensus().estimate(Evidence(top, near))
    return estimate, near, clusterable(top, estimate, near)


@pytest.mark.parametrize("noise", ["asymmetric:0.4", "instance:0.6", "symmetric:0.5"])
def test_features_are_used_where_neighbours_are_of_one_class(noise: str) -> None:
    table, given, true = cross_validated(noise)
    top = TopProbabilities.of(torch.from_numpy(table), torch.from_numpy(given))
    features = load("digits").data.inputs.flatten(1).float()
    rate, draw = (given != true).mean(), torch.Generator().manual_seed(0)
    estimate, near, purity = consensus_of(top, features)
    assert purity > 0.91 > CLUSTERED
    assert estimate.noise_rate == pytest.approx(rate, abs=0.05)
    # What denoising is for: far more of the labels are right than were given.
    denoised = denoised_labels(top, estimate, near).numpy()
    assert (denoised == true).mean() > 0.85 > 0.6 > (denoised == given).mean()
    for width, most in ((2, 0.75), (1, 0.3)):  # digits seen through a keyhole
        weak = features @ torch.randn(features.shape[1], width, generator=draw)
        estimate, _, purity = consensus_of(top, weak)
        assert estimate.noise_rate > rate + 0.05
        assert purity < most < CLUSTERED
        verdict = judge(top, weak)
        assert verdict.estimate.name == "confident_joint"
        assert f"(agreement {purity:.2f}, at least 0.88 is needed)" in verdict.notes[0]


def test_agreement_of_one_class_is_that_of_chance() -> None:
    shown, given, _ = simulated(400)
    top = TopProbabilities.of(shown * 0 + torch.tensor([0.97, 0.01, 0.01, 0.01]), given)
    near = torch.randint(400, (400, 10), generator=torch.Generator().manual_seed(0))
    even = Estimate.from_joint("given", torch.full((4, 4), 1 / 16).double())
    assert clusterable(top, even, near) == 0


def test_shifted_quality_has_the_mean_and_keeps_the_order() -> None:
    quality = torch.rand(500, generator=torch.Generator().manual_seed(0))
    shifted, others = with_mean(quality, 0.8, quality[:50])
    assert torch.equal(others, shifted[:50])
    assert float(shifted.mean()) == pytest.approx(0.8, abs=1e-5)
    assert torch.equal(shifted.argsort(), quality.argsort())


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    return done.exit_code, done.output


def test_command_writes_the_folder_of_a_run(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text = run(
        digits / "digits.npz",
        *("--pred-probs", digits / "probs.npy", "--features", digits / "features.npy"),
        *("--out", out),
    )
    assert code == 0, text
    assert "labels look wrong" in text
    assert "are expected to be" in text
    summary = json.loads((out / "summary.json").read_text())
    table = pd.read_parquet(out / "labels.parquet")
    assert list(table.columns) == [
        *("id", "given_label", "label_quality", "predicted_label", "suggested_label"),
        *("suggestion_confidence", "is_suspect", "true_label"),
    ]
    assert len(table) == len(pd.read_csv(out / "labels.csv")) == summary["num_samples"] == 1797
    wrong = table["given_label"] != table["true_label"]
    suspect = table["is_suspect"]
    assert summary["num_suspects"] == suspect.sum()
    assert summary["suspect_precision"] == pytest.approx(wrong[suspect].mean())
    assert summary["suspect_recall"] == pytest.approx(suspect[wrong].mean())
    assert summary["expected_precision"] == pytest.approx(
        1 - table["label_quality"][suspect].mean(), abs=1e-4
    )
    low, high = summary["noise_rate_interval"]
    assert low < summary["realised_noise_rate"] < high
    assert ((table["suggested_label"] != table["given_label"]) == suspect).all()
    with np.load(out / "evidence.npz") as arrays:
        assert arrays["worst_images"].shape == (60, 1, 8, 8)
        assert arrays["neighbours"].shape == (60, 3)
        assert not (arrays["neighbours"] == arrays["worst"][:, None]).any()
        worst = arrays["worst"]
        images = np.load(digits / "digits.npz")["images"]
        assert (arrays["worst_images"][:, 0] == images[worst]).all()
        assert (arrays["neighbour_images"][:, :, 0] == images[arrays["neighbours"]]).all()
        assert arrays["evidence"].shape == (1797, 3)
        assert arrays["evidence_names"].tolist()[1:] == ["label posterior", "neighbour vote"]
        vote = arrays["evidence"][:, 2]
        assert np.isfinite(vote[worst]).all()
        assert np.isfinite(vote).sum() == 60
        assert (arrays["transition_low"] <= arrays["transition_high"]).all()
        assert len(arrays["pair_rows"]) == 20
        assert arrays["duplicate_images"].shape[1:] == (2, 1, 8, 8)
    assert table["label_quality"][worst].max() <= table["label_quality"].nsmallest(61).max()
    page = (out / "report.html").read_text()
    assert "Judged by the probabilities in" in page
    assert f"and the features in {digits / 'features.npy'}." in page
    assert "neighbour vote" in page
    assert "for 0 epochs" not in page
    assert "How training went" not in page
    assert "#curves" not in page
    assert "Expected wrong labels" in page
    assert "labelwise audit" in page
    assert f"Report: {out / 'report.html'}" in text
    described = json.loads((out / "config.json").read_text())
    assert described["config"]["method"] == "pred-probs"
    assert "--pred-probs" in described["command"]
    code, text = run(digits / "digits.npz", "--pred-probs", digits / "probs.npy", "--out", out)
    assert code == 2
    assert "is in use" in text


def test_rows_of_any_order_limits_and_labels_without_inputs(digits: Path, tmp_path: Path) -> None:
    tables = []
    for name, data, probs in (
        ("a", "digits.npz", "probs.npy"),
        ("b", "labels.csv", "probs.parquet"),
    ):
        config = ExternalConfig(str(digits / data), digits / probs, limit=600, seed=3)
        summary = audit_pred_probs(config, tmp_path / name)
        assert summary["num_samples"] == 600
        assert (tmp_path / name / "report.html").exists()
        tables.append(pd.read_parquet(tmp_path / name / "labels.parquet"))
    first, second = tables
    assert (second["id"] - 1000).tolist() == first["id"].tolist()
    assert "true_label" not in second.columns
    for name in ("given_label", "label_quality", "suggested_label", "is_suspect"):
        assert first[name].tolist() == second[name].tolist()


def test_comparison_with_cleanlab(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    out = tmp_path / "out"
    code, text = run(
        digits / "labels.csv",
        *("--pred-probs", digits / "probs.parquet", "--truth-column", "true"),
        *("--compare", "cleanlab", "--out", out),
    )
    assert code == 0, text
    summary = json.loads((out / "summary.json").read_text())
    theirs = summary["cleanlab"]
    table = np.load(digits / "probs.npy").astype(np.float64)
    labels = pd.read_csv(digits / "labels.csv")
    given, wrong = labels["label"].to_numpy(), (labels["label"] != labels["true"]).to_numpy()
    from sklearn.metrics import roc_auc_score

    own = table[np.arange(len(given)), given]
    assert theirs["label_error_auroc"] == pytest.approx(roc_auc_score(wrong, -own), abs=1e-6)
    assert theirs["num_in_both"] <= min(theirs["num_issues"], summary["num_suspects"])
    assert "cleanlab " + theirs["version"] in text
    assert f"{theirs['num_in_both']:,} labels are in both" in text


def test_comparison_says_what_is_missing(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (digits / "digits.npz", "--pred-probs", digits / "probs.npy")
    code, text = run(*arguments, "--compare", "cleanlb")
    assert code == 2
    assert "Did you mean 'cleanlab'" in text
    monkeypatch.setattr(with_cleanlab, "MOST_BYTES", 1000)
    code, text = run(*arguments, "--compare", "cleanlab", "--out", tmp_path / "a")
    assert code == 2
    assert "Use --limit 25" in text
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'labelwise\[cleanlab\]'"):
        with_cleanlab.require_cleanlab()


def test_command_says_what_is_wrong(digits: Path, tmp_path: Path) -> None:
    code, text = run(digits / "digits.npz", "--compare", "cleanlab")
    assert code == 2
    assert "--compare needs --pred-probs" in text
    code, text = run(digits / "digits.npz", "--pred-probs", digits / "features.npy")
    assert code == 2
    assert "64 columns, the data 10 classes" in text
    code, text = run(
        digits / "digits.npz",
        *("--pred-probs", digits / "probs.npy", "--features", digits / "probs.parquet"),
        *("--out", tmp_path / "out"),
    )
    assert code == 2
    assert "give an .npy or .npz" in text
    assert not (tmp_path / "out").exists()


def test_samples_of_no_class_have_no_true_label(tmp_path: Path) -> None:
    shown, given, true = simulated(100)
    true[:7] = NO_CLASS
    data = load((torch.randn(100, 3), given)).data
    verdict = judge(TopProbabilities.of(shown, given))
    table = labels_table(data, verdict, Truth(true))
    assert table["true_label"].isna().tolist() == [True] * 7 + [False] * 93
    table.to_parquet(tmp_path / "labels.parquet")
    assert read_labels(tmp_path / "labels.parquet", data.classes).truth.tolist() == true.tolist()
    figures_of = figures(verdict, Truth(true))
    assert figures_of["realised_noise_rate"] == pytest.approx(float((given != true).float().mean()))
    table["true_label"] = table["true_label"].replace(data.classes[0], "a stranger")
    table.to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(UserError, match="true_label holds a class that config"):
        read_labels(tmp_path / "labels.parquet", data.classes)
