"""From a configuration to a run: read the data, set test data aside, assemble the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from labelwise.audit.observed import audit_bytes
from labelwise.augment.view import ViewOptions, views
from labelwise.binding import start_notes
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset, Source, Truth
from labelwise.data.ledger import Ledger
from labelwise.data.load import load, split
from labelwise.data.store import Store, input_statistics
from labelwise.errors import NoColumn, UserError
from labelwise.models.build import NetworkSpec, build_network
from labelwise.noise.parse import parse as parse_noise
from labelwise.noise.planting import Planted, plant_wrong_labels
from labelwise.pretraining import is_pretraining
from labelwise.pretraining.start import start_from
from labelwise.rng import Draw
from labelwise.training import memory
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.division import Division
from labelwise.training.evaluate import accuracy
from labelwise.training.features import BANK
from labelwise.training.folder import RunFolder
from labelwise.training.journal import Journal
from labelwise.training.loop import Trainer
from labelwise.training.method import Measured, Method
from labelwise.training.neighbourhood import NEIGHBOURS
from labelwise.training.progress import Silent
from labelwise.training.ranks import Ranks
from labelwise.training.representation import Representation
from labelwise.training.trace import trace_columns

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Prepared:
    """The data of a run, with truth and test data held apart from what is trained on.

    Args:
        train: training samples with the given labels.
        truth: their true labels, if known.
        test: test samples with labels that are taken as true, if there are any.
        noise: what was planted, for `config.json`.
        planted: labels made wrong on purpose for the run, to calibrate the audit by.
        labelled: whether the labels of `train` mean anything. Data without labels, for
            pre-training, carry zeros in their place.
    """

    train: Dataset
    truth: Truth | None
    test: Source | None
    noise: dict[str, Any] | None
    planted: Planted | None = None
    labelled: bool = True


IN_MEMORY = "(in memory)"


@dataclass(frozen=True)
class InMemory:
    """Data that were handed over rather than named; None is read from the configuration.

    Args:
        data: training inputs.
        labels: their given labels.
        truth: their true labels.
        test: test inputs and labels, as a pair.
    """

    data: Any = None
    labels: Any = None
    truth: Any = None
    test: Any = None


def prepare(config: RunConfig, memory: InMemory | None = None) -> Prepared:
    """Read, limit, plant noise, and set test data aside.

    Args:
        config: the run's configuration.
        memory: data handed over in memory.
    """
    memory = memory or InMemory()
    source = load(
        config.data if memory.data is None else memory.data,
        labels=memory.labels,
        truth=memory.truth,
        label_column=config.label_column,
        truth_column=config.truth_column,
        image_size=config.image_size,
        on_bad_image=config.on_bad_image,
        limit=config.limit,
        seed=config.seed,
    )
    noise = None
    if config.noise is not None:
        base = source.truth or Truth(source.data.labels)
        path = config.data if memory.data is None else None
        clean = source.data.with_labels(base.labels)
        noisy = parse_noise(config.noise).for_data(path).corrupt(clean, config.seed)
        source, noise = noisy.planted_in(source.data), noisy.to_json()
    test: Source | None = None
    if config.test is not None:
        test = load_test(config, source.data, memory.test)
    elif source.truth is not None:
        source, test = split(source, seed=config.seed)
    planted = plant_wrong_labels(source.data, config.plant, config.seed)
    return Prepared(source.data, source.truth, test, noise, planted)


def trained_on(prepared: Prepared) -> Dataset:
    """The training data as the networks see them: with the planted labels put in."""
    train, planted = prepared.train, prepared.planted
    return train if planted is None else train.with_labels(planted.in_place_of(train.labels))


def load_test(config: RunConfig, train: Dataset, data: Any = None) -> Source:
    """Read the test data into the training data's classes and shape.

    Its labels come from the truth column, the label column or the usual names, whichever the
    file has first; they are taken as true.
    """
    assert config.test is not None
    size = config.image_size
    channels = None
    if train.kind == "images":
        channels = train.shape[0]
        if size is None and train.shape[1] == train.shape[2] and train.shape[1] >= 4:
            size = train.shape[1]
    failure: UserError | None = None
    for column in dict.fromkeys((config.truth_column, config.label_column, None)):
        try:
            test = load(
                config.test if data is None or isinstance(data, str) else data,
                label_column=column,
                image_size=size,
                on_bad_image=config.on_bad_image,
                classes=train.classes,
                channels=channels,
            )
        except NoColumn as error:
            failure = failure or error
            continue
        except UserError as error:
            raise UserError(f"the test data {config.test}: {error}") from error
        if test.data.shape != train.shape:
            images = train.kind == "images"
            remedy = "Give an --image-size." if images else "Use the same embedding model for both."
            raise UserError(
                f"the test data {config.test} have shape {test.data.shape}, the training data "
                f"{train.shape}. {remedy}"
            )
        return test
    raise UserError(f"the test data {config.test}: {failure}")


def network_builder(
    config: RunConfig, train: Dataset, method: Method
) -> Callable[[int], nn.Module]:
    """Return a function that builds peer `number` with its own initial weights."""
    spec = NetworkSpec(config.model, train.shape, train.num_classes)
    mean, std = input_statistics(train.inputs)

    def build(number: int) -> nn.Module:
        draw = Draw(config.seed, phase=f"network-{number}")
        network = build_network(spec, mean, std, draw, method.heads)
        if train.kind == "images":
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    return build


def assemble(
    config: RunConfig,
    prepared: Prepared,
    method: Method,
    folder: RunFolder,
    listener: Silent,
    fabric: Fabric,
) -> Trainer:
    """Build the trainer of a resolved configuration on a launched engine.

    Raises:
        UserError: unknown model, or not enough memory.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train, test = prepared.train, prepared.test
    build = network_builder(config, train, method)
    networks = tuple(build(number) for number in range(method.num_peers))
    checkpoints = Checkpoints(folder.checkpoint, config.digest() + train.label_hash()[:16])
    if config.init is not None and not checkpoints.any():
        spec = NetworkSpec(config.model, train.shape, train.num_classes)
        start_from(config.init, spec, networks)
    device = torch.device(config.device)
    num_test = 0 if test is None else len(test.data)
    memory.require_memory(predict_memory(config, train, method, networks[0], num_test), device)
    store = Store.of(trained_on(prepared), fabric.device)
    options = ViewOptions.of(train)
    fitting = {n: c.for_data(options) for n, c in views().items() if train.kind in c.kinds}
    test_store = None if test is None else Store.of(test.data, fabric.device)
    ranks = Ranks(fabric)
    represent = Representation(store, prepared.truth, ranks, config.seed)

    def represented(
        network: nn.Module, measures: Literal["features", "clusters"]
    ) -> dict[str, float]:
        if prepared.labelled:
            return represent(network, measures)
        # Features have no figure without labels; of clusters it is told how many are in use.
        if measures != "clusters":
            return {}
        return {"clusters_used": represent(network, measures)["clusters_used"]}

    def evaluate(trained: tuple[nn.Module, ...], measures: Measured) -> dict[str, float]:
        if measures != "classes":
            return represented(trained[0], measures)
        if test_store is None:
            return {}
        truth = Truth(test_store.labels)
        return {"test_accuracy": accuracy(trained, test_store, truth, ranks)}

    trainer = Trainer(
        method=method,
        fabric=fabric,
        plain=networks,
        store=store,
        views=fitting,
        seed=config.seed,
        checkpoints=checkpoints,
        journal=Journal(folder.metrics),
        evaluate=evaluate,
        listener=listener,
        inspect=inspector(prepared, store),
        checkpoint_every=config.checkpoint_every,
    )
    if not checkpoints.any():  # a run that goes on has said them
        for note in start_notes(config, train, method):
            trainer.say(note)
    return trainer


