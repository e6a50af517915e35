"""Write cleaned labels as a table, joined with the inputs that the run was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelwise.audit.verdicts import DROPPED, WAS, Verdicts, rows_by_id
from labelwise.config import read_json
from labelwise.data.files import at_home, write_atomically
from labelwise.data.labels import read_labels
from labelwise.data.sources.cifar import Cifar
from labelwise.data.sources.manifest import IMAGE_COLUMNS, LABEL_COLUMNS, Manifest
from labelwise.data.tables import BATCH_ROWS, CsvTable, ParquetTable, Table
from labelwise.data.wording import few, plural, quoted
from labelwise.errors import UserError
from labelwise.noise.openset import OpenSet
from labelwise.training.folder import RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

OWN = ("id", "label", "given_label", "was")
"""Columns of a cleaned table; columns of the data that are called so make way."""
SUFFIXES = (".parquet", ".csv", ".tsv")
PLAIN_ROWS = 65_536
"""Rows held at a time where no column holds images or vectors."""
TEXT_ONLY = "a .csv file holds text and numbers only. End --out in .parquet."


def check_out(out: Path, run: Path, decisions: Path | None, data: str | Path | None) -> None:
    """Raise a `UserError` where `out` cannot be a table, or would overwrite what is read."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"{out}: the output must end in {', '.join(SUFFIXES)}.")
    inputs = [*RunFolder(run).outputs, *(Path(str(p)) for p in (decisions, data) if p is not None)]
    if out.resolve() in {at_home(path).resolve() for path in inputs}:
        raise UserError(f"{out} is read by this command: choose another --out.")


def write_cleaned(
    verdicts: Verdicts, out: Path, data: str | Path | None, folder: RunFolder
) -> tuple[str, ...]:
    """Write the samples that are not dropped; return remarks.

    Args:
        verdicts: the final labels.
        out: a .parquet, .csv or .tsv file.
        data: what the run was trained on (a folder or a manifest), to join the inputs; or None.
        folder: the run.

    Raises:
        UserError: `data` does not fit the run, or the table cannot be written.
    """
    described = read_json(folder.config)
    rows = verdicts.kept_rows
    if data is None:
        _write(out, [_own_columns(verdicts, rows)])
        return _hint(described, out)
    path = at_home(str(data))
    if path.is_dir() and not Cifar.matches(path):
        _write(out, [_with_files(verdicts, rows, path, out)])
        return _foreign(described)
    if Manifest.matches(path):
        return (*_join(verdicts, path, out, described), *_foreign(described))
    raise UserError(
        f"{data} cannot be joined: pass the folder or the .csv, .tsv or .parquet table that the "
        "run was trained on. For arrays, digits and the original CIFAR files leave --data out "
        "and match by id."
    )


def _foreign(described: dict[str, Any]) -> tuple[str, ...]:
    """A remark where the run was trained on other inputs than its data hold."""
    noise = described.get("noise") or {}
    if noise.get("process") != OpenSet.name:
        return ()
    number = noise.get("num_foreign")
    which = "some" if number is None else f"{number:,}"
    return (
        f"the run replaced {which} inputs by foreign ones ({OpenSet.name} noise); the table holds "
        "the original inputs, which decisions about foreign ones do not fit",
    )


def _hint(described: dict[str, Any], out: Path) -> tuple[str, ...]:
    source = described.get("config", {}).get("data")
    if not isinstance(source, str) or Cifar.matches(source):
        return ()
    if Path(source).is_dir() or Manifest.matches(source):
        return (f"{out.name} holds ids and labels; with --data {source} it is data to train on",)
    return ()


def _own_columns(verdicts: Verdicts, rows: np.ndarray, ids: Any = None) -> pa.Table:
    """The columns `OWN` of these samples; `ids` are those of the run, in one piece."""
    import pyarrow as pa

    names = pa.array(verdicts.classes, pa.string())
    columns = [
        (verdicts.labels.table.column("id") if ids is None else ids).take(pa.array(rows)),
        names.take(pa.array(verdicts.label[rows])),
        names.take(pa.array(verdicts.labels.given[rows])),
        pa.array(WAS, pa.string()).take(pa.array(verdicts.was[rows])),
    ]
    return pa.table(dict(zip(OWN, columns, strict=True)))


