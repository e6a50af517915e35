"""Pickled arrays from elsewhere, read so that no code of the file can run.

NumPy's own functions are not handed to the file either: an array of objects made from its bytes is
pointers to anywhere. What stands in for them below checks what a file says of an array first.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from labelwise.data.wording import first_line
from labelwise.errors import UserError

CODE = re.compile(r"b1|[iufSU][1-9][0-9]{0,8}")
"""How plain values are called: booleans, whole numbers, floats, bytes and text of some size."""


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"{what} is not read, only plain arrays are")


class StoredKind:
    """Stands in for NumPy's dtype: the kind of plain values that a pickle names.

    Args:
        code: such as "u1"; bytes in files of Python 2.
        options: whether to align and copy, which change nothing.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *options: Any) -> None:
        del options
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not CODE.fullmatch(text):
            raise _refused(f"an array of the kind {str(text)[:20]!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; a dtype with fields, or of another size than its code's, is none."""
        version, order, *parts, size, _, _ = state
        byte_order: Any = order.decode("latin1") if isinstance(order, bytes) else order
        whole = len(parts) == 3 and all(part is None for part in parts)
        if version != 3 or not whole or size not in (-1, self.dtype.itemsize):
            raise _refused("an array of another kind than numbers or text")
        self.dtype = self.dtype.newbyteorder(byte_order)


class StoredArray:
    """Stands in for an array while a pickle is read; `plain` puts the array in its place."""

    __slots__ = ("values",)
    __hash__ = None  # type: ignore[assignment]  # no key or set member: `plain` finds them all

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Make the array of a version, shape, kind, order and bytes."""
        version, shape, kind, fortran, content = state
        if version != 1:
            raise _refused(f"an array of version {str(version)[:20]}")
        self.values = _array(content, kind, shape, "F" if fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    """An array on bytes of its own, of a kind and shape that fit them."""
    if type(content) is not bytes or type(kind) is not StoredKind:
        raise _refused("an array of anything but bytes")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _refused(f"an array of the shape {str(shape)[:40]}")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError("an array holds other bytes than its shape says")
    if kind.dtype.kind == "U" and content:
        characters = np.frombuffer(content, np.dtype("u4").newbyteorder(kind.dtype.byteorder))
        if characters.max() > sys.maxunicode:
            raise pickle.UnpicklingError("an array holds characters that do not exist")
    layout: Literal["C", "F"] = "F" if order == "F" else "C"
    return np.ndarray(tuple(shape), kind.dtype, bytearray(content), order=layout)


def _ndarray(*anything: Any) -> None:
    """What `_reconstruct` is told to make; nothing is made of it directly."""
    del anything
    raise _refused("an array by its constructor")


def _reconstruct(kind: Any, *options: Any) -> StoredArray:
    """An array that its state will fill, as all but the newest pickles have it."""
    del options
    if kind is not _ndarray:
        raise _refused("another array than NumPy's")
    return StoredArray()


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> StoredArray:
    """An array on bytes, as pickles of protocol 5 have it."""
    if type(content) not in (bytes, bytearray):
        raise _refused("an array of anything but bytes")
    made = StoredArray()
    made.values = _array(bytes(content), kind, shape, order)
    if order == "K" and axes is not None:
        made.values = made.values.transpose(axes)
    return made


def _bytearray(content: Any = b"") -> bytearray:
    """Bytes that can change; a number, which would be how many zeros, is refused."""
    if type(content) is not bytes:
        raise _refused("a bytearray of anything but bytes")
    return bytearray(content)


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them in old protocols; any other codec is refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the codec {encoding!r} is not read")
    return text.encode("latin1")


ARRAYS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": StoredKind,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
}
"""What stands in for NumPy's functions, whose modules differ between versions."""
ALLOWED: dict[str, Callable[..., Any]] = {
    **ARRAYS,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _latin1,
}
"""All that a pickle may name; lists, dictionaries, text and numbers need no name."""


class _Restricted(pickle.Unpickler):
    """Reads arrays and plain containers, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """One of `ALLOWED`, or an error before anything is imported."""
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise UserError(f"it names {module}.{name}") from None


def plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """What was read, with arrays where `StoredArray` stood in for them.

    Args:
        value: an array, or dictionaries, lists and tuples with arrays in them.
        done: containers that were seen already, by identity: each is gone through once.

    Raises:
        UnpicklingError: an array whose content is missing.
    """
    done = {} if done is None else done
    if isinstance(value, StoredArray):
        if value.values is None:
            raise pickle.UnpicklingError("the content of an array is missing")
        return value.values
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: plain(part, done) for key, part in value.items()}
        else:
            parts = [plain(part, done) for part in value]
            done[id(value)] = parts if isinstance(value, list) else tuple(parts)
    return done[id(value)]


def read_pickle(content: bytes, where: str) -> Any:
    """Read a pickle of arrays, bytes, lists, dictionaries, text and numbers.

    Text of Python 2 is read as bytes.

    Args:
        content: the file's bytes.
        where: what messages call the file.

    Raises:
        UserError: anything else is in it, or it is damaged.
    """
    try:
        return plain(_Restricted(io.BytesIO(content), encoding="bytes").load())
    except UserError as error:
        raise UserError(
            f"{where} is not read: {error}, and only plain arrays, lists, dictionaries, text and "
            "numbers are, because a pickle can run any code. Get the file from its own source."
        ) from None
    except Exception as error:  # what a damaged pickle raises has no common base
        raise UserError(
            f"cannot read {where} as a pickle: {first_line(error)}. Copy or unpack it again."
        ) from error
