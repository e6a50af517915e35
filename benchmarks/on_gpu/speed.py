"""How fast is a GPU: against the plain versions, compiled or not, and with larger batches."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alternating import How, Side, in_turn
from bench import LARGE, SMALL, Bench, Options, half_right, read_images
from comparisons import COMPARISONS
from labelwise.errors import UserError
from labelwise.training.loop import Trainer
from on_gpu.record import POISONED, Item, Settings, release
from trainers import DECIDED, LONG, decide, phase_of, run_steps, set_division, trainer_of

STEPS = ("epoch", "dividemix", "sanm", "clusters", "simclr", "score", "mixture")
EPOCHS = ("ce-epoch", "dividemix-epoch", "sanm-epoch", "scanmix-epoch", "simclr-epoch")
VARIED = {"ce": "train", "dividemix": "divide-0"}
"""Methods that are compiled and grown, and the phase that is timed."""
BATCHES = (64, 128, 256, 512, 1024)
MOST = 2**16
"""No larger batch is tried."""
SEARCHES = 3
"""Batches tried between the largest that fits and the first that does not."""


def options_of(settings: Settings) -> Options:
    """The options of the comparisons: the papers' settings, or tiny ones."""
    if settings.tiny:
        return Options(
            limit=128, image_size=8, model=SMALL, device=settings.device, workers=0, batch=16,
            images=128, test_images=16, epoch_images=32, score_images=64, simclr_batch=16,
            losses=1000, rounds=1, apart=False, threads=1,
        )  # fmt: skip
    large = settings.minutes >= 30
    return Options(
        data=settings.data,
        limit=12_288,
        model=LARGE,
        device=settings.device,
        images=8192 if large else 2048,
        test_images=2048,
        epoch_images=6400 if large else 1600,
        score_images=8192,
        simclr_batch=512,
    )