def _with_files(verdicts: Verdicts, rows: np.ndarray, root: Path, out: Path) -> pa.Table:
    """`OWN` and the images of a folder, whose ids are their paths below it."""
    import pyarrow as pa

    ids = verdicts.labels.texts("id", rows)
    absent = [name for name in ids if not (root / name).is_file()]
    if absent:
        raise _not_the_data(root, absent)
    place = _Place(root, out)
    paths = [place.below(name) for name in ids]
    return _own_columns(verdicts, rows).append_column("image", pa.array(paths, pa.string()))


def _join(verdicts: Verdicts, path: Path, out: Path, described: dict[str, Any]) -> tuple[str, ...]:
    """Write the rows of a manifest that are kept, with their new labels."""
    table: Table = ParquetTable(path) if path.suffix.lower() == ".parquet" else CsvTable(path)
    config = described.get("config", {})
    label, truth = _label_columns(table, config)
    id_column = next((name for name in table.columns if name.lower() == "id"), None)
    ids = np.arange(table.num_rows) if id_column is None else table.values(id_column)
    rows = rows_by_id([str(value) for value in ids], verdicts.labels)
    _check_all_there(verdicts, rows, path)
    if label is not None and described.get("noise") is None:
        _check_labels(verdicts, rows, table, label, path)
    gone = {label, truth, id_column} | {n for n in table.columns if n.lower() in OWN}
    copied = [name for name in table.columns if name not in gone]
    image = next((n for w in IMAGE_COLUMNS for n in copied if n.lower() == w), None)
    moved = image if image is not None and table.columns[image] == "text" else None
    if out.suffix.lower() != ".parquet":
        for name in copied:
            if table.columns[name] not in ("text", "number"):
                raise UserError(
                    f"column {name!r} of {path} holds {table.columns[name]}s: {TEXT_ONLY}"
                )
    # Beside columns of numbers, which are the features, text would stop the next `labelwise fit`.
    with_was = image is not None or any(table.columns[n] not in ("text", "number") for n in copied)
    renamed = "true_label" if truth is not None else None
    extra = [*copied, *([truth] if truth is not None else [])]

    place = _Place(path.parent, out)
    kept = verdicts.was != DROPPED
    # Taking from a column in many pieces copies the whole column, for every part again.
    own_ids = verdicts.labels.table.column("id").combine_chunks()

    def parts() -> Iterator[pa.Table]:
        for start, part in _parts(table, extra):
            matched = rows[start : start + part.num_rows]
            chosen = np.flatnonzero((matched >= 0) & kept[matched])
            whole = _own_columns(verdicts, matched[chosen], own_ids)
            if not with_was:
                whole = whole.drop_columns(["was"])
            for name in extra:
                column = part.column(name).take(chosen)
                if name == moved:
                    column = _moved(column, place)
                whole = whole.append_column(renamed if name == truth else name, column)
            yield whole

    _write(out, parts())
    strangers = int((rows < 0).sum())
    notes = [f"{plural(strangers, 'row')} of {path.name} not in the run: left out"] * (
        strangers > 0
    )
    own = [n for n in table.columns if n.lower() in OWN and n not in (label, truth, id_column)]
    if own:
        notes.append(f"columns of {path.name} that the cleaned table replaces: {quoted(own)}")
    return tuple(notes)


def _label_columns(table: Table, config: dict[str, Any]) -> tuple[str | None, str | None]:
    """Columns of the given and the true labels, as `labelwise fit` took them."""
    label, truth = config.get("label_column"), config.get("truth_column")
    if label is None:
        lower = {name.lower(): name for name in reversed(table.columns) if name != truth}
        label = next((lower[name] for name in LABEL_COLUMNS if name in lower), None)
    return (label if label in table.columns else None), (truth if truth in table.columns else None)


