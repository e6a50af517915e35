"""labelwise against a plain implementation of the same training, alternated in one run.

Run: `python benchmarks/throughput.py [--minutes M] [--data FILE] [--json FILE] [--small]`.

The labelwise side is the package's own loop: its trainer runs phases whose plan is cut to the
number of steps that is timed. The plain side is the usual way to write the same mathematics:
float32, one image at a time through Pillow in loader workers, one forward per view (SimCLR: both
views in one forward, as is usual there).

`--only simclr simclr-small` compares a step of contrastive pre-training, with the large and the
small network. Where other work shares the cores set OMP_WAIT_POLICY=PASSIVE, as the command line
does: both sides get it, and threads that wait do not take the cores from those that work.

Both sides take the same images, batch sizes, network class and optimiser. They live in two
processes, so that neither gets the other's memory allocator or thread pool, and take turns: while
one is timed the other waits. The plain loader's queue is full before the clock starts, so that its
workers refill it during plain steps only, as they do in the middle of an epoch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from labelwise import binding, experiment, outputs
from labelwise.config import RunConfig
from labelwise.data.store import Store, input_statistics
from labelwise.models.build import NetworkSpec, build_network
from labelwise.models.heads import HeadSpec, Projection
from labelwise.models.network import Network, Outputs
from labelwise.rng import Draw
from labelwise.selection.mixture import mixture
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.loop import Trainer
from labelwise.training.method import Phase, Step
from labelwise.training.progress import Silent
from labelwise.training.scoring import Score
from plain_simclr import nt_xent, simclr_view

BATCH, VIEWS, CLASSES = 64, 2, 10
TEMPERATURE, ALPHA, LAMBDA_U, THRESHOLD = 0.5, 4.0, 25.0, 0.5
SMALL, LARGE = "small_resnet", "preact_resnet18"
CONTRASTIVE_TEMPERATURE = 0.2
SIMCLR_STEPS = 10
WORKERS = 5  # of each loader, as the published code has it
FILL_SECONDS = 3.0
ROUNDS_AT_LEAST = 3
SCORED = 50_000
T = TypeVar("T")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


# -- the plain side ----------------------------------------------------------------------------


class PlainImages(TorchDataset[Any]):
    """Images one by one: `views` crops and flips each (0: the image as it is), label, weight."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, clean: np.ndarray, views: int, like: Network
    ) -> None:
        self.images, self.labels, self.clean, self.views = images, labels, clean, views
        self.mean = like.mean.numpy()[:, None, None]
        self.std = like.std.numpy()[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[list[Tensor], int, float]:
        image = Image.fromarray(self.images[row])
        views = [self.tensor(self.augment(image)) for _ in range(self.views)]
        return views or [self.tensor(image)], int(self.labels[row]), float(self.clean[row])

    @staticmethod
    def augment(image: Image.Image, padding: int = 4) -> Image.Image:
        """Crop out of a black border, flip every other."""
        width, height = image.size
        left, top = (int(torch.randint(2 * padding + 1, ())) for _ in range(2))
        wide = ImageOps.expand(image, padding)
        crop = wide.crop((left, top, left + width, top + height))
        flip = float(torch.rand(())) < 0.5
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop

    def tensor(self, image: Image.Image) -> Tensor:
        """To a normalised float tensor (C, H, W)."""
        values = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255.0
        return torch.from_numpy((values - self.mean) / self.std)


class PlainPairs(PlainImages):
    """The same with SimCLR's views."""

    @staticmethod
    def augment(image: Image.Image, padding: int = 4) -> Image.Image:
        """Resized crop, flip, colours."""
        del padding
        return simclr_view(image)


def projection_head(spec: HeadSpec) -> dict[str, torch.nn.Module]:
    """The head of SimCLR."""
    return {"projection": Projection(spec.num_features)}


def endless(data: PlainImages, batch: int, workers: int) -> Iterator[Any]:
    """Random full batches without end, from a queue that is full."""
    sampler = RandomSampler(data, replacement=True, num_samples=10**9)
    batches = iter(DataLoader(data, batch, sampler=sampler, num_workers=workers))
    next(batches)
    time.sleep(FILL_SECONDS)
    return batches


@dataclass
class Plain:
    """The plain side's networks and optimisers, on already normalised float32 images."""

    networks: list[Network]
    optimisers: list[torch.optim.SGD]

    @classmethod
    def of(cls, model: str, shape: tuple[int, ...], inputs: Tensor, count: int) -> Plain:
        """Build `count` networks."""
        mean, std = input_statistics(inputs)
        spec = NetworkSpec(model, shape, CLASSES)
        networks = [build_network(spec, mean, std, Draw(n), projection_head) for n in range(count)]
        return cls(
            networks,
            [
                torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
                for net in networks
            ],
        )

    def logits(self, number: int, inputs: Tensor, head: str = "classes") -> Tensor:
        """Class logits (B, K), or what another head makes of the features."""
        network = self.networks[number]
        return network.heads[head](network.backbone(inputs).mean((2, 3)))

    def update(self, number: int, loss: Tensor) -> float:
        """Backward and optimiser step."""
        self.optimisers[number].zero_grad()
        loss.backward()
        self.optimisers[number].step()
        return loss.item()

    def dividemix(self, labelled: Any, unlabelled: Any) -> float:
        """One step of network 0 with network 1 as its peer (arXiv 2002.07394, 3.2)."""
        (x1, x2), labels, weights = labelled
        (u1, u2), _, _ = unlabelled
        self.networks[0].train()
        self.networks[1].eval()
        with torch.no_grad():
            of_u = [self.logits(n, view).softmax(1) for n in (0, 1) for view in (u1, u2)]
            of_x = [self.logits(0, view).softmax(1) for view in (x1, x2)]
            weight = weights.float()[:, None]
            refined = weight * F.one_hot(labels, CLASSES) + (1 - weight) * sum(of_x) / len(of_x)
            sharp = [t ** (1 / TEMPERATURE) for t in (refined, sum(of_u) / len(of_u))]
            on_x, on_u = (t / t.sum(1, keepdim=True) for t in sharp)
            share = float(np.random.beta(ALPHA, ALPHA))
            share = max(share, 1 - share)
            inputs = torch.cat([x1, x2, u1, u2])
            targets = torch.cat([on_x, on_x, on_u, on_u])
            partner = torch.randperm(len(inputs))
            inputs = share * inputs + (1 - share) * inputs[partner]
            targets = share * targets + (1 - share) * targets[partner]
        logits = self.logits(0, inputs)
        size = 2 * len(x1)
        probability = logits.softmax(1)
        on_labelled = -(targets[:size] * logits[:size].log_softmax(1)).sum(1).mean()
        on_unlabelled = ((probability[size:] - targets[size:]) ** 2).mean()
        prior = torch.full((CLASSES,), 1 / CLASSES)
        penalty = (prior * (prior / probability.mean(0)).log()).sum()
        return self.update(0, on_labelled + LAMBDA_U * on_unlabelled + penalty)

    def simclr(self, batch: Any) -> float:
        """One step of SimCLR, both views in one forward."""
        views, _, _ = batch
        projections = self.logits(0, torch.cat(views), "projection")
        return self.update(0, nt_xent(projections, CONTRASTIVE_TEMPERATURE))

    def supervised(self, batch: Any) -> float:
        """One step of cross-entropy."""
        (images,), labels, _ = batch
        return self.update(0, F.cross_entropy(self.logits(0, images), labels))

    @torch.no_grad()
    def score(self, loader: DataLoader[Any]) -> Tensor:
        """Cross-entropy of every image, in order."""
        self.networks[0].eval()
        losses = [
            F.cross_entropy(self.logits(0, images), labels, reduction="none")
            for (images,), labels, _ in loader
        ]
        self.networks[0].train()
        return torch.cat(losses)


# -- the labelwise side ------------------------------------------------------------------------


class Stopwatch(Context):
    """A context that notes how long each of its parts takes."""

    spent: dict[str, float]

    @classmethod
    def around(cls, context: Context, spent: dict[str, float]) -> Stopwatch:
        """Note the seconds of each part in `spent`."""
        timed = cls(**vars(context))
        object.__setattr__(timed, "spent", spent)
        return timed

    def note(self, name: str, call: Callable[[], T]) -> T:
        """Call, and add the time to the part `name`."""
        start = time.perf_counter()
        value = call()
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start
        return value

    def view(self, *args: Any) -> Tensor:
        """Timed."""
        return self.note("views", lambda: super(Stopwatch, self).view(*args))

    def guess(self, number: int, inputs: Tensor) -> Tensor:
        """Timed, apart from the forward with gradient."""
        whose = "guess of the learner" if number == self.learner else "guess of the peer"
        with torch.no_grad():
            return self.note(whose, lambda: Context.logits(self, number, inputs).softmax(1))

    def forward(self, number: int, inputs: Tensor, *how: Any) -> Outputs:
        """Timed where there is a gradient; what has none is part of a guess."""
        call = super().forward
        if not torch.is_grad_enabled():
            return call(number, inputs, *how)
        return self.note("forward", lambda: call(number, inputs, *how))


SCHEDULE = {"schedule": {"epochs": 4, "warmup": 1, "batch_size": BATCH}}


def trainer_of(
    method: str,
    data: tuple[Tensor, np.ndarray],
    model: str,
    folder: Path,
    precision: str,
    options: dict[str, Any] | None = None,
) -> Trainer:
    """The trainer that `labelwise fit`, or `labelwise pretrain`, would build."""
    config = RunConfig.parse(
        {
            "data": "(in memory)",
            "method": method,
            "model": model,
            **(SCHEDULE if options is None else options),
            "device": "cpu",
            "precision": precision,
            "checkpoint_every": 1e9,
        },
        "the benchmark",
    )
    prepared = experiment.prepare(config, experiment.InMemory(data[0], data[1]))
    bound = binding.bind(config, prepared.train)
    config = binding.resolve(config, prepared.train, bound)
    fabric = launch(config.device, 1, config.precision)
    return experiment.assemble(config, prepared, bound, RunFolder(folder), Silent(), fabric)


def planned(trainer: Trainer, phase: Phase) -> dict[str, Tensor]:
    """The rows of all steps of a phase, as the loop plans them."""
    size = phase.batch_size or trainer.schedule.batch_size
    return dict(phase.sampling.plan(trainer._context(phase), size))


def run_steps(trainer: Trainer, phase: Phase, steps: int) -> None:
    """Run the loop's own code on the first steps of a phase."""
    if trainer.position.plan is None:
        plan = planned(trainer, phase)
        trainer.position.plan = {side: rows[:steps] for side, rows in plan.items()}
    trainer._run(phase)


def breakdown(trainer: Trainer, phase: Phase, steps: int) -> dict[str, float]:
    """Seconds of each part of a step, as the loop goes through them (median)."""
    assert isinstance(phase.step, Step)
    context, plan = trainer._context(phase), planned(trainer, phase)
    for number, network in enumerate(trainer.networks):
        network.train(number in phase.trains)
    held: list[dict[str, float]] = []
    for step in range(steps):
        spent: dict[str, float] = {}
        start = time.perf_counter()
        here = Stopwatch.around(context.at_step(step % len(next(iter(plan.values())))), spent)
        with torch.no_grad():
            groups = phase.step.views(here, trainer._groups(here, phase, plan))
        terms = phase.step.loss(here, groups)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        for number in phase.trains:
            trainer.optimisers[number].zero_grad(set_to_none=True)
        middle = time.perf_counter()
        trainer.fabric.backward(total)
        after = time.perf_counter()
        for number in phase.trains:
            trainer.optimisers[number].step()
        end = time.perf_counter()
        rest = middle - start - sum(spent.values())
        spent |= {"targets, mixing, losses": rest, "backward": after - middle}
        held.append({**spent, "optimiser": end - after})
    return {name: statistics.median(row[name] for row in held) for name in held[0]}


# -- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of each side, and how they are to be read."""

    name: str
    ours: list[float]
    plain: list[float]
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster labelwise is: ratio of the medians."""
        return statistics.median(self.plain) / statistics.median(self.ours)

    def show(self) -> str:
        """A line of the table."""

        def side(seconds: list[float]) -> str:
            low, high = min(seconds), max(seconds)
            return f"{statistics.median(seconds):9.3f} ({low:.3f}..{high:.3f})"

        left, right = side(self.ours), side(self.plain)
        return f"{self.name:34} {left:>30} {right:>30} {self.ratio:6.2f} {len(self.ours):3}"

    def to_json(self) -> dict[str, Any]:
        """All times, and the ratio."""
        return {**vars(self), "ratio_of_medians": self.ratio}


def alternate(
    name: str,
    ours: Callable[[], Any],
    plain: str,
    bench: Bench,
    seconds: float,
    factor: float = 1.0,
    note: str = "",
) -> Row:
    """Time both sides in turn, after a warm-up of each, until the time is over.

    Args:
        name: of the comparison.
        ours: labelwise's side.
        plain: name of the other in `PLAIN`; it runs in a process of its own.
        bench: the data and options.
        seconds: time to spend; at least `ROUNDS_AT_LEAST` rounds are run.
        factor: turns what was run into what is reported.
        note: said beside the figure.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, bench.options, plain))
    process.start()
    try:
        ours()
        here.recv()
        left: list[float] = []
        right: list[float] = []
        end = time.perf_counter() + seconds
        while len(left) < ROUNDS_AT_LEAST or time.perf_counter() < end:
            start = time.perf_counter()
            ours()
            left.append((time.perf_counter() - start) * factor)
            here.send("run")
            right.append(here.recv() * factor)
    finally:
        here.close()
        process.join()
    row = Row(name, left, right, note)
    print(row.show(), flush=True)
    return row


