"""The tables of a suite: their statistics against numpy, their formats against small parsers."""

from __future__ import annotations

import itertools
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_rows import (
    METHODS,
    NOISES,
    PAPERS,
    FakeCell,
    FakeSuite,
    failed,
    row,
    rows,
    suite,
    troubled,
)
from labelwise.bench import plots
from labelwise.bench.against_time import scatters
from labelwise.bench.cells import BEST, CLOSE, Table, plus_minus, signed
from labelwise.bench.checked import read_rows
from labelwise.bench.costs import memory, times, warnings
from labelwise.bench.latex import escape_latex, latex_document
from labelwise.bench.page import key_numbers, render_page
from labelwise.bench.paired import comparison, differences, verdicts
from labelwise.bench.papers import paper_table, paper_words
from labelwise.bench.provenance import sections
from labelwise.bench.readings import Readings, spread
from labelwise.bench.suites.suite import Cell, Suite
from labelwise.bench.summaries import main_table, noise_rates, tables
from labelwise.bench.tables import (
    FILES,
    FOLDED,
    SAID,
    WIDTH,
    escape_markdown,
    markdown_document,
    markdown_main,
    text_brief,
    text_document,
    text_table,
    write_tables,
)
from labelwise.errors import UserError

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b*c_d`e`",
    r"50% & #1 $x$ {y} \z ~ ^",
    "[x]*\\\\",
    "two\nlines\x1b[31m",
    "قطة 🐈 þ",
    "",
    '" onmouseover="x',
)


def entry(table: Table, name: str, column: str) -> Any:
    line = next(line for line in table.lines if line.name == name)
    return line.entries[table.columns.index(column)]


def accuracies(found: list[dict[str, Any]], name: str, column: str) -> np.ndarray:
    return np.array(
        [r["test_accuracy_last"] for r in found if (r["row"], r["column"]) == (name, column)]
    )


def read(*found: Any, of: FakeSuite | None = None) -> Readings:
    return read_rows(found, of or suite())


# --- what the numbers are


def test_means_and_deviations_are_those_of_numpy() -> None:
    found = rows()
    table = main_table(read_rows(found, suite()))
    for name, column in itertools.product(METHODS, NOISES):
        values = 100 * accuracies(found, name, column)
        assert entry(table, name, column).text == (
            f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
        )


def test_spread_of_few_values() -> None:
    assert spread([]) is None
    assert spread([0.5]).sd is None  # type: ignore[union-attr]
    two = spread([1.0, 3.0])
    assert two is not None
    assert (two.mean, two.sd, two.n) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert plus_minus(spread([0.97]), 100, 1) == "97.0"
    assert plus_minus(two, 1, 2) == "2.00 ± 1.41"


def test_the_best_and_those_within_half_a_point_are_marked() -> None:
    given = {"ce": 0.90, "mixup": 0.895, "coteaching+": 0.8949, "dividemix": 0.9, "scanmix": 0.2}
    found = [row(m, "symmetric:0.5", 0, test_accuracy_last=v) for m, v in given.items()]
    table = main_table(read(*found))
    marks = {name: entry(table, name, "symmetric:0.5").mark for name in given}
    assert marks == {
        "ce": BEST,
        "mixup": CLOSE,
        "coteaching+": "",
        "dividemix": BEST,
        "scanmix": "",
    }
    assert entry(table, "scanmix", "symmetric:0.5").below == pytest.approx(70)
    assert any("†" in note for note in table.notes)


def test_marks_agree_with_a_slow_reference_in_every_column() -> None:
    found = rows()
    table = main_table(read_rows(found, suite()))
    for column in NOISES:
        means = {name: 100 * accuracies(found, name, column).mean() for name in METHODS}
        best = max(means.values())
        for name, mean in means.items():
            expected = BEST if mean == best else CLOSE if best - mean <= 0.5 else ""
            assert entry(table, name, column).mark == expected
            assert entry(table, name, column).below == pytest.approx(best - mean)


def test_n_failures_and_nothing_are_said() -> None:
    table = main_table(read_rows(troubled(), suite()))
    assert entry(table, "scanmix", "symmetric:0.8").text.endswith("(n 2, 1 failed)")
    assert entry(table, "coteaching+", "asymmetric:0.4").text == "failed (2)"
    assert entry(table, "mixup", "symmetric:0.5").text == "unreadable (2)"
    assert entry(table, "sanm+scanmix", "symmetric:0.5").text.endswith("(n 1)")
    assert "±" not in entry(table, "sanm+scanmix", "symmetric:0.5").text
    bare = main_table(read(row("ce", "symmetric:0.5", 0)))
    assert entry(bare, "mixup", "symmetric:0.5").text == "–"