def _check_all_there(verdicts: Verdicts, rows: np.ndarray, path: Path) -> None:
    present = np.zeros(len(verdicts.labels), dtype=bool)
    present[rows[rows >= 0]] = True
    absent = verdicts.kept_rows[~present[verdicts.kept_rows]]
    if len(absent):
        raise _not_the_data(path, verdicts.labels.texts("id", absent))


def _check_labels(
    verdicts: Verdicts, rows: np.ndarray, table: Table, label: str, path: Path
) -> None:
    """Where ids are row numbers, another table would fit silently: its labels tell it apart."""
    found = read_labels(table.values(label), f"column {label!r}", table.class_names(label))
    number = {name: code for code, name in enumerate(verdicts.classes)}
    codes = np.array([number.get(name, -1) for name in found.names] + [-1])[found.codes]
    known = rows >= 0
    wrong = np.flatnonzero(known)[codes[known] != verdicts.labels.given[rows[known]]]
    if len(wrong):
        row = int(wrong[0])
        mine = verdicts.classes[verdicts.labels.given[rows[row]]]
        theirs = found.names[found.codes[row]] if found.codes[row] >= 0 else ""
        raise UserError(
            f"{path} is not what the run was trained on: {plural(len(wrong), 'label')} of column "
            f"{label!r} differ; row {row} has {theirs!r}, the run {mine!r}."
        )


def _not_the_data(path: Path, absent: Sequence[str]) -> UserError:
    return UserError(
        f"{path} lacks {plural(len(absent), 'sample')} of the run: {few(absent, len(absent))}. "
        f"Pass the data that the run was trained on."
    )


def _parts(table: Table, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """A table's columns in parts, with the row that each starts at; few rows are held at once."""
    import pyarrow as pa

    if isinstance(table, ParquetTable):
        start = 0
        small = all(table.columns[name] in ("text", "number") for name in columns)
        size = PLAIN_ROWS if small else BATCH_ROWS
        for batch in table.file.iter_batches(size, columns=list(columns)):
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows
        return
    assert isinstance(table, CsvTable)
    whole = {
        name: pa.array(
            table.values(name) if table.columns[name] == "number" else table.frame[name],
            from_pandas=True,
        )
        for name in columns
    }
    yield 0, pa.table(whole) if whole else pa.table({"": pa.nulls(table.num_rows)})


def _moved(column: Any, place: _Place) -> pa.Array:
    """Relative image paths of a table that lies in `place`."""
    import pyarrow as pa

    def moved(cell: str | None) -> str | None:
        whole = not cell or cell.startswith("~") or os.path.isabs(cell)
        return cell if whole else place.below(str(cell))

    return pa.array([moved(cell) for cell in column.to_pylist()], pa.string())


class _Place:
    """A folder as seen from the folder of `out`; links are followed, for .. does not undo them.

    Args:
        folder: the folder.
        out: the table that is to name files below it.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.whole = folder.resolve().as_posix()
        self.base = Path(os.path.relpath(self.whole, out.parent.resolve())).as_posix()

    def below(self, name: str) -> str:
        """The path of a file; it is absolute where a leading ~ would be read as a home folder."""
        path = name if self.base == "." else f"{self.base}/{name}"
        return f"{self.whole}/{name}" if path.startswith("~") else path


def _write(out: Path, parts: Sequence[pa.Table] | Iterator[pa.Table]) -> None:
    """Write parts of one table, atomically; memory holds one part."""
    import pyarrow.parquet as pq

    def write(file: Any) -> None:
        if out.suffix.lower() == ".parquet":
            writer = None
            for part in parts:
                writer = writer or pq.ParquetWriter(file, part.schema)
                writer.write_table(part.cast(writer.schema))
            if writer is not None:
                writer.close()
            return
        separator = "," if out.suffix.lower() == ".csv" else "\t"
        for number, part in enumerate(parts):
            text = part.to_pandas().to_csv(index=False, header=number == 0, sep=separator)
            file.write(text.encode())

    write_atomically(out, write)