def serve(connection: Connection, options: argparse.Namespace, name: str) -> None:
    """The plain side's process: run when told to, answer with the seconds it took."""
    warnings.filterwarnings("ignore", message=".*worker processes.*")
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        call = PLAIN[name](Bench(options, Path(folder)))
        call()
        connection.send(0.0)
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            start = time.perf_counter()
            call()
            connection.send(time.perf_counter() - start)


def plain_dividemix(bench: Bench) -> Callable[[], Any]:
    """One step of network 0."""
    plain, sides = Plain.of(bench.model, bench.shape, bench.inputs, 2), []
    for chosen in (bench.clean > THRESHOLD, bench.clean <= THRESHOLD):
        part = (bench.pixels[chosen], bench.labels[chosen], bench.clean[chosen])
        images = PlainImages(*part, VIEWS, plain.networks[0])
        sides.append(endless(images, BATCH, bench.options.workers))
    return lambda: plain.dividemix(next(sides[0]), next(sides[1]))


def plain_epoch(bench: Bench) -> Callable[[], Any]:
    """The steps of a CE epoch."""
    plain = Plain.of(bench.model, bench.shape, bench.inputs, 1)
    data = PlainImages(bench.pixels, bench.labels, bench.clean, 1, plain.networks[0])
    batches = endless(data, BATCH, bench.options.workers)
    return lambda: [plain.supervised(next(batches)) for _ in range(bench.epoch_steps)]


