from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from labelwise.audit.pred_probs import from_cleanlab, to_cleanlab, write_pred_probs
from labelwise.data.scores import open_scores
from labelwise.errors import UserError

CLASSES = ("bird", "cat", "dog")


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("ids", [np.arange(7) * 3, np.array(list("abcdefg"), dtype=object)])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str, ids: np.ndarray) -> None:
    table = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    path = tmp_path / f"pred_probs{suffix}"
    write_pred_probs(path, ids, CLASSES, [table[:4], table[4:].numpy()])
    if suffix == ".npy":
        stored = np.load(path)
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, table.numpy())
    else:
        frame = pd.read_parquet(path)
        assert list(frame.columns) == ["id", *CLASSES]
        assert frame["id"].tolist() == ids.tolist()
        assert set(frame.dtypes[1:]) == {np.dtype("float32")}
    scores = open_scores(path, CLASSES, ids)
    np.testing.assert_allclose(torch.cat(list(scores.blocks())), table, atol=1e-6)


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(b"old")

    def blocks() -> object:
        yield torch.full((2, 3), 1 / 3)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_pred_probs(path, np.arange(4), CLASSES, blocks())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["p.npy"]
    with pytest.raises(AssertionError, match="2 rows of probabilities for 4 ids"):
        write_pred_probs(path, np.arange(4), CLASSES, [torch.full((2, 3), 1 / 3)])


def test_exports_that_cannot_be_written(tmp_path: Path) -> None:
    block = [torch.full((2, 3), 1 / 3)]
    with pytest.raises(UserError, match=r"written as \.npy or \.parquet"):
        write_pred_probs(tmp_path / "p.csv", np.arange(2), CLASSES, block)
    with pytest.raises(UserError, match="a class is called 'ID'"):
        write_pred_probs(tmp_path / "p.parquet", np.arange(2), ("ID", "a", "b"), block)


@pytest.fixture
def labels() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ["x", "y", "z"],
            "given_label": ["cat", "dog", "bird"],
            "label_quality": [0.9, 0.1, 0.4],
            "predicted_label": ["cat", "cat", "dog"],
            "suggested_label": ["cat", "cat", "bird"],
            "suggestion_confidence": [0.9, 0.8, 0.4],
            "is_suspect": [False, True, False],
        }
    )


def test_columns_go_to_cleanlab_and_back(labels: pd.DataFrame) -> None:
    issues = to_cleanlab(labels)
    assert list(issues.columns) == [
        *("is_label_issue", "label_quality", "given_label", "predicted_label")
    ]
    assert issues.loc["y", "is_label_issue"]
    back = from_cleanlab(issues)
    columns = list(back.columns)
    assert columns == [name for name in labels.columns if name != "suggestion_confidence"]
    pd.testing.assert_frame_equal(back, labels[columns], check_dtype=False)

    class Run:
        pass

    run = Run()
    run.labels = labels  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(to_cleanlab(run), issues)


def test_tables_of_cleanlab_itself_are_understood() -> None:
    pytest.importorskip("cleanlab")
    from cleanlab.classification import CleanLearning

    draw = np.random.default_rng(0)
    given = np.repeat([0, 1, 2], 20)
    table = np.full((60, 3), 0.1) + 0.7 * np.eye(3)[given]
    table[5], given_of_5 = [0.1, 0.1, 0.8], given[5]
    issues = CleanLearning().find_label_issues(labels=given, pred_probs=table)
    found = from_cleanlab(issues, CLASSES, ids=[f"s{row}" for row in range(60)])
    assert len(found) == 60
    assert found.loc[5, "id"] == "s5"
    assert found.loc[5, "given_label"] == CLASSES[given_of_5]
    assert found.loc[5, "predicted_label"] == found.loc[5, "suggested_label"] == "dog"
    assert found["is_suspect"].sum() == 1
    assert found["label_quality"].idxmin() == 5
    datalab = issues.rename(columns={"label_quality": "label_score"})
    order = draw.permutation(datalab.columns)
    pd.testing.assert_frame_equal(from_cleanlab(datalab[order]), from_cleanlab(issues))


def test_tables_that_lack_something(labels: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="no column 'is_suspect'"):
        to_cleanlab(labels.drop(columns="is_suspect"))
    with pytest.raises(UserError, match="no column 'is_label_issue'"):
        from_cleanlab(labels)
    issues = to_cleanlab(labels).assign(given_label=[0, 5, 1])
    with pytest.raises(UserError, match="given_label of row 1 is 5, no number from 0 to 2"):
        from_cleanlab(issues, CLASSES)
