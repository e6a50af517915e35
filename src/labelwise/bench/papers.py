"""Our numbers beside those that the papers print."""

from __future__ import annotations

from labelwise.bench.cells import NOTHING, Entry, Line, Table, signed
from labelwise.bench.readings import Readings, number, spread


def paper_table(readings: Readings) -> Table | None:
    """Our and the paper's accuracy, last epochs and best epoch; None without any paper's number."""
    lines = []
    for row in readings.rows:
        for column in readings.columns:
            last, best = paper_numbers(readings, row, column)
            if last is None and best is None:
                continue
            entries: list[Entry] = []
            for theirs, name in ((last, "test_accuracy_last"), (best, "test_accuracy_best")):
                ours = spread(readings.values(row, column, name).values())
                mean = None if ours is None else 100 * ours.mean
                away = None if mean is None or theirs is None else mean - theirs
                entries += [
                    Entry(NOTHING if theirs is None else f"{theirs:.1f}"),
                    Entry(NOTHING if mean is None else f"{mean:.1f}"),
                    Entry(NOTHING if away is None else signed(away)),
                ]
            source = str(getattr(readings.cells[row, column], "source", None) or NOTHING)
            lines.append(Line(f"{row}, {column}", (*entries, Entry(source))))
    if not lines:
        return None
    sourced = any(line.entries[-1].text != NOTHING for line in lines)
    if not sourced:
        lines = [Line(line.name, line.entries[:-1]) for line in lines]
    return Table(
        "papers",
        "Ours beside the papers",
        "Test accuracy in percent: the paper's number, the mean over our seeds, and ours minus "
        "the paper's.",
        (
            "paper, last",
            "ours, last",
            "difference",
            "paper, best",
            "ours, best",
            "difference",
            *(["source"] if sourced else []),
        ),
        tuple(lines),
    )


def paper_words(readings: Readings, row: str, column: str) -> str:
    """The paper's number of a cell and how far ours is from it, or ""."""
    last, best = paper_numbers(readings, row, column)
    if last is None and best is None:
        return ""
    name = "test_accuracy_best" if last is None else "test_accuracy_last"
    ours = spread(readings.values(row, column, name).values())
    words = " ".join(
        text
        for text in (
            "paper",
            "" if last is None else f"{last:.1f}",
            "" if best is None else f"[{best:.1f}]",
        )
        if text
    )
    theirs = best if last is None else last
    if ours is None or theirs is None:
        return words
    return f"{words}, {'best ' if last is None else ''}{signed(100 * ours.mean - theirs)}"


def paper_numbers(readings: Readings, row: str, column: str) -> tuple[float | None, float | None]:
    """The paper's last and best accuracy of a cell in percent; None where there is none."""
    cell = readings.cells.get((row, column))
    if cell is None:
        return None, None
    return number(cell.paper_last), number(cell.paper_best)
