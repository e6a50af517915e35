"""The row of a run, read from the files that it leaves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labelwise.bench.plan import Task
from labelwise.bench.rows import Row
from labelwise.config import read_json
from labelwise.data.files import write_json
from labelwise.training.folder import RunFolder

RESUMED = "resumed.json"
"""In a run folder: where its run was gone on with."""
FROM_SUMMARY = (
    "label_error_auroc",
    "label_error_average_precision",
    "suggestion_accuracy",
    "estimated_noise_rate",
    "realised_noise_rate",
    "num_samples",
    "epochs",
    "wall_seconds",
)
ORIGIN = ("hardware", "versions", "commit")
"""What a row says of where its run was done."""
FROM_CONFIG = ("settings", "schedule", "model", "image_size")


def done_row(task: Task, path: Path, around: float) -> Row:
    """The row of a finished run.

    Args:
        task: the run.
        path: its folder.
        around: seconds that it took beside training: reading data, the audit, writing.

    Raises:
        UserError: its files are damaged.
    """
    folder = RunFolder(path)
    summary, described = read_json(folder.summary), read_json(folder.config)
    config = described["config"]
    shape = described["data"]["shape"]
    found = {name: summary.get(name) for name in FROM_SUMMARY}
    resumed = resumed_on(path)
    return {
        **_place(task),
        "method": config["method"],
        "status": "done",
        "test_accuracy_last": summary.get("test_accuracy_last"),
        "test_accuracy_last_epochs": summary.get("test_accuracy_last_epochs"),
        "test_accuracy_best": summary.get("test_accuracy_best"),
        "accuracies": accuracies(folder.metrics),
        **found,
        "seconds": round(float(summary["wall_seconds"]) + around, 3),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        **{name: config[name] for name in FROM_CONFIG},
        "image_size": shape[1] if len(shape) == 3 else None,
        "decisions": summary.get("decisions"),
        **{name: described[name] for name in ("config_digest", *ORIGIN)},
        **({"resumed_on": resumed} if resumed else {}),
        **_end(task),
        "command": f"{task.command} --threads {described['hardware']['threads']} "
        f"--device {config['device']}",
    }


def note_resumption(path: Path, device: str) -> None:
    """Write down where a run is gone on with, unless that is where it has been before.

    Args:
        path: its folder.
        device: cpu or cuda.

    Raises:
        UserError: it cannot be written, or files of the run are damaged.
    """
    from labelwise import outputs

    here = {
        "hardware": outputs.hardware(device),
        "versions": outputs.versions(),
        "commit": outputs.commit(),
    }
    described, before = read_json(RunFolder(path).config), resumed_on(path)
    if here not in ({name: described.get(name) for name in ORIGIN}, *before):
        write_json(path / RESUMED, {"resumed_on": [*before, here]})


def resumed_on(path: Path) -> list[dict[str, Any]]:
    """Where a run was gone on with, beside where it began."""
    file = path / RESUMED
    return list(read_json(file)["resumed_on"]) if file.exists() else []


def failed_row(task: Task, error: str, seconds: float) -> Row:
    """The row of a run that failed: why, and after how many seconds."""
    from labelwise import outputs  # the bench itself does without torch

    method = task.config.get("method")
    return {
        **_place(task),
        "method": method,
        "status": "failed",
        "error": error.strip()[:1000] or "no reason given",
        "seconds": round(seconds, 3),
        "versions": outputs.versions(),
        "hardware": outputs.hardware("cpu"),
        "commit": outputs.commit(),
        **_end(task),
    }


def accuracies(metrics: Path) -> list[float]:
    """Test accuracy of every epoch that measured it, to four digits."""
    lines = metrics.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [round(row["test_accuracy"], 4) for row in rows if "test_accuracy" in row]


def _place(task: Task) -> Row:
    """What the run is of."""
    cell, config = task.cell, task.config
    return {
        "suite": task.suite,
        "key": task.key,
        "name": cell.name,
        "recipe": cell.recipe,
        "row": cell.row,
        "column": cell.column,
        "dataset": task.dataset,
        "noise": config.get("noise"),
        "label_column": config.get("label_column"),
        "seed": task.seed,
    }


def _end(task: Task) -> Row:
    """The paper's numbers, when the run ended, and how to repeat it."""
    return {
        "paper_last": task.cell.paper_last,
        "paper_best": task.cell.paper_best,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": task.command,
    }
