"""Pre-training as its user meets it: alone, before a method, started from, stopped, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import labelwise
from labelwise import cli
from labelwise.audit.facts import command
from labelwise.audit.run_files import read_run
from labelwise.binding import bind, resolve, start_notes
from labelwise.config import RunConfig, read_json
from labelwise.data.load import load
from labelwise.errors import UserError
from labelwise.pretrained import full_names
from labelwise.pretraining.start import pretraining_of, read_start, start_from, start_hash
from labelwise.running import read_config
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Trainer
from labelwise.training.progress import Silent
from support import (
    assert_same_tensors,
    rows_without_times,
    tiny_embeddings,
    tiny_images,
    usual_network,
)

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "threads": 1}
CE: dict[str, Any] = {"method": "ce", "epochs": 1, "batch_size": 16, "threads": 1}
IMAGES = tiny_images().inputs.numpy()
LABELS = tiny_images().labels.numpy()


class StopAt(Silent):
    """Sends this process a signal before a step of an epoch."""

    def __init__(self, epoch: int, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.at = epoch
        self.number = number

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        if epoch == self.at and step == 1:
            self.at = -1
            os.kill(os.getpid(), self.number)


def weights(folder: Path, number: int = 0) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "model" / f"network-{number}.pt")
    return found


def call(*words: object, code: int = 0) -> Any:
    outcome = CliRunner().invoke(cli.app, [str(word) for word in words])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == code, outcome.output
    return outcome


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> labelwise.Pretrained:
    """A finished pre-training on images without labels; tests only read it."""
    return labelwise.pretrain(IMAGES, out=tmp_path_factory.mktemp("pre") / "alone", **SHORT)


@pytest.fixture(scope="module")
def before_ce(tmp_path_factory: pytest.TempPathFactory) -> labelwise.Result:
    """A finished run on digits with pre-training before its method."""
    return labelwise.fit(
        "digits",
        out=tmp_path_factory.mktemp("pre") / "fit",
        limit=60,
        pretrain="simclr",
        settings={"simclr.epochs": 2},
        **CE,
    )


def test_a_pre_training_leaves_model_features_and_totals(alone: labelwise.Pretrained) -> None:
    files = {path.name for path in alone.path.iterdir()}
    assert files == {
        *("config.json", "metrics.jsonl", "summary.json", "features.npy", "ids.csv"),
        *("model", "checkpoint"),
    }
    assert alone.features.shape == (64, alone.summary["num_features"])
    assert alone.features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(alone.features, axis=1), 1, rtol=1e-5)
    assert alone.ids.tolist() == [str(row) for row in range(64)]
    assert alone.summary["num_samples"] == 64
    assert alone.summary["epochs"] == 2
    (stage,) = alone.summary["stages"]
    assert (stage["name"], stage["epochs"]) == ("simclr", 2)
    # Nothing is measured against labels that are not there.
    assert not [name for name in alone.summary if "knn" in name or "neighbour" in name]
    config, data = read_config(RunFolder(alone.path))
    assert (config.method, config.pretrain, config.plant) == ("simclr", "simclr", 0)
    assert len(data["classes"]) == 1
    assert pretraining_of(alone.path) == ("simclr",)


def test_features_are_those_of_the_model_in_eval_mode(alone: labelwise.Pretrained) -> None:
    network = alone.model.networks[0]
    assert not network.training
    with torch.no_grad():
        found = network(torch.from_numpy(IMAGES).float() / 255, ("features",))["features"]
    np.testing.assert_allclose(
        alone.features, torch.nn.functional.normalize(found, dim=1).numpy(), atol=1e-5
    )


def test_labels_change_no_weight_and_give_figures(
    alone: labelwise.Pretrained, tmp_path: Path
) -> None:
    seen = labelwise.pretrain(IMAGES, LABELS, out=tmp_path / "seen", **SHORT)
    for name, value in weights(alone.path).items():
        if not name.startswith("heads.classes"):
            assert torch.equal(value, weights(seen.path)[name])
    assert {"knn_agreement", "neighbour_agreement"} <= set(seen.summary)
    true = labelwise.pretrain(IMAGES, LABELS, truth=LABELS, out=tmp_path / "true", **SHORT)
    assert true.summary["knn_accuracy"] == seen.summary["knn_agreement"]
    one = labelwise.pretrain(IMAGES, ["ant"] * 64, out=tmp_path / "one", **SHORT)
    assert "knn_agreement" not in one.summary
    assert len(read_config(RunFolder(one.path))[1]["classes"]) == 1


def test_clusters_need_a_number(tmp_path: Path) -> None:
    settings = {"simclr.epochs": 1, "scan.epochs": 1}
    options: dict[str, Any] = {"method": "simclr+scan", "settings": settings, "threads": 1}
    with pytest.raises(UserError, match=r"how many is not known.*--classes K"):
        labelwise.pretrain(IMAGES, out=tmp_path / "no", **options)
    with pytest.raises(UserError, match="--classes 2: the data have labels of 3 classes"):
        labelwise.pretrain(IMAGES, LABELS, classes=2, out=tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()
    found = labelwise.pretrain(IMAGES, classes=5, out=tmp_path / "yes", **options)
    assert weights(found.path)["heads.clusters.weight"].shape[0] == 5
    assert 0 < found.summary["clusters_used"] <= 1
    assert "cluster_agreement" not in found.summary
    assert [stage["name"] for stage in found.summary["stages"]] == ["simclr", "scan"]
    more = labelwise.fit(IMAGES, LABELS, init=found, out=tmp_path / "fit", **CE)
    assert read_json(more.path / "config.json")["pretrained_by"] == ["simclr", "scan"]


FLAT = tiny_embeddings()
ARRAYS = (FLAT.inputs.numpy(), FLAT.labels.numpy())
SCAN: dict[str, Any] = {
    "method": "scan",
    "settings": {"epochs": 1, "head_steps": 3},
    "threads": 1,
}


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pre-training with as many clusters as classes; tests only read it."""
    path = tmp_path_factory.mktemp("pre") / "clustered"
    return decided(labelwise.pretrain(*ARRAYS, out=path, **SCAN).path, clustering=1.0)


