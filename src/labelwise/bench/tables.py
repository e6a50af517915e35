"""A suite's rows as text, Markdown, LaTeX and one HTML page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from labelwise.bench.cells import BEST, BOLD, CLOSE, Entry, Table
from labelwise.bench.checked import read_rows
from labelwise.bench.costs import warnings
from labelwise.bench.latex import latex_document
from labelwise.bench.paired import verdicts
from labelwise.bench.provenance import Section, sections
from labelwise.bench.readings import Readings, SuiteLike
from labelwise.bench.summaries import main_table, tables
from labelwise.data.files import write_atomically

WIDTH = 120
"""Text tables that are wider are broken into blocks of columns."""
FOLDED = 3
"""Items of a folded section that the text shows, and of any in what is printed."""
SAID = 200
"""Characters of an item that are printed."""
FILES = ("table.txt", "table.md", "table.tex", "page.html")


def write_tables(rows: Sequence[Any], suite: SuiteLike, folder: Path, command: str = "") -> str:
    """Write `table.txt`, `table.md`, `table.tex` and `page.html` of a suite.

    The same rows give the same bytes. Rows that cannot be read are named in all of them.

    Args:
        rows: those of one bench, chosen by their keys: `reopen(suite.name, out).counted()[0]`.
            All of `rows.jsonl` may hold runs of other settings or data too, which would stand
            in one cell unnoticed. Empty where nothing has been run.
        suite: the suite they belong to.
        folder: an existing folder.
        command: what runs the suite, for the page; "" where no more is known than its name.

    Returns:
        The content of `table.txt`.

    Raises:
        UserError: a file cannot be written; the old one is untouched then.
    """
    from labelwise.bench.page import render_page

    readings = read_rows(rows, suite)
    text = text_document(readings)
    contents = (
        text,
        markdown_document(readings),
        latex_document(readings),
        render_page(readings, command),
    )
    for name, content in zip(FILES, contents, strict=True):
        _write(folder / name, content.encode("utf-8", "replace"))
    return text


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))


def markdown_main(rows: Sequence[Any], suite: SuiteLike) -> str:
    """The main table alone as a GitHub table with its notes: what the README pastes.

    Args:
        rows: those of one bench, chosen by their keys: `reopen(suite.name, out).counted()[0]`.
        suite: the suite they belong to.
    """
    return markdown_table(main_table(read_rows(rows, suite)))


def text_brief(rows: Sequence[Any], suite: SuiteLike) -> str:
    """What a terminal shows: the main table, the comparison in words, and what is wrong."""
    readings = read_rows(rows, suite)
    parts = [printable(suite.title or suite.name), text_table(main_table(readings))]
    said = [*verdicts(readings), *warnings(readings)]
    parts += ["\n".join(_wrapped(line) for line in said)] if said else []
    for section in sections(readings):
        if not section.fold:
            items = tuple(item[:SAID] for item in section.items)
            parts.append(_text_section(replace(section, items=items), FOLDED, "table.txt"))
    return "\n\n".join(parts)


def text_document(readings: Readings) -> str:
    """All tables and sections as plain text."""
    suite = readings.suite
    title = printable(suite.title or suite.name)
    parts = [f"{title}\n{'=' * cell_len(title)}\n{_wrapped(suite.summary)}".rstrip()]
    parts += [text_table(table) for table in tables(readings)]
    for section in sections(readings):
        most = FOLDED if section.fold else len(section.items)
        parts.append(_text_section(section, most, "table.md and page.html"))
    return "\n\n".join(parts) + "\n"


def text_table(table: Table, width: int = WIDTH) -> str:
    """A table in columns of equal width, in blocks where it would be wider than `width`."""
    heads = [[printable(line.name or "(no name)")] for line in table.lines]
    cells = [[_text_entry(entry) for entry in line.entries] for line in table.lines]
    parts = [f"{printable(table.title)}\n{_wrapped(table.caption)}"]
    left = max((cell_len(head[0]) for head in heads), default=0)
    wide = [
        max([cell_len(printable(name)), *(cell_len(text) for row in cells for text in row[k])])
        for k, name in enumerate(table.columns)
    ]
    for block in _blocks(left, wide, width):
        rows = [(["", *(printable(table.columns[k]) for k in block)])]
        for head, row in zip(heads, cells, strict=True):
            chosen = [head, *(row[k] for k in block)]
            rows += [
                [texts[part] if part < len(texts) else "" for texts in chosen]
                for part in range(max(len(texts) for texts in chosen))
            ]
        widths = [left, *(wide[k] for k in block)]
        lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * size for size in widths))
        parts.append("\n".join(lines))
    parts += (
        ["\n".join(_wrapped(note.replace(BOLD, "*:", 1)) for note in table.notes)]
        if table.notes
        else []
    )
    return "\n\n".join(parts)


def markdown_document(readings: Readings) -> str:
    """All tables and sections as GitHub Markdown."""
    suite = readings.suite
    parts = [f"# {escape_markdown(suite.title or suite.name)}", escape_markdown(suite.summary)]
    for table in tables(readings):
        parts += [f"## {escape_markdown(table.title)}", markdown_table(table)]
    for section in sections(readings):
        parts.append(f"## {escape_markdown(section.title)}")
        items = "\n".join(f"- {escape_markdown(item)}" for item in section.items)
        parts.append(
            f"<details><summary>{len(section.items)}</summary>\n\n{items}\n\n</details>"
            if section.fold
            else items
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """Caption, table and notes; further lines of a cell are broken by `<br>`."""
    heads = " | ".join(["", *(escape_markdown(name) for name in table.columns)])
    lines = [f"|{heads} |", f"|---|{'---:|' * len(table.columns)}"]
    for line in table.lines:
        texts = [escape_markdown(line.name or "(no name)"), *map(_markdown_entry, line.entries)]
        lines.append(f"| {' | '.join(texts)} |")
    parts = [escape_markdown(table.caption), "\n".join(lines)]
    parts += [escape_markdown(note) + "  " for note in table.notes]
    return "\n\n".join(parts[:2]) + ("\n\n" + "\n".join(parts[2:]) if table.notes else "")


def printable(text: str) -> str:
    """Text on one line without control characters, which could command a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def escape_markdown(text: str) -> str:
    """Text that GitHub shows as it is: no markup, no HTML, no cell or line end."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#@])", r"\\\1", text)


def _text_entry(entry: Entry) -> list[str]:
    mark = {BEST: " *", CLOSE: " †"}.get(entry.mark, "")
    return [entry.text + mark, *entry.details]


def _markdown_entry(entry: Entry) -> str:
    text = escape_markdown(entry.text)
    if entry.mark == BEST:
        text = f"**{text}**"
    elif entry.mark == CLOSE:
        text = f"{text} †"
    return "<br>".join([text, *map(escape_markdown, entry.details)])


def _blocks(left: int, wide: Sequence[int], width: int) -> list[list[int]]:
    """Places of the columns of each block; a block holds at least one."""
    blocks: list[list[int]] = [[]]
    used = left
    for place, size in enumerate(wide):
        if blocks[-1] and used + 2 + size > width:
            blocks.append([])
            used = left
        blocks[-1].append(place)
        used += 2 + size
    return blocks


def _wrapped(text: str) -> str:
    return textwrap.fill(printable(text), WIDTH)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _text_section(section: Section, most: int, rest: str) -> str:
    """A heading and so many items; `rest` is where the others are."""
    shown = section.items[:most]
    lines = [printable(section.title), *(f"- {printable(item)}" for item in shown)]
    if len(shown) < len(section.items):
        lines.append(f"- {len(section.items) - len(shown)} more in {rest}")
    return "\n".join(lines)
