"""Class probabilities and audited labels in the forms that other tools read and write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from torch import Tensor

from labelwise.data.files import write_atomically
from labelwise.errors import UserError

CLEANLAB_COLUMNS = {
    "given_label": "given_label",
    "label_quality": "label_quality",
    "predicted_label": "predicted_label",
    "is_suspect": "is_label_issue",
}
"""Our columns by the names of `CleanLearning.get_label_issues`."""
DATALAB_SCORE = "label_score"
"""What `Datalab.get_issues("label")` calls `label_quality`."""


def write_pred_probs(
    path: Path,
    ids: np.ndarray,
    classes: Sequence[str],
    blocks: Iterable[Tensor | np.ndarray],
) -> None:
    """Write class probabilities as .npy or .parquet, block by block and atomically.

    The .npy holds (N, K) float32 in the order of the data; the .parquet has a column `id` and one
    float32 column per class name. Both are read again by `labelwise audit --pred-probs`.

    Args:
        path: the file; its ending decides.
        ids: identifiers (N).
        classes: class names (K), in label order.
        blocks: consecutive rows (B, K).

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_atomically(path, lambda file: _write_npy(file, len(ids), len(classes), blocks))
    elif suffix == ".parquet":
        write_atomically(path, lambda file: _write_parquet(file, ids, classes, blocks))
    else:
        raise UserError(f"{path}: class probabilities are written as .npy or .parquet.")


def _write_npy(
    file: BinaryIO, num_rows: int, num_classes: int, blocks: Iterable[Tensor | np.ndarray]
) -> None:
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (num_rows, num_classes)})
    written = 0
    for block in blocks:
        rows = _rows(block, num_classes)
        file.write(rows.astype("<f4", copy=False).tobytes())
        written += len(rows)
    assert written == num_rows, f"{written} rows of probabilities for {num_rows} ids"


def _write_parquet(
    file: BinaryIO, ids: np.ndarray, classes: Sequence[str], blocks: Iterable[Tensor | np.ndarray]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    clash = [name for name in classes if name.lower() == "id"]
    if clash:
        raise UserError(
            f"a class is called {clash[0]!r}, as the column of ids is: write .npy instead."
        )
    if ids.dtype == object and {type(value) for value in ids.tolist()} - {int, str}:
        ids = ids.astype(str)
    numbers = ids.dtype.kind in "iu" or all(isinstance(value, int) for value in ids.tolist())
    kind = pa.int64() if numbers else pa.string()
    fields = [pa.field("id", kind), *(pa.field(name, pa.float32()) for name in classes)]
    schema = pa.schema(fields)
    written = 0
    with pq.ParquetWriter(file, schema) as writer:
        for block in blocks:
            rows = _rows(block, len(classes))
            own = ids[written : written + len(rows)].tolist()
            own = own if numbers else [str(value) for value in own]
            columns = [pa.array(own, kind)]
            columns += [pa.array(np.ascontiguousarray(column)) for column in rows.T]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            written += len(rows)
    assert written == len(ids), f"{written} rows of probabilities for {len(ids)} ids"


def _rows(block: Tensor | np.ndarray, num_classes: int) -> np.ndarray:
    found = block.detach().cpu().float().numpy() if isinstance(block, Tensor) else block
    assert found.shape == (len(found), num_classes), f"a block of shape {found.shape}"
    return np.asarray(found, dtype=np.float32)


def to_cleanlab(labels: pd.DataFrame | Any) -> pd.DataFrame:
    """The audited labels with cleanlab's column names.

    As `CleanLearning.get_label_issues` returns them: `is_label_issue`, `label_quality`,
    `given_label`, `predicted_label`, one row per sample in the order of the data; the ids are the
    index. Labels stay class names; cleanlab's own are the integers 0 to K - 1.

    Args:
        labels: the table `labels.parquet`, or a run (anything with such a table as `.labels`).

    Raises:
        UserError: a column is missing.
    """
    table = labels if isinstance(labels, pd.DataFrame) else labels.labels
    missing = [name for name in ("id", *CLEANLAB_COLUMNS) if name not in table.columns]
    if missing:
        raise UserError(
            f"the table has no column {missing[0]!r}: pass a run or its labels.parquet."
        )
    found = table.set_index("id")[list(CLEANLAB_COLUMNS)].rename(columns=CLEANLAB_COLUMNS)
    order = ["is_label_issue", "label_quality", "given_label", "predicted_label"]
    return found[order]


def from_cleanlab(
    issues: pd.DataFrame, classes: Sequence[str] | None = None, ids: Iterable[Any] | None = None
) -> pd.DataFrame:
    """Give cleanlab's table of label issues our column names.

    Takes the tables of `CleanLearning.get_label_issues`, of `Datalab.get_issues("label")` (whose
    `label_score` is the quality) and of `to_cleanlab`. cleanlab's quality ranks labels; it is
    not P(given label is right). cleanlab gives no probability of the suggestion, so there is no
    `suggestion_confidence`.

    Args:
        issues: cleanlab's table.
        classes: class names, where the table's labels are the integers 0 to K - 1.
        ids: identifiers (N); the index where None.

    Raises:
        UserError: a column is missing, or a label is no number in [0, K).
    """
    table = issues.rename(columns={DATALAB_SCORE: "label_quality"})
    wanted = {theirs: ours for ours, theirs in CLEANLAB_COLUMNS.items()}
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise UserError(
            f"the table has no column {missing[0]!r}; its columns are "
            f"{', '.join(map(str, issues.columns))}. Pass what get_label_issues returns."
        )
    found = table[list(wanted)].rename(columns=wanted)
    found.insert(0, "id", np.asarray(table.index if ids is None else list(ids), dtype=object))
    for name in ("given_label", "predicted_label"):
        found[name] = _names(found[name].to_numpy(), classes, name)
    suggested = np.where(found["is_suspect"], found["predicted_label"], found["given_label"])
    found["suggested_label"] = suggested
    order = ["id", "given_label", "label_quality", "predicted_label", "suggested_label"]
    return found[[*order, "is_suspect"]].reset_index(drop=True)


def _names(labels: np.ndarray, classes: Sequence[str] | None, column: str) -> np.ndarray:
    if classes is None:
        return np.asarray([str(value) for value in labels], dtype=object)
    for row, value in enumerate(labels):
        if not isinstance(value, int | np.integer) or not 0 <= value < len(classes):
            raise UserError(
                f"{column} of row {row} is {value}, no number from 0 to {len(classes) - 1}. "
                f"Leave classes out where the labels are names."
            )
    return np.asarray(classes, dtype=object)[labels.astype(np.int64)]