def plain_simclr(model: str | None = None) -> Callable[[Bench], Callable[[], Any]]:
    """One step of SimCLR; the model is the bench's or the one named."""

    def start(bench: Bench) -> Callable[[], Any]:
        options = bench.options
        plain = Plain.of(model or bench.model, bench.shape, bench.inputs, 1)
        part = (bench.pixels, bench.labels, bench.clean)
        pairs = PlainPairs(*part, VIEWS, plain.networks[0])
        batches = endless(pairs, options.simclr_batch, options.workers)
        steps = bench.simclr_steps(model)
        return lambda: [plain.simclr(next(batches)) for _ in range(steps)]

    return start


def plain_score(bench: Bench) -> Callable[[], Any]:
    """The loss of the first images."""
    plain = Plain.of(bench.model, bench.shape, bench.inputs, 1)
    size, workers = bench.scored, bench.options.workers
    part = (bench.pixels[:size], bench.labels[:size], bench.clean[:size])
    images = PlainImages(*part, 0, plain.networks[0])
    loader: DataLoader[Any] = DataLoader(
        images, 5 * BATCH, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: plain.score(loader)


def plain_mixture(bench: Bench) -> Callable[[], Any]:
    """scikit-learn's mixture with the published code's settings."""
    losses = bench.losses()
    return lambda: sklearn_mixture(losses)


def sklearn_mixture(losses: np.ndarray) -> np.ndarray:
    """Clean probabilities (N) by scikit-learn."""
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    model = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(scaled)
    return np.asarray(model.predict_proba(scaled)[:, model.means_.argmin()])


PLAIN: dict[str, Callable[[Bench], Callable[[], Any]]] = {
    "dividemix": plain_dividemix,
    "epoch": plain_epoch,
    "score": plain_score,
    "mixture": plain_mixture,
    "simclr": plain_simclr(),
    "simclr-small": plain_simclr(SMALL),
}


def compare_dividemix(bench: Bench, seconds: float) -> Row:
    """One training step of network 0, network 1 guessing."""
    trainer = bench.trainer("dividemix")
    trainer.ledger.decisions.update(threshold=THRESHOLD, lambda_u=LAMBDA_U, loss_window=1.0)
    clean = torch.from_numpy(bench.clean).float()
    for number in range(len(trainer.networks)):
        trainer.ledger.set("clean", number, clean)
    phase = next(p for p in trainer.method.phases(2) if p.name == "divide-0")
    name = f"DivideMix step, {BATCH}+{BATCH} images"
    row = alternate(name, lambda: run_steps(trainer, phase, 1), "dividemix", bench, seconds)
    bench.parts[row.name] = breakdown(trainer, phase, ROUNDS_AT_LEAST)
    return row


def compare_simclr(model: str | None = None) -> Callable[[Bench, float], Row]:
    """One step of contrastive pre-training; the model is the bench's or the one named."""

    def compare(bench: Bench, seconds: float) -> Row:
        size, used = bench.options.simclr_batch, model or bench.model
        trainer = bench.pretrainer({"simclr.batch_size": size}, used)
        phase, steps = trainer.part.phases(0)[0], bench.simclr_steps(model)
        row = alternate(
            f"SimCLR step, {size} images, {used}",
            lambda: run_steps(trainer, phase, steps),
            "simclr" if model is None else "simclr-small",
            bench,
            seconds,
            1 / steps,
            f"{steps} step(s) a turn",
        )
        bench.parts[row.name] = breakdown(trainer, phase, ROUNDS_AT_LEAST)
        return row

    return compare


def compare_epoch(bench: Bench, seconds: float) -> Row:
    """An epoch of cross-entropy over part of the images, reported per 1,000 images."""
    trainer = bench.trainer("ce")
    (phase,) = trainer.method.phases(0)
    steps = bench.epoch_steps
    return alternate(
        "CE epoch, per 1,000 images",
        lambda: run_steps(trainer, phase, steps),
        "epoch",
        bench,
        seconds,
        1000 / (steps * BATCH),
        f"measured on {steps} steps of {BATCH}",
    )


def compare_score(bench: Bench, seconds: float) -> Row:
    """The loss of every image under one network, reported for `SCORED` images."""
    trainer, size = bench.trainer("ce"), bench.scored
    context = trainer._context(Phase("score", Score()))
    store = Store(trainer.store.inputs[:size], trainer.store.labels[:size], CLASSES)
    context = replace(context, store=store)
    return alternate(
        f"score {SCORED:,} images, one network",
        lambda: Score().run(context),
        "score",
        bench,
        seconds,
        SCORED / size,
        f"both sides measured on {size} images and scaled",
    )


def compare_mixture(bench: Bench, seconds: float) -> Row:
    """Clean probabilities from losses: exact start here, k-means start in scikit-learn."""
    losses = bench.losses()
    ours = torch.from_numpy(losses)
    apart = np.abs(mixture("gaussian").fit(ours).clean.numpy() - sklearn_mixture(losses)).max()
    return alternate(
        f"Gaussian mixture, {len(losses):,} losses",
        lambda: mixture("gaussian").fit(ours),
        "mixture",
        bench,
        seconds,
        note=f"largest difference of a posterior from scikit-learn's: {apart:.1e}",
    )


class Bench:
    """The data and options that all comparisons share."""

    parts: dict[str, dict[str, float]]

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.model = SMALL if options.small else LARGE
        self.inputs, self.labels, self.source = read_images(options.data, options.limit)
        self.pixels = self.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self.shape = tuple(self.inputs.shape[1:])
        self.epoch_steps = max(1, min(options.epoch_images, len(self.labels)) // BATCH)
        self.scored = min(options.score_images, len(self.labels))
        right = np.arange(len(self.labels)) % 2 == 0  # half the labels are taken to be right
        noise = np.random.default_rng(0).uniform(0.0, 0.1, len(self.labels))
        self.clean = np.where(right, 1 - noise, noise)
        self.parts = {}

    def losses(self) -> np.ndarray:
        """Losses like those of a data set with half its labels wrong (N) float32."""
        draw, size = np.random.default_rng(0), self.options.losses
        low, high = draw.gamma(1.0, 0.2, size), draw.gamma(8.0, 0.3, size)
        return np.where(draw.random(size) < 0.5, low, high).astype(np.float32)

    def trainer(self, method: str) -> Trainer:
        """Labelwise's side."""
        data = (self.inputs, self.labels)
        return trainer_of(method, data, self.model, self.folder / method, self.options.precision)

    def simclr_steps(self, model: str | None) -> int:
        """Steps a turn: many of the small network, whose loader works on into the other's turn."""
        wanted = SIMCLR_STEPS if (model or self.model) == SMALL else 1
        return max(1, min(wanted, len(self.labels) // self.options.simclr_batch))

    def pretrainer(self, settings: dict[str, Any], model: str) -> Trainer:
        """Labelwise's side of SimCLR alone."""
        data, folder = (self.inputs, self.labels), self.folder / f"simclr-{model}"
        options = {"pretrain": "simclr", "settings": {**settings, "simclr.epochs": 4}}
        return trainer_of("simclr", data, model, folder, self.options.precision, options)


def read_images(path: Path | None, limit: int) -> tuple[Tensor, np.ndarray, str]:
    """The data set's images (N, 3, 32, 32) uint8 and labels, or random ones without a file."""
    if path is not None and path.exists():
        from labelwise.data.load import load

        data = load(str(path), label_column="label", limit=limit).data
        return data.inputs, data.labels.numpy(), path.name
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (limit, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return inputs, np.arange(limit) % CLASSES, "random images"


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        known = next(line for line in cpuinfo.splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        known = []
    return {
        **outputs.hardware("cpu"),
        "flags": [flag for flag in FLAGS if flag in known],
        "versions": outputs.versions(),
        "commit": outputs.commit(),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all comparisons")
    parser.add_argument("--data", type=Path, help="a manifest of 32x32 images; else random ones")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--small", action="store_true", help="small network, to try the script")
    parser.add_argument("--only", nargs="*", choices=sorted(COMPARISONS), help="comparisons")
    parser.add_argument("--simclr-batch", type=int, default=256, help="images of a SimCLR step")
    parser.add_argument("--threads", type=int, help="CPU threads; the default is PyTorch's")
    parser.add_argument("--workers", type=int, default=WORKERS, help="of each plain loader")
    parser.add_argument("--precision", default="auto", help="of the labelwise side")
    parser.add_argument("--limit", type=int, default=4096, help="images read")
    parser.add_argument("--epoch-images", type=int, default=640, help="timed of a CE epoch")
    parser.add_argument("--score-images", type=int, default=2048, help="timed of a score pass")
    parser.add_argument("--losses", type=int, default=1_000_000, help="for the mixture")
    return parser.parse_args(arguments)


COMPARISONS: dict[str, tuple[float, Callable[[Bench, float], Row]]] = {
    "dividemix": (0.45, compare_dividemix),
    "epoch": (0.3, compare_epoch),
    "score": (0.15, compare_score),
    "mixture": (0.1, compare_mixture),
    "simclr": (0.35, compare_simclr()),
    "simclr-small": (0.15, compare_simclr(SMALL)),
}
"""Share of the time, and the comparison."""


def main() -> int:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = machine()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print(f"{bench.model}, {bench.source}; {found['cpu']}, {found['threads']} threads")
        print(f"{' '.join(found['flags'])}; commit {found['commit']}; {found['versions']}\n")
        print(f"{'seconds: median (min..max)':34} {'labelwise':>30} {'plain':>30} {'ratio':>6}   n")
        chosen = {name: COMPARISONS[name] for name in options.only or COMPARISONS}
        whole = sum(share for share, _ in chosen.values())
        rows = [
            compare(bench, 60 * options.minutes * share / whole)
            for share, compare in chosen.values()
        ]
    for row in rows:
        if row.note:
            print(f"  {row.name}: {row.note}")
    for step, parts in bench.parts.items():
        total = sum(parts.values())
        print(f"\nWhere labelwise's {step} goes (median):")
        for name, seconds in parts.items():
            print(f"  {name:26} {seconds:8.3f} s {seconds / total:6.1%}")
    if options.json:
        content = {
            "model": bench.model,
            "data": bench.source,
            "machine": found,
            "rows": [row.to_json() for row in rows],
            "step_parts_seconds": bench.parts,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
