"""Going on with a run of `labelwise bench`: what begins anew, what is kept, and what is noted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from labelwise import experiment, outputs, running
from labelwise.bench import result, worker
from labelwise.bench.bench import Bench, open_bench
from labelwise.bench.plan import Changes, Task
from labelwise.bench.suites import Cell, Suite
from labelwise.bench.worker import FAILED, KEPT, Orders
from labelwise.config import RunConfig
from labelwise.errors import UnusableFolder, UserError
from labelwise.training import engine
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.folder import RunFolder

ORDERS = Orders(Path("."), threads=1, device="cpu", keep=False)
BEGAN = {"hardware": {"cpu": "A", "threads": 1}, "versions": {"torch": "2"}, "commit": "a" * 40}


def begun(folder: Path, test: bool = False) -> tuple[Bench, Task, RunFolder]:
    """A run that was stopped, as far as its files tell."""
    data = "digits"
    if test:
        data = str(folder / "data.csv")
        Path(data).write_text("image,label\n1.png,cat\n")
    cell = Cell(name="ce", method="ce", row="ce", column="x", noise="symmetric:0.5")
    suite = Suite(
        name="one", title="", summary="", dataset="digits", data=None if test else "digits",
        cells=(cell,), seeds=(0,),
    )  # fmt: skip
    given = (data, data) if test else (None, None)
    bench = open_bench(suite, *given, folder / "bench", Changes())
    bench.folder.create("one")
    task = bench.tasks()[0][0]
    run = RunFolder(bench.folder.run(task))
    run.checkpoint.mkdir(parents=True)
    (run.checkpoint / "000001.pt").touch()
    config = RunConfig.parse({**task.config, "device": "cpu"}, "run").model_dump()
    run.config.write_text(json.dumps({"config": config, "data": {}, **BEGAN}))
    return bench, task, run


def raising(error: Exception) -> Any:
    """A function that raises, whatever it is given."""

    def function(*given: Any, **named: Any) -> Any:
        raise error

    return function


def test_a_run_that_cannot_go_on_now_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, task, folder = begun(tmp_path)
    monkeypatch.setattr(worker, "_begin", raising(AssertionError("it began anew")))
    monkeypatch.setattr(experiment, "prepare", raising(UserError("no memory for now")))
    assert worker._run(task, ORDERS, bench.folder) == FAILED
    (row,) = bench.folder.rows.read()[0]
    assert (row["status"], row["error"]) == ("failed", "no memory for now")
    assert (folder.checkpoint / "000001.pt").exists()


def test_a_run_whose_folder_is_unusable_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task, folder = begun(tmp_path)
    monkeypatch.setattr(worker, "_begin", lambda *given: 7.0 if not folder.path.exists() else 0.0)
    folder.config.write_text("{")
    assert worker.train(task, ORDERS, folder.path) == 7.0


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}', "\xff"])
def test_a_damaged_description_is_of_an_unusable_folder(tmp_path: Path, content: str) -> None:
    _, _, folder = begun(tmp_path)
    folder.config.write_bytes(content.encode("latin1"))
    with pytest.raises(UnusableFolder):
        running.read_config(folder)


def test_a_description_of_another_version_is_of_an_unusable_folder(tmp_path: Path) -> None:
    _, _, folder = begun(tmp_path)
    folder.config.write_text('{"config": {"method": "ce", "colour": 1}, "data": {}}')
    with pytest.raises(UnusableFolder, match="colour"):
        running.read_config(folder)


def test_a_description_that_cannot_be_read_may_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, folder = begun(tmp_path)
    monkeypatch.setattr(Path, "read_text", raising(OSError(5, "Input/output error")))
    with pytest.raises(UserError, match="Input/output error") as caught:
        running.read_config(folder)
    assert not isinstance(caught.value, UnusableFolder)


def test_foreign_and_torn_checkpoints_are_of_an_unusable_folder(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "ours").save({"number": torch.ones(1)})
    with pytest.raises(UnusableFolder, match="another configuration"):
        Checkpoints(tmp_path, "theirs").load()
    (tmp_path / "000001.pt").write_bytes(b"torn")
    with pytest.raises(UnusableFolder, match="is whole"):
        Checkpoints(tmp_path, "ours").load()


@pytest.mark.parametrize("name", ["labels", "inputs"])
def test_other_data_make_a_folder_unusable(tmp_path: Path, name: str) -> None:
    _, _, folder = begun(tmp_path)
    hashes = {"labels": "l", "inputs": "i", name: "other"}
    train = SimpleNamespace(
        label_hash=lambda: hashes["labels"], input_hash=lambda: hashes["inputs"]
    )
    described = {"data": {"label_hash": "l", "input_hash": "i"}}
    config, prepared = running.read_config(folder)[0], SimpleNamespace(train=train)
    with pytest.raises(UnusableFolder, match=f"the {name} of digits are not those"):
        running._require_same(config, prepared, folder, described)  # type: ignore[arg-type]


def test_a_run_goes_on_with_data_that_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, task, folder = begun(tmp_path, test=True)
    (tmp_path / "data.csv").rename(tmp_path / "moved.csv")
    moved = str(tmp_path / "moved.csv")
    again = open_bench(bench.suite, moved, moved, bench.folder.path, Changes())
    (same,) = again.tasks()[0]
    assert (same.key, same.name) == (task.key, task.name)
    seen: list[RunConfig] = []
    monkeypatch.setattr(experiment, "prepare", seen.append)
    monkeypatch.setattr(running, "continue_run", lambda config, *rest: seen.append(config))
    worker.train(same, ORDERS, folder.path)
    assert [(config.data, config.test) for config in seen] == [
        (moved, moved),
        (str(tmp_path / "data.csv"),) * 2,  # what its checkpoint is of
    ]


def test_a_run_that_began_on_a_gpu_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task, folder = begun(tmp_path)
    folder.config.write_text(folder.config.read_text().replace('"cpu"', '"cuda"'))
    monkeypatch.setattr(engine, "resolve_device", lambda device: "cpu")
    with pytest.raises(UserError, match="the run began on cuda, and PyTorch sees none here"):
        worker.train(task, ORDERS, folder.path)
    assert (folder.checkpoint / "000001.pt").exists()


def test_where_a_run_was_gone_on_with_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task, folder = begun(tmp_path)
    now = dict(BEGAN)
    for name in now:
        monkeypatch.setattr(outputs, name, lambda *given, name=name: now[name])
    monkeypatch.setattr(experiment, "prepare", lambda config: None)
    monkeypatch.setattr(running, "continue_run", lambda *given: None)

    def go_on() -> list[dict[str, Any]]:
        worker.train(task, ORDERS, folder.path)
        return result.resumed_on(folder.path)

    assert go_on() == []
    now["commit"] = "b" * 40
    elsewhere = dict(now)
    assert go_on() == go_on() == [elsewhere]
    now["commit"] = BEGAN["commit"]
    assert go_on() == [elsewhere]
    now["hardware"] = {"cpu": "B", "threads": 2}
    assert go_on() == [elsewhere, now]


def test_a_row_says_where_its_run_was_gone_on_with(tmp_path: Path) -> None:
    _, task, folder = begun(tmp_path)
    described = json.loads(folder.config.read_text())
    described |= {"data": {"shape": [64]}, "config_digest": "0"}
    folder.config.write_text(json.dumps(described))
    folder.summary.write_text('{"wall_seconds": 3}')
    folder.metrics.write_text("")
    alone = result.done_row(task, folder.path, 1.0)
    assert "resumed_on" not in alone
    assert alone["command"] == f"{task.command} --threads 1 --device cpu"
    elsewhere = [{**BEGAN, "commit": "b" * 40}]
    (folder.path / result.RESUMED).write_text(json.dumps({"resumed_on": elsewhere}))
    assert result.done_row(task, folder.path, 1.0)["resumed_on"] == elsewhere
    worker.tidy(folder.path)
    assert {path.name for path in folder.path.iterdir()} == set(KEPT)
    assert result.done_row(task, folder.path, 1.0)["resumed_on"] == elsewhere
