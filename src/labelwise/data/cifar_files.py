"""What the files of CIFAR-10 and CIFAR-100 are called, and their bytes from folder or archive."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from labelwise.data.source import reading
from labelwise.data.wording import first_line, quoted
from labelwise.errors import UserError

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True)
class Layout:
    """How one of the four archives is laid out.

    Args:
        folder: name of the folder.
        archive: name of the archive.
        train: names of the training files.
        test: name of the test file.
        meta: files with the class names: fine, then coarse; one pickle of both.
        num_classes: K.
        binary: records of label bytes and pixels, rather than pickles.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: tuple[str, ...]
    num_classes: int
    binary: bool

    @property
    def files(self) -> frozenset[str]:
        """The files that can be read by themselves."""
        return frozenset((*self.train, self.test))


LAYOUTS = (
    Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"{name}.bin" for name in BATCHES),
        "test_batch.bin",
        ("batches.meta.txt",),
        10,
        binary=True,
    ),
    Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        BATCHES,
        "test_batch",
        ("batches.meta",),
        10,
        binary=False,
    ),
    Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        ("train.bin",),
        "test.bin",
        ("fine_label_names.txt", "coarse_label_names.txt"),
        100,
        binary=True,
    ),
    Layout(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        ("train",),
        "test",
        ("meta",),
        100,
        binary=False,
    ),
)


@dataclass(frozen=True)
class Asked:
    """What a path asks for.

    Args:
        layout: how it is laid out.
        root: the folder or archive that holds the files.
        files: those to read, in order.
    """

    layout: Layout
    root: Path
    files: tuple[str, ...]

    @property
    def training(self) -> bool:
        """Whether these are all training files, which is what label files belong to."""
        return self.files == self.layout.train

    @property
    def beside(self) -> Path:
        """The folder of further label files: that of the batches, or where the archive lies."""
        return self.root.parent if self.archived else self.root

    @property
    def archived(self) -> bool:
        """Whether the files are in an archive that is not unpacked."""
        return self.root.name == self.layout.archive and self.root.is_file()


def asked_for(path: Path) -> Asked | None:
    """What a path asks for, by its name; None where that is none of the names."""
    for layout in LAYOUTS:
        if path.name in (layout.folder, layout.archive):
            return Asked(layout, path, layout.train)
        # "test" and "train" are names of many things, such as folders of class folders: elsewhere
        # only a file is meant.
        inside = path.parent.name in (layout.folder, layout.archive) and not path.is_dir()
        if path.name in layout.files and (inside or path.is_file()):
            return Asked(layout, path.parent, (path.name,))
    return None


def contents(asked: Asked) -> dict[str, bytes]:
    """The bytes of the files that are needed, by name.

    Raises:
        UserError: some are not there.
    """
    layout, root = asked.layout, asked.root
    wanted = (*asked.files, *layout.meta)
    if not root.exists():
        raise UserError(
            f"{root} does not exist. labelwise downloads nothing: get {layout.archive} from {HOME}."
        )
    if asked.archived:
        found = _unpacked(root, wanted)
    else:
        with reading(root):
            present = [name for name in wanted if (root / name).is_file()]
            found = {name: (root / name).read_bytes() for name in present}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{root} lacks {quoted(missing, 6)}: unpack {layout.archive} again, or copy "
            f"{'it' if len(missing) == 1 else 'them'} there ({HOME})."
        )
    return found


def _unpacked(archive: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Read files of a .tar.gz into memory; nothing is written to the disk."""
    found = {}
    try:
        with reading(archive), tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                file = tar.extractfile(member) if member.isfile() and name in wanted else None
                if file is not None:
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"cannot read {archive}: {first_line(error)}. Download it again ({HOME})."
        ) from error
    return found
