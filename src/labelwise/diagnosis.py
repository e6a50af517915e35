"""How noisy are these labels, and what to do about it: a short training that answers first."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelwise.advice import advise
from labelwise.binding import bind, resolve
from labelwise.config import RunConfig
from labelwise.data.files import at_home, write_json
from labelwise.data.load import stratified_rows
from labelwise.errors import UserError
from labelwise.estimation.consensus import Consensus
from labelwise.estimator import train_and_finish
from labelwise.experiment import IN_MEMORY, InMemory, Prepared, assemble, prepare
from labelwise.methods.quick import FEWEST, Quick
from labelwise.noise.planting import plant_wrong_labels
from labelwise.outputs import planted_note
from labelwise.running import place
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.progress import Silent

AUDIT_SHARE = 1.6
"""Time of the whole pass over that of its training: views, neighbours and intervals."""
TRIAL = 1024
"""Samples of the trial that measures the speed."""
SMALLEST_PART = 1000
"""Samples that are kept at least, however short the budget."""


@dataclass(frozen=True)
class Diagnosis:
    """What a short look says about the labels.

    Args:
        noise_rate: estimated share of wrong labels.
        interval: 95 % interval of it.
        estimates: the rate by every estimator.
        pairs: the confusions with most wrong labels: true class, given class, expected number in
            the samples looked at, and its interval.
        method: recommended method, or None where that cannot be told.
        settings: recommended settings of it.
        reasons: in words, why; or why nothing can be told.
        num_samples: samples looked at, of `num_all`.
        num_all: samples of the data set.
        seconds: the whole look took.
    """

    noise_rate: float
    interval: tuple[float, float]
    estimates: Mapping[str, float]
    pairs: tuple[tuple[str, str, float, float, float], ...]
    method: str | None
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]
    num_samples: int
    num_all: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For `diagnosis.json` and programs."""
        return {
            "noise_rate": self.noise_rate,
            "noise_rate_interval": list(self.interval),
            "noise_rate_estimates": dict(self.estimates),
            "confused_pairs": [
                dict(zip(("true", "given", "count", "low", "high"), pair, strict=True))
                for pair in self.pairs
            ],
            "recommended_method": self.method,
            "recommended_settings": dict(self.settings),
            "reasons": list(self.reasons),
            "num_samples": self.num_samples,
            "num_all": self.num_all,
            "seconds": round(self.seconds, 2),
        }

    def to_text(self, data: str) -> str:
        """For a terminal."""
        low, high = self.interval
        part = f" of {self.num_all:,}" if self.num_samples < self.num_all else ""
        lines = [f"Looked at {self.num_samples:,}{part} samples for {self.seconds:.0f} s."]
        if (low, high) == (0.0, 1.0):
            lines.append("How many of the labels are wrong cannot be told.")
        else:
            rates = (f"{name} {rate:.1%}" for name, rate in sorted(self.estimates.items()))
            lines += [
                f"About {self.noise_rate:.1%} of the labels are wrong "
                f"(95 % interval {low:.1%} to {high:.1%}).",
                f"By estimator: {', '.join(rates)}.",
            ]
        if self.pairs:
            lines.append("Most confused (true class -> label, expected wrong labels, interval):")
            lines += [
                f"  {true} -> {given}: {count:.0f} ({below:.0f} to {above:.0f})"
                for true, given, count, below, above in self.pairs[:8]
            ]
        lines += [f"- {reason}" for reason in self.reasons]
        if self.method is None:
            lines.append("No method can be recommended from this.")
        else:
            words = "".join(f" --set {name}={value}" for name, value in self.settings.items())
            lines.append(f"Recommended: labelwise fit {data} --method {self.method}{words}")
        return "\n".join(lines)


def diagnose(
    data: Any,
    labels: Any = None,
    *,
    minutes: float = 0.5,
    out: str | Path | None = None,
    listener: Silent | None = None,
    **options: Any,
) -> Diagnosis:
    """Estimate how many labels are wrong and which classes are confused; recommend a method.

    A short plain training (`labelwise.methods.quick`) is read as any run is. Its length, and if
    need be the number of samples, are cut to fit the budget, by a trial of a few steps.

    Args:
        data: as for `labelwise.fit`.
        labels: labels of data in memory.
        minutes: budget for the whole look without reading the data, on this machine.
        out: folder that keeps the run, with its report and `diagnosis.json`; None keeps nothing.
        listener: shows progress; None is silent.
        options: fields of `RunConfig`: seed, label_column, noise, limit, model, threads, …

    Raises:
        UserError: data that cannot be used, or a budget that is not positive.
    """
    if not minutes > 0:
        raise UserError(f"--minutes is {minutes:g}: give a positive number, such as 0.5.")
    start = time.monotonic()
    in_memory = not isinstance(data, str | Path)
    named = IN_MEMORY if in_memory else place(data)
    config = RunConfig.parse({"data": named, "method": Quick.name, **options}, "the diagnosis")
    kept = None if out is None else RunFolder(at_home(out))
    if kept is not None:
        kept.require_free()  # before any data is read
    prepared = prepare(config, InMemory(data, labels) if in_memory else None)
    num_all = len(prepared.train)
    prepared, epochs, notes = _within(config, prepared, 60 * minutes)
    config = config.model_copy(update={"schedule": {"epochs": epochs}})
    with tempfile.TemporaryDirectory(prefix="labelwise-") as scratch:
        folder = kept or RunFolder(Path(scratch) / "run")
        result = train_and_finish(
            config, prepared, folder, listener or Silent(), command=_command(config, minutes)
        )
        with np.load(folder.evidence) as arrays:
            found = _diagnosis(
                result.summary, arrays, prepared, num_all, notes, time.monotonic() - start
            )
        if kept is not None:
            write_json(folder.path / "diagnosis.json", found.to_json())
    return found


