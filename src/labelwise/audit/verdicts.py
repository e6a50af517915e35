"""What a person decided about the labels: read it, check it, and decide every sample's label.

The report's page writes `decisions.csv` with the columns id, given_label, decision (keep, fix or
drop) and label. A cell that a spreadsheet would run as a formula is written with an apostrophe in
front, which is taken off again here, so that ids come back exactly.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from labelwise.audit.run_files import LabelColumns, read_labels
from labelwise.config import read_json
from labelwise.data.source import reading
from labelwise.data.wording import few, plural, quoted
from labelwise.errors import UserError, nearest, unknown
from labelwise.training.folder import RunFolder

Undecided = Literal["keep", "suggest", "drop-suspects"]
DECISIONS = ("keep", "fix", "drop")
REQUIRED = ("id", "decision")
FORMULA = "=+-@\t\r"
"""A spreadsheet reads a cell that starts with one of these as a formula."""
NEAREST_AMONG = 20_000
"""The nearest id is only looked for among so many."""
KEPT, FIXED, DROPPED, UNDECIDED, SUGGESTED = range(5)
WAS = ("kept", "fixed", "dropped", "undecided", "suggested")


@dataclass(frozen=True)
class Decision:
    """One row of a decisions file.

    Args:
        line: line of the file that it starts at, 1-based.
        id: the sample's id, as written.
        decision: keep, fix or drop.
        label: the label to put, or "".
        given: the given label as the file has it, or None without that column.
    """

    line: int
    id: str
    decision: str
    label: str
    given: str | None


@dataclass(frozen=True)
class Verdicts:
    """The final label of every sample of a run.

    Args:
        label: class of the label (N) int64.
        was: how it came about (N) int8: a position in `WAS`.
        classes: class names in label order.
        labels: the audited labels.
    """

    label: np.ndarray
    was: np.ndarray
    classes: tuple[str, ...]
    labels: LabelColumns

    @property
    def kept_rows(self) -> np.ndarray:
        """Rows that are not dropped (M), rising."""
        return np.flatnonzero(self.was != DROPPED)


def decide(run: Path, decisions: Path | None, undecided: Undecided = "keep") -> Verdicts:
    """Apply a person's decisions, and one rule for the rest, to the labels of a run.

    Args:
        run: a finished run folder.
        decisions: the file; None leaves every sample to `undecided`.
        undecided: samples without a decision "keep" their given label, take what the run has to
            "suggest", or are dropped where they are suspects ("drop-suspects").

    Raises:
        UserError: a file is missing or broken, or a row of the decisions is wrong (its line is
            named).
    """
    if undecided not in get_args(Undecided):
        raise unknown("rule for undecided samples", undecided, get_args(Undecided))
    if decisions is None and undecided == "keep":
        raise UserError(
            "there is nothing to apply: pass the decisions.csv that the report's page downloads, "
            "or --undecided suggest (or drop-suspects)."
        )
    classes, labels = _read_run(run)
    label = labels.given.copy()
    was = np.full(len(labels), UNDECIDED, dtype=np.int8)
    if undecided == "suggest":
        changed = labels.suggested != labels.given
        label[changed], was[changed] = labels.suggested[changed], SUGGESTED
    elif undecided == "drop-suspects":
        was[labels.suspect] = DROPPED
    if decisions is not None:
        found = read_decisions(decisions)
        rows = _rows_of(found, labels, decisions, run)
        for decision, row in zip(found, rows, strict=True):
            given = int(labels.given[row])
            label[row] = _label(decision, row, labels, classes, decisions)
            fixed = decision.decision == "fix" and label[row] != given
            was[row] = DROPPED if decision.decision == "drop" else FIXED if fixed else KEPT
    return Verdicts(label, was, classes, labels)


def read_decisions(path: Path) -> list[Decision]:
    """Read a decisions file: comma, semicolon or tab separated, with a header line.

    Rows whose decision is empty are left out: they are undecided. The columns `label` (needed to
    fix a label otherwise than as suggested) and `given_label` (checked where there is one) may be
    missing, others are ignored.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds an unknown decision.
    """
    with reading(path):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}. Save it as CSV UTF-8.") from error
    header, rows = _records(path, text)
    found: list[Decision] = []
    first_line: dict[str, int] = {}
    for line, cells in rows:
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {plural(len(cells), 'field')} for {len(header)} columns. "
                f"A text with a comma or a line break needs quotes around it."
            )
        row = dict(zip(header, cells, strict=True))
        word = row["decision"].strip().lower()
        if not word:
            continue
        if word not in DECISIONS:
            raise UserError(
                f"{path}, line {line} (id {row['id']!r}): "
                f"{unknown('decision', row['decision'], DECISIONS)}"
            )
        if row["id"] in first_line:
            raise UserError(
                f"{path}, line {line}: the id {row['id']!r} was already decided in line "
                f"{first_line[row['id']]}. Keep one of the two."
            )
        first_line[row["id"]] = line
        label = row.get("label", "")
        found.append(Decision(line, row["id"], word, label, row.get("given_label")))
    return found


def _records(path: Path, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header's names, and every other record with the line that it starts at."""
    head = text.split("\n", 1)[0]
    if not head.strip():
        raise UserError(f"{path} is empty. Download it again from the report's page.")
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            records.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {start}: {error}. A quote that is opened must be closed, and one inside "
            f"a text is written twice."
        ) from error
    header = [name.strip().lower() for name in records[0][1]]
    absent = [name for name in REQUIRED if name not in header]
    if absent:
        raise UserError(
            f"{path} has no column {' and no column '.join(map(repr, absent))}. Its columns are "
            f"{', '.join(header)}; id and decision (keep, fix or drop) are needed."
        )
    if len(set(header)) < len(header):
        raise UserError(f"{path} names a column twice: {', '.join(header)}.")
    return header, records[1:]