def throughput_items(settings: Settings) -> list[Item]:
    """Steps and epochs against the plain versions, then compiled ones."""
    names = (*STEPS, *EPOCHS)
    # In a rehearsal one comparison has its plain side in another process; that takes seconds.
    found = [
        Item(name, partial(compared, settings, name, settings.tiny and name == "mixture"), 2)
        for name in names
    ]
    varied = [Item(f"variants {name}", partial(variants, settings, name)) for name in VARIED]
    return [*found, *varied]


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that stays until the process ends."""
    return tempfile.TemporaryDirectory(prefix="labelwise-gpu-")


@cache
def bench_of(options: Options) -> Bench:
    """The data, read once for all comparisons of a process."""
    return Bench(options, Path(scratch().name))


def compared(settings: Settings, name: str, apart: bool, seconds: float) -> dict[str, Any]:
    """One comparison with the plain version."""
    options = options_of(settings)
    bench = bench_of(replace(options, apart=options.apart or apart))
    try:
        rows = COMPARISONS[name][1](bench, 0.0 if settings.tiny else seconds)
    finally:
        release()
    return {"rows": [row.to_json() for row in rows], "data": bench.source, "model": bench.model}


def time_for(settings: Settings, seconds: float) -> float:
    """What is left for timing: building, compiling and searching take some; none in a rehearsal."""
    return 0.0 if settings.tiny else seconds / 2


# -- compiled, and with cuDNN's own choice -----------------------------------------------------


def step_trainer(
    settings: Settings, method: str, batch: int, folder: Path, count: int | None = None
) -> Trainer:
    """A trainer for timed steps on random images, half of them taken for right."""
    options = options_of(settings)
    count = count or max(2 * batch, 256 if settings.tiny else 2048)
    inputs, labels, _ = read_images(None, count, options.image_size)
    trainer = trainer_of(
        method,
        (inputs, np.asarray(labels)),
        folder,
        model=options.model,
        device=settings.device,
        schedule={**LONG, "batch_size": batch},
    )
    decide(trainer, DECIDED)
    set_division(trainer, half_right(count))
    return trainer


def with_cudnn(chooses: bool, side: Side) -> Any:
    """Run a side with cuDNN trying its algorithms first, or not."""
    held = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = chooses
    try:
        return side()
    finally:
        torch.backends.cudnn.benchmark = held


def variants(settings: Settings, method: str, seconds: float) -> dict[str, Any]:
    """Steps of labelwise as it is, compiled, and with `cudnn.benchmark`, in turn."""
    batch = options_of(settings).batch
    steps = 1 if settings.tiny else 4
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Side] = {}
        notes: dict[str, str] = {}
        for compiled in (False, True):
            trainer = step_trainer(settings, method, batch, Path(folder) / str(compiled))
            run = partial(run_steps, trainer, phase_of(trainer, VARIED[method]), steps)
            name = "compiled" if compiled else "as it is"
            if compiled and (reason := compile_networks(trainer, run, settings.tiny)):
                notes[name] = reason
                continue
            sides[name] = partial(with_cudnn, False, run)
            if settings.device == "cuda":
                sides[f"{name}, cudnn.benchmark"] = partial(with_cudnn, True, run)
        how = How(time_for(settings, seconds), settings.device, 1 if settings.tiny else 5)
        turns = in_turn(sides, how)
    found = {
        name: {
            "seconds": [turn.seconds / steps for turn in own],
            "median": statistics.median(turn.seconds for turn in own) / steps,
            "peak": max(turn.peak or 0 for turn in own) or None,
        }
        for name, own in turns.items()
    }
    release()
    return {"batch": batch, "variants": found, "notes": notes}


def compile_networks(trainer: Trainer, run: Side, tiny: bool) -> str | None:
    """Compile the backbones, and run once; return why that cannot be done."""
    try:
        import torch._dynamo

        limit = "recompile_limit"
        if not hasattr(torch._dynamo.config, limit):
            limit = "cache_size_limit"  # its name in older versions
        setattr(torch._dynamo.config, limit, 64)  # guesses and training have other shapes
        for network in trainer.plain:
            # A rehearsal only traces: a compiler takes a minute, and may not be there.
            network.get_submodule("backbone").compile(backend="eager" if tiny else "inductor")
        run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
    return None


# -- larger batches ----------------------------------------------------------------------------


def scaling_items(settings: Settings) -> list[Item]:
    """Each method with growing batches."""
    return [Item(f"batches {name}", partial(batches, settings, name)) for name in VARIED]


def batches(settings: Settings, method: str, seconds: float) -> dict[str, Any]:
    """Images a second and memory by batch size, and the largest batch that fits."""
    sizes = (8, 16) if settings.tiny else BATCHES
    each = time_for(settings, seconds) / len(sizes)
    found = [grown(settings, method, size, each) for size in sizes]
    fits = all("error" not in row for row in found)
    largest = None
    if settings.device == "cuda" and fits:
        largest = largest_batch(lambda size: grown(settings, method, size, 0.0), sizes[-1])
    return {"batches": found, "largest": largest}


def grown(settings: Settings, method: str, batch: int, seconds: float) -> dict[str, Any]:
    """A few steps of one batch size."""
    row: dict[str, Any] = {"batch": batch}
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = step_trainer(settings, method, batch, Path(folder))
            phase = phase_of(trainer, VARIED[method])
            before = trainer.position.images
            run_steps(trainer, phase, 1)
            images = trainer.position.images - before
            how = How(seconds, settings.device, 1 if settings.tiny else 3)
            turns = in_turn({"step": partial(run_steps, trainer, phase, 1)}, how)["step"]
            median = statistics.median(turn.seconds for turn in turns)
            row |= {
                "images": images,
                "seconds": median,
                "images_per_second": images / median,
                "peak": max(turn.peak or 0 for turn in turns) or None,
            }
        except (RuntimeError, UserError) as error:  # refused, out of memory, or too many indices
            if any(words in str(error) for words in POISONED):
                raise
            row["error"] = str(error).splitlines()[0][:300]
        finally:
            trainer = phase = None  # type: ignore[assignment]
            release()
    return row


def largest_batch(attempt: Callable[[int], dict[str, Any]], known: int) -> dict[str, Any]:
    """Double until it fails, then look between.

    Args:
        attempt: runs one batch size; "error" in what it returns means that it does not fit.
        known: a batch that fits.
    """
    fits, row = known, {"batch": known}
    fails: int | None = None
    reason = None
    while fails is None and fits < MOST:
        tried = attempt(2 * fits)
        if "error" in tried:
            fails, reason = 2 * fits, tried["error"]
        else:
            fits, row = 2 * fits, tried
    for _ in range(SEARCHES):
        if fails is None:
            break
        middle = (fits + fails) // 2 // 64 * 64
        if middle <= fits:
            break
        tried = attempt(middle)
        if "error" in tried:
            fails, reason = middle, tried["error"]
        else:
            fits, row = middle, tried
    return {**row, "fails": fails, "why": reason}
