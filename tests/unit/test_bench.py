"""`labelwise bench`: grids of runs that a crash, a signal or a second process does not spoil."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import labelwise
from labelwise.bench import bench as benches
from labelwise.bench.bench import MOST_SEEDS, Bench, check_settings, open_bench, seeds_from
from labelwise.bench.how import How
from labelwise.bench.identity import columns_of, identity_of
from labelwise.bench.outlook import Outlook
from labelwise.bench.plan import Changes, Place, Task, task_of
from labelwise.bench.processes import context_for, environment
from labelwise.bench.result import failed_row
from labelwise.bench.rows import Row, RowFile, latest
from labelwise.bench.runner import Outcome, Runner, Running
from labelwise.bench.suites import Cell, Suite, find_suite, known_suites
from labelwise.bench.suites.papers import from_recipes
from labelwise.bench.worker import STOPPED, Orders, work
from labelwise.cli import app
from labelwise.errors import UserError
from labelwise.recipes.recipe import Recipe

NOISES = ("symmetric:0.5", "asymmetric:0.4")


def tiny_suite(name: str = "tiny", methods: tuple[str, ...] = ("ce", "mixup")) -> Suite:
    """A suite that takes a second a run."""
    return Suite(
        name=name,
        title="Tiny",
        summary="Few digits, one epoch",
        dataset="digits",
        data="digits",
        cells=tuple(
            Cell(name=m, method=m, row=m, column=n, noise=n, epochs=1, limit=60, seconds=2)
            for n in NOISES
            for m in methods
        ),
        seeds=(0, 1),
        options={"plant": 0.0},
    )


def tiny_bench(folder: Path, suite: Suite | None = None, **changes: Any) -> Bench:
    """A bench of it in a folder that is there."""
    found = open_bench(suite or tiny_suite(), None, None, folder, Changes(**changes))
    found.folder.create(found.suite.name)
    return found


def run(
    bench: Bench,
    tasks: list[Task],
    tell: Callable[[Row, Runner], object] = lambda row, runner: None,
    how: How | None = None,
    main: Callable[[Task, Orders], None] = work,
) -> Outcome:
    """Do these tasks on one thread."""
    how = how or How(workers=1, threads=1, device="cpu")
    return Runner(bench.folder, tasks, how, Outlook(tasks, []), tell, main).run()


def dies_for_seed_1(task: Task, orders: Orders) -> None:
    """A run that is killed as the system does when memory runs out."""
    if task.seed == 1:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    work(task, orders)


# Rows


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")
    assert rows.read() == ([], [])
    for number in range(3):
        rows.append({"key": str(number), "text": "a\nb – ü"})
    found, notes = rows.read()
    assert [row["key"] for row in found] == ["0", "1", "2"]
    assert found[0]["text"] == "a\nb – ü"
    assert not notes


@pytest.mark.parametrize("cut", range(1, 21))
def test_a_torn_line_is_ignored_and_cut_off(tmp_path: Path, cut: int) -> None:
    """Whatever part of the last line was written: the rows before it and after it are whole."""
    rows = RowFile(tmp_path / "rows.jsonl")
    rows.append({"key": "whole"})
    before = rows.path.read_bytes()
    rows.append({"key": "torn", "n": 1})
    line = rows.path.read_bytes()[len(before) :]
    rows.path.write_bytes(before + line[:cut])
    found, notes = rows.read()
    assert [row["key"] for row in found] == ["whole"]
    assert len(notes) == 1
    assert "cut short" in notes[0]
    rows.append({"key": "next"})
    assert rows.read() == ([{"key": "whole"}, {"key": "next"}], [])


def test_a_last_line_without_its_end_and_a_damaged_one(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")
    rows.path.write_bytes(b'{"key": "a"}\n{"key"\n[1]\n{"key": "b"}')
    found, notes = rows.read()
    assert [row["key"] for row in found] == ["a", "b"]
    assert ["line 2" in notes[0], "line 3" in notes[1]] == [True, True]
    rows.append({"key": "c"})
    assert [row["key"] for row in rows.read()[0]] == ["a", "b", "c"]


def test_many_threads_append_whole_lines(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")

    def add(number: int) -> None:
        for step in range(20):
            RowFile(rows.path).append({"key": f"{number}-{step}", "long": "x" * 3000})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, notes = rows.read()
    assert not notes
    assert {row["key"] for row in found} == {f"{n}-{s}" for n in range(4) for s in range(20)}


def test_the_row_that_counts() -> None:
    rows = [
        {"key": "a", "status": "done", "n": 1},
        {"key": "a", "status": "failed"},
        {"key": "b", "status": "failed", "n": 1},
        {"key": "b", "status": "failed", "n": 2},
    ]
    assert [latest(rows)[key]["n"] for key in "ab"] == [1, 2]


# Suites, tasks and keys


def test_suites_are_well_formed() -> None:
    assert {"digits", "cifar10-lite", "cifar10", "webvision", "clothing1m"} <= set(known_suites())
    digits = find_suite("digits")
    assert len(digits.cells) == 70
    assert digits.seeds == (0, 1, 2)
    check_settings(tiny_bench_tasks(digits))
    lite = find_suite("cifar10-lite")
    assert {cell.label_column for cell in lite.cells} == {
        None,
        "human_aggregate",
        "semantic_resnet",
    }
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        find_suite("digit")


def tiny_bench_tasks(suite: Suite) -> list[Task]:
    """The runs of a suite of digits."""
    place = Place.of("digits", None)
    return [task_of(suite, cell, 0, place, Changes()) for cell in suite.cells]


def test_suites_of_recipes() -> None:
    recipes = {
        "one": Recipe(
            method="ce", summary="", dataset="cifar10", noise="symmetric:0.2", row="ce",
            column="symmetric 20 %", paper_accuracy=80.0, settings={"ce.view": "strong"},
        ),
        "two": Recipe(method="ce", summary="", dataset="cifar10", label_column="x", row="ce"),
        "three": Recipe(method="ce", summary="", dataset="webvision"),
        "four": Recipe(method="ce", summary=""),
    }  # fmt: skip
    suite = from_recipes("cifar10", recipes)
    assert [(c.name, c.row, c.column, c.paper_last) for c in suite.cells] == [
        ("one", "ce", "symmetric 20 %", 80.0),
        ("two", "ce", "x", None),
    ]
    assert from_recipes("webvision", recipes).cells[0].row == "three"
    with pytest.raises(UserError, match="'clothing1m' is empty: no recipe is for Clothing1M"):
        from_recipes("clothing1m", recipes)


def test_the_key_is_of_what_decides_the_result() -> None:
    suite, place = tiny_suite(), Place.of("digits", None)
    cell = suite.cells[0]

    def key(cell: Cell = cell, seed: int = 0, place: Place = place, **changes: Any) -> str:
        return task_of(suite, cell, seed, place, Changes(**changes)).key

    others = [
        key(seed=1),
        key(epochs=3),
        key(limit=70),
        key(settings={"view": "strong"}),
        key(schedule={"lr": 0.1}),
        key(cell.model_copy(update={"noise": "symmetric:0.6"})),
        key(place=place.model_copy(update={"data_identity": "other"})),
    ]
    assert len({key(), *others}) == 8
    renamed = cell.model_copy(update={"row": "r", "column": "c", "paper_last": 3.0, "seconds": 9})
    moved = place.model_copy(update={"data": "/elsewhere"})
    assert {key(renamed), key(place=moved)} == {key()}


def test_identity_and_columns_of_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "cat"
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"12")
        (tmp_path / f"{name}.csv").write_text("image,label,noisy\n1.png,cat,dog\n")
    assert identity_of(str(tmp_path / "a")) == identity_of(str(tmp_path / "b"))
    assert identity_of(str(tmp_path / "a.csv")) == identity_of(str(tmp_path / "b.csv"))
    (tmp_path / "b" / "cat" / "1.png").write_bytes(b"123")
    (tmp_path / "b.csv").write_text("image,label,noisy\n1.png,cat,cat\n")
    assert identity_of(str(tmp_path / "a")) != identity_of(str(tmp_path / "b"))
    assert identity_of(str(tmp_path / "a.csv")) != identity_of(str(tmp_path / "b.csv"))
    assert columns_of(str(tmp_path / "a.csv")) == ("image", "label", "noisy")
    assert columns_of("digits") == columns_of(str(tmp_path / "a")) == ()
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"1")
    inside = identity_of(str(archive / "test_batch"))
    assert inside == f"{identity_of(str(archive))}/test_batch"
    assert columns_of(str(archive / "test_batch")) is None
    with pytest.raises(UserError, match=r"does not exist. Did you mean 'a.csv'"):
        identity_of(str(tmp_path / "a.cs"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy's file
def test_what_is_no_npz_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.zeros((4, 3)), labels=np.zeros(4))
    assert columns_of(str(path)) == ("images", "labels")
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(4))
    single = (tmp_path / "one.npy").read_bytes()
    for content, message in {
        b"junk": "it is no NumPy file",
        b"": "as a NumPy file",
        whole[: len(whole) // 2]: "as a NumPy file",
        single: "is a single array: rename it to .npy",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            columns_of(str(path))


def test_cells_whose_labels_the_data_lack(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("image,label,human_aggregate\n1.png,cat,dog\n")
    lite = find_suite("cifar10-lite")
    bench = open_bench(lite, str(data), str(data), tmp_path / "out", Changes())
    tasks, notes = bench.tasks()
    assert len(tasks) == 18
    assert notes == [f"6 cells left out: {data} has no column 'semantic_resnet'"]
    human = next(task for task in tasks if task.cell.label_column == "human_aggregate")
    assert human.config["truth_column"] == "label"
    assert "truth_column" not in tasks[0].config
    with pytest.raises(UserError, match="6 cells left out"):
        bench.tasks(noises=["semantic_resnet"])
    with pytest.raises(UserError, match="Nothing is downloaded"):
        open_bench(lite, None, None, None, Changes())
    with pytest.raises(UserError, match="needs --test as well"):
        open_bench(lite, str(data), None, None, Changes())
    with pytest.raises(UserError, match="has its own data"):
        open_bench(find_suite("digits"), "digits", None, None, Changes())


def test_choosing_methods_noises_and_seeds(tmp_path: Path) -> None:
    bench = open_bench(find_suite("digits"), None, None, tmp_path, Changes())
    tasks, _ = bench.tasks(["ce", "sanm+ce"], ["semantic:0.4"], [4])
    assert [(task.cell.row, task.seed) for task in tasks] == [("ce", 4), ("sanm+ce", 4)]
    with pytest.raises(UserError, match=r"method of the suite digits 'dividmix'.*dividemix"):
        bench.tasks(["dividmix"])
    with pytest.raises(UserError, match=r"noise of the suite digits .*symmetric:0.5"):
        bench.tasks(None, ["symetric:0.5"])
    with pytest.raises(UserError, match="unknown setting"):
        check_settings(
            replace(task, config={**task.config, "settings": {"x": 1}}) for task in tasks
        )
    assert seeds_from(["0-2", "5", "7,8 2"]) == [0, 1, 2, 5, 7, 8]
    for wrong in (["a"], ["-1"], ["1-"], [], ["1.5"]):
        with pytest.raises(UserError, match="--seeds"):
            seeds_from(wrong)


def test_seeds_have_a_bound_and_an_order() -> None:
    assert len(seeds_from(["0-9999"])) == MOST_SEEDS
    assert seeds_from(["999999999"]) == [999_999_999]
    many = "at most 10,000 seeds at once"
    for words, message in {
        ("0-10000",): many,
        ("0-999999999",): many,
        ("0-9998", "5", "6"): many,
        ("9" * 30,): "the largest seed is 999999999",
        ("0-" + "9" * 5000,): "the largest seed is 999999999",
        ("0-2", "5-3"): "--seeds '5-3' names no seed: give the smaller one first",
    }.items():
        with pytest.raises(UserError, match=message):
            seeds_from(words)


# How long


def test_expected_time(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    tasks, _ = bench.tasks()
    outlook = Outlook(tasks, [])
    assert outlook.seconds(tasks[0]) == 2  # the suite's
    assert outlook.left(tasks, 2) == 2 * len(tasks) / 2
    outlook.add({"status": "done", "name": "ce", "column": NOISES[0], "seconds": 8})
    outlook.add({"status": "failed", "name": "ce", "column": NOISES[0], "seconds": 800})
    by_place = {(task.cell.name, task.cell.column): outlook.seconds(task) for task in tasks}
    assert by_place["ce", NOISES[0]] == by_place["ce", NOISES[1]] == 8
    assert by_place["mixup", NOISES[0]] == 2 * 8 / 2  # others took four times what was said


def test_no_run_is_started_that_would_not_end_in_time(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    tasks, _ = bench.tasks()
    outcome = run(bench, tasks, how=How(1, 1, "cpu", minutes=1 / 60))  # 2 s are expected
    assert (outcome.done, outcome.left) == ([], tasks)


def test_a_run_of_unknown_time_is_started_while_time_is_left(tmp_path: Path) -> None:
    cell = tiny_suite().cells[0].model_copy(update={"seconds": None})
    bench = tiny_bench(tmp_path, tiny_suite().model_copy(update={"cells": (cell,)}))
    tasks, _ = bench.tasks()
    how = How(1, 1, "cpu", minutes=1.0)
    runner = Runner(bench.folder, tasks, how, Outlook(tasks, []))
    assert runner._fits(tasks[0])
    runner.began -= 61
    assert not runner._fits(tasks[0])
    options = typer.main.get_command(app).commands["bench"].params  # type: ignore[attr-defined]
    said = next(option.help for option in options if option.name == "minutes")
    assert said.endswith("one whose time is not known is started.")


# Which rows count


def row_of(task: Task, status: str = "done", **changes: Any) -> Row:
    """A made-up row of a task."""
    found = {
        "suite": task.suite, "key": task.key, "name": task.cell.name, "row": task.cell.row,
        "column": task.cell.column, "seed": task.seed, "status": status, "seconds": 60.0,
    }  # fmt: skip
    figures = {"test_accuracy_last": 0.5} if status == "done" else {"error": "no room"}
    return {**found, **figures, **changes}


def test_all_attempts_at_a_run_are_counted_and_strangers_are_not(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    first, second, *_ = bench.tasks()[0]
    stranger = tiny_bench(tmp_path, epochs=7).tasks()[0][0]
    for row in (
        row_of(first, "failed"),
        row_of(stranger),
        row_of(second, "failed"),
        row_of(first, test_accuracy_last=0.4),
        row_of(first, test_accuracy_last=0.6),
    ):
        bench.folder.rows.append(row)
    rows, notes = bench.counted()
    assert [(row["row"], row["status"], row.get("test_accuracy_last")) for row in rows] == [
        ("ce", "failed", None),
        ("ce", "done", 0.4),
        ("ce", "done", 0.6),
        ("mixup", "failed", None),
    ]
    assert notes == ["1 run of other settings, data or an earlier suite left out of the tables"]
    assert bench.failed([first, second, stranger]) == [second]
    bench.write_tables()
    text = (tmp_path / "table.txt").read_text()
    assert "ce, symmetric:0.5, seed 0: no room (a later attempt finished)" in text
    assert "1 finished row was replaced" in text
    assert "1 finished runs, 1 failed, of 8 planned" in text
    assert "0.05 hours of runs in total" in text  # three attempts of a minute


def test_the_example_of_the_guide_leaves_out_runs_of_other_settings(
    tiny: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", guide, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    bench = tiny_bench(Path("bench/tiny"), tiny)
    bench.remember()
    other = tiny_bench(Path("bench/tiny"), tiny, epochs=7)
    bench.folder.rows.append(row_of(bench.tasks()[0][0], test_accuracy_last=0.25))
    bench.folder.rows.append(row_of(other.tasks()[0][0], test_accuracy_last=0.75))
    exec(code.replace('"digits"', '"tiny"'), {})
    printed = capsys.readouterr().out
    assert "25.0 (n 1)" in printed
    assert "75.0" not in printed


def test_the_page_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny_bench(Path("bench/tiny")).command() == "labelwise bench tiny"
    changes = {"epochs": 3, "limit": 70, "settings": {"view": "strong"}, "schedule": {"lr": 0.1}}
    bench = tiny_bench(tmp_path / "my runs", **changes)
    assert bench.command() == (
        "labelwise bench tiny --epochs 3 --limit 70 --set view=strong --set schedule.lr=0.1 "
        "--out 'my runs'"
    )
    bench.write_tables()
    page = html.unescape((tmp_path / "my runs" / "page.html").read_text())
    assert f"<code>{bench.command()}</code>" in page
    data = Path("data.csv")
    data.write_text("image,label\n1.png,cat\n")
    lite = open_bench(find_suite("cifar10-lite"), str(data), str(data), None, Changes())
    assert lite.command() == "labelwise bench cifar10-lite --data data.csv --test data.csv"


# Running


@dataclass
class Ended:
    """A process of a run that has ended."""

    exitcode: int

    def join(self) -> None:
        """At once."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_run_whose_row_is_done_is_done_however_its_process_ended(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    tasks, _ = bench.tasks()
    bench.folder.rows.append(row_of(tasks[0], "failed"))
    bench.folder.rows.append(row_of(tasks[0]))
    bench.folder.rows.append(row_of(tasks[1], "failed"))
    runner = Runner(bench.folder, tasks, How(1, 1, "cpu"), Outlook(tasks, []))
    for code in (-signal.SIGKILL, 1, STOPPED):
        runner._end(Running(tasks[0], Ended(code), time.monotonic()))
    assert [row["status"] for row in runner.outcome.done] == ["done"] * 3
    assert len(bench.folder.rows.read()[0]) == 3
    runner._end(Running(tasks[1], Ended(1), time.monotonic()))
    assert [row["error"] for row in runner.outcome.failed] == ["the process ended with status 1"]
    runner._end(Running(tasks[1], Ended(STOPPED), time.monotonic()))
    assert runner.outcome.left == [tasks[1]]


