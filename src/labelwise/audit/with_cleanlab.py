"""cleanlab on the same probabilities, for comparison; it is an optional extra."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import numpy as np

from labelwise.errors import UserError

MOST_BYTES = 2 * 2**30
"""Largest matrix of probabilities that is handed over, float32; cleanlab makes several copies."""


def require_cleanlab() -> None:
    """Raise a `UserError` that says how to install cleanlab where it is missing."""
    from importlib.util import find_spec

    if find_spec("cleanlab") is None:
        raise UserError(
            "cleanlab is not installed: pip install 'labelwise[cleanlab]', or leave out "
            "--compare cleanlab."
        )


def require_size(num_samples: int, num_classes: int) -> None:
    """Raise a `UserError` where the whole matrix of probabilities is too large for cleanlab."""
    size = 4 * num_samples * num_classes
    if size > MOST_BYTES:
        raise UserError(
            f"cleanlab takes all probabilities at once: {num_samples:,} x {num_classes:,} are "
            f"{size / 2**30:.1f} GiB, at most {MOST_BYTES / 2**30:.0f} GiB are handed over. Use "
            f"--limit {MOST_BYTES // (4 * num_classes)}, or leave out --compare cleanlab."
        )


def run_cleanlab(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ask cleanlab for the quality of, and a verdict on, every label, with its defaults.

    Args:
        probabilities: out-of-sample class probabilities (N, K), rows summing to 1.
        labels: given labels (N) int64.

    Returns:
        `get_label_quality_scores` (N) and `find_label_issues` (N) bool.

    Raises:
        UserError: cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores = get_label_quality_scores(labels, probabilities)
    # One process: the pool of several costs more than it brings below millions of samples.
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    return np.asarray(scores, dtype=np.float64), np.asarray(issues, dtype=bool)


def compare_with_cleanlab(
    probabilities: np.ndarray, labels: np.ndarray, suspect: np.ndarray, wrong: np.ndarray | None
) -> dict[str, Any]:
    """What cleanlab finds on the same probabilities, for `summary.json`.

    Args:
        probabilities: class probabilities (N, K).
        labels: given labels (N) int64.
        suspect: our suspects (N) bool.
        wrong: truly wrong labels (N) bool, or None where truth is not known.
    """
    start = time.perf_counter()
    scores, issues = run_cleanlab(probabilities, labels)
    either = int((issues | suspect).sum())
    figures: dict[str, Any] = {
        "version": version("cleanlab"),
        "num_issues": int(issues.sum()),
        "num_in_both": int((issues & suspect).sum()),
        "overlap": float((issues & suspect).sum() / either) if either else 1.0,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return figures if wrong is None else figures | ranking_figures(wrong, 1 - scores, issues)


def ranking_figures(wrong: np.ndarray, doubt: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """How well a score ranks wrong labels, and how well a choice finds them.

    Args:
        wrong: truly wrong labels (N) bool.
        doubt: higher is more doubtful (N).
        found: chosen as wrong (N) bool.

    Returns:
        AUROC, average precision, precision and recall; those that are not defined (no wrong
        label, nothing chosen) are left out.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    figures = {}
    if 0 < wrong.sum() < len(wrong):
        figures["label_error_auroc"] = float(roc_auc_score(wrong, doubt))
        figures["label_error_average_precision"] = float(average_precision_score(wrong, doubt))
        figures["suspect_recall"] = float(found[wrong].mean())
    if found.any():
        figures["suspect_precision"] = float(wrong[found].mean())
    return figures


def comparison_table(summary: dict[str, Any]) -> str:
    """Our figures beside cleanlab's, as lines of text."""
    theirs = summary["cleanlab"]
    rows = [
        ("labels found wrong", summary["num_suspects"], theirs["num_issues"], "{:,}"),
        *(
            (title, summary[key], theirs[key], "{:.3f}")
            for title, key in (
                ("AUROC of label errors", "label_error_auroc"),
                ("average precision", "label_error_average_precision"),
                ("precision", "suspect_precision"),
                ("recall", "suspect_recall"),
            )
            if key in summary and key in theirs
        ),
        ("seconds", summary["wall_seconds"], theirs["seconds"], "{:.1f}"),
    ]
    lines = [f"{'':24}{'labelwise':>12}{'cleanlab ' + theirs['version']:>18}"]
    lines += [f"{t:24}{f.format(a):>12}{f.format(b):>18}" for t, a, b, f in rows]
    return "\n".join([*lines, f"{theirs['num_in_both']:,} labels are in both."])