def inspector(prepared: Prepared, store: Store) -> Callable[[Ledger], dict[str, float]]:
    """What compares a method's division of the data with the truth, where that is known."""
    if prepared.truth is None or not prepared.labelled:
        return lambda ledger: {}
    return Division(store.labels, prepared.truth)


def predict_memory(
    config: RunConfig, train: Dataset, method: Method, network: nn.Module, num_test: int = 0
) -> dict[str, int]:
    """Predicted memory of a run by part, bytes."""
    per_sample = sum(
        torch.empty((), dtype=column.dtype).element_size() * int(np.prod(column.shape, dtype=int))
        for column in (
            *method.all_columns(),
            *trace_columns(train.num_classes, len(train), method.num_peers),
        )
    )
    rows = math.ceil(method.rows_per_step / config.devices)
    parts = memory.predict_bytes(
        network,
        method.num_peers,
        train.inputs,
        rows,
        per_sample * method.num_peers,
        config.precision != "32-true",
        num_test=num_test,
    )
    made = made_extras(method, network, config.seed)
    extras = extra_bytes(made)
    parts["networks"] += extras
    parts["checkpoint"] += extras
    # Training is over by then: its activations are free again.
    alone = is_pretraining(config.method)
    audit = 0 if alone else audit_bytes(len(train), train.num_classes)
    parts["audit"] = max(0, audit - parts["training"])
    # Those of all samples, and a copy of unit length; pre-training alone writes them at its end.
    mines = any(column.name == NEIGHBOURS for column in method.all_columns())
    copies = (3 if mines and config.devices > 1 else 2) if mines or alone else 0
    if BANK in made:  # those of every network, and a copy of one that is searched
        copies = max(copies, method.num_peers + 1 + (config.devices > 1))
    width = getattr(network.backbone, "num_features", 0)
    parts["features"] = copies * len(train) * width * 4
    return parts


def made_extras(method: Method, network: nn.Module, seed: int) -> dict[str, nn.Module]:
    """The modules that a method keeps beside its networks, made once to be measured."""
    with Draw(seed, phase="extras").forked("weights"):
        return method.extras(network)  # type: ignore[arg-type]


def extra_bytes(made: Mapping[str, nn.Module]) -> int:
    """Bytes of a method's further modules: momentum encoder, queue, hallucinator."""
    return sum(
        value.numel() * value.element_size()
        for module in made.values()
        for value in module.state_dict().values()
    )
