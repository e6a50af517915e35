"""The report's curves: the figures of the method and of the stages before it, epoch by epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from labelwise.audit.charts import Chart, lines_chart
from labelwise.audit.run_files import RunFiles
from labelwise.audit.stages import FIGURES, main_rows, own_epochs, read_stages

MOST_LINES = 6
CLUSTERING = "cluster"
"""Phases whose name begins so have a chart of their own: their losses are on another scale."""
NEIGHBOURS_KNOWN = (
    "How often the 20 samples most similar to one vote for its true class (accuracy), and how many "
    "of the 20 are of that class (purity): the higher, the more was found without any label."
)
NEIGHBOURS_GIVEN = (
    "How often the 20 samples most similar to one vote for its given label, and how many of the 20 "
    "carry it: wrong labels keep both down, so only the direction counts."
)
CLUSTERS_KNOWN = (
    "How many samples are in the cluster that stands for their true class, where each cluster may "
    "stand for one, and how many of the clusters hold any sample."
)
CLUSTERS_GIVEN = (
    "How many samples are in the cluster that stands for their given label, where each cluster may "
    "stand for one, and how many of the clusters hold any sample: wrong labels keep the first down."
)
LOSS = "What the stage makes small: the height says little, it should fall and then level off."
KEPT = (
    "The share of the pairs of similar samples that the networks put into the same class: only "
    "these are pulled into one cluster, the others are more likely of different classes."
)
SORTED = (
    "Easy samples are believed, corrected ones take the label of a vote; the rest is learnt from "
    "without its label."
)
CHECKED = (
    "Right among the easy and among the corrected labels; and of the quarter of rightly labelled "
    "samples that were hardest after the warm-up, how many are learnt from with their label; of "
    "the wrong labels, how many were replaced by the right one."
)
DIVIDED = (
    "Right among the labels that are learnt from; of the wrong ones, how many were replaced by the "
    "right one; and of the quarter of rightly labelled samples that were hardest after the "
    "warm-up, how many are learnt from with their label."
)
TAUGHT = (
    "How surely the classifier names the anchors as it should (cross entropy), and how far they "
    "are from their two samples (dissimilarity): lower is better, but what lies between two "
    "samples is never at no distance from both."
)
VOTED = (
    "The share of a sample's anchors that agree with the label it takes, and the similarity from "
    "which an anchor may vote."
)


def stage_charts(run: RunFiles) -> list[Chart]:
    """Two charts for each stage before the method: what it is judged by, and its loss."""
    found: list[Chart | None] = []
    for stage in read_stages(run)[:-1]:
        found += _judged(stage.rows, f"{stage.short}: ")
        found.append(
            lines_chart(
                f"{stage.short}: loss",
                _first(_terms(stage.rows)),
                stage.epochs,
                "loss term (weighted)",
                note=LOSS,
            )
        )
    return [chart for chart in found if chart is not None]


def curves(run: RunFiles) -> list[Chart]:
    """Figures of the method per epoch: accuracy, beliefs, clusters, losses, time; where known."""
    rows = main_rows(run)
    epochs = own_epochs(rows)
    terms = _terms(rows)
    clustering = {name: v for name, v in terms.items() if name.startswith(CLUSTERING)}
    training = {name: v for name, v in terms.items() if name not in clustering}
    charts = (
        lines_chart(
            "Test accuracy",
            {"test accuracy": _column(rows, "test_accuracy")},
            epochs,
            "test accuracy",
            percent=True,
        ),
        lines_chart(
            "Labels judged right and wrong",
            _first(_beliefs(rows)),
            epochs,
            "share of labels",
            percent=True,
        ),
        *_judged(rows),
        lines_chart(
            "Neighbour pairs kept",
            _by_network(rows, "kept_neighbours", "pairs kept"),
            epochs,
            "share of pairs",
            percent=True,
            note=KEPT,
        ),
        lines_chart("Training loss by term", _first(training), epochs, "loss term (weighted)"),
        lines_chart("Clustering loss by term", _first(clustering), epochs, "loss term (weighted)"),
        *_anchors(rows),
        None if _sorts(rows) else _divided(rows),
        lines_chart("Time by phase", _seconds(rows), epochs, "seconds per epoch"),
    )
    return [chart for chart in charts if chart is not None]


def sorting_charts(run: RunFiles) -> list[Chart]:
    """How many samples were easy and corrected by epoch, and how many of those were right."""
    rows = main_rows(run)
    shares = _by_network(rows, "easy", "easy") | _by_network(rows, "corrected", "corrected")
    checked = {
        "easy, right": _column(rows, "easy_right"),
        "corrected, right": _column(rows, "corrected_right"),
        "hard but right, used": _column(rows, "hard_clean_kept"),
        "wrong labels mended": _column(rows, "wrong_mended"),
    }
    charts = (
        _from_first("Easy and corrected samples", shares, rows, "share of samples", SORTED),
        _from_first("By the true labels", checked, rows, "share", CHECKED),
    )
    return [chart for chart in charts if chart is not None]


def _sorts(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the method sorts samples into easy, hard and corrected ones."""
    return any("easy" in row or "easy_0" in row for row in rows)


