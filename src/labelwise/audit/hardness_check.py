"""Whether the arrays of easy, hard and corrected samples fit each other and the labels."""

from __future__ import annotations

import numpy as np

from labelwise.audit.run_files import RunFiles
from labelwise.errors import UserError
from labelwise.training.corrections import CORRECTED, UNSORTED
from labelwise.training.folder import RunFolder

PREFIX = "hardness_"
SLACK = 1e-3
"""How far rounding may carry a number out of its range."""

Rule = tuple[tuple[int | None, ...], float, float]
"""Shape, None for any size, then the least and the largest value."""


def check_hardness(run: RunFiles) -> None:
    """Raise a `UserError` unless the arrays `hardness_...` of a run fit; absent ones do."""
    arrays = {
        name.removeprefix(PREFIX): values
        for name, values in run.arrays.items()
        if name.startswith(PREFIX)
    }
    rules = _rules(arrays, len(run.labels), len(run.classes))
    wrong = [name for name, rule in rules.items() if name in arrays and _breaks(arrays[name], rule)]
    if not wrong and (arrays["target"][arrays["state"] != UNSORTED] < 0).any():
        wrong = ["target"]
    if wrong:
        raise UserError(
            f"{RunFolder(run.path).evidence} is broken: {PREFIX}{wrong[0]} does not fit the other "
            f"arrays or labels.parquet. Remove it and `labelwise resume {run.path}`, or run again."
        )


def _rules(arrays: dict[str, np.ndarray], number: int, num_classes: int) -> dict[str, Rule]:
    def size(name: str, axis: int = 0) -> int:
        return arrays[name].shape[axis] if name in arrays and arrays[name].ndim > axis else 0

    shown, voters, pictures = size("rows"), size("near", 1), size("voter_rows")
    samples, anchors = size("point_rows"), size("anchor_rows")
    table = (shown, voters)
    row, label = number - 1, num_classes - 1
    return {
        "state": ((number,), UNSORTED, CORRECTED),
        "target": ((number,), -1, label),
        "trust": ((number,), -SLACK, 1 + SLACK),
        "rows": ((shown,), 0, row),
        "voters": ((shown,), 0, np.inf),
        "near": (table, -1, row),
        "far": (table, -1, row),
        "near_labels": (table, -1, label),
        "far_labels": (table, -1, label),
        "closeness": (table, -SLACK, 1 + SLACK),
        "similarity": (table, -1 - SLACK, 1 + SLACK),
        "images": ((shown, None, None, None), 0, 255),
        "voter_rows": ((pictures,), 0, row),
        "voter_images": ((pictures, None, None, None), 0, 255),
        "points": ((samples + anchors, 2), -SLACK, 1 + SLACK),
        "point_rows": ((samples,), 0, row),
        "anchor_rows": ((anchors,), 0, row),
        "anchor_labels": ((anchors,), 0, label),
    }


def _breaks(values: np.ndarray, rule: Rule) -> bool:
    shape, low, high = rule
    fits = values.ndim == len(shape) and all(
        wanted is None or found == wanted for found, wanted in zip(values.shape, shape, strict=True)
    )
    return not (fits and bool(((values >= low) & (values <= high)).all()))
