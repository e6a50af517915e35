"""SimCLR and MoCo in the loop: views, queue, key encoder, interruption, and what they learn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labelwise.data.dataset import Dataset
from labelwise.data.load import load
from labelwise.errors import UserError
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.coteaching import CoTeaching
from labelwise.models.heads import Projection
from labelwise.models.modes import evaluating
from labelwise.models.network import Network
from labelwise.pretraining.contrastive import Contrastive
from labelwise.pretraining.moco import ENCODER, QUEUE, MoCo, QueryAndKey, Queue
from labelwise.pretraining.share import Share
from labelwise.pretraining.simclr import SimCLR, TwoViews
from labelwise.rng import Draw
from labelwise.training.chain import Chain
from labelwise.training.context import Context
from labelwise.training.engine import launch
from labelwise.training.groups import Group
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Method, Problem, Step
from labelwise.training.representation import knn_figures
from support import (
    ExtraView,
    assert_same_tensors,
    bound,
    build_context,
    build_trainer,
    rows_without_times,
    smooth_network,
    tiny_embeddings,
    tiny_images,
    usual_network,
    weights_of,
)

torch.set_num_threads(1)

DATA = tiny_images(num=40)
BOTH: list[type[Contrastive]] = [SimCLR, MoCo]
both = pytest.mark.parametrize("kind", BOTH, ids=["simclr", "moco"])


def smooth_with_head(data: Dataset = DATA, number: int = 0) -> Network:
    """A network in which no sample sees another one, with a projection head."""
    network = smooth_network(data, number)
    with Draw(0, phase=f"projection-{number}").forked("weights"):
        network.heads["projection"] = Projection(network.backbone.num_features, width=16)
    return network


def context_with(method: Method, network: nn.Module, **options: Any) -> Context:
    """A context that holds the extras of a method."""
    context = build_context(DATA, [network], **options)
    context.extras.update(method.extras(network))  # type: ignore[arg-type]
    return context


def group_of(context: Context, rows: Tensor) -> Group:
    store = context.store
    return Group(rows, store.labels[rows], torch.ones(len(rows)), store.plain(rows))


def everything(trainer: Trainer, folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """All state at the end of a run, and its journal."""
    state = {**weights_of(trainer), **trainer.extras.state_dict(), **trainer.ledger.columns}
    for number, optimiser in enumerate(trainer.optimisers):
        for place, slot in optimiser.state_dict()["state"].items():
            state[f"optimiser.{number}.{place}"] = slot["momentum_buffer"]
    rows = rows_without_times(folder / "metrics.jsonl", "notes")
    return {name: value.clone() for name, value in state.items()}, rows


# -- interruption -----------------------------------------------------------------------------

SHORT = {"epochs": 2, "batch_size": 16}
CHAINS: dict[str, Callable[[], Method]] = {
    "simclr": lambda: Chain(SimCLR(**SHORT), CrossEntropy()),
    "moco": lambda: Chain(MoCo(**SHORT, queue=24), CrossEntropy()),
    "moco, two networks": lambda: Chain(MoCo(**SHORT, queue=24), CoTeaching(noise_rate=0.3)),
    "wrapped moco": lambda: ExtraView(MoCo(**SHORT, queue=24)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_interrupted_at_every_step_ends_bit_identical(name: str, tmp_path: Path) -> None:
    """In the pre-training, where the parts change, and after: queue and key encoder as well."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    make, schedule = CHAINS[name], {"epochs": 2, "batch_size": 16}
    whole = build_trainer(DATA, make(), tmp_path / "whole", schedule=schedule)
    whole.train()
    stopped_in = []
    while True:
        parts = build_trainer(
            DATA,
            make(),
            tmp_path / "parts",
            schedule=schedule,
            checkpoint_every=0,
            should_stop=lambda: True,
        )
        parts.resume()
        try:
            parts.train()
        except Interrupted:
            stopped_in.append((parts.position.epoch, parts.position.step))
        else:
            break
    epochs = whole.method.num_epochs
    assert {epoch for epoch, _ in stopped_in} == set(range(epochs))
    assert all((epoch, step) in stopped_in for epoch in range(epochs) for step in (1, 2))
    ours, theirs = everything(parts, tmp_path / "parts"), everything(whole, tmp_path / "whole")
    assert_same_tensors(ours[0], theirs[0])
    assert ours[1] == theirs[1]


