"""Tiny data, a network without batch statistics, and trainers for the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor, nn

from labelwise.augment.view import ViewOptions, views
from labelwise.config import MethodSettings
from labelwise.data.dataset import Dataset
from labelwise.data.ledger import Column, Ledger
from labelwise.data.store import Store, input_statistics
from labelwise.models.build import HeadFactory, NetworkSpec, auto_model, build_network, head_spec
from labelwise.models.network import Backbone, Network
from labelwise.rng import Draw
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.groups import Groups, add_views
from labelwise.training.journal import Journal
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Problem, Step, Wrapper
from labelwise.training.progress import Silent
from labelwise.training.ranks import Ranks


def flip_labels(labels: Tensor, num_classes: int, rate: float, seed: int = 0) -> Tensor:
    """Move a fraction of the labels to the next class."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    flipped = labels.clone()
    flipped[wrong] = (labels[wrong] + 1) % num_classes
    return flipped


def tiny_images(num: int = 64, num_classes: int = 3, wrong: float = 0.25, seed: int = 0) -> Dataset:
    """Grey 8 x 8 images: class c has a bright column pair at 2c; some labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(num) % num_classes
    images = torch.randint(0, 90, (num, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(truth.tolist()):
        images[row, :, :, 2 * label : 2 * label + 2] += 140
    labels = flip_labels(truth, num_classes, wrong, seed)
    classes = tuple(f"class {c}" for c in range(num_classes))
    return Dataset(images, labels, classes, np.arange(num), "tiny images", flip=False)


def tiny_embeddings(
    num: int = 64, num_classes: int = 4, wrong: float = 0.25, seed: int = 0
) -> Dataset:
    """Embeddings of width 6 in one cluster per class; some labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(num) % num_classes
    centres = 3 * torch.randn(num_classes, 6, generator=generator)
    inputs = centres[truth] + torch.randn(num, 6, generator=generator)
    labels = flip_labels(truth, num_classes, wrong, seed)
    classes = tuple(f"class {c}" for c in range(num_classes))
    return Dataset(inputs, labels, classes, np.arange(num), "tiny embeddings")


class Smooth(Backbone):
    """Two convolutions with per-sample normalisation: no sample sees another one."""

    def __init__(self, channels: int, width: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.GroupNorm(1, width),
            nn.GELU(),
        )
        self.num_features = width

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for images of shape (C, H, W)."""
        return cls(shape[0])

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F, H/2, W/2)."""
        features: Tensor = self.layers(inputs)
        return features


def smooth_network(
    data: Dataset, number: int = 0, seed: int = 0, heads: HeadFactory | None = None
) -> Network:
    """A `Network` on the `Smooth` backbone, initialised from a position-keyed draw."""
    with Draw(seed, phase=f"smooth-{number}").forked("weights"):
        backbone = Smooth.build(data.shape)
        spec = NetworkSpec("smooth", tuple(data.shape), data.num_classes)
        extra = heads(head_spec(backbone, spec)) if heads else None
        return Network(backbone, data.num_classes, *input_statistics(data.inputs), extra)


def usual_network(data: Dataset, method: Method, number: int, seed: int = 0) -> nn.Module:
    """The network a run on the CPU would take."""
    spec = NetworkSpec(
        auto_model(data.shape, len(data), False), tuple(data.shape), data.num_classes
    )
    draw = Draw(seed, phase=f"network-{number}")
    return build_network(spec, *input_statistics(data.inputs), draw, method.heads)


def bound(method: Method, data: Dataset, **schedule: Any) -> Method:
    """Bind a method to a data set."""
    return method.bind(Problem(len(data), data.num_classes, data.kind, data.shape), schedule)


def fitting_views(data: Dataset) -> dict[str, Any]:
    """Every view policy that exists for this kind of data."""
    options = ViewOptions.of(data)
    return {n: c.for_data(options) for n, c in views().items() if data.kind in c.kinds}


