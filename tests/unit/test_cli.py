"""The command line: exit codes, messages, what is printed where, and what is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result as Outcome
from PIL import Image
from typer.testing import CliRunner

from labelwise import cli
from labelwise.cli import shared, train
from labelwise.methods import known_methods
from labelwise.noise.parse import processes
from labelwise.pretraining import known_pretraining
from labelwise.recipes import known_recipes
from labelwise.training.folder import RunFolder
from labelwise.training.progress import Silent, Terminal
from support import tiny_embeddings, tiny_images

QUICK = ("--method", "ce", "--epochs", "2", "--batch-size", "16", "--threads", "1")
STOPPED, REFUSED = 130, 2
NAMES = np.array(["ant", "bee", "cow"])


def call(*words: object, fails: bool = False) -> Outcome:
    """Run a command in this process; unexpected exceptions are not swallowed."""
    outcome = CliRunner().invoke(cli.app, [str(word) for word in words])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == (REFUSED if fails else 0), outcome.output
    if fails:
        assert outcome.stdout == ""
        assert "Traceback" not in outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of every kind and one finished run; tests only read it."""
    root = tmp_path_factory.mktemp("world")
    data = tiny_images()
    pixels, names = data.inputs[:, 0].numpy(), NAMES[data.labels.numpy()]
    table = []
    for row, (picture, name) in enumerate(zip(pixels, names, strict=True)):
        path = root / "photos" / name / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        table.append((f"{row:03}", f"photos/{name}/{path.name}", name, "ant"))
    frame = pd.DataFrame(table, columns=["id", "image", "label", "best"])
    frame["best"] = NAMES[np.arange(len(frame)) % 3]
    frame.to_csv(root / "table.csv", index=False)
    contents = [(root / path).read_bytes() for path in frame["image"]]
    frame.assign(id=np.arange(64)[::-1] + 7, image=contents).to_parquet(root / "table.parquet")
    np.savez(root / "images.npz", images=pixels, labels=names)
    embeddings = tiny_embeddings()
    np.savez(
        root / "embeddings.npz",
        embeddings=embeddings.inputs.numpy(),
        labels=embeddings.labels.numpy(),
    )
    # JPEG and PNG side by side, one cut short and one empty.
    bad = root / "bad" / "ant"
    (root / "bad" / "bee").mkdir(parents=True)
    bad.mkdir()
    for number in range(8):
        for name in ("ant", "bee"):
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(pixels[number]).save(root / "bad" / name / f"{number}.{suffix}")
    (bad / "1.png").write_bytes((bad / "1.png").read_bytes()[:60])
    (bad / "3.png").write_bytes(b"")
    call("fit", root / "table.csv", "--truth-column", "best", *QUICK, "--out", root / "run")
    return root


@pytest.mark.parametrize(
    "name", ["digits", "photos", "table.csv", "table.parquet", "images.npz", "embeddings.npz"]
)
def test_fit_takes_every_kind_of_data(world: Path, tmp_path: Path, name: str) -> None:
    data = name if name == "digits" else world / name
    outcome = call("fit", data, *QUICK, "--limit", 60, "--out", tmp_path / "run")
    assert "labels look wrong (estimated noise rate" in outcome.stdout
    assert f"Labels: {tmp_path / 'run' / 'labels.csv'}" in outcome.stdout
    assert ("Test accuracy" in outcome.stdout) == (name == "digits")
    assert outcome.stderr == ""


def test_ids_come_out_as_they_went_in(world: Path, tmp_path: Path) -> None:
    text = pd.read_parquet(world / "run" / "labels.parquet")["id"]
    given = pd.read_csv(world / "table.csv", dtype=str)["id"].tolist()
    assert set(text) < set(given)
    assert (world / "run" / "labels.csv").read_text().splitlines()[1].startswith("0")
    call("fit", world / "table.parquet", *QUICK, "--out", tmp_path / "numbers")
    numbers = pd.read_parquet(tmp_path / "numbers" / "labels.parquet")["id"]
    assert numbers.dtype.kind == "i"
    assert numbers.tolist() == list(range(70, 6, -1))
    call("fit", world / "photos", *QUICK, "--out", tmp_path / "folder")
    paths = pd.read_csv(tmp_path / "folder" / "labels.csv")["id"]
    assert all((world / "photos" / path).exists() for path in paths)


