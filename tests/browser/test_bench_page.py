"""The page of a suite in a real browser: no request, no overflow, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, Tab, find_chromium

from bench_rows import NOISES, FakeCell, FakeSuite, row, rows, suite, troubled
from labelwise.bench.tables import write_tables

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
]
WIDTHS = (1400, 700, 400)
HOSTILE = (
    "<script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 1">',
    "{{ 7 * 7 }}",
    "x" * 120,
)
CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, k) => a * v + (1 - a) * below[k]);
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    return over(parse(getComputedStyle(node).backgroundColor), behind(node.parentElement));
  };
  const light = (colour) => colour.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ratio = (node) => {
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const nodes = [...document.querySelectorAll('td, td strong, td small, th, caption, p, li, a')];
  return Math.min(...nodes.filter((node) => node.textContent.trim()).map(ratio));
})()
"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("browser")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cells = tuple(FakeCell(name, column, 90.0) for name in HOSTILE for column in HOSTILE)
    odd = FakeSuite(HOSTILE[0], HOSTILE[1], HOSTILE[2], cells)
    hostile = [row(cell.row, cell.column, seed) for cell in cells for seed in (0, 1)]
    many = tuple(f"method-{k}+wrapper" for k in range(14))
    noises = (*NOISES, *(f"instance:0.{k}" for k in range(1, 7)))
    made = {
        "troubled": (troubled(), suite()),
        "empty": ([], suite()),
        "hostile": (hostile, odd),
        "many": (rows(many, noises), suite(many, noises)),
    }
    found = {}
    for name, (given, of) in made.items():
        folder = tmp_path_factory.mktemp(name)
        write_tables(given, of, folder)
        found[name] = folder / "page.html"
    return found


def opened(browser: Chromium, page: Path, width: int, dark: bool = False) -> Tab:
    return browser.open(page.as_uri(), width, dark=dark)


@pytest.mark.parametrize("name", ["troubled", "empty", "hostile", "many"])
def test_it_asks_for_nothing_and_fits_every_width(
    browser: Chromium, pages: dict[str, Path], name: str
) -> None:
    for width in WIDTHS:
        tab = opened(browser, pages[name], width)
        assert tab.complaints() == []
        assert tab.requests() == {pages[name].as_uri()}
        assert tab.run(OVERFLOW) <= 0, width
        assert tab.run("window.hit") is None
        assert tab.run("document.scripts.length + document.images.length") == 0
        tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out(browser: Chromium, pages: dict[str, Path], dark: bool) -> None:
    tab = opened(browser, pages["troubled"], 1400, dark)
    assert tab.run(CONTRAST) >= 4.5
    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(20, 24, 29)") is dark
    tab.close()


def test_wide_tables_scroll_in_their_own_box_with_the_names_in_sight(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    tab = opened(browser, pages["many"], 400)
    box = "document.querySelector('#main .scroll')"
    assert tab.run(f"{box}.scrollWidth > 2 * {box}.clientWidth")
    assert tab.run(f"{box}.tabIndex") == 0
    left = f"{box}.querySelector('tbody th').getBoundingClientRect().left"
    before = tab.run(left)
    tab.run(f"{box}.scrollLeft = 500")
    assert tab.run(f"{box}.scrollLeft") > 400
    assert tab.run(left) == before
    tab.close()


def test_the_colour_follows_the_distance_to_the_best(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    tab = opened(browser, pages["troubled"], 1400)
    found = tab.run(
        "[...document.querySelectorAll('#main tbody tr')].map((line) => line.cells[2])"
        ".filter((cell) => cell.querySelector('small'))"
        ".map((cell) => [parseFloat(cell.textContent), getComputedStyle(cell).backgroundColor])"
    )
    shades = [float(colour.rpartition(" ")[2].rstrip(")")) for _, colour in sorted(found)]
    assert len(shades) == 6
    assert shades == sorted(shades, reverse=True)
    assert (shades[0], shades[-1]) == (0.5, 0)
    tab.close()


def test_it_can_be_printed(browser: Chromium, pages: dict[str, Path]) -> None:
    tab = opened(browser, pages["troubled"], 1400)
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.run("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
    assert len(tab.send("Page.printToPDF")["data"]) > 10_000
    tab.close()
