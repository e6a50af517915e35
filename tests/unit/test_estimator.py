"""The Python interface as its user meets it: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import labelwise
from labelwise import estimator
from labelwise.config import RunConfig
from labelwise.data.files import write_json
from labelwise.errors import UserError
from labelwise.methods.ce import CrossEntropy
from labelwise.training.folder import RunFolder
from labelwise.training.progress import Silent
from support import tiny_embeddings, tiny_images

QUICK: dict[str, Any] = {"method": "ce", "epochs": 2, "batch_size": 16, "threads": 1}
COLUMNS = {"id", "given_label", "label_quality", "predicted_label", "suggested_label"}
IMAGES = tiny_images().inputs.numpy()
EMBEDDINGS = tiny_embeddings().inputs.numpy()
LABELS = np.array(["ant", "bee", "cow", "dog"], dtype=object)[tiny_embeddings().labels.numpy()]
EASY = np.array(["ant", "bee", "cow"], dtype=object)[tiny_images().labels.numpy()]


class ImagesOnly(CrossEntropy):
    """A method that cannot train on embeddings."""

    name = "images-only"
    kinds: ClassVar = frozenset({"images"})


class StopAt(Silent):
    """Presses Ctrl-C before a step of an epoch."""

    def __init__(self, epoch: int, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.at = epoch
        self.number = number

    def phase(self, epoch: int, name: str, step: int, steps: int) -> None:
        if epoch == self.at:
            self.at = -1
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> labelwise.Result:
    """A finished run on images in memory, with text labels."""
    return labelwise.fit(IMAGES, EASY, out=tmp_path_factory.mktemp("runs") / "images", **QUICK)


@pytest.fixture(scope="module")
def on_embeddings(tmp_path_factory: pytest.TempPathFactory) -> labelwise.Result:
    """A finished run on embeddings in memory."""
    return labelwise.fit(EMBEDDINGS, LABELS, out=tmp_path_factory.mktemp("runs") / "e", **QUICK)


def test_one_row_per_sample_in_the_order_given(result: labelwise.Result) -> None:
    assert set(result.labels.columns) > COLUMNS
    assert result.labels["id"].tolist() == list(range(len(IMAGES)))
    assert result.labels["given_label"].tolist() == EASY.tolist()
    assert result.classes == ("ant", "bee", "cow")
    assert result.summary["num_samples"] == len(IMAGES)


def test_predictions_are_those_of_the_final_networks(
    result: labelwise.Result, on_embeddings: labelwise.Result
) -> None:
    for run, inputs in ((result, IMAGES), (on_embeddings, EMBEDDINGS)):
        predicted = run.predict(inputs)
        assert list(predicted.columns) == ["id", "predicted_label", "confidence"]
        probability = run.predict_proba(inputs)
        assert probability.shape == (len(inputs), len(run.classes))
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(predicted["confidence"], probability.max(1), atol=1e-6)
        # The table's weigh the whole run and the neighbours too; these are the final networks'.
        names = np.asarray(run.classes, dtype=object)[probability.argmax(1)]
        assert predicted["predicted_label"].tolist() == names.tolist()


def test_new_data_may_come_in_any_form(result: labelwise.Result, tmp_path: Path) -> None:
    few = IMAGES[:5]
    expected = result.predict_proba(few)
    np.savez(tmp_path / "new.npz", images=few)
    forms = [few[:, 0], torch.from_numpy(few), few / 255.0, list(few), tmp_path / "new.npz"]
    for form in forms:
        np.testing.assert_allclose(result.predict_proba(form), expected, atol=1e-5)
    labelled = result.predict((few, ["never seen"] * 5))
    assert len(labelled) == 5


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (lambda y: y, ("0", "1", "2", "3")),
        (lambda y: 10 * y.astype(np.int16), ("0", "10", "20", "30")),
        (lambda y: y > 1, ("False", "True")),
        (lambda y: [f"c{c}" for c in y], ("c0", "c1", "c2", "c3")),
        (lambda y: pd.Series(y, index=y + 100), ("0", "1", "2", "3")),
        (lambda y: pd.Categorical([f"c{c}" for c in y]), ("c0", "c1", "c2", "c3")),
        (torch.from_numpy, ("0", "1", "2", "3")),
    ],
    ids=["int", "int16", "bool", "list", "series", "categorical", "tensor"],
)
def test_labels_may_be_of_any_type(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    given = labels(tiny_embeddings().labels.numpy())
    run = labelwise.fit(EMBEDDINGS, given, out=tmp_path / "run", **QUICK | {"epochs": 1})
    assert run.classes == classes
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    assert run.labels["given_label"].tolist() == [str(value) for value in values]
    assert set(run.labels["suggested_label"]) <= set(classes)


def test_a_method_object_and_its_name_with_settings_are_the_same(tmp_path: Path) -> None:
    quick = {**QUICK, "epochs": 3}
    quick.pop("method")
    first = labelwise.fit(
        EMBEDDINGS, LABELS, method=labelwise.DivideMix(lambda_u=25), out=tmp_path / "a", **quick
    )
    second = labelwise.fit(
        EMBEDDINGS,
        LABELS,
        method="dividemix",
        settings={"lambda_u": 25},
        out=tmp_path / "b",
        **quick,
    )
    assert first.summary["decisions"]["lambda_u"] == 25
    pd.testing.assert_frame_equal(first.labels, second.labels)


@pytest.mark.parametrize("method", ["ce", "mixup", "coteaching", "coteaching+", "dividemix"])
def test_very_small_data_in_batches_larger_than_it(tmp_path: Path, method: str) -> None:
    labels = np.arange(20) % 2
    run = labelwise.fit(
        EMBEDDINGS[:20],
        labels,
        method=method,
        out=tmp_path / "run",
        epochs=3,
        batch_size=512,
        threads=1,
    )
    assert len(run.labels) == 20
    assert run.labels["label_quality"].between(0, 1).all()
    assert run.labels["suggestion_confidence"].between(0, 1).all()


def test_another_seed_is_another_run_and_the_same_seed_the_same(tmp_path: Path) -> None:
    runs = [
        labelwise.fit(EMBEDDINGS, LABELS, out=tmp_path / name, seed=seed, **QUICK)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    pd.testing.assert_frame_equal(runs[0].labels, runs[1].labels)
    assert not runs[0].labels.equals(runs[2].labels)


def test_without_a_folder_the_run_lies_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = labelwise.fit(EMBEDDINGS, LABELS, **QUICK | {"epochs": 1})
    assert run.path.parent == tmp_path
    assert run.report() == run.path / "report.html"
    assert "<html" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_folder_with_a_colon_in_its_relative_name(
    result: labelwise.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(result.path, tmp_path / "symmetric:0.5")
    monkeypatch.chdir(tmp_path)
    moved = labelwise.Result(Path("symmetric:0.5"))
    assert moved.labels.equals(result.labels)
    moved.report()
    assert (tmp_path / "symmetric:0.5" / "report.html").stat().st_size > 1000


def test_the_report_is_written_again(result: labelwise.Result) -> None:
    page = result.path / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert result.report() == page
    assert page.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, number: int) -> None:
    run = {**QUICK, "epochs": 4}
    whole = labelwise.fit(EMBEDDINGS, LABELS, out=tmp_path / "whole", **run)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(labelwise.Interrupted):
        labelwise.fit(EMBEDDINGS, LABELS, out=tmp_path / "run", listener=StopAt(2, number), **run)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    with pytest.raises(UserError, match=r"not finished: `labelwise resume .*run`"):
        labelwise.load_run(tmp_path / "run")
    with pytest.raises(UserError, match="pass data and labels"):
        labelwise.resume(tmp_path / "run")
    with pytest.raises(UserError, match="not those the run started with"):
        labelwise.resume(tmp_path / "run", EMBEDDINGS, LABELS[::-1])
    again = labelwise.resume(tmp_path / "run", EMBEDDINGS, LABELS)
    pd.testing.assert_frame_equal(again.labels, whole.labels)
    assert again.summary["epochs"] == 4


def test_a_finished_run_is_returned_as_it_is(on_embeddings: labelwise.Result) -> None:
    before = (on_embeddings.path / "labels.csv").read_bytes()
    again = labelwise.resume(on_embeddings.path, EMBEDDINGS, LABELS)
    assert again.path == on_embeddings.path
    assert (again.path / "labels.csv").read_bytes() == before


def test_a_finished_run_needs_no_data(on_embeddings: labelwise.Result) -> None:
    assert labelwise.resume(on_embeddings.path).path == on_embeddings.path


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"labels": None}, "no labels. Pass them as labels="),
    "too few labels": ({"labels": LABELS[:9]}, "9 labels for 64 inputs"),
    "missing label": ({"labels": [None, *LABELS[1:]]}, "1 of 64 labels missing, at row 0"),
    "NaN label": ({"labels": [float("nan"), *[1.0] * 63]}, "1 of 64 labels missing"),
    "measurements": ({"labels": np.linspace(0, 1, 64)}, "is not a class"),
    "one class": ({"labels": ["ant"] * 64}, "all 64 samples have the label 'ant'"),
    "a class each": ({"labels": range(64)}, "each of the 64 samples has a label of its own"),
    "NaN input": (
        {"data": np.where(np.arange(64)[:, None] == 7, np.nan, EMBEDDINGS)},
        "NaN or infinity, the first at row 7",
    ),
    "no samples": ({"data": EMBEDDINGS[:0], "labels": []}, "holds no samples"),
    "unknown option": ({"nois": "symmetric:0.4"}, "Did you mean 'noise'?"),
    "unknown method": ({"method": "dividemx"}, "Did you mean 'dividemix'?"),
    "unknown setting": ({"settings": {"veiw": "weak"}}, "Did you mean 'view'?"),
    "unknown schedule": ({"schedule": {"epoch": 3}}, "Did you mean 'epochs'?"),
    "unknown view": ({"settings": {"view": "nope"}}, "unknown view policy 'nope'"),
    "unknown model": ({"model": "mpl"}, "Did you mean 'mlp'?"),
    "image model": ({"model": "small_resnet"}, "does not take embeddings"),
    "unknown noise": ({"noise": "symetric:0.4"}, "Did you mean 'symmetric'?"),
    "noise rate": ({"noise": "symmetric:1.4"}, "outside [0, 1)"),
    "device": ({"device": "tpu"}, "unknown device 'tpu'"),
    "precision": ({"precision": "half"}, "unknown precision 'half'"),
    "epochs": ({"epochs": 0}, "epochs = 0 is not valid"),
    "batch size": ({"batch_size": 1}, "batch_size = 1 is not valid"),
    "seed": ({"seed": -1}, "seed = -1 is not valid"),
    "label column": ({"label_column": "x"}, "label_column means nothing"),
    "missing test data": ({"test": "nothere.csv"}, "nothere.csv does not exist"),
    "images only": ({"method": ImagesOnly()}, "needs images, but the data are embeddings"),
    "settings beside": (
        {"method": labelwise.CrossEntropy(), "settings": {"view": "weak"}},
        "to the method object itself",
    ),
    "one folder": ({"devices": 2, "out": None}, "several processes need one --out"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    changes, message = BAD_CALLS[name]
    call = {"data": EMBEDDINGS, "labels": LABELS, "out": tmp_path / "run", **QUICK, **changes}
    with pytest.raises(UserError) as caught:
        labelwise.fit(call.pop("data"), call.pop("labels"), **call)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_message_never_dumps_an_array() -> None:
    with pytest.raises(UserError) as caught:
        labelwise.fit(EMBEDDINGS, LABELS, label_column=(EMBEDDINGS, LABELS), **QUICK)
    assert len(str(caught.value)) < 500


def test_truth_and_test_data_in_memory(tmp_path: Path) -> None:
    wrong = [*LABELS[1:], LABELS[0]]
    options = {"truth": LABELS, "test": (EMBEDDINGS, LABELS)}
    result = labelwise.fit(EMBEDDINGS, wrong, out=tmp_path / "r", **options, **QUICK)
    assert result.labels["true_label"].tolist() == [str(label) for label in LABELS]
    assert len(result.labels) == len(LABELS)  # nothing set aside: test data were given
    assert "test_accuracy_last" in result.summary
    (tmp_path / "r" / "report.html").unlink()
    with pytest.raises(UserError, match="pass test to resume"):
        labelwise.resume(tmp_path / "r", EMBEDDINGS, wrong, truth=LABELS)
    with pytest.raises(UserError, match="the inputs of"):
        labelwise.resume(tmp_path / "r", EMBEDDINGS + 1, wrong, **options)
    again = labelwise.resume(tmp_path / "r", EMBEDDINGS, wrong, **options)
    assert again.path == result.path


@pytest.mark.parametrize("lambda_u", [-1, "many"])
def test_settings_of_a_method_object_are_checked_at_once(lambda_u: Any) -> None:
    with pytest.raises(UserError, match=r"dividemix: lambda_u = .* is not valid"):
        labelwise.DivideMix(lambda_u=lambda_u)
    with pytest.raises(UserError, match="Did you mean 'lambda_u'"):
        labelwise.DivideMix(lamda_u=3)


def test_test_data_of_other_classes_or_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", embeddings=np.zeros((4, 9)), labels=LABELS[:4].astype(str))
    np.savez(tmp_path / "other.npz", embeddings=EMBEDDINGS[:4], labels=np.array(["emu"] * 4))
    for name, message in (("wide", r"shape \(9,\)"), ("other", "'emu' .* not among the 4 known")):
        with pytest.raises(UserError, match=message):
            labelwise.fit(
                EMBEDDINGS,
                LABELS,
                test=str(tmp_path / f"{name}.npz"),
                out=tmp_path / "run",
                **QUICK,
            )
    assert not (tmp_path / "run").exists()


def test_inputs_of_another_kind_or_width_are_not_predicted(
    result: labelwise.Result, on_embeddings: labelwise.Result
) -> None:
    with pytest.raises(UserError, match=r"inputs of shape \(6,\)"):
        on_embeddings.predict(EMBEDDINGS[:, :4])
    with pytest.raises(UserError, match=r"inputs of shape \(6,\)"):
        on_embeddings.predict(IMAGES)
    with pytest.raises(UserError, match=r"inputs of shape \(1, 8, 8\)"):
        result.predict(EMBEDDINGS)
    with pytest.raises(UserError, match="no samples"):
        result.predict(IMAGES[:0])


def test_a_folder_in_use_is_never_written_to(
    tmp_path: Path, on_embeddings: labelwise.Result
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="in use: choose another"):
        labelwise.fit(EMBEDDINGS, LABELS, out=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="in use: continue it with `labelwise resume"):
        labelwise.fit(EMBEDDINGS, LABELS, out=on_embeddings.path, **QUICK)
    assert (on_embeddings.path / "summary.json").exists()


def test_losing_a_race_for_a_folder_leaves_the_winner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner = RunFolder(tmp_path / "run")
    prepare = estimator.prepare

    def slow_prepare(*args: Any, **kwargs: Any) -> Any:
        winner.create()
        write_json(winner.config, {"of": "the winner"})
        return prepare(*args, **kwargs)

    monkeypatch.setattr(estimator, "prepare", slow_prepare)
    with pytest.raises(UserError, match="in use"):
        labelwise.fit(EMBEDDINGS, LABELS, out=winner.path, **QUICK)
    assert json.loads(winner.config.read_text()) == {"of": "the winner"}


def test_a_run_that_another_process_trains_in_is_not_resumed(
    on_embeddings: labelwise.Result, tmp_path: Path
) -> None:
    path = shutil.copytree(on_embeddings.path, tmp_path / "run")
    (path / "report.html").unlink()  # a finished run is not touched at all
    with (
        RunFolder(path).locked(),
        pytest.raises(UserError, match="another process is training"),
    ):
        labelwise.resume(path, EMBEDDINGS, LABELS)


@pytest.mark.parametrize("name", ["load_run", "resume"])
def test_a_folder_without_a_run_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"config\.json does not exist: is .* a run folder"):
        getattr(labelwise, name)(tmp_path)


def test_the_options_of_fit_are_those_of_the_configuration(
    on_embeddings: labelwise.Result,
) -> None:
    described = json.loads((on_embeddings.path / "config.json").read_text())
    assert set(described["config"]) == set(RunConfig.model_fields)
    assert described["config"]["data"] == "(in memory)"
    assert described["config"]["model"] == "mlp"
    assert described["config"]["schedule"]["epochs"] == QUICK["epochs"]


def test_public_names_exist_and_importing_them_all_works() -> None:
    assert set(dir(labelwise)) == set(labelwise.__all__)
    for name in labelwise.__all__:
        assert callable(getattr(labelwise, name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = labelwise.nothing


def test_test_data_with_a_gap_in_the_truth_are_refused(tmp_path: Path) -> None:
    """Their noisy labels must not stand in for the truth without a word."""
    inputs = np.random.default_rng(0).normal(size=(60, 2))
    table = pd.DataFrame(inputs, columns=["a", "b"])
    table["label"] = np.where(inputs[:, 0] > 0, "yes", "no")
    table["true"] = table["label"]
    table.to_csv(tmp_path / "train.csv", index=False)
    table.loc[3, "true"] = None
    table.to_csv(tmp_path / "test.csv", index=False)
    columns = {"label_column": "label", "truth_column": "true"}
    with pytest.raises(UserError, match=r"the test data .*test\.csv"):
        labelwise.fit(
            tmp_path / "train.csv", test=tmp_path / "test.csv", method="ce", epochs=1, **columns
        )


def test_ctrl_c_in_the_audit_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is over by then: resuming only audits."""
    data = tiny_images()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(estimator, "write_report", stop)
        with pytest.raises(labelwise.Interrupted, match="resume") as caught:
            labelwise.fit(
                data.inputs.numpy(), data.labels.numpy(), method="ce", epochs=1, out=tmp_path / "r"
            )
    assert caught.value.path == tmp_path / "r"
    result = labelwise.resume(tmp_path / "r", data.inputs.numpy(), data.labels.numpy())
    assert (result.path / "report.html").exists()


def test_runs_of_an_older_version_are_explained(tmp_path: Path) -> None:
    """Its checkpoints lack the trace: neither a traceback nor other labels than before."""
    data = tiny_images()
    result = labelwise.fit(
        data.inputs.numpy(), data.labels.numpy(), method="ce", epochs=1, out=tmp_path / "r"
    )
    path = RunFolder(result.path).config
    described = json.loads(path.read_text())
    del described["config"]["pretrain"]
    path.write_text(json.dumps(described))
    finished = labelwise.resume(tmp_path / "r")
    assert finished.summary["num_samples"] == len(data.inputs)
    RunFolder(result.path).report.unlink()
    with pytest.raises(UserError, match="older version"):
        labelwise.resume(tmp_path / "r", data.inputs.numpy(), data.labels.numpy())
