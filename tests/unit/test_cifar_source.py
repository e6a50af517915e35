"""The original files of CIFAR, rebuilt small in their true formats."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labelwise.config import RunConfig
from labelwise.data.load import load, load_labels, load_rows
from labelwise.data.pickles import read_pickle
from labelwise.data.source import Options
from labelwise.data.sources.cifar import Cifar
from labelwise.data.sources.folder import Folder
from labelwise.errors import NoColumn, UserError
from labelwise.experiment import prepare
from labelwise.running import place

NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
FINE = [f"fine_{number:03}" for number in range(100)]
COARSE = [f"coarse_{number:02}" for number in range(20)]
EACH = 12  # images of a CIFAR-10 batch
MANY = 200  # images of CIFAR-100's training file


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels_of(count: int, num_classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).permutation(count) % num_classes


def binary(columns: list[np.ndarray], data: np.ndarray) -> bytes:
    """Records of label bytes and 3,072 pixels."""
    return b"".join(
        bytes(int(column[row]) for column in columns) + data[row].tobytes()
        for row in range(len(data))
    )


def pickled(content: dict[bytes, Any]) -> bytes:
    return pickle.dumps(content, protocol=2)


def cifar10(folder: Path, kind: str) -> np.ndarray:
    """Write CIFAR-10 as "bin" or "py"; returns the true labels of the training images."""
    folder.mkdir()
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    for seed, name in enumerate([*batches, "test_batch"]):
        data, labels = pixels(EACH, seed), labels_of(EACH, 10, seed)
        if kind == "bin":
            (folder / f"{name}.bin").write_bytes(binary([labels], data))
        else:
            batch = {b"data": data, b"labels": labels.tolist(), b"batch_label": b"of 5"}
            (folder / name).write_bytes(pickled(batch))
    if kind == "bin":
        (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    else:
        meta = {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
        (folder / "batches.meta").write_bytes(pickled(meta))
    return np.concatenate([labels_of(EACH, 10, seed) for seed in range(5)])


def cifar100(folder: Path, kind: str) -> None:
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", MANY), ("test", 100))):
        data, fine = pixels(count, seed), labels_of(count, 100, seed)
        if kind == "bin":
            (folder / f"{name}.bin").write_bytes(binary([fine // 5, fine], data))
        else:
            coarse = (fine // 5).tolist()
            batch = {b"data": data, b"fine_labels": fine.tolist(), b"coarse_labels": coarse}
            (folder / name).write_bytes(pickled(batch))
    if kind == "bin":
        (folder / "fine_label_names.txt").write_text("\n".join(FINE))
        (folder / "coarse_label_names.txt").write_text("\n".join(COARSE))
    else:
        names = {b"fine_label_names": FINE, b"coarse_label_names": COARSE}
        (folder / "meta").write_bytes(pickled(names))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "cifar-10-batches-bin": lambda folder: cifar10(folder, "bin"),
    "cifar-10-batches-py": lambda folder: cifar10(folder, "py"),
    "cifar-100-binary": lambda folder: cifar100(folder, "bin"),
    "cifar-100-python": lambda folder: cifar100(folder, "py"),
}
ARCHIVES = {
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
}
TESTS = {
    "cifar-10-batches-bin": "test_batch.bin",
    "cifar-10-batches-py": "test_batch",
    "cifar-100-binary": "test.bin",
    "cifar-100-python": "test",
}


def archived(folder: Path) -> Path:
    path = folder.parent / ARCHIVES[folder.name]
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return path


@pytest.fixture(params=sorted(FOLDERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    FOLDERS[path.name](path)
    return path


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    path = tmp_path / "cifar-10-batches-bin"
    cifar10(path, "bin")
    return path


def many(path: Path) -> bool:
    return "100" in str(path.name)


def test_a_folder_is_the_training_set_with_its_true_labels(folder: Path) -> None:
    found = load(folder)
    count, classes = (MANY, FINE) if many(folder) else (5 * EACH, NAMES)
    assert found.data.shape == (3, 32, 32)
    assert found.data.classes == tuple(classes)
    assert found.data.ids.tolist() == list(range(count))
    assert found.truth is not None
    assert torch.equal(found.truth.labels, found.data.labels)
    seeds = range(1 if many(folder) else 5)
    each = MANY if many(folder) else EACH
    wanted = np.concatenate([labels_of(each, len(classes), seed) for seed in seeds])
    assert found.data.labels.tolist() == wanted.tolist()
    # Red first, row by row: record byte c * 1024 + 32 * y + x is channel c of pixel (y, x).
    data = np.concatenate([pixels(each, seed) for seed in seeds])
    for row, channel, y, x in ((0, 0, 0, 1), (7, 1, 3, 30), (count - 1, 2, 31, 31)):
        byte = data[row, channel * 1024 + 32 * y + x]
        assert int(found.data.inputs[row, channel, y, x]) == byte
    assert np.array_equal(found.data.inputs.numpy().reshape(count, -1), data)
    assert found.data.flip
    assert f"{count} images, where there should be 50,000" in found.data.notes


def test_an_archive_reads_like_the_folder_and_leaves_nothing_behind(folder: Path) -> None:
    wanted = load(folder)
    archive = archived(folder)
    before = sorted(folder.parent.rglob("*"))
    found = load(archive)
    assert torch.equal(found.data.inputs, wanted.data.inputs)
    assert torch.equal(found.data.labels, wanted.data.labels)
    classes = wanted.data.classes
    inner = load(archive / TESTS[folder.name], classes=classes)
    test = load(folder / TESTS[folder.name], classes=classes)
    assert torch.equal(inner.data.inputs, test.data.inputs)
    assert torch.equal(inner.data.labels, test.data.labels)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_single_file_is_the_test_set(folder: Path) -> None:
    train = load(folder)
    test = load(folder / TESTS[folder.name], classes=train.data.classes)
    seed, count = (1, 100) if many(folder) else (5, EACH)
    assert test.data.labels.tolist() == labels_of(count, train.data.num_classes, seed).tolist()
    assert np.array_equal(test.data.inputs.numpy().reshape(count, -1), pixels(count, seed))


def test_one_training_batch_can_be_read_alone(ten: Path) -> None:
    found = load(ten / "data_batch_3.bin")
    assert found.data.labels.tolist() == labels_of(EACH, 10, 2).tolist()


def test_binary_and_python_files_hold_the_same(tmp_path: Path) -> None:
    for kind in ("bin", "py"):
        cifar10(tmp_path / f"cifar-10-batches-{kind}", kind)
    one, two = (load(tmp_path / f"cifar-10-batches-{kind}") for kind in ("bin", "py"))
    assert one.data.input_hash() == two.data.input_hash()
    assert one.data.label_hash() == two.data.label_hash()


def test_coarse_labels_are_given_and_true_labels(tmp_path: Path) -> None:
    for kind, name in (("bin", "cifar-100-binary"), ("py", "cifar-100-python")):
        cifar100(tmp_path / name, kind)
        found = load(tmp_path / name, label_column="coarse")
        assert found.data.classes == tuple(COARSE)
        assert found.data.labels.tolist() == (labels_of(MANY, 100, 0) // 5).tolist()
        assert found.truth is not None
        assert torch.equal(found.truth.labels, found.data.labels)
    assert load(tmp_path / name, label_column="fine").data.classes == tuple(FINE)


def test_labels_alone_rows_alone_and_other_sizes(ten: Path) -> None:
    alone = load_labels(ten)
    assert alone.data.inputs.shape == (5 * EACH, 0)
    assert torch.equal(alone.data.labels, load(ten).data.labels)
    rows = np.array([3, 17, 40])
    some = load_rows(ten, rows)
    assert torch.equal(some.data.inputs, load(ten).data.inputs[rows])
    assert load(ten, image_size=16).data.shape == (3, 16, 16)
    assert len(load(ten, limit=20).data) == 20


@pytest.mark.parametrize("text", [True, False])
def test_labels_lie_beside_the_batches_as_npy(ten: Path, text: bool) -> None:
    truth = load(ten).data.labels.numpy()
    noisy = (truth + (np.arange(len(truth)) % 4 == 0)) % 10
    values = np.array(NAMES)[noisy] if text else noisy.astype(np.uint8)
    np.save(ten / "semantic_resnet.npy", values)
    found = load(ten, label_column="semantic_resnet")
    assert found.data.classes == tuple(NAMES)
    assert found.data.labels.tolist() == noisy.tolist()
    assert found.truth is not None
    assert found.truth.labels.tolist() == truth.tolist()


@pytest.mark.parametrize("text", [True, False])
def test_labels_lie_beside_the_batches_as_lines(ten: Path, text: bool) -> None:
    truth = load(ten).data.labels.numpy()
    noisy = np.roll(truth, 1)
    lines = [NAMES[label] if text else str(label) for label in noisy]
    (ten / "crowd.txt").write_text("\n".join(lines) + "\n")
    assert load(ten, label_column="crowd").data.labels.tolist() == noisy.tolist()


def test_labels_lie_beside_an_archive(ten: Path) -> None:
    archive = archived(ten)
    truth = load(ten).data.labels.numpy()
    np.save(archive.parent / "mine.npy", truth[::-1])
    assert load(archive, label_column="mine").data.labels.tolist() == truth[::-1].tolist()


def test_labels_lie_beside_batches_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "c100"
    cifar100(folder, "bin")
    truth = load(folder / "train.bin").data.labels.numpy()
    np.save(tmp_path / "mine.npy", np.roll(truth, 2))
    with pytest.raises(NoColumn):
        load(folder / "train.bin", label_column="mine")  # that one lies elsewhere
    np.save(folder / "mine.npy", np.roll(truth, 1))
    found = load(folder / "train.bin", label_column="mine")
    assert found.data.labels.tolist() == np.roll(truth, 1).tolist()


def cifar_n(path: Path, truth: np.ndarray, old: bool, **more: Any) -> dict[str, np.ndarray]:
    """Write labels as CIFAR-N gives them out; `old`: as an older NumPy named its functions."""
    keys = ["aggre_label", "worse_label", *(f"random_label{number}" for number in (1, 2, 3))]
    if "100" in path.name:
        keys = ["noisy_label"]
    columns = {key: (truth + place) % 10 for place, key in enumerate(keys, start=1)}
    torch.save({"clean_label": truth, **columns, **more}, path)
    if old:
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content.replace(b"numpy._core", b"numpy.core"))
    return columns


@pytest.mark.parametrize("old", [False, True])
def test_cifar_n_is_read_by_our_names_and_by_its_own(ten: Path, old: bool) -> None:
    truth = load(ten).data.labels.numpy()
    columns = cifar_n(ten / "CIFAR-10_human.pt", truth, old)
    ours = {
        "human_aggregate": "aggre_label",
        "human_worst": "worse_label",
        "human_random1": "random_label1",
        "human_random3": "random_label3",
    }
    for name, key in ours.items():
        for column in (name, key):
            assert load(ten, label_column=column).data.labels.tolist() == columns[key].tolist()


def test_cifar_100n_and_its_coarse_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    cifar100(folder, "bin")
    truth = load(folder).data.labels.numpy()
    path = folder / "CIFAR-100_human.pt"
    cifar_n(path, truth, old=False, noisy_coarse_label=np.roll(truth, 5) // 5)
    assert load(folder, label_column="human").data.labels.tolist() == ((truth + 1) % 10).tolist()
    coarse = load(folder, label_column="noisy_coarse_label")
    assert coarse.data.labels.tolist() == (np.roll(truth, 5) // 5).tolist()
    assert coarse.truth is not None
    assert coarse.truth.labels.tolist() == (truth // 5).tolist()


def test_a_run_knows_the_truth_and_tests_on_the_test_file(ten: Path) -> None:
    noisy = RunConfig(data=str(ten), test=str(ten / "test_batch.bin"), noise="symmetric:0.5")
    prepared = prepare(noisy)
    assert prepared.truth is not None
    assert prepared.noise is not None
    wrong = float((prepared.train.labels != prepared.truth.labels).double().mean())
    assert wrong == pytest.approx(prepared.noise["realised_rate"])
    assert 0.2 < wrong < 0.7
    assert prepared.test is not None
    assert len(prepared.test.data) == EACH
    # A column of the training images is none of the test file's, which is tested all the same.
    np.save(ten / "crowd.npy", np.roll(load(ten).data.labels.numpy(), 1))
    own = RunConfig(data=str(ten), test=str(ten / "test_batch.bin"), label_column="crowd")
    assert len(prepare(own).train) == 5 * EACH
    human = RunConfig(data=str(ten), noise="human:crowd")
    assert prepare(human).noise is not None


def test_coarse_labels_are_tested_on_coarse_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    cifar100(folder, "py")
    truth = load(folder).data.labels.numpy()
    noisy = np.roll(truth, 5) // 5
    cifar_n(folder / "CIFAR-100_human.pt", truth, old=False, noisy_coarse_label=noisy)
    for column in ("noisy_coarse_label", "coarse"):
        asked = RunConfig(data=str(folder), test=str(folder / "test"), label_column=column)
        test = prepare(asked).test
        assert test is not None
        assert test.data.classes == tuple(COARSE)
        assert test.data.labels.tolist() == (labels_of(100, 100, 1) // 5).tolist()


def test_a_file_in_an_archive_is_remembered_by_its_whole_path(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(ten)
    monkeypatch.chdir(ten.parent)
    inside = "cifar-10-binary.tar.gz/test_batch.bin"
    remembered = place(inside)
    assert remembered == str((ten.parent / inside).resolve())
    (ten.parent / "elsewhere").mkdir()
    monkeypatch.chdir(ten.parent / "elsewhere")
    assert len(load(remembered, classes=NAMES).data) == EACH
    assert place("digits") == "digits"
    assert place("nowhere.tar.gz/test_batch.bin") == "nowhere.tar.gz/test_batch.bin"


def test_the_folder_source_does_not_take_these(tmp_path: Path) -> None:
    for name in (*FOLDERS, *ARCHIVES.values(), "cifar-10-batches-bin/test_batch.bin"):
        assert Cifar.matches(tmp_path / name)
    (tmp_path / "test").mkdir()  # a folder of class folders, as many call it
    assert not Cifar.matches(tmp_path / "test")
    assert Folder.matches(tmp_path / "test")
    for other in ("train", "test.bin", "digits", "cifar.npz", np.zeros(3), None):
        assert not Cifar.matches(other)
    exported = tmp_path / "cifar-100-python" / "test"
    assert Cifar.matches(exported)  # to say that it is not there
    exported.mkdir(parents=True)  # its images, written into class folders
    assert not Cifar.matches(exported)
    assert Folder.matches(exported)


# -- what is wrong with them -----------------------------------------------------------------


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist\. labelwise downloads nothing"):
        load(tmp_path / "cifar-100-python")
    with pytest.raises(UserError, match="downloads nothing"):
        load(tmp_path / "cifar-10-binary.tar.gz")


def test_missing_files_are_named(folder: Path) -> None:
    gone = sorted(path for path in folder.iterdir() if path.name != TESTS[folder.name])
    gone[0].unlink()
    with pytest.raises(UserError, match=f"lacks '{gone[0].name}': unpack"):
        load(folder)
    gone[1].unlink()
    with pytest.raises(UserError, match=f"'{gone[0].name}'|'{gone[1].name}'"):
        load(folder)


def test_a_test_file_alone_needs_the_names_of_its_classes(ten: Path, tmp_path: Path) -> None:
    alone = tmp_path / "test_batch.bin"
    alone.write_bytes((ten / "test_batch.bin").read_bytes())
    with pytest.raises(UserError, match=r"lacks 'batches\.meta\.txt'"):
        load(alone)


@pytest.mark.parametrize("left", [0, 100, 3073 * EACH - 1])
def test_a_binary_file_that_is_cut_off_is_named(ten: Path, left: int) -> None:
    path = ten / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=rf"data_batch_4\.bin holds {left:,} bytes.*cut off"):
        load(ten)


def test_records_of_the_other_cifar_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    cifar100(folder, "bin")
    (folder / "train.bin").write_bytes(binary([labels_of(EACH, 10, 0)], pixels(EACH, 0)))
    with pytest.raises(UserError, match="no whole number of images of 3,074 bytes"):
        load(folder)


def test_a_label_beyond_the_classes_is_refused(ten: Path) -> None:
    path = ten / "data_batch_1.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(UserError, match="label 10 is out of range"):
        load(ten)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": pixels(EACH, 0).reshape(-1, 3, 1024)}, "not rows of 3072 bytes"),
        ({b"data": pixels(EACH, 0).astype(float)}, "not rows of 3072 bytes"),
        ({b"data": [1, 2]}, "not rows of 3072 bytes"),
        ({b"data": pixels(EACH - 1, 0)}, "one whole number for each of 11 images"),
        ({b"labels": ["cat"] * EACH}, "one whole number for each of 12 images"),
        ({b"labels": None}, "one whole number for each of 12 images"),
        ({b"labels": [[0]] * 5 + [[1, 2]] * 7}, "one whole number for each of 12 images"),
        ({b"labels": np.array(3)}, "one whole number for each of 12 images"),
        ({b"labels": [0.5] * EACH}, "one whole number for each of 12 images"),
    ],
)
def test_a_pickled_batch_of_another_form_is_refused(
    tmp_path: Path, change: dict[bytes, Any], message: str
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    cifar10(folder, "py")
    batch = {b"data": pixels(EACH, 0), b"labels": [0] * EACH} | change
    (folder / "data_batch_2").write_bytes(pickled(batch))
    with pytest.raises(UserError, match=message):
        load(folder)


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.made,)


def evil(made: Path) -> list[tuple[str, bytes]]:
    """Pickles that would do something, if they were let."""
    command = f"touch {made}"
    return [
        ("touch", pickle.dumps({b"data": Malicious(made)}, protocol=2)),
        ("system", b"cos\nsystem\n(S'" + command.encode() + b"'\ntR."),
        ("eval", b"cbuiltins\neval\n(S'1'\ntR."),
        ("codec", b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR."),
        ("getattr", b"cnumpy\nload\n(S'x.npy'\ntR."),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1"])
def test_a_pickle_cannot_run_anything(tmp_path: Path, file: str, which: int) -> None:
    folder, made = tmp_path / "cifar-10-batches-py", tmp_path / "made"
    cifar10(folder, "py")
    name, content = evil(made)[which]
    (folder / file).write_bytes(content)
    message = "codec b?'zlib'" if name == "codec" else "only plain arrays"
    with pytest.raises(UserError, match=message):
        load(folder)
    assert not made.exists()


class Stored:
    """What is pickled as a call, and perhaps a state, of one's own choice."""

    def __init__(self, call: Callable[..., Any], *words: Any, state: Any = None) -> None:
        self.made = (call, words) if state is None else (call, words, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


ADDRESSES = b"AAAAAAAA"
REBUILD: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
FROM_BUFFER: Callable[..., Any] = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[assignment]


def kind(code: str, *state: Any) -> Stored:
    return Stored(np.dtype, code, False, True, state=state or None)


def array(*state: Any) -> Stored:
    return Stored(REBUILD, np.ndarray, (0,), b"b", state=state)


def forged() -> dict[str, Any]:
    """Arrays whose objects would lie wherever the file says, and others that do not fit."""
    one, plain = (1,), kind("u1")
    objects = kind("O8", 3, "|", None, None, None, -1, -1, 63)
    field = {"f0": (kind("O8"), 0)}
    return {
        "constructor": Stored(np.ndarray, one, "O", bytearray(ADDRESSES)),
        "constructor of numbers": Stored(np.ndarray, one, "u1", bytearray(ADDRESSES)),
        "reconstructed type": Stored(REBUILD, bytearray, (0,), b"b"),
        "objects": array(1, one, objects, False, ADDRESSES),
        "list": array(1, one, objects, False, ["x"]),
        "list as bytes": array(1, one, plain, False, ["x"]),
        "fields": array(
            1, one, kind("V8", 3, "|", None, ("f0",), field, 8, 1, 0), False, ADDRESSES
        ),
        "fields of numbers": array(
            1, one, kind("u8", 3, "|", None, ("f0",), field, 8, 1, 0), False, ADDRESSES
        ),
        "part": array(1, one, kind("u1", 3, "|", (kind("O8"), one), None, None, 8, 1, 0), False,
                      ADDRESSES),
        "larger": array(1, (9,), kind("S1", 3, "|", None, None, None, 1000, 1, 0), False, b"x" * 9),
        "longer": array(1, (1000,), plain, False, b"x" * 9),
        "negative": array(1, (-3, -3), plain, False, b"x" * 9),
        "no characters": array(1, one, kind("U1", 3, "<", None, None, None, 4, 4, 8), False,
                               b"\xff" * 4),
        "empty": Stored(REBUILD, np.ndarray, (0,), b"b"),
        "buffer of objects": Stored(FROM_BUFFER, ADDRESSES, kind("O8"), one, "C"),
        "buffer of an array": Stored(FROM_BUFFER, array(1, one, plain, False, b"x"), plain, one,
                                     "C"),
        "short buffer": Stored(FROM_BUFFER, b"x", plain, (1000,), "C"),
        "many zeros": Stored(bytearray, 2**50),
    }  # fmt: skip


@pytest.mark.parametrize("name", forged())
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_array_is_made_of_what_a_pickle_says_alone(name: str, protocol: int) -> None:
    content = pickle.dumps({b"label_names": forged()[name]}, protocol=protocol)
    with pytest.raises(UserError, match="meta"):
        read_pickle(content, "batches.meta")


@pytest.mark.parametrize("name", ["constructor", "objects", "list", "fields", "longer"])
def test_no_array_is_made_of_what_cifar_n_says_alone(ten: Path, name: str) -> None:
    torch.save({"aggre_label": forged()[name]}, ten / "CIFAR-10_human.pt")
    with pytest.raises(UserError, match="cannot read"):
        load(ten, label_column="human_aggregate")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_arrays_are_read_as_they_were(protocol: int) -> None:
    cube = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    wanted = [cube, np.asfortranarray(cube), cube.transpose(1, 0, 2), cube[:, ::2], np.array(7),
              np.array(["cat", "Öl"]), np.array([b"ab", b"c"]), np.ones((2, 2), np.float32),
              np.array([True, False]), np.zeros((1, 3), np.uint8)]  # fmt: skip
    content = {"several": wanted, "again": (wanted[0], {"deep": wanted[0]}), "none": None}
    found = read_pickle(pickle.dumps(content, protocol=protocol), "it")
    assert found["again"][0] is found["again"][1]["deep"] is found["several"][0]
    for before, after in zip(wanted, found["several"], strict=True):
        assert type(after) is np.ndarray
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert np.array_equal(after, before)
        assert after.flags.writeable


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00", b"not a pickle", pickle.dumps([1])])
def test_a_damaged_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "cifar-100-python"
    cifar100(folder, "py")
    (folder / "train").write_bytes(content)
    with pytest.raises(UserError, match="train"):
        load(folder)


def test_newer_pickles_of_arrays_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    cifar10(folder, "py")
    wanted = load(folder).data.input_hash()
    for path in folder.iterdir():
        content = pickle.loads(path.read_bytes(), encoding="bytes")
        again = {str(key, "ascii"): value for key, value in content.items()}
        path.write_bytes(pickle.dumps(again, protocol=5))
    assert load(folder).data.input_hash() == wanted


def of_python_2(data: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch as Python 2 and an old NumPy pickled it: text and pixels are both strings."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    shape = b"K" + bytes([len(data)]) + b"M\x00\x0c\x86"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    content = b"T" + data.size.to_bytes(4, "little") + data.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b")
    array += b"\x87R(K\x01" + shape + kind + b"\x89" + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([int(label)]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_batches_are_read_as_python_2_wrote_them(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    cifar10(folder, "py")
    wanted = load(folder)
    for seed in range(5):
        content = of_python_2(pixels(EACH, seed), labels_of(EACH, 10, seed))
        (folder / f"data_batch_{seed + 1}").write_bytes(content)
    found = load(folder)
    assert found.data.input_hash() == wanted.data.input_hash()
    assert found.data.label_hash() == wanted.data.label_hash()


def test_class_names_must_be_as_many_as_classes(ten: Path) -> None:
    (ten / "batches.meta.txt").write_text("\n".join(NAMES[:9]))
    with pytest.raises(UserError, match="names 9 classes; 10 are needed"):
        load(ten)


@pytest.mark.parametrize("cut", [10, 2000])
def test_a_damaged_archive_is_named(ten: Path, cut: int) -> None:
    archive = archived(ten)
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"cannot read .*cifar-10-binary\.tar\.gz"):
        load(archive)


def test_an_archive_lacks_files(ten: Path) -> None:
    path = ten.parent / ARCHIVES[ten.name]
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"), io.BytesIO())
    with pytest.raises(UserError, match=r"lacks 'data_batch_2\.bin'"):
        load(path)


def test_an_unknown_column_names_what_there_is(ten: Path) -> None:
    truth = load(ten).data.labels.numpy()
    np.save(ten / "semantic_vgg.npy", truth)
    cifar_n(ten / "CIFAR-10_human.pt", truth, old=False)
    with pytest.raises(NoColumn, match="Did you mean 'human_worst'") as caught:
        load(ten, label_column="human_worse")
    assert "semantic_vgg" in str(caught.value)
    assert "batches.meta" not in str(caught.value)
    with pytest.raises(NoColumn):
        load(ten / "test_batch.bin", label_column="semantic_vgg")
    with pytest.raises(NoColumn, match="truth_column means nothing"):
        load(ten, truth_column="label")
    with pytest.raises(NoColumn):
        load(ten, label_column="coarse")


def test_labels_beside_must_fit_the_images(ten: Path) -> None:
    np.save(ten / "short.npy", np.zeros(7, dtype=int))
    with pytest.raises(UserError, match=r"short\.npy hold 7 labels for 60 inputs"):
        load(ten, label_column="short")
    np.save(ten / "high.npy", np.full(5 * EACH, 12))
    with pytest.raises(UserError, match="label 12 is out of range"):
        load(ten, label_column="high")
    np.save(ten / "objects.npy", np.array([{}] * 3), allow_pickle=True)
    with pytest.raises(UserError, match="as labels"):
        load(ten, label_column="objects")
    (ten / "zipped.npy").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"zipped\.npy as labels"):
        load(ten, label_column="zipped")
    np.save(ten / "single.npy", np.array(3))
    with pytest.raises(UserError, match="not an array"):
        load(ten, label_column="single")
    (ten / "lines.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load(ten, label_column="lines")


def test_cifar_n_of_another_order_or_form_is_refused(ten: Path) -> None:
    truth = load(ten).data.labels.numpy()
    path = ten / "CIFAR-10_human.pt"
    cifar_n(path, np.roll(truth, 1), old=False)
    with pytest.raises(UserError, match="another order"):
        load(ten, label_column="human_worst")
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list"):
        load(ten, label_column="human_worst")
    made = ten / "made"
    torch.save({"aggre_label": truth}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    cut = [old[:length] for length in (20, 100, len(old) // 2)]
    damaged = [b"\x80\x02" + bytes([code]) * 9 + b"." for code in b"tsubRoe\x85hj"]
    for content in (b"", b"PK", pickle.dumps({"aggre_label": Malicious(made)}, protocol=2),
                    *cut, *damaged):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            load(ten, label_column="human_worst")
    torch.save({"aggre_label": Malicious(made)}, path)
    with pytest.raises(UserError, match="cannot read"):
        load(ten, label_column="human_worst")
    assert not made.exists()


def test_options_are_those_of_every_source(ten: Path) -> None:
    found = Cifar().read(str(ten), Options(limit=10, seed=3))
    assert len(found.data) == 10
    assert found.data.num_classes == 10