def plain(cell: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from running it as a formula."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] and cell[1] in FORMULA + "'" else cell


def _read_run(run: Path) -> tuple[tuple[str, ...], LabelColumns]:
    folder = RunFolder(run)
    data = read_json(folder.config).get("data")
    if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
        raise UserError(f"{folder.config} is broken: it has no data.classes. Run again.")
    classes = tuple(str(name) for name in data["classes"])
    return classes, read_labels(folder.labels, classes)


def rows_by_id(ids: Sequence[str], labels: LabelColumns) -> np.ndarray:
    """The row of each id (M) int64, -1 where the run has no such sample."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = labels.table.column("id").cast(pa.large_string())
    found = pc.index_in(pa.array(ids, pa.large_string()), value_set=known)
    return np.asarray(found.fill_null(-1), dtype=np.int64)


def _rows_of(found: Sequence[Decision], labels: LabelColumns, path: Path, run: Path) -> list[int]:
    """The row of each decision; unknown ids and twice decided samples are errors."""
    rows = rows_by_id([plain(decision.id) for decision in found], labels)
    # Written by hand, an id that truly starts so may stand without its apostrophe.
    rows = np.where(rows < 0, rows_by_id([decision.id for decision in found], labels), rows)
    strangers = [row for row, place in zip(found, rows, strict=True) if place < 0]
    if strangers:
        if len(strangers) == len(found):
            raise UserError(
                f"{path}: none of its {plural(len(found), 'id')} is in {run} (line "
                f"{found[0].line}: {found[0].id!r}). The decisions belong to another run."
            )
        ids = labels.texts("id", np.arange(min(len(labels), NEAREST_AMONG)))
        named = (f"line {row.line}: {row.id!r}" for row in strangers)
        raise UserError(
            f"{path}: {plural(len(strangers), 'id')} not in {run}: {few(named, len(strangers))}."
            f"{nearest(strangers[0].id, ids)} Correct or remove these rows."
        )
    values, first = np.unique(rows, return_index=True)
    if len(values) < len(rows):
        again = found[next(k for k in range(len(rows)) if k not in set(first.tolist()))]
        raise UserError(f"{path}, line {again.line}: {again.id!r} is decided twice. Keep one row.")
    return [int(row) for row in rows]


def _label(
    decision: Decision, row: int, labels: LabelColumns, classes: Sequence[str], path: Path
) -> int:
    """The class that one decision gives to its sample at `row`."""
    where = f"{path}, line {decision.line} (id {decision.id!r})"
    given, suggested = int(labels.given[row]), int(labels.suggested[row])
    names = {classes[given]}
    if decision.given is not None and not {decision.given, plain(decision.given)} & names:
        raise UserError(
            f"{where}: its given label is {classes[given]!r} in this run, {decision.given!r} in "
            f"the file. The decisions belong to another run."
        )
    wanted = next((w for w in (plain(decision.label), decision.label) if w in classes), None)
    if decision.decision == "drop":
        return given
    if decision.decision == "keep":
        if decision.label and wanted != classes[given]:
            raise UserError(
                f"{where}: keep, but its label is {decision.label!r} and the given one "
                f"{classes[given]!r}. Write fix to change the label."
            )
        return given
    if not decision.label:
        if suggested == given:
            raise UserError(f"{where}: fix without a label, and the run suggests none. Name one.")
        return suggested
    if wanted is None:
        close = nearest(decision.label, classes)
        raise UserError(
            f"{where}: unknown class {decision.label!r}.{close} The classes are "
            f"{quoted(list(classes), 20)}."
        )
    return classes.index(wanted)
