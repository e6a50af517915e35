"""Labels of any form (text, numbers, truth values) to class numbers and class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from labelwise.data.wording import few, places, plural, quoted
from labelwise.errors import UserError, nearest

MISSING_TEXT = frozenset({"", "nan", "NaN", "<NA>"})
"""Text read as "no label". "None", "NA" and "null" are not here: they are real class names."""
NESTED = (list, tuple, np.ndarray, Tensor)


@dataclass(frozen=True)
class Labels:
    """A column of labels: its distinct names, and which of them each row has.

    Args:
        title: what messages call it.
        codes: (N) int64 position in `names`, -1 where the label is missing.
        names: distinct names in order of first use.
    """

    title: str
    codes: np.ndarray
    names: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The names that at least one row has."""
        return tuple(self.names[code] for code in np.unique(self.codes[self.codes >= 0]))

    @property
    def numeric(self) -> bool:
        """Whether every name that is used is a whole number."""
        return all(_is_whole(name) for name in self.used)


def read_labels(values: object, title: str, code_names: Sequence[str] | None = None) -> Labels:
    """Bring labels of any form to names.

    Args:
        values: N labels: a sequence, array, tensor or column of str, int, bool, whole floats.
        title: what messages call them.
        code_names: when given, integers are positions in this list (and -1 means no label).

    Raises:
        UserError: more than one label per sample, or values that cannot be classes.
    """
    array = _as_array(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(
            f"{title} have shape {array.shape}: one label per sample is needed, shape (N,). "
            f"For one-hot or soft labels pass their argmax(axis=1)."
        )
    codes, distinct = _factorise(array)
    names: dict[str, int] = {}
    final = np.empty(len(distinct) + 1, dtype=np.int64)
    final[-1] = -1
    for code, value in enumerate(distinct):
        name = _name(value, title, code_names)
        final[code] = -1 if name is None else names.setdefault(name, len(names))
    return Labels(title, final[codes], tuple(names))


def class_list(given: Labels | None, truth: Labels | None) -> tuple[str, ...]:
    """Return the class names of given and true labels together, in class order.

    Whole numbers are sorted as numbers, anything else as text.

    Raises:
        UserError: the two name no class in common, so they cannot mean the same classes.
    """
    columns = [column for column in (given, truth) if column is not None]
    if given is not None and truth is not None and not set(given.used) & set(truth.used):
        kinds = ["numbers" if column.numeric else "names" for column in columns]
        raise UserError(
            f"{given.title} ({kinds[0]}: {quoted(given.used)}) and {truth.title} ({kinds[1]}: "
            f"{quoted(truth.used)}) have no class in common. Write both in the same form."
        )
    union = {name for column in columns for name in column.used}
    if all(_is_whole(name) for name in union):
        return tuple(sorted(union, key=lambda name: (int(name), name)))
    return tuple(sorted(union))


def check_complete(labels: Labels, ids: np.ndarray, remedy: str) -> None:
    """Raise a `UserError` that names the first rows without a label and the remedy."""
    missing = np.flatnonzero(labels.codes < 0)
    if len(missing):
        raise UserError(
            f"{labels.title}: {len(missing):,} of {len(labels.codes):,} labels missing, "
            f"at {places(missing, ids)}. {remedy}"
        )


def encode(labels: Labels, classes: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """Return the labels as positions (N) int64 in `classes`.

    Args:
        labels: the labels; those that are missing become -1 (`NO_CLASS`).
        classes: the class names.
        ids: N identifiers, for messages.

    Raises:
        UserError: a label is not among the classes.
    """
    position = {name: code for code, name in enumerate(classes)}
    unknown = [name for name in labels.used if name not in position]
    if unknown:
        first = np.flatnonzero(labels.codes == labels.names.index(unknown[0]))
        raise UserError(
            f"{labels.title}: label {unknown[0]!r} at {places(first, ids)} is not among the "
            f"{len(classes)} known classes ({quoted(classes, 10)}).{nearest(unknown[0], classes)}"
            + (f" Also unknown: {quoted(unknown[1:])}." if unknown[1:] else "")
        )
    lookup = np.array([position.get(name, -1) for name in labels.names], dtype=np.int64)
    encoded = np.full(len(labels.codes), -1, dtype=np.int64)
    present = labels.codes >= 0
    encoded[present] = lookup[labels.codes[present]]
    return encoded


def check_trainable(labels: Labels) -> None:
    """Raise a `UserError` unless the labels can be the classes of a training set."""
    count, used = len(labels.codes), labels.used
    if len(used) == 1:
        raise UserError(
            f"{labels.title}: all {plural(count, 'sample')} have the label {used[0]!r}; at least "
            f"two classes are needed. Choose another label column or add the other classes."
        )
    if len(used) == count:
        raise UserError(
            f"{labels.title}: each of the {count:,} samples has a label of its own "
            f"({quoted(used)}). Classes need several samples each; is this an id or a measurement? "
            f"Choose the label column with --label-column."
        )


def label_notes(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return remarks on classes without a sample, with a single one, or alike but for case.

    Args:
        labels: (N) int64 in [0, K).
        classes: K names.
    """
    counts = np.bincount(labels, minlength=len(classes))
    notes = []
    for number, what in ((0, "no sample"), (1, "a single sample")):
        found = [classes[int(code)] for code in np.flatnonzero(counts == number)]
        if found:
            verb = "has" if len(found) == 1 else "have"
            noun = "class" if len(found) == 1 else f"{len(found)} classes"
            notes.append(f"{noun} {quoted(found)} {verb} {what}")
    folded: dict[str, list[str]] = {}
    for name in classes:
        folded.setdefault(name.casefold(), []).append(name)
    same = [" and ".join(map(repr, names)) for names in folded.values() if len(names) > 1]
    if same:
        notes.append(f"classes that differ only in case: {few(same, len(same))}")
    return notes


def _as_array(values: object) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ndarray):
        return values
    items = list(values) if isinstance(values, Sequence) else values
    if isinstance(items, list) and not any(isinstance(item, NESTED) for item in items):
        return _object_array(items)
    try:
        return np.asarray(items)
    except ValueError as error:
        raise UserError("the labels are ragged: one label per sample is needed.") from error


def _object_array(items: list[object]) -> np.ndarray:
    # np.array(items) would turn [1, "cat"] into text and [1, None] into something else again.
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _factorise(array: np.ndarray) -> tuple[np.ndarray, list[object]]:
    """Return the position of each value among the distinct ones (-1 when missing), and those."""
    if array.dtype.kind in "biufUS":
        distinct, inverse = np.unique(array, return_inverse=True)
        return inverse.astype(np.int64), distinct.tolist()
    seen: dict[tuple[type, object], int] = {}
    codes = np.empty(len(array), dtype=np.int64)
    for row, value in enumerate(array):
        try:
            # The type is part of the key: True == 1 == 1.0 for a dictionary.
            codes[row] = seen.setdefault((type(value), value), len(seen))
        except TypeError:
            raise UserError(
                f"label {value!r} at row {row} is a {type(value).__name__}; labels are text or "
                f"whole numbers, one per sample."
            ) from None
    return codes, [value for _, value in seen]


def _name(value: object, title: str, code_names: Sequence[str] | None) -> str | None:
    """Return the class name of one label, or None when the label is missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    # A date in nanoseconds would turn into a whole number here; it must stay what it is.
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        text = value.strip()
        return None if text in MISSING_TEXT else text
    if isinstance(value, float):
        if value != value:
            return None
        if not value.is_integer():
            raise UserError(
                f"{title}: label {value!r} is not a class: labels are text or whole numbers. "
                f"Is this a measurement? Choose the label column with --label-column."
            )
        value = int(value)
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, int):
        raise UserError(
            f"{title}: label {value!r} is a {type(value).__name__}; labels are text or whole "
            f"numbers."
        )
    if code_names is None:
        return str(value)
    if value == -1:
        return None
    if not 0 <= value < len(code_names):
        raise UserError(
            f"{title}: label {value} is out of range: the data names "
            f"{plural(len(code_names), 'class', 'classes')}, "
            f"so labels are 0 to {len(code_names) - 1}."
        )
    return str(code_names[value])


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
