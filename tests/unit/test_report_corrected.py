"""The report's section on easy, hard and corrected samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labelwise.audit import voters as module
from labelwise.audit.charts import Chart
from labelwise.audit.corrected import Hardness, build_hardness
from labelwise.audit.curves import curves, sorting_charts
from labelwise.audit.report import write_report
from labelwise.audit.run_files import read_run
from labelwise.audit.scatter import FLATTEST, TALLEST, WIDTH, Canvas, marks_of, names_of
from labelwise.errors import UserError
from report_runs import judged_elsewhere, with_hardness, with_masks, write_full_run, write_run


def section_of(run: Path) -> str:
    """The section's HTML, "" where it is not there."""
    page = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section id="hardness">.*?</section>', page, flags=re.S)
    assert bool(found) == ('href="#hardness"' in page)
    return found.group() if found else ""


def words_of(html: str) -> str:
    """HTML without tags, its spaces squeezed."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def made(path: Path, **options: Any) -> Path:
    """A run of anchor hallucination."""
    own = {name: options.pop(name) for name in ("anchors", "networks") if name in options}
    return with_hardness(write_run(path, **options), **own)


def built(run: Path) -> Hardness:
    found = build_hardness(read_run(run))
    assert found is not None
    return found


def changed(run: Path, **arrays: Any) -> Path:
    """The run with other arrays in its evidence; None takes one away."""
    with np.load(run / "evidence.npz") as file:
        merged = dict(file) | {f"hardness_{name}": value for name, value in arrays.items()}
    kept = {name: value for name, value in merged.items() if value is not None}
    np.savez(run / "evidence.npz", **kept)
    return run


def titles_of(charts: list[Chart] | tuple[Chart, ...]) -> list[str]:
    return [chart.title for chart in charts]


# -- the section ---------------------------------------------------------------------------------


def test_counts_are_those_of_the_states(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    found = built(run.path)
    state, target = run.arrays["hardness_state"], run.arrays["hardness_target"]
    labels = run.labels
    assert labels.truth is not None
    counts = [part.count for part in (found.easy, found.hard, found.corrected)]
    assert counts == np.bincount(state)[1:].tolist()
    assert sum(part.share for part in (found.easy, found.hard, found.corrected)) == pytest.approx(1)
    assert found.left_out == 4
    assert found.changed == ((state == 3) & (target != labels.given)).sum()
    assert found.easy.right == (labels.given == labels.truth)[state == 1].mean()
    assert found.hard.right == (labels.given == labels.truth)[state == 2].mean()
    assert found.corrected.right == (target == labels.truth)[state == 3].mean()


def test_classes_with_the_fewest_easy_samples_come_first(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    rows = built(run.path).classes
    labels, state = run.labels, run.arrays["hardness_state"]
    target = run.arrays["hardness_target"]
    assert sorted(row.name for row in rows) == sorted(run.classes)
    shares = [row.easy / row.count for row in rows]
    assert shares == sorted(shares)
    for row in rows:
        number = run.classes.index(row.name)
        own = labels.given == number
        counts = [int((own & (state == code)).sum()) for code in (1, 2, 3)]
        assert [row.easy, row.hard, row.corrected] == counts
        assert row.gained == ((target == number) & (state == 3)).sum()
        assert row.easy_right == pytest.approx((labels.truth == number)[own & (state == 1)].mean())
        assert row.gained_right == pytest.approx(
            (labels.truth == number)[(target == number) & (state == 3)].mean()
        )
        assert sum(row.shares) == pytest.approx(100)
    words = words_of(section_of(run.path))
    fewest = rows[0]
    assert f"first: {fewest.name} with {fewest.easy} of {fewest.count}." in words


def test_a_class_without_easy_or_given_samples_is_shown(tmp_path: Path) -> None:
    run = made(tmp_path)
    with np.load(run / "evidence.npz") as file:
        state, target = file["hardness_state"].copy(), file["hardness_target"].copy()
    given = read_run(run).labels.given
    state[(given == 2) & (state == 1)] = 2
    html = section_of(changed(run, state=state))
    assert "first: bird with 0 of" in words_of(html)
    assert "–" in html
    state[given == 2] = 0  # only by votes of others
    target[given == 2] = -1
    rows = built(changed(run, state=state, target=target)).classes
    assert [row.count for row in rows if row.name == "bird"] == [0]


def test_words_of_the_section(tmp_path: Path) -> None:
    run = made(tmp_path)
    words = words_of(section_of(run))
    for part in (
        "How hard samples got their labels",
        "learnt by a small network of its own",
        "4 labels are left out, in whose place another was trained on.",
        "As of the last epoch, which begins",
        "Right and wrong are by the true labels",
        "Easy and corrected samples",
        "By the true labels",
    ):
        assert part in words
    found = built(run)
    confirmed = found.corrected.count - found.changed
    assert confirmed > 0
    assert f"{found.changed} got another label, {confirmed} were confirmed" in words
    two = words_of(section_of(made(tmp_path / "two", networks=2)))
    assert "As of the last epoch, by the first network, which" in two


def test_columns_of_the_labels_are_explained(tmp_path: Path) -> None:
    for name, run in (("with", made(tmp_path / "1")), ("without", write_run(tmp_path / "2"))):
        page = write_report(run).read_text(encoding="utf-8")
        for column in ("state", "corrected_label", "vote_share"):
            assert (f"<code>{column}</code>" in page) == (name == "with")


# -- cards ---------------------------------------------------------------------------------------


def test_every_card_has_its_voters(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    found = built(run.path)
    arrays = {name: run.arrays[f"hardness_{name}"] for name in module_names()}
    assert len(found.cards) == len(arrays["rows"]) == 14
    table = pd.read_parquet(run.path / "labels.parquet")
    for place, card in enumerate(found.cards):
        row = arrays["rows"][place]
        assert card.id == table.id[row]
        assert (card.given, card.label) == (table.given_label[row], table.suggested_label[row])
        assert card.changed
        assert card.right == (card.label == table.true_label[row])
        near = arrays["near"][place][arrays["near"][place] >= 0]
        assert [vote.near.id for vote in card.votes] == table.id[near].tolist()
        assert all(vote.agrees and vote.far is not None for vote in card.votes)
        assert [vote.similarity for vote in card.votes] == pytest.approx(
            arrays["similarity"][place][: len(near)]
        )
    assert found.cards[0].voters == len(found.cards[0].votes) + 2
    last = found.cards[-1]
    assert last.votes_for == round(last.voters / 2)
    html = section_of(run.path)
    assert html.count('<li class="card box">') == 14
    assert html.count('class="track"') == (arrays["near"] >= 0).sum()
    assert html.count("and 2 more") == 1
    _, _, folded = html.partition("<details>")
    assert folded.count('<li class="card box">') == 2
    assert "Show 2 more" in folded
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) == 14 + 2 * (arrays["near"] >= 0).sum()
    assert all(re.search('alt="[^"]', picture) for picture in pictures)


def module_names() -> list[str]:
    return [name.removeprefix("hardness_") for name in module.ARRAYS]


def test_easy_samples_that_vote_have_no_partner(tmp_path: Path) -> None:
    run = made(tmp_path, anchors="easy")
    assert all(vote.far is None for card in built(run).cards for vote in card.votes)
    html = section_of(run)
    assert "track" not in html
    assert "each easy sample votes with its class" in words_of(html)
    assert "Below each, the easy samples that voted" in words_of(html)


def test_mixed_anchors_and_none(tmp_path: Path) -> None:
    mixed = words_of(section_of(made(tmp_path / "1", anchors="mixed")))
    assert "on the straight line between both" in mixed
    html = section_of(made(tmp_path / "2", anchors="none"))
    assert "In this run nothing voted on them" in words_of(html)
    assert "Who voted" not in html
    assert "No vote changed" not in html
    picture = built(tmp_path / "2").picture
    assert picture is not None
    assert [part.name for part in picture.marks] == ["hard", "easy"]


def test_nothing_changed(tmp_path: Path) -> None:
    run = made(tmp_path)
    with np.load(run / "evidence.npz") as file:
        empty = {name: file[f"hardness_{name}"][:0] for name in (*module_names()[1:], "images")}
    html = section_of(changed(run, **empty))
    assert "No vote changed a label, and no votes were split." in words_of(html)


def test_votes_for_another_label_are_marked(tmp_path: Path) -> None:
    run = made(tmp_path)
    with np.load(run / "evidence.npz") as file:
        labels = file["hardness_near_labels"].copy()
    labels[0, 1] = (labels[0, 1] + 1) % 3
    card = built(changed(run, near_labels=labels)).cards[0]
    assert [vote.agrees for vote in card.votes] == [True, False, *[True] * (len(card.votes) - 2)]
    assert re.search(r'<ul class="votes".*?<span class="name wrong"', section_of(run), re.S)


def test_embeddings_are_shown_by_their_ids(tmp_path: Path) -> None:
    run = made(tmp_path, shape=(16,), truth=False)
    html = section_of(run)
    assert "<img" not in html
    assert html.count('<li class="card box">') == 14
    for card in built(run).cards:
        assert (card.picture, card.truth, card.right) == (None, None, None)
        for vote in card.votes:
            assert f">{vote.near.id}</div>" in html
    assert "truth" not in words_of(html)
    assert "true labels" not in words_of(html)


def test_the_page_stops_adding_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(module, "BUDGET", 10)
    assert len(built(run).cards) == 1


# -- the picture ---------------------------------------------------------------------------------


def test_the_picture_has_a_mark_for_every_point_and_few_nodes(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    picture = built(run.path).picture
    assert picture is not None
    rows = run.arrays["hardness_point_rows"]
    state, target = run.arrays["hardness_state"][rows], run.arrays["hardness_target"][rows]
    assert run.labels.truth is not None
    right = target == run.labels.truth[rows]
    counts = {part.name: part.count for part in picture.marks}
    assert counts == {
        "hard": (state == 2).sum(),
        "easy": (state == 1).sum(),
        "anchors": len(run.arrays["hardness_anchor_rows"]),
        "corrected, rightly": ((state == 3) & right).sum(),
    }
    for part in picture.marks:
        assert part.path.count("M") == part.count
        x, y = np.array(re.findall(r"M([\d.]+) ([\d.]+)", part.path), dtype=float).T
        assert ((x > 5) & (x < picture.width - 5) & (y > 5) & (y < picture.height - 5)).all()
    assert [name.text for name in picture.names] == ["cat", "dog", "bird"]
    html = section_of(run.path)
    drawn = re.search(r'<svg class="points".*?</svg>', html, re.S)
    assert drawn is not None
    assert len(re.findall("<(?:path|text|circle|g)", drawn.group())) == 4 + 3
    assert f"{counts['easy']} easy" in drawn.group()


def test_wrong_corrections_are_told_apart_only_by_the_truth(tmp_path: Path) -> None:
    run = made(tmp_path / "1")
    with np.load(run / "evidence.npz") as file:
        target = file["hardness_target"].copy()
        target[np.flatnonzero(file["hardness_state"] == 3)[:3]] ^= 1
    picture = built(changed(run, target=np.clip(target, -1, 2))).picture
    assert picture is not None
    assert "corrected, wrongly" in [part.name for part in picture.marks]
    picture = built(made(tmp_path / "2", truth=False)).picture
    assert picture is not None
    assert [part.name for part in picture.marks] == ["hard", "easy", "anchors", "corrected"]


@pytest.mark.parametrize("spans", [(1.0, 0.5), (0.5, 1.0), (1.0, 0.01), (1.0, 1.0), (0.0, 0.0)])
def test_both_axes_are_scaled_alike(spans: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    points = random.random((50, 2)) * spans
    canvas = Canvas(points)
    placed, (width, height) = canvas.placed(), canvas.size
    assert width == WIDTH
    assert FLATTEST <= height <= TALLEST
    assert (placed >= 0).all()
    assert (placed <= [width, height]).all()
    if min(spans):
        far = np.linalg.norm(points[:, None] - points, axis=2)
        drawn = np.linalg.norm(placed[:, None] - placed, axis=2)
        ratio = drawn[far > 0.2] / far[far > 0.2]
        assert np.ptp(ratio) / ratio.mean() < 0.02


def test_names_stand_amid_their_points() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat([0, 2, 3], 30)
    placed = np.array([[100, 100], [0, 0], [300, 80], [2, 5]])[groups] + random.random((90, 2))
    long = "a class whose name is long"
    names = names_of(["one", "two", long, "four" * 3], groups, placed, (640, 400))
    assert [name.whole for name in names] == ["one", long, "four" * 3]
    assert (names[0].x, names[0].y) == pytest.approx((100.5, 100.5), abs=0.3)
    assert names[1].text == "a class whose…"
    assert names[2].x > 50  # not cut off at the edge
    marks = marks_of("some", "easy", "dot", placed[:2])
    assert (marks.count, marks.path.count("h0")) == (2, 2)


def test_many_classes_have_no_names(tmp_path: Path) -> None:
    names = tuple(f"class {k}" for k in range(30))
    picture = built(made(tmp_path, classes=names, num_samples=600)).picture
    assert picture is not None
    assert picture.names == ()


# -- curves --------------------------------------------------------------------------------------


def test_curves_begin_after_the_warm_up(tmp_path: Path) -> None:
    run = read_run(made(tmp_path))
    charts = sorting_charts(run)
    assert titles_of(charts) == ["Easy and corrected samples", "By the true labels"]
    assert [line.name for line in charts[0].lines] == ["easy", "corrected"]
    assert [line.name for line in charts[1].lines] == [
        "easy, right",
        "corrected, right",
        "hard but right, used",
        "wrong labels mended",
    ]
    assert float(charts[0].x_ticks[0].text) == 2
    assert "easy from 0.6 to 0.56" in charts[0].words
    others = titles_of(curves(run))
    assert "How anchors are learnt" in others
    assert "How anchors vote" in others
    assert "The division by the true labels" not in others


def test_curves_of_two_networks_and_without_truth(tmp_path: Path) -> None:
    run = read_run(made(tmp_path, networks=2, truth=False))
    charts = sorting_charts(run)
    assert titles_of(charts) == ["Easy and corrected samples"]
    assert [line.name for line in charts[0].lines] == [
        "easy, network 1",
        "easy, network 2",
        "corrected, network 1",
        "corrected, network 2",
    ]


def test_runs_that_only_divide_show_what_the_division_is_worth(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert "The division by the true labels" not in titles_of(curves(read_run(run)))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        row |= {"labelled_right": 0.9, "hard_clean_kept": 0.5, "wrong_mended": 0.0}
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    charts = [c for c in curves(read_run(run)) if c.title == "The division by the true labels"]
    assert [line.name for line in charts[0].lines] == [
        "right among those learnt from",
        "hard but right, used",
    ]
    assert section_of(run) == ""


# -- other runs and broken files -----------------------------------------------------------------


def test_nothing_where_nothing_was_sorted(tmp_path: Path) -> None:
    assert section_of(write_run(tmp_path / "old")) == ""
    assert section_of(write_full_run(tmp_path / "full")) == ""
    assert section_of(with_masks(write_run(tmp_path / "masks"))) == ""
    assert section_of(judged_elsewhere(write_full_run(tmp_path / "else"))) == ""
    run = made(tmp_path / "warm-up")
    never = np.zeros(200, dtype=np.uint8)
    assert section_of(changed(run, state=never, target=never.astype(np.int8) - 1)) == ""


def test_parts_may_be_missing(tmp_path: Path) -> None:
    html = section_of(changed(made(tmp_path / "1"), points=None))
    assert "How to read it" not in html
    assert "Who voted for what" in html
    html = section_of(
        changed(made(tmp_path / "2"), **dict.fromkeys(module_names()[1:], None), images=None)
    )
    assert "Who voted for what" not in html
    html = section_of(changed(made(tmp_path / "3"), images=None, voter_images=None))
    assert "<img" not in html


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", np.full(200, 4, dtype=np.uint8)),
        ("state", np.ones(199, dtype=np.uint8)),
        ("target", np.full(200, 3)),
        ("target", np.full(200, -1)),
        ("trust", np.full(200, np.nan)),
        ("rows", np.full(14, 200)),
        ("rows", np.zeros((14, 2), dtype=int)),
        ("voters", np.ones(3)),
        ("near", np.zeros(14, dtype=int)),
        ("near", np.full((14, 4), 900)),
        ("far", np.zeros((14, 3), dtype=int)),
        ("near_labels", np.full((14, 4), 3)),
        ("far_labels", np.zeros((14, 1), dtype=int)),
        ("closeness", np.full((14, 4), 1.5)),
        ("similarity", np.full((14, 4), np.nan)),
        ("images", np.zeros((13, 3, 8, 8), dtype=np.uint8)),
        ("voter_images", np.zeros((2, 3, 8, 8), dtype=np.uint8)),
        ("points", np.zeros((5, 2), dtype=np.float32)),
        ("point_rows", np.full(196, -1)),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, value: np.ndarray) -> None:
    run = changed(made(tmp_path), **{name: value})
    with pytest.raises(UserError, match=r"evidence\.npz is broken: hardness_.+ does not fit"):
        write_report(run)


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    ids = [f'<img src=x onerror=throw>"{k}' for k in range(200)]
    classes = ("<b>cat</b>", "</text><script>throw</script>", "bird")
    html = section_of(made(tmp_path, ids=ids, classes=classes))
    assert "<img src=x" not in html
    assert "<b>" not in html
    assert "<script>" not in html
