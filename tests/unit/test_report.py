"""The report page, on run folders written by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labelwise.audit import cards, facts, tallies
from labelwise.audit.charts import Axes, lines_chart
from labelwise.audit.figures import loss_figure, reliability_figure
from labelwise.audit.report import write_report
from labelwise.audit.run_files import read_run
from labelwise.errors import UserError
from report_runs import judged_elsewhere, write_full_run, write_run

SECTIONS = ("worst", "loss", "mistaken", "classes", "curves", "about")
FILES = ("config.json", "metrics.jsonl", "labels.parquet", "summary.json", "evidence.npz")


class Page(HTMLParser):
    """Collects what a test asks about; unbalanced tags fail."""

    void = frozenset({"meta", "link", "img", "br", "line", "path", "rect", "circle", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words += data

    def count(self, tag: str, class_: str = "") -> int:
        """Number of elements of a tag that have a class."""
        return sum(
            name == tag and (not class_ or class_ in (attrs.get("class") or "").split())
            for name, attrs in self.tags
        )


def page_of(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob(".*.part"))
    return Page(path.read_text(encoding="utf-8"))


def test_every_section_is_there(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    found = {attrs.get("id") for _, attrs in page.tags}
    assert found >= set(SECTIONS)
    assert re.search(r"\d+ of 200 labels look wrong \(\d+%\)\.", page.words)
    for words in ("91.3%", "best 93.4%", "0.987", "really wrong: 19%", "1 min 15 s", "2.0 GB"):
        assert words in page.words
    assert page.words.count("1 image was skipped") == 1
    assert page.count("li", "card") == 60
    assert page.count("table", "heat") == 2
    assert page.count("figure", "chart") == 5
    assert "label_quality" in page.words
    assert "DivideMix, ICLR 2020" in page.words


def test_page_is_self_contained_and_accessible(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "url(" not in page.text
    assert "@import" not in page.text
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
        if tag == "img":
            assert attrs.get("alt")
    assert next(attrs for tag, attrs in page.tags if tag == "html") == {"lang": "en"}
    assert page.count("h1") == 1
    pictures = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 60 * 4
    assert all(source.startswith("data:image/png;base64,") for source in pictures)


def script_of(text: str) -> str:
    """The page's one script."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    return str(script)


