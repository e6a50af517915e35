"""Every kind of data, read from small fixtures; what is refused is in test_sources_bad_input."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labelwise.data import decode as decoding
from labelwise.data.images import pixels
from labelwise.data.load import kinds, load, split, stratified_rows
from labelwise.errors import UserError

torch.set_num_threads(1)

RED, GREEN = (200, 10, 10), (10, 200, 10)


def picture(value: object = RED, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(root: Path, per_class: int = 3) -> Path:
    for label, colour in (("cat", RED), ("dog", GREEN)):
        (root / label).mkdir(parents=True)
        for number in range(per_class):
            picture(colour).save(root / label / f"{number}.png")
    return root


def write_parquet(path: Path, count: int = 12, **columns: object) -> Path:
    table = {
        "image": [encoded(picture((10 * row, 0, 0))) for row in range(count)],
        "label": ["cat", "dog", "emu"] * (count // 3),
        **columns,
    }
    pq.write_table(pa.table(table), path, row_group_size=5)
    return path


# --- digits -------------------------------------------------------------------------------------


def test_digits() -> None:
    source = load("digits")
    data = source.data
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert data.inputs.dtype == torch.uint8
    assert data.inputs.is_contiguous()
    assert int(data.inputs.max()) == 255
    assert data.classes == tuple("0123456789")
    assert data.ids.tolist() == list(range(1797))
    assert not data.flip
    assert source.truth is not None
    assert torch.equal(source.truth.labels, data.labels)


def test_importing_load_leaves_slow_libraries_alone() -> None:
    program = (
        "import sys; from labelwise.data.load import kinds; kinds();"
        "print([m for m in ('sklearn', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_source_is_found_by_itself() -> None:
    assert set(kinds()) == {"arrays", "cifar", "digits", "folder", "manifest", "npy", "npz"}


# --- folders ------------------------------------------------------------------------------------


def test_folder_of_class_folders(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets")
    (root / "cat" / "deep").mkdir()
    picture(RED).save(root / "cat" / "deep" / "x.JPG", "JPEG")
    (root / "cat" / ".hidden.png").write_bytes(b"not read")
    (root / ".git").mkdir()
    picture().save(root / ".git" / "0.png")
    (root / "dog" / "Thumbs.db").write_bytes(b"no image")
    picture().save(root / "stray.png")
    (root / "emu").mkdir()
    data = load(root).data
    assert data.classes == ("cat", "dog")
    assert data.ids.tolist() == [
        *("cat/0.png", "cat/1.png", "cat/2.png", "cat/deep/x.JPG"),
        *("dog/0.png", "dog/1.png", "dog/2.png"),
    ]
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.inputs.shape == (7, 3, 8, 8)
    assert data.inputs[0, :, 0, 0].tolist() == list(RED)
    assert data.inputs[6, :, 0, 0].tolist() == list(GREEN)
    assert data.flip
    assert data.name == "pets"
    notes = "\n".join(data.notes)
    assert "2 files ignored" in notes
    assert "dog/Thumbs.db, stray.png" in notes
    assert "1 sub-folder without images: 'emu'" in notes


def test_numeric_folder_names_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        (tmp_path / name).mkdir()
        for number in range(2):
            picture().save(tmp_path / name / f"{number}.png")
    data = load(tmp_path).data
    assert data.classes == ("2", "9", "10")
    assert data.labels.tolist() == [2, 2, 0, 0, 1, 1]  # rows in the order of paths


def test_flat_folder_for_prediction(tmp_path: Path) -> None:
    for number in range(3):
        picture().save(tmp_path / f"{number}.png")
    data = load(tmp_path, require_labels=False, classes=["cat", "dog"], limit=2).data
    assert len(data) == 2
    assert len(data.labels) == 0
    assert data.classes == ("cat", "dog")


def test_prediction_ignores_folder_names_that_are_no_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "x")
    data = load(root, require_labels=False, classes=["apple", "pear"]).data
    assert len(data.labels) == 0
    assert "labels left out" in data.notes[0]
    assert load(root, require_labels=False, classes=["dog", "cat"]).data.labels.tolist() == [
        *(1, 1, 1, 0, 0, 0)
    ]


def test_link_to_a_parent_folder_ends(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "x")
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    assert len(load(root).data) == 6


# --- manifests ----------------------------------------------------------------------------------


def test_csv_with_paths_and_typed_columns(tmp_path: Path) -> None:
    class_folders(tmp_path)
    outside = tmp_path / "dog" / "0.png"
    rows = [("cat/0.png", "007"), ("cat/1.png", "NA"), (str(outside), "007"), ("dog/1.png", "NA")]
    text = "id,path,given_label\n" + "".join(f"{9 - n},{p},{v}\n" for n, (p, v) in enumerate(rows))
    (tmp_path / "list.csv").write_text(text, encoding="utf-8-sig")
    data = load(tmp_path / "list.csv").data
    assert data.classes == ("007", "NA")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.ids.tolist() == [9, 8, 7, 6]
    assert data.ids.dtype == np.int64
    assert data.inputs[2, :, 0, 0].tolist() == list(GREEN)


def test_tsv_without_ids_numbers_the_rows(tmp_path: Path) -> None:
    class_folders(tmp_path)
    rows = "".join(f"{c}/{n}.png\t{int(c == 'cat')}.0\n" for c in ("cat", "dog") for n in range(3))
    (tmp_path / "list.tsv").write_text("Image\tLabel\n" + rows)
    data = load(str(tmp_path / "list.tsv")).data
    assert data.ids.tolist() == list(range(6))
    assert data.classes == ("0", "1")
    assert data.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_parquet_bytes_with_truth(tmp_path: Path) -> None:
    noisy = ["cat"] * 6 + ["dog"] * 6
    path = write_parquet(tmp_path / "p.parquet", noisy=noisy, id=[f"r{n}" for n in range(12)])
    source = load(path, label_column="noisy", truth_column="label")
    # "emu" is known from the truth alone: one list serves both columns.
    assert source.data.classes == ("cat", "dog", "emu")
    assert source.data.labels.tolist() == [0] * 6 + [1] * 6
    assert source.truth is not None
    assert source.truth.labels.tolist() == [0, 1, 2] * 4
    assert source.data.ids.tolist() == [f"r{n}" for n in range(12)]
    assert source.data.inputs[:, 0, 0, 0].tolist() == [10 * n for n in range(12)]
    assert "class 'emu' has no sample" in source.data.notes


def test_only_the_limited_rows_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "p.parquet", count=60, image=[encoded(picture())] * 60)
    calls = []

    def counting(*args: object) -> np.ndarray:
        calls.append(args)
        return pixels(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "pixels", counting)
    data = load(path, limit=6).data
    assert len(calls) == len(data) == 6
    assert data.labels.bincount().tolist() == [2, 2, 2]
    assert np.all(np.diff(data.ids) > 0)


def test_limited_rows_keep_their_own_images(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", count=24)
    data = load(path, limit=9, seed=3).data
    assert data.inputs[:, 0, 0, 0].tolist() == [10 * row for row in data.ids]


def test_hugging_face_layout(tmp_path: Path) -> None:
    picture(GREEN).save(tmp_path / "beside.png")
    cells = [{"bytes": encoded(picture(RED)), "path": "a.png"}] * 3
    cells.append({"bytes": None, "path": "beside.png"})
    feature = {"label": {"names": ["pear", "apple"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    table = pa.table({"picture": cells, "label": [0, 1, 0, 1], "name": ["pear", "apple"] * 2})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf.parquet")
    source = load(tmp_path / "hf.parquet", truth_column="name")
    assert source.data.classes == ("apple", "pear")
    assert source.data.labels.tolist() == [1, 0, 1, 0]
    assert source.truth is not None
    assert torch.equal(source.truth.labels, source.data.labels)
    assert source.data.inputs[3, :, 0, 0].tolist() == list(GREEN)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False, True, False], ("False", "True")),
        ([2.0, 10.0, 2.0, 10.0], ("2", "10")),
        ([-5, 2**60, -5, 2**60], ("-5", str(2**60))),
        (pd.Categorical(["b", "a", "b", "a"]), ("a", "b")),
        ([b"x", b"y", b"x", b"y"], ("x", "y")),
        (np.array([[1], [0], [1], [0]]), ("0", "1")),
        (torch.tensor([3, 4, 3, 4]), ("3", "4")),
        ([1, "cat", 1, "cat"], ("1", "cat")),
        (["None", "NA", "None", "NA"], ("NA", "None")),
    ],
)
def test_labels_of_any_form(values: object, classes: tuple[str, ...]) -> None:
    data = load(np.zeros((4, 8, 8), np.uint8), labels=values).data
    assert data.classes == classes
    assert sorted(data.labels.tolist()) == [0, 0, 1, 1]
    assert data.labels[0] != data.labels[1]


def test_categorical_column_of_a_parquet_file(tmp_path: Path) -> None:
    labels = pa.array(["b", "a", "b"] * 4).dictionary_encode()
    data = load(write_parquet(tmp_path / "p.parquet", label=labels)).data
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [1, 0, 1] * 4


def test_embedding_column(tmp_path: Path) -> None:
    vectors = np.arange(24, dtype=np.float32).reshape(6, 4)
    table = pa.table({"embedding": list(vectors), "label": [0, 1] * 3})
    pq.write_table(table, tmp_path / "e.parquet")
    data = load(tmp_path / "e.parquet").data
    assert data.kind == "embeddings"
    assert np.array_equal(data.inputs.numpy(), vectors)
    assert not data.flip


def test_number_columns_are_features_but_never_labels(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 4], "b": [0.5] * 4, "label": [0, 1, 0, 1]})
    frame["true_label"] = [0, 1, 1, 0]
    frame.to_csv(tmp_path / "f.csv", index=False)
    data = load(tmp_path / "f.csv").data
    assert data.inputs.tolist() == [[1, 0.5], [2, 0.5], [3, 0.5], [4, 0.5]]
    assert "2 number columns used as features: a, b" in data.notes


# --- NumPy files and arrays ---------------------------------------------------------------------


def test_npz_with_everything(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "d.npz",
        x=images,
        y=np.array([0, 1, 0, 1, 0, 1]),
        truth=np.array([0, 1, 0, 1, 1, 0]),
        ids=np.array(list("abcdef")),
        classes=np.array(["zebra", "ant"]),
    )
    source = load(tmp_path / "d.npz")
    assert source.data.classes == ("ant", "zebra")
    assert source.data.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert source.truth is not None
    assert source.truth.labels.tolist() == [1, 0, 1, 0, 0, 1]
    assert source.data.ids.tolist() == list("abcdef")
    assert np.array_equal(source.data.inputs.numpy(), images.transpose(0, 3, 1, 2))
    again = load(tmp_path / "d.npz", label_column="truth")
    assert again.data.labels.tolist() == source.truth.labels.tolist()


def test_npy_with_labels_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(6))
    np.save(tmp_path / "e_labels.npy", np.array([0, 1, 2] * 2))
    data = load(tmp_path / "e.npy", limit=3).data
    assert data.inputs.dtype == torch.float32
    assert sorted(data.labels.tolist()) == [0, 1, 2]
    assert torch.equal(data.inputs, torch.eye(6)[data.ids])
    assert load(tmp_path / "e.npy", labels=[1, 0] * 3).data.classes == ("0", "1")


@pytest.mark.parametrize("shape", [(6, 8, 9), (6, 8, 9, 1), (6, 1, 8, 9), (6, 8, 9, 3)])
def test_shapes_of_images_in_memory(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = load(images, labels=[0, 1] * 3).data
    channels = 3 if 3 in shape[1:] else 1
    assert data.inputs.shape == (6, channels, 8, 9)
    expected = images.transpose(0, 3, 1, 2) if shape[-1] == 3 else images.reshape(6, 1, 8, 9)
    assert np.array_equal(data.inputs.numpy(), expected)
    assert data.inputs.is_contiguous()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_floats_are_scaled_and_rounded(kind: torch.dtype) -> None:
    images = torch.tensor([0.0, 0.5, 1.0, 0.25]).to(kind)[:, None, None].expand(4, 8, 8)
    data = load((images.requires_grad_(), [0, 1, 0, 1])).data
    assert data.inputs[:, 0, 0, 0].tolist() == [0, 128, 255, 64]


def test_data_does_not_share_memory_with_the_caller() -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    vectors = np.zeros((4, 2), np.float32)
    read = [load(values, labels=[0, 1] * 2).data for values in (images, vectors)]
    images[:], vectors[:] = 9, 9
    assert all(int(data.inputs.max()) == 0 for data in read)


def test_list_of_pictures_and_forced_channels() -> None:
    grey = [picture(100, mode="L"), picture(50, mode="L")] * 2
    assert load(grey, labels=[0, 1] * 2).data.shape == (1, 8, 8)
    assert load(grey, labels=[0, 1] * 2, channels=3).data.shape == (3, 8, 8)
    late = load([*grey, picture(RED)], labels=[0, 1, 0, 1, 1]).data
    assert late.shape == (3, 8, 8)
    assert late.inputs[0, :, 0, 0].tolist() == [100, 100, 100]
    assert late.inputs[4, :, 0, 0].tolist() == list(RED)


def test_files_and_arrays_agree_on_grey_and_on_transparency() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 4), dtype=np.uint8)
    files = load([Image.fromarray(image) for image in rgba], labels=[0, 1] * 2, channels=1)
    arrays = load(rgba, labels=[0, 1] * 2, channels=1)
    difference = files.data.inputs.int() - arrays.data.inputs.int()
    assert int(difference.abs().max()) <= 1


def test_image_size_of_arrays_and_files() -> None:
    ramp = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (20, 1))
    arrays = load(np.stack([ramp] * 4), labels=[0, 1] * 2, image_size=10).data
    files = load([Image.fromarray(ramp)] * 4, labels=[0, 1] * 2, image_size=10).data
    assert arrays.shape == files.shape == (1, 10, 10)
    difference = arrays.inputs.int() - files.inputs.int()
    assert int(difference.abs().max()) <= 2
    # The centre square of the ramp spans columns 6 to 26 of 32.
    assert arrays.inputs[0, 0, 0, 0] == pytest.approx(255 * 6.5 / 31, abs=5)


# --- single images ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (picture(77, mode="L"), "PNG", 77),
        (picture(1, mode="1"), "PNG", 255),
        (picture(RED), "PNG", RED),
        (picture((*RED, 255), mode="RGBA"), "PNG", RED),
        (picture((*RED, 0), mode="RGBA"), "PNG", (255, 255, 255)),
        (picture((0, 0), mode="LA"), "PNG", 255),
        (picture(RED).quantize(4), "PNG", RED),
        (picture(90, mode="L").convert("P"), "PNG", 90),
        (picture(257 * 40, mode="I;16"), "PNG", 40),
        (picture(0.5, mode="F"), "TIFF", 128),
        (picture((0, 0, 0, 0), mode="CMYK"), "TIFF", (255, 255, 255)),
        (picture(RED), "GIF", RED),
        (picture(RED), "WEBP", None),
    ],
)
def test_every_mode_becomes_grey_or_colour(image: Image.Image, kind: str, expected: object) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(encoded(image, kind, **options))
    assert found.dtype == np.uint8
    assert found.shape[:2] == (8, 8)
    wanted = RED if expected is None else expected
    assert found[0, 0].tolist() == (list(wanted) if isinstance(wanted, tuple) else wanted)


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((0, 0), 1)
    found = pixels(encoded(image, "PNG", transparency=0))
    assert found[0, 0].tolist() == list(GREEN)
    assert found[3, 3].tolist() == [255, 255, 255]


def test_exif_orientation() -> None:
    image = picture((0, 0, 0), size=(8, 4))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    found = pixels(encoded(image, "PNG", exif=exif))
    assert found.shape == (8, 4, 3)
    assert found[:4].min() == 255
    assert found[4:].max() == 0


def test_size_resizes_the_short_side_and_crops_the_centre() -> None:
    image = picture((0, 0, 0), size=(300, 100))
    image.paste((255, 255, 255), (100, 0, 200, 100))
    for content in (image, encoded(image, "JPEG", quality=95)):
        found = pixels(content, size=20)
        assert found.shape == (20, 20, 3)
        assert found[:, 1:-1].min() > 240


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_order_is_kept_with_and_without_threads(
    threshold: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "THREAD_BYTES", threshold)
    monkeypatch.setattr(decoding, "CHUNK", 3)
    images = [encoded(picture((row, 0, 0))) for row in range(60)]
    data = load(write_parquet(tmp_path / "p.parquet", count=60, image=images)).data
    assert data.inputs[:, 0, 0, 0].tolist() == list(range(60))


# --- limits and splits --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_stratified_rows(sizes: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    rows = stratified_rows(labels, count, seed)
    assert len(rows) == count
    assert np.all(np.diff(rows) > 0)
    kept = np.bincount(labels[rows], minlength=len(sizes))
    if count >= len(sizes):
        assert kept.min() >= 1
    exact = np.array(sizes) * count / len(labels)
    if exact.min() >= 1:  # then the rule is the plain largest remainder
        assert np.all(np.abs(kept - exact) < 1)
    assert np.array_equal(rows, stratified_rows(labels, count, seed))


def test_stratified_rows_depend_on_the_seed() -> None:
    labels = np.repeat([0, 1], 100)
    drawn = {tuple(stratified_rows(labels, 20, seed)) for seed in range(5)}
    assert len(drawn) == 5
    assert len(stratified_rows(labels, 999, 0)) == 200


def test_split_gives_true_labels_to_the_test_part(tmp_path: Path) -> None:
    noisy = ["cat", "cat", "emu"] * 20
    images = [encoded(picture((row, 0, 0))) for row in range(60)]
    path = write_parquet(tmp_path / "p.parquet", count=60, image=images, noisy=noisy)
    source = load(path, label_column="noisy", truth_column="label")
    train, test = split(source, 0.25, seed=1)
    assert len(train.data) == 45
    assert len(test.data) == 15
    assert sorted([*train.data.ids, *test.data.ids]) == list(range(60))
    assert train.truth is not None
    assert test.truth is not None
    assert torch.equal(test.data.labels, test.truth.labels)
    assert test.data.labels.tolist() == [int(row) % 3 for row in test.data.ids]
    assert train.data.labels.tolist() == [0 if row % 3 < 2 else 2 for row in train.data.ids]
    assert train.data.labels.bincount().tolist() == [30, 0, 15]
    again = split(source, 0.25, seed=1)[1]
    assert again.data.ids.tolist() == test.data.ids.tolist()


def test_split_leaves_every_class_in_training() -> None:
    labels = [0] * 18 + [1, 2]
    source = load(np.zeros((20, 8, 8), np.uint8), labels=labels)
    train, test = split(source, 0.5)
    assert set(train.data.labels.tolist()) == {0, 1, 2}
    assert test.truth is None
    assert set(test.data.labels.tolist()) == {0}


def test_classes_of_a_trained_model() -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    data = load(images, labels=["dog", "dog", "dog"], classes=["zebra", "dog", "cat"]).data
    assert data.classes == ("zebra", "dog", "cat")
    assert data.labels.tolist() == [1, 1, 1]


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "pets")
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    assert len(load("~/pets").data) == 6


def test_a_file_name_may_begin_with_a_tilde(tmp_path: Path) -> None:
    folder = tmp_path / "~nobody-of-this-name"
    folder.mkdir()
    rows = []
    for number in range(4):
        pixels = np.full((8, 8), 40 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{folder.name}/{number}.png,{'ab'[number % 2]}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,label", *rows]))
    assert load(table).data.inputs[:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    (folder / "3.png").unlink()
    with pytest.raises(UserError, match=r"~nobody-of-this-name/3\.png"):
        load(table)
