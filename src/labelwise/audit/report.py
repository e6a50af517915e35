"""The report: one self-contained page for people.

Its one script filters, sorts and collects decisions; the page's policy allows that script alone,
by its hash, and no request at all. Without the script everything can still be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelwise.audit import curves, facts, figures, tallies
from labelwise.audit.cards import build_cards
from labelwise.audit.copies import build_copies
from labelwise.audit.corrected import build_hardness
from labelwise.audit.early import early_figure
from labelwise.audit.looks import build_looks
from labelwise.audit.run_files import RunFiles, read_run
from labelwise.audit.stages import FIGURES, read_stages
from labelwise.data.files import at_home, write_atomically
from labelwise.training.folder import RunFolder

if TYPE_CHECKING:
    from jinja2 import Environment

FIRST = 24
"""Cards that are open when the page is; the others unfold."""
MATRIX = ("transition", "transition_low", "transition_high")
PAIRS = ("pair_rows", "pair_counts", "pair_low", "pair_high")
COLUMNS = {
    "id": "the sample: file name, row or whatever the data called it",
    "given_label": "the label as it came",
    "label_quality": "probability that the given label is right, 0 to 1; sort by this",
    "predicted_label": "most probable class by training, views, neighbours and the given label",
    "suggested_label": "the most probable other class for suspects, else the given one",
    "suggestion_confidence": "probability that the suggested label is right, 0 to 1",
    "is_suspect": "True where the label looks wrong (quality below 0.5)",
    "true_label": "the true label; empty where the sample is of none of the classes",
}
SORTING_COLUMNS = {
    "state": "in the last epoch: easy (label believed), corrected (by a vote), hard (not used)",
    "corrected_label": "what anchors between easy samples vote for; empty where nothing was voted",
    "vote_share": "share of the votes for it, 0 to 1; empty where nothing was voted",
}
EXTERNAL_COLUMNS = {"predicted_label": "most probable class by the probabilities that were given"}


def write_report(run: Path, beside: Path | None = None) -> Path:
    """Write `report.html` of a finished run folder and return its path.

    The page holds its style and pictures itself: it opens offline and can be sent by mail.

    Args:
        run: the folder; only its files are read, not the data.
        beside: the folder of another run on the same samples and given labels, whose losses right
            after the warm-up are drawn beside this run's.

    Raises:
        UserError: a file of a run is missing or broken (named), the other run is on other data, or
            the page cannot be written.
    """
    path = RunFolder(Path(run)).report
    other = None if beside is None else read_run(at_home(beside))
    page = render(read_run(Path(run)), other)
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))
    return path


def render(run: RunFiles, beside: RunFiles | None = None) -> str:
    """The page of a run as HTML; `beside` as in `write_report`."""
    from markupsafe import Markup

    environment = _environment()
    script = environment.get_template("page.script.jinja").render().strip()
    reliability = figures.reliability_figure(run)
    return environment.get_template("page.html.jinja").render(
        title=f"{run.data['name']}: label report",
        headline=facts.headline(run),
        about=facts.about(run),
        doubt=run.summary.get("mixture_fallback") or "",
        numbers=facts.key_numbers(run),
        notes=facts.notes(run),
        rates=facts.rates_by_estimator(run.summary),
        summary=run.summary,
        cards=build_cards(run),
        copies=build_copies(run),
        num_copies=len(run.arrays.get("duplicates", ())),
        reliability=reliability,
        checked=[name for name in figures.CURVES if run.has(name)],
        first=FIRST,
        num_suspects=int(run.summary["num_suspects"]),
        images=run.data["kind"] == "images",
        truth_known=run.labels.truth is not None,
        loss=figures.loss_figure(run),
        early=early_figure(run, beside),
        looks=build_looks(run),
        hardness=build_hardness(run),
        trained=bool(run.epochs),
        external=bool(run.described.get("external")),
        curves=curves.curves(run) if run.epochs else [],
        **_stages(run),
        classes=run.classes,
        class_rows=tallies.class_rows(run.labels, run.classes),
        columns=_columns(run),
        citation=run.described.get("citation") or "",
        method=run.config["method"],
        command=facts.command(run),
        versions=run.described.get("versions") or {},
        hardware=run.described.get("hardware") or {},
        commit=run.described.get("commit"),
        label_hash=run.data.get("label_hash", ""),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        configuration=json.dumps(run.config, indent=2, ensure_ascii=False),
        **_mistaken(run),
    )


def _stages(run: RunFiles) -> dict[str, Any]:
    """The stages, the figures that any of them has, and their curves."""
    stages = read_stages(run)
    known = {name for stage in stages for name in stage.figures}
    judged = {
        name: words if words.startswith("k-NN") else words.capitalize()
        for name, words in FIGURES.items()
        if name in known
    }
    return {"stages": stages, "judged": judged, "stage_charts": curves.stage_charts(run)}


def _columns(run: RunFiles) -> dict[str, str]:
    """What the columns of `labels.csv` mean in this run."""
    columns = dict(COLUMNS)
    if run.labels.truth is None:
        del columns["true_label"]
    if run.has("hardness_state"):
        columns |= SORTING_COLUMNS
    if run.described.get("external"):
        columns |= EXTERNAL_COLUMNS
    if "suspect_threshold" in run.summary:
        below = f"{float(run.summary['suspect_threshold']):.3g}"
        columns["is_suspect"] = columns["is_suspect"].replace("0.5", below)
    return columns


def _mistaken(run: RunFiles) -> dict[str, Any]:
    """Which classes are mistaken for which: two heatmaps, or pairs where classes are many."""
    classes = run.classes
    found: dict[str, Any] = {"estimate": None, "estimated_pairs": []}
    if run.has(*PAIRS):
        rows, counts, low, high = (run.arrays[name] for name in PAIRS)
        found["estimated_pairs"] = tallies.estimated_pairs(rows, counts, low, high, classes)
    if len(classes) > tallies.MOST_HEATMAP:
        pairs = tallies.frequent_pairs(run.labels, classes)
        return found | {"confusion": None, "transition": None, "pairs": pairs}
    if run.has(*MATRIX):
        share, low, high = (run.arrays[name] for name in MATRIX)
        found["estimate"] = tallies.estimated_transition(share, low, high, classes)
    counts = tallies.confusion(run.labels, len(classes))
    return found | {
        "confusion": tallies.confusion_cells(counts, classes),
        "transition": tallies.transition_cells(counts, classes),
        "pairs": [],
    }


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # ASCII alone: an HTML parser changes line ends and control characters, these it cannot.
    environment.filters["exact"] = json.dumps
    environment.filters["percent"] = facts.percent
    environment.filters["chance"] = facts.chance
    environment.filters["duration"] = facts.duration
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