def test_only_the_pages_own_script_is_allowed(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    script = script_of(page.text)
    assert len(script) < 8_000
    assert "\r" not in script
    assert not re.search("fetch|XMLHttp|import\\(|eval|innerHTML|<!--", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] or "" for t, a in page.tags if t == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"


def test_cards_carry_what_the_script_needs_exactly(tmp_path: Path) -> None:
    ids = [f'a\r\n\t\0"<\u202e\x7f🐈{k}' for k in range(200)]
    run = write_run(tmp_path, ids=ids)
    page = page_of(run)
    table = pd.read_parquet(run / "labels.parquet").set_index("id")
    shown = [a for t, a in page.tags if t == "li" and "data-id" in a]
    listing = next(a for t, a in page.tags if a.get("id") == "cards")
    classes = json.loads(listing["data-classes"] or "")
    assert classes == ["cat", "dog", "bird"]
    assert len(shown) == 60
    for card in shown:
        row = table.loc[json.loads(card["data-id"] or "")]
        assert classes[int(card["data-given"] or "")] == row.given_label
        suggested = int(card["data-suggested"] or "")
        assert (suggested >= 0) == row.is_suspect
        assert suggested < 0 or classes[suggested] == row.suggested_label
        assert float(card["data-quality"] or "") == pytest.approx(row.label_quality, abs=1e-6)


def test_new_sections(tmp_path: Path) -> None:
    page = page_of(write_full_run(tmp_path))
    found = {attrs.get("id") for _, attrs in page.tags}
    assert {"reliability", "copies"} <= found
    for words in (
        "really wrong: 19%; between 17% and 26%",
        "19% by anchor points, 21% by mixture",
        "about 87% of them expected to be wrong, 72% of the wrong labels among them",
        "quality below 0.43",
        "evidence combined on labels that were made wrong on purpose",
        "identical",
        "similarity 0.9",
    ):
        assert words in page.words
    squeezed = " ".join(page.words.split())
    assert "is 0.031 by 40 labels that were made wrong on purpose and 0.027 by the true" in squeezed
    assert "it is not guaranteed to be calibrated" not in squeezed
    assert page.count("dl", "bars") == 60
    names = [words for words in page.words.split("\n") if "neighbour vote" in words]
    assert len(names) >= 60
    assert page.count("figure", "chart") == 6
    titles = [attrs.get("title") or "" for tag, attrs in page.tags if tag == "td"]
    assert "20.0% of cat carry the label dog, between 15.0% and 26.0%" in titles
    widths = "half of the intervals off the diagonal are wider than 6.0 percentage points; the"
    assert widths in squeezed
    assert page.count("svg", "spread") == 3


def test_new_sections_for_many_classes(tmp_path: Path) -> None:
    classes = tuple(f"class {k}" for k in range(30))
    page = page_of(write_full_run(tmp_path, classes=classes, truth=False))
    squeezed = " ".join(page.words.split())
    first = squeezed.index("class 5class 2 40 20 and 81")
    assert first < squeezed.index("class 7class 3 12 6 and 24")
    assert page.count("table", "heat") == 0
    assert "Right, truth" not in page.words


def test_an_older_run_is_shown_without_the_new_sections(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"expected_precision": float("nan"), "calibration_error": None}
    (run / "summary.json").write_text(json.dumps(summary | {"noise_rate_interval": None}))
    page = page_of(run)
    found = {attrs.get("id") for _, attrs in page.tags}
    assert not {"reliability", "copies"} & found
    assert page.count("dl", "bars") == 0
    assert "it is not guaranteed to be calibrated" in " ".join(page.words.split())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("evidence", np.zeros((200, 2)), "evidence has shape"),
        ("transition", np.zeros((2, 2)), "transition has shape"),
        ("duplicates", np.array([[0, 200]]), "duplicates names a row"),
        ("duplicate_similarity", np.zeros(3), "duplicate_similarity has shape"),
    ],
)
def test_new_arrays_that_do_not_fit_are_named(
    tmp_path: Path, name: str, value: np.ndarray, message: str
) -> None:
    run = write_full_run(tmp_path)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file) | {name: value}
    np.savez(run / "evidence.npz", **arrays)
    with pytest.raises(UserError, match=message):
        write_report(run)


def test_reliability_without_planted_labels(tmp_path: Path) -> None:
    run = write_full_run(tmp_path)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    del arrays["reliability"]
    np.savez(run / "evidence.npz", **arrays)
    figure = reliability_figure(read_run(run))
    assert figure is not None
    assert [line.name for line in figure.chart.lines] == ["as it should be", "by the true labels"]
    assert len(figure.bins) == 9
    assert all(bin.right is None and bin.truly_right is not None for bin in figure.bins)
    page_of(run)
    arrays["reliability_truth"] = np.full((10, 3), np.nan)
    np.savez(run / "evidence.npz", **arrays)
    assert reliability_figure(read_run(run)) is None


def test_cards_stop_at_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path)
    monkeypatch.setattr(cards, "BUDGET", 0)
    assert page_of(run).count("li", "card") == cards.AT_LEAST


def test_names_and_ids_are_escaped(tmp_path: Path) -> None:
    classes = ("<script>alert(1)</script>", "a\"b'c", "</style><img src=x>", "x" * 300)
    ids = [f"\"'><b>ünï 日本/{k}" for k in range(200)]
    page = page_of(write_run(tmp_path, classes=classes, ids=ids))
    assert page.count("script") == 1
    assert "alert" not in script_of(page.text)
    assert page.count("b") == 0
    assert page.count("img") == 60 * 4
    assert classes[0] in page.words
    assert "\"'><b>ünï 日本/" in page.words