def test_grid_crash_retry_stale_and_tables(tmp_path: Path) -> None:
    """One run is killed; the others finish, and only what is due is done later."""
    bench = tiny_bench(tmp_path)
    tasks, _ = bench.tasks(noises=[NOISES[0]])
    said: list[str] = []
    outcome = run(
        bench,
        bench.due(tasks),
        lambda row, runner: said.append(row["status"]),
        How(workers=2, threads=1, device="cpu"),
        dies_for_seed_1,
    )
    assert sorted(said) == ["done", "done", "failed", "failed"]
    assert all("killed by SIGKILL" in row["error"] for row in outcome.failed)
    assert {row["seed"] for row in outcome.failed} == {1}
    assert not outcome.interrupted
    assert not bench.due(tasks)
    again = bench.due(tasks, retry_failed=True)
    assert [task.seed for task in again] == [1, 1]
    assert len(run(bench, again).done) == 2
    rows, notes = bench.counted()
    assert sorted(row["status"] for row in rows) == ["done"] * 4 + ["failed"] * 2
    assert not notes

    # What the row says is what `labelwise fit` of its configuration finds.
    row = next(row for row in rows if (row["row"], row["seed"], row["status"]) == ("ce", 1, "done"))
    result = labelwise.fit(
        "digits", method="ce", noise=NOISES[0], limit=60, epochs=1, plant=0.0, seed=1, threads=1,
        out=tmp_path / "fit",
    )  # fmt: skip
    for name in ("test_accuracy_last", "label_error_auroc", "estimated_noise_rate"):
        assert row[name] == result.summary[name]
    described = json.loads((tmp_path / "fit" / "config.json").read_text())
    assert row["config_digest"] == described["config_digest"]
    assert row["command"] == (
        "labelwise fit digits --method ce --plant 0 --noise symmetric:0.5 --limit 60 --seed 1 "
        "--set schedule.epochs=1 --threads 1 --device cpu"
    )
    assert {path.name for path in bench.folder.run(again[0]).iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
    }
    assert not list((tmp_path / "logs").iterdir())

    # With other epochs nothing of that is reused, and the tables say so.
    other = tiny_bench(tmp_path, epochs=2)
    assert len(other.due(other.tasks(noises=[NOISES[0]])[0])) == 4
    rows, notes = other.counted()
    assert not rows
    assert "4 runs of other settings, data or an earlier suite" in notes[0]

    # A row that was lost comes back from what is left of its run, without training.
    lines = bench.folder.rows.path.read_text().splitlines()
    bench.folder.rows.path.write_text("\n".join(lines[:-1]) + "\n")
    lost = bench.due(tasks, retry_failed=True)
    assert len(lost) == 1
    restored = run(bench, lost).done[0]
    assert {**json.loads(lines[-1]), "date": "", "seconds": 0} == {
        **restored,
        "date": "",
        "seconds": 0,
    }

    text, _ = bench.write_tables()
    assert "mixup" in text
    assert "Best epoch" not in text
    assert "Best epoch" in (tmp_path / "table.txt").read_text()


