"""Apply what a person decided about the labels of a run, and write the cleaned table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelwise.audit.cleaned import check_out, write_cleaned
from labelwise.audit.verdicts import WAS, Undecided, decide
from labelwise.data.wording import plural, quoted
from labelwise.errors import UserError
from labelwise.training.folder import RunFolder


@dataclass(frozen=True)
class Applied:
    """What `apply_decisions` did.

    Args:
        path: the table.
        counts: number of samples by what became of them, a word of `WAS`.
        notes: remarks for the user.
    """

    path: Path
    counts: dict[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"path": str(self.path), **self.counts, "notes": list(self.notes)}


def apply_decisions(
    run: Path,
    decisions: Path | None,
    out: Path,
    *,
    undecided: Undecided = "keep",
    data: str | Path | None = None,
) -> Applied:
    """Write the cleaned labels of a run as a table, one row per sample that is not dropped.

    Its columns are `id`, `label`, `given_label` and `was` (kept, fixed, undecided, or suggested
    where `undecided` says so). With `data`, the folder or table that the run was trained on, the
    inputs are joined back, and the table is itself data for `labelwise fit`.

    Args:
        run: a finished run folder.
        decisions: the file that the report's page downloads; None leaves all to `undecided`.
        out: a .parquet, .csv or .tsv file.
        undecided: what becomes of samples without a decision; see `decide`.
        data: a folder of class folders or a .csv, .tsv or .parquet manifest.

    Returns:
        How many labels were kept, fixed, dropped, left undecided and taken as suggested.

    Raises:
        UserError: see `decide`; also where `data` does not fit the run or `out` is an input.
    """
    run, out = Path(run), Path(out)
    decisions = None if decisions is None else Path(decisions)
    check_out(out, run, decisions, data)
    verdicts = decide(run, decisions, undecided)
    if not len(verdicts.kept_rows):
        raise UserError("every sample would be dropped: there is nothing left to write.")
    notes = write_cleaned(verdicts, out, data, RunFolder(run))
    counts = np.bincount(verdicts.was, minlength=len(WAS))
    remaining = np.bincount(verdicts.label[verdicts.kept_rows], minlength=len(verdicts.classes))
    before = np.bincount(verdicts.labels.given, minlength=len(verdicts.classes))
    emptied = [verdicts.classes[k] for k in np.flatnonzero((remaining == 0) & (before > 0))]
    if emptied:
        notes = (
            *notes,
            f"no sample is left in {plural(len(emptied), 'class', 'classes')}: {quoted(emptied)}",
        )
    return Applied(out, dict(zip(WAS, counts.tolist(), strict=True)), tuple(notes))
