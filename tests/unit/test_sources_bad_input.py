"""Bad input: each message names the value, the place and the remedy."""

import io
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from labelwise.data import decode as decoding
from labelwise.data.dataset import NO_CLASS
from labelwise.data.load import load, split
from labelwise.errors import UserError

torch.set_num_threads(1)

IMAGES = np.zeros((6, 8, 8), np.uint8)
LABELS = [0, 1] * 3


def png(size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def folder(root: Path) -> Path:
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(3):
            (root / label / f"{number}.png").write_bytes(png())
    return root


def parquet(path: Path, **columns: object) -> Path:
    table = {"image": [png()] * 6, "label": ["cat", "dog"] * 3, **columns}
    pq.write_table(pa.table({name: v for name, v in table.items() if v is not None}), path)
    return path


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect a `UserError` that contains all the words."""
    with pytest.raises(UserError) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# --- files and folders --------------------------------------------------------------------------


def test_missing_path_suggests_a_neighbour(tmp_path: Path) -> None:
    folder(tmp_path / "animals")
    with refused("animal does not exist", "'animals'"):
        load(tmp_path / "animal")
    with refused("does not exist", "'digits'"):
        load("digit")
    with refused("lost.csv does not exist"):
        load(tmp_path / "lost.csv")
    with refused("does not exist"):
        load(tmp_path / "no" / "such" / "folder")
    with refused("path is empty"):
        load("")


def test_unknown_ending_and_type(tmp_path: Path) -> None:
    (tmp_path / "x.parqet").write_bytes(b"")
    with refused("'.parqet'", "'.parquet'", ".csv", ".npz", "digits"):
        load(tmp_path / "x.parqet")
    with refused("type dict"):
        load({"a": 1})  # type: ignore[arg-type]
    (tmp_path / "noending").write_bytes(b"")
    with refused("'(none)'"):
        load(tmp_path / "noending")


def test_folder_without_images(tmp_path: Path) -> None:
    with refused("holds no images", ".png"):
        load(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    with refused("1 other file", "readme.txt"):
        load(tmp_path)
    (tmp_path / "0.png").write_bytes(png())
    with refused("lie directly in the folder", "sub-folder"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["scandir", "open"])
def test_no_permission(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "x")

    def forbid(path: object, *args: object, **rest: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        if name == "scandir":
            patch.setattr("os.scandir", forbid)
        else:
            patch.setattr(Path, "read_bytes", forbid)
        with refused("ermission", str(root)):
            load(root)


def test_one_class_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(2):
        (tmp_path / "cat" / f"{number}.png").write_bytes(png())
    with refused("all 2 samples have the label 'cat'", "two classes"):
        load(tmp_path)


# --- images -------------------------------------------------------------------------------------

LIAR = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + b"\xff" * 40
DAMAGED = {
    "empty": (b"", "0 bytes"),
    "text": (b"<html>not found</html>", "not an image"),
    "cut png": (png((64, 64))[:900], ""),
    "cut jpeg": (png((64, 64), "JPEG")[:900], "truncated"),
    "flipped png": (png()[:45] + b"\x00\x01\x02" + png()[48:], ""),
    "lying header": (LIAR, ""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_image_is_named(name: str, tmp_path: Path) -> None:
    content, reason = DAMAGED[name]
    root = folder(tmp_path / "x")
    (root / "cat" / "1.png").write_bytes(content)
    (root / "dog" / "2.png").write_bytes(content)
    with refused("cat/1.png", reason, "2 of 6 images", "--on-bad-image skip"):
        load(root)
    data = load(root, on_bad_image="skip").data
    assert data.ids.tolist() == ["cat/0.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert len(data.notes) == 1
    assert "2 images of 6 left out" in data.notes[0]
    assert "cat/1.png" in data.notes[0]


def test_skipped_images_keep_truth_and_ids_aligned(tmp_path: Path) -> None:
    images = [png(), b"", png(), None, png(), png()]
    path = parquet(tmp_path / "p.parquet", image=images, true=["dog"] * 5 + ["cat"])
    with refused("at row 1 of p.parquet", "0 bytes", "2 of 6"):
        load(path)
    source = load(path, truth_column="true", on_bad_image="skip")
    assert source.data.ids.tolist() == [0, 2, 4, 5]
    assert source.data.labels.tolist() == [0, 0, 0, 1]
    assert source.truth is not None
    assert source.truth.labels.tolist() == [1, 1, 1, 0]
    assert "there is no image" in source.data.notes[0]


def test_no_readable_image_at_all(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", image=[b"x"] * 6, id=list("abcdef"))
    with refused("not one of 6 images", "row 0 (id 'a')"):
        load(path, on_bad_image="skip")


def test_paths_of_a_manifest_that_lead_nowhere(tmp_path: Path) -> None:
    folder(tmp_path)
    text = "id,image,label\na,cat/0.png,x\nb,cat/9.png,y\nc,dog/1.png,x\n"
    (tmp_path / "m.csv").write_text(text)
    with refused("cat/9.png", "row 1 (id 'b') of m.csv", "no such file"):
        load(tmp_path / "m.csv")


def test_mixed_sizes(tmp_path: Path) -> None:
    root = folder(tmp_path / "x")
    (root / "cat" / "0.png").write_bytes(png((10, 12)))
    (root / "dog" / "0.png").write_bytes(png((30, 12)))
    with refused("3 different", "8x8 (4 images)", "10x12 (1 image)", "1 more", "--image-size 8"):
        load(root)
    assert load(root, image_size=16).data.shape == (3, 16, 16)


def test_images_that_cannot_fit_are_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "free_memory", lambda: 100)
    with refused("GiB", "--limit", "6 images of 8x8"):
        load(IMAGES, labels=LABELS)


@pytest.mark.parametrize("size", [3, 1025, 0, -1])
def test_image_size_out_of_range(size: int) -> None:
    with refused(str(size), "4 to 1024"):
        load(IMAGES, labels=LABELS, image_size=size)


def test_other_options_out_of_range() -> None:
    with refused("limit 1", "at least 2"):
        load(IMAGES, labels=LABELS, limit=1)
    with refused("channels is 2"):
        load(IMAGES, labels=LABELS, channels=2)
    with refused("'ignore'"):
        load(IMAGES, labels=LABELS, on_bad_image="ignore")  # type: ignore[arg-type]
    with refused("names a class twice"):
        load(IMAGES, labels=LABELS, classes=["0", "0"])
    with refused("label_column means nothing", "'digits'"):
        load("digits", label_column="label")
    with refused("fraction 1.5"):
        split(load(IMAGES, labels=LABELS), 1.5)
    with refused("leaves one part empty"):
        split(load(IMAGES, labels=LABELS), 0.01)


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 is only how it begins"),
        ("b.parquet", b""),
        ("a.csv", b""),
        ("b.csv", b'image,label\n"open quote,1\n'),
        ("c.csv", b"image,label\na.png,1\nb.png,2,3,4\n"),
        ("d.csv", b"image,label\na.png,\xff\xfe\xfa\n"),
        ("e.csv", b"image,label\na.png,1,2\nb.png,2,3\n"),
    ],
)
def test_unreadable_table(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(name):
        load(tmp_path / name)


def test_cut_off_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with refused("p.parquet", "parquet"):
        load(path)


def test_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with refused("p.parquet", "'image'"):
        load(path)


def test_column_that_is_not_there(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet")
    with refused("'lable'", "'label'", "image, label", "--label-column"):
        load(path, label_column="lable")
    with refused("'thruth'", "--truth-column"):
        load(path, truth_column="thruth")


def test_no_label_column(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", label=None, human=["cat", "dog"] * 3)
    with refused("has no labels", "image, human", "--label-column"):
        load(path)
    assert len(load(path, require_labels=False).data.labels) == 0


def test_the_truth_is_never_taken_as_given_labels(tmp_path: Path) -> None:
    with refused("has no labels", "'label' itself"):
        load(parquet(tmp_path / "p.parquet"), truth_column="label")


def test_no_image_column(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", image=None, text=["a"] * 6)
    with refused("no column of images", "label, text", "`image`", "`embedding`"):
        load(path)
    with refused("'image'", "numbers"):
        load(parquet(tmp_path / "q.parquet", image=[1] * 6))


def test_empty_table(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,label\n")
    with refused("m.csv holds no samples"):
        load(tmp_path / "m.csv")


def test_missing_labels(tmp_path: Path) -> None:
    labels = ["cat", None, "dog", "", "dog", "cat"]
    path = parquet(tmp_path / "p.parquet", label=labels, id=[f"n{i}" for i in range(6)])
    with refused("2 of 6 labels missing", "row 1 (id 'n1'), row 3 (id 'n3')", "remove"):
        load(path)
    data = load(path, require_labels=False).data
    assert len(data.labels) == 0
    assert "labels left out" in data.notes[0]
    with refused("2 of 6 labels missing"):
        load(path, require_labels=False, label_column="label")


@pytest.mark.parametrize("missing", [float("nan"), None, pd.NA, "", " ", "nan"])
def test_missing_labels_in_memory(missing: object) -> None:
    with refused("1 of 6 labels missing", "row 2"):
        load(IMAGES, labels=["a", "b", missing, "a", "b", "a"])


def test_all_labels_missing(tmp_path: Path) -> None:
    with refused("6 of 6 labels missing"):
        load(parquet(tmp_path / "p.parquet", label=pa.nulls(6, pa.string())))


def test_missing_truth(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", true=["cat", None, *["dog"] * 4])
    source = load(path, truth_column="true")
    assert source.truth is not None
    assert source.truth.labels.tolist() == [0, NO_CLASS, 1, 1, 1, 1]
    assert source.data.labels.tolist() == [0, 1] * 3
    (note,) = source.data.notes
    assert "1 sample without a true label, at row 1: taken to be of none of the classes" in note
    with refused("'true'", "all labels are missing", "Leave"):
        load(parquet(path, true=[None] * 5 + [""]), truth_column="true")


def test_missing_truth_in_text_and_under_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [
        f"{n},{n}.5,{n}.25,{'ab'[n % 2]},{'' if n % 5 == 0 else 'ab'[n % 2]}" for n in range(40)
    ]
    path.write_text("\n".join(["id,x,y,given_label,true_label", *rows]))
    source = load(path, label_column="given_label", truth_column="true_label", limit=30)
    assert source.truth is not None
    foreign = source.data.ids % 5 == 0
    assert torch.equal(source.truth.labels == NO_CLASS, torch.from_numpy(foreign))
    train, test = split(source, seed=0)
    assert test.truth is not None
    assert train.truth is not None
    assert (test.truth.labels >= 0).all()
    assert int((train.truth.labels == NO_CLASS).sum()) == int(foreign.sum())


@pytest.mark.parametrize("name", ["~nobody-here/x", "~nobody-here/x.csv", "~nobody-here/x.npz"])
def test_the_home_of_an_unknown_user(name: str) -> None:
    with refused("~nobody-here/x", "does not exist"):
        load(name)


def test_codes_beside_names_need_one_form(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", noisy=[0, 1] * 3)
    with refused("'noisy'", "numbers: '0', '1'", "names: 'cat', 'dog'", "same form"):
        load(path, label_column="noisy", truth_column="label")


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2], ("3 labels", "6 inputs")),
        ([1] * 6, ("all 6 samples", "'1'")),
        ([10, 11, 12, 13, 14, 15], ("each of the 6 samples", "--label-column")),
        ([0.5, 1.0, 0.5, 1.0, 0.5, 1.0], ("0.5", "measurement")),
        ([float("inf")] * 6, ("inf",)),
        (np.eye(6), ("(6, 6)", "argmax")),
        ([[0], [1, 2], [0], [1], [0], [1]], ("ragged",)),
        ([{"a": 1}] * 6, ("row 0", "dict")),
        (np.array(["2020-01-01"] * 6, dtype="datetime64[ns]"), ("labels are text or whole",)),
        (np.array([1j, 2] * 3), ("complex",)),
    ],
)
def test_labels_that_are_no_classes(labels: object, words: tuple[str, ...]) -> None:
    with refused(*words):
        load(IMAGES, labels=labels)


def test_labels_are_needed_and_given_once() -> None:
    with refused("has no labels", "labels="):
        load(IMAGES)
    with refused("twice"):
        load((IMAGES, LABELS), labels=LABELS)


def test_unknown_label_of_a_trained_model() -> None:
    with refused("'dgo'", "row 1", "row 3", "'dog'", "'emu'"):
        load(IMAGES, labels=["cat", "dgo", "cat", "dgo", "emu", "cat"], classes=["cat", "dog"])


def test_one_sample_of_a_class_is_remarked_on() -> None:
    data = load(IMAGES, labels=["a", "b", "a", "b", "a", "A"]).data
    assert "class 'A' has a single sample" in data.notes
    assert "classes that differ only in case: 'A' and 'a'" in data.notes


def test_many_classes_are_remarked_on() -> None:
    data = load(np.zeros((30, 8, 8), np.uint8), labels=[*range(20), *range(10)]).data
    assert "20 classes for 30 samples: are these classes?" in data.notes


def test_duplicate_ids(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", id=["a", "b", "a", "c", "d", "b"])
    with refused("2 ids occur more than once", "'a', 'b'", "rows 0, 2"):
        load(path)
    with refused("id at row 1 is None"):
        load(parquet(tmp_path / "q.parquet", id=["a", None, "c", "d", "e", "f"]))
    with refused("ids are float64"):
        load(parquet(tmp_path / "r.parquet", id=[0.5, 1, 2, 3, 4, 5]))


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6,), ("(6,)", "embeddings (N, D)")),
        ((6, 2, 8, 8), ("neither axis 1 (2)", "axis 3 (8)")),
        ((6, 3, 8, 4), ("axis 1 (3)", "axis 3 (4)")),
        ((6, 8, 8, 3, 1), ("(6, 8, 8, 3, 1)",)),
        ((6, 0), ("nothing in a sample",)),
    ],
)
def test_shapes_that_are_no_images(shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    with refused(*words):
        load(np.zeros(shape, np.uint8), labels=LABELS)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (-0.1, np.float32, ("0 to 1", "row 4", "-0.1", "standardised")),
        (200.0, np.float64, ("0 to 1", "row 4", "200")),
        (np.nan, np.float32, ("row 4", "nan")),
        (256, np.int64, ("int64", "0 to 255", "256")),
        (-1, np.int16, ("0 to 255", "-1")),
    ],
)
def test_pixels_out_of_range(value: float, kind: type, words: tuple[str, ...]) -> None:
    images = np.zeros((6, 8, 8), kind)
    images[4, 3, 3] = value
    with refused(*words):
        load(images, labels=LABELS)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_embeddings_that_are_not_finite(value: float, tmp_path: Path) -> None:
    vectors = np.zeros((6, 4))
    vectors[[2, 5], 1] = value
    np.savez(tmp_path / "e.npz", features=vectors, y=LABELS, ids=np.array(list("abcdef")))
    with refused("2 embeddings of 6", "row 2 (id 'c')"):
        load(tmp_path / "e.npz")


def test_vectors_of_several_lengths(tmp_path: Path) -> None:
    vectors = pa.array([[1.0, 2.0]] * 3 + [[1.0]] * 3)
    path = parquet(tmp_path / "p.parquet", image=None, embedding=vectors)
    with refused("row 3 holds 1", "row 0 holds 2"):
        load(path)


def test_lists_that_cannot_be_stacked() -> None:
    with refused("input 1 has shape (3, 3)"):
        load([np.zeros((2, 2)), np.zeros((3, 3))], labels=[0, 1])
    with refused("input 1 of the list is a str"):
        load([np.zeros((2, 2)), "x"], labels=[0, 1])
    with refused("empty"):
        load([], labels=[])
    with refused("type object"):
        load(np.array([None] * 6), labels=LABELS)


def test_bad_numpy_files(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with refused("a.npz"):
        load(tmp_path / "a.npz")
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2]))
    with refused("b.npy"):
        load(tmp_path / "b.npy")
    (tmp_path / "c.npz").write_bytes(b"")
    with refused("c.npz"):
        load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", pictures=IMAGES, y=LABELS)
    with refused("no inputs", "pictures, y", "images"):
        load(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", x=IMAGES, answers=LABELS)
    with refused("has no labels", "x, answers"):
        load(tmp_path / "e.npz")
    with refused("no key 'answer'", "'answers'"):
        load(tmp_path / "e.npz", label_column="answer")
    np.savez(tmp_path / "f.npz", x=IMAGES, y=np.array([1, None] * 3))
    with refused("'y'", "Save plain numbers or text"):
        load(tmp_path / "f.npz")
    np.savez(tmp_path / "g.npz", x=IMAGES, y=LABELS, classes=np.array(["only"]))
    with refused("label 1 is out of range", "1 class,"):
        load(tmp_path / "g.npz")
    np.savez(tmp_path / "h.npz", x=IMAGES, y=LABELS, ids=np.arange(5))
    with refused("5 ids for 6 inputs"):
        load(tmp_path / "h.npz")


def test_cut_off_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "a.npz", x=rng.integers(0, 256, (6, 32, 32)), y=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    with refused("'x'", "a.npz", "damaged"):
        load(tmp_path / "a.npz")