# -- what is learnt ---------------------------------------------------------------------------


def purity(network: nn.Module, data: Dataset) -> float:
    with evaluating([network]), torch.no_grad():
        features = network(data.inputs / 255, heads=("features",))["features"]
    return knn_figures(features, data.labels, data.num_classes)[1]


@both
def test_features_get_better(kind: type[Contrastive], tmp_path: Path) -> None:
    """Without a label: only the last part, which is not looked at, sees any."""
    data = load("digits", limit=500).data
    method = kind(epochs=12, batch_size=64)
    trainer = build_trainer(data, Chain(method, CrossEntropy()), tmp_path, schedule={"epochs": 1})
    before = purity(trainer.plain[0], data)
    after = []

    def evaluate(networks: tuple[nn.Module, ...], measures: str) -> dict[str, float]:
        after.append((measures, purity(networks[0], data)))
        return {}

    trainer.evaluate = evaluate
    trainer.train()
    measures, last = after[-2]
    assert measures == "features"
    assert before < 0.6
    assert last > 0.75


# -- sharing ----------------------------------------------------------------------------------


@both
def test_second_network_is_untouched_until_the_end_and_then_shares(
    kind: type[Contrastive], tmp_path: Path
) -> None:
    method = Chain(kind(epochs=2, batch_size=16), CoTeaching(noise_rate=0.3))
    asked: list[dict[str, Tensor]] = []

    def watch() -> bool:
        asked.append(weights_of(trainer))
        return trainer.position.epoch == 1 and trainer.position.phase == 2

    trainer = build_trainer(DATA, method, tmp_path, should_stop=watch)
    start = weights_of(trainer)
    with pytest.raises(Interrupted):
        trainer.train()
    first = {name[2:]: value for name, value in start.items() if name.startswith("1.")}
    for weights in asked[:-1]:
        second = {name[2:]: value for name, value in weights.items() if name.startswith("1.")}
        assert_same_tensors(second, first)
    end = asked[-1]
    for name in (name[2:] for name in end if name.startswith("0.")):
        alike = torch.equal(end[f"0.{name}"], end[f"1.{name}"])
        if name == "heads.classes.weight":
            assert not alike, "peers must differ by their class heads"
            assert torch.equal(end[f"1.{name}"], start[f"1.{name}"])
        elif not name.startswith("heads.classes."):
            assert alike, name
    moved = [
        name for name in end if name.startswith("0.") and not torch.equal(end[name], start[name])
    ]
    assert any("backbone" in name for name in moved)
    assert any("projection" in name for name in moved)


def test_share_of_one_network_does_nothing() -> None:
    network = smooth_with_head()
    before = copy.deepcopy(network.state_dict())
    assert Share().run(build_context(DATA, [network])) == {}
    assert_same_tensors(network.state_dict(), before)


# -- views ------------------------------------------------------------------------------------


@both
def test_a_wrapper_may_add_a_view(kind: type[Contrastive], tmp_path: Path) -> None:
    """SimCLR takes it as another twin, MoCo as another query."""
    wrapped = ExtraView(kind(batch_size=16))
    trainer = build_trainer(DATA, wrapped, tmp_path, schedule={"epochs": 1, "batch_size": 16})
    trainer.train()
    row = trainer.journal.rows()[0]
    assert row["contrast/contrast"] > 0
    assert "contrast/extra" in row


@both
def test_two_views_are_two(kind: type[Contrastive]) -> None:
    method = bound(kind(), DATA)
    assert isinstance(method, Contrastive)
    context = context_with(method, smooth_with_head())
    group = method.step().views(context, {"all": group_of(context, torch.arange(12))})["all"]
    assert len(group.views) == method.rows_per_sample
    for inputs, target in group.views:
        assert not torch.equal(inputs, group.anchor)
        torch.testing.assert_close(target.sum(1), torch.ones(12))
    if kind is SimCLR:
        assert not torch.equal(group.views[0][0], group.views[1][0])


def test_simclr_loss_is_that_of_the_projections() -> None:
    """Through the step: V views in one forward, each with its own images."""
    network = smooth_with_head()
    context = build_context(DATA, [network])
    step = TwoViews(temperature=0.5)
    groups = step.views(context, {"all": group_of(context, torch.arange(10))})
    loss = step.loss(context, groups)["contrast"]
    found = [network(inputs, ("projection",))["projection"] for inputs, _ in groups["all"].views]
    unit = torch.nn.functional.normalize(torch.cat(found), dim=1)
    logits = (unit @ unit.T / 0.5).fill_diagonal_(-torch.inf)
    twins = torch.arange(20).roll(10)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, twins))


