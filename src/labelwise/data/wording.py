"""How rows, values and counts are put into messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

SHOWN = 3


def few(items: Iterable[str], total: int, shown: int = SHOWN) -> str:
    """Join the first `shown` of `total` items, and say how many more there are."""
    text = ", ".join(islice(items, shown))
    return f"{text} and {total - shown:,} more" if total > shown else text


def quoted(items: Sequence[str], shown: int = SHOWN) -> str:
    """Join the first `shown` names in quotes, and say how many more there are."""
    return few((repr(item) for item in items), len(items), shown)


def place(row: int, ids: np.ndarray) -> str:
    """Name one row (counted from 0), with its id where that says more than the row number."""
    identifier = ids[row]
    plain = identifier.item() if isinstance(identifier, np.generic) else identifier
    return f"row {row}" if plain == row else f"row {row} (id {plain!r})"


def places(rows: np.ndarray, ids: np.ndarray) -> str:
    """Name the first few of `rows` (counted from 0), and say how many more there are."""
    return few((place(int(row), ids) for row in rows), len(rows))


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def plural(count: int, one: str, many: str = "") -> str:
    """Return "1 image" or "3 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