def decided(folder: Path, clustering: float) -> Path:
    """Write into a folder whether its clusters stand: so short a training decides by chance."""
    summary = read_json(folder / "summary.json")
    summary["decisions"]["clustering"] = clustering
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def begun(init: Path, **changes: Any) -> tuple[str | None, list[str]]:
    """What pre-training a run on `FLAT` that starts from a folder has, and what it is told."""
    values = {"data": "flat", "method": "scanmix", "init": str(init), **changes}
    asked = RunConfig.parse(values, "the run")
    run = bind(asked, FLAT)
    resolved = resolve(asked, FLAT, run)
    return resolved.pretrain, start_notes(resolved, FLAT, run)


def test_clusters_that_fit_are_not_learnt_again(clustered: Path) -> None:
    assert begun(clustered) == ("none", [])
    assert begun(clustered, method="clusters", pretrain="none") == ("none", [])


def test_clusters_of_another_number_are_learnt_anew(tmp_path: Path) -> None:
    init = labelwise.pretrain(*ARRAYS, classes=6, out=tmp_path / "six", **SCAN).path
    decided(init, clustering=1.0)
    why = f"--init {init}: it has 6 clusters, and this run has 4 classes"
    assert begun(init) == ("scan", [f"{why}: they are learnt anew"])
    assert begun(init, pretrain="none") == ("none", [f"{why}: its own start at random"])
    assert begun(init, method="dividemix") == ("none", [])  # which needs none
    with pytest.raises(UserError, match="clusters needs clusters and trains nothing itself"):
        begun(init, method="clusters", pretrain="none")
    assert pretraining_of(init) == ("scan",)
    options = CE | {"method": "scanmix", "epochs": 2, "schedule": {"warmup": 1}}
    settings = SCAN["settings"]
    run = labelwise.fit(
        *ARRAYS,
        init=init,
        out=tmp_path / "run",
        settings={f"scan.{name}": value for name, value in settings.items()},
        **options,
    )
    assert f"{why}: they are learnt anew" in run.summary["notes"]
    assert [stage["name"] for stage in run.summary["stages"]] == ["scan", "scanmix"]
    assert weights(run.path)["heads.clusters.weight"].shape[0] == 4


