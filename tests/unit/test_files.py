"""Atomic writing: the old file or the whole new one, and a message when it cannot be."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from labelwise.data.files import at_home, explained, write_atomically, write_json, write_table
from labelwise.errors import UserError

TABLE = pd.DataFrame({"id": ["a,b", "ü"], "label": [1, 2]})


class FullDisk:
    """A file on which nothing more can be written."""

    def __call__(self, file: object) -> None:
        file.write(b"half of the ne")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_while_writing_the_old_file_is_still_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    seen = []

    def write(file: object) -> None:
        file.write(b"new")  # type: ignore[attr-defined]
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_full_disk_is_said_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"disk is full: .*a\.bin"):
        write_atomically(path, FullDisk())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_counts_as_a_full_disk(number: int) -> None:
    assert "the disk is full: x could not" in str(explained(OSError(number, "no"), Path("x")))


def test_other_errors_name_the_file_and_the_reason() -> None:
    message = str(explained(OSError(errno.EROFS, "Read-only file system"), Path("x/y")))
    assert message == "cannot write x/y: Read-only file system. Choose another folder."


def test_torch_hides_a_failed_write_in_a_runtime_error(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(UserError, match=r"cannot write .*w\.pt"):
        write_atomically(tmp_path / "w.pt", write)
    assert names(tmp_path) == []


def test_a_mistake_of_ours_keeps_its_type_and_leaves_nothing(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes") as caught:
        write_atomically(tmp_path / "w.pt", write)
    assert not isinstance(caught.value, UserError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_any_other_end_leaves_nothing_half_written(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def write(file: object) -> None:
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "w.pt", write)
    assert names(tmp_path) == []


def test_a_missing_folder_and_a_folder_in_the_way_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none does not exist: make it first"):
        write_atomically(tmp_path / "none" / "a", lambda file: file.write(b""))
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken: Is a directory"):
        write_atomically(tmp_path / "taken", lambda file: file.write(b""))
    assert names(tmp_path) == ["taken"]


def test_tensors_and_arrays_survive(tmp_path: Path) -> None:
    write_atomically(tmp_path / "t.pt", lambda file: torch.save(torch.arange(3), file))
    assert torch.equal(torch.load(tmp_path / "t.pt", weights_only=True), torch.arange(3))
    write_atomically(tmp_path / "a.npz", lambda file: np.savez(file, x=np.arange(3)))
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]


def test_json_keeps_order_text_and_numbers(tmp_path: Path) -> None:
    value = {"z": "größe 猫", "a": [1, 0.1, None, True], "path": Path("x")}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größe 猫" in text
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["z", "a", "path"]
    assert json.loads(text) == {**value, "path": "x"}


@pytest.mark.parametrize(
    ("name", "separator"), [("t.csv", ","), ("t.CSV", ","), ("t.tsv", "\t"), ("t.parquet", None)]
)
def test_a_table_is_written_by_its_ending(tmp_path: Path, name: str, separator: str | None) -> None:
    path = tmp_path / name
    write_table(TABLE, path)
    found = pd.read_parquet(path) if separator is None else pd.read_csv(path, sep=separator)
    assert list(found.columns) == ["id", "label"]
    assert found["id"].tolist() == ["a,b", "ü"]
    assert found["label"].tolist() == [1, 2]
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.csv.gz"])
def test_another_ending_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv or \.parquet"):
        write_table(TABLE, tmp_path / name)
    assert names(tmp_path) == []


def test_only_a_known_home_is_put_in_place_of_the_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/a.csv") == tmp_path / "a.csv"
    assert at_home("~nobody-here/a.csv") == Path("~nobody-here/a.csv")
    assert at_home(Path("a/~b")) == Path("a/~b")
