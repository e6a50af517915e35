"""Noise with the user's own matrix: what files may hold, and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.matrix import Matrix
from labelwise.noise.parse import parse

torch.set_num_threads(1)
T = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
NAMES = ("cat", "dog", "owl")


def data(count: int = 9000, classes: tuple[str, ...] = NAMES) -> Dataset:
    labels = torch.tensor([0, 1, 2, 2])[torch.arange(count) % 4]
    return Dataset(torch.zeros(count, 2), labels, classes, np.arange(count))


def test_draws_follow_the_matrix_and_its_rate() -> None:
    noisy = Matrix(T).corrupt(data(40_000), 0)
    bound = 4 * np.sqrt(T * (1 - T) / 10_000)
    assert (np.abs(noisy.transition_matrix.numpy() - T) <= bound).all()
    assert noisy.requested_rate == pytest.approx(0.25 * 0.3 + 0.5 * 0.5)
    assert noisy.realised_rate == pytest.approx(noisy.requested_rate, abs=4 * 0.5 / 200)


def test_zeros_never_happen_and_rounding_is_harmless() -> None:
    rounded = np.round(np.array([[1 / 3] * 3] * 3), 3) + np.eye(3) * 1e-4
    assert Matrix(rounded).matrix.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-15)
    noisy = Matrix([[0, 1, 0], [0, 0, 1], [1, 0, 0]]).corrupt(data(), 1)
    assert torch.equal(noisy.labels, (data().labels + 1) % 3)


def write(path: Path, kind: str) -> str:
    """Write T in one of the forms; csv with names has both in orders of their own."""
    if kind == "npy":
        np.save(path / "T.npy", T)
    elif kind == "npz":
        np.savez(path / "T.npz", matrix=T[::-1, ::-1], classes=np.array(NAMES[::-1]))
    elif kind == "list.json":
        (path / "T.list.json").write_text(json.dumps(T.tolist()))
    elif kind == "json":
        values = {"transition_matrix": T[::-1, ::-1].tolist(), "classes": list(NAMES[::-1])}
        (path / "T.json").write_text(json.dumps(values))
    else:
        order, turn = [2, 0, 1], [1, 2, 0]
        lines = [[f"{T[i, j]}" for j in turn] for i in order]
        if kind == "plain.csv":
            lines = [[f"{value}" for value in row] for row in T]
        if kind == "header.csv":
            lines = [[f"{T[i, j]}" for j in turn] for i in turn]
        if kind == "named.csv":
            lines = [[NAMES[i], *line] for i, line in zip(order, lines, strict=True)]
        if kind in ("named.csv", "header.csv"):
            corner = ["true"] if kind == "named.csv" else []
            lines.insert(0, [*corner, *(NAMES[j] for j in turn)])
        (path / f"T.{kind}").write_text("\n".join(", ".join(line) for line in lines) + "\n\n")
    return f"matrix:{path / f'T.{kind}'}"


@pytest.mark.parametrize(
    "kind", ["npy", "npz", "json", "list.json", "plain.csv", "named.csv", "header.csv"]
)
def test_every_file_gives_the_same_noise(tmp_path: Path, kind: str) -> None:
    process = parse(write(tmp_path, kind))
    expected = Matrix(T)
    torch.testing.assert_close(
        process.transition_matrix(3, NAMES), expected.matrix, rtol=0, atol=1e-12
    )
    assert torch.equal(process.corrupt(data(), 5).labels, expected.corrupt(data(), 5).labels)


def test_classes_called_by_numbers_are_names_where_the_shape_says_so(tmp_path: Path) -> None:
    text = "2,0,1\n0.5,0.25,0.25\n0.1,0.7,0.2\n0,0,1\n"
    (tmp_path / "T.csv").write_text(text)
    found = parse(f"matrix:{tmp_path / 'T.csv'}").transition_matrix(3, ("0", "1", "2"))
    torch.testing.assert_close(found, torch.from_numpy(T))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.5, 0.5]], r"shape \(1, 2\)"),
        ([[1.0]], r"shape \(1, 1\)"),
        ([[0.5, 0.5], [0.5, 0.4]], r"row 1 of the transition matrix sums to 0.9, not to 1\.$"),
        ([[0.5, 0.9], [0.5, 0.1]], r"row 0 .* sums to 1.4.* transpose it"),
        ([[1.5, -0.5], [0, 1]], r"row 0, column 0 of the transition matrix is 1.5"),
        ([[1.0, 0.0], [float("nan"), 1]], r"row 1, column 0 of the transition matrix is nan"),
        ([[1, 0], [0]], "not a table of numbers"),
        ([["a", "b"], ["c", "d"]], "not a table of numbers"),
    ],
)
def test_impossible_matrices_are_explained(values: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Matrix(values)


def test_rows_are_called_by_their_class() -> None:
    with pytest.raises(UserError, match=r"row 1 \(dog\) of the transition matrix sums to 0.5"):
        Matrix([[1, 0], [0.5, 0]], ("cat", "dog"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("T.csv", "1,0\n0\n", "line 2 has another number of cells"),
        ("T.csv", "", "it is empty"),
        ("T.csv", "1,0\n0,x\n", "'x' in the matrix"),
        ("T.csv", ",a,b\na,1,0\nc,0,1\n", "class 'b' names a row or a column, but not both"),
        ("T.csv", "a,a\n1,0\n0,1\n", "names the class 'a' twice"),
        ("T.json", '{"rate": 1}', "has no `matrix`; it holds rate"),
        ("T.json", "{", "cannot be read as a matrix"),
        ("T.npy", "", "cannot be read as a matrix"),
        ("T.txt", "1", "must end in .csv"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        parse(f"matrix:{tmp_path / name}")


def test_missing_files_and_other_classes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Write matrix:FILE"):
        parse("matrix")
    with pytest.raises(UserError, match=r"0.4 does not exist"):
        parse("matrix:0.4")
    with pytest.raises(UserError, match=r"is 2 x 2, and the data have 3 classes"):
        Matrix(np.eye(2)).corrupt(data(), 0)
    with pytest.raises(UserError, match=r"has no class 'owl'"):
        Matrix(T, ("cat", "dog", "cow")).corrupt(data(), 0)
