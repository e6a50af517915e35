"""Further labels in files beside a data set: NAME.npy, NAME.txt, and those of CIFAR-N."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from labelwise.data.pickles import ARRAYS, StoredArray, StoredKind, plain
from labelwise.data.source import reading
from labelwise.data.wording import first_line
from labelwise.errors import UserError

CIFAR_N: dict[int, tuple[str, dict[str, str]]] = {
    10: (
        "CIFAR-10_human.pt",
        {
            "human_aggregate": "aggre_label",
            "human_worst": "worse_label",
            **{f"human_random{number}": f"random_label{number}" for number in (1, 2, 3)},
        },
    ),
    100: ("CIFAR-100_human.pt", {"human": "noisy_label"}),
}
"""By the number of classes: the file of CIFAR-N, and its labels by our names (arXiv 2110.12088)."""
CLEAN = "clean_label"
SAFE: list[Any] = [StoredArray, StoredKind, *((made, name) for name, made in ARRAYS.items())]
"""What a file of arrays may name when PyTorch reads it; anything else is refused."""


def label_names(folder: Path, num_classes: int, but: frozenset[str]) -> list[str]:
    """Names of the label columns that lie in a folder.

    Args:
        folder: where the data are.
        num_classes: K, which tells which file of CIFAR-N belongs to the data.
        but: names of files that hold no labels.
    """
    found = []
    with reading(folder):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".npy", ".txt") and path.name not in but:
                found.append(path.stem)
            if path.name == CIFAR_N[num_classes][0]:
                found += CIFAR_N[num_classes][1]
    return found


def read_labels_beside(
    folder: Path, name: str, num_classes: int, truth: np.ndarray
) -> tuple[Any, str] | None:
    """Labels of a name from the files in a folder.

    Args:
        folder: where the data are.
        name: of the column: NAME of NAME.npy or NAME.txt, ours of CIFAR-N, or its own.
        num_classes: K.
        truth: true labels (N), to see that those of CIFAR-N are in the same order.

    Returns:
        N labels (numbers are positions among the classes), and what messages call them; None
        where there are none of that name.

    Raises:
        UserError: a file that cannot be read.
    """
    for suffix, read in ((".npy", _read_npy), (".txt", _read_txt)):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return read(path), f"the file {path}"
    file, ours = CIFAR_N[num_classes]
    path = folder / file
    if not path.is_file():
        return None
    columns = _read_cifar_n(path)
    key = ours.get(name, name)
    if key not in columns:
        return None
    clean = columns.get(CLEAN)
    if clean is not None and not np.array_equal(np.asarray(clean), truth):
        raise UserError(
            f"{path}: its {CLEAN} is not that of the batches, row by row: the images are in "
            "another order, or not all there. Use the unchanged files of both."
        )
    return columns[key], f"{key!r} of {path}"


def _read_npy(path: Path) -> np.ndarray:
    try:
        with reading(path), path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
    except UserError:
        raise
    except (ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"cannot read {path} as labels: {first_line(error)}. Save whole numbers or text with "
            "numpy.save."
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        raise UserError(f"{path} is not an array of one label a sample.")
    return found.astype(object) if found.dtype.kind == "U" else found


def _read_txt(path: Path) -> list[Any]:
    """One label per line; whole numbers are numbers if every line is one."""
    try:
        with reading(path):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}.") from error
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    try:
        return [int(line) for line in lines]
    except ValueError:
        return lines


def _read_cifar_n(path: Path) -> Mapping[str, Any]:
    """The dictionary of a CIFAR-N file; nothing but arrays is read from it."""
    try:
        with reading(path), torch.serialization.safe_globals(SAFE):
            found = plain(torch.load(path, map_location="cpu", weights_only=True))
    except UserError:
        raise
    except Exception as error:  # what a damaged pickle raises has no common base
        raise UserError(
            f"cannot read {path}: {first_line(error)}. It must be the file of CIFAR-N as it is "
            "given out (github.com/UCSC-REAL/cifar-10-100n): download it again."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not label columns by name.")
    return {str(name): values for name, values in found.items()}