def test_a_place_that_the_suite_lacks_is_blank() -> None:
    lacking = FakeSuite(cells=(FakeCell("ce", "a"), FakeCell("mixup", "b")))
    table = main_table(read(of=lacking))
    assert [[e.text for e in line.entries] for line in table.lines] == [["–", ""], ["", "–"]]


def test_every_table_is_blank_where_the_suite_lacks_a_place() -> None:
    """A dash says that a cell was not run; where there is none, nothing stands."""
    cells = [("ce", "a"), ("ce", "b"), ("mixup", "a"), ("scanmix", "a"), ("scanmix", "b")]
    some = FakeSuite(cells=tuple(FakeCell(*place) for place in cells))
    found = [row(*place, 0) for place in (*cells[:3], ("scanmix", "b"))]
    shown = {table.key: table for table in tables(read(*found, of=some))}
    assert len(shown) == 8
    for key, table in shown.items():
        assert entry(table, "mixup", "b").text == "", key
        assert entry(table, "scanmix", "a").text == "–", key


def test_seeds_that_are_not_the_suites_are_named_and_planned() -> None:
    three, six = range(3, 6), range(6)
    for seeds, n in ((three, " (n 3)"), (six, "")):
        found = [row("ce", "a", seed) for seed in seeds]
        readings = read(*found, of=FakeSuite(cells=(FakeCell("ce", "a"),)))
        table = main_table(readings)
        assert "over 6 seeds (0, 1, 2, 3, 4, 5), n where it is another number" in table.caption
        values = 100 * accuracies(found, "ce", "a")
        assert entry(table, "ce", "a").text == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}{n}"
        numbers = {number.name: number for number in key_numbers(readings)}
        assert numbers["Runs finished"].value == f"{len(seeds)} of 6"
        assert numbers["Runs finished"].detail == "1 method, 1 column, 6 seeds"
        provenance = next(s.items for s in sections(readings) if s.key == "provenance")
        assert provenance[0] == (
            f"{len(seeds)} finished runs, 0 failed, of 6 planned (1 cell × 6 seeds)."
        )


def test_the_papers_numbers_stand_beside_ours() -> None:
    found = [
        row("dividemix", "symmetric:0.5", 0, test_accuracy_last=0.93, test_accuracy_best=0.95),
        row("scanmix", "asymmetric:0.4", 0, test_accuracy_last=0.5, test_accuracy_best=0.94),
    ]
    readings = read(*found)
    assert paper_words(readings, "dividemix", "symmetric:0.5") == "paper 94.4 [94.6], −1.4"
    assert paper_words(readings, "scanmix", "asymmetric:0.4") == "paper [93.7], best +0.3"
    assert paper_words(readings, "scanmix", "symmetric:0.8") == "paper 92.6 [93.5]"
    assert paper_words(readings, "ce", "symmetric:0.8") == ""
    table = main_table(readings)
    assert entry(table, "dividemix", "symmetric:0.5").details == ("paper 94.4 [94.6], −1.4",)
    beside = paper_table(readings)
    assert beside is not None
    assert len(beside.lines) == len(PAPERS)
    line = next(line for line in beside.lines if line.name == "dividemix, symmetric:0.5")
    texts = [e.text for e in line.entries]
    assert texts == ["94.4", "93.0", "−1.4", "94.6", "95.0", "+0.4", "arXiv 2103.11395"]


@pytest.mark.parametrize("wrong", [math.nan, True, "94.4"])
def test_a_papers_number_that_is_none_is_not_shown(wrong: Any) -> None:
    odd = FakeSuite(cells=(FakeCell("ce", "a", wrong, None),))
    assert paper_words(read(of=odd), "ce", "a") == ""


def test_pairs_are_compared_seed_by_seed() -> None:
    ours = {0: 0.70, 1: 0.60, 2: 0.65, 5: 0.99}
    theirs = {0: 0.60, 1: 0.65, 2: 0.60, 4: 0.0}
    found = [row("mixup", "symmetric:0.5", s, test_accuracy_last=v) for s, v in ours.items()]
    found += [row("ce", "symmetric:0.5", s, test_accuracy_last=v) for s, v in theirs.items()]
    readings = read(*found)
    pairs = np.array([ours[s] - theirs[s] for s in (0, 1, 2)])
    assert differences(readings, "mixup", "ce", "symmetric:0.5") == pytest.approx(pairs)
    table = comparison(readings)
    assert table is not None
    assert entry(table, "mixup", "symmetric:0.5").text == (
        f"+{100 * pairs.mean():.1f} ± {100 * pairs.std(ddof=1):.1f} (2 of 3)"
    )
    assert "ce" not in {line.name for line in table.lines}
    assert len(verdicts(readings)) == 1
    assert verdicts(readings)[0].startswith("Every method is above ce")


