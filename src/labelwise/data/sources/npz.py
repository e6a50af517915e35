"""NumPy files: an .npz with inputs and labels, or an .npy of inputs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from labelwise.data.assemble import assemble
from labelwise.data.dataset import Source
from labelwise.data.files import at_home
from labelwise.data.source import DataSource, Options, Raw, has_suffix, reading
from labelwise.data.wording import first_line
from labelwise.errors import NoColumn, UserError, nearest

INPUT_KEYS = ("images", "x", "X", "inputs", "data", "embeddings", "features")
LABEL_KEYS = ("labels", "label", "y", "Y", "given_label", "given_labels", "noisy_label", "target")
TRUTH_KEYS = ("truth", "true_label", "true_labels")


class Npz(DataSource):
    """An `.npz` file with inputs, labels and perhaps `truth`, `ids` and `classes`."""

    name: ClassVar[str] = "npz"
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)
    takes: ClassVar[frozenset[str]] = frozenset({"label_column", "truth_column"})

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` names an .npz file."""
        return has_suffix(data, cls.suffixes)

    def read(self, data: object, options: Options) -> Source:
        """Read the arrays by name; `label_column` and `truth_column` name other keys."""
        path = at_home(str(data))
        with loaded(path) as arrays:
            keys = list(arrays.files)
            inputs = _first(keys, INPUT_KEYS)
            label = _named(path, keys, options.label_column) or _first(keys, LABEL_KEYS)
            if inputs is None and (options.inputs or label is None):
                raise UserError(
                    f"{path} holds no inputs: its keys are {', '.join(keys) or 'none'}; name the "
                    f"inputs one of {', '.join(INPUT_KEYS)}."
                )
            truth = _named(path, keys, options.truth_column) or _first(keys, TRUTH_KEYS)
            if label and not options.inputs:
                values = np.empty((len(_array(path, arrays, label)), 0))
            else:
                values = _array(path, arrays, inputs or "")
            names = _names(path, arrays) if "classes" in keys else None
            raw = Raw(
                name=path.stem,
                place=f"the file {path}",
                ids=_array(path, arrays, "ids") if "ids" in keys else np.arange(len(values)),
                inputs=values,
                given=_array(path, arrays, label) if label else None,
                truth=_array(path, arrays, truth) if truth else None,
                given_title=f"key {label!r}",
                truth_title=f"key {truth!r}",
                given_names=names,
                truth_names=names,
                remedy=f"Its keys are {', '.join(keys)}; name the labels `labels`.",
            )
        return assemble(raw, options)


class Npy(DataSource):
    """An `.npy` file of inputs, with labels passed in or lying beside it in `NAME_labels.npy`."""

    name: ClassVar[str] = "npy"
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    takes: ClassVar[frozenset[str]] = frozenset({"labels"})

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` names an .npy file."""
        return has_suffix(data, cls.suffixes)

    def read(self, data: object, options: Options) -> Source:
        """Read the inputs as far as they are kept, and the labels beside them."""
        path = at_home(str(data))
        beside = path.with_name(f"{path.stem}_labels.npy")
        labels, title = options.labels, "the labels"
        if labels is None and beside.exists():
            labels, title = _load(beside), f"the file {beside}"
        inputs = _load(path, mmap_mode="r")
        raw = Raw(
            name=path.stem,
            place=f"the file {path}",
            ids=np.arange(len(inputs)),
            inputs=inputs,
            given=labels,
            given_title=title,
            remedy=f"Put them beside it as {beside.name}, or pass labels=.",
        )
        return assemble(raw, options)


def _load(path: Path, mmap_mode: Any = None) -> Any:
    try:
        with reading(path):
            found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except UserError:
        raise
    # NumPy takes whatever it does not know for a pickle, and advises to load it unsafely.
    except ValueError as error:
        raise UserError(
            f"cannot read {path}: it is no NumPy file, or it holds Python objects. Save plain "
            f"arrays with numpy.save or numpy.savez."
        ) from error
    except (EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {path} as a NumPy file: {first_line(error)}. Write or copy it again."
        ) from error
    if isinstance(found, np.ndarray) and found.ndim == 0:
        raise UserError(f"{path} holds a single number, not one row a sample.")
    return found


def loaded(path: Path) -> Any:
    """An open archive of arrays, for `with`.

    Raises:
        UserError: the file is none, or damaged.
    """
    found = _load(path)
    if isinstance(found, np.ndarray):
        raise UserError(f"{path} is a single array: rename it to .npy.")
    return found


def _array(path: Path, arrays: Any, key: str) -> np.ndarray:
    try:
        found = np.asarray(arrays[key])
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot read {key!r} of {path}: {first_line(error)}. The file is damaged: write or "
            f"copy it again."
        ) from error
    except ValueError as error:
        raise UserError(
            f"cannot read {key!r} of {path}: it holds Python objects, or is damaged. Save plain "
            f"numbers or text."
        ) from error
    if found.ndim == 0:
        raise UserError(f"{key!r} of {path} is a single value, not one row a sample.")
    return found.astype(object) if found.dtype.kind == "U" else found


def _names(path: Path, arrays: Any) -> Sequence[str]:
    return [str(name) for name in _array(path, arrays, "classes").tolist()]


def _first(keys: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((key for key in wanted if key in keys), None)


def _named(path: Path, keys: Sequence[str], name: str | None) -> str | None:
    if name is not None and name not in keys:
        raise NoColumn(
            f"{path} has no key {name!r}.{nearest(name, keys)} Its keys are {', '.join(keys)}."
        )
    return name
