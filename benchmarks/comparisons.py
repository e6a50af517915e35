"""What is compared: steps, passes and whole epochs of labelwise and of the plain versions.

Both sides take the same images, batch sizes, network class and optimiser, and as many steps: the
division of the data (half of the labels are taken to be right), ScanMix's predictions and its
neighbours are made up and held still, though both sides score, and fit mixtures, in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from alternating import ROUNDS_AT_LEAST, How, Row, Side, alternate
from bench import CLUSTER_BATCH, SMALL, Bench
from labelwise.data.store import Store
from labelwise.recipes.sanm import PAPER
from labelwise.selection.mixture import mixture
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase
from labelwise.training.scoring import Score
from plain.dividemix import clean_probability
from plain.networks import CLASSES
from plain.sides import plain_side
from profiling import Profiler
from trainers import (
    DECIDED,
    LATER,
    SEVERE,
    decide,
    hold_still,
    neighbours_of,
    phase_of,
    run_epoch,
    run_steps,
    set_division,
    set_neighbours,
)

SCORED = 50_000


def compare(
    bench: Bench,
    seconds: float,
    name: str,
    ours: Side,
    plain: str,
    factor: float = 1.0,
    trainer: Trainer | None = None,
    **more: Any,
) -> Row:
    """Alternate both sides, then look where labelwise's time goes.

    Args:
        bench: the data and options.
        seconds: time to spend.
        name: of the row.
        ours: labelwise's side.
        plain: name of the other in `SIDES`.
        factor: turns what was run into what is reported.
        trainer: what `ours` runs, to be profiled; None for no profile.
        more: `note` and `images` of the row.
    """
    own = bench.options
    how = How(seconds, own.device, own.rounds, own.threads, own.apart)
    cudnn = torch.backends.cudnn.benchmark
    row = alternate(name, ours, partial(plain_side, own, plain), how, factor, **more)
    torch.backends.cudnn.benchmark = cudnn  # a plain side in this process has set it
    if trainer is None:
        return row
    parts = Profiler(trainer, own.device).median(ours, min(own.rounds, ROUNDS_AT_LEAST))
    return replace(row, parts={part: spent * factor for part, spent in parts.items()})


def compare_dividemix(bench: Bench, seconds: float) -> list[Row]:
    """One training step of network 0, network 1 guessing."""
    trainer = bench.trainer("dividemix")
    return [divided_step(bench, seconds, trainer, "DivideMix", "dividemix")]


def compare_sanm(bench: Bench, seconds: float) -> list[Row]:
    """The same of SANM around it, as its authors do."""
    trainer = bench.trainer("sanm+dividemix", settings=PAPER)
    return [divided_step(bench, seconds, trainer, "SANM(DivideMix)", "sanm")]


def divided_step(bench: Bench, seconds: float, trainer: Trainer, what: str, plain: str) -> Row:
    """One step on both sides of a division."""
    size = bench.options.batch
    decide(trainer, DECIDED)
    set_division(trainer, bench.clean)
    phase = phase_of(trainer, "divide-0")
    name, run = f"{what} step, {size}+{size} images", partial(run_steps, trainer, phase, 1)
    return compare(bench, seconds, name, run, plain, trainer=trainer, images=2 * size)


def compare_clusters(bench: Bench, seconds: float) -> list[Row]:
    """One step of ScanMix's clustering pass."""
    trainer = scanmix_trainer(bench)
    for number in range(2):
        classes = torch.from_numpy(bench.labels[: bench.images])
        trainer.ledger.set("prediction", number, classes)
    run = partial(run_steps, trainer, phase_of(trainer, "cluster-0"), 1)
    name = f"ScanMix clustering step, {CLUSTER_BATCH} pairs"
    return [
        compare(bench, seconds, name, run, "clusters", trainer=trainer, images=2 * CLUSTER_BATCH)
    ]


def compare_simclr(bench: Bench, seconds: float, model: str | None = None) -> list[Row]:
    """One step of contrastive pre-training; the model is the bench's or the one named."""
    used, size = model or bench.model, bench.options.simclr_batch
    trainer, steps = bench.pretrainer(used, size), bench.simclr_steps(used)
    phase = trainer.part.phases(0)[0]
    return [
        compare(
            bench,
            seconds,
            f"SimCLR step, {size} images, {used}",
            partial(run_steps, trainer, phase, steps),
            "simclr" if model is None else "simclr-small",
            1 / steps,
            trainer,
            note=f"{steps} step(s) a turn",
            images=steps * size,
        )
    ]


def compare_ce(bench: Bench, seconds: float) -> list[Row]:
    """Steps of a cross-entropy epoch, reported per 1,000 images."""
    trainer, steps, size = bench.trainer("ce"), bench.epoch_steps, bench.options.batch
    (phase,) = trainer.part.phases(0)
    return [
        compare(
            bench,
            seconds,
            "CE epoch, per 1,000 images",
            partial(run_steps, trainer, phase, steps),
            "epoch",
            1000 / (steps * size),
            trainer,
            note=f"measured on {steps} steps of {size}",
            images=steps * size,
        )
    ]


def compare_score(bench: Bench, seconds: float) -> list[Row]:
    """The loss of every image under one network, reported for `SCORED` images."""
    trainer, size = bench.trainer("ce"), bench.scored
    context = trainer._context(Phase("score", Score()))
    store = Store(trainer.store.inputs[:size], trainer.store.labels[:size], CLASSES)
    context = replace(context, store=store)
    return [
        compare(
            bench,
            seconds,
            f"score {SCORED:,} images, one network",
            lambda: Score().run(context),
            "score",
            SCORED / size,
            note=f"both sides measured on {size} images and scaled",
            images=size,
        )
    ]


