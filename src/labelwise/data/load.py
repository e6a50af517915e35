"""The one way in: `load` reads every kind of data into a `Source`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from labelwise.data.dataset import Source
from labelwise.data.files import at_home
from labelwise.data.sampling import split, stratified_rows
from labelwise.data.source import DataSource, OnBadImage, Options, reading
from labelwise.discovery import discover
from labelwise.errors import NoColumn, UserError, nearest

__all__ = ["load", "load_labels", "load_rows", "split", "stratified_rows"]

PACKAGE = "labelwise.data.sources"


def load(
    data: str | Path | np.ndarray | Tensor | tuple[Any, ...] | list[Any],
    *,
    labels: object | None = None,
    truth: object | None = None,
    label_column: str | None = None,
    truth_column: str | None = None,
    image_size: int | None = None,
    on_bad_image: OnBadImage = "error",
    limit: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    require_labels: bool = True,
    channels: int | None = None,
) -> Source:
    """Read a data set, and apart from it the true labels where they are known.

    Args:
        data: "digits", a folder of class folders, a .csv, .tsv or .parquet manifest, an .npz or
            .npy file, an array or tensor (N, ...), a list of Pillow images, or a pair
            (inputs, labels).
        labels: N labels for data in memory (and .npy files).
        truth: N true labels for data in memory, where they are known.
        label_column: column (or .npz key) of the given labels.
        truth_column: column (or .npz key) of the true labels.
        image_size: side in pixels, 4 to 1024, of the square every image is brought to (short
            side resized, centre cropped). Needed when the images differ in size.
        on_bad_image: "error" stops at unreadable images, "skip" leaves them out with a note.
        limit: keep this many samples, stratified on the given labels, in the original order.
        seed: decides which samples `limit` keeps.
        classes: class names, in label order, of a trained model: labels are mapped into them.
        require_labels: False when only predictions are wanted: unusable labels become a note.
        channels: 1 or 3 to force grey or colour.

    Returns:
        The data set and its truth. Ids are str (object array) or int, as the source has them.

    Raises:
        UserError: the data cannot be used; the message says where, why and what to do.
    """
    options = Options(
        labels=labels,
        truth=truth,
        label_column=label_column,
        truth_column=truth_column,
        image_size=image_size,
        on_bad_image=on_bad_image,
        limit=limit,
        seed=seed,
        classes=None if classes is None else tuple(classes),
        require_labels=require_labels,
        channels=channels,
    )
    options.check()
    return _read(data, options)


def _read(data: object, options: Options) -> Source:
    source = _source_for(data)
    for option in ("labels", "label_column", "truth_column"):
        if getattr(options, option) is not None and option not in source.takes:
            raise NoColumn(
                f"{option} means nothing for data of the kind {source.name!r}: leave it out."
            )
    return source.read(data, options)


def load_labels(
    data: str | Path,
    *,
    label_column: str | None = None,
    truth_column: str | None = None,
) -> Source:
    """Read ids and labels only: no image is decoded, no embedding read.

    A table then needs no column of images either: ids and labels are enough.

    Args:
        data: as `load` takes it.
        label_column: column (or .npz key) of the given labels.
        truth_column: column (or .npz key) of the true labels.

    Returns:
        All samples, with inputs (N, 0).

    Raises:
        UserError: the labels or ids cannot be used.
    """
    return _read(data, Options(label_column=label_column, truth_column=truth_column, inputs=False))


def load_rows(
    data: str | Path,
    rows: np.ndarray,
    *,
    label_column: str | None = None,
    truth_column: str | None = None,
    image_size: int | None = None,
) -> Source:
    """Read some samples of a data set, and decode no other.

    Args:
        data: as `load` takes it.
        rows: row numbers (M), rising.
        label_column: column (or .npz key) of the given labels.
        truth_column: column (or .npz key) of the true labels, which are no features.
        image_size: side of the square that every image is brought to, pixels.

    Raises:
        UserError: as `load`.
    """
    options = Options(
        label_column=label_column, truth_column=truth_column, image_size=image_size, rows=rows
    )
    options.check()
    return _read(data, options)


def kinds() -> dict[str, type[DataSource]]:
    """Return every kind of data there is, by name."""
    return discover(PACKAGE, DataSource)


def _source_for(data: object) -> DataSource:
    if isinstance(data, str | Path):
        if not str(data).strip():
            raise UserError("the data's path is empty. Pass a folder, a file or 'digits'.")
        with reading(at_home(data)):
            return _source_at(data)
    for kind in kinds().values():
        if kind.matches(data):
            return kind()
    raise UserError(
        f"data of type {type(data).__name__} cannot be read. Pass a path, an array (N, ...), a "
        f"tensor, a list of Pillow images or a pair (inputs, labels)."
    )


def _source_at(data: str | Path) -> DataSource:
    path = at_home(data)
    for kind in kinds().values():
        if kind.matches(data) and (path.exists() or not kind.suffixes):
            return kind()
    if path.exists():
        raise UserError(
            f"{path} has the ending {path.suffix or '(none)'!r}, which cannot be read."
            f"{nearest(path.suffix, _suffixes())} Known: {', '.join(_suffixes())}, a folder of "
            f"class folders, or 'digits'."
        )
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(
        f"{path} does not exist.{nearest(path.name, [*beside, 'digits'])} Pass a folder of class "
        f"folders, a file ({', '.join(_suffixes())}) or 'digits'."
    )


def _suffixes() -> list[str]:
    return sorted(suffix for kind in kinds().values() for suffix in kind.suffixes)
