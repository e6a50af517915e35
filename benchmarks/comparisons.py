"""What is compared: steps, passes and whole epochs of labelwise and of the plain versions.

Both sides take the same images, batch sizes, network class and optimiser, and as many steps: the
division of the data (half of the labels are taken to be right), ScanMix's predictions and its
neighbours are made up and held still, though both sides score, and fit mixtures, in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternating import ROUNDS_AT_LEAST, How, Row, Side, alternate
from labelwise.data.store import Store
from labelwise.models.heads import RECONSTRUCTION, Decoder, HeadSpec, Linear, Projection
from labelwise.recipes.sanm import PAPER
from labelwise.selection.mixture import mixture
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase
from labelwise.training.scoring import Score
from plain.ce import CrossEntropy
from plain.dividemix import SCORED_AT_ONCE, DivideMix, clean_probability
from plain.images import (
    Images,
    Pairs,
    Transform,
    autoaugment,
    endless,
    loader,
    randaugment,
    strong,
    weak,
)
from plain.networks import CLASSES, Peers
from plain.sanm import SANM
from plain.scanmix import ScanMix
from plain.simclr import SimCLR, simclr_view
from profiling import Profiler
from trainers import (
    DECIDED,
    LATER,
    LONG,
    SEVERE,
    decide,
    hold_still,
    neighbours_of,
    phase_of,
    run_epoch,
    run_steps,
    set_division,
    set_neighbours,
    trainer_of,
)

SMALL, LARGE = "small_resnet", "preact_resnet18"
SIMCLR_STEPS = 10
WORKERS = 5  # of each loader, as the published code has it
SCORED = 50_000
CLUSTER_BATCH = 128


@dataclass(frozen=True)
class Options:
    """What all comparisons share. The plain side's process gets it too.

    Args:
        data: a manifest of images with a column "label"; None for random images.
        limit: images read.
        image_size: of random images, and what others are resized to; None leaves them.
        model: backbone of both sides.
        device: "cpu" or "cuda".
        precision: of labelwise's side.
        plain_precision: of the plain side.
        threads: CPU threads; None leaves PyTorch's number.
        workers: of each plain loader.
        batch: images a step and side.
        images: of a whole epoch.
        test_images: of its evaluation.
        epoch_images: of the steps of a cross-entropy epoch.
        score_images: of a scoring pass.
        simclr_batch: images of a SimCLR step.
        losses: for the mixture.
        rounds: turns of each side, at least.
        apart: whether the plain side gets a process of its own.
    """

    data: Path | None = None
    limit: int = 4096
    image_size: int | None = None
    model: str = LARGE
    device: str = "cpu"
    precision: str = "auto"
    plain_precision: str = "32-true"
    threads: int | None = None
    workers: int = WORKERS
    batch: int = 64
    images: int = 512
    test_images: int = 128
    epoch_images: int = 640
    score_images: int = 2048
    simclr_batch: int = 256
    losses: int = 1_000_000
    rounds: int = ROUNDS_AT_LEAST
    apart: bool = True


class Bench:
    """The data that all comparisons share, and how to train on them.

    Args:
        options: of the run.
        folder: for labelwise's checkpoints; the plain side needs none.
    """

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self.options, self.folder, self.model = options, folder, options.model
        # Both sides of every division in full batches, of DivideMix and of the clustering pass.
        lot = max(2 * options.batch, CLUSTER_BATCH)
        self.images = max(1, options.images // lot) * lot
        count = max(options.limit, self.images + options.test_images)
        self.inputs, self.labels, self.source = read_images(options.data, count, options.image_size)
        self.pixels = self.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.epoch_steps = max(1, min(options.epoch_images, len(self.labels)) // options.batch)
        self.scored = min(options.score_images, len(self.labels))
        self.clean = half_right(len(self.labels))
        self.part_clean = half_right(self.images)

    def losses(self) -> np.ndarray:
        """Losses like those of a data set with half its labels wrong (N) float32."""
        draw, size = np.random.default_rng(0), self.options.losses
        low, high = draw.gamma(1.0, 0.2, size), draw.gamma(8.0, 0.3, size)
        return np.where(draw.random(size) < 0.5, low, high).astype(np.float32)

    def simclr_steps(self, model: str) -> int:
        """Steps a turn: many of the small network, whose loader works on into the other's turn."""
        wanted = SIMCLR_STEPS if model == SMALL else 1
        return max(1, min(wanted, len(self.labels) // self.options.simclr_batch))

    # -- labelwise's side --------------------------------------------------------------------

    def trainer(self, method: str, **options: Any) -> Trainer:
        """Labelwise's side on all images, or on those of an epoch.

        Args:
            method: as typed after ``--method``.
            options: `part` for the images of an epoch and its test images, `batch`, and what
                `trainer_of` takes.
        """
        own, test = self.options, None
        data = (self.inputs, self.labels)
        if options.pop("part", False):
            end = self.images + own.test_images
            test = (self.inputs[self.images : end], self.labels[self.images : end])
            data = (self.inputs[: self.images], self.labels[: self.images])
        batch = options.pop("batch", own.batch)
        schedule = {} if batch is None else {**LONG, "batch_size": batch}
        assert self.folder is not None, "the plain side trains nothing of labelwise"
        given: dict[str, Any] = {
            "model": self.model,
            "device": own.device,
            "precision": own.precision,
            "schedule": schedule,
            **options,
        }
        return trainer_of(method, data, self.folder / method, test=test, **given)

    def pretrainer(self, model: str, size: int, **options: Any) -> Trainer:
        """Labelwise's side of SimCLR alone."""
        settings = {"simclr.batch_size": size, "simclr.epochs": 4}
        given: dict[str, Any] = {"pretrain": "simclr", "settings": settings, **options}
        return self.trainer("simclr", batch=None, model=model, **given)

    # -- the plain side ----------------------------------------------------------------------

    def peers(self, count: int, heads: Any = None, model: str | None = None) -> Peers:
        """Plain networks."""
        own = self.options
        where = (own.device, own.plain_precision)
        return Peers.of(model or self.model, self.inputs, count, heads, *where)

    def plain_images(
        self, peers: Peers, transforms: Sequence[Transform], rows: Any, clean: np.ndarray
    ) -> Images:
        """Some of the images for a plain loader."""
        arrays = (self.pixels[rows], self.labels[rows], clean)
        return Images(*arrays, transforms, *peers.statistics)

    def sides(
        self, peers: Peers, transforms: Sequence[Transform], clean: np.ndarray, make: Any
    ) -> list[Any]:
        """Loaders of the labelled and of the unlabelled side of the first images."""
        rows = np.arange(len(clean))
        return [
            make(self.plain_images(peers, transforms, rows[side], clean[side]))
            for side in (clean > DECIDED["threshold"], clean <= DECIDED["threshold"])
        ]

    def loaders(self, peers: Peers, transforms: Sequence[Transform]) -> tuple[Any, ...]:
        """Loaders of an epoch of DivideMix: everything, both sides, the test images."""
        own, clean = self.options, self.part_clean
        large = SCORED_AT_ONCE * own.batch
        many = partial(loader, workers=own.workers, pin=peers.pin)
        everything = self.plain_images(peers, (), np.arange(self.images), clean)
        tested = np.arange(self.images, self.images + own.test_images)
        test = self.plain_images(peers, (), tested, self.clean[tested])
        return (
            many(everything, large, shuffle=False),
            *self.sides(peers, transforms, clean, lambda data: many(data, own.batch)),
            many(test, large, shuffle=False),
        )


def half_right(count: int) -> np.ndarray:
    """Clean probabilities (N) of which a random half is near one, the other near zero."""
    draw = np.random.default_rng(0)
    right = draw.permutation(count) < count // 2
    noise = draw.uniform(0.0, 0.1, count)
    return np.where(right, 1 - noise, noise)


def read_images(
    path: Path | None, limit: int, size: int | None = None
) -> tuple[Tensor, np.ndarray, str]:
    """Images (N, 3, H, W) uint8 and labels of a file, or random ones without a file."""
    if path is not None and path.exists():
        from labelwise.data.load import load

        data = load(str(path), label_column="label", limit=limit, image_size=size).data
        return data.inputs, data.labels.numpy(), path.name
    draw, side = torch.Generator().manual_seed(0), size or 32
    inputs = torch.randint(0, 256, (limit, 3, side, side), generator=draw, dtype=torch.uint8)
    return inputs, np.arange(limit) % CLASSES, "random images"


# -- heads of the plain networks ---------------------------------------------------------------


def projection_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The head of SimCLR."""
    return {"projection": Projection(spec.num_features)}


def decoder_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The decoder of SANM."""
    return {RECONSTRUCTION: Decoder(spec.num_features, spec.map_size(), spec.shape)}


def cluster_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The cluster head of ScanMix."""
    return {"clusters": Linear(spec.num_features, spec.num_classes)}


SANM_VIEWS = (autoaugment, autoaugment, randaugment, randaugment)


# -- the plain sides ---------------------------------------------------------------------------


def plain_dividemix(bench: Bench, kind: type[DivideMix] = DivideMix) -> Side:
    """One step of network 0."""
    sanm = kind is SANM
    peers = bench.peers(2, decoder_head if sanm else None)
    own = bench.options
    make = partial(endless, batch=own.batch, workers=own.workers, pin=peers.pin)
    views: tuple[Transform, ...] = SANM_VIEWS if sanm else (weak, weak)
    sides = bench.sides(peers, views, bench.clean, make)
    plain = kind(peers, None, *sides, None)
    return lambda: plain.step(0, next(sides[0]), next(sides[1]))


def plain_clusters(bench: Bench) -> Side:
    """One step of the clustering pass of network 0."""
    peers, own = bench.peers(2, cluster_head), bench.options
    batches = endless(plain_pairs(bench, peers), CLUSTER_BATCH, own.workers, peers.pin)
    plain = ScanMix(peers, None, None, None, None)
    return lambda: plain.cluster_step(0, next(batches))


def plain_pairs(bench: Bench, peers: Peers) -> Pairs:
    """Strong views of the images of an epoch and of their neighbours."""
    labels = bench.labels[: bench.images]
    return Pairs(
        bench.pixels[: bench.images],
        labels,
        bench.part_clean,
        (strong,),
        *peers.statistics,
        neighbours=neighbours_of(labels),
        prediction=labels,
    )


def plain_ce(bench: Bench) -> Side:
    """The steps of a cross-entropy epoch."""
    peers, own = bench.peers(1), bench.options
    every = np.arange(len(bench.labels))
    data = bench.plain_images(peers, (weak,), every, bench.clean)
    batches = endless(data, own.batch, own.workers, peers.pin)
    plain = CrossEntropy(peers, None)
    return lambda: [plain.step(next(batches)) for _ in range(bench.epoch_steps)]


def plain_simclr(bench: Bench, model: str | None = None) -> Side:
    """Steps of SimCLR; the model is the bench's or the one named."""
    peers, own = bench.peers(1, projection_head, model), bench.options
    every = np.arange(len(bench.labels))
    data = bench.plain_images(peers, (simclr_view, simclr_view), every, bench.clean)
    batches = endless(data, own.simclr_batch, own.workers, peers.pin)
    plain, steps = SimCLR(peers), bench.simclr_steps(model or bench.model)
    return lambda: [plain.step(next(batches)) for _ in range(steps)]


def plain_score(bench: Bench) -> Side:
    """The loss of the first images."""
    peers, own = bench.peers(1), bench.options
    rows = np.arange(bench.scored)
    images = bench.plain_images(peers, (), rows, bench.clean[rows])
    size = SCORED_AT_ONCE * own.batch
    batches = loader(images, size, own.workers, shuffle=False, pin=peers.pin)
    return lambda: peers.losses(0, batches)


def plain_mixture(bench: Bench) -> Side:
    """scikit-learn's mixture with the published code's settings."""
    losses = bench.losses()
    return lambda: clean_probability(losses)


def plain_ce_epoch(bench: Bench) -> Side:
    """A whole epoch of cross-entropy."""
    peers, own = bench.peers(1), bench.options
    rows = np.arange(bench.images)
    data = bench.plain_images(peers, (weak,), rows, bench.part_clean)
    train = loader(data, own.batch, own.workers, pin=peers.pin)
    *_, test = bench.loaders(peers, (weak,))
    return CrossEntropy(peers, train, test).epoch


def plain_dividemix_epoch(bench: Bench) -> Side:
    """A whole epoch of DivideMix."""
    peers = bench.peers(2)
    return DivideMix(peers, *bench.loaders(peers, (weak, weak))).epoch


def plain_sanm_epoch(bench: Bench) -> Side:
    """A whole epoch of SANM around DivideMix, as its authors do."""
    peers = bench.peers(2, decoder_head)
    return SANM(peers, *bench.loaders(peers, SANM_VIEWS)).epoch


def plain_scanmix_epoch(bench: Bench) -> Side:
    """A whole epoch of ScanMix under severe noise."""
    peers, own = bench.peers(2, cluster_head), bench.options
    pairs = loader(plain_pairs(bench, peers), CLUSTER_BATCH, own.workers, pin=peers.pin)
    return ScanMix(peers, *bench.loaders(peers, (strong, strong)), pairs=pairs).epoch


def plain_simclr_epoch(bench: Bench) -> Side:
    """A whole epoch of SimCLR."""
    peers, own = bench.peers(1, projection_head), bench.options
    rows = np.arange(bench.images)
    data = bench.plain_images(peers, (simclr_view, simclr_view), rows, bench.part_clean)
    size = min(own.simclr_batch, bench.images)
    return SimCLR(peers, loader(data, size, own.workers, pin=peers.pin)).epoch


SIDES: dict[str, Callable[[Bench], Side]] = {
    "dividemix": plain_dividemix,
    "sanm": partial(plain_dividemix, kind=SANM),
    "clusters": plain_clusters,
    "epoch": plain_ce,
    "score": plain_score,
    "mixture": plain_mixture,
    "simclr": plain_simclr,
    "simclr-small": partial(plain_simclr, model=SMALL),
    "ce-epoch": plain_ce_epoch,
    "dividemix-epoch": plain_dividemix_epoch,
    "sanm-epoch": plain_sanm_epoch,
    "scanmix-epoch": plain_scanmix_epoch,
    "simclr-epoch": plain_simclr_epoch,
}


def plain_side(options: Options, name: str) -> Side:
    """Build the plain side of a comparison, in whichever process that is."""
    if options.device == "cuda":
        torch.backends.cudnn.benchmark = True  # as the published code has it
    return SIDES[name](Bench(options))


# -- the comparisons ---------------------------------------------------------------------------


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
    kinds = (("as in the paper", PAPER), ("by default", {}))
    for words, settings in kinds:
        trainer = bench.trainer("sanm+dividemix", part=True, settings=settings)
        decide(trainer, DECIDED)
        what = f"SANM(DivideMix) epoch {words}"
        rows.append(whole_epoch(bench, seconds / len(kinds), trainer, what, "sanm-epoch"))
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
    """
    predicted = None if classes is None else classes[: bench.images]
    after = hold_still(bench.part_clean, predicted)
    run = partial(run_epoch, trainer, epoch, after)
    name = f"{what}, {bench.images:,} images"
    return compare(bench, seconds, name, run, plain, trainer=trainer, images=bench.images)


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