def test_a_method_that_is_not_above_cross_entropy_is_named() -> None:
    found = rows() + [row("mixup", "symmetric:0.8", s, test_accuracy_last=0.1) for s in (0, 1, 2)]
    same = accuracies(rows(), "ce", "asymmetric:0.4")
    found += [row("scanmix", "asymmetric:0.4", s, test_accuracy_last=v) for s, v in enumerate(same)]
    said = verdicts(read_rows(found, suite()))
    assert len(said) == 2
    assert said[0].startswith("Not above ce: mixup in symmetric:0.8 (−3")
    assert said[0].endswith("0 of 3 above).")
    assert said[1] == "Not above ce: scanmix in asymmetric:0.4 (0.0, 0 of 3 above)."


def test_the_baseline_is_found_by_its_method() -> None:
    named = FakeSuite(cells=(FakeCell("mixup", "a"), FakeCell("plain training", "a")))
    one = row("ce", "a", 0) | {"row": "plain training"}
    assert read(one, of=named).baseline() == "plain training"
    assert read(of=named).baseline() is None
    assert comparison(read(of=named)) is None


def test_noise_rates_are_measured_against_what_the_labels_have() -> None:
    rates = ((0, 0.52, 0.50), (1, 0.50, 0.49), (2, 0.48, None))
    found = [
        row("ce", "symmetric:0.5", s, estimated_noise_rate=e, realised_noise_rate=r)
        for s, e, r in rates
    ]
    table = noise_rates(read(*found))
    assert table is not None
    assert entry(table, "realised", "symmetric:0.5").text == "49.5 ± 0.7"
    assert entry(table, "ce", "symmetric:0.5").text == "50.0 ± 2.0 (+1.5)"
    assert noise_rates(read(row("ce", "symmetric:0.5", 0, estimated_noise_rate=None))) is None


def test_times_are_summed_with_failures_and_warned_about() -> None:
    found = [row("ce", "symmetric:0.5", s, seconds=v) for s, v in enumerate((3600, 7200))]
    found += [failed("ce", "symmetric:0.5", 2) | {"seconds": 1800.0}]
    found += [row("mixup", "symmetric:0.5", 0, seconds=None, wall_seconds=900.0)]
    table = times(read(*found))
    assert table is not None
    assert table.caption.startswith("Hours per run")
    assert entry(table, "ce", "symmetric:0.5").text == "1.50 ± 0.71 (n 2)"
    assert entry(table, "ce", "total, hours").text == "3.50"
    assert entry(table, "mixup", "symmetric:0.5").text == "0.25 (n 1)"
    assert entry(table, "total, hours", "symmetric:0.5").text == "3.75 h"
    assert entry(table, "total, hours", "total, hours").text == "3.75"
    assert table.notes == ()
    other = row("mixup", "symmetric:0.5", 1, hardware={"cpu": "B", "threads": 2}, commit="f" * 40)
    said = warnings(read(*found, other, row("ce", "symmetric:0.8", 0)))
    assert len(said) == 2
    assert all("symmetric:0.5" in text for text in said)
    assert "B, 2 threads" in said[0]
    assert "ffffffffffff" in said[1]


def test_an_attempt_that_another_made_good_is_in_the_totals() -> None:
    found = [
        failed("ce", "symmetric:0.5", 0) | {"seconds": 1800.0},
        row("ce", "symmetric:0.5", 0, seconds=3600),
    ]
    readings = read(*found)
    table = times(readings)
    assert table is not None
    assert entry(table, "ce", "symmetric:0.5").text == "1.00 (n 1)"
    assert entry(table, "ce", "total, hours").text == "1.50"
    assert entry(table, "total, hours", "total, hours").text == "1.50"
    assert table.notes[0].startswith("Totals: what a failed attempt had committed counts")
    numbers = {number.name: number.value for number in key_numbers(readings)}
    assert (numbers["Runs failed"], numbers["Time in total"]) == ("0", "1 h 30 min")
    said = {section.key: section.items for section in sections(readings)}
    assert "1.50 hours of runs in total, failed attempts included." in said["provenance"]
    assert said["failures"] == ("ce, symmetric:0.5, seed 0: no room (a later attempt finished)",)