def test_without_truth_or_test_data(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, truth=False, test=False))
    assert "true label" not in page.words
    assert "truly" not in page.words
    assert "Test accuracy by epoch" not in page.text
    assert "There were no test data" in page.words
    assert "Sure suspects" in page.words
    assert page.count("figure", "chart") == 4


def test_embeddings_have_text_cards(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, shape=(16,), ids=list(range(200))))
    assert page.count("img") == 0
    assert page.count("li", "card") == 60
    assert "embeddings of 16 numbers" in page.words


def test_many_classes_are_listed_as_pairs(tmp_path: Path) -> None:
    classes = tuple(f"class {k}" for k in range(100))
    run = write_run(tmp_path, classes=classes, num_samples=3000)
    page = page_of(run)
    assert page.count("table", "heat") == 0
    assert "P(given | suggested)" in page.words
    pairs = tallies.frequent_pairs(read_run(run).labels, classes)
    assert len(pairs) == tallies.MOST_PAIRS
    table = pd.read_parquet(run / "labels.parquet")
    first = pairs[0]
    both = (table.given_label == first.given) & (table.suggested_label == first.suggested)
    assert (
        first.count
        == both.sum()
        == table[table.is_suspect].value_counts(["given_label", "suggested_label"]).max()
    )
    assert first.of_given == pytest.approx(both.sum() / (table.given_label == first.given).sum())
    of_suggested = both.sum() / (table.suggested_label == first.suggested).sum()
    assert first.of_suggested == pytest.approx(of_suggested)


def test_tallies_agree_with_pandas(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path))
    table = pd.read_parquet(tmp_path / "labels.parquet")
    counts = tallies.confusion(run.labels, 3)
    for i, given in enumerate(run.classes):
        for j, suggested in enumerate(run.classes):
            both = (table.given_label == given) & (table.suggested_label == suggested)
            assert counts[i, j] == both.sum()
    cells = tallies.transition_cells(counts, run.classes)
    share = counts[1, 0] / counts[:, 0].sum()  # P(given = 1 | suggested = 0)
    assert cells[0][1].text == f"{100 * share:.0f}"
    rows = tallies.class_rows(run.labels, run.classes)
    assert [row.share for row in rows] == sorted((row.share for row in rows), reverse=True)
    for row in rows:
        mine = table[table.given_label == row.name]
        assert (row.count, row.suspects) == (len(mine), mine.is_suspect.sum())
        assert row.quality == pytest.approx(mine.label_quality.mean(), rel=1e-6)
        assert row.wrong == pytest.approx((mine.given_label != mine.true_label).mean())


def test_losses_without_a_fit_and_a_doubted_fit(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "a", fitted=False))
    assert "No two groups could be" in page.words
    page = page_of(write_run(tmp_path / "b", fallback="the losses form a single group"))
    assert "Take it with care" in page.words
    assert "not to be relied on" in page.words


def test_losses_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    for number in (3, len(arrays["loss"])):
        arrays["loss"][:number] = np.nan
        np.savez(run / "evidence.npz", **arrays)
        figure = loss_figure(read_run(run))
        assert figure.num_not_finite == number
        assert (figure.chart is None) == (number == 200)
        page_of(run)


def test_large_images_are_reduced(tmp_path: Path) -> None:
    run = write_run(tmp_path, shape=(1, 160, 100), num_samples=60)
    path = write_report(run)
    assert b"data:image/jpeg;base64," in path.read_bytes()
    assert path.stat().st_size < 3_000_000


def test_size_at_32_pixels(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path, shape=(3, 32, 32)))
    assert path.stat().st_size < 3_000_000  # noise: the worst case for PNG


def test_no_suspects(tmp_path: Path) -> None:
    run = write_run(tmp_path, num_samples=40)
    table = pd.read_parquet(run / "labels.parquet")
    table["is_suspect"] = False
    table["suggested_label"] = table["given_label"]
    table.to_parquet(run / "labels.parquet")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"num_suspects": 0}))
    page = page_of(run)
    assert "None of the 40 labels looks wrong." in page.words
    assert page.count("li", "card") == 40
    assert page.count("s", "wrong") == 1  # the legend