def build_trainer(
    data: Dataset,
    method: Method,
    folder: Path,
    *,
    schedule: Mapping[str, Any] | None = None,
    seed: int = 0,
    networks: Sequence[nn.Module] | None = None,
    fabric: Fabric | None = None,
    checkpoint_every: float = 1e9,
    should_stop: Callable[[], bool] = lambda: False,
    kind: type[Trainer] = Trainer,
) -> Trainer:
    """A trainer of a method on a data set in a folder.

    Args:
        data: training samples.
        method: not yet bound.
        folder: for checkpoints and the journal.
        schedule: schedule fields.
        seed: of everything random.
        networks: the peers; None takes those of an ordinary run.
        fabric: the launched engine; None launches a single process.
        checkpoint_every: seconds between commits.
        should_stop: asked after every step.
        kind: the class to build.
    """
    method = bound(method, data, **{"epochs": 3, "warmup": 1, "batch_size": 16, **(schedule or {})})
    if networks is None:
        networks = [usual_network(data, method, n, seed) for n in range(method.num_peers)]
    fabric = fabric or launch("cpu", 1, "32-true")
    return kind(
        method=method,
        fabric=fabric,
        plain=tuple(networks),
        store=Store.of(data, fabric.device),
        views=fitting_views(data),
        seed=seed,
        checkpoints=Checkpoints(folder / "checkpoint", "digest"),
        journal=Journal(folder / "metrics.jsonl"),
        evaluate=lambda networks, measures: {"test_accuracy": 0.0},
        listener=Silent(),
        checkpoint_every=checkpoint_every,
        should_stop=should_stop,
    )


def build_context(
    data: Dataset,
    networks: Sequence[nn.Module],
    *,
    columns: Sequence[Column] = (),
    trains: tuple[int, ...] = (0,),
    draw: Draw | None = None,
    ranks: Ranks | None = None,
) -> Context:
    """A context outside of any trainer, with the loop's own ledger columns."""
    from contextlib import nullcontext

    from labelwise.training.method import BASE_COLUMNS

    device = torch.device("cpu")
    return Context(
        networks=tuple(networks),
        plain=tuple(networks),
        autocast=nullcontext,
        store=Store.of(data, device),
        ledger=Ledger((*BASE_COLUMNS, *columns), len(networks), len(data), device),
        views=fitting_views(data),
        draw=draw or Draw(seed=0, epoch=1, phase="phase"),
        ranks=ranks or Ranks(),
        epoch=1,
        num_epochs=3,
        trains=trains,
        say=lambda message: None,
    )


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of every parameter and buffer of every network."""
    return {
        f"{number}.{name}": value.detach().clone()
        for number, network in enumerate(trainer.plain)
        for name, value in network.state_dict().items()
    }


def rows_without_times(path: Path, *without: str) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` without what is measured by a clock."""
    lines = path.read_text(encoding="utf-8").splitlines()
    drop = {"phase_seconds", *without}
    return [{k: v for k, v in json.loads(line).items() if k not in drop} for line in lines]


def assert_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Bit-identical tensors under the same names (NaN equals NaN)."""
    assert first.keys() == second.keys()
    different = [
        name
        for name in first
        if not torch.equal(first[name].nan_to_num(), second[name].nan_to_num())
    ]
    assert not different, f"not bit-identical: {different}"


class ExtraViewSettings(MethodSettings):
    """Settings of the test's wrapper."""

    extra_weight: float = Field(0.1, ge=0, description="weight of the extra term")


@dataclass(frozen=True)
class ExtraViewStep(Step):
    """One more view of every group, a loss term on it, and a count in the ledger."""

    inner: Step
    weight: float

    def views(self, context: Context, groups: Groups) -> Groups:
        """The inner step's views and the unaugmented samples with the same targets."""
        made = self.inner.views(context, groups)
        return add_views(
            made, {side: [(group.anchor, group.views[0][1])] for side, group in made.items()}
        )

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The inner step's terms and the mean squared logit of the added views."""
        terms = dict(self.inner.loss(context, groups))
        added = torch.cat([group.views[-1][0] for group in groups.values()])
        size = torch.stack([context.logits(n, added).square().mean() for n in context.trains])
        terms["extra"] = self.weight * size.mean()
        for group in groups.values():
            # A batch that goes round may hold a row twice.
            times = (group.index[:, None] == group.index).sum(1)
            for number in context.trains:
                seen = context.ledger["times_seen"][number, group.index]
                context.ledger.write("times_seen", number, group.index, seen + times)
        return terms


class ExtraView(Wrapper):
    """A wrapper that a method can only survive if no step counts its views."""

    name = "extra-view"
    summary = "one more view and one more term, for tests"
    citation = "none"
    Settings: ClassVar = ExtraViewSettings
    settings: ExtraViewSettings

    @property
    def rows_per_sample(self) -> int:
        """One view more."""
        return self.base.rows_per_sample + 1

    def columns(self) -> tuple[Column, ...]:
        """The base's columns and how often a sample was seen."""
        return (*super().columns(), Column("times_seen", dtype=torch.int64, merge="sum"))

    def wrap(self, step: Step) -> Step:
        """Wrap a step."""
        return ExtraViewStep(step, self.settings.extra_weight)
