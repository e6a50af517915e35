from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from labelwise.data import score_files
from labelwise.data.load import load, load_labels, load_rows
from labelwise.data.scores import open_scores, read_features
from labelwise.errors import UserError

CLASSES = ("bird", "cat", "dog")
NUM = 23
IDS = np.array([f"photo-{row}" for row in range(NUM)], dtype=object)


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(3), NUM).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_files, "CELLS", 12)  # four rows a block: several blocks a file


def collected(path: Path, ids: np.ndarray = IDS, **options: object) -> np.ndarray:
    """All probabilities in the order of the data."""
    scores = open_scores(path, CLASSES, ids, **options)  # type: ignore[arg-type]
    blocks = list(scores.blocks())
    assert len(blocks) > 1
    assert all(len(block) <= 4 for block in blocks)
    return torch.cat(blocks).numpy()[np.argsort(scores.rows)]


def written(folder: Path, kind: str, table: np.ndarray) -> Path:
    """The same scores in every form, with the rows of those that hold ids shuffled."""
    order = np.random.default_rng(1).permutation(len(table))
    path = folder / f"scores.{kind.split('-')[0]}"
    frame = pd.DataFrame(table[order][:, [2, 0, 1]], columns=["dog", "bird", "cat"])
    frame.insert(1, "id", IDS[order])
    if kind == "npy":
        np.save(path, table)
    elif kind == "npy-fortran":
        np.save(path, np.asfortranarray(table))
    elif kind == "npz":
        np.savez(path, pred_probs=table)
    elif kind == "npz-compressed":
        names = np.array(["dog", "bird", "cat"])
        scores = table[order][:, [2, 0, 1]]
        np.savez_compressed(path, scores=scores, ids=IDS[order].astype(str), classes=names)
    elif kind == "npz-fortran":
        np.savez(path, np.asfortranarray(table))
    elif kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "csv-numbered":
        pd.DataFrame(table[:, [1, 0, 2]], columns=["1", "0", "2"]).to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, index=False)
    elif kind == "parquet-list":
        pd.DataFrame({"id": IDS[order], "pred_probs": list(table[order])}).to_parquet(path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("npy", "npy-fortran", "npz", "npz-compressed", "npz-fortran"),
        *("csv", "tsv", "csv-numbered", "parquet", "parquet-list"),
    ],
)
def test_every_form_gives_the_same_rows_and_columns(
    tmp_path: Path, table: np.ndarray, kind: str
) -> None:
    path = written(tmp_path, kind, table)
    np.testing.assert_allclose(collected(path), table, atol=1e-5)
    keep = np.array([0, 5, 6, 20])
    scores = open_scores(path, CLASSES, IDS, keep)
    assert sorted(scores.rows) == keep.tolist()
    found = torch.cat(list(scores.blocks())).numpy()[np.argsort(scores.rows)]
    np.testing.assert_allclose(found, table[keep], atol=1e-5)


def test_order_of_unnamed_columns_is_said(tmp_path: Path, table: np.ndarray) -> None:
    note = open_scores(written(tmp_path, "npy", table), CLASSES, IDS).notes
    assert note == ("columns of scores.npy taken in the order of the classes: bird, cat, dog",)
    assert open_scores(written(tmp_path, "csv", table), CLASSES, IDS).notes == ()


def test_text_and_number_ids_are_the_same_and_others_are_left_out(
    tmp_path: Path, table: np.ndarray
) -> None:
    frame = pd.DataFrame(table, columns=list(CLASSES)).assign(id=np.arange(NUM) + 5, split="train")
    frame.to_csv(tmp_path / "s.csv", index=False)
    scores = open_scores(tmp_path / "s.csv", CLASSES, np.arange(10, NUM))
    assert scores.rows.tolist() == list(range(NUM - 10))[: len(scores.rows)]
    assert "columns of s.csv that are no class left out: 'split'" in scores.notes
    assert any("10 rows of s.csv not used" in note for note in scores.notes)
    np.testing.assert_allclose(torch.cat(list(scores.blocks())), table[5 : NUM - 5], atol=1e-5)


def test_logits_and_log_probabilities(tmp_path: Path, table: np.ndarray) -> None:
    path = tmp_path / "s.npy"
    np.save(path, np.log(table))
    with pytest.raises(UserError, match=r"look like log-probabilities\. Pass --pred-probs-are log"):
        collected(path)
    np.testing.assert_allclose(collected(path, are="log-probabilities"), table, atol=1e-5)
    np.save(path, np.log(table) + 3 * np.arange(NUM)[:, None] - 5)
    with pytest.raises(UserError, match=r"row 0.*look like logits. Pass --pred-probs-are logits"):
        collected(path)
    np.testing.assert_allclose(collected(path, are="logits"), table, atol=1e-5)
    with pytest.raises(UserError, match="Did you mean 'logits'"):
        open_scores(path, CLASSES, IDS, are="logit")


