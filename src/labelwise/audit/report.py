"""The report: one self-contained page for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelwise.audit import facts, figures, tallies
from labelwise.audit.cards import build_cards
from labelwise.audit.run_files import RunFiles, read_run
from labelwise.data.files import write_atomically
from labelwise.training.folder import RunFolder

if TYPE_CHECKING:
    from jinja2 import Template

FIRST = 24
"""Cards that are open when the page is; the others unfold."""
COLUMNS = {
    "id": "the sample: file name, row or whatever the data called it",
    "given_label": "the label as it came",
    "label_quality": "probability that the given label is right, 0 to 1; sort by this",
    "predicted_label": "what the trained networks say",
    "suggested_label": "the predicted label for suspects, else the given one",
    "suggestion_confidence": "the networks' probability of the suggested label, 0 to 1",
    "is_suspect": "True where the label looks wrong (quality below 0.5, other prediction)",
    "true_label": "the true label",
}


def write_report(run: Path) -> Path:
    """Write `report.html` of a finished run folder and return its path.

    The page holds its style and pictures itself: it opens offline and can be sent by mail.

    Args:
        run: the folder; only its files are read, not the data.

    Raises:
        UserError: a file of the run is missing or broken (named), or the page cannot be written.
    """
    path = RunFolder(Path(run)).report
    page = render(read_run(Path(run)))
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))
    return path


def render(run: RunFiles) -> str:
    """The page of a run as HTML."""
    columns = dict(COLUMNS)
    if run.labels.truth is None:
        del columns["true_label"]
    return _template().render(
        title=f"{run.data['name']}: label report",
        headline=facts.headline(run),
        about=facts.about(run),
        doubt=run.summary.get("mixture_fallback") or "",
        numbers=facts.key_numbers(run),
        notes=facts.notes(run),
        cards=build_cards(run),
        first=FIRST,
        num_suspects=int(run.summary["num_suspects"]),
        images=run.data["kind"] == "images",
        truth_known=run.labels.truth is not None,
        loss=figures.loss_figure(run),
        curves=figures.curves(run),
        classes=run.classes,
        class_rows=tallies.class_rows(run.labels, run.classes),
        columns=columns,
        citation=run.described.get("citation") or "",
        method=run.config["method"],
        command=facts.command(run),
        versions=run.described.get("versions") or {},
        hardware=run.described.get("hardware") or {},
        commit=run.described.get("commit"),
        label_hash=run.data.get("label_hash", ""),
        configuration=json.dumps(run.config, indent=2, ensure_ascii=False),
        **_mistaken(run),
    )


def _mistaken(run: RunFiles) -> dict[str, Any]:
    """Which classes are mistaken for which: two heatmaps, or pairs where classes are many."""
    classes = run.classes
    if len(classes) > tallies.MOST_HEATMAP:
        pairs = tallies.frequent_pairs(run.labels, classes)
        return {"confusion": None, "transition": None, "pairs": pairs}
    counts = tallies.confusion(run.labels, len(classes))
    return {
        "confusion": tallies.confusion_cells(counts, classes),
        "transition": tallies.transition_cells(counts, classes),
        "pairs": [],
    }


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = facts.percent
    environment.filters["chance"] = facts.chance
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("page.html.jinja")
