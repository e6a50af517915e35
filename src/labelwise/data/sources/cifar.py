"""The original files of CIFAR-10 and CIFAR-100, where the user has them; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from labelwise.data.assemble import assemble
from labelwise.data.cifar_files import LAYOUTS, Asked, asked_for, contents
from labelwise.data.dataset import Source
from labelwise.data.files import at_home
from labelwise.data.label_files import label_names, read_labels_beside
from labelwise.data.pickles import read_pickle
from labelwise.data.source import DataSource, Options, Raw
from labelwise.errors import NoColumn, UserError, nearest

PIXELS = 3 * 32 * 32
"""Bytes of an image: 32 x 32 red values, then green, then blue, row by row."""
FULL = {True: 50_000, False: 10_000}
"""Images for training and for testing."""


class Cifar(DataSource):
    """The folders and archives of CIFAR-10 and CIFAR-100, or one of their files.

    A folder or archive is the training set. Its labels are right: they are the truth and, where no
    label column is named, the given labels too.
    """

    name: ClassVar[str] = "cifar"
    takes: ClassVar[frozenset[str]] = frozenset({"label_column"})

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` is called like one of the folders, archives or files."""
        return isinstance(data, str | Path) and asked_for(at_home(data)) is not None

    def read(self, data: object, options: Options) -> Source:
        """Read the images and true labels, and the given labels that are named."""
        path = at_home(str(data))
        asked = asked_for(path)
        assert asked is not None, "matches() said so"
        found = contents(asked)
        fine, coarse = _class_names(asked, found)
        parts = [_parsed(asked, name, found[name]) for name in asked.files]
        labels = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        images = labels.pop("images")
        column = options.label_column
        if column is None and coarse and set(options.classes or ()) == set(coarse):
            column = "coarse"  # as when the networks were trained on noisy_coarse_label
        given, title, is_coarse = _given(asked, column, labels)
        names, truth = (coarse, labels["coarse"]) if is_coarse else (fine, labels["fine"])
        notes: tuple[str, ...] = ()
        whole = asked.training or asked.files == (asked.layout.test,)
        if whole and len(images) != FULL[asked.training]:
            notes = (f"{len(images):,} images, where there should be {FULL[asked.training]:,}",)
        raw = Raw(
            name=path.name.partition(".")[0],
            place=f"the {'folder' if path.is_dir() else 'file'} {path}",
            ids=np.arange(len(images)),
            inputs=images if options.inputs else np.empty((len(images), 0)),
            given=truth if given is None else given,
            truth=truth,
            given_title=title,
            truth_title="the labels of the batches",
            given_names=names,
            truth_names=names,
            notes=notes,
        )
        return assemble(raw, options)


def _class_names(asked: Asked, found: dict[str, bytes]) -> tuple[list[str], list[str]]:
    """The K class names in label order, and those of the super-classes (CIFAR-100)."""
    layout = asked.layout
    if layout.binary:
        lists = [
            [line.strip() for line in found[name].decode("utf-8", "replace").splitlines()]
            for name in layout.meta
        ]
        lists = [[line for line in lines if line] for lines in lists]
    else:
        meta = _dictionary(asked, layout.meta[0], found[layout.meta[0]])
        many = layout.num_classes == 100
        keys = ("fine_label_names", "coarse_label_names") if many else ("label_names",)
        lists = [[_text(name) for name in _listed(meta.get(key))] for key in keys]
    where = asked.root / layout.meta[0]
    for names, count in zip(lists, (layout.num_classes, 20), strict=False):
        if len(names) != count or len(set(names)) != count:
            raise UserError(
                f"{where} names {len(set(names))} classes; {count} are needed. Copy it again."
            )
    return lists[0], lists[1] if len(lists) > 1 else []


def _parsed(asked: Asked, name: str, content: bytes) -> dict[str, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n), fine and perhaps coarse, of one file."""
    if asked.layout.binary:
        return _records(asked, name, content)
    batch = _dictionary(asked, name, content)
    where = asked.root / name
    keys = {"fine": "labels"}
    if asked.layout.num_classes == 100:
        keys = {"fine": "fine_labels", "coarse": "coarse_labels"}
    data = batch.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (PIXELS,):
        raise UserError(f"{where}: its 'data' are not rows of {PIXELS} bytes. Copy it again.")
    found = {"images": data.reshape(-1, 3, 32, 32)}
    for label, key in keys.items():
        values = _numbers(_listed(batch.get(key)))
        if values.shape != (len(data),) or values.dtype.kind not in "iu":
            raise UserError(
                f"{where}: its {key!r} are not one whole number for each of {len(data):,} images. "
                "Copy it again."
            )
        found[label] = values.astype(np.int64)
    return found


def _records(asked: Asked, name: str, content: bytes) -> dict[str, np.ndarray]:
    """Take records of label bytes and pixels apart."""
    titles = ("fine",) if asked.layout.num_classes == 10 else ("coarse", "fine")
    width = len(titles) + PIXELS
    if not content or len(content) % width:
        raise UserError(
            f"{asked.root / name} holds {len(content):,} bytes, which is no whole number of images "
            f"of {width:,} bytes: it is cut off, or something else. Copy it again."
        )
    table = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
    labels = {title: table[:, place].astype(np.int64) for place, title in enumerate(titles)}
    return {"images": table[:, len(titles) :].reshape(-1, 3, 32, 32), **labels}


def _dictionary(asked: Asked, name: str, content: bytes) -> dict[str, Any]:
    """A pickled dictionary, its keys as text."""
    where = str(asked.root / name)
    found = read_pickle(content, where)
    if not isinstance(found, dict):
        raise UserError(f"{where} holds a {type(found).__name__}, not a batch. Copy it again.")
    return {_text(key): value for key, value in found.items()}


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(np.atleast_1d(value))
    return list(value) if isinstance(value, list | tuple) else []


def _numbers(values: list[Any]) -> np.ndarray:
    """Whole numbers as an array; an empty one where some are none."""
    whole = all(isinstance(value, int | np.integer) for value in values)
    return np.asarray(values) if whole else np.empty(0)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _given(
    asked: Asked, column: str | None, labels: dict[str, np.ndarray]
) -> tuple[Any, str, bool]:
    """The given labels (None: the true ones), what messages call them, and whether coarse.

    Raises:
        NoColumn: there is no such column.
    """
    known = ["label", *labels]
    if column is None or column in known:
        return None, "the labels of the batches", column == "coarse"
    layout = asked.layout
    if asked.training:
        found = read_labels_beside(asked.beside, column, layout.num_classes, labels["fine"])
        if found is not None:
            return *found, column == "noisy_coarse_label"
        meta = frozenset(name for every in LAYOUTS for name in every.meta)
        known += label_names(asked.beside, layout.num_classes, meta)
    raise NoColumn(
        f"{asked.root} has no label column {column!r}.{nearest(column, known)} There are "
        f"{', '.join(known)}; further labels of the training images may lie beside them, in "
        f"{column}.npy or {column}.txt."
    )
