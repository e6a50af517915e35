"""`metrics.jsonl`: whole lines, once each."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from labelwise.errors import UserError
from labelwise.training import journal as module
from labelwise.training.journal import Journal


def filled(tmp_path: Path, epochs: int = 4) -> Journal:
    journal = Journal(tmp_path / "metrics.jsonl")
    for epoch in range(1, epochs + 1):
        journal.append({"epoch": epoch, "test_accuracy": epoch / 10, "notes": ["λ_u = 25"]})
    return journal


def epochs(journal: Journal) -> list[int]:
    return [row["epoch"] for row in journal.rows()]


def test_nothing_there(tmp_path: Path) -> None:
    assert Journal(tmp_path / "metrics.jsonl").rows() == []


def test_lines_come_back(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    assert epochs(journal) == [1, 2, 3, 4]
    assert journal.rows()[1] == {"epoch": 2, "test_accuracy": 0.2, "notes": ["λ_u = 25"]}
    assert journal.path.read_bytes().count(b"\n") == 4


def test_torn_line_is_left_out_wherever_it_tore(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    whole = journal.path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole) - 1):
        journal.path.write_bytes(whole[:cut])
        assert epochs(journal) == [1, 2, 3]
        journal.forget_from(3)
        journal.append({"epoch": 4})
        assert epochs(journal) == [1, 2, 3, 4]


@pytest.mark.parametrize("done", [0, 1, 3, 4, 9])
def test_forgets_what_will_be_run_again(tmp_path: Path, done: int) -> None:
    journal = filled(tmp_path)
    before = journal.path.read_text().splitlines()
    journal.forget_from(done)
    assert journal.path.read_text().splitlines() == before[:done]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_full_disk_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        journal.append({"epoch": 5})
