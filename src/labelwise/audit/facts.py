"""The report's words and key numbers: headline, notes, and how to repeat the run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelwise.audit.run_files import RunFiles
from labelwise.audit.stages import in_words, read_stages

SCHEDULE_OPTIONS = {"epochs": "--epochs", "batch_size": "--batch-size", "lr": "--lr"}
RUN_OPTIONS = (
    "pretrain",
    "init",
    "plant",
    "model",
    "seed",
    "label_column",
    "truth_column",
    "test",
    "limit",
    "noise",
    "image_size",
    "on_bad_image",
    "device",
    "devices",
    "precision",
    "threads",
)
SURE = 0.05
"""Suspects of lower quality than this are counted as sure."""
UNSAID = {"plant": 0.03, "on_bad_image": "error", "devices": 1}


@dataclass(frozen=True)
class KeyNumber:
    """A number to remember: what it is, its value, and one line that qualifies it."""

    name: str
    value: str
    detail: str


def percent(value: float, digits: int | None = None) -> str:
    """A fraction as a percentage, with one decimal below 10% unless told otherwise."""
    shown = (1 if 0 < abs(value) < 0.0995 else 0) if digits is None else digits
    text = f"{100 * value:.{shown}f}%"
    if value > 0 and text.strip("0.%") == "":
        return f"<{10.0**-shown:g}%"
    return text


def chance(value: float) -> str:
    """An estimated probability in whole percent: never quite 0 or 1, for it is an estimate."""
    if value < 0.01:
        return "<1%"
    return ">99%" if value > 0.99 else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    """Seconds as "30 s", "4 min 10 s" or "3 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def headline(run: RunFiles) -> str:
    """What was found, in one sentence."""
    wrong, total = int(run.summary["num_suspects"]), len(run.labels)
    if wrong == 0:
        return f"None of the {total:,} labels looks wrong."
    verb = "looks" if wrong == 1 else "look"
    return f"{wrong:,} of {total:,} labels {verb} wrong ({percent(wrong / total)})."


def about(run: RunFiles) -> str:
    """Data and method, in a few words."""
    data, config = run.data, run.config
    shape = [int(size) for size in data.get("shape", [])]
    kind = "samples"
    if data["kind"] == "images" and len(shape) == 3:
        kind = f"images of {shape[2]}×{shape[1]} pixels"
    elif shape:
        kind = f"embeddings of {shape[0]:,} numbers"
    text = f"{data['name']}: {len(run.labels):,} training {kind} in {len(run.classes):,} classes"
    if data.get("num_test"):
        text += f", {data['num_test']:,} more for testing"
    external = run.described.get("external")
    if external:
        text += f". Judged by the {external.get('are', 'probabilities')} in"
        text += f" {external['pred_probs']}, computed elsewhere"
        text += f", and the features in {external['features']}." if external["features"] else "."
    else:
        stages = read_stages(run)
        epochs = len(stages[-1].rows) if stages else run.summary.get("epochs", len(run.epochs))
        text += f". Trained with {config['method']} for {epochs} epoch{'s' * (epochs != 1)}"
        text += f" after {in_words(stages)}" * bool(stages[:-1])
        text += f" ({config.get('model', 'auto')}, seed {config.get('seed', 0)})."
    noise = run.described.get("noise")
    if noise:
        rate = percent(float(noise["requested_rate"]))
        text += f" {rate} {noise['process']} noise was planted in the labels on purpose."
    return text


def key_numbers(run: RunFiles) -> list[KeyNumber]:
    """The numbers to remember; those that need truth or test data only where there is some."""
    summary = run.summary
    numbers = []
    if "test_accuracy_last" in summary:
        count = summary.get("test_accuracy_last_epochs", 1)
        mean = f"mean of the last {count} epochs measured" if count > 1 else "last epoch"
        best = percent(summary["test_accuracy_best"], 1)
        numbers.append(
            KeyNumber(
                "Test accuracy", percent(summary["test_accuracy_last"], 1), f"{mean}; best {best}"
            )
        )
    numbers.append(_noise_rate(summary))
    if "expected_precision" in summary and summary["num_suspects"]:
        numbers.append(_suspects(summary))
    numbers += _numbers_from_truth(summary)
    if run.labels.truth is None:
        numbers += _numbers_without_truth(run)
    if "wall_seconds" in summary:
        rate = summary.get("images_per_second", 0)
        unit = "images" if run.data["kind"] == "images" else "samples"
        detail = f"{rate:,} {unit}/s" if rate else ""
        if "peak_memory_bytes" in summary:
            detail += f"{', ' * bool(detail)}{summary['peak_memory_bytes'] / 1e9:.1f} GB at most"
        numbers.append(KeyNumber("Time", duration(summary["wall_seconds"]), detail))
    return numbers