def test_half_precision_is_normalised(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "s.npy", table.astype(np.float16))
    found = collected(tmp_path / "s.npy")
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(found, table, atol=1e-3)


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (9, np.nan, r"row 9: the score of column 1 is nan"),
        (11, np.inf, r"row 11: the score of column 1 is inf"),
        (13, 0.5, r"row 13: the scores sum to"),
        (13, 7.0, r"row 13: the scores sum to .* look like logits"),
        (2, -0.3, r"row 2: the scores go from -0\.3"),
    ],
)
def test_bad_values_are_named_with_their_row(
    tmp_path: Path, row: int, value: float, words: str
) -> None:
    table = np.tile(np.float32([0.1, 0.1, 0.8]), (NUM, 1))
    table[row, 1] = value
    np.save(tmp_path / "s.npy", table)
    with pytest.raises(UserError, match=words):
        collected(tmp_path / "s.npy")


def test_files_that_do_not_fit(tmp_path: Path, table: np.ndarray) -> None:
    def error(path: Path, ids: np.ndarray = IDS) -> str:
        with pytest.raises(UserError) as caught:
            list(open_scores(path, CLASSES, ids).blocks())
        return str(caught.value)

    path = tmp_path / "s.npy"
    np.save(path, table)
    assert "has 23 rows, the data 5 samples" in error(path, IDS[:5])
    np.save(path, table[:, :2])
    assert "has 2 columns, the data 3 classes: 'bird', 'cat', 'dog'" in error(path)
    np.save(path, table[0])
    assert "has shape (3,)" in error(path)
    np.save(path, table.astype(str))
    assert "scores are numbers" in error(path)
    path.write_bytes(b"not numpy at all")
    assert "cannot read" in error(path)
    assert "does not exist" in error(tmp_path / "none.npy")
    assert "ending '.txt'" in error(tmp_path / "s.txt")
    np.savez(tmp_path / "s.npz", a=table, b=table)
    assert "name the scores pred_probs" in error(tmp_path / "s.npz")


def test_tables_that_do_not_fit(tmp_path: Path, table: np.ndarray) -> None:
    path = tmp_path / "s.csv"

    def error(frame: pd.DataFrame, header: bool = True) -> str:
        frame.to_csv(path, index=False, header=header)
        with pytest.raises(UserError) as caught:
            list(open_scores(path, CLASSES, IDS).blocks())
        return str(caught.value)

    frame = pd.DataFrame(table, columns=["bird", "cats", "dog"])
    assert "no column for 1 class: 'cat'. Did you mean 'cats'?" in error(frame)
    frame.columns = pd.Index(CLASSES)
    assert "the first line" in error(frame, header=False)
    with_ids = frame.assign(id=IDS)
    assert "no row for 1 sample of the data: id 'photo-22'" in error(with_ids[:-1])
    assert "'photo-1' occurs more than once" in error(with_ids.iloc[[*range(NUM), 1]])
    assert "Scores are numbers" in error(frame.astype(object).replace({frame.iloc[9, 1]: "x"}))
    assert "row 9: the score of column 1 is nan" in error(
        frame.mask((frame.index.to_numpy() == 9)[:, None] & np.array([False, True, False]))
    )
    frame["dog"] = 0.0
    assert "left out" not in error(frame)
    assert "left out: 'fox'" in error(frame.assign(fox=table[:, 2]))


def test_features(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(NUM, 4))
    keep = np.array([1, 8, 22])
    np.save(tmp_path / "f.npy", values)
    np.savez(tmp_path / "f.npz", values.astype(np.float16))
    for name, bound in (("f.npy", 1e-6), ("f.npz", 1e-2)):
        found = read_features(tmp_path / name, NUM, keep)
        np.testing.assert_allclose(found, values[keep], atol=bound)
    with pytest.raises(UserError, match="have 23 rows, the data 9 samples"):
        read_features(tmp_path / "f.npy", 9, keep[:1])
    values[8, 0] = np.nan
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(UserError, match="row 8 is not all finite"):
        read_features(tmp_path / "f.npy", NUM, keep)
    with pytest.raises(UserError, match=r"give an \.npy or \.npz"):
        read_features(tmp_path / "f.csv", NUM, keep)


def test_labels_are_read_without_inputs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": IDS, "label": ["cat", "dog"] * 11 + ["cat"], "image": "none.png"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load_labels(tmp_path / "t.csv").data  # the images do not exist
    assert data.inputs.shape == (NUM, 0)
    assert data.ids.tolist() == IDS.tolist()
    assert data.labels.tolist() == [0, 1] * 11 + [0]
    frame[["id", "label"]].to_csv(tmp_path / "t.csv", index=False)
    assert len(load_labels(tmp_path / "t.csv").data) == NUM
    labels = np.arange(6) % 2
    np.savez(tmp_path / "t.npz", labels=labels, truth=1 - labels)
    source = load_labels(tmp_path / "t.npz")
    assert source.data.labels.tolist() == labels.tolist()
    assert source.truth is not None
    assert source.truth.labels.tolist() == (1 - labels).tolist()
    np.savez(tmp_path / "t.npz", truth=labels)
    with pytest.raises(UserError, match="holds no inputs"):
        load_labels(tmp_path / "t.npz")


def test_only_the_wanted_rows_are_decoded() -> None:
    whole = load("digits").data
    rows = np.array([3, 70, 1500])
    part = load_rows("digits", rows).data
    assert part.ids.tolist() == rows.tolist()
    assert torch.equal(part.inputs, whole.inputs[rows])
    assert torch.equal(part.labels, whole.labels[rows])
