"""What data are: a digest of their contents, and the columns of labels that they have."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from labelwise.data.files import at_home
from labelwise.data.sources.cifar import Cifar
from labelwise.errors import UserError, nearest

BUILT_IN = ("digits",)


def identity_of(data: str) -> str:
    """A digest that data of equal contents share, wherever they lie.

    Of a file it is the SHA-256 of its bytes; of a folder, that of the names and sizes of its files;
    of a file in an archive (`cifar-10-python.tar.gz/test_batch`), that of the archive and its name.

    Raises:
        UserError: they do not exist or cannot be read.
    """
    if data in BUILT_IN:
        return data
    path = at_home(data)
    if path.parent.is_file() and Cifar.matches(data):
        return f"{identity_of(str(path.parent))}/{path.name}"
    if not path.exists():
        beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path} does not exist.{nearest(path.name, beside)}")
    try:
        if path.is_dir():
            return _of_folder(path)
        status = path.stat()
        return _of_file(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


@cache
def _of_file(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_folder(path: Path) -> str:
    found = hashlib.sha256()
    for folder, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = Path(folder, name)
            found.update(f"{file.relative_to(path)}\0{file.stat().st_size}\n".encode())
    return found.hexdigest()


def columns_of(data: str) -> tuple[str, ...] | None:
    """Columns of a manifest, keys of an .npz; none for other data; None where it is not known.

    Raises:
        UserError: the file cannot be read.
    """
    path = at_home(data)
    if data in BUILT_IN:
        return ()
    if Cifar.matches(data):  # label files may lie beside the batches
        return None
    if path.is_dir():
        return ()
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        from labelwise.data.tables import CsvTable

        return tuple(CsvTable(path).columns)
    if suffix == ".parquet":
        from labelwise.data.tables import ParquetTable

        return tuple(ParquetTable(path).columns)
    if suffix == ".npz":
        from labelwise.data.sources.npz import loaded

        with loaded(path) as arrays:
            return tuple(arrays.files)
    return None
