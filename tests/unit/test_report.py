"""The report page, on run folders written by hand."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labelwise.audit import facts, tallies
from labelwise.audit.charts import Axes, lines_chart
from labelwise.audit.figures import loss_figure
from labelwise.audit.report import write_report
from labelwise.audit.run_files import read_run
from labelwise.errors import UserError

SECTIONS = ("worst", "loss", "mistaken", "classes", "curves", "about")
FILES = ("config.json", "metrics.jsonl", "labels.parquet", "summary.json", "evidence.npz")


def write_run(
    path: Path,
    *,
    num_samples: int = 200,
    classes: tuple[str, ...] = ("cat", "dog", "bird"),
    truth: bool = True,
    shape: tuple[int, ...] = (3, 8, 8),
    ids: list[Any] | None = None,
    fitted: bool = True,
    fallback: str | None = None,
    test: bool = True,
) -> Path:
    """A finished run in which every wrong label (about 20%) is found, by hand."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = np.array(classes, dtype=object)
    true = random.integers(0, len(classes), num_samples)
    given = np.where(random.random(num_samples) < 0.2, (true + 1) % len(classes), true)
    wrong = given != true
    quality = np.where(wrong, 0.1, 0.9) + 0.05 * random.random(num_samples)
    table = pd.DataFrame(
        {
            "id": [f"row-{k}" for k in range(num_samples)] if ids is None else ids,
            "given_label": names[given],
            "label_quality": quality.astype(np.float32),
            "predicted_label": names[true],
            "suggested_label": names[true],
            "suggestion_confidence": np.full(num_samples, 0.8, dtype=np.float32),
            "is_suspect": wrong,
        }
    )
    if truth:
        table["true_label"] = names[true]
    table.to_parquet(path / "labels.parquet", index=False)
    images = len(shape) == 3
    worst = np.argsort(quality)[:60]
    grid = np.linspace(0, 4, 50)
    bumps = np.stack([np.exp(-((grid - 0.2) ** 2)), 0.2 * np.exp(-((grid - 2.5) ** 2))])
    arrays = {
        "loss": -np.log(quality),
        "loss_grid": grid,
        "loss_density": bumps if fitted else np.zeros_like(bumps),
        "worst": worst,
        "neighbours": random.integers(0, num_samples, (len(worst), 3)),
        "similarity": random.random((len(worst), 3), dtype=np.float32),
    }
    if images:
        size = (len(worst), *shape)
        arrays["worst_images"] = random.integers(0, 255, size, dtype=np.uint8)
        size = (len(worst), 3, *shape)
        arrays["neighbour_images"] = random.integers(0, 255, size, dtype=np.uint8)
    np.savez_compressed(path / "evidence.npz", **arrays)
    config = {
        "data": "my data.npz",
        "method": "dividemix",
        "settings": {"dividemix.alpha": 4.0, "dividemix.threshold": None},
        "schedule": {"epochs": 4, "batch_size": 64, "lr": 0.02, "warmup": 1},
        "model": "small_resnet",
        "seed": 3,
        "on_bad_image": "error",
        "devices": 1,
    }
    described = {
        "config": config,
        "data": {
            "name": "pets",
            "kind": "images" if images else "embeddings",
            "num_samples": num_samples,
            "shape": list(shape),
            "classes": list(classes),
            "num_test": 50 if test else 0,
            "label_hash": "0123456789abcdef0123",
        },
        "noise": None,
        "citation": "Li, Socher, Hoi, DivideMix, ICLR 2020",
        "versions": {"python": "3.11", "labelwise": "0.1.0"},
        "hardware": {"cpu": "some"},
        "commit": None,
    }
    (path / "config.json").write_text(json.dumps(described), encoding="utf-8")
    summary: dict[str, Any] = {
        "epochs": 4,
        "num_samples": num_samples,
        "estimated_noise_rate": 0.21,
        "num_suspects": int(wrong.sum()),
        "wall_seconds": 75.2,
        "images_per_second": 1234,
        "peak_memory_bytes": 2 * 10**9,
        "notes": ["1 image was skipped", "1 image was skipped"],
        "mixture_fallback": fallback,
    }
    if test:
        summary |= {"test_accuracy_last": 0.913, "test_accuracy_best": 0.934}
        summary["test_accuracy_last_epochs"] = 4
    if truth:
        summary |= {"realised_noise_rate": 0.19, "label_error_auroc": 0.987}
        summary |= {"suspect_recall": 0.8, "suggestion_accuracy": 0.95}
        summary |= {"label_accuracy_given": 0.81, "label_accuracy_suggested": 0.96}
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = [
        {
            "epoch": epoch,
            **({"test_accuracy": 0.9 + 0.01 * epoch} if test else {}),
            **({"clean_fraction_0": 0.8, "estimated_noise_rate": 0.2} if epoch > 1 else {}),
            "mix-0/labelled": 1 / epoch,
            "mix-1/labelled": float("nan") if epoch == 3 else 3 / epoch,
            "phase_seconds": {"mix-0": 1.0, "mix-1": 2.0},
        }
        for epoch in range(1, 5)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (path / "metrics.jsonl").write_text(text, encoding="utf-8")
    return path


class Page(HTMLParser):
    """Collects what a test asks about; unbalanced tags fail."""

    void = frozenset({"meta", "link", "img", "br", "line", "path", "rect", "circle"})

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
        if not self._open or self._open[-1] != "style":
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
        assert tag != "script"
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
        if tag == "img":
            assert attrs.get("alt")
    assert next(attrs for tag, attrs in page.tags if tag == "html") == {"lang": "en"}
    assert page.count("h1") == 1
    pictures = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 60 * 4
    assert all(source.startswith("data:image/png;base64,") for source in pictures)


def test_names_and_ids_are_escaped(tmp_path: Path) -> None:
    classes = ("<script>alert(1)</script>", "a\"b'c", "</style><img src=x>", "x" * 300)
    ids = [f"\"'><b>ünï 日本/{k}" for k in range(200)]
    page = page_of(write_run(tmp_path, classes=classes, ids=ids))
    assert page.count("script") == 0
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