def test_a_run_that_cannot_be_says_why(tmp_path: Path) -> None:
    suite = tiny_suite(methods=("ce",))
    bad = suite.cells[0].model_copy(update={"settings": {"nonsense": 1}})
    bench = tiny_bench(tmp_path, suite.model_copy(update={"cells": (bad,)}))
    outcome = run(bench, bench.tasks(seeds=[0])[0])
    assert [row["status"] for row in bench.counted()[0]] == ["failed"]
    assert "unknown setting of ce 'nonsense'" in outcome.failed[0]["error"]
    (log,) = (tmp_path / "logs").iterdir()
    assert "Traceback" in log.read_text()


def test_ctrl_c_and_going_on(tmp_path: Path) -> None:
    """A run that is stopped commits; it goes on from there to the same figures."""
    cell = tiny_suite(methods=("ce",)).cells[0].model_copy(update={"epochs": 20})
    suite = tiny_suite().model_copy(update={"cells": (cell,), "options": {"plant": 0.0}})
    bench = tiny_bench(tmp_path / "stopped", suite)
    tasks, _ = bench.tasks()
    folder = bench.folder.run(tasks[0])

    def interrupt() -> None:
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    outcome = run(bench, tasks)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert outcome.interrupted
    assert {task.seed for task in outcome.left} == {0, 1}
    assert not bench.counted()[0]
    lines = len((folder / "metrics.jsonl").read_text().splitlines())
    assert 0 < lines < 20
    assert list((folder / "checkpoint").glob("*.pt"))

    resumed = run(bench, bench.due(tasks)[:1]).done[0]
    whole = tiny_bench(tmp_path / "whole", suite)
    alone = run(whole, whole.tasks()[0][:1]).done[0]
    for name in ("accuracies", "label_error_auroc", "estimated_noise_rate", "config_digest"):
        assert resumed[name] == alone[name]
    assert len(resumed["accuracies"]) == 20