@pytest.mark.parametrize("name", FILES)
def test_missing_and_broken_files_are_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path)
    (run / name).write_bytes(b"\x00 not what it was")
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(run)
    (run / name).unlink()
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    table = pd.read_parquet(run / "labels.parquet")
    table[:50].to_parquet(run / "labels.parquet")
    with pytest.raises(UserError, match=r"evidence\.npz is broken: it holds 200 losses for 50"):
        write_report(run)
    table.assign(given_label="cow").to_parquet(run / "labels.parquet")
    with pytest.raises(UserError, match="given_label holds a class"):
        write_report(run)
    table.drop(columns="is_suspect").to_parquet(run / "labels.parquet")
    with pytest.raises(UserError, match="no column is_suspect"):
        write_report(run)


def test_a_sample_of_no_class_is_right_to_doubt(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = run / "labels.parquet"
    table = pd.read_parquet(path)
    with np.load(run / "evidence.npz") as arrays:
        worst = arrays["worst"]
    doubted, trusted = worst[0], worst[-1]
    assert table.is_suspect[doubted]
    assert not table.is_suspect[trusted]
    table.loc[[doubted, trusted], "true_label"] = None
    table.to_parquet(path, index=False)
    found = read_run(run)
    assert found.labels.truth is not None
    assert found.labels.truth[[doubted, trusted]].tolist() == [-1, -1]
    shown = cards.build_cards(found)
    assert [(c.truth, c.right) for c in (shown[0], shown[-1])] == [
        ("none of the classes", True),
        ("none of the classes", False),
    ]
    rows = tallies.class_rows(found.labels, found.classes)
    wrong = sum(row.wrong * row.count for row in rows if row.wrong is not None)
    assert wrong == pytest.approx((table.given_label != table.true_label).sum())
    assert page_of(run).text.count(">none of the classes<") == 2
    table.loc[doubted, "given_label"] = None
    table.to_parquet(path, index=False)
    with pytest.raises(UserError, match="given_label holds a class"):
        read_run(run)


def test_labels_judged_by_probabilities_from_elsewhere(tmp_path: Path) -> None:
    run = judged_elsewhere(write_run(tmp_path, test=False))
    page = page_of(run)
    assert "Judged by the logits in p.npy, computed elsewhere." in page.words
    assert "Trained with" not in page.words
    assert "labelwise audit x --pred-probs p.npy" in page.words
    assert "How training went" not in page.words
    assert not [a for name, a in page.tags if name == "a" and a.get("href") == "#curves"]
    assert read_run(run).epochs == []


def test_command_repeats_the_run(tmp_path: Path) -> None:
    words = shlex.split(facts.command(read_run(write_run(tmp_path))))
    assert words[:5] == ["labelwise", "fit", "my data.npz", "--method", "dividemix"]
    assert words[words.index("--seed") + 1] == "3"
    assert words[words.index("--epochs") + 1] == "4"
    settings = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    assert settings == ["schedule.warmup=1", "dividemix.alpha=4.0"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0%"), (0.28, "28%"), (0.069, "6.9%"), (1e-5, "<0.1%"), (1.0, "100%")]
)
def test_percent(value: float, text: str) -> None:
    assert facts.percent(value) == text


def test_a_line_breaks_where_a_value_is_missing() -> None:
    axes = Axes((0.0, 4.0), (0.0, 1.0))
    y = np.array([0.0, 0.5, np.nan, 1.0, 0.0])
    path = axes.line("a", "s0", np.arange(5.0), y).path
    assert path.count("M") == 2
    assert path.count("L") == 2


def test_chart_of_one_epoch_and_of_nothing() -> None:
    chart = lines_chart("Loss", {"a": [0.5]}, [1], "loss")
    assert chart is not None
    assert len(chart.lines[0].dots) == 1
    assert lines_chart("Loss", {"a": [float("nan")]}, [1], "loss") is None
