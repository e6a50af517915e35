"""The report in a real browser: from disk, without a network, with and without its script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chromium import Chromium, Tab, find_chromium

from labelwise.audit.decisions import apply_decisions
from labelwise.audit.report import write_report
from report_runs import (
    judged_elsewhere,
    staged,
    with_early_losses,
    with_hardness,
    with_masks,
    write_full_run,
    write_run,
)

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
]
CLASSES = (
    "cat",
    "</script><script>alert(1)</script>",
    '=cmd|"x"!A1',
    "a,b'c\"d",
    "قطة 🐈",
)
HOSTILE = (
    "=HYPERLINK(1)",
    "'=HYPERLINK(1)",
    "'",
    "-5",
    "@sum",
    "\ttab",
    "__proto__",
    'say "x", y',
    "two\nlines",
    "cr\r\nlf\rcr",
    "</script><script>throw 1</script>",
    "<img src=x onerror=throw>",
    "\u202egnp.exe",
    " spaces ",
    "007",
    "{{ 7 * 7 }}",
    "&amp;quot;",
    "x" * 300,
)
WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("browser")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    # The doubtful labels are anywhere among the rows: each hostile id occurs in several forms.
    ids = [f"{HOSTILE[k % len(HOSTILE)]}{'~' * (k // len(HOSTILE))}" for k in range(200)]
    run = write_full_run(path, classes=CLASSES, ids=ids)
    write_report(run)
    return run


def opened(browser: Chromium, run: Path, width: int = 1440, **options: Any) -> Tab:
    tab = browser.open((run / "report.html").as_uri(), width, **options)
    tab.run("localStorage.clear()")
    tab.load((run / "report.html").as_uri())
    return tab


def shown(tab: Tab) -> list[dict[str, Any]]:
    """The visible cards, in order."""
    found = tab.run(
        "[...document.querySelectorAll('#cards .card')].filter((c) => c.offsetParent)"
        ".map((c) => ({...c.dataset, id: JSON.parse(c.dataset.id)}))"
    )
    return list(found)


def choose(tab: Tab, control: str, value: str) -> None:
    tab.run(
        f"{{ const e = document.getElementById('by-{control}'); e.value = {json.dumps(value)};"
        " e.dispatchEvent(new Event('input', {bubbles: true})); }"
    )


def tick(tab: Tab, place: int, decision: str, label: int | None = None) -> None:
    """Tick a decision on the visible card number `place`."""
    tab.run(
        "{ const card = [...document.querySelectorAll('#cards .card')]"
        f".filter((c) => c.offsetParent)[{place}];"
        f" card.querySelector('input[value={decision}]').click();"
        f" const label = {json.dumps(label)}; if (label !== null) {{"
        "  const s = card.querySelector('select'); s.value = label;"
        "  s.dispatchEvent(new Event('change', {bubbles: true})); } }"
    )


def downloaded(browser: Chromium, tab: Tab) -> Path:
    """Press the button and wait for the file."""
    start = len(browser.events)
    tab.run("document.getElementById('download').click()")
    begun = browser.wait(start, lambda event: event["method"] == "Browser.downloadWillBegin")
    assert begun["params"]["suggestedFilename"] == "decisions.csv"
    browser.wait(start, lambda event: event["params"].get("state") == "completed")
    return max(browser.downloads.iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "kind",
    ["hostile names", "old", "embeddings", "many classes", "judged elsewhere", "stages", "beside"],
)
def test_page_opens_quietly(
    browser: Chromium, run: Path, tmp_path: Path, kind: str, width: int
) -> None:
    if kind == "old":
        run = write_run(tmp_path)
    elif kind == "embeddings":
        run = write_full_run(tmp_path, shape=(16,), truth=False, test=False)
    elif kind == "judged elsewhere":
        run = judged_elsewhere(write_full_run(tmp_path, test=False))
    elif kind == "many classes":
        names = tuple(f"a class with the number {k}" for k in range(60))
        run = write_full_run(tmp_path, classes=names, num_samples=900)
    elif kind in ("stages", "beside"):
        run = with_early_losses(staged(write_full_run(tmp_path / "a_rather_long_name" / kind)))
    beside = None
    if kind == "beside":
        beside = with_early_losses(write_full_run(tmp_path / ("another_long_name_" * 8)))
    write_report(run, beside)
    tab = browser.open((run / "report.html").as_uri(), width, dark=kind == "old")
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert len(shown(tab)) == 24
    broken = "[...document.images].filter((i) => !(i.complete && i.naturalWidth)).length"
    assert tab.run(broken) == 0
    for control in ("given", "text", "sort"):
        choose(tab, control, {"given": "0", "text": "zzz", "sort": "given"}[control])
    if kind in ("stages", "beside"):
        drawn = "[...document.querySelectorAll('#stages svg, #early svg[role=img]')]"
        boxes = f"{drawn}.map((s) => s.getBoundingClientRect()).filter((b) => b.width > 0)"
        assert tab.run(f"{boxes}.every((b) => b.left >= 0 && b.right <= window.innerWidth)")
        panels = "document.querySelectorAll('#early svg[role=img]').length"
        assert tab.run(panels) == (2 if kind == "beside" else 1)
        assert tab.run("document.querySelectorAll('#stages tbody tr').length") == 3
        assert tab.run("document.querySelectorAll('#stages figure').length") == 4
    tab.run("[...document.querySelectorAll('details')].forEach((d) => d.open = true)")
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints() == []
    assert tab.requests() == {(run / "report.html").as_uri()}
    tab.close()


def test_what_is_forbidden_would_be_seen(browser: Chromium, run: Path, tmp_path: Path) -> None:
    """The checks above are worth something: a request and a foreign script do complain."""
    page = (run / "report.html").read_text(encoding="utf-8")
    page = page.replace("</main>", "<img src='http://example.invalid/x'><script>1</script></main>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    tab = browser.open((tmp_path / "page.html").as_uri(), 1440)
    complaints = " ".join(tab.complaints())
    assert "img-src" in complaints
    assert "script-src" in complaints
    tab.close()


def test_filters_and_orders(browser: Chromium, run: Path) -> None:
    tab = opened(browser, run)
    everything = tab.run("document.querySelectorAll('#cards .card').length")
    assert everything == 60
    quality = [float(card["quality"]) for card in shown(tab)]
    assert quality == sorted(quality)
    tab.run("document.getElementById('more').click()")
    assert len(shown(tab)) == 48
    assert tab.run("document.activeElement.value") == "keep"
    tab.run("document.getElementById('more').click()")
    whole = shown(tab)
    assert len(whole) == 60
    assert tab.run("document.getElementById('more').hidden")
    choose(tab, "given", "2")
    assert [c["id"] for c in shown(tab)] == [c["id"] for c in whole if c["given"] == "2"][:24]
    choose(tab, "given", "")
    choose(tab, "suggested", "1")
    assert {card["suggested"] for card in shown(tab)} == {"1"}
    choose(tab, "suggested", "")
    choose(tab, "text", "HyperLink")
    assert [c["id"] for c in shown(tab)] == [c["id"] for c in whole if "HYPERLINK" in c["id"]]
    choose(tab, "text", "no such id")
    assert shown(tab) == []
    assert "No card fits" in tab.run("document.getElementById('counts').textContent")
    choose(tab, "text", "")
    choose(tab, "doubt", "87")
    doubtful = [card["id"] for card in whole if 1 - float(card["quality"]) >= 0.87]
    assert 0 < len(doubtful) < 60
    assert [card["id"] for card in shown(tab)] == doubtful[:24]
    choose(tab, "doubt", "0")
    for key, name in (("given", "given"), ("suggested", "suggested")):
        choose(tab, "sort", key)
        values = [int(card[name]) for card in shown(tab) if int(card[name]) >= 0]
        assert values == sorted(values)
    choose(tab, "sort", "confidence")
    surest = [float(card["confidence"]) for card in shown(tab)]
    assert surest == sorted(surest, reverse=True)
    assert tab.complaints() == []
    tab.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_of_masks_are_seen(
    browser: Chromium, tmp_path: Path, width: int, dark: bool
) -> None:
    run = with_masks(write_full_run(tmp_path, classes=CLASSES))
    write_report(run)
    tab = browser.open((run / "report.html").as_uri(), width, dark=dark)
    pictures = "[...document.querySelectorAll('#looks img')]"
    assert tab.run(f"{pictures}.length") == 35
    assert tab.run(f"{pictures}.every((i) => i.complete && i.naturalWidth && i.alt)")
    assert tab.run(f"{pictures}.every((i) => i.checkVisibility({{visibilityProperty: true}}))")
    bounds = "((b) => b.width >= 48 && b.left >= 0 && b.right <= window.innerWidth)"
    assert tab.run(f"{pictures}.map((i) => i.getBoundingClientRect()).every({bounds})")
    inside = (
        "((m) => { const a = m.getBoundingClientRect(),"
        " b = m.parentElement.querySelector('img').getBoundingClientRect();"
        " return a.width > 0 && a.left >= b.left && a.right <= b.right + 0.5"
        " && Math.abs(a.top - b.top - b.height / 4) < 1.5; })"
    )
    assert tab.run(f"[...document.querySelectorAll('#looks .frame i')].every({inside})")
    assert tab.run("document.querySelectorAll('#looks .frame i').length") == 14
    assert tab.run("document.querySelectorAll('#looks figure.chart svg[role=img]').length") == 1
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints() == []
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["images", "embeddings", "easy"])
def test_voters_and_the_picture_of_the_features_are_seen(
    browser: Chromium, tmp_path: Path, kind: str, width: int
) -> None:
    shape = (16,) if kind == "embeddings" else (3, 8, 8)
    ids = [f"{HOSTILE[k % len(HOSTILE)]}{'~' * (k // len(HOSTILE))}" for k in range(200)]
    run = write_full_run(tmp_path, classes=CLASSES, ids=ids, shape=shape)
    with_hardness(run, anchors="easy" if kind == "easy" else "hallucinated")
    write_report(run)
    dark = (kind == "images") == (width == WIDTHS[0])
    tab = browser.open((run / "report.html").as_uri(), width, dark=dark)
    tab.run("[...document.querySelectorAll('details')].forEach((d) => d.open = true)")
    assert tab.run("document.querySelectorAll('#hardness .card').length") == 14
    pictures = "[...document.querySelectorAll('#hardness img')]"
    assert bool(tab.run(f"{pictures}.length")) == (kind != "embeddings")
    assert tab.run(f"{pictures}.every((i) => i.complete && i.naturalWidth && i.alt)")
    inside = "((b) => b.width > 0 && b.left >= 0 && b.right <= window.innerWidth)"
    parts = "img, .votes li, .origin, .track, svg[role=img], .points path, .points text"
    drawn = f"[...document.querySelectorAll('#hardness :is({parts})')]"
    bounds = f"{drawn}.map((i) => i.getBoundingClientRect())"
    assert tab.run(f"{bounds}.every({inside})")
    apart = (
        "((li) => [...li.children].every((e, k, all) => !k || e.getBoundingClientRect().left >="
        " all[k - 1].getBoundingClientRect().right - 1))"
    )
    assert tab.run(f"[...document.querySelectorAll('#hardness .votes li')].every({apart})")
    colours = (
        "[...document.querySelectorAll('#hardness .points path')]"
        ".map((p) => getComputedStyle(p)).map((s) => s.fill + s.stroke)"
    )
    assert len(set(tab.run(colours))) == 4
    assert len(shown(tab)) == 24  # the cards of doubtful labels are others
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints() == []
    assert tab.requests() == {(run / "report.html").as_uri()}
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_decisions_are_downloaded_and_applied(
    browser: Chromium, run: Path, tmp_path: Path, width: int
) -> None:
    tab = opened(browser, run, width)
    assert tab.run("document.getElementById('download').disabled")
    while tab.run("!document.getElementById('more').hidden"):
        tab.run("document.getElementById('more').click()")
    cards = shown(tab)
    expected = {}
    for place, card in enumerate(cards):
        given, suggested = int(card["given"]), int(card["suggested"])
        decision = ("keep", "fix", "drop", "fix")[place % 4]
        other = next(k for k in range(len(CLASSES)) if k not in (given, suggested))
        default = place % 4 == 1 and suggested >= 0
        tick(tab, place, decision, None if decision != "fix" or default else other)
        label = {"keep": given, "fix": suggested if default else other, "drop": -1}[decision]
        expected[card["id"]] = (
            CLASSES[given],
            decision,
            "" if label < 0 else CLASSES[label],
        )
    for odd in HOSTILE:  # or the round trip would prove nothing about it
        assert any(name.rstrip("~") == odd for name in expected)
    text = tab.run("document.getElementById('counts').textContent")
    assert "Decided: 15 keep, 30 fix, 15 drop; 0 open." in text
    file = downloaded(browser, tab)
    rows = list(csv.reader(io.StringIO(file.read_text("utf-8-sig"), newline="")))
    assert rows[0] == ["id", "given_label", "decision", "label"]
    assert len(rows) == 61
    assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for row in rows for cell in row)
    table = pd.read_parquet(apply_decisions(run, file, tmp_path / "clean.parquet").path)
    before = pd.read_parquet(run / "labels.parquet").set_index("id")
    after = table.set_index("id")
    assert len(after) == len(before) - 15
    for name, (given_label, decision, label) in expected.items():
        assert before.given_label[name] == given_label
        if decision == "drop":
            assert name not in after.index
        else:
            assert after.label[name] == label
    rest = after.index.difference(list(expected))
    assert (after.label[rest] == before.given_label[rest]).all()
    assert tab.complaints() == []
    tab.close()


def test_decisions_outlast_a_reload(browser: Chromium, run: Path) -> None:
    tab = opened(browser, run)
    tick(tab, 0, "drop")
    tick(tab, 1, "fix", label=None)
    tick(tab, 2, "keep")
    tick(tab, 2, "drop")
    choose(tab, "sort", "confidence")
    before = downloaded(browser, tab).read_bytes()
    tab.load((run / "report.html").as_uri())
    assert "1 fix, 2 drop" in tab.run("document.getElementById('counts').textContent")
    assert downloaded(browser, tab).read_bytes() == before
    tab.run("document.getElementById('by-open').click()")
    assert len({card["id"] for card in shown(tab)}) == 24
    assert not [card for card in shown(tab) if card.get("decision")]
    tab.run("document.getElementById('by-open').click()")
    first = "document.querySelector('#cards .card[data-decision=drop]')"
    tab.run(f"{first}.querySelector('button').click()")
    assert "1 fix, 1 drop" in tab.run("document.getElementById('counts').textContent")
    tab.load((run / "report.html").as_uri())
    assert "1 fix, 1 drop" in tab.run("document.getElementById('counts').textContent")
    tab.run("{ window.confirm = () => true; document.getElementById('clear').click(); }")
    assert "0 fix, 0 drop; 60 open" in tab.run("document.getElementById('counts').textContent")
    tab.load((run / "report.html").as_uri())
    assert tab.run("document.getElementById('download').disabled")
    assert tab.complaints() == []
    tab.close()


def test_keyboard_alone(browser: Chromium, run: Path) -> None:
    tab = opened(browser, run)
    tab.run("document.getElementById('by-open').focus()")
    tab.press("Tab", 9)  # the buttons are disabled as long as nothing is decided
    assert tab.run("document.activeElement.value") == "keep"
    tab.press(" ", 32)
    assert "1 keep" in tab.run("document.getElementById('counts').textContent")
    tab.press("ArrowRight", 39)
    assert "0 keep, 1 fix" in tab.run("document.getElementById('counts').textContent")
    tab.press("Tab", 9)
    tab.press("Tab", 9)
    assert tab.run("document.activeElement.tagName") == "SELECT"
    assert tab.run("document.activeElement.closest('fieldset').querySelector('legend').textContent")
    tab.close()


def test_without_script_everything_is_there(browser: Chromium, run: Path) -> None:
    tab = browser.open("about:blank", 390)
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.load((run / "report.html").as_uri())
    tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run("document.getElementById('tools').hidden")
    assert len(shown(tab)) == 24
    assert tab.run("document.querySelectorAll('#rest .card').length") == 36
    assert tab.requests() - {"about:blank"} == {(run / "report.html").as_uri()}
    tab.close()