def test_clusters_that_were_given_up_are_learnt_anew(clustered: Path, tmp_path: Path) -> None:
    init = decided(shutil.copytree(clustered, tmp_path / "up"), clustering=0.0)
    why = f"--init {init}: its clusters collapsed and were given up"
    assert begun(init) == ("scan", [f"{why}: they are learnt anew"])
    assert pretraining_of(init) == ()
    asked = RunConfig.parse({"data": "flat", "method": "scanmix"}, "the run")
    network = usual_network(FLAT, bind(asked, FLAT), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    spec = read_start(init).spec
    for folder, new in ((init, True), (clustered, False)):
        start_from(folder, spec, [network])
        for name, value in network.state_dict().items():
            if name.startswith("heads.clusters"):
                assert torch.equal(value, before[name] if new else weights(folder)[name])
            elif name.startswith("backbone."):
                assert torch.equal(value, weights(folder)[name])


def test_clusters_that_a_run_between_did_not_keep_are_learnt_anew(
    clustered: Path, tmp_path: Path
) -> None:
    between = labelwise.fit(*ARRAYS, init=clustered, out=tmp_path / "ce", **CE).path
    assert pretraining_of(between) == ("scan",)
    pretrain, (note,) = begun(between)
    assert pretrain == "scan"
    assert note == f"--init {between}: its last run kept no clusters: they are learnt anew"


def test_a_cut_batch_is_told_in_the_summary(tmp_path: Path) -> None:
    run = labelwise.pretrain(IMAGES, out=tmp_path / "r", **SHORT | {"batch_size": 500})
    assert read_config(RunFolder(run.path))[0].settings["simclr.batch_size"] == 64
    (note,) = run.summary["notes"]
    assert note.startswith("simclr: a batch of 500 is more than all 64 samples; it was cut to 64")


def test_a_run_starts_from_a_pre_training(
    alone: labelwise.Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(alone.path, tmp_path / "pre")
    monkeypatch.chdir(tmp_path)
    run = labelwise.fit(IMAGES, LABELS, init="pre", out=tmp_path / "run", **CE)
    described = read_json(run.path / "config.json")
    assert described["config"]["init"] == str(tmp_path / "pre")
    assert described["config"]["pretrain"] == "none"
    assert described["init_hash"] == start_hash(alone.path)
    assert described["pretrained_by"] == ["simclr"]
    assert pretraining_of(run.path) == ("simclr",)
    assert "stages" not in run.summary
    # A folder that started from another one hands on what that one has been through.
    again = labelwise.fit(
        *(IMAGES, LABELS),
        init=run.path,
        out=tmp_path / "again",
        **CE | {"method": "c2d", "schedule": {"warmup": 1}, "epochs": 2},
    )
    assert read_config(RunFolder(again.path))[0].pretrain == "none"
    assert json.loads((again.path / "model" / "model.json").read_text())["num_networks"] == 2


def test_the_first_weights_are_those_of_the_folder(
    alone: labelwise.Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[dict[str, torch.Tensor]] = []

    def look(self: Trainer) -> None:
        held.extend({n: v.clone() for n, v in net.state_dict().items()} for net in self.plain)
        raise UserError("seen enough")

    monkeypatch.setattr(Trainer, "train", look)
    for name, method in (("a", "ce"), ("b", "coteaching")):
        with pytest.raises(UserError, match="seen enough"):
            labelwise.fit(
                IMAGES, LABELS, init=alone.path, out=tmp_path / name, **CE | {"method": method}
            )
    theirs = weights(alone.path)
    assert len(held) == 3
    for network in held:
        for name, value in network.items():
            if name.startswith("heads.classes"):
                assert value.shape[0] == 3
            else:
                assert torch.equal(value, theirs[name])
    # The peers differ by their class heads.
    assert not torch.equal(held[1]["heads.classes.weight"], held[2]["heads.classes.weight"])


def test_the_model_is_the_folder_s_and_another_one_is_refused(
    alone: labelwise.Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelwise.binding.auto_model", lambda *_: "preact_resnet18")
    run = labelwise.fit(IMAGES, LABELS, init=alone.path, out=tmp_path / "run", **CE)
    assert read_config(RunFolder(run.path))[0].model == "small_resnet"
    message = "its model is small_resnet, this run's is preact_resnet18"
    with pytest.raises(UserError, match=message):
        labelwise.fit(
            *(IMAGES, LABELS), init=run, model="preact_resnet18", out=tmp_path / "no", **CE
        )
    assert not (tmp_path / "no").exists()


def damaged(alone: labelwise.Pretrained, folder: Path, what: str) -> Any:
    """An `init` that nothing can be started from."""
    path = folder / "init"
    if what == "nothing":
        return path
    if what == "no path":
        return 7
    if what == "a file":
        path.write_text("{}")
        return path
    shutil.copytree(alone.path, path)
    if what == "unfinished":
        shutil.rmtree(path / "model")
    elif what == "no run":
        shutil.rmtree(path / "model")
        (path / "config.json").unlink()
    elif what == "no config":
        (path / "config.json").unlink()
    elif what == "broken description":
        (path / "model" / "model.json").write_text("{}")
    elif what == "no weights":
        (path / "model" / "network-0.pt").unlink()
    elif what == "short weights":
        content = (path / "model" / "network-0.pt").read_bytes()
        (path / "model" / "network-0.pt").write_bytes(content[:500])
    elif what == "other weights":
        torch.save([1, 2], path / "model" / "network-0.pt")
    elif what == "lacking weights":
        torch.save({"mean": torch.zeros(1)}, path / "model" / "network-0.pt")
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "init does not exist"),
        ("no path", "init is 7: give the folder"),
        ("a file", "init is a file. Give the folder of a finished"),
        ("unfinished", "no finished model. If it was interrupted, finish it first: `labelwise res"),
        ("no run", "there is no finished model. Give the folder"),
        ("no config", "config.json does not exist: is"),
        ("broken description", "model.json is damaged (KeyError('network'))"),
        ("no weights", "network-0.pt cannot be read (No such file"),
        ("short weights", "network-0.pt is missing or damaged"),
        ("other weights", "network-0.pt is damaged: it holds no weights"),
        ("lacking weights", "network-0.pt is damaged: the backbone's"),
    ],
)
def test_a_bad_start_is_explained_and_leaves_nothing(
    alone: labelwise.Pretrained, tmp_path: Path, what: str, message: str
) -> None:
    init = damaged(alone, tmp_path, what)
    with pytest.raises(UserError) as caught:
        labelwise.fit(IMAGES, LABELS, init=init, out=tmp_path / "run", **CE)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_other_data_than_the_folder_s_are_refused(
    alone: labelwise.Pretrained, tmp_path: Path
) -> None:
    small, out = {"init": alone.path, **CE}, tmp_path / "run"
    with pytest.raises(UserError, match=r"\(1, 8, 8\), this run's is \(1, 16, 16\).*-size 8"):
        labelwise.fit(IMAGES, LABELS, image_size=16, out=out, **small)
    colour = np.repeat(IMAGES, 3, axis=1)
    with pytest.raises(UserError, match=r"\(1, 8, 8\), this run's is \(3, 8, 8\)\. Pre-train"):
        labelwise.fit(colour, LABELS, out=out, **small)
    flat = tiny_embeddings()
    with pytest.raises(UserError, match=r"input shape is \(1, 8, 8\), this run's is \(6,\)"):
        labelwise.fit(flat.inputs.numpy(), flat.labels.numpy(), out=out, **small)
    for pretrain, message in (("simclr", "simclr needs images"), ("simlcr", "Did you mean")):
        with pytest.raises(UserError, match=message):
            labelwise.fit(
                flat.inputs.numpy(), flat.labels.numpy(), pretrain=pretrain, out=out, **CE
            )
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "symmetric:0.4"}, "noise means nothing for pre-training"),
        ({"plant": 0.1}, "plant means nothing for pre-training"),
        ({"test": "digits"}, "test means nothing for pre-training"),
        ({"method": "simclr+simclr"}, "is there twice"),
        ({"method": ""}, "choose one of moco, scan, simclr"),
        ({"modle": "mlp"}, "Did you mean 'model'"),
        ({"settings": {"temprature": 1}}, "Did you mean 'temperature'"),
        ({"settings": {"simclr.view": "nope"}}, "unknown view policy 'nope'"),
        ({"data": tiny_embeddings().inputs.numpy()}, "simclr needs images"),
        ({"data": IMAGES[:2]}, "needs 4 at least"),
        ({"devices": 2, "out": None}, "several processes need one --out"),
    ],
)
def test_a_bad_call_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = {"data": IMAGES, "out": tmp_path / "run", **SHORT, **options}
    with pytest.raises(UserError) as caught:
        labelwise.pretrain(words.pop("data"), **words)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_find_their_part() -> None:
    assert full_names(("simclr",), {"epochs": 2}) == {"simclr.epochs": 2}
    found = full_names(("moco", "scan"), {"num_neighbours": 5, "moco.lr": 0.1})
    assert found == {"scan.num_neighbours": 5, "moco.lr": 0.1}
    with pytest.raises(UserError, match=r"--set moco\.epochs or scan\.epochs"):
        full_names(("moco", "scan"), {"epochs": 2})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pre_training_goes_on_to_the_same_end(
    alone: labelwise.Pretrained, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(labelwise.Interrupted, match="continue with"):
        labelwise.pretrain(IMAGES, out=out, listener=StopAt(1, number), **SHORT)
    with pytest.raises(UserError, match="not finished: `labelwise resume"):
        labelwise.load_run(out)
    with pytest.raises(UserError, match="finish it first"):
        labelwise.fit(IMAGES, LABELS, init=out, **CE)
    with pytest.raises(UserError, match="pass the data to resume"):
        labelwise.resume(out)
    with pytest.raises(UserError, match=r"the inputs of .* are not those"):
        labelwise.resume(out, IMAGES[::-1])
    again = labelwise.resume(out, IMAGES)
    assert isinstance(again, labelwise.Pretrained)
    assert_same_tensors(weights(out), weights(alone.path))
    np.testing.assert_array_equal(again.features, alone.features)
    assert labelwise.resume(out).path == out  # finished: needs no data


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_with_both_goes_on_though_the_start_is_gone(
    alone: labelwise.Pretrained, tmp_path: Path, epoch: int
) -> None:
    options: dict[str, Any] = {
        **CE,
        "pretrain": "moco",
        "settings": {"moco.epochs": 2},
        "init": tmp_path / "pre",
    }
    shutil.copytree(alone.path, tmp_path / "pre")
    whole = labelwise.fit(IMAGES, LABELS, out=tmp_path / "whole", **options)
    out = tmp_path / "run"
    with pytest.raises(labelwise.Interrupted):
        labelwise.fit(IMAGES, LABELS, out=out, listener=StopAt(epoch), **options)
    shutil.rmtree(tmp_path / "pre")
    again = labelwise.resume(out, IMAGES, LABELS)
    assert_same_tensors(weights(out), weights(whole.path))
    pd.testing.assert_frame_equal(again.labels, whole.labels)
    first, second = (rows_without_times(run / "metrics.jsonl") for run in (out, whole.path))
    assert first == second


def test_a_run_that_never_committed_asks_for_its_start(
    alone: labelwise.Pretrained, tmp_path: Path
) -> None:
    shutil.copytree(alone.path, tmp_path / "pre")
    with pytest.raises(labelwise.Interrupted):
        labelwise.fit(
            *(IMAGES, LABELS), init=tmp_path / "pre", out=tmp_path / "r", listener=StopAt(0), **CE
        )
    shutil.rmtree(tmp_path / "r" / "checkpoint")
    state = weights(tmp_path / "pre")
    torch.save({n: v + 1 for n, v in state.items()}, tmp_path / "pre" / "model" / "network-0.pt")
    with pytest.raises(UserError, match="its weights are not those the run started with"):
        labelwise.resume(tmp_path / "r", IMAGES, LABELS)
    shutil.rmtree(tmp_path / "pre")
    with pytest.raises(UserError, match="pre does not exist"):
        labelwise.resume(tmp_path / "r", IMAGES, LABELS)


def test_a_run_with_pre_training_tells_its_stages(before_ce: labelwise.Result) -> None:
    first, second = before_ce.summary["stages"]
    assert (first["name"], first["epochs"]) == ("simclr", 2)
    assert 0 <= first["knn_accuracy"] <= 1
    assert (second["name"], second["epochs"]) == ("ce", 1)
    assert set(second) == {"name", "epochs", "seconds"}
    assert before_ce.summary["epochs"] == 3
    assert before_ce.summary["test_accuracy_last_epochs"] == 1
    described = read_json(before_ce.path / "config.json")
    assert "SimCLR" in described["citation"]
    assert described["pretrained_by"] == ["simclr"]
    text = call("resume", before_ce.path).stdout
    assert text.startswith("simclr: 2 epochs in ")
    assert "k-NN accuracy" in text.splitlines()[0]
    assert text.splitlines()[1].startswith("ce: 1 epoch in ")


def test_the_command_repeats_the_run(before_ce: labelwise.Result, tmp_path: Path) -> None:
    words = command(read_run(before_ce.path)).split()
    assert words[words.index("--pretrain") + 1] == "simclr"
    assert "simclr.epochs=2" in words
    call(*words[1:], "--out", tmp_path / "again")
    assert_same_tensors(weights(tmp_path / "again"), weights(before_ce.path))


def test_settings_of_pre_training_stand_beside_a_method_object(tmp_path: Path) -> None:
    options = {**CE, "method": labelwise.CrossEntropy(), "pretrain": "simclr"}
    settings = {"simclr.epochs": 1}
    run = labelwise.fit(IMAGES, LABELS, settings=settings, out=tmp_path / "r", **options)
    assert run.summary["epochs"] == 2
    with pytest.raises(UserError, match="to the method object itself"):
        labelwise.fit(IMAGES, LABELS, settings={**settings, "view": "weak"}, **options)


class Mine(labelwise.CrossEntropy):
    """A method that discovery cannot find."""

    name = "mine"


def test_models_of_a_run_with_pre_training_predict(
    before_ce: labelwise.Result, tmp_path: Path
) -> None:
    assert len(before_ce.predict("digits")) == 1797
    options = {**CE, "method": Mine(), "pretrain": "simclr", "settings": {"simclr.epochs": 1}}
    with pytest.raises(labelwise.Interrupted):
        labelwise.fit(IMAGES, LABELS, out=tmp_path / "r", listener=StopAt(1), **options)
    run = labelwise.resume(tmp_path / "r", IMAGES, LABELS, method=Mine())
    assert run.predict_proba(IMAGES).shape == (64, 3)


def test_ctrl_c_on_the_command_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--epochs", 2, "--limit", 60, "--batch-size", 16, "--threads", 1)
    seen: Silent = StopAt(1)
    with monkeypatch.context() as patched:
        patched.setattr(cli.pretrain, "listener_for", lambda title, quiet: seen)
        stopped = call("pretrain", "digits", *words, "--out", tmp_path / "r", code=130)
    assert stopped.stdout == ""
    assert stopped.stderr == f"stopped; continue with: labelwise resume {tmp_path / 'r'}\n"
    again = call("resume", tmp_path / "r").stdout
    whole = call("pretrain", "digits", *words, "--out", tmp_path / "w").stdout
    assert again.split(" in ")[0] == whole.split(" in ")[0] == "simclr: 2 epochs"
    assert_same_tensors(weights(tmp_path / "r"), weights(tmp_path / "w"))


def test_test_samples_that_may_have_been_seen_are_said(tmp_path: Path) -> None:
    pre = labelwise.pretrain("digits", limit=60, out=tmp_path / "pre", **SHORT)
    run = labelwise.fit("digits", limit=60, init=pre.path, out=tmp_path / "run", **CE)
    assert any("--init were trained on 60 samples" in note for note in run.summary["notes"])


def test_a_folder_of_the_same_rows_has_seen_no_test_sample(
    before_ce: labelwise.Result, tmp_path: Path
) -> None:
    def told(init: Path, **options: Any) -> list[str]:
        values = {**CE, "limit": 60, "out": tmp_path / str(len(list(tmp_path.iterdir())))}
        run = labelwise.fit("digits", init=init, **{**values, **options})
        return [note for note in run.summary["notes"] if "--init were trained on" in note]

    assert told(before_ce.path) == []  # its test samples were set aside in the same way
    assert told(before_ce.path, test="digits") == []
    (note,) = told(before_ce.path, seed=1)
    assert "samples of digits" in note
    # The rows of that run are these, but it started from another folder, which saw others.
    (note,) = told(tmp_path / "2", seed=1)
    assert "perhaps among them" in note
    # The same images by another name.
    images = load("digits", limit=60).data.inputs.numpy()
    pre = labelwise.pretrain(images, out=tmp_path / "pre", **SHORT)
    (note,) = told(pre.path)
    assert "60 samples" in note
    assert "digits" not in note


def test_a_folder_of_pre_training_says_what_it_is(
    alone: labelwise.Pretrained, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    for words in (
        ("report", alone.path),
        ("predict", alone.path, "digits", "--out", out),
        ("audit", alone.path),
        ("fit", alone.path),
        ("diagnose", alone.path),
        ("pretrain", alone.path),
    ):
        said = call(*words, code=2).stderr
        assert "the folder of a pre-training (simclr)" in said
        assert f"--init {alone.path}" in said
    assert list(tmp_path.iterdir()) == []
    run = labelwise.load_run(alone.path)
    assert isinstance(run, labelwise.Pretrained)
    with pytest.raises(UserError, match="no labels were audited"):
        _ = run.labels


def test_the_command_line_pre_trains_and_starts_from_it(tmp_path: Path) -> None:
    path = tmp_path / "unlabelled"
    path.mkdir()
    np.savez(path / "images.npz", images=IMAGES[:, 0])
    words = ("--method", "moco", "--epochs", 2, "--threads", 1, "--limit", 40, "--seed", 3)
    made = call("pretrain", path / "images.npz", *words, "--out", tmp_path / "pre", "--json")
    summary = json.loads(made.stdout)
    assert summary["run"] == str(tmp_path / "pre")
    assert (summary["method"], summary["num_samples"], summary["seed"]) == ("moco", 40, 3)
    text = call("resume", tmp_path / "pre").stdout
    assert text.splitlines()[0].startswith("moco: 2 epochs in")
    assert f"labelwise fit DATA --init {tmp_path / 'pre'}" in text
    more = ("--method", "ce", "--epochs", 1, "--threads", 1, "--limit", 40)
    call("fit", "digits", *more, "--init", tmp_path / "pre", "--out", tmp_path / "fit")
    assert read_config(RunFolder(tmp_path / "fit"))[0].init == str(tmp_path / "pre")


def test_many_features_are_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelwise.pretrained.MOST_FEATURES", 100)
    run = labelwise.pretrain(IMAGES, out=tmp_path / "run", **SHORT | {"epochs": 1})
    assert not (run.path / "features.npy").exists()
    assert "features.npy was not written" in run.summary["notes"][-1]
    with pytest.raises(UserError, match="see the notes"):
        _ = run.features
