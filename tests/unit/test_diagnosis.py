"""A short look at the labels: the rules of the advice, the budget, and what is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from labelwise import cli, diagnosis
from labelwise.advice import FEW, FEW_PER_CLASS, Advice, advise
from labelwise.binding import bind
from labelwise.config import RunConfig
from labelwise.diagnosis import Diagnosis, diagnose
from labelwise.errors import UserError
from labelwise.experiment import prepare
from labelwise.methods import parse_method
from labelwise.methods.quick import FEWEST
from support import tiny_embeddings

NOISE, SEED = "instance:0.4", 3


def advice(**changed: Any) -> Advice:
    """Advice on 1,000 samples of ten classes, a third of them wrong, but for what is changed."""
    known: dict[str, Any] = {
        "rate": 0.33,
        "interval": (0.3, 0.36),
        "estimates": {"consensus": 0.33, "dual": 0.31},
        "largest_pair": 0.01,
        "num_samples": 1000,
        "num_classes": 10,
        "class_sizes": torch.full((10,), 100),
    }
    return advise(**(known | changed))


@pytest.mark.parametrize(
    ("changed", "method", "settings", "said"),
    [
        ({}, "dividemix", {}, "spread over many classes"),
        ({"rate": 0.029, "interval": (0.0, 0.05)}, "ce", {}, "hardly any label"),
        ({"rate": 0.031, "interval": (0.0, 0.05)}, "dividemix", {}, "spread"),
        ({"rate": 0.71, "interval": (0.65, 0.75)}, "dividemix", {}, "severe"),
        ({"largest_pair": 0.05}, "dividemix", {"confidence_penalty": 1}, "5.0% of all labels"),
        # Of two classes one confusion always makes most of the noise.
        (
            {"largest_pair": 0.2, "num_classes": 2, "class_sizes": torch.tensor([500, 500])},
            "dividemix",
            {},
            "spread",
        ),
        ({"num_samples": FEW - 1}, None, {}, f"at least {FEW}"),
        ({"class_sizes": torch.tensor([7, *[100] * 9])}, None, {}, "1 of 10 classes has fewer"),
        ({"class_sizes": torch.tensor([0, 7, *[99] * 8])}, None, {}, "2 of 10 classes have fewer"),
        ({"class_sizes": torch.full((10,), FEW_PER_CLASS)}, "dividemix", {}, "spread"),
        ({"interval": (0.2, 0.5)}, None, {}, "from 31% (dual) to 33% (consensus)"),
        ({"interval": (0.2, 0.5), "estimates": {"consensus": 0.33}}, None, {}, "20% and 50%"),
    ],
)
def test_the_advice_follows_its_rules(
    changed: dict[str, Any], method: str | None, settings: dict[str, Any], said: str
) -> None:
    found = advice(**changed)
    assert found.method == method
    assert found.settings == settings
    assert said in " ".join(found.reasons)
    assert found.interval == changed.get("interval", (0.3, 0.36))
    assert any("cannot tell" in reason for reason in found.reasons) == (method is None)
    if method is not None:
        parse_method(method, settings)  # what is recommended exists


def test_too_few_samples_are_one_doubt_and_not_two() -> None:
    found = advice(num_samples=15, interval=(0.0, 1.0))
    assert len([reason for reason in found.reasons if "cannot tell" in reason]) == 1


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Diagnosis, Path]:
    out = tmp_path_factory.mktemp("diagnosis") / "run"
    return diagnose("digits", noise=NOISE, seed=SEED, threads=1, out=out), out


def test_digits_are_diagnosed_soundly(found: tuple[Diagnosis, Path]) -> None:
    seen, _ = found
    prepared = prepare(RunConfig(data="digits", noise=NOISE, seed=SEED))
    assert prepared.truth is not None
    labels, truth = prepared.train.labels, prepared.truth.labels
    rate = float((labels != truth).double().mean())
    assert abs(seen.noise_rate - rate) < 0.04
    assert seen.interval[0] <= rate <= seen.interval[1]
    assert seen.interval[0] <= seen.noise_rate <= seen.interval[1]
    assert seen.estimates["consensus"] == seen.noise_rate
    assert seen.num_samples == seen.num_all == len(labels)
    assert seen.method == "dividemix"
    assert not any("on purpose" in reason for reason in seen.reasons)
    # The pairs that it names are those that labels are really confused in.
    for true, given, count, low, high in seen.pairs[:3]:
        really = int(((truth == int(true)) & (labels == int(given))).sum())
        assert low <= count <= high
        assert abs(really - count) < max(15, 0.35 * really)


def test_what_is_kept_is_what_was_found(found: tuple[Diagnosis, Path]) -> None:
    seen, out = found
    kept = json.loads((out / "diagnosis.json").read_text())
    assert kept == json.loads(json.dumps(seen.to_json()))
    assert kept["noise_rate_interval"] == list(seen.interval)
    assert [pair["count"] for pair in kept["confused_pairs"]] == [pair[2] for pair in seen.pairs]
    assert (out / "report.html").exists()
    assert json.loads((out / "summary.json").read_text())["method"] == "quick"
    with pytest.raises(UserError, match="in use"):
        diagnose("digits", out=out)


def test_the_text_says_rate_pairs_and_command(found: tuple[Diagnosis, Path]) -> None:
    text = found[0].to_text("digits --noise instance:0.4")
    assert f"About {found[0].noise_rate:.1%} of the labels are wrong" in text
    true, given, count, *_ = found[0].pairs[0]
    assert f"  {true} -> {given}: {count:.0f} (" in text
    words = shlex.split(text.splitlines()[-1].removeprefix("Recommended: "))
    assert words[:5] == ["labelwise", "fit", "digits", "--noise", "instance:0.4"]
    assert "--method" in words


def test_data_in_memory_too_few_to_tell() -> None:
    data = tiny_embeddings(15)
    seen = diagnose(data.inputs.numpy(), data.labels.numpy(), threads=1)
    assert seen.method is None
    assert seen.interval == (0.0, 1.0)
    assert "cannot be told" in seen.to_text("x")
    assert "%" not in seen.to_text("x")
    assert "No method can be recommended" in seen.to_text("x")


def within(monkeypatch: pytest.MonkeyPatch, seconds: float, budget: float, **options: Any) -> Any:
    """Cut digits to a budget, a sample and epoch taking so many seconds."""
    config = RunConfig(data="digits", method="quick", **options)
    prepared = prepare(config)
    speed = seconds / diagnosis.AUDIT_SHARE
    monkeypatch.setattr(diagnosis, "_seconds_per_sample", lambda *_: speed)
    usual = bind(config, prepared.train).schedule.epochs
    return usual, prepared, diagnosis._within(config, prepared, budget)


def test_a_large_budget_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, before, (after, epochs, notes) = within(monkeypatch, 1e-6, 30.0)
    assert after is before
    assert epochs == usual
    assert notes == ()


def test_a_budget_cuts_epochs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, before, (after, epochs, notes) = within(monkeypatch, 1e-3, 14.0)
    assert after is before
    assert FEWEST <= epochs == int(14.0 / (1e-3 * len(before.train))) < usual
    assert f"{epochs} of {usual} epochs" in notes[0]


@pytest.mark.parametrize(("budget", "size"), [(7.2, 1200), (0.01, diagnosis.SMALLEST_PART)])
def test_then_it_cuts_samples_of_every_class_alike(
    monkeypatch: pytest.MonkeyPatch, budget: float, size: int
) -> None:
    _, before, (after, epochs, notes) = within(monkeypatch, 1e-3, budget, noise=NOISE)
    assert epochs == FEWEST
    assert len(after.train) == len(after.truth.labels) == size
    whole = np.bincount(before.train.labels) / len(before.train)
    part = np.bincount(after.train.labels) / size
    assert np.abs(whole - part).max() < 2 / size + 1e-9
    # The labels that are planted lie in the part, and truth goes with its samples.
    assert after.planted is not None
    assert int(after.planted.rows.max()) < size
    rows = {name: row for row, name in enumerate(before.train.ids.tolist())}
    chosen = torch.tensor([rows[name] for name in after.train.ids.tolist()])
    assert before.truth is not None
    assert torch.equal(after.truth.labels, before.truth.labels[chosen])
    assert f"{size:,} samples" in notes[0]


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_budget_must_be_positive(minutes: float) -> None:
    with pytest.raises(UserError, match="--minutes"):
        diagnose("digits", minutes=minutes)
    done = CliRunner().invoke(cli.app, ["diagnose", "digits", "--minutes", str(minutes)])
    assert done.exit_code == 2
    assert "--minutes" in done.stderr


def test_json_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def look(data: str, **options: Any) -> Diagnosis:
        asked.update(options, data=data)
        return Diagnosis(
            0.2, (0.1, 0.3), {"dual": 0.2}, (("cat", "dog", 9.0, 3.0, 15.0),),
            "ce", {}, ("because",), 100, 500, 1.5,
        )  # fmt: skip

    monkeypatch.setattr(diagnosis, "diagnose", look)
    options = ["--limit", "500", "--model", "resnet18", "--minutes", "2"]
    done = CliRunner().invoke(cli.app, ["diagnose", "my data.csv", *options, "--json"])
    value = json.loads(done.stdout)
    assert value["confused_pairs"] == [
        {"true": "cat", "given": "dog", "count": 9.0, "low": 3.0, "high": 15.0}
    ]
    assert (asked["limit"], asked["model"], asked["minutes"]) == (500, "resnet18", 2.0)
    assert "noise" not in asked
    text = CliRunner().invoke(cli.app, ["diagnose", "my data.csv", *options]).stdout
    assert "Looked at 100 of 500 samples" in text
    assert "labelwise fit 'my data.csv' --limit 500 --model resnet18 --method ce\n" in text
