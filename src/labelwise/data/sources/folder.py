"""A folder with one sub-folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from labelwise.data.assemble import assemble
from labelwise.data.dataset import Source
from labelwise.data.decode import Encoded
from labelwise.data.files import at_home
from labelwise.data.source import DataSource, Options, Raw, reading
from labelwise.data.wording import few, plural, quoted
from labelwise.errors import UserError

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


class Folder(DataSource):
    """Class folders; the sub-folder's name is the label, the path below the folder is the id."""

    name: ClassVar[str] = "folder"

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` names a folder."""
        return isinstance(data, str | Path) and at_home(data).is_dir()

    def read(self, data: object, options: Options) -> Source:
        """Read all images below the class folders, or a flat folder when no labels are needed."""
        root = at_home(str(data))
        with reading(root):
            found = _walk(root)
        if not found.images:
            raise UserError(
                f"the folder {root} holds no images{_others(found)}. Images end in "
                f"{', '.join(IMAGE_SUFFIXES)}; put those of a class into one sub-folder."
            )
        labels = _labels(root, found, options)
        raw = Raw(
            name=root.resolve().name or "folder",
            place=f"the folder {root}",
            ids=_objects(found.images),
            inputs=_Files(root, found.images),
            given=None if labels is None else _objects(labels),
            given_title="the class folders",
            notes=tuple(_notes(found)),
            remedy="Put the images of each class into one sub-folder named after the class.",
        )
        return assemble(raw, options)


@dataclass
class _Found:
    """What lies in a folder, as sorted paths relative to it ("cat/a/1.png").

    Args:
        images: files that end like an image.
        others: other files, hidden ones excepted.
        folders: sub-folders at the top.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Files:
    """The images of a folder, opened when they are decoded."""

    root: Path
    names: list[str]

    def __call__(self, rows: np.ndarray) -> Iterable[Encoded]:
        paths = (self.root / self.names[row] for row in rows)
        return (Encoded(str(path), path) for path in paths)


def _walk(root: Path) -> _Found:
    """Find all files, following links but no folder twice (a link may point to its parent)."""
    found = _Found()
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for folder, children, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        children[:] = sorted(child for child in children if not child.startswith("."))
        below = Path(folder).relative_to(root)
        if below == Path("."):
            found.folders = list(children)
        for name in files:
            if name.startswith("."):
                continue
            is_image = Path(name).suffix.lower() in IMAGE_SUFFIXES
            (found.images if is_image else found.others).append((below / name).as_posix())
    found.images.sort()
    found.others.sort()
    return found


def _labels(root: Path, found: _Found, options: Options) -> list[str] | None:
    """Return each image's class folder; drops images beside the class folders from `found`."""
    flat = [name for name in found.images if "/" not in name]
    if not flat:
        return [name.split("/", 1)[0] for name in found.images]
    if not options.require_labels:
        return None
    if len(flat) == len(found.images):
        raise UserError(
            f"the images of {root} lie directly in the folder, so they have no labels. Put the "
            f"images of each class into a sub-folder named after it, or list them with their "
            f"labels in a csv file (columns `image` and `label`)."
        )
    found.others += flat
    found.images = [name for name in found.images if "/" in name]
    return [name.split("/", 1)[0] for name in found.images]


def _notes(found: _Found) -> list[str]:
    notes = []
    if found.others:
        notes.append(
            f"{plural(len(found.others), 'file')} ignored (no image, or in no class folder): "
            f"{few(found.others, len(found.others))}"
        )
    used = {name.split("/", 1)[0] for name in found.images}
    empty = [name for name in found.folders if name not in used]
    if empty:
        notes.append(f"{plural(len(empty), 'sub-folder')} without images: {quoted(empty)}")
    return notes


def _others(found: _Found) -> str:
    if not found.others:
        return ""
    return f" (only {plural(len(found.others), 'other file')}, such as {found.others[0]})"


def _objects(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=object)
