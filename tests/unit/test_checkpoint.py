"""Checkpoints under everything that can happen to files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from labelwise.data import files
from labelwise.data.files import write_atomically, write_json, write_table
from labelwise.errors import UserError
from labelwise.training.checkpoint import KEEP, Checkpoints


def state(number: int) -> dict[str, Any]:
    return {
        "networks": [{"weight": torch.full((40,), float(number))}],
        "position": {"epoch": number, "plan": {"all": torch.arange(6).view(2, 3)}, "terms": {}},
    }


def filled(folder: Path, count: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoint", "digest")
    for number in range(1, count + 1):
        checkpoints.save(state(number))
    return checkpoints


def epoch_of(checkpoints: Checkpoints) -> int:
    loaded = checkpoints.load()
    assert loaded is not None
    number = loaded["position"]["epoch"]
    assert torch.equal(loaded["networks"][0]["weight"], torch.full((40,), float(number)))
    return int(number)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_nothing_there(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "checkpoint", "digest").load() is None


def test_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 5)
    assert epoch_of(checkpoints) == 5
    assert len(list(checkpoints.folder.glob("*.pt"))) == KEEP == 2
    assert not list(checkpoints.folder.glob(".*"))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1)
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded["position"]["plan"]["all"], torch.arange(6).view(2, 3))
    assert loaded["position"]["plan"]["all"].dtype == torch.int64


DAMAGES = {
    "torn": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"x",
    "flipped bit": lambda content: content[:700] + bytes([content[700] ^ 1]) + content[701:],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back(tmp_path: Path, damage: str) -> None:
    checkpoints = filled(tmp_path)
    path = checkpoints.folder / "000003.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert epoch_of(checkpoints) == 2
    checkpoints.save(state(4))
    assert epoch_of(checkpoints) == 4


def test_missing_newest_falls_back(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    (checkpoints.folder / "000003.pt").unlink()
    assert epoch_of(checkpoints) == 2


POINTERS = ["", "{", "null", "[]", '{"file": "000003.pt"}', "\x00" * 80, '"text"', "\udcff"]


@pytest.mark.parametrize("text", POINTERS)
def test_torn_pointer_is_passed_over(tmp_path: Path, text: str) -> None:
    checkpoints = filled(tmp_path)
    (checkpoints.folder / "LAST").write_bytes(text.encode(errors="surrogateescape"))
    assert epoch_of(checkpoints) == 3
    (checkpoints.folder / "LAST").unlink()
    assert epoch_of(checkpoints) == 3


def test_torn_entry_falls_back(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    (checkpoints.folder / "LAST").write_text("{")
    (checkpoints.folder / "000003.json").write_text('{"file": "0000')
    assert epoch_of(checkpoints) == 2


def test_pointer_to_an_older_one_wins(tmp_path: Path) -> None:
    """Killed between the entry and the pointer: the pointer says what was committed."""
    checkpoints = filled(tmp_path)
    older = (checkpoints.folder / "000002.json").read_text()
    (checkpoints.folder / "LAST").write_text(older)
    assert epoch_of(checkpoints) == 2
    checkpoints.save(state(7))
    assert epoch_of(checkpoints) == 7


def test_both_broken(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    for path in checkpoints.folder.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(tried 000003.pt, 000002.pt"
    ):
        checkpoints.load()


def test_other_configuration_is_refused(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    with pytest.raises(UserError, match="another configuration"):
        Checkpoints(checkpoints.folder, "other digest").load()
    assert epoch_of(checkpoints) == 3


class FullDisk:
    """Makes the n-th fsync (or write) from now on fail as a full disk does."""

    def __init__(self, after: int, error: int = errno.ENOSPC) -> None:
        self.left = after
        self.error = error

    def __call__(self, handle: int) -> None:
        if self.left == 0:
            raise OSError(self.error, os.strerror(self.error))
        self.left -= 1


# A save is three atomic writes, each an fsync of the file and one of its folder.
@pytest.mark.parametrize("after", range(6))
def test_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    checkpoints = filled(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", FullDisk(after))
        with pytest.raises(UserError, match="disk is full"):
            checkpoints.save(state(4))
    assert not list(checkpoints.folder.glob(".*")), "a partial file was left"
    assert epoch_of(checkpoints) in ((3,) if after < 5 else (3, 4))
    checkpoints.save(state(5))
    assert epoch_of(checkpoints) == 5


def test_disk_full_while_writing(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    path = checkpoints.folder / "000003.pt"
    before = path.read_bytes()

    def write(file: Any) -> None:
        file.write(before[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"disk is full.*resume"):
        write_atomically(path, write)
    assert path.read_bytes() == before
    assert not list(checkpoints.folder.glob(".*"))


def test_torch_hides_a_full_disk_in_a_runtime_error(tmp_path: Path) -> None:
    path = tmp_path / "network-0.pt"

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            self.file.flush()

    with pytest.raises(UserError, match=r"network-0\.pt"):
        write_atomically(path, lambda file: torch.save({"a": torch.ones(3)}, Full(file)))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.EIO])
def test_other_write_errors_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(files.os, "fsync", FullDisk(0, error))
    with pytest.raises(UserError, match=r"cannot write .*thing\.json: .*"):
        write_json(tmp_path / "thing.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_our_own_mistake_keeps_its_type_and_leaves_nothing(tmp_path: Path) -> None:
    def broken(file: Any) -> None:
        raise RuntimeError("something of ours")

    with pytest.raises(RuntimeError, match="something of ours"):
        write_atomically(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError, MemoryError])
def test_any_failure_leaves_no_partial_file(tmp_path: Path, error: type[BaseException]) -> None:
    def broken(file: Any) -> None:
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(UserError, match="run"):
        Checkpoints(tmp_path / "run" / "checkpoint", "digest").save(state(1))


def test_parent_that_is_a_file_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "run" / "x.json", {})


def test_json_is_ordered_and_plain(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "ü", "path": tmp_path})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["b", "a", "path"]
    assert "ü" in text
    assert text.endswith("\n")


def test_table_of_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    for ending in (".csv", ".tsv", ".parquet"):
        write_table(table, tmp_path / f"t{ending}")
    assert pd.read_csv(tmp_path / "t.csv").equals(pd.read_csv(tmp_path / "t.tsv", sep="\t"))
    assert pd.read_parquet(tmp_path / "t.parquet").equals(table)
    with pytest.raises(UserError, match="must end in"):
        write_table(table, tmp_path / "t.xlsx")
