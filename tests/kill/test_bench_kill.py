"""`labelwise bench` killed, stopped and started twice: every run is done once, to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
OPTIONS = ("--noises", "symmetric:0.5", "--limit", "200", "--epochs", "10", "--seeds", "0-1")
SPENT = ("date", "seconds", "wall_seconds", "peak_memory_bytes")


def start(out: Path, methods: str, *words: str) -> subprocess.Popen[str]:
    """A bench in a process of its own."""
    own = ["bench", "digits", "--methods", methods, *OPTIONS, "--out", str(out), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "labelwise.cli", *own, "--workers", "2", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for it; return what it said."""
    printed, said = process.communicate(timeout=300)
    assert process.returncode == status, said
    assert "Traceback" not in said, said
    return printed + said


def until(out: Path, pattern: str, count: int = 1) -> None:
    """Wait for files."""
    began = time.monotonic()
    while len(list(out.glob(pattern))) < count:
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows without times, by name and seed."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in SPENT} for row in rows]
    return sorted(rows, key=lambda row: (row["name"], row["seed"]))


def workers_of(folder: Path) -> list[int]:
    """Processes that hold files of the bench open or work in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(int(path.parts[2]))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench that was left alone."""
    out = tmp_path_factory.mktemp("bench") / "whole"
    assert "2 at a time" in end(start(out, "ce,dividemix"))
    assert len(rows_of(out)) == 4
    return out


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_killed_bench_takes_its_runs_along_and_goes_on(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "killed"
    process = start(out, "ce,dividemix")
    until(out, "runs/*/checkpoint/*.pt", 2)
    process.kill()
    process.communicate()
    began = time.monotonic()
    while workers_of(out):
        assert time.monotonic() - began < 60, "runs outlive the bench"
        time.sleep(0.05)
    end(start(out, "ce,dividemix"))
    assert rows_of(out) == rows_of(whole)


def test_ctrl_c_commits_and_says_how_to_go_on(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "stopped"
    process = start(out, "ce,dividemix")
    until(out, "runs/*/metrics.jsonl", 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = end(process, 130)
    assert "go on with: labelwise bench digits --methods ce,dividemix" in said
    assert (out / "table.md").exists()
    end(start(out, "ce,dividemix"))
    assert rows_of(out) == rows_of(whole)


def test_two_benches_of_one_folder_share_its_runs(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "shared"
    both = [start(out, "ce,dividemix", "--workers", "1") for _ in range(2)]
    for process in both:
        end(process)
    assert rows_of(out) == rows_of(whole)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "one"
    process = start(out, "ce,dividemix")
    until(out, "runs/dividemix*/metrics.jsonl")
    logs = next(out.glob("logs/dividemix*"))
    os.kill(workers_of(logs)[0], signal.SIGKILL)
    assert "failed (logs in" in end(process, 1)
    assert sum(row["status"] == "failed" for row in rows_of(out)) == 1
    assert "3 of 4 runs are done; 1 run to do" in end(start(out, "ce,dividemix", "--retry-failed"))
    assert [row for row in rows_of(out) if row["status"] == "done"] == rows_of(whole)