def _command(config: RunConfig, minutes: float) -> str:
    """The command line that repeats the diagnosis."""
    words = ["labelwise diagnose", shlex.quote(config.data), f"--minutes {minutes:g}"]
    for name in ("label_column", "truth_column", "limit", "noise", "image_size", "seed"):
        value = getattr(config, name)
        if value is not None:
            words.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(words)


def _within(
    config: RunConfig, prepared: Prepared, budget: float
) -> tuple[Prepared, int, tuple[str, ...]]:
    """Cut epochs, then samples, so that the look fits `budget` seconds."""
    method = bind(config, prepared.train)
    wanted, size = method.schedule.epochs, len(prepared.train)
    seconds = _seconds_per_sample(config, prepared) * AUDIT_SHARE
    if wanted * size * seconds <= budget:
        return prepared, wanted, ()
    epochs = max(FEWEST, int(budget / (size * seconds)))
    if epochs * size * seconds <= budget:
        return (
            prepared,
            epochs,
            (f"the budget allows {epochs} of {wanted} epochs; more minutes see more",),
        )
    kept = min(size, max(SMALLEST_PART, int(budget / (epochs * seconds))))
    train = prepared.train
    rows = torch.from_numpy(stratified_rows(train.labels.numpy(), kept, config.seed))
    truth = None if prepared.truth is None else prepared.truth.subset(rows)
    train = train.subset(rows)
    planted = plant_wrong_labels(train, config.plant, config.seed)
    part = replace(prepared, train=train, truth=truth, planted=planted)
    note = f"the budget allows {epochs} epochs of {kept:,} samples; more minutes see more"
    return part, epochs, (note,)


def _seconds_per_sample(config: RunConfig, prepared: Prepared) -> float:
    """Training seconds per sample and epoch on this machine, by a trial."""
    rows = torch.arange(min(TRIAL, len(prepared.train)))
    part = Prepared(prepared.train.subset(rows), None, None, None)
    config = config.model_copy(update={"schedule": {"epochs": 1}})
    method = bind(config, part.train)
    config = resolve(config, part.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with tempfile.TemporaryDirectory(prefix="labelwise-") as scratch:
        trainer = assemble(config, part, method, RunFolder(Path(scratch)), Silent(), fabric)
        start = time.monotonic()
        trainer.train()
    return (time.monotonic() - start) / len(rows)


def _diagnosis(
    summary: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    prepared: Prepared,
    num_all: int,
    notes: tuple[str, ...],
    seconds: float,
) -> Diagnosis:
    """Put the figures of the run together with what they advise."""
    train = prepared.train
    names = train.classes
    own = planted_note(prepared)  # of interest to readers of labels.csv alone
    pairs = tuple(
        (names[true], names[given], float(count), float(low), float(high))
        for (true, given), count, low, high in zip(
            arrays["pair_rows"].tolist(),
            arrays["pair_counts"],
            arrays["pair_low"],
            arrays["pair_high"],
            strict=True,
        )
    )
    # The confusions of a model whose neighbours are refused may be its own.
    told = summary["noise_rate_estimator"] == Consensus.name
    advice = advise(
        rate=summary["estimated_noise_rate"],
        interval=tuple(summary["noise_rate_interval"]),
        estimates=summary["noise_rate_estimates"],
        largest_pair=pairs[0][2] / len(train) if pairs and told else 0.0,
        num_samples=len(train),
        num_classes=train.num_classes,
        class_sizes=torch.bincount(train.labels, minlength=train.num_classes),
    )
    return Diagnosis(
        noise_rate=summary["estimated_noise_rate"],
        interval=advice.interval,
        estimates=summary["noise_rate_estimates"],
        pairs=pairs,
        method=advice.method,
        settings=advice.settings,
        reasons=(*notes, *advice.reasons, *(note for note in summary["notes"] if note not in own)),
        num_samples=len(train),
        num_all=num_all,
        seconds=seconds,
    )