def test_short_runs_are_told_in_smaller_units() -> None:
    minutes = times(read(row("ce", "symmetric:0.5", 0, seconds=90.0)))
    seconds = times(read(row("ce", "symmetric:0.5", 0, seconds=9.0)))
    assert minutes is not None
    assert seconds is not None
    assert minutes.caption.startswith("Minutes")
    assert entry(minutes, "ce", "symmetric:0.5").text == "1.50 (n 1)"
    assert seconds.caption.startswith("Seconds")


def test_changed_files_are_another_commit() -> None:
    clean = "0123456789abcdef0123456789abcdef01234567"
    found = [row("ce", "a", 0, commit=clean), row("ce", "a", 1, commit=f"{clean}-dirty")]
    of = FakeSuite(cells=(FakeCell("ce", "a"),))
    (said,) = warnings(read(*found, of=of))
    assert "of different commits" in said
    assert said.endswith("compared: 0123456789ab; 0123456789ab-dirty.")
    provenance = next(s.items for s in sections(read(*found, of=of)) if s.key == "provenance")
    assert f"Commit: {clean}-dirty (1 row)" in provenance


def test_a_run_that_went_on_elsewhere_is_of_both_machines() -> None:
    of = FakeSuite(cells=(FakeCell("ce", "a"),))
    elsewhere = {"hardware": {"cpu": "B", "threads": 2}, "versions": {}, "commit": "f" * 40}
    found = [row("ce", "a", 0), row("ce", "a", 1, resumed_on=[elsewhere])]
    said = warnings(read(*found, of=of))
    assert "Made-up CPU @ 2.00GHz, 1 thread then B, 2 threads" in said[0]
    assert "0123456789ab then ffffffffffff" in said[1]
    numbers = {number.name: number.value for number in key_numbers(read(*found, of=of))}
    assert numbers["Machines"] == "2"
    for odd in (None, "x", [None], [[]], [{}], {"hardware": 3}):
        text_document(read(row("ce", "a", 0, resumed_on=odd), of=of))


def test_memory_is_the_largest_of_a_cell() -> None:
    found = [row("ce", "symmetric:0.5", s, peak_memory_bytes=s * 2**30) for s in (1, 3)]
    table = memory(read(*found))
    assert table is not None
    assert entry(table, "ce", "symmetric:0.5").text == "3.00"
    assert "GiB" in table.caption
    assert entry(table, "mixup", "symmetric:0.5").text == "–"
    assert memory(read(row("ce", "symmetric:0.5", 0, peak_memory_bytes=None))) is None


def test_tables_that_no_run_speaks_of_are_left_out() -> None:
    bare = row("ce", "symmetric:0.5", 0, label_error_auroc=None, suggestion_accuracy=None)
    keys = [table.key for table in tables(read(bare))]
    assert keys == ["main", "best", "noise-rate", "time", "memory"]
    assert [table.key for table in tables(read_rows(rows(), suite()))] == [
        *("main", "against-ce", "best", "auroc", "suggestions", "noise-rate", "time", "memory")
    ]


def test_further_tables_leave_out_what_was_not_run() -> None:
    found = [row(m, n, 0) for m in ("ce", "scanmix") for n in NOISES[1:]]
    whole, *further = tables(read(*found))
    assert (len(whole.lines), whole.columns) == (len(METHODS), NOISES)
    for table in further:
        assert set(table.columns) - {"total, hours"} == set(NOISES[1:])
        names = {line.name for line in table.lines if not line.summary}
        assert names == {"scanmix"} | ({"ce"} if table.key != "against-ce" else set())
        assert {len(line.entries) for line in table.lines} == {len(table.columns)}


def test_signs() -> None:
    assert [signed(v) for v in (1.26, -1.26, 0.0, -0.04, 0.04)] == ["+1.3", "−1.3", *["0.0"] * 3]


# --- which rows count


def test_the_last_run_of_a_place_that_has_an_accuracy_counts() -> None:
    found = [
        row("ce", "symmetric:0.5", 0, test_accuracy_last=0.1),
        row("ce", "symmetric:0.5", 0, test_accuracy_last=0.2),
        row("ce", "symmetric:0.5", 0, test_accuracy_last=None),
        failed("ce", "symmetric:0.5", 0),
    ]
    readings = read(*found)
    assert readings.values("ce", "symmetric:0.5", "test_accuracy_last") == {0: 0.2}
    assert any(text.startswith("2 finished rows were replaced") for text in readings.problems)
    assert readings.recovered(readings.failures[0])
    entry_text = entry(main_table(readings), "ce", "symmetric:0.5").text
    assert entry_text == "20.0 (n 1)"


