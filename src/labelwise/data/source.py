"""What a data source is: one class in one file of `labelwise.data.sources`, found by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from labelwise.data.dataset import Source
from labelwise.data.decode import Encoded
from labelwise.data.files import at_home
from labelwise.errors import UserError

OnBadImage = Literal["error", "skip"]
SMALLEST_IMAGE, LARGEST_IMAGE = 4, 1024


@dataclass(frozen=True)
class Options:
    """How a source is to be read; see `labelwise.data.load.load` for each field.

    Args:
        rows: row numbers, rising, of the samples to keep (`load_rows`); None keeps all.
        inputs: False leaves the inputs out (`load_labels`): they become embeddings (N, 0).
    """

    labels: object | None = None
    truth: object | None = None
    label_column: str | None = None
    truth_column: str | None = None
    image_size: int | None = None
    on_bad_image: OnBadImage = "error"
    limit: int | None = None
    seed: int = 0
    classes: tuple[str, ...] | None = None
    require_labels: bool = True
    channels: int | None = None
    rows: np.ndarray | None = None
    inputs: bool = True

    def check(self) -> None:
        """Raise a `UserError` for a value out of range."""
        size = self.image_size
        if size is not None and not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
            raise UserError(
                f"image size {size} is out of range: give a side of "
                f"{SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels."
            )
        if self.limit is not None and self.limit < 2:
            raise UserError(f"limit {self.limit} is too small: keep at least 2 samples.")
        if self.on_bad_image not in ("error", "skip"):
            raise UserError(f"on_bad_image is {self.on_bad_image!r}: give 'error' or 'skip'.")
        if self.channels not in (None, 1, 3):
            raise UserError(f"channels is {self.channels}: give 1 (grey) or 3 (colour).")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise UserError("the given class list names a class twice; give each class once.")

    @property
    def labels_asked_for(self) -> bool:
        """Whether the caller needs labels, so that unusable ones are an error."""
        explicit = self.label_column is not None or self.labels is not None
        return self.require_labels or explicit


@dataclass(frozen=True)
class Raw:
    """What a source found, before labels are encoded and images decoded.

    Args:
        name: short name for logs and the report.
        place: where it was found, as messages name it ("the file x.csv").
        ids: N identifiers, str (object array) or int.
        inputs: an array (N, ...) of pixels or embeddings, or a function from chosen rows (M) to
            their M encoded images in that order, so that only what is kept is ever decoded.
        given: N given labels of any form, or None.
        truth: N true labels of any form, or None.
        given_title: what messages call the given labels ("column 'label'").
        truth_title: what messages call the true labels.
        given_names: class names for integer given labels that are positions in this list.
        truth_names: the same for the true labels.
        flip: whether a horizontal flip leaves an image's class unchanged.
        notes: remarks for the user.
        remedy: what to do when there are no labels.
    """

    name: str
    place: str
    ids: np.ndarray
    inputs: np.ndarray | Callable[[np.ndarray], Iterable[Encoded]]
    given: object | None = None
    truth: object | None = None
    given_title: str = "the labels"
    truth_title: str = "the true labels"
    given_names: Sequence[str] | None = None
    truth_names: Sequence[str] | None = None
    flip: bool = True
    notes: tuple[str, ...] = ()
    remedy: str = "Pass the labels."


class DataSource(ABC):
    """A kind of data `load` understands. A new kind is one new file with one subclass.

    Class attributes:
        name: what messages call this kind.
        suffixes: file endings it reads (lower case); empty when it reads no single file.
        takes: the options among `labels`, `label_column`, `truth_column` that mean something here.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def matches(cls, data: object) -> bool:
        """Whether this kind reads `data`; looks at its type and name, never at its content."""

    @abstractmethod
    def read(self, data: object, options: Options) -> Source:
        """Read `data`.

        Raises:
            UserError: the data cannot be used; the message says where, why and what to do.
        """


def has_suffix(data: object, suffixes: tuple[str, ...]) -> bool:
    """Whether `data` is a path with one of these endings (and not a folder named like one)."""
    if not isinstance(data, str | Path):
        return False
    path = at_home(data)
    return path.suffix.lower() in suffixes and not path.is_dir()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about `path` into messages for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except PermissionError as error:
        blocked = error.filename or path
        raise UserError(f"no permission to read {blocked}. Change its permissions.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
