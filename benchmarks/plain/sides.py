"""The plain side of every comparison, built from the data that both sides share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from alternating import Side
from bench import CLUSTER_BATCH, SMALL, Bench, Options
from labelwise.models.heads import RECONSTRUCTION, Decoder, HeadSpec, Linear, Projection
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
from plain.networks import Peers
from plain.sanm import SANM
from plain.scanmix import ScanMix
from plain.simclr import SimCLR, simclr_view
from trainers import DECIDED, neighbours_of

SANM_VIEWS = (autoaugment, autoaugment, randaugment, randaugment)


def projection_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The head of SimCLR."""
    return {"projection": Projection(spec.num_features)}


def decoder_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The decoder of SANM."""
    return {RECONSTRUCTION: Decoder(spec.num_features, spec.map_size(), spec.shape)}


def cluster_head(spec: HeadSpec) -> dict[str, nn.Module]:
    """The cluster head of ScanMix."""
    return {"clusters": Linear(spec.num_features, spec.num_classes)}


def peers_of(bench: Bench, count: int, heads: Any = None, model: str | None = None) -> Peers:
    """Plain networks."""
    own = bench.options
    where = (own.device, own.plain_precision)
    return Peers.of(model or bench.model, bench.inputs, count, heads, *where)


def plain_images(
    bench: Bench, peers: Peers, transforms: Sequence[Transform], rows: Any, clean: np.ndarray
) -> Images:
    """Some of the images for a plain loader."""
    arrays = (bench.pixels[rows], bench.labels[rows], clean)
    return Images(*arrays, transforms, *peers.statistics)


def sides_of(
    bench: Bench, peers: Peers, transforms: Sequence[Transform], clean: np.ndarray, make: Any
) -> list[Any]:
    """Loaders of the labelled and of the unlabelled side of the first images."""
    rows = np.arange(len(clean))
    return [
        make(plain_images(bench, peers, transforms, rows[side], clean[side]))
        for side in (clean > DECIDED["threshold"], clean <= DECIDED["threshold"])
    ]


def loaders(
    bench: Bench, peers: Peers, transforms: Sequence[Transform]
) -> tuple[Any, Any, Any, Any]:
    """Loaders of an epoch of DivideMix: everything, both sides, the test images."""
    own, clean = bench.options, bench.part_clean
    large = SCORED_AT_ONCE * own.batch
    many = partial(loader, workers=own.workers, pin=peers.pin)
    everything = plain_images(bench, peers, (), np.arange(bench.images), clean)
    tested = np.arange(bench.images, bench.images + own.test_images)
    test = plain_images(bench, peers, (), tested, bench.clean[tested])
    sides = sides_of(bench, peers, transforms, clean, lambda data: many(data, own.batch))
    labelled, unlabelled = sides
    return (
        many(everything, large, shuffle=False),
        labelled,
        unlabelled,
        many(test, large, shuffle=False),
    )


def plain_dividemix(bench: Bench, kind: type[DivideMix] = DivideMix) -> Side:
    """One step of network 0."""
    sanm = kind is SANM
    peers = peers_of(bench, 2, decoder_head if sanm else None)
    own = bench.options
    make = partial(endless, batch=own.batch, workers=own.workers, pin=peers.pin)
    views: tuple[Transform, ...] = SANM_VIEWS if sanm else (weak, weak)
    labelled, unlabelled = sides_of(bench, peers, views, bench.clean, make)
    plain = kind(peers, None, labelled, unlabelled, None)
    return lambda: plain.step(0, next(labelled), next(unlabelled))


def plain_clusters(bench: Bench) -> Side:
    """One step of the clustering pass of network 0."""
    peers, own = peers_of(bench, 2, cluster_head), bench.options
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
    peers, own = peers_of(bench, 1), bench.options
    every = np.arange(len(bench.labels))
    data = plain_images(bench, peers, (weak,), every, bench.clean)
    batches = endless(data, own.batch, own.workers, peers.pin)
    plain = CrossEntropy(peers, None)
    return lambda: [plain.step(next(batches)) for _ in range(bench.epoch_steps)]


def plain_simclr(bench: Bench, model: str | None = None) -> Side:
    """Steps of SimCLR; the model is the bench's or the one named."""
    peers, own = peers_of(bench, 1, projection_head, model), bench.options
    every = np.arange(len(bench.labels))
    data = plain_images(bench, peers, (simclr_view, simclr_view), every, bench.clean)
    batches = endless(data, own.simclr_batch, own.workers, peers.pin)
    plain, steps = SimCLR(peers), bench.simclr_steps(model or bench.model)
    return lambda: [plain.step(next(batches)) for _ in range(steps)]


def plain_score(bench: Bench) -> Side:
    """The loss of the first images."""
    peers, own = peers_of(bench, 1), bench.options
    rows = np.arange(bench.scored)
    images = plain_images(bench, peers, (), rows, bench.clean[rows])
    size = SCORED_AT_ONCE * own.batch
    batches = loader(images, size, own.workers, shuffle=False, pin=peers.pin)
    return lambda: peers.losses(0, batches)


def plain_mixture(bench: Bench) -> Side:
    """scikit-learn's mixture with the published code's settings."""
    losses = bench.losses()
    return lambda: clean_probability(losses)


def plain_ce_epoch(bench: Bench) -> Side:
    """A whole epoch of cross-entropy."""
    peers, own = peers_of(bench, 1), bench.options
    rows = np.arange(bench.images)
    data = plain_images(bench, peers, (weak,), rows, bench.part_clean)
    train = loader(data, own.batch, own.workers, pin=peers.pin)
    *_, test = loaders(bench, peers, (weak,))
    return CrossEntropy(peers, train, test).epoch


def plain_dividemix_epoch(bench: Bench) -> Side:
    """A whole epoch of DivideMix."""
    peers = peers_of(bench, 2)
    return DivideMix(peers, *loaders(bench, peers, (weak, weak))).epoch


def plain_sanm_epoch(bench: Bench) -> Side:
    """A whole epoch of SANM around DivideMix, as its authors do."""
    peers = peers_of(bench, 2, decoder_head)
    return SANM(peers, *loaders(bench, peers, SANM_VIEWS)).epoch


def plain_scanmix_epoch(bench: Bench) -> Side:
    """A whole epoch of ScanMix under severe noise."""
    peers, own = peers_of(bench, 2, cluster_head), bench.options
    pairs = loader(plain_pairs(bench, peers), CLUSTER_BATCH, own.workers, pin=peers.pin)
    return ScanMix(peers, *loaders(bench, peers, (strong, strong)), pairs=pairs).epoch


def plain_simclr_epoch(bench: Bench) -> Side:
    """A whole epoch of SimCLR."""
    peers, own = peers_of(bench, 1, projection_head), bench.options
    rows = np.arange(bench.images)
    data = plain_images(bench, peers, (simclr_view, simclr_view), rows, bench.part_clean)
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