def test_a_run_that_another_process_does(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    tasks, _ = bench.tasks(["ce"], [NOISES[0]])
    with bench.folder.claimed(tasks[0].key) as mine:
        assert mine
        outcome = run(bench, tasks)
    assert outcome.elsewhere == tasks[:1]
    assert [row["seed"] for row in outcome.done] == [1]
    # One that another process has finished meanwhile is not done again.
    RowFile(bench.folder.rows.path).append({**outcome.done[0], "key": tasks[0].key, "seed": 0})
    run(bench, tasks[:1])
    assert not bench.folder.run(tasks[0]).exists()


def test_networks_that_another_bench_may_begin_with_are_kept(tmp_path: Path) -> None:
    """Two benches of one folder with other methods: the first to end leaves them to the second."""
    bench = tiny_bench(tmp_path)
    kept = bench.folder.pretrained / "some.pt"
    kept.parent.mkdir()
    kept.touch()
    with bench.folder.at_work() as is_alone:
        run(bench, [])
        assert kept.exists()
        assert is_alone()
    run(bench, [])
    assert not kept.parent.exists()


def test_shared_pretraining_changes_no_bit(tmp_path: Path) -> None:
    """Methods that begin with SimCLR go through it once, and end as if each were alone."""
    few = {"simclr.epochs": 2, "scan.epochs": 1, "scan.head_steps": 5, "scan.self_label_epochs": 1}
    settings = {"c2d": {"simclr.epochs": 2}, "scanmix": few}
    cells = tuple(
        Cell(name=name, method=name, row=name, column="x", noise=NOISES[0], epochs=2, limit=120,
             settings=own)
        for name, own in settings.items()
    )  # fmt: skip
    bench = tiny_bench(tmp_path / "bench", tiny_suite().model_copy(update={"cells": cells}))
    tasks, _ = bench.tasks(seeds=[0])
    seen: list[int] = []

    def look(row: Row, runner: Runner) -> None:
        seen.append(len(list(bench.folder.pretrained.glob("*.pt"))))

    outcome = run(bench, tasks, look)
    assert [row["status"] for row in outcome.done] == ["done"] * 2, outcome.failed
    assert seen == [1, 1]
    assert not bench.folder.pretrained.exists()
    took = []
    for task, row in zip(tasks, outcome.done, strict=True):
        lines = (bench.folder.run(task) / "metrics.jsonl").read_text().splitlines()
        first = [json.loads(line) for line in lines][:2]
        took.append([line["phase_seconds"] for line in first])
        assert row["wall_seconds"] > sum(sum(part.values()) for part in took[-1])
        out = tmp_path / task.cell.name
        result = labelwise.fit(
            "digits", method=task.cell.name, noise=NOISES[0], limit=120, epochs=2, plant=0.0,
            threads=1, settings=settings[task.cell.name], out=out,
        )  # fmt: skip
        assert row["accuracies"] == [
            round(line["test_accuracy"], 4)
            for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            if "test_accuracy" in line
        ]
        for name in ("test_accuracy_last", "label_error_auroc", "estimated_noise_rate"):
            assert row[name] == result.summary[name]
        clocks = {"phase_seconds"}
        ours, alone = (
            [
                {k: v for k, v in json.loads(line).items() if k not in clocks}
                for line in (path / "metrics.jsonl").read_text().splitlines()
            ]
            for path in (bench.folder.run(task), out)
        )
        assert ours == alone
        described = json.loads((out / "config.json").read_text())
        assert row["config_digest"] == described["config_digest"]
    assert took[0] == took[1]  # the time of the one that did it


def remember_often(bench: Bench) -> None:
    """Write the same file again and again."""
    for _ in range(20):
        bench.remember()


def test_many_write_the_same_files_one_at_a_time(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path)
    context = context_for("cpu")
    children = [context.Process(target=remember_often, args=(bench,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert bench.folder.remembered()


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with environment(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


# The command


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Suite:
    """The tiny suite, found by name."""
    suite = tiny_suite()
    builders = {**known_suites(), "tiny": lambda: suite}
    monkeypatch.setattr("labelwise.bench.suites.known_suites", lambda: builders)
    return suite


def command(*words: str) -> Any:
    """Call the command line."""
    return CliRunner().invoke(app, ["bench", *words])


def test_command_runs_once_and_writes_tables(tiny: Suite, tmp_path: Path) -> None:
    out = str(tmp_path / "bench")
    words = ("tiny", "--methods", "ce", "--noises", NOISES[0], "--seeds", "0-0", "--out", out)
    first = command(*words, "--device", "cpu")
    assert first.exit_code == 0, first.output
    assert "[1/1] ce  symmetric:0.5  seed 0" in first.output
    assert len(first.stdout.splitlines()) < 30
    assert f"All tables: {tmp_path / 'bench' / 'page.html'}" in first.stderr
    begun = (tmp_path / "bench" / "rows.jsonl").read_bytes()
    again = command(*words, "--json", "--device", "cpu")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert (len(found["rows"]), found["done"], found["left"]) == (1, 0, 0)
    assert (tmp_path / "bench" / "rows.jsonl").read_bytes() == begun

    (tmp_path / "bench" / "table.md").unlink()
    table = command("tiny", "--table", "--out", out)
    assert table.exit_code == 0, table.output
    assert (tmp_path / "bench" / "table.md").exists()
    listed = command("tiny", "--list", "--out", out, "--json")
    cells = json.loads(listed.stdout)
    assert [(c["row"], c["column"], c["runs"], c["done"]) for c in cells][:2] == [
        ("ce", NOISES[0], 2, 1),
        ("mixup", NOISES[0], 2, 0),
    ]
    assert [cell["measured"] for cell in cells] == [True, False, True, False]
    printed = command("tiny", "--list", "--out", out, "--workers", "3", "--device", "cpu").output
    assert "1/2 done" in printed
    assert "7 runs to do, 3 at a time" in printed
    other = command("digits", "--out", out)
    assert other.exit_code == 2
    assert "holds rows of the suite 'tiny', not of 'digits'" in other.output


def test_command_tells_done_from_failed(
    tiny: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "run", lambda self: Outcome())
    bench = tiny_bench(tmp_path, tiny)
    tasks, _ = bench.tasks()
    for task, status in zip(tasks, ("done", "failed", "failed"), strict=False):
        bench.folder.rows.append(row_of(task, status))
    words = ("tiny", "--out", str(tmp_path), "--workers", "1", "--device", "cpu")
    said = command(*words).stderr
    assert "2 failed earlier: try again with --retry-failed\n" in said
    assert "1 of 8 runs are done; 5 runs to do, 1 at a time" in said
    again = command(*words, "--retry-failed").stderr
    assert "failed earlier" not in again
    assert "1 of 8 runs are done; 7 runs to do, 1 at a time" in again
    only = command(*words, "--methods", "mixup", "--noises", NOISES[0], "--seeds", "0").stderr
    assert "1 failed earlier: try again with --retry-failed" in only
    assert "to do" not in only

    listed = command(*words, "--list").stdout
    assert f"mixup  {NOISES[0]}  0/2 done, 1 failed  " in listed
    assert f"ce     {NOISES[0]}  1/2 done  " in listed
    assert "5 runs to do, 1 at a time" in listed
    assert "2 failed earlier: try again with --retry-failed" in listed
    assert "7 runs to do" in command(*words, "--list", "--retry-failed").stdout
    cells = json.loads(command(*words, "--list", "--json").stdout)
    assert [(cell["done"], cell["failed"]) for cell in cells] == [(1, 0), (0, 1), (0, 1), (0, 0)]


def test_command_explains_mistakes(tiny: Suite, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    wrong = {
        ("nothing",): "unknown suite 'nothing'",
        ("tiny", "--methods", "cee"): "Did you mean 'ce'",
        ("tiny", "--methods", ","): "names nothing",
        ("tiny", "--noises", "symetric:0.5"): "Did you mean 'symmetric:0.5'",
        ("tiny", "--seeds", "x"): "--seeds 'x' is no seed",
        ("tiny", "--workers", "0"): "--workers 0: at least 1",
        ("tiny", "--minutes", "0"): "--minutes 0.0: give a time above 0",
        ("tiny", "--epochs", "0"): "epochs = 0 is not valid",
        ("tiny", "--set", "lambda_u=1"): "unknown setting of ce 'lambda_u'",
        ("tiny", "--set", "schedule.speed=1"): "unknown setting of schedule 'speed'",
        ("tiny", "--device", "gpu"): "unknown device 'gpu'",
        ("tiny", "--data", "x"): "has its own data",
        ("tiny", "--table"): "holds no bench",
        ("cifar10-lite", "--data", "x.parquet", "--test", "x"): "x.parquet does not exist",
        ("tiny", "--out", str(taken / "below")): "cannot write",
    }
    for words, message in wrong.items():
        out = () if "--out" in words else ("--out", str(tmp_path / "out"))
        result = command(*words, *out)
        assert result.exit_code == 2, (words, result.output)
        assert message in result.output, (words, result.output)
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_command_lists_suites() -> None:
    text = command().output
    assert "digits: scikit-learn's digits" in text
    assert "70 cells, 3 seeds" in text
    found = {row["name"]: row for row in json.loads(command("--json").stdout)}
    assert found["cifar10-lite"]["runs"] == 24
    assert "Nothing" not in text


def test_failed_row_names_the_run(tmp_path: Path) -> None:
    task = tiny_bench(tmp_path).tasks()[0][0]
    row = failed_row(task, "x" * 5000, 1.23456)
    assert (row["status"], row["key"], row["seconds"]) == ("failed", task.key, 1.235)
    assert len(row["error"]) == 1000
    assert benches.folder_of("digits", None) == Path("bench/digits")