# -- the key encoder --------------------------------------------------------------------------


def moco_parts(**settings: Any) -> tuple[MoCo, Network, Context, Step]:
    method = bound(MoCo(**settings), DATA)
    assert isinstance(method, MoCo)
    network = smooth_with_head()
    return method, network, context_with(method, network), method.step()


def encoder_of(context: Context) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in context.extras[ENCODER].named_parameters()}


def ring(context: Context) -> Queue:
    queue = context.extras[QUEUE]
    assert isinstance(queue, Queue)
    return queue


def one_step(step: Step, context: Context, rows: Tensor) -> dict[str, Tensor]:
    return step.loss(context, step.views(context, {"all": group_of(context, rows)}))


def test_key_encoder_follows_by_the_formula() -> None:
    _, network, context, step = moco_parts(momentum=0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = encoder_of(context)
    one_step(step, context, torch.arange(10))["contrast"].backward()
    for name, value in encoder_of(context).items():
        wanted = 0.9 * before[name] + 0.1 * network.get_parameter(name).detach()
        torch.testing.assert_close(value, wanted)
    assert all(p.grad is None and not p.requires_grad for p in context.extras[ENCODER].parameters())
    assert network.heads["projection"][0].weight.grad is not None  # type: ignore[index]


def test_first_step_makes_the_key_encoder_a_copy() -> None:
    """Whatever the network went through since the key encoder was made."""
    _, network, context, step = moco_parts(momentum=0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    one_step(step, replace(context, epoch=0), torch.arange(10))
    assert_same_tensors(encoder_of(context), dict(network.named_parameters()))


def test_keys_are_of_their_own_images() -> None:
    """The shuffle is undone, and what is pushed is what the loss used, in the batch's order."""
    _, _, context, step = moco_parts(queue=40, batch_size=40)
    assert isinstance(step, QueryAndKey)
    group = group_of(context, torch.arange(36).flip(0))
    keys = step._keys(context, group, "all")
    inputs = context.view(group, "simclr", "all/key")
    wanted = context.extras[ENCODER](inputs, heads=("projection",))["projection"]
    torch.testing.assert_close(keys, torch.nn.functional.normalize(wanted, dim=1))
    one_step(step, context, group.index)
    torch.testing.assert_close(ring(context).keys[:36], keys, atol=1e-3, rtol=0)


def test_keys_carry_the_statistics_of_a_random_group() -> None:
    """With batch statistics the groups matter; running statistics stay as they were."""
    torch.manual_seed(0)
    method = bound(MoCo(), DATA)
    assert isinstance(method, MoCo)
    network = usual_network(DATA, method, 0).train()
    context = context_with(method, network)
    encoder = context.extras[ENCODER]
    running = {n: b.clone() for n, b in encoder.named_buffers() if "running" in n}
    assert running
    group = group_of(context, torch.arange(40))
    keys = {count: QueryAndKey(groups=count)._keys(context, group, "all") for count in (1, 4, 100)}
    inputs = context.view(group, "simclr", "all/key")
    order = context.draw.permutation("all/shuffle", 40)
    with torch.no_grad():
        parts = [encoder(inputs[rows], ("projection",))["projection"] for rows in order.chunk(4)]
    wanted = torch.nn.functional.normalize(torch.cat(parts), dim=1)[order.argsort()]
    torch.testing.assert_close(keys[4], wanted)
    assert not torch.allclose(keys[1], keys[4], atol=1e-2)
    torch.testing.assert_close(keys[100].norm(dim=1), torch.ones(40))  # five groups of eight
    assert_same_tensors({n: b for n, b in encoder.named_buffers() if "running" in n}, running)


# -- the queue --------------------------------------------------------------------------------


def test_queue_goes_round() -> None:
    with Draw(0).forked("queue"):
        queue = Queue(10, 3)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(10))
    start, pushed = queue.keys.clone(), []
    for turn in range(7):
        new = torch.full((4, 3), float(turn)) + torch.arange(4.0).unsqueeze(1) / 10
        queue.push(new)
        pushed += list(new)
        assert int(queue.pointer) == 4 * (turn + 1) % 10
        for slot in range(10):
            written = [number for number in range(len(pushed)) if number % 10 == slot]
            wanted = pushed[written[-1]] if written else start[slot]
            assert torch.equal(queue.keys[slot], wanted)
    with pytest.raises(AssertionError, match="more keys"):
        queue.push(torch.zeros(11, 3))


def test_loss_is_against_the_queue_as_it_was() -> None:
    """The keys of this step are no negatives of this step, and they are there afterwards."""
    _, network, context, step = moco_parts(queue=40, temperature=0.5)
    assert isinstance(step, QueryAndKey)
    before = ring(context).keys.clone()
    groups = step.views(context, {"all": group_of(context, torch.arange(12))})
    loss = step.loss(context, groups)["contrast"]
    keys = ring(context).keys[:12]
    assert torch.equal(ring(context).keys[12:], before[12:])
    query = network(groups["all"].views[0][0], ("projection",))["projection"]
    query = torch.nn.functional.normalize(query, dim=1)
    logits = torch.cat([(query * keys).sum(1, keepdim=True), query @ before.T], 1) / 0.5
    wanted = torch.nn.functional.cross_entropy(logits, torch.zeros(12, dtype=torch.int64))
    torch.testing.assert_close(loss, wanted)


def test_queue_is_drawn_from_the_seed(tmp_path: Path) -> None:
    queues = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(queues))
        trainer = build_trainer(DATA, MoCo(), tmp_path, seed=seed)
        queues.append(trainer.extras[QUEUE].keys)
    assert torch.equal(queues[0], queues[1])
    assert not torch.equal(queues[0], queues[2])