def compare_mixture(bench: Bench, seconds: float) -> list[Row]:
    """Clean probabilities from losses: exact start here, k-means start in scikit-learn."""
    losses = bench.losses()
    ours = torch.from_numpy(losses).to(bench.options.device)
    found = mixture("gaussian").fit(ours).clean.cpu().numpy()
    apart = np.abs(found - clean_probability(losses)).max()
    return [
        compare(
            bench,
            seconds,
            f"Gaussian mixture, {len(losses):,} losses",
            lambda: mixture("gaussian").fit(ours),
            "mixture",
            note=f"largest difference of a posterior from scikit-learn's: {apart:.1e}",
        )
    ]


def compare_ce_epoch(bench: Bench, seconds: float) -> list[Row]:
    """A whole epoch of cross-entropy, with its evaluation."""
    return [whole_epoch(bench, seconds, bench.trainer("ce", part=True), "CE epoch", "ce-epoch")]


def compare_dividemix_epoch(bench: Bench, seconds: float) -> list[Row]:
    """A whole epoch of DivideMix."""
    trainer = bench.trainer("dividemix", part=True)
    decide(trainer, DECIDED)
    return [whole_epoch(bench, seconds, trainer, "DivideMix epoch", "dividemix-epoch")]


def compare_sanm_epoch(bench: Bench, seconds: float) -> list[Row]:
    """A whole epoch of SANM around DivideMix: as its authors do, and by default."""
    rows = []
    kinds: tuple[tuple[str, dict[str, Any], str], ...]
    kinds = (
        ("as in the paper", PAPER, ""),
        ("by default", {}, "not the same work: the plain side is the paper's, of more views"),
    )
    for words, settings, note in kinds:
        trainer = bench.trainer("sanm+dividemix", part=True, settings=settings)
        decide(trainer, DECIDED)
        what, each = f"SANM(DivideMix) epoch {words}", seconds / len(kinds)
        rows.append(whole_epoch(bench, each, trainer, what, "sanm-epoch", note=note))
    return rows


def scanmix_trainer(bench: Bench) -> Trainer:
    """ScanMix under severe noise, with made-up neighbours, on the images of an epoch."""
    settings = {"scanmix.cluster_batch": CLUSTER_BATCH}
    trainer = bench.trainer("scanmix", part=True, pretrain="none", settings=settings)
    decide(trainer, SEVERE)
    set_neighbours(trainer, neighbours_of(bench.labels[: bench.images]))
    return trainer


def compare_scanmix_epoch(bench: Bench, seconds: float) -> list[Row]:
    """A whole epoch of ScanMix: DivideMix on strong views, and the clustering pass."""
    trainer = scanmix_trainer(bench)
    return [whole_epoch(bench, seconds, trainer, "ScanMix epoch", "scanmix-epoch", bench.labels)]


def compare_simclr_epoch(bench: Bench, seconds: float) -> list[Row]:
    """A whole epoch of SimCLR."""
    size = min(bench.options.simclr_batch, bench.images)
    trainer = bench.pretrainer(bench.model, size, part=True)
    return [whole_epoch(bench, seconds, trainer, "SimCLR epoch", "simclr-epoch", epoch=0)]


def whole_epoch(
    bench: Bench,
    seconds: float,
    trainer: Trainer,
    what: str,
    plain: str,
    classes: np.ndarray | None = None,
    epoch: int = LATER,
    note: str = "",
) -> Row:
    """A whole epoch on both sides.

    Args:
        bench: the data and options.
        seconds: time to spend.
        trainer: labelwise's side.
        what: what the row is called.
        plain: name of the other in `SIDES`.
        classes: classes that all networks predict, where predictions decide what is drawn.
        epoch: which one, 0-based.
        note: said beside the figures.
    """
    predicted = None if classes is None else classes[: bench.images]
    after = hold_still(bench.part_clean, predicted)
    run = partial(run_epoch, trainer, epoch, after)
    name = f"{what}, {bench.images:,} images"
    more: dict[str, Any] = {"trainer": trainer, "note": note, "images": bench.images}
    return compare(bench, seconds, name, run, plain, **more)


Comparison = Callable[[Bench, float], list[Row]]
STEPS: Mapping[str, tuple[float, Comparison]] = {
    "dividemix": (0.45, compare_dividemix),
    "epoch": (0.3, compare_ce),
    "score": (0.15, compare_score),
    "mixture": (0.1, compare_mixture),
    "simclr": (0.35, compare_simclr),
    "simclr-small": (0.15, partial(compare_simclr, model=SMALL)),
}
"""Share of the time, and the comparison: those that run where none is named."""
COMPARISONS: Mapping[str, tuple[float, Comparison]] = {
    **STEPS,
    "sanm": (0.45, compare_sanm),
    "clusters": (0.2, compare_clusters),
    "ce-epoch": (0.1, compare_ce_epoch),
    "dividemix-epoch": (0.3, compare_dividemix_epoch),
    "sanm-epoch": (0.6, compare_sanm_epoch),
    "scanmix-epoch": (0.4, compare_scanmix_epoch),
    "simclr-epoch": (0.2, compare_simclr_epoch),
}
"""Those and all others."""
