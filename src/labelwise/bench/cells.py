"""Tables without a format, and how their numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labelwise.bench.readings import Readings, Spread

NOTHING = "–"
BEST = "best"
CLOSE = "near"
BOLD = "Bold:"
"""How the note on the best begins; plain text has a star instead."""


@dataclass(frozen=True)
class Entry:
    """What stands in one cell.

    Args:
        text: the number with its spread.
        details: further lines, such as the paper's number.
        mark: `BEST` or `CLOSE` in its column, or "".
        below: how far the mean is below the best of its column, percentage points, or None.
    """

    text: str = ""
    details: tuple[str, ...] = ()
    mark: str = ""
    below: float | None = None

    @property
    def says(self) -> bool:
        """Whether it says anything."""
        return self.text not in ("", NOTHING) or bool(self.details)


def nothing(readings: Readings, row: str, column: str) -> Entry:
    """What stands in a cell of which nothing is known: blank where the suite has no such cell."""
    return Entry(NOTHING if (row, column) in readings.cells else "")


@dataclass(frozen=True)
class Line:
    """A row: its name and an entry per column; `summary` where it is no method's."""

    name: str
    entries: tuple[Entry, ...]
    summary: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        key: short name, for links and labels.
        title: heading.
        caption: what its numbers are.
        columns: heads of the columns.
        lines: the rows.
        notes: sentences below it.
    """

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def marked(self, mark: str) -> bool:
        """Whether any entry carries a mark."""
        return any(entry.mark == mark for line in self.lines for entry in line.entries)

    def trimmed(self) -> Table:
        """Without the rows and columns that say nothing."""
        lines = [line for line in self.lines if any(entry.says for entry in line.entries)]
        kept = [
            place
            for place in range(len(self.columns))
            if any(line.entries[place].says for line in lines)
        ]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            lines=tuple(
                replace(line, entries=tuple(line.entries[place] for place in kept))
                for line in lines
            ),
        )


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; a true minus, and no sign for what rounds to nothing."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def with_n(value: Spread | None, scale: float, digits: int, full: int, failed: int = 0) -> str:
    """A mean with its spread, n where it is not the full number, and how many runs failed.

    Args:
        value: the mean.
        scale: it is multiplied by this.
        digits: behind the point.
        full: how many seeds there are, those of the suite and others that were run.
        failed: runs that failed.
    """
    text = plus_minus(value, scale, digits)
    if value is None:
        return text
    extra = [f"n {value.n}"] if value.n != full else []
    extra += [f"{failed} failed"] if failed else []
    return f"{text} ({', '.join(extra)})" if extra else text


def plus_minus(value: Spread | None, scale: float, digits: int) -> str:
    """A mean with its spread; without one of a single value, and "" of none."""
    if value is None:
        return ""
    mean = f"{scale * value.mean:.{digits}f}"
    return mean if value.sd is None else f"{mean} ± {scale * value.sd:.{digits}f}"


def plural(count: int, word: str) -> str:
    """The word, with an s where there is not one."""
    return word if count == 1 else f"{word}s"