@pytest.mark.parametrize(
    ("num", "batch", "queue"),
    [(1437, None, 512), (50_000, None, 24_832), (10**6, None, 65_536), (6, None, 6), (100, 64, 64)],
)
def test_queue_scales_with_the_data(num: int, batch: int | None, queue: int) -> None:
    method = MoCo(batch_size=batch).bind(Problem(num, 3, "images", (1, 8, 8)))
    assert isinstance(method, MoCo)
    assert method.settings.queue == queue
    assert method.settings.momentum is not None
    assert 0.98 <= method.settings.momentum <= 0.999
    again = MoCo(**method.settings.model_dump()).bind(Problem(num, 3, "images", (1, 8, 8)))
    assert (again.settings, again.schedule) == (method.settings, method.schedule)


# -- edges ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("num", [4, 6, 9, 33])
def test_few_images(kind: type[Contrastive], num: int, tmp_path: Path) -> None:
    """The batch is larger than the data."""
    data = tiny_images(num=num)
    trainer = build_trainer(data, Chain(kind(epochs=2, batch_size=64), CrossEntropy()), tmp_path)
    trainer.train()
    assert all(bool(value.isfinite().all()) for value in weights_of(trainer).values())


@both
def test_mixed_precision(kind: type[Contrastive], tmp_path: Path) -> None:
    """Projections come in bf16; losses, keys and queue are float32."""
    fabric = launch("cpu", 1, "bf16-mixed")
    method = Chain(kind(epochs=2, batch_size=16), CrossEntropy())
    trainer = build_trainer(DATA, method, tmp_path, schedule={"epochs": 1}, fabric=fabric)
    trainer.train()
    assert trainer.journal.rows()[1]["contrast/contrast"] > 0
    floats = [value for value in trainer.extras.state_dict().values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 for value in floats)


@both
def test_too_few_images_are_refused(kind: type[Contrastive]) -> None:
    with pytest.raises(UserError, match=r"needs 4 at least, but there are 3.*--pretrain none"):
        bound(kind(), tiny_images(num=3))
    with pytest.raises(UserError, match="needs images, but the data are embeddings"):
        bound(kind(), tiny_embeddings())


def test_queue_that_cannot_hold_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"queue = 16 .* 32 keys.*moco.queue to 32 or more"):
        bound(MoCo(queue=16), DATA, batch_size=32)
    with pytest.raises(UserError, match="momentum"):
        MoCo(momentum=1.0)


@both
def test_settings_say_what_was_used(kind: type[Contrastive]) -> None:
    method = bound(kind(lr=0.07), DATA, epochs=7)
    assert isinstance(method, Contrastive)
    used = (method.settings.epochs, method.settings.batch_size, method.settings.lr)
    assert used == (7, method.schedule.batch_size, 0.07)
    assert method.schedule.lr == 0.07