def test_rows_outside_the_suite_are_told_apart() -> None:
    found = {section.key: section for section in sections(read_rows(troubled(), suite()))}
    values = 100 * np.array(
        [row("retired", "symmetric:0.5", s)["test_accuracy_last"] for s in (0, 1)]
    )
    assert found["outside"].items == (
        f"retired, symmetric:0.5: test accuracy, last epochs {values.mean():.1f} ± "
        f"{values.std(ddof=1):.1f} (n 2)",
    )
    assert "retired" not in str(tables(read_rows(troubled(), suite())))


def test_seeds_that_were_not_run_alike_are_reported() -> None:
    found = [row("ce", "symmetric:0.5", 0), row("ce", "symmetric:0.5", 1, epochs=2)]
    assert any("not run alike (epochs)" in text for text in read(*found).problems)
    assert not read_rows(rows(), suite()).problems
    assert "another suite: 'x'" in read(row("ce", "symmetric:0.5", 0, suite="x")).problems[0]


def test_where_the_numbers_come_from() -> None:
    found = {section.key: section.items for section in sections(read_rows(troubled(), suite()))}
    assert found["failures"] == (
        "ce, symmetric:0.5, seed 0: killed (a later attempt finished)",
        "coteaching+, asymmetric:0.4, seed 0: no room",
        "coteaching+, asymmetric:0.4, seed 1: no room",
        "scanmix, symmetric:0.8, seed 2: <b>loss</b> is NaN & 50% | x_1",
    )
    whole = "\n".join(found["provenance"])
    assert "47 finished runs, 3 failed, of 54 planned (18 cells × 3 seeds)." in whole
    assert "Made-up CPU @ 2.00GHz, 1 thread (46 rows)" in whole
    assert "Another CPU, 4 threads, Made-up GPU (1 row)" in whole
    assert "fedcba9876543210fedcba9876543210fedcba98 (1 row)" in whole
    assert "2026-01-02T03:00:00+00:00 to 2026-01-02T03:02:00+00:00" in whole
    commands = found["commands"]
    assert "labelwise fit digits --method ce --noise symmetric:0.5 --seed S" in commands
    assert len(commands) == len(set(commands)) == 17


BAD = (None, math.nan, math.inf, -1, 2.5e9, "x", True, [], {}, [None, "x"])


@pytest.mark.parametrize("key", sorted(row("ce", "symmetric:0.5", 0)))
def test_no_value_of_any_key_breaks_the_tables(key: str) -> None:
    good = row("mixup", "symmetric:0.5", 0)
    bad = [row("ce", "symmetric:0.5", 0) | {key: value} for value in BAD]
    missing = {k: v for k, v in row("ce", "symmetric:0.5", 1).items() if k != key}
    readings = read(good, *bad, missing)
    assert "mixup" in text_document(readings)
    latex_document(readings)
    for one in (bad[3], bad[5], bad[9]):
        render_page(read(good, one))
    if key in ("row", "column", "seed", "status", "test_accuracy_last"):
        told = [text for text in readings.problems if text.startswith("row")]
        assert len(told) >= 8, told
        assert any(f"{key} is" in text for text in told)
    assert entry(main_table(readings), "mixup", "symmetric:0.5").text.endswith("(n 1)")


@pytest.mark.parametrize("value", ["no row", None, 3, [], {}])
def test_what_is_no_row_is_reported(value: Any) -> None:
    readings = read(value, row("ce", "symmetric:0.5", 0))
    assert readings.problems[0].startswith("row 1 is left out")
    assert len(readings.done()) == 1


# --- formats


@pytest.fixture(scope="module")
def hostile() -> Readings:
    """Names and reasons that mean something to a terminal, Markdown, LaTeX or HTML."""
    cells = tuple(
        FakeCell(name, column, 91.0, 92.0, name) for name in HOSTILE for column in HOSTILE[:3]
    )
    odd = FakeSuite(HOSTILE[0], HOSTILE[2], HOSTILE[4], cells)
    found: list[Any] = [
        row(name, column, seed) | {"versions": {name: column}, "command": name, "commit": name}
        for name in HOSTILE
        for column in HOSTILE[:3]
        for seed in (0, 1)
    ]
    found += [failed(name, HOSTILE[0], 2, error=name) for name in HOSTILE]
    found += [row(name, "elsewhere & <i>", 0) for name in HOSTILE]
    found += [{"row": name} for name in HOSTILE]
    return read_rows(found, odd)