def test_json_is_json_and_nothing_else(world: Path, tmp_path: Path) -> None:
    outcome = call("fit", world / "embeddings.npz", *QUICK, "--out", tmp_path / "run", "--json")
    printed = json.loads(outcome.stdout)
    assert printed.pop("run") == str(tmp_path / "run")
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert outcome.stderr == ""
    again = call("resume", tmp_path / "run", "--json")
    assert json.loads(again.stdout)["num_samples"] == 64


def test_without_out_every_run_gets_a_folder_of_its_own(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("embeddings-ce", "embeddings-ce-2"):
        outcome = call("fit", world / "embeddings.npz", *QUICK)
        assert f"Labels: runs/{folder}/labels.csv" in outcome.stdout


def test_unreadable_images_stop_the_run_or_are_left_out(world: Path, tmp_path: Path) -> None:
    outcome = call("fit", world / "bad", *QUICK, "--out", tmp_path / "run", fails=True)
    assert "ant/1.png" in outcome.stderr
    assert "2 of 16 images cannot be read" in outcome.stderr
    assert "--on-bad-image skip" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
    words = ("fit", world / "bad", *QUICK, "--out", tmp_path / "run", "--on-bad-image", "skip")
    outcome = call(*words)
    assert "2 images of 16 left out as unreadable" in outcome.stdout
    ids = pd.read_csv(tmp_path / "run" / "labels.csv")["id"]
    assert len(ids) == 14
    assert not {"ant/1.png", "ant/3.png"} & set(ids)


def test_predict_leaves_out_unreadable_images_when_told_to(world: Path, tmp_path: Path) -> None:
    call(
        *("predict", world / "run", world / "bad", "--out", tmp_path / "p.csv"),
        *("--on-bad-image", "skip"),
    )
    ids = pd.read_csv(tmp_path / "p.csv")["id"]
    assert len(ids) == 14
    assert not {"ant/1.png", "ant/3.png"} & set(ids)


def change(world: Path, folder: Path, **columns: Any) -> Path:
    """A copy of the table with other columns; None drops one."""
    frame = pd.read_csv(world / "table.csv", dtype=str)
    frame["image"] = [str(world / path) for path in frame["image"]]
    for name, values in columns.items():
        frame = frame.drop(columns=name) if values is None else frame.assign(**{name: values})
    frame.to_csv(folder / "changed.csv", index=False)
    return folder / "changed.csv"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, r"has no labels\. Its columns are id, image, best"),
        ({"label": "ant"}, "all 64 samples have the label 'ant'"),
        ({"label": [""] * 3 + ["ant"] * 61}, r"3 of 64 labels missing, at row 0 \(id '000'\)"),
        ({"label": [str(k) for k in range(64)]}, "label of its own"),
        ({"label": [str(k / 10) for k in range(64)]}, "is not a class"),
        ({"id": ["x", "x"] + [str(k) for k in range(62)]}, "more than once: 'x'"),
        ({"image": "nothing.png"}, r"nothing\.png .*: no such file"),
        ({"image": None}, "has no column of images"),
    ],
)
def test_bad_tables_are_explained(
    world: Path, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    data = change(world, tmp_path, **columns)
    outcome = call("fit", data, *QUICK, "--out", tmp_path / "run", fails=True)
    assert outcome.stderr.startswith("error: ")
    assert re.search(message, outcome.stderr), outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["changed.csv"]


def test_a_class_with_one_sample_is_remarked_on(world: Path, tmp_path: Path) -> None:
    labels = ["lynx", *NAMES[np.arange(63) % 3]]
    outcome = call("fit", change(world, tmp_path, label=labels), *QUICK, "--out", tmp_path / "run")
    assert "note: class 'lynx' has a single sample" in outcome.stdout


def test_images_of_two_sizes_need_one(world: Path, tmp_path: Path) -> None:
    for name, size in (("a/1", 8), ("a/2", 8), ("b/1", 8), ("b/2", 12)):
        path = tmp_path / "mixed" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (size, size), size).save(path)
    words = ("fit", tmp_path / "mixed", *QUICK, "--out", tmp_path / "run")
    outcome = call(*words, fails=True)
    assert "--image-size 8" in outcome.stderr
    assert not (tmp_path / "run").exists()
    call(*words, "--image-size", 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit", "nothere.csv"), "nothere.csv does not exist"),
        (("fit", ""), "path is empty"),
        (("fit", "digits", "--method", "dividemx"), "Did you mean 'dividemix'?"),
        (("fit", "digits", "--recipe", "nope"), "unknown recipe 'nope'"),
        (("fit", "digits", "--model", "preact_resnet81"), "Did you mean 'preact_resnet18'?"),
        (("fit", "digits", "--noise", "symetric:0.4"), "Did you mean 'symmetric'?"),
        (("fit", "digits", "--noise", "symmetric"), "Write KIND:RATE"),
        (("fit", "digits", "--noise", "symmetric:40"), "outside [0, 1)"),
        (("fit", "digits", "--noise", "symmetric:40%"), "write symmetric:0.4"),
        (("fit", "digits", "--set", "lambda_u"), "not of the form name=value"),
        (("fit", "digits", "--set", "lamda_u=3"), "Did you mean 'lambda_u'?"),
        (("fit", "digits", "--set", "schedule.epoch=3"), "Did you mean 'epochs'?"),
        (("fit", "digits", "--method", "simclr"), "--pretrain simclr --method dividemix"),
        (("fit", "digits", "--pretrain", "simlcr"), "Did you mean 'simclr'?"),
        (("fit", "digits", "--set", "simclt.epochs=3"), "Did you mean 'simclr'?"),
        (("fit", "digits", "--set", "simclr.epoch=3"), "Did you mean 'epochs'?"),
        (("fit", "digits", "--set", "simclr.epochs=3"), "Add --pretrain simclr"),
        (("fit", "digits", "--init", "nothere"), "nothere does not exist"),
        (("fit", "digits", "--init", ""), "give the folder of a finished"),
        (("pretrain", "digits", "--method", "simlcr"), "Did you mean 'simclr'?"),
        (("pretrain", "digits", "--method", "dividemix"), "dividemix is a method"),
        (("pretrain", "digits", "--method", "none"), "choose one of"),
        (("pretrain", "digits", "--method", "scan"), "clusters features, and there are none"),
        (("pretrain", "digits", "--method", "moco+scan", "--lr", "3"), "moco.lr or scan.lr"),
        (("pretrain", "digits", "--set", "epoch=3"), "Did you mean 'epochs'?"),
        (("pretrain", "digits", "--set", "ce.view=weak"), "unknown part of the pre-training 'ce'"),
        (("pretrain", "digits", "--set", "scan.epochs=3"), "Add --method simclr+scan"),
        (("pretrain", "digits", "--set", "schedule.lr=1"), "belongs to `labelwise fit`"),
        (("pretrain", "digits", "--classes", "4"), "labels of 10 classes"),
        (("pretrain", "digits", "--classes", "1"), "at least 2 clusters"),
        (("pretrain", "digits", "--epochs", "0"), "epochs = 0 is not valid"),
        (("fit", "digits", "--set", "preset=nope"), "unknown preset of dividemix 'nope'"),
        (("fit", "digits", "--epochs", "0"), "epochs = 0 is not valid"),
        (("fit", "digits", "--limit", "1"), "limit = 1 is not valid"),
        (("fit", "digits", "--image-size", "2"), "image size 2 is out of range"),
        (("fit", "digits", "--on-bad-image", "maybe"), "should be 'error' or 'skip'"),
        (("fit", "digits", "--label-column", "x"), "label_column means nothing"),
        (("fit", "digits", "--test", "nothere.csv"), "nothere.csv does not exist"),
        (("fit", "digits", "--epochs", "many"), "Invalid value for '--epochs'"),
        (("fit", "digits", "--nose", "x"), "No such option: --nose"),
        (("resume", "nothere"), "is nothere a run folder?"),
        (("report", "nothere"), "is nothere a run folder?"),
        (("predict", "nothere", "digits", "--out", "p.csv"), "is nothere a run folder?"),
        (("noise", "digits", "--noise", "symmetric:2", "--out", "n.csv"), "outside [0, 1)"),
        (("noise", "digits", "--noise", "symmetric:0.2", "--out", "n.xlsx"), "must end in .csv"),
        (("fitt",), "No such command 'fitt'"),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    extra = ("--out", "run") if words[0] in ("fit", "pretrain") else ()
    outcome = call(*words, *extra, fails=True)
    assert message in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_no_folder_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("fit", "digits", *QUICK, "--limit", 50, "--set", "view=nope", fails=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["taken", "taken/below"])
def test_a_file_in_the_way_of_out_is_left_alone(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("mine")
    outcome = call("fit", "digits", *QUICK, "--limit", 50, "--out", tmp_path / below, fails=True)
    assert str(tmp_path / "taken") in outcome.stderr
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_run_in_use_is_not_written_to(world: Path, tmp_path: Path) -> None:
    outcome = call("fit", world / "photos", *QUICK, "--out", world / "run", fails=True)
    assert f"labelwise resume {world / 'run'}" in outcome.stderr
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()  # a finished run is not touched at all
    with RunFolder(tmp_path / "run").locked():
        outcome = call("resume", tmp_path / "run", fails=True)
    assert "another process is training" in outcome.stderr


def test_predict_writes_a_row_per_sample(world: Path, tmp_path: Path) -> None:
    frames = []
    for name in ("p.csv", "p.tsv", "p.parquet"):
        out = tmp_path / name
        outcome = call("predict", world / "run", world / "photos", "--out", out)
        assert outcome.stdout == f"64 predictions in {out}\n"
        separator = "\t" if name == "p.tsv" else ","
        frames.append(
            pd.read_parquet(out) if name == "p.parquet" else pd.read_csv(out, sep=separator)
        )
    assert list(frames[0].columns) == ["id", "predicted_label", "confidence"]
    assert set(frames[0]["predicted_label"]) <= set(NAMES)
    assert frames[0]["confidence"].between(1 / 3, 1).all()
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_dtype=False)


@pytest.mark.parametrize(
    ("data", "out", "message"),
    [
        ("embeddings.npz", "p.csv", "inputs of shape (1, 8, 8)"),
        ("nothere", "p.csv", "does not exist"),
        ("photos", "p.txt", "must end in .csv"),
        ("photos", "none/p.csv", "none does not exist: make it first"),
        ("bad", "p.csv", "image file is truncated"),
    ],
)
def test_bad_predictions_are_explained(
    world: Path, tmp_path: Path, data: str, out: str, message: str
) -> None:
    words = ("predict", world / "run", world / data, "--out", tmp_path / out)
    outcome = call(*words, fails=True)
    assert message in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_report_prints_where_the_page_is(world: Path) -> None:
    assert call("report", world / "run").stdout == f"{world / 'run' / 'report.html'}\n"


@pytest.mark.parametrize("command", ["report", "resume"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_broken_configuration_is_named(tmp_path: Path, command: str, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in call(command, tmp_path, fails=True).stderr


@pytest.mark.parametrize("text", ["{}", '{"config": null}'])
def test_a_configuration_without_its_keys_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in call("resume", tmp_path, fails=True).stderr


class StopAt(Silent):
    """Presses Ctrl-C before the first step of an epoch."""

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        if epoch == 1 and step == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def stopped(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its second epoch."""
    data = change(world, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(train, "listener_for", lambda title, quiet: StopAt())
        words = ["fit", str(data), *QUICK, "--epochs", "3", "--out", str(tmp_path / "run")]
        outcome = CliRunner().invoke(cli.app, words)
    assert outcome.exit_code == STOPPED
    assert outcome.stdout == ""
    assert outcome.stderr == f"stopped; continue with: labelwise resume {tmp_path / 'run'}\n"
    return tmp_path / "run"


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_end(stopped: Path) -> None:
    assert not (stopped / "summary.json").exists()
    for words in (("report", stopped), ("predict", stopped, "digits", "--out", "p.csv")):
        assert f"`labelwise resume {stopped}`" in call(*words, fails=True).stderr
    call("resume", stopped)
    data, whole = stopped.parent / "changed.csv", stopped.parent / "whole"
    call("fit", data, *QUICK, "--epochs", "3", "--out", whole)
    for name in ("labels.csv", "labels.parquet"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    page = call("resume", stopped).stdout
    assert f"Report: {stopped / 'report.html'}" in page


def test_resume_refuses_other_labels_settings_and_missing_data(stopped: Path) -> None:
    data, config = stopped.parent / "changed.csv", stopped / "config.json"
    before = data.read_text()
    data.write_text(before.replace(",ant,", ",bee,", 1))
    assert "not those the run started with" in call("resume", stopped, fails=True).stderr
    data.unlink()
    assert "does not exist" in call("resume", stopped, fails=True).stderr
    data.write_text(before)
    described = json.loads(config.read_text())
    described["config"]["schedule"]["lr"] = 1.0
    config.write_text(json.dumps(described))
    assert "another configuration" in call("resume", stopped, fails=True).stderr
    described["config"]["extra"] = 1
    config.write_text(json.dumps(described))
    assert "'extra'" in call("resume", stopped, fails=True).stderr


@pytest.mark.parametrize("name", ["network-0.pt", "labels.csv", "summary.json", "report.html"])
def test_a_full_disk_is_said_and_the_run_goes_on_later(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        outcome = call("fit", world / "embeddings.npz", *QUICK, "--out", folder, fails=True)
    assert "the disk is full" in outcome.stderr
    assert name in outcome.stderr
    assert "labelwise resume" in outcome.stderr
    assert (folder / "checkpoint" / "LAST").exists()
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", name))]
    call("resume", folder)
    assert (folder / "report.html").exists()
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2


def test_noise_is_planted_on_the_truth_where_there_is_one(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "noisy.csv"
    words = ("noise", world / "table.csv", "--truth-column", "best", "--noise", "symmetric:0.4")
    call(*words, "--out", out)
    table, before = (pd.read_csv(path, dtype=str) for path in (out, world / "table.csv"))
    assert table["true_label"].tolist() == before["best"].tolist()
    assert table["true_label"].tolist() != before["label"].tolist()
    changed = (table["given_label"] != table["true_label"]).mean()
    assert 0.1 < changed < 0.5


def test_a_reader_that_has_enough_is_no_error() -> None:
    for words in (("methods",), ("noise", "--list", "--json")):
        read, write = os.pipe()
        os.close(read)  # the reader is gone before the first line
        command = (sys.executable, "-m", "labelwise.cli", *words)
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("kind", sorted(k for k, p in processes().items() if p.usage == "RATE"))
def test_noise_writes_both_labels(world: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "noisy.csv"
    words = ("noise", world / "table.csv", "--noise", f"{kind}:0.4", "--out", out)
    share = re.match(r"([\d.]+)% of 64 labels changed; written to ", call(*words).stdout)
    table = pd.read_csv(out, dtype=str)
    given = pd.read_csv(world / "table.csv", dtype=str)
    assert list(table.columns) == ["id", "given_label", "true_label"]
    assert table["id"].tolist() == given["id"].tolist()
    assert table["true_label"].tolist() == given["label"].tolist()
    assert set(table["given_label"]) <= set(NAMES)
    changed = (table["given_label"] != table["true_label"]).mean()
    assert share
    assert float(share[1]) == pytest.approx(100 * changed, abs=0.06)
    assert 0 < changed < 0.7
    first = out.read_bytes()
    call(*words)
    assert out.read_bytes() == first
    call(*words, "--seed", 1)
    assert out.read_bytes() != first


def test_methods_and_recipes_are_listed_for_people_and_programs() -> None:
    listed = json.loads(call("methods", "--json").stdout)
    for pretraining, known in ((False, known_methods()), (True, known_pretraining())):
        assert {r["name"] for r in listed if r["pretraining"] is pretraining} == set(known)
    for row in listed:
        assert row["works_on"]
        assert all(setting["description"] for setting in row["settings"].values())
    text = call("methods").stdout
    assert all(f"{name}: " in text for name in (*known_methods(), *known_pretraining()))
    assert "--set lambda_u=" in text
    assert text.index("--pretrain") < text.index("--set simclr.epochs=")
    assert set(json.loads(call("recipes", "--json").stdout)) == set(known_recipes())
    lines = call("recipes").stdout.splitlines()
    assert len(lines) == len(known_recipes())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=25", 25),
        ("x=0.5", 0.5),
        ("x=true", True),
        ("x=True", True),
        ("x=None", None),
        ("x=null", None),
        ("x=weak", "weak"),
        ("x=a=b", "a=b"),
        ("x=[0.5, 1]", [0.5, 1]),
        ("x=", ""),
    ],
)
def test_set_reads_values(text: str, value: Any) -> None:
    assert shared.parse_assignments([text]) == ({"x": value}, {})


def test_set_tells_the_schedule_from_the_method() -> None:
    settings, schedule = shared.parse_assignments(["sanm.ratio=0.1", "schedule.lr=1", " y =2"])
    assert settings == {"sanm.ratio": 0.1, "y": 2}
    assert schedule == {"lr": 1}


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(shared.listener_for("run", quiet=False)) is Silent
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(shared.listener_for("run", quiet=False), Terminal)
    assert type(shared.listener_for("run", quiet=True)) is Silent


def test_the_bar_shows_epoch_phase_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Terminal("ce on digits")
    bar.console.file = sys.stderr
    bar.start(3, 0)
    bar.phase(0, "train", 1, 9)
    bar.epoch({"epoch": 1, "images": 640, "test_accuracy": 0.5})
    bar.say("something was decided")
    bar.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "something was decided" in printed.err
    task = bar.progress.tasks[0]
    assert (task.completed, task.total) == (1, 3)
    assert task.fields["epoch"] == "1/3"
    assert task.fields["detail"].startswith("train 1/9")


def test_the_bar_names_the_stage_and_keeps_its_last_figure() -> None:
    bar = Terminal("dividemix on digits")
    bar.console.file = io.StringIO()
    bar.start(5, 0, (("simclr", 3), ("dividemix", 2)))
    shown = []
    for epoch in range(5):
        bar._shown = 0.0
        bar.phase(epoch, "train", 1, 9)
        shown.append(bar.progress.tasks[0].fields["detail"])
        figures = {0: {"knn_accuracy": 0.965}, 3: {"test_accuracy": 0.5}}.get(epoch, {})
        bar.epoch({"epoch": epoch + 1, "images": 64 * (epoch + 1), **figures})
    bar.close()
    assert [text.partition(":")[0] for text in shown] == ["simclr"] * 3 + ["dividemix"] * 2
    assert ["k-NN 96.5%" in text for text in shown] == [False, True, True, False, False]
    assert shown[4].endswith("test 50.0%")
    assert bar.progress.tasks[0].total == 5


def test_help_answers_at_once_and_lists_every_command() -> None:
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", "import sys, labelwise.cli as c\ntry:\n c.main()\nfinally:\n"
         " print('torch' in sys.modules)", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert time.monotonic() - began < 20
    assert run.stdout.splitlines()[-1] == "False"
    for command in (
        "fit",
        "pretrain",
        "resume",
        "report",
        "predict",
        "methods",
        "recipes",
        "noise",
        "demo",
    ):
        assert f"\n  {command} " in run.stdout


def test_a_process_that_gets_ctrl_c_ends_with_130_and_can_be_resumed(
    world: Path, tmp_path: Path
) -> None:
    words = ("fit", world / "embeddings.npz", *QUICK, "--epochs", "100000", "--out", tmp_path / "r")
    command = [sys.executable, "-c", "import labelwise.cli as c; c.main()", *map(str, words)]
    process = subprocess.Popen(
        # Fabric announces mixed precision by itself; nothing of it may be seen.
        [*command, "--checkpoint-every", "0", "--precision", "bf16-mixed"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "checkpoint" / "LAST").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert out == ""
    assert err == f"stopped; continue with: labelwise resume {tmp_path / 'r'}\n"
    assert (tmp_path / "r" / "checkpoint" / "LAST").exists()
