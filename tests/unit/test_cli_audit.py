"""`labelwise audit` and `diagnose`: options that do not go together, and a run to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result as Outcome
from typer.testing import CliRunner

from labelwise import cli, diagnosis, estimator
from labelwise.cli import audit as commands
from labelwise.config import RunConfig
from support import tiny_embeddings

SHORT = ("--epochs", "2", "--threads", "1")


def call(*words: object, code: int = 0) -> Outcome:
    """Run a command in this process; unexpected exceptions are not swallowed."""
    outcome = CliRunner().invoke(cli.app, [str(word) for word in words])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == code, outcome.output
    return outcome


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings with given and true labels, the truth of some being of none of the classes."""
    data = tiny_embeddings(120)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    frame = pd.DataFrame(data.inputs.numpy(), columns=[f"x{n}" for n in range(6)])
    names = np.array(["ant", "bee", "cow", "dog"])
    frame.insert(0, "label", names[data.labels.numpy()])
    frame.insert(1, "better", names[np.arange(120) % 4])
    frame.loc[:9, "better"] = ""
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quick", "--method", "ce"], "--quick trains plainly: leave it or --method ce away"),
        (["--compare", "cleanlab"], "--compare needs --pred-probs"),
        (["--compare", "cleanlap", "--pred-probs", "p.npy"], "Did you mean 'cleanlab'?"),
        (["--features", "f.npy"], "--features belongs to --pred-probs"),
        (["--pred-probs-are", "logits"], "--pred-probs-are belongs to --pred-probs"),
        *[
            (["--pred-probs", "p.npy", *words], f"{words[0]} belongs to a training")
            for words in (
                ["--quick"],
                ["--method", "ce"],
                ["--noise", "symmetric:0.2"],
                ["--epochs", "3"],
                ["--image-size", "32"],
                ["--model", "mlp"],
                ["--on-bad-image", "skip"],
                ["--plant", "0"],
            )
        ],
        (["--pred-probs", "p.npy"], "p.npy does not exist"),
        (["--quick", "--plant", "0.5"], "plant = 0.5"),
        (["--quick", "--plant", "-0.1"], "plant = -0.1"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call("audit", "digits", *options, "--out", out, code=2)
    assert said in done.stderr
    assert done.stdout == ""
    assert not out.exists()


def test_the_default_share_of_planted_labels_is_that_of_every_run() -> None:
    assert RunConfig.model_fields["plant"].default == commands.PLANT


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for command in (["audit", "digits", "--quick"], ["diagnose", "digits"]):
        assert "is in use" in call(*command, "--out", tmp_path, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_audit_apply_and_report_with_an_unclassed_truth(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("audit", table, "--quick", "--label-column", "label", "--truth-column", "better")
    summary = json.loads(call(*words, "--plant", "0.2", *SHORT, "--out", out, "--json").stdout)
    assert summary["method"] == "quick"
    assert summary["num_planted"] == round(0.2 * summary["num_samples"])
    assert summary["num_foreign"] == 10  # all of them: they cannot be tested on
    assert any("10 samples without a true label" in note for note in summary["notes"])
    labels = pd.read_parquet(out / "labels.parquet")
    assert labels["true_label"].isna().sum() == 10
    assert summary["realised_noise_rate"] == pytest.approx(
        (labels["given_label"] != labels["true_label"]).mean()
    )
    assert np.load(out / "pred_probs.npy").shape == (len(labels), 4)
    (out / "report.html").unlink()
    call("report", out)
    assert (out / "report.html").exists()
    clean = tmp_path / "clean.csv"
    call("apply", out, "--undecided", "suggest", "--out", clean)
    assert pd.read_csv(clean)["label"].tolist() == labels["suggested_label"].tolist()


def test_the_report_speaks_of_what_was_judged(table: Path, tmp_path: Path) -> None:
    probs = np.full((120, 4), 0.1) + 0.6 * np.eye(4)[np.arange(120) % 4]
    np.save(tmp_path / "p.npy", probs)
    options = ("--label-column", "label", "--truth-column", "better", "--threads", "1")
    given = ("--pred-probs", tmp_path / "p.npy")
    summary = json.loads(
        call("audit", table, *options, *given, "--out", tmp_path / "a", "--json").stdout
    )
    assert summary["realised_noise_rate"] > 10 / 120
    call("audit", table, "--quick", *options, "--epochs", "2", "--out", tmp_path / "b")
    outside, trained = ((tmp_path / name / "report.html").read_text() for name in "ab")
    for words in ("How surprised the networks are", "the final networks", "views, neighbours"):
        assert words in trained
        assert words not in outside
    for words in ("How surprised the model is", "the probabilities that were given"):
        assert words in outside
        assert words not in trained


@pytest.mark.parametrize("command", ["audit", "diagnose"])
def test_ctrl_c_leaves_with_130(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise estimator.Interrupted("stopped")

    monkeypatch.setattr(estimator, "fit", stop)
    monkeypatch.setattr(diagnosis, "diagnose", stop)
    done = call(command, "digits", "--out", tmp_path / "run", code=130)
    assert "stopped" in done.stderr
    assert ("labelwise resume" in done.stderr) == (command == "audit")


def test_the_unknown_home_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["audit", "--quick"], ["fit"], ["diagnose"]):
        assert "does not exist" in call(*words, "~nobody-here/x", code=2).stderr
