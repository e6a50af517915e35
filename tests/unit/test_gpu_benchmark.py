"""The script for a GPU, rehearsed on a CPU: its rows, its time, its page, its checks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu
from labelwise.methods.dividemix import MixMatch
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from on_gpu import correctness, parity
from on_gpu.page import latest, page
from on_gpu.record import Failed, Item, Settings, append_row, is_over, read_rows, run_items
from on_gpu.speed import compile_networks, largest_batch, options_of, step_trainer
from on_gpu.suite import command_of, ended_in_time
from trainers import phase_of, run_steps

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, device="cpu", tiny=True, run="now", commit="abc")


# -- rows --------------------------------------------------------------------------------------


def test_a_row_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append_row(path, {"a": 3})
    assert read_rows(path) == [{"a": 1}, {"a": 3}]
    assert read_rows(tmp_path / "none.jsonl") == []


def test_done_items_are_left_alone_and_failed_ones_tried_again() -> None:
    def row(item: str, status: str, run: str) -> dict[str, Any]:
        return {"part": "p", "item": item, "status": status, "run": run}

    rows = [row("a", "done", "old"), row("b", "failed", "old"), row("c", "failed", "now")]
    nothing = dict.fromkeys("abc", lambda seconds: {})
    over = {n: is_over(rows, "p", Item(n, run), "now") for n, run in nothing.items()}
    assert over == {"a": True, "b": False, "c": True}
    assert not is_over(rows, "p", Item("a", nothing["a"], again=True), "now")
    assert not is_over(rows, "other", Item("a", nothing["a"]), "now")


def test_a_part_goes_on_after_what_fails(settings: Settings) -> None:
    asked: list[float] = []

    def fine(seconds: float) -> dict[str, Any]:
        asked.append(seconds)
        return {"figure": 1}

    def wrong(seconds: float) -> dict[str, Any]:
        raise Failed("too far", {"figure": 2})

    items = [Item("a", fine, 3), Item("b", wrong), Item("c", fine)]
    assert run_items(settings, "p", items, 100.0)
    first, second, third = read_rows(settings.rows)
    assert (first["status"], first["result"]) == ("done", {"figure": 1})
    assert (second["status"], second["result"]) == ("failed", {"figure": 2})
    assert "too far" in second["error"]
    assert "in wrong" in second["traceback"]
    assert third["status"] == "done"
    assert asked[0] == pytest.approx(60, abs=1)  # three of five shares
    assert asked[1] > asked[0]  # what others have left
    assert {"cpu", "cuda", "versions", "commit", "date", "run"} < first.keys()
    assert first["commit"] == "abc"
    # The same again does nothing; a later run tries what failed.
    assert run_items(settings, "p", items, 100.0)
    assert len(read_rows(settings.rows)) == 3
    assert run_items(replace(settings, run="later"), "p", items, 100.0)
    assert [row["item"] for row in read_rows(settings.rows)[3:]] == ["b"]


def test_without_time_items_are_skipped(settings: Settings) -> None:
    assert run_items(settings, "p", [Item("a", lambda seconds: {})], 0.0)
    assert read_rows(settings.rows)[0]["status"] == "skipped"


def test_a_spoilt_device_wants_a_new_process(settings: Settings) -> None:
    def spoil(seconds: float) -> dict[str, Any]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    items = [Item("a", spoil), Item("b", lambda seconds: {})]
    assert not run_items(settings, "p", items, 10.0)
    assert run_items(settings, "p", items, 10.0)  # as the new process does
    assert [row["item"] for row in read_rows(settings.rows)] == ["a", "b"]


# -- what is missing ---------------------------------------------------------------------------


def test_complaints_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.complaint("cpu") is None
    if not torch.cuda.is_available():
        assert "CUDA" in str(gpu.complaint("cuda"))
    monkeypatch.setattr(gpu, "LEAST_TORCH", (99, 0))
    assert "too old: labelwise needs" in str(gpu.complaint("cpu"))
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "no-such-thing"))
    assert "not installed: no-such-thing. `pip install" in str(gpu.complaint("cpu"))
    monkeypatch.setattr(gpu, "LEAST_PYTHON", (99, 0))
    assert "Python" in str(gpu.complaint("cpu"))


def test_needed_are_the_package_s_own() -> None:
    declared = {r.split(">")[0].split(";")[0] for r in metadata.requires("labelwise") or []}
    assert {name.lower() for name in gpu.NEEDED} <= declared
    assert sum(gpu.SHARES.values()) == pytest.approx(1)


# -- checks ------------------------------------------------------------------------------------


def test_checks_cover_every_method(settings: Settings) -> None:
    names = [item.name for item in correctness.items(settings)]
    for name in ("ce", "dividemix", "scanmix", "hallucination", "sanm+scanmix", "simclr", "moco"):
        assert f"waits {name}" in names
        assert f"parity {name}" in names
    assert len(names) == len(set(names))


def test_parity_finds_a_difference(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    same = parity.check_parity(settings, "dividemix", 1.0)
    assert same["steps"] == 6  # of two networks: warm-up, and twice the division
    assert same["gradient"] == same["terms"] == same["features"] == 0
    calls: list[int] = []
    loss = MixMatch.loss

    def worse(self: MixMatch, context: Context, groups: Groups) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = 1.1 if len(calls) == 2 else 1.0  # the second device, once
        return {name: factor * term for name, term in loss(self, context, groups).items()}

    monkeypatch.setattr(MixMatch, "loss", worse)
    with pytest.raises(Failed, match=r"differs from the CPU: terms .*gradient") as caught:
        parity.check_parity(settings, "dividemix", 1.0)
    assert caught.value.result["gradient"] == pytest.approx(0.1, rel=1e-3)


def test_a_wait_is_reported_with_its_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(*args: Any) -> Any:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr("labelwise.training.steps.soft_cross_entropy", waits)
    with pytest.raises(Failed, match=r"waits for the device at training/steps\.py:\d+ \(terms ="):
        correctness.check_waits(settings, "ce", 1.0)


def test_journals_are_compared() -> None:
    def rows(term: float, accuracy: float) -> list[dict[str, Any]]:
        return [{"train/a": term, "train/b": -1.0, "test_accuracy": accuracy}]

    found = parity.compare_journals(rows(3.0, 0.5), rows(3.2, 0.52))
    assert found["terms"] == pytest.approx(0.05)
    assert found["accuracy"] == pytest.approx(0.02)
    with pytest.raises(Failed, match=r"0\.250 of the loss"):
        parity.compare_journals(rows(3.0, 0.5), rows(4.0, 0.5))
    with pytest.raises(Failed):
        parity.compare_journals(rows(3.0, 0.5), rows(float("nan"), 0.5))


# -- speed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [64, 100, 700, 4000])
def test_largest_batch_is_bracketed(most: int) -> None:
    tried: list[int] = []

    def attempt(size: int) -> dict[str, Any]:
        tried.append(size)
        return {"batch": size} if size <= most else {"batch": size, "error": "out of memory"}

    found = largest_batch(attempt, 64)
    assert found["batch"] <= most < found["fails"]
    assert found["why"] == "out of memory"
    assert found["fails"] - found["batch"] <= max(64, found["batch"] / 4)
    assert len(tried) < 12


def test_a_compiled_network_still_trains(settings: Settings, tmp_path: Path) -> None:
    trainer = step_trainer(settings, "ce", 8, tmp_path)
    phase = phase_of(trainer, "train")
    before = trainer.plain[0].state_dict()["backbone.stem.weight"].clone()
    reason = compile_networks(trainer, lambda: run_steps(trainer, phase, 1), tiny=True)
    assert reason is None
    assert not torch.equal(before, trainer.plain[0].state_dict()["backbone.stem.weight"])

    def cannot() -> None:
        raise RuntimeError("no compiler\nat all")

    assert compile_networks(trainer, cannot, tiny=True) == "RuntimeError: no compiler"


def test_settings_are_the_papers(settings: Settings) -> None:
    large = options_of(replace(settings, tiny=False, device="cuda"))
    assert (large.model, large.batch, large.plain_precision) == ("preact_resnet18", 64, "32-true")
    assert large.images % (2 * large.batch) == 0
    assert large.limit >= large.images + large.test_images


# -- the suite ---------------------------------------------------------------------------------


def test_suite_command(settings: Settings, tmp_path: Path) -> None:
    whole = replace(
        settings, tiny=False, data=Path("a.parquet"), test=Path("b.parquet"), seeds="0-2",
        suite_options="--methods ce,dividemix",
    )  # fmt: skip
    command = command_of(whole, "cifar10", 90.0)
    assert command[1:5] == ["-m", "labelwise.cli", "bench", "cifar10"]
    text = " ".join(command[5:])
    assert text == (
        f"--minutes 1.50 --out {tmp_path}/cifar10 --device cpu --data a.parquet "
        "--test b.parquet --seeds 0-2 --methods ce,dividemix"
    )


def test_a_command_is_ended_in_time() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    stubborn += "; print('here', flush=True); time.sleep(60)"
    start = time.monotonic()
    code, said = ended_in_time([sys.executable, "-c", stubborn], 1.0, 0.5)
    assert time.monotonic() - start < 20
    assert code not in (None, 0)
    assert said == "here\n"
    assert ended_in_time([sys.executable, "-c", "print(1)"], 30.0) == (0, "1\n")


# -- the page ----------------------------------------------------------------------------------


def test_page_of_made_up_rows() -> None:
    common = {
        "cpu": "a processor", "threads": 2, "gpu": "a GPU", "gpu_memory": 2**34, "cuda": "12.8",
        "driver": "570", "cudnn": 9, "versions": {"python": "3.12", "torch": "2.9"}, "run": "r",
        "commit": "abc", "date": "2026-01-02T03:04:05+00:00", "seconds": 1.0, "status": "done",
    }  # fmt: skip
    one = {
        "name": "CE epoch", "ours": [1.0, 2.0, 3.0], "plain": [10.0], "ratio_of_medians": 5.0,
        "images_per_second": {"ours": 100.0, "plain": 20.0}, "peaks": {"ours": 2**20},
        "parts": {"forward": 3.0, "views": 1.0}, "note": "measured on 3 steps",
    }  # fmt: skip
    grown = [{"batch": 64, "images_per_second": 10.0, "seconds": 1.0, "peak": 2**21}]
    grown.append({"batch": 128, "error": "out of memory"})
    ours = {"median": 1.0, "peak": None}
    results: dict[tuple[str, str], dict[str, Any]] = {
        ("correctness", "waits ce"): {"steps": 1, "checked": True},
        ("correctness", "parity ce"): {"features": 0, "terms": 1e-6, "gradient": 2e-5, "views": 0},
        ("correctness", "epoch ce"): {"terms": 0.01, "accuracies": [[0.5], [0.51]]},
        ("throughput", "ce-epoch"): {"rows": [one], "model": "m"},
        ("throughput", "variants ce"): {
            "variants": {"as it is": ours, "compiled": {"median": 0.5, "peak": None}},
            "notes": {"other": "no compiler"},
        },
        ("scaling", "batches ce"): {
            "batches": grown,
            "largest": {"batch": 64, "peak": 2**21, "fails": 128, "why": "out of memory"},
        },
    }
    rows = [{"part": p, "item": i, "result": r, **common} for (p, i), r in results.items()]
    failed = {**common, "part": "scaling", "item": "x", "status": "failed", "error": "E"}
    rows += [{**failed, "traceback": "where it was"}]
    text = page(rows)
    assert "a GPU, 16 GiB; driver 570, CUDA 12.8, cuDNN 9; torch 2.9" in text
    assert "| `ce` | no | yes | 0.0e+00 | 1.0e-06 | 2.0e-05 | 0.0e+00 |" in text
    assert "| CE epoch | 2 (1..3) | 10 (10..10) | **5.00** | 3 | 100 | 20 | 1 | - |" in text
    assert "forward 75.0%, views 25.0%" in text
    assert "| `ce` | compiled | 0.5 | 2.00 | - |" in text
    assert "the largest batch that fits is 64 (2 MiB); 128 does not: out of memory" in text
    assert "- CE epoch: measured on 3 steps." in text
    assert "where it was" in text
    assert [row["status"] for row in latest([failed, {**failed, "status": "done"}])] == ["done"]
    assert [row["status"] for row in latest([{**failed, "status": "done"}, failed])] == ["done"]


# -- all of it ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_ended_early_leaves_its_page_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny"]
    command += ["--out", str(tmp_path), "--part", "correctness"]
    rows = tmp_path / "tiny.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not rows.exists() and time.monotonic() < end:
            time.sleep(0.2)
        process.terminate()
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "written to" in said
    assert "## Correctness" in (tmp_path / "tiny.md").read_text()
    before = rows.read_bytes()
    time.sleep(3)
    assert rows.read_bytes() == before


@pytest.mark.slow
def test_rehearsal_runs_every_part_and_is_resumed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny"]
    command += ["--out", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    lines = (tmp_path / "tiny.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["part"] for row in rows} == set(gpu.SHARES)
    bad = [(row["item"], row["error"]) for row in rows if row["status"] != "done"]
    assert not bad
    text = (tmp_path / "tiny.md").read_text()
    for head in ("Correctness", "Throughput", "Compiled", "Batch size", "The suite digits"):
        assert f"## {head}" in text
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    more = (tmp_path / "tiny.jsonl").read_text().splitlines()[len(lines) :]
    assert [json.loads(line)["part"] for line in more] == ["suite"]  # which goes on by itself
