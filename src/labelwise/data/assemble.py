"""From what a source found to a data set: check, choose rows, encode labels, decode images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized

import numpy as np
import torch
from torch import Tensor

from labelwise.data.dataset import Dataset, Source, Truth
from labelwise.data.decode import decode
from labelwise.data.labels import (
    Labels,
    check_complete,
    check_trainable,
    class_list,
    encode,
    label_notes,
    read_labels,
)
from labelwise.data.pixels import to_inputs
from labelwise.data.sampling import stratified_rows
from labelwise.data.source import Options, Raw
from labelwise.data.wording import few, place, places, plural
from labelwise.errors import UserError

DOUBTFUL_CLASSES = 10
"""More classes than this, and than half the samples, are remarked on."""


def assemble(raw: Raw, options: Options) -> Source:
    """Turn what a source found into a data set and its truth.

    Labels are checked before any image is decoded, and only the rows that `limit` keeps are.

    Args:
        raw: what the source found.
        options: how to read it.

    Raises:
        UserError: the labels, ids or inputs cannot be used.
    """
    count = len(raw.ids)
    if count == 0:
        raise UserError(f"{raw.place} holds no samples.")
    _check_lengths(raw)
    _check_ids(raw)
    labels, truth, classes, notes = _labels(raw, options)
    rows = np.arange(count)
    if options.limit is not None:
        strata = labels if len(labels) else np.zeros(count, dtype=np.int64)
        rows = stratified_rows(strata, options.limit, options.seed)
    if options.rows is not None:
        rows = options.rows
    inputs, kept, remarks = _inputs(raw, rows, options)
    rows = rows[kept]
    labels = labels[rows] if len(labels) else labels
    if len(labels) and options.classes is None and options.require_labels:
        notes += label_notes(labels, classes)
    data = Dataset(
        inputs=inputs,
        labels=torch.from_numpy(labels),
        classes=classes,
        ids=raw.ids[rows],
        name=raw.name,
        flip=raw.flip and inputs.ndim == 4,
        notes=(*raw.notes, *remarks, *notes),
    )
    return Source(data, None if truth is None else Truth(torch.from_numpy(truth[rows])))


def _check_lengths(raw: Raw) -> None:
    count = len(raw.ids)
    if isinstance(raw.inputs, np.ndarray) and len(raw.inputs) != count:
        raise UserError(f"{raw.place}: {count:,} ids for {len(raw.inputs):,} inputs.")
    for title, values in ((raw.given_title, raw.given), (raw.truth_title, raw.truth)):
        if isinstance(values, Sized) and len(values) != count:
            raise UserError(
                f"{raw.place}: {title} hold {plural(len(values), 'label')} for "
                f"{plural(count, 'input')}. Each input needs exactly one label."
            )


def _check_ids(raw: Raw) -> None:
    if raw.ids.ndim != 1 or raw.ids.dtype.kind not in "OiuU":
        raise UserError(
            f"{raw.place}: ids are {raw.ids.dtype} of shape {raw.ids.shape}; one text or whole "
            f"number per sample is needed."
        )
    if raw.ids.dtype.kind == "O":
        for row, value in enumerate(raw.ids):
            if not isinstance(value, str | int) or value == "":
                raise UserError(
                    f"{raw.place}: the id at row {row} is {value!r}; every sample needs an id of "
                    f"text or a whole number. Fill it in, or drop the id column to number rows."
                )
    counts = Counter(raw.ids.tolist())
    if len(counts) < len(raw.ids):
        twice = [repr(value) for value, number in counts.items() if number > 1]
        rows = np.flatnonzero(raw.ids == next(v for v, n in counts.items() if n > 1))
        raise UserError(
            f"{raw.place}: {plural(len(twice), 'id')} "
            f"{'occurs' if len(twice) == 1 else 'occur'} more than once: "
            f"{few(twice, len(twice))} (the first at rows "
            f"{few((str(row) for row in rows), len(rows))}). Make ids unique, or drop the id "
            f"column to number the rows."
        )


def _labels(
    raw: Raw, options: Options
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], list[str]]:
    """Return given labels (N, or empty), true labels (N or None), class names and remarks."""
    if raw.given is None and options.labels_asked_for:
        raise UserError(f"{raw.place} has no labels. {raw.remedy}")
    truth = None
    if raw.truth is not None:
        truth = read_labels(raw.truth, raw.truth_title, raw.truth_names)
    given, codes, notes = None, np.empty(0, dtype=np.int64), _no_class_notes(truth, raw.ids)
    if raw.given is not None:
        try:
            given, codes = _given(raw, options, truth)
        except UserError as error:
            # Whoever only wants predictions must not be stopped by a column nobody asked for.
            if options.labels_asked_for:
                raise
            notes.append(f"labels left out: {error}")
    classes = class_list(given, truth) if options.classes is None else options.classes
    true_codes = None if truth is None else encode(truth, classes, raw.ids)
    if options.classes is None and len(classes) > max(DOUBTFUL_CLASSES, len(codes) / 2):
        notes.append(f"{len(classes):,} classes for {len(codes):,} samples: are these classes?")
    return codes, true_codes, classes, notes


def _no_class_notes(truth: Labels | None, ids: np.ndarray) -> list[str]:
    """Remark on samples without a true label: they are taken to be of no class (`NO_CLASS`)."""
    missing = np.empty(0) if truth is None else np.flatnonzero(truth.codes < 0)
    if truth is None or not len(missing):
        return []
    if len(missing) == len(truth.codes):
        raise UserError(f"{truth.title}: all labels are missing. Leave the true labels out.")
    return [
        f"{plural(len(missing), 'sample')} without a true label, at {places(missing, ids)}: taken "
        "to be of none of the classes, with a wrong given label; leave out samples whose true "
        "label is not known"
    ]


def _given(raw: Raw, options: Options, truth: Labels | None) -> tuple[Labels, np.ndarray]:
    given = read_labels(raw.given, raw.given_title, raw.given_names)
    check_complete(given, raw.ids, "Fill them in or remove these rows.")
    classes = class_list(given, truth) if options.classes is None else options.classes
    codes = encode(given, classes, raw.ids)
    if options.classes is None and options.require_labels:
        check_trainable(given)
    return given, codes


def _inputs(raw: Raw, rows: np.ndarray, options: Options) -> tuple[Tensor, np.ndarray, list[str]]:
    """Return the inputs of `rows`, the positions of `rows` that could be read, and remarks."""
    if not options.inputs:
        return torch.empty((len(rows), 0)), np.arange(len(rows)), []
    if isinstance(raw.inputs, np.ndarray):
        inputs = to_inputs(raw.inputs, rows, raw.ids, options.image_size, options.channels)
        return inputs, np.arange(len(rows)), []
    decoded = decode(raw.inputs(rows), len(rows), options.image_size, options.channels)
    bad = decoded.bad
    if bad and options.on_bad_image == "error":
        where, reason = bad[0]
        raise UserError(
            f"cannot read the image {where}: {reason}. {len(bad):,} of {len(rows):,} images "
            f"cannot be read. Mend or remove them, or leave them out with --on-bad-image skip."
        )
    if not bad:
        return decoded.images, decoded.kept, []
    names = few((f"{where}: {reason}" for where, reason in bad), len(bad))
    note = f"{plural(len(bad), 'image')} of {len(rows):,} left out as unreadable: {names}"
    return decoded.images, decoded.kept, [note]


def where_in(place_name: str, row: int, ids: np.ndarray) -> str:
    """Name one sample for messages: "at row 3 (id 'x') of the file y.csv"."""
    return f"at {place(row, ids)} of {place_name}"
