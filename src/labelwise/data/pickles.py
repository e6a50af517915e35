"""Pickled arrays from elsewhere, read so that no code of the file can run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from labelwise.data.wording import first_line
from labelwise.errors import UserError


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them in old protocols; any other codec is refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the codec {encoding!r} is not read")
    return text.encode("latin1")


REBUILD: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
"""The function by which NumPy's pickles make an array; its module differs between versions."""
FROM_BUFFER: Callable[..., Any] = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[assignment]
ALLOWED: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": REBUILD,
    "numpy._core.multiarray._reconstruct": REBUILD,
    "numpy.core.numeric._frombuffer": FROM_BUFFER,
    "numpy._core.numeric._frombuffer": FROM_BUFFER,
    "builtins.bytearray": bytearray,
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
        return _Restricted(io.BytesIO(content), encoding="bytes").load()
    except UserError as error:
        raise UserError(
            f"{where} is not read: {error}, and only plain arrays, lists, dictionaries, text and "
            "numbers are, because a pickle can run any code. Get the file from its own source."
        ) from None
    except Exception as error:  # what a damaged pickle raises has no common base
        raise UserError(
            f"cannot read {where} as a pickle: {first_line(error)}. Copy or unpack it again."
        ) from error