def _divided(rows: Sequence[dict[str, Any]]) -> Chart | None:
    """What the division is worth by the true labels."""
    names = {
        "labelled_right": "right among those learnt from",
        "wrong_mended": "wrong labels mended",
        "hard_clean_kept": "hard but right, used",
    }
    columns = {words: _column(rows, name) for name, words in names.items()}
    if not np.any(np.nan_to_num(columns["wrong labels mended"])):
        del columns["wrong labels mended"]
    return _from_first("The division by the true labels", columns, rows, "share", DIVIDED)


def _anchors(rows: Sequence[dict[str, Any]]) -> list[Chart | None]:
    """How the anchors are learnt, and how they vote."""
    taught = _by_network(rows, "anchor_cross_entropy", "cross entropy") | _by_network(
        rows, "anchor_dissimilarity", "dissimilarity"
    )
    voted = _by_network(rows, "vote_share", "share of the votes") | _by_network(
        rows, "anchor_similarity_least", "least similarity"
    )
    return [
        _from_first("How anchors are learnt", taught, rows, "loss term", TAUGHT, percent=False),
        _from_first("How anchors vote", voted, rows, "0 to 1", VOTED, percent=False),
    ]


def _from_first(
    title: str,
    columns: Mapping[str, list[float]],
    rows: Sequence[dict[str, Any]],
    y_label: str,
    note: str,
    percent: bool = True,
) -> Chart | None:
    """A chart of figures that the warm-up does not have."""
    known = np.isfinite(np.array(list(columns.values()), dtype=float).reshape(-1, len(rows)))
    places = np.flatnonzero(known.any(0))
    if not len(places):
        return None
    shown = {name: values[places[0] :] for name, values in columns.items()}
    epochs = own_epochs(rows)[places[0] :]
    return lines_chart(title, shown, epochs, y_label, percent=percent, note=note)


def _judged(rows: Sequence[dict[str, Any]], prefix: str = "") -> list[Chart | None]:
    """Curves of features and clusters, over the epochs in which they were measured."""
    return [
        _measured(
            rows,
            ("knn_accuracy", "neighbour_purity", "knn_agreement", "neighbour_agreement"),
            f"{prefix}similar samples" if prefix else "Similar samples",
            NEIGHBOURS_KNOWN,
            NEIGHBOURS_GIVEN,
        ),
        _measured(
            rows,
            ("cluster_accuracy", "cluster_agreement", "clusters_used"),
            f"{prefix}clusters" if prefix else "Clusters",
            CLUSTERS_KNOWN,
            CLUSTERS_GIVEN,
        ),
    ]


def _measured(
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    title: str,
    known: str,
    given: str,
) -> Chart | None:
    """A chart of shares; neighbours and clusters are not measured in every epoch."""
    places = [k for k, row in enumerate(rows) if any(row.get(name) is not None for name in names)]
    if not places:
        return None
    epochs, shown = own_epochs(rows), [rows[k] for k in places]
    columns = {
        FIGURES.get(name, name.replace("_", " ")): _column(shown, name)
        for name in names
        if any(row.get(name) is not None for row in shown)
    }
    agreement = any("agreement" in name for name in columns)
    return lines_chart(
        title,
        columns,
        [epochs[k] for k in places],
        "share",
        percent=True,
        note=given if agreement else known,
    )


def _beliefs(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The estimated noise rate, and what each network believes right."""
    shares = _by_network(rows, "clean_fraction", "judged right")
    if any("estimated_noise_rate" in row for row in rows):
        shares = {"estimated noise rate": _column(rows, "estimated_noise_rate"), **shares}
    return shares


def _by_network(rows: Sequence[dict[str, Any]], figure: str, label: str) -> dict[str, list[float]]:
    """The columns `figure` and `figure_0`, `figure_1`, … under a name for people."""
    shares = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if found := re.fullmatch(rf"{figure}(?:_(\d+))?", name):
            number = found[1]
            shares[f"{label}, network {int(number) + 1}" if number else label] = _column(rows, name)
    return shares


def _column(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [_number(row.get(name)) for row in rows]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _terms(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Loss terms ("divide-0/labelled"), averaged over peers; all-zero ones are left out."""
    return _merged(rows, lambda row: {k: v for k, v in row.items() if "/" in k}, np.mean)


def _seconds(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds by phase, summed over peers; phases that take next to no time are left out."""
    columns = _first(_merged(rows, lambda row: row.get("phase_seconds") or {}, np.sum))
    total = sum(np.nansum(values) for values in columns.values())
    return {n: values for n, values in columns.items() if np.nansum(values) > 0.01 * total}


def _merged(
    rows: Sequence[dict[str, Any]],
    pick: Callable[[dict[str, Any]], Mapping[str, Any]],
    join: Callable[[list[float]], Any],
) -> dict[str, list[float]]:
    """Join the columns of the peers ("mix-0/loss" and "mix-1/loss"), the largest first."""
    merged: dict[str, list[float]] = {}
    for place, row in enumerate(rows):
        groups: dict[str, list[float]] = {}
        for key, value in pick(row).items():
            words = re.sub(r"-\d+(?=/|$)", "", key).split("/")
            name = ": ".join(dict.fromkeys(words)).replace("_", " ")
            groups.setdefault(name, []).append(_number(value))
        for name, values in groups.items():
            merged.setdefault(name, [float("nan")] * len(rows))[place] = float(join(values))
    lively = {n: v for n, v in merged.items() if np.any(np.abs(np.nan_to_num(v)) > 0)}
    return dict(sorted(lively.items(), key=lambda item: -float(np.nanmax(item[1]))))


def _first(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    return dict(list(columns.items())[:MOST_LINES])