def test_the_files_are_written_and_alike(tmp_path: Path) -> None:
    text = write_tables(troubled(), suite(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    contents = [(tmp_path / name).read_bytes() for name in FILES]
    assert contents[0].decode() == text
    assert write_tables(troubled(), suite(), tmp_path) == text
    assert [(tmp_path / name).read_bytes() for name in FILES] == contents
    whole = rows()
    ordered = [write_tables(whole, suite(), tmp_path)]
    ordered += [(tmp_path / name).read_text() for name in FILES]
    random.Random(0).shuffle(whole)
    assert [write_tables(whole, suite(), tmp_path)] + [
        (tmp_path / name).read_text() for name in FILES
    ] == ordered


def test_a_terminal_shows_the_main_table_and_what_is_wrong() -> None:
    text = text_brief(troubled(), suite())
    readings = read_rows(troubled(), suite())
    assert text.startswith(suite().title)
    assert text_table(main_table(readings)) in text
    for line in (*verdicts(readings), *warnings(readings)):
        assert line.split()[0] in text
    shown = [section for section in sections(readings) if not section.fold]
    assert {"failures", "problems", "provenance"} <= {section.key for section in shown}
    for section in shown:
        part = text[text.index(f"\n{section.title}\n") + 1 :].split("\n\n")[0].splitlines()
        assert len(part) <= 1 + FOLDED + 1
        assert all(len(line) <= SAID + 2 for line in part)
        if len(section.items) > FOLDED:
            assert part[-1] == f"- {len(section.items) - FOLDED} more in table.txt"
    assert "Best epoch" not in text
    assert len(text.splitlines()) < len(text_document(readings).splitlines()) / 2
    assert "Nothing has been run yet" in text_brief([], suite())


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_tables(rows(), suite(), tmp_path / "none")


def test_nothing_has_been_run(tmp_path: Path) -> None:
    text = write_tables([], suite(), tmp_path)
    assert "Nothing has been run yet: labelwise bench toy runs it." in text
    assert "paper 94.4 [94.6]" in text
    for name in FILES[1:]:
        assert "Nothing has been run yet" in (tmp_path / name).read_text()
    write_tables([], FakeSuite(), tmp_path)
    assert "No run of this suite has finished yet" in write_tables(
        [failed("ce", "symmetric:0.5", 0)], suite(), tmp_path
    )


def test_a_suite_of_the_engine_will_do(tmp_path: Path) -> None:
    cells = tuple(Cell(name=m, method=m, row=m, column=n) for n in NOISES for m in METHODS)
    real = Suite(name="toy", title="Toy", summary="", dataset="digits", cells=cells, seeds=(0, 1))
    assert "(n 3)" in write_tables([*rows(), row("ce", NOISES[0], 9)], real, tmp_path)


def test_text_is_aligned_and_not_wide(hostile: Readings) -> None:
    names = tuple(f"method number {k}" for k in range(5))
    many = tuple(f"noise of kind {k}" for k in "abcdefghijkl")
    text = text_document(read_rows(rows(names, many), suite(names, many)))
    main = text.split("Best epoch")[0]
    assert max(map(len, main.splitlines())) <= WIDTH
    for column in many:
        assert main.count(column) == 1
    rule = next(line for line in main.splitlines() if line.startswith("---"))
    starts = [match.start() for match in re.finditer(r"-+", rule)]
    block = main.splitlines()[main.splitlines().index(rule) + 1 :][: len(names)]
    for line in block:
        assert [match.start() for match in re.finditer(r"(?<=  )\d+\.\d ±", line)] == starts[1:]
    text = text_document(hostile)
    assert all(c.isprintable() or c == "\n" for c in text)


def unescaped(text: str, characters: str) -> list[str]:
    return re.findall(rf"(?<!\\)(?:\\\\)*([{re.escape(characters)}])", text)


def test_markdown_tables_have_one_cell_per_column(hostile: Readings, tmp_path: Path) -> None:
    for readings in (hostile, read_rows(troubled(), suite())):
        document = markdown_document(readings)
        assert not re.search(r"<(?!/?(br|details|summary)>)", document)
        blocks = re.findall(r"(?:^\|.*\n?)+", document, re.MULTILINE)
        assert len(blocks) == len(tables(readings))
        for block, table in zip(blocks, tables(readings), strict=True):
            lines = block.strip().splitlines()
            assert len(lines) == 2 + len(table.lines)
            assert {len(unescaped(line, "|")) for line in lines} == {len(table.columns) + 2}
    main = markdown_main(troubled(), suite())
    assert main in markdown_document(read_rows(troubled(), suite()))
    assert "| **94.8 (n 1)** |" in main
    assert "<br>paper 94.4 \\[94.6\\], −1.5 |" in main
    assert escape_markdown("a|b\n<i>*_") == r"a\|b &lt;i&gt;\*\_"


def test_latex_is_well_formed(hostile: Readings) -> None:
    for readings in (hostile, read_rows(troubled(), suite()), read()):
        document = latex_document(readings)
        assert document.isprintable() or all(c.isprintable() or c == "\n" for c in document)
        code = "\n".join(line for line in document.splitlines() if not line.startswith("%"))
        assert all(ord(c) < 0x100 for c in document)
        assert not unescaped(code, "%#~")
        depth = 0
        for brace in unescaped(code, "{}"):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        assert len(unescaped(code, "$")) % 2 == 0
        assert not unescaped(re.sub(r"\$\^\{\\dagger\}\$", "", code), "_^")
        open_now: list[str] = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
            if kind == "begin":
                open_now.append(name)
            else:
                assert open_now.pop() == name
        assert not open_now
        found = re.findall(
            r"\\caption\{.+\}\n\\label\{tab:[\w-]+\}\n\\begin\{tabular\}\{l(c*)\}\n"
            r"\\toprule\n((?s:.*?))\\bottomrule\n\\end\{tabular\}",
            code,
        )
        assert len(found) == len(tables(readings))
        for columns, body in found:
            for line in body.strip().splitlines():
                if line != r"\midrule":
                    assert line.endswith(r" \\")
                    assert len(unescaped(line, "&")) == len(columns)
                    assert not line.startswith(("[", "*"))


def test_latex_escapes() -> None:
    assert escape_latex("50%_&#$") == r"50\%\_\&\#\$"
    assert escape_latex("a\\b{c}") == r"a\textbackslash{}b\{c\}"
    assert escape_latex("é ± −1 þ") == r"é $\pm$ $-$1 U+00FE"


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "circle", "path", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def test_the_page_is_closed_to_the_outside_and_to_what_names_say(hostile: Readings) -> None:
    for readings in (hostile, read_rows(troubled(), suite()), read()):
        text = render_page(readings)
        assert text.startswith("<!doctype html>")
        page = Page(text)
        assert not page.open
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "iframe", "img", "object", "form", "i>", "b"}
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            assert "src" not in attributes
            href = attributes.get("href") or "#"
            assert href.startswith("#") or (tag, href) == ("link", "data:,")
        assert "url(" not in text
        assert "@import" not in text
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
        joined = "".join(page.texts)
        if readings is hostile:
            for name in HOSTILE[:3]:
                assert name in joined


def test_the_page_says_how_to_go_on_and_what_the_other_files_lack() -> None:
    command = "labelwise bench toy --data 'my data' --out elsewhere"
    text = "".join(Page(render_page(read_rows(rows(), suite()), command)).texts)
    assert f"Run or go on with it: {command}" in text
    assert "hold the same tables but for “Ours beside the papers”, rows.jsonl" in text
    unknown = "".join(Page(render_page(read(of=FakeSuite()))).texts)
    assert "Run or go on with it: labelwise bench toy" in unknown
    assert "hold the same tables, rows.jsonl" in unknown


def test_the_page_can_be_read_without_seeing_it() -> None:
    page = Page(render_page(read_rows(troubled(), suite())))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "a" and str(attributes["href"]).startswith("#"):
            assert str(attributes["href"])[1:] in ids
        if tag == "svg":
            named = str(attributes.get("aria-labelledby", "")).split()
            assert attributes.get("aria-hidden") == "true" or (
                attributes["role"] == "img" and len(named) == 2 and set(named) <= set(ids)
            )
    assert page.count("table") == page.count("caption") == 9
    pictures = sum("aria-labelledby" in attributes for tag, attributes in page.tags if tag == "svg")
    assert pictures == page.count("desc") == 9  # three columns, three kinds
    text = "".join(page.texts)
    assert "sanm+scanmix: mean 94.8, seeds 94.8" in text
    assert "symmetric:0.5: ce (1) 56." in text
    assert "−0.4 to the best" in text  # the colour says nothing that the text does not
    assert text.count("best") > 3


# --- drawings


def test_dots_stand_where_their_values_are() -> None:
    found = rows()
    for plot, column in zip(plots.dot_plots(read_rows(found, suite())), NOISES, strict=True):
        every = {line.name: 100 * accuracies(found, line.name, column) for line in plot.rows}
        values = np.concatenate(list(every.values()))
        drawn = np.array([x for line in plot.rows for x, _ in line.dots])
        fit = np.polyfit(values, drawn, 1)
        assert fit[0] > 0
        assert np.abs(np.polyval(fit, values) - drawn).max() < 0.1
        assert plot.left <= drawn.min() < drawn.max() <= plot.right
        for line in plot.rows:
            assert line.mean == pytest.approx(np.polyval(fit, every[line.name].mean()), abs=0.1)
            assert len({y for _, y in line.dots}) == 3
            assert all(abs(y - line.y) < plots.STEP / 2 for _, y in line.dots)
        assert plot.height >= plot.rows[-1].y + 30
    with_paper = [line.name for line in plot.rows if line.paper is not None]
    assert with_paper == []  # the best epoch's number does not stand on the axis of the last


def test_curves_are_means_within_their_bands() -> None:
    readings = read_rows(rows(), suite())
    bands = plots._bands(readings, "ce", "symmetric:0.5")
    assert bands is not None
    epochs, mean, low, high = bands
    table = np.array([row("ce", "symmetric:0.5", seed)["accuracies"] for seed in (0, 1, 2)])
    np.testing.assert_allclose(mean, table.mean(0))
    np.testing.assert_array_equal(low, table.min(0))
    np.testing.assert_array_equal(high, table.max(0))
    np.testing.assert_array_equal(epochs, np.arange(1, 31))
    chart = plots.curve_charts(readings, "symmetric:0.5")
    assert [line.name for line in chart[0].chart.lines] == list(METHODS)
    assert "ce from 1" in chart[0].chart.words


def test_curves_stand_at_the_epochs_that_were_measured() -> None:
    every_fourth = {"epochs": 10, "evaluate_every": 4}
    for schedule, expected in (
        (every_fourth, [2, 6, 10]),
        ({"epochs": 3, "evaluate_every": 1}, [1, 2, 3]),
        ({"epochs": "x", "evaluate_every": 0}, [1, 2, 3]),
        (None, [1, 2, 3]),
    ):
        found = row("ce", "symmetric:0.5", 0, accuracies=[0.2, 0.3, 0.4], schedule=schedule)
        bands = plots._bands(read(found), "ce", "symmetric:0.5")
        assert bands is not None
        np.testing.assert_array_equal(bands[0], expected)


def test_curves_of_unlike_length_and_with_gaps() -> None:
    found = [
        row("ce", "symmetric:0.5", 0, accuracies=[0.2, None, 0.4]),
        row("ce", "symmetric:0.5", 1, accuracies=[0.4, math.nan]),
        row("mixup", "symmetric:0.5", 0, accuracies=[None, "x", 7]),
        row("scanmix", "symmetric:0.5", 0, accuracies=[0.5] * 1000),
    ]
    readings = read(*found)
    bands = plots._bands(readings, "ce", "symmetric:0.5")
    assert bands is not None
    np.testing.assert_allclose(bands[1], [0.3, np.nan, 0.4])
    np.testing.assert_allclose(bands[2], [0.2, np.nan, 0.4])
    assert plots._bands(readings, "mixup", "symmetric:0.5") is None
    long = plots._bands(readings, "scanmix", "symmetric:0.5")
    assert long is not None
    assert len(long[0]) == plots.MOST_EPOCHS
    assert (long[0][0], long[0][-1]) == (1, 1000)
    chart = plots.curve_charts(readings, "symmetric:0.5")[0]
    assert chart.bands[0][1].count("M") == chart.bands[0][1].count("Z") == 2
    assert not re.search(r"\bnan\b", render_page(readings))


def test_many_methods_share_charts_with_the_baseline_and_keep_their_style() -> None:
    names = ("ce", *(f"m{k}" for k in range(12)))
    found = [r for r in rows(names, NOISES) if (r["row"], r["column"]) != ("m1", NOISES[1])]
    readings = read_rows(found, suite(names))
    first, second = (plots.curve_charts(readings, column) for column in NOISES[:2])
    assert [len(chart.chart.lines) for chart in first] == [6, 6, 3]
    assert [len(chart.chart.lines) for chart in second] == [5, 6, 3]
    assert all(chart.chart.lines[0].name == "ce" for chart in (*first, *second))
    styles = {line.name: line.style for chart in first for line in chart.chart.lines}
    for chart in second:
        assert all(styles[line.name] == line.style for line in chart.chart.lines)


def test_numbers_in_the_scatter_do_not_cover_each_other() -> None:
    names = tuple(f"m{k}" for k in range(14))
    found = [
        row(m, "a", 0, seconds=60.0 + k % 3, test_accuracy_last=0.9) for k, m in enumerate(names)
    ]
    plot = scatters(read_rows(found, suite(names, ("a",))))[0]
    assert [mark.number for mark in plot.marks] == list(range(1, 15))
    places = [(mark.text_x, mark.text_y) for mark in plot.marks]
    nearest = min(math.dist(a, b) for a, b in itertools.combinations(places, 2))
    assert nearest > 9
    assert scatters(read(row("ce", "symmetric:0.5", 0, seconds=None, wall_seconds=None))) == []
