"""A suite's tables for LaTeX with booktabs."""

from __future__ import annotations

import unicodedata

from labelwise.bench.cells import BEST, CLOSE, Entry, Line, Table
from labelwise.bench.provenance import sections
from labelwise.bench.readings import Readings
from labelwise.bench.summaries import tables

MOST_COLUMNS = 6
"""Tables with more are set smaller."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # After the end of a row these would be read as its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "†": r"$^{\dagger}$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "’": "'",
    "“": "``",
    "”": "''",
}


def latex_document(readings: Readings) -> str:
    """All tables, to be included in a document that uses booktabs.

    Where the numbers come from stands as comments at the top.
    """
    comments = [f"{readings.suite.title or readings.suite.name}: needs \\usepackage{{booktabs}}."]
    for section in (section for section in sections(readings) if not section.fold):
        comments += [f"{section.title}:", *(f"  {item}" for item in section.items)]
    name = readings.suite.name
    parts = ["\n".join(f"% {_ascii_line(line)}" for line in comments)]
    parts += [latex_table(table, name, readings.suite.title or name) for table in tables(readings)]
    return "\n\n".join(parts) + "\n"


def latex_table(table: Table, suite: str, title: str) -> str:
    """A `table` environment with caption, label and notes."""
    count = len(table.columns)
    small = (
        [r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"] if count > MOST_COLUMNS else [r"\small"]
    )
    heads = " & ".join(["", *(escape_latex(name) for name in table.columns)])
    body: list[str] = []
    for line in table.lines:
        if line.summary and body:
            body.append(r"\midrule")
        body += _rows(line)
        if line.summary and len(body) == 1:
            body.append(r"\midrule")
    notes = [escape_latex(note) for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            *small,
            rf"\caption{{{escape_latex(f'{title}: {table.title}. {table.caption}')}}}",
            rf"\label{{tab:{_label(f'{suite}-{table.key}')}}}",
            rf"\begin{{tabular}}{{l{'c' * count}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
            r"\end{table}",
        ]
    )


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it; what it has no letter for is named by its code point."""
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if not character.isprintable():
        return " "
    accented = ord(character) < 0x100 and unicodedata.decomposition(character)[:2] == "00"
    if character.isascii() or accented:
        return character
    return f"U+{ord(character):04X}"


def _rows(line: Line) -> list[str]:
    """A row, and one in small type for each further line of its entries."""
    found = [[escape_latex(line.name or "(no name)"), *map(_entry, line.entries)]]
    for place in range(max((len(entry.details) for entry in line.entries), default=0)):
        details = (entry.details[place : place + 1] for entry in line.entries)
        small = (rf"{{\footnotesize {escape_latex(d[0])}}}" if d else "" for d in details)
        found += [["", *small]]
    return [rf"{' & '.join(texts)} \\" for texts in found]


def _entry(entry: Entry) -> str:
    text = escape_latex(entry.text)
    if entry.mark == BEST:
        return rf"\textbf{{{text}}}"
    return text + (SPECIAL["†"] if entry.mark == CLOSE else "")


def _label(text: str) -> str:
    """Letters, digits and hyphens alone."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _ascii_line(text: str) -> str:
    """A comment: one line, and only characters that every input encoding reads."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text.replace("−", "-"))
