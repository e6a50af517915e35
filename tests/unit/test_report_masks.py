"""The report's section on what the network looks at."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from labelwise.audit import looks as module
from labelwise.audit.facts import chance
from labelwise.audit.focus import focus_figure
from labelwise.audit.looks import build_looks, heat_picture
from labelwise.audit.report import write_report
from labelwise.audit.run_files import read_run
from labelwise.errors import UserError
from report_runs import judged_elsewhere, with_masks, write_full_run, write_run


def section_of(run: Path) -> str:
    """The section's HTML, "" where it is not there."""
    page = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section id="looks">.*?</section>', page, flags=re.S)
    assert bool(found) == ('href="#looks"' in page)
    return found.group() if found else ""


def words_of(html: str) -> str:
    """HTML without tags, its spaces squeezed."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def made(path: Path, shape: tuple[int, ...] = (3, 8, 8), truth: bool = True, **kind: Any) -> Path:
    """A run that masks, with few cards."""
    run = with_masks(write_run(path, shape=shape, truth=truth), **kind)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    for name in ("worst", "neighbours", "similarity", "worst_images", "neighbour_images"):
        arrays[name] = arrays[name][:4]
    np.savez(run / "evidence.npz", **arrays)
    return run


def changed(run: Path, **arrays: Any) -> Path:
    """The run with other arrays in its evidence; None takes one away."""
    with np.load(run / "evidence.npz") as file:
        merged = dict(file) | {f"masks_{name}": value for name, value in arrays.items()}
    kept = {name: value for name, value in merged.items() if value is not None}
    np.savez(run / "evidence.npz", **kept)
    return run


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# -- the section -------------------------------------------------------------------------------


def test_every_pair_has_all_its_pictures(tmp_path: Path) -> None:
    html = section_of(made(tmp_path))
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) == (2 * 3 + 1) * 5  # three pairs and one without a partner
    for picture in pictures:
        assert 'src="data:image/png;base64,' in picture
        assert 'class="pixelated"' in picture
    alts = [re.search(r'alt="(.*?)"', picture) for picture in pictures]
    words = [alt.group(1) for alt in alts if alt]
    assert len(set(words)) == len(pictures)
    assert len(re.findall("place that it responds to most$", "\n".join(words), re.M)) == 7
    assert len(re.findall("where the network responds to sample row-", "\n".join(words))) == 7
    assert html.count('<li class="box">') == 4
    assert html.count("<figcaption>hot covered") == html.count("<figcaption>cold covered") == 7
    assert html.count('<i style="top:25.0%;left:50.0%;height:12.5%;width:25.0%">') == 14
    assert html.count("3.1%</span>") == 14


def test_words_of_the_section(tmp_path: Path) -> None:
    run = made(tmp_path)
    table = read_run(run)
    words = words_of(section_of(run))
    for part in (
        "What the network looks at",
        "What to look for:",
        "places that do not matter",
        "that are surely right, by a quality of at least 90%.",
        "more where the label is doubtful",
        "4 × 4 cells.",
        "in the 4 strongest of its 16 cells: an even map has 25%",
        "Rebuilt : what its decoder makes of the first masked copy",
    ):
        assert part in words
    with np.load(run / "evidence.npz") as file:
        rows = file["masks_rows"]
    assert table.labels.truth is not None
    for row, partner in rows.tolist():
        given = table.classes[table.labels.given[row]]
        truth = table.classes[table.labels.truth[row]]
        quality = chance(table.labels.quality[row])
        assert (
            f"given {given} label right {quality} truth {truth} : the given label is wrong" in words
        )
        if partner >= 0:
            quality = chance(table.labels.quality[partner])
            assert (
                f"given {given} label right {quality} truth {given} : the given label is" in words
            )
    alone = table.classes[table.labels.given[rows[3, 0]]]
    assert f"No further sample labelled {alone} is surely right." in words


def test_what_each_picture_shows(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    found = build_looks(run)
    assert found is not None
    doubtful, sure = found.pairs[0]
    assert sure is not None
    stored = run.arrays["masks_pictures"][0, 1]
    titles = [picture.title for picture in sure.pictures]
    assert titles == ["image", "activation", "hot covered", "cold covered", "rebuilt"]
    shown = [pixels_of(picture.uri).transpose(2, 0, 1) for picture in sure.pictures]
    for place, picture in zip((0, 2, 3, 4), stored, strict=True):
        assert (shown[place] == picture).all()
    assert (shown[1] == heat_picture(stored[0], run.arrays["masks_maps"][0, 1])).all()
    assert [picture.box is not None for picture in sure.pictures] == [0, 0, 1, 1, 0]
    assert sure.pictures[2].covered == pytest.approx(0.125 * 0.25)
    assert (doubtful.right, sure.right) == (False, True)


def test_heat_grows_brighter_with_the_activation() -> None:
    heat = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = heat_picture(np.full((1, 16, 16), 90, dtype=np.uint8), heat).astype(float)
    luminance = np.tensordot([0.2126, 0.7152, 0.0722], picture, axes=1).flatten()
    smooth = luminance[8:] - luminance[:-8]
    assert (smooth > 0).all()
    assert picture.shape == (3, 16, 16)


@pytest.mark.parametrize(
    "place",
    [(0, 0, "top left"), (0, 5, "top centre"), (4, 4, "middle centre"), (8, 8, "bottom right")],
)
def test_alt_text_says_where_the_activation_is_strongest(
    tmp_path: Path, place: tuple[int, int, str]
) -> None:
    row, column, words = place
    maps = np.zeros((4, 2, 9, 9), dtype=np.uint8)
    maps[:, :, row, column] = 255
    run = changed(made(tmp_path, size=(9, 9)), maps=maps)
    assert section_of(run).count(f"most at the {words}") == 7
    assert "everywhere alike" in section_of(changed(run, maps=np.full_like(maps, 255)))


# -- other runs --------------------------------------------------------------------------------


def test_nothing_without_masks(tmp_path: Path) -> None:
    assert section_of(write_run(tmp_path / "old")) == ""
    assert section_of(write_full_run(tmp_path / "full")) == ""
    assert section_of(write_full_run(tmp_path / "embeddings", shape=(16,))) == ""
    assert section_of(judged_elsewhere(write_full_run(tmp_path / "else"))) == ""
    assert section_of(changed(made(tmp_path / "part"), maps=None)) == ""


def test_the_page_is_written_from_the_files_alone(tmp_path: Path) -> None:
    run = made(tmp_path)
    first = section_of(run)
    (run / "report.html").unlink()
    assert section_of(run) == first


@pytest.mark.parametrize(
    ("kinds", "words", "num_pictures"),
    [
        (
            ("image", "hot", "cold"),
            "over the most active place in a copy of the image, or over the least active one (the",
            4,
        ),
        (("image", "hot"), "over the most active place in a copy", 3),
        (("image", "cold", "rebuilt"), "over the least active place in a copy", 4),
        (("image", "random", "random"), "a place drawn at random in a copy of the image (the", 4),
        (("image",), "In this run nothing was covered.", 2),
        (("image", "rebuilt"), "makes of the image,", 3),
    ],
)
def test_other_settings(
    tmp_path: Path, kinds: tuple[str, ...], words: str, num_pictures: int
) -> None:
    html = section_of(made(tmp_path, kinds=kinds))
    assert words in words_of(html)
    assert html.count("<img") == 7 * num_pictures
    assert html.count('<i style="top') == 7 * sum(k not in ("image", "rebuilt") for k in kinds)


def test_masks_that_do_not_depend_on_the_label(tmp_path: Path) -> None:
    run = changed(made(tmp_path), ratio=np.array("fixed"))
    assert "more where the label is doubtful" not in words_of(section_of(run))


def test_runs_without_truth_and_without_partners(tmp_path: Path) -> None:
    run = made(tmp_path, truth=False)
    words = words_of(section_of(run))
    assert "truth" not in words
    assert "By the label quality" in words
    with np.load(run / "evidence.npz") as file:
        rows = file["masks_rows"]
    rows[:, 1] = -1
    words = words_of(section_of(changed(run, rows=rows)))
    assert "no sample with the same given label is surely right" in words
    assert "left and right" not in words


def test_large_grey_pictures_become_photographs(tmp_path: Path) -> None:
    run = with_masks(write_run(tmp_path, shape=(1, 64, 96)), size=(64, 96), channels=1)
    html = section_of(run)
    assert html.count('src="data:image/jpeg;base64,') == 35
    assert "pixelated" not in html


def test_the_page_stops_adding_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(module, "BUDGET", 10)
    found = build_looks(read_run(run))
    assert found is not None
    assert len(found.pairs) == 1


def test_further_pairs_unfold(tmp_path: Path) -> None:
    run = made(tmp_path)
    with np.load(run / "evidence.npz") as file:
        twice = {
            name: np.concatenate([file[f"masks_{name}"]] * 2)
            for name in ("rows", "pictures", "maps", "boxes")
        }
    assert "<details>" not in section_of(run)
    html = section_of(changed(run, **twice))
    assert html.count("<img") == 70
    opened, _, folded = html.partition("<details>")
    assert opened.count("<img") == folded.count("<img") == 35
    assert "Show 4 more" in folded


def test_coarse_maps(tmp_path: Path) -> None:
    single = words_of(section_of(made(tmp_path / "1", grid=(1, 1))))
    assert "has a single cell, though, and says nothing of places" in single
    assert "How to read it" not in single
    coarse = words_of(section_of(made(tmp_path / "2", grid=(2, 2))))
    assert "2 × 2 cells, so it only says roughly where" in coarse
    assert "in the strongest of its 4 cells: an even map has 25%" in coarse


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ("random", "in a copy of the image (the percentage"),
        (
            "coarse",
            "in a copy of the image, because the activation map is too coarse to say where (t",
        ),
        ("flat", "in a copy of the image, because the activation map is everywhere the same (the"),
    ],
)
def test_why_places_are_random(tmp_path: Path, places: str, words: str) -> None:
    """The activation is shown all the same, but nobody is to compare the places of a flat one."""
    run = made(tmp_path, kinds=("image", "random", "random"), grid=(2, 2))
    html = section_of(changed(run, places=np.array(places)))
    assert f"over a place drawn at random {words}" in words_of(html)
    assert html.count("<figcaption>activation") == 7
    assert html.count("<figcaption>masked") == 14
    assert ("says nothing of places" in words_of(html)) == (places == "flat")
    assert ("so it only says roughly where" in words_of(html)) == (places != "flat")
    none = made(tmp_path / "none", kinds=("image",))
    assert "because" not in words_of(section_of(changed(none, places=np.array(places))))


# -- the figure --------------------------------------------------------------------------------


def test_figure_by_the_true_labels(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    figure = focus_figure(run)
    assert figure is not None
    assert run.labels.truth is not None
    wrong = run.labels.given != run.labels.truth
    values = run.arrays["masks_focus"].astype(float)
    parts = values[wrong], values[~wrong]
    for group, part in zip(figure.groups, parts, strict=True):
        assert (group.number, group.mean) == (len(part), pytest.approx(part.mean()))
        assert group.spread == pytest.approx(part.std(ddof=1))
    welch = stats.ttest_ind(*parts, equal_var=False).confidence_interval()
    assert figure.difference == pytest.approx(parts[0].mean() - parts[1].mean())
    assert figure.interval == pytest.approx((welch.low, welch.high), abs=0.002)
    assert figure.differs
    assert figure.by_truth
    words = words_of(section_of(run.path))
    assert "the network looks more narrowly at samples whose label is wrong" in words
    assert f"truly wrong {wrong.sum()} {100 * parts[0].mean():.1f}%" in words


def test_figure_by_the_label_quality(tmp_path: Path) -> None:
    run = read_run(made(tmp_path, truth=False))
    figure = focus_figure(run)
    assert figure is not None
    assert not figure.by_truth
    sure = run.labels.quality >= 0.9
    numbers = [group.number for group in figure.groups]
    assert numbers == [run.labels.suspect.sum(), sure.sum()]


def test_figure_where_nothing_differs(tmp_path: Path) -> None:
    run = made(tmp_path)
    focus = np.tile(np.float32([0.3, 0.4, 0.5]), 67)[:200]
    words = words_of(section_of(changed(run, focus=focus)))
    assert "too little to say that the two groups differ" in words
    assert not re.search(r"[-−]0\.0", words)


def test_no_figure_of_too_few_samples(tmp_path: Path) -> None:
    run = made(tmp_path)
    figure = focus_figure(read_run(changed(run, focus=np.full(200, np.nan, dtype=np.float32))))
    assert figure is None
    few = np.arange(9)
    run = changed(run, focus=np.full(9, 0.4, dtype=np.float32), focus_rows=few)
    assert focus_figure(read_run(run)) is None
    assert "How to read it" not in words_of(section_of(run))


def test_figure_of_equal_values_is_drawn(tmp_path: Path) -> None:
    run = changed(made(tmp_path), focus=np.full(200, 0.25, dtype=np.float32))
    figure = focus_figure(read_run(run))
    assert figure is not None
    assert "nan" not in section_of(run)


# -- broken files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", np.array([[0, 1]])),
        ("rows", np.array([[0, 900]] * 4)),
        ("rows", np.array([[-2, 1]] * 4)),
        ("rows", np.array([[-1, 1]] * 4)),
        ("pictures", np.zeros((4, 2, 4, 3, 8), dtype=np.uint8)),
        ("kinds", np.array(["image"])),
        ("maps", np.zeros((4, 2, 8, 9), dtype=np.uint8)),
        ("boxes", np.zeros((4, 2, 2, 3), dtype=np.float32)),
        ("boxes", np.zeros((4, 2), dtype=np.float32)),
        ("grid", np.array([4, 4, 4])),
        ("focus", np.zeros(3, dtype=np.float32)),
        ("focus_rows", np.full(200, 200)),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, value: np.ndarray) -> None:
    run = changed(made(tmp_path), **{name: value})
    with pytest.raises(UserError, match=r"evidence\.npz is broken: masks_.+ does not fit"):
        write_report(run)


def test_hostile_ids_are_escaped(tmp_path: Path) -> None:
    ids = [f'<img src=x onerror=throw>"{k}' for k in range(200)]
    html = section_of(with_masks(write_run(tmp_path, ids=ids)))
    assert "<img src=x" not in html
    assert html.count("<img ") == 35