def _noise_rate(summary: dict[str, Any]) -> KeyNumber:
    """The estimated noise rate, its interval, and what it truly is where that is known."""
    details = []
    if "realised_noise_rate" in summary:
        details.append(f"really wrong: {percent(summary['realised_noise_rate'])}")
    interval = summary.get("noise_rate_interval")
    if interval:
        details.append(f"between {percent(interval[0])} and {percent(interval[1])}")
    detail = "; ".join(details) or "expected share of wrong labels"
    return KeyNumber("Estimated noise rate", percent(summary["estimated_noise_rate"]), detail)


def rates_by_estimator(summary: dict[str, Any]) -> str:
    """What each estimator says of the noise rate, in words; "" where there is only one."""
    estimates = summary.get("noise_rate_estimates") or {}
    if len(estimates) < 2:
        return ""
    named = (f"{percent(float(rate))} by {name}" for name, rate in sorted(estimates.items()))
    leader = summary.get("noise_rate_estimator")
    lead = f"; {leader} is taken" if leader in estimates else ""
    return ", ".join(named).replace("_", " ") + lead.replace("_", " ")


def _suspects(summary: dict[str, Any]) -> KeyNumber:
    """How many suspects there are and how many of them are expected to be wrong."""
    detail = f"about {percent(summary['expected_precision'])} of them expected to be wrong"
    if "expected_recall" in summary:
        detail += f", {percent(summary['expected_recall'])} of the wrong labels among them"
    if "suspect_precision" in summary:
        detail += f"; truly wrong: {percent(summary['suspect_precision'])}"
    return KeyNumber("Suspects", f"{summary['num_suspects']:,}", detail)


def _numbers_from_truth(summary: dict[str, Any]) -> list[KeyNumber]:
    numbers = []
    if "label_error_auroc" in summary:
        detail = "1 ranks every wrong label first"
        if "suspect_recall" in summary:
            detail = f"{percent(summary['suspect_recall'])} of the wrong labels are suspects"
        numbers.append(KeyNumber("Ranking (AUROC)", f"{summary['label_error_auroc']:.3f}", detail))
    if "suggestion_accuracy" in summary:
        numbers.append(
            KeyNumber(
                "Right suggestions",
                percent(summary["suggestion_accuracy"], 1),
                f"of {summary['num_suspects']:,} suspects",
            )
        )
    if {"label_accuracy_given", "label_accuracy_suggested"} <= summary.keys():
        numbers.append(
            KeyNumber(
                "Correct labels",
                percent(summary["label_accuracy_suggested"], 1),
                f"with suggestions; {percent(summary['label_accuracy_given'], 1)} as given",
            )
        )
    return numbers


def _numbers_without_truth(run: RunFiles) -> list[KeyNumber]:
    labels, suspect = run.labels, run.labels.suspect
    sure = int((suspect & (labels.quality < SURE)).sum())
    numbers = [
        KeyNumber("Sure suspects", f"{sure:,}", f"label quality below {percent(SURE, 0)}"),
    ]
    if suspect.any():
        num_classes = len(run.classes)
        suspects = np.bincount(labels.given[suspect], minlength=num_classes)
        share = suspects / np.maximum(1, np.bincount(labels.given, minlength=num_classes))
        worst = int(share.argmax())
        name = run.classes[worst]
        short = name if len(name) <= 24 else f"{name[:23]}…"
        numbers.append(
            KeyNumber("Most doubtful class", percent(float(share[worst])), f"of {short} look wrong")
        )
    return numbers


def notes(run: RunFiles) -> list[str]:
    """What was said during the run, each once."""
    return list(dict.fromkeys(str(note) for note in run.summary.get("notes") or []))


def command(run: RunFiles) -> str:
    """The command line that repeats the run, with everything that was resolved written out."""
    if run.described.get("command"):
        return str(run.described["command"])
    config = run.config
    lines = [f"labelwise fit {shlex.quote(str(config['data']))}"]
    if config["data"] == "(in memory)":
        lines = ["labelwise fit DATA  # the data were given in memory"]
    lines.append(f"--method {shlex.quote(str(config['method']))}")
    schedule = dict(config.get("schedule") or {})
    for name, option in SCHEDULE_OPTIONS.items():
        if name in schedule:
            lines.append(f"{option} {schedule.pop(name)}")
    for name in RUN_OPTIONS:
        value = config.get(name)
        if value is not None and value != UNSAID.get(name):
            lines.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    settings = {f"schedule.{name}": value for name, value in schedule.items()}
    settings |= config.get("settings") or {}
    for name, value in settings.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"--set {shlex.quote(f'{name}={text}')}")
    return " ".join(lines)
