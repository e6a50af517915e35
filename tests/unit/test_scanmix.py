"""C2D, ScanMix and SCAN: what happens in which epoch, what collapses, and what survives a stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from labelwise.data.dataset import Dataset
from labelwise.data.store import input_statistics
from labelwise.errors import UserError
from labelwise.losses.clustering import entropy, neighbour_consistency
from labelwise.methods import parse_method
from labelwise.methods.c2d import C2D
from labelwise.methods.clusters import NAMED, Clusters, NameClusters
from labelwise.methods.dividemix import DivideMix
from labelwise.methods.scanmix import AskNeighbours, ScanMix, ScanMixRule, SetWarmup
from labelwise.models.build import NetworkSpec, build_network
from labelwise.models.heads import Linear
from labelwise.models.network import Network
from labelwise.pretraining.cluster_head import StartHead, candidate_losses
from labelwise.pretraining.scan import RESTARTS, SCAN, WEIGHT, WatchClusters
from labelwise.pretraining.simclr import SimCLR
from labelwise.recipes import known_recipes
from labelwise.rng import Draw
from labelwise.selection.agreement import noise_rate_from_pairs
from labelwise.selection.mixture import mixture
from labelwise.training.chain import Chain
from labelwise.training.context import Context
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import Problem
from labelwise.training.neighbourhood import (
    CLUSTERING,
    MINED,
    NEIGHBOURS,
    CountKept,
    MineNeighbours,
    NeighbourPairs,
    neighbour_column,
)
from labelwise.training.representation import cluster_figures
from labelwise.training.scoring import CLEAN_PRIOR
from support import (
    assert_same_tensors,
    bound,
    build_context,
    build_trainer,
    rows_without_times,
    smooth_network,
    tiny_embeddings,
    tiny_images,
    weights_of,
)

DATA = tiny_images(num=40)


def embedding_network(data: Dataset, number: int) -> Network:
    """The network that embeddings take."""
    spec = NetworkSpec("mlp", data.shape, data.num_classes)
    return build_network(spec, *input_statistics(data.inputs), Draw(number)).eval()


def clustered(
    data: Dataset = DATA,
    count: int = 5,
    number: int = 2,
    build: Callable[[Dataset, int], Network] = smooth_network,
) -> Context:
    """A context whose networks have a cluster head."""
    networks: list[nn.Module] = []
    for peer in range(number):
        network = build(data, peer)
        with Draw(peer).forked("clusters"):
            network.heads["clusters"] = Linear(network.backbone.num_features, data.num_classes)
        networks.append(network)
    said: list[str] = []
    context = build_context(data, networks, columns=[neighbour_column(count)])
    object.__setattr__(context, "say", said.append)
    object.__setattr__(context, "said", said)
    return context


def names(method: Any, epoch: int) -> list[str]:
    return [phase.name for phase in method.phases(epoch)]


# -- phases -----------------------------------------------------------------------------------


def test_c2d_warms_up_the_heads_alone() -> None:
    method = bound(C2D(), DATA, epochs=4, warmup=2)
    warm = [phase for epoch in (0, 1) for phase in method.phases(epoch)]
    assert [phase.name for phase in warm] == ["warmup-0", "warmup-1"] * 2
    assert all(phase.frozen for phase in warm)
    assert not any(phase.frozen for phase in method.phases(2))
    free = bound(C2D(frozen_warmup=False), DATA, epochs=4, warmup=2)
    assert not any(phase.frozen for phase in free.phases(0))


def test_scanmix_clusters_after_the_division_of_both_networks() -> None:
    method = bound(ScanMix(cluster_batch=32), DATA, epochs=4, warmup=1)
    assert names(method, 0) == ["neighbours", "name", "set-warmup", "warmup-0", "warmup-1"]
    first = names(method, 1)
    assert first[0] == "neighbours"
    assert first[-5:] == ["divide-0", "divide-1", "cluster-0", "cluster-1", "watch"]
    assert "neighbours" not in names(method, 2)
    last = method.phases(2)[-2]
    assert (last.lr, last.batch_size, last.trains) == ("cluster_lr", 32, (1,))
    assert last.sampling == NeighbourPairs(0, "cluster_lr"), "the peer's predictions filter"


def test_without_the_e_step_every_neighbour_is_taken() -> None:
    method = bound(ScanMix(estep_filter=False), DATA, epochs=3, warmup=1)
    assert "filter" not in names(method, 1)
    assert method.phases(1)[-2].sampling == NeighbourPairs(None, "cluster_lr")


@pytest.mark.parametrize(
    ("rate", "lr", "strong"), [(0.5, 1e-5, 0.0), (0.6, 1e-5, 0.0), (0.61, 1e-3, 1.0)]
)
def test_predicted_noise_decides_learning_rate_and_views(
    rate: float, lr: float, strong: float
) -> None:
    decided = ScanMixRule(mild_lr=1e-5)(rate, 10)
    assert (decided["cluster_lr"], decided["strong_views"]) == (lr, strong)


def test_decisions_are_used_and_the_users_win(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []

    class Watching(Trainer):
        def _lr(self, phase: Any) -> float:
            lr = super()._lr(phase)
            seen.append((phase.name, lr))
            return lr

    method = ScanMix(cluster_lr=0.003, strong_views=True, num_neighbours=4)
    trainer = build_trainer(DATA, method, tmp_path, kind=Watching)
    trainer.train()
    assert {lr for name, lr in seen if name.startswith("cluster")} == {0.003}
    assert trainer.ledger.decisions["strong_views"] == 1.0
    assert "lambda_u" in trainer.ledger.decisions


def test_pretraining_follows_the_kind_of_data_and_takes_the_settings() -> None:
    images = Problem(100, 3, "images", (1, 8, 8))
    embeddings = Problem(100, 3, "embeddings", (6,))
    scanmix = ScanMix(num_neighbours=7, entropy_weight=2.0)
    wanted = {"num_neighbours": 7, "entropy_weight": 2.0}
    assert list(scanmix.pretraining(images)) == ["simclr", "scan"]
    assert scanmix.pretraining(images)["scan"] == wanted
    assert dict(scanmix.pretraining(embeddings)) == {"scan": wanted}
    assert list(C2D().pretraining(images)) == ["simclr"]
    assert list(Clusters().pretraining(images)) == ["simclr", "scan"]
    with pytest.raises(UserError, match="needs images"):
        C2D().bind(embeddings)


def test_warmup_counts_steps_not_epochs() -> None:
    digits, many = (Problem(n, 10, "images", (1, 8, 8)) for n in (1438, 50_000))
    assert C2D().bind(digits).schedule.warmup == round(260 / math.ceil(1438 / 64))
    assert C2D().bind(many).schedule.warmup == 2
    short = C2D().bind(digits, {"epochs": 20}).schedule
    assert (short.epochs, short.warmup) == (20, 5)
    assert C2D().bind(digits, {"epochs": 20, "warmup": 7}).schedule.warmup == 7
    assert C2D().bind(digits, {"epochs": 2}).schedule.warmup == 1
    # ScanMix trains everything in the warm-up of little noise, as DivideMix does.
    for problem in (digits, many):
        wanted = DivideMix().bind(problem).schedule
        assert ScanMix().bind(problem).schedule == wanted


# -- the noise that neighbours tell -----------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.72, 0.81])
def test_neighbours_tell_the_rate_of_uniform_noise(rate: float) -> None:
    """Neighbours that are of one class, predictions that are right."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(4000) % 10
    near = torch.randint(0, 400, (4000, 20), generator=generator) * 10 + truth[:, None]
    moved = torch.rand(4000, generator=generator) < rate
    other = (truth + torch.randint(1, 10, (4000,), generator=generator)) % 10
    labels = torch.where(moved, other, truth)
    told = noise_rate_from_pairs(labels, truth, near, 10)
    assert told == pytest.approx(float(moved.float().mean()), abs=0.02)


def test_impure_neighbours_are_allowed_for() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.arange(4000) % 10
    near = torch.randint(0, 400, (4000, 20), generator=generator) * 10 + truth[:, None]
    stray = torch.rand(near.shape, generator=generator) < 0.4
    near = torch.where(stray, torch.randint(0, 4000, near.shape, generator=generator), near)
    moved = torch.rand(4000, generator=generator) < 0.5
    other = (truth + torch.randint(1, 10, (4000,), generator=generator)) % 10
    labels = torch.where(moved, other, truth)
    assert noise_rate_from_pairs(labels, truth, near, 10) == pytest.approx(0.5, abs=0.03)


def test_labels_without_any_agreement_are_all_noise() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 5, (2000,), generator=generator)
    truth = torch.arange(2000) % 5
    near = torch.randint(0, 400, (2000, 10), generator=generator) * 5 + truth[:, None]
    assert 0.7 < noise_rate_from_pairs(labels, truth, near, 5) <= 0.8
    empty = torch.full((2000, 10), -1)
    assert noise_rate_from_pairs(labels, labels, empty, 5) == pytest.approx(0.8)


@pytest.mark.parametrize(("fitted", "held"), [(0.2, False), (0.6, True)])
def test_neighbours_are_believed_where_both_see_severe_noise(fitted: float, held: bool) -> None:
    data = tiny_images(num=300, wrong=0.0)
    context = clustered(data, count=10)
    truth = torch.arange(300) % 3
    generator = torch.Generator().manual_seed(0)
    near = torch.randint(0, 100, (300, 10), generator=generator) * 3 + truth[:, None]
    context.ledger.set(NEIGHBOURS, 0, near)
    object.__setattr__(context.store, "labels", torch.randint(0, 3, (300,), generator=generator))
    for peer in (0, 1):
        context.ledger.set("prediction", peer, truth)
        context.ledger.set("clean", peer, torch.full((300,), 1 - fitted))
    told = AskNeighbours().run(context)["noise_rate_of_neighbours"]
    assert told > 0.55
    decided = context.ledger.decisions
    assert (CLEAN_PRIOR in decided) == held
    if held:
        assert decided[CLEAN_PRIOR] == pytest.approx(1 - max(told, fitted))


def test_share_of_the_low_losses_can_be_given() -> None:
    """Groups that overlap: EM alone takes too many for low."""
    generator = torch.Generator().manual_seed(0)
    low = 1.6 + 0.25 * torch.randn(200, generator=generator)
    high = 2.4 + 0.35 * torch.randn(800, generator=generator)
    losses = torch.cat([low, high])
    fit = mixture("gaussian").fit(losses, False, 0.2)
    assert fit.weights.tolist() == pytest.approx([0.2, 0.8])
    assert float(fit.clean.mean()) == pytest.approx(0.2, abs=0.04)
    free = mixture("gaussian").fit(losses, False)
    wrong = torch.arange(1000) >= 200
    error = [float((f.clean.mean() - 0.2).abs()) for f in (fit, free)]
    assert error[0] < error[1]
    assert float((fit.clean[wrong] > 0.5).float().mean()) < 0.1


@pytest.mark.parametrize(("wrong", "named"), [(0.3, 0.0), (0.75, 1.0)])
def test_class_heads_start_as_clusters_under_severe_noise_only(wrong: float, named: float) -> None:
    """Ten clear clusters of embeddings, most of whose labels may be anything."""
    data = tiny_embeddings(num=600, num_classes=10, wrong=0.0)
    generator = torch.Generator().manual_seed(0)
    moved = torch.rand(600, generator=generator) < wrong
    other = (data.labels + torch.randint(1, 10, (600,), generator=generator)) % 10
    truth, data = data.labels, data.with_labels(torch.where(moved, other, data.labels))
    context = clustered(data, count=10, build=embedding_network)
    MineNeighbours(10).run(context)
    StartHead(8, 5.0, steps=300).run(context)
    before = [network.get_submodule("heads.classes").weight.clone() for network in context.plain]
    NameClusters(0.3, 0.6).run(context)
    SetWarmup(0.002, 0.01, 0.02).run(context)
    assert context.ledger.decisions[NAMED] == named
    assert context.ledger.decisions["warmup_lr"] == (0.002 if named else 0.02)
    assert context.ledger.decisions["frozen_warmup"] == named, "little noise: nothing is frozen"
    for network, old in zip(context.plain, before, strict=True):
        weight = network.get_submodule("heads.classes").weight
        assert torch.equal(weight, old) == (not named)
    if named:
        with torch.no_grad():
            logits = context.plain[0](data.inputs)["classes"]
        assert float((logits.argmax(1) == truth).float().mean()) > 0.85


def test_without_clusters_the_heads_warm_up_as_usual() -> None:
    context = clustered()
    context.ledger.decisions[CLUSTERING] = 0.0
    assert NameClusters(0.3, 0.6).run(context) == {}
    SetWarmup(0.002, 0.01, 0.02).run(context)
    assert context.ledger.decisions["warmup_lr"] == 0.01
    assert context.ledger.decisions["frozen_warmup"] == 1.0


def test_names_that_do_not_agree_with_the_labels_are_refused() -> None:
    """Right labels and a cluster head at random."""
    data = tiny_embeddings(num=600, num_classes=10, wrong=0.0)
    context = clustered(data, count=10, build=embedding_network)
    MineNeighbours(10).run(context)
    figures = NameClusters(0.3, 0.0, 0.7).run(context)
    assert figures["named_agreement"] < 0.6
    assert context.ledger.decisions[NAMED] == 0.0
    assert "do not seem to be the classes" in context.said[-1]  # type: ignore[attr-defined]
    NameClusters(0.3).run(context)
    assert context.ledger.decisions[NAMED] == 1.0, "without a bar they are named all the same"


def test_unfrozen_warmup_keeps_the_schedules_learning_rate() -> None:
    method = bound(ScanMix(frozen_warmup=False), DATA, epochs=4, warmup=2)
    assert [phase.lr for phase in method.phases(0)] == [None, None]
    frozen = bound(ScanMix(start_from_clusters=False), DATA, epochs=4, warmup=2)
    assert [phase.lr for phase in frozen.phases(0)] == [0.02, 0.02]
    assert frozen.phases(1)[0].lr == pytest.approx(0.01)


# -- neighbours -------------------------------------------------------------------------------


def test_neighbours_are_mined_once() -> None:
    context = clustered()
    MineNeighbours(5).run(context)
    mined = context.ledger[NEIGHBOURS].clone()
    assert bool((mined[0] >= 0).all())
    assert not bool((mined[0] == torch.arange(len(DATA))[:, None]).any()), "its own neighbour"
    with torch.no_grad():
        for weight in context.networks[0].parameters():
            weight.add_(torch.randn_like(weight))
    MineNeighbours(5).run(context)
    assert torch.equal(context.ledger[NEIGHBOURS], mined)
    assert context.ledger.decisions[MINED] == 1.0


def test_too_few_samples_for_the_neighbours_are_named() -> None:
    data = tiny_images(num=6)
    context = clustered(data, count=20)
    MineNeighbours(20).run(context)
    near = context.ledger[NEIGHBOURS][0]
    assert (near >= 0).sum(1).tolist() == [5] * 6
    assert "6 samples have no 20 neighbours" in context.said[0]  # type: ignore[attr-defined]


def test_embeddings_are_their_own_features() -> None:
    data = tiny_embeddings(num=24)
    network = nn.Linear(1, 1)  # is never asked
    context = build_context(data, [network], columns=[neighbour_column(3)])
    MineNeighbours(3).run(context)
    unit = torch.nn.functional.normalize(data.inputs, dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-2)
    wanted = similarity.topk(3).indices
    assert torch.equal(context.ledger[NEIGHBOURS][0].long().sort().values, wanted.sort().values)


def test_pairs_are_drawn_once_per_anchor_and_without_the_lonely() -> None:
    context = clustered()
    near = torch.full((len(DATA), 5), -1)
    near[:30, 0] = torch.arange(1, 31)
    context.ledger.set(NEIGHBOURS, 0, near)
    plan = NeighbourPairs().plan(context, 8)
    anchors, partners = plan["anchors"], plan["neighbours"]
    assert anchors.shape == partners.shape == (4, 8)
    assert torch.equal(partners, anchors + 1)
    assert set(anchors.flatten().tolist()) == set(range(30))


def test_batch_larger_than_the_data_is_cut_to_it() -> None:
    context = clustered()
    MineNeighbours(5).run(context)
    plan = NeighbourPairs().plan(context, 4096)
    assert plan["anchors"].shape == (1, len(DATA))


def test_no_neighbour_of_the_same_prediction_leaves_the_pass_out() -> None:
    context = clustered()
    MineNeighbours(5).run(context)
    context.ledger.set("prediction", 1, torch.arange(len(DATA)))
    assert len(NeighbourPairs(1).plan(context, 8)["anchors"]) == 0
    assert "hardly any sample has a neighbour" in context.said[-1]  # type: ignore[attr-defined]
    figures = CountKept().run(context)
    assert figures["kept_neighbours_0"] == 0.0


def test_no_clustering_pass_at_a_rate_of_zero() -> None:
    context = clustered()
    MineNeighbours(5).run(context)
    for lr, steps in ((0.0, 0), (1e-3, 5)):
        context.ledger.decisions["cluster_lr"] = lr
        assert len(NeighbourPairs(None, "cluster_lr").plan(context, 8)["anchors"]) == steps
        assert len(NeighbourPairs(None).plan(context, 8)["anchors"]) == 5


def test_a_pass_without_pairs_changes_no_weight(tmp_path: Path) -> None:
    method = ScanMix(num_neighbours=3)
    trainer = build_trainer(DATA, method, tmp_path)
    trainer.ledger.decisions[CLUSTERING] = 0.0
    trainer.train()
    row = trainer.journal.rows()[-1]
    assert not [name for name in row if name.startswith("cluster-")]
    assert math.isfinite(row["divide-0/labelled"])


# -- collapse ---------------------------------------------------------------------------------


def collapse(context: Context) -> None:
    """Send every image to one cluster."""
    with torch.no_grad():
        head = context.plain[0].get_submodule("heads.clusters")
        head.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))  # type: ignore[union-attr, operator]


def test_collapsed_clusters_start_anew_with_a_larger_weight() -> None:
    context = clustered()
    collapse(context)
    figures = WatchClusters(5.0).run(context)
    assert figures["cluster_spread"] == pytest.approx(1.0, abs=0.01)
    assert context.ledger.decisions[WEIGHT] == 10.0
    assert "collapsed into 1.0 of 3" in context.said[0]  # type: ignore[attr-defined]
    assert CLUSTERING not in context.ledger.decisions
    weight = context.plain[0].get_submodule("heads.clusters").bias
    assert float(weight.detach().abs().max()) < 1  # type: ignore[union-attr, operator]


def test_restarts_end_and_clustering_is_given_up() -> None:
    context = clustered()
    context.ledger.decisions[WEIGHT] = 5.0
    for _ in range(RESTARTS + 2):
        collapse(context)
        WatchClusters(5.0).run(context)
    assert context.ledger.decisions[WEIGHT] == 5.0 * 2**RESTARTS
    WatchClusters(5.0, last=True).run(context)
    assert context.ledger.decisions[CLUSTERING] == 0.0
    assert "clustering is left out" in context.said[-1]  # type: ignore[attr-defined]
    assert len(NeighbourPairs().plan(context, 8)["anchors"]) == 0
    assert CountKept().run(context) == {}


def test_dead_head_counts_as_collapsed() -> None:
    context = clustered()
    with torch.no_grad():
        context.plain[0].get_submodule("heads.clusters").weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    context.ledger.decisions[WEIGHT] = 5.0
    WatchClusters(5.0).run(context)
    assert context.ledger.decisions["scan_restarts"] == 1.0
    weight = context.plain[0].get_submodule("heads.clusters").weight
    assert bool(weight.isfinite().all())  # type: ignore[union-attr, operator]


def test_head_that_says_the_same_of_every_image_counts_as_dead() -> None:
    """The mean prediction is as even as can be, and tells nothing."""
    context = clustered()
    with torch.no_grad():
        head = context.plain[0].get_submodule("heads.clusters")
        head.weight.zero_()  # type: ignore[union-attr, operator]
        head.bias.zero_()  # type: ignore[union-attr, operator]
    figures = WatchClusters(5.0).run(context)
    assert figures["cluster_spread"] == pytest.approx(3.0, rel=1e-4)
    assert figures["cluster_information"] == pytest.approx(0.0, abs=1e-5)
    assert context.ledger.decisions["scan_restarts"] == 1.0


def test_clusters_that_differ_are_left_alone() -> None:
    """A head that was learnt, on clear clusters."""
    data = tiny_embeddings(num=200, num_classes=4, wrong=0.0)
    context = clustered(data, count=8, number=1, build=embedding_network)
    MineNeighbours(8).run(context)
    StartHead(6, 5.0, steps=200).run(context)
    figures = WatchClusters(5.0).run(context)
    assert figures["cluster_spread"] > 3.5
    assert figures["cluster_information"] > 0.5
    assert "scan_restarts" not in context.ledger.decisions


def test_worst_of_several_networks_counts() -> None:
    context = clustered()
    with torch.no_grad():
        for network in context.plain:
            network.get_submodule("heads.clusters").weight.mul_(30)  # type: ignore[union-attr, operator]
        context.plain[1].get_submodule("heads.clusters").bias.fill_(torch.nan)  # type: ignore[union-attr, operator]
    WatchClusters(5.0, last=True, networks=(0, 1)).run(context)
    assert context.ledger.decisions[CLUSTERING] == 0.0
    assert WatchClusters(5.0, last=True).run(context) == {}, "given up is given up"


# -- the start of the head -------------------------------------------------------------------


def test_losses_of_several_heads_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, partners = (2 * torch.randn(9, 3, 4, generator=generator) for _ in range(2))
    agreement, spread = candidate_losses(anchors, partners, 5.0)
    for head in range(3):
        wanted = neighbour_consistency(anchors[:, head], partners[:, head])
        assert float(agreement[head]) == pytest.approx(float(wanted), rel=1e-5)
        mean = anchors[:, head].softmax(1).mean(0)
        assert float(spread[head]) == pytest.approx(-5 * float(entropy(mean)), rel=1e-5)


def test_head_starts_with_clusters_that_are_classes() -> None:
    """Embeddings with clear clusters, where a random head knows nothing."""
    data = tiny_embeddings(num=200, num_classes=4, wrong=0.7)
    context = clustered(data, count=8, number=1, build=embedding_network)
    truth = torch.arange(200) % 4
    MineNeighbours(8).run(context)
    before = {name: w.clone() for name, w in context.plain[0].named_parameters()}
    figures = StartHead(6, 5.0, steps=300).run(context)
    assert figures["head_loss"] <= figures["head_loss_worst"]
    with torch.no_grad():
        assigned = context.plain[0](data.inputs, heads=("clusters",))["clusters"].argmax(1)
    assert cluster_figures(assigned, truth, 4)[0] > 0.95
    moved = {n for n, w in context.plain[0].named_parameters() if not torch.equal(w, before[n])}
    assert moved == {"heads.clusters.weight", "heads.clusters.bias"}


def test_start_of_the_head_is_the_same_whenever_it_is_asked() -> None:
    weights = []
    for _ in range(2):
        context = clustered()
        MineNeighbours(5).run(context)
        StartHead(3, 5.0, steps=20).run(context)
        weights.append(context.plain[0].get_submodule("heads.clusters").weight)
    assert torch.equal(*weights)


# -- whole chains -----------------------------------------------------------------------------


def whole(epochs: int = 1) -> Chain:
    """All stages, as short as can be."""
    return Chain(
        SimCLR(epochs=epochs, batch_size=16),
        SCAN(num_neighbours=4, epochs=epochs, batch_size=16, self_label_epochs=1, head_steps=5),
        ScanMix(num_neighbours=4, cluster_batch=16, cluster_lr=1e-3),
    )


FEW = tiny_images(num=24)


def run(folder: Path, **options: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    return build_trainer(FEW, whole(), folder, schedule={"epochs": 2, "batch_size": 16}, **options)


def test_stages_follow_each_other_on_shared_networks(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    trainer.train()
    rows = trainer.journal.rows()
    assert [row["stage"] for row in rows] == ["simclr", "scan", "scan", "scanmix", "scanmix"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert isinstance(trainer.method, Chain)
    assert trainer.method.num_epochs == 5
    assert "cluster-0/consistency" in rows[-1]
    assert "kept_neighbours_0" in rows[-1]


def test_interrupted_in_every_phase_of_all_stages_ends_bit_identical(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "whole")
    undisturbed.train()
    wanted, ledger = weights_of(undisturbed), undisturbed.ledger.state_dict()
    rows = rows_without_times(tmp_path / "whole" / "metrics.jsonl")
    stages = set()
    stop = 0
    while True:
        folder = tmp_path / f"stop-{stop}"
        asked = iter(range(10**6))
        first = run(folder, should_stop=lambda asked=asked, stop=stop: next(asked) == stop)
        try:
            first.train()
        except Interrupted:
            stages.add((first.part.name, first.position.phase))
        else:
            break
        second = run(folder)
        assert second.resume()
        second.train()
        assert_same_tensors(weights_of(second), wanted)
        assert_same_tensors(dict(second.ledger.columns), ledger["columns"])
        assert second.ledger.decisions == ledger["decisions"]
        assert rows_without_times(folder / "metrics.jsonl") == rows
        stop += 2
    assert {name for name, _ in stages} == {"simclr", "scan", "scanmix"}
    assert len(stages) > 8


def test_features_are_frozen_while_the_heads_warm_up(tmp_path: Path) -> None:
    method = C2D()
    trainer = build_trainer(DATA, method, tmp_path, schedule={"epochs": 2, "warmup": 1})
    before = weights_of(trainer)
    phases = iter(range(10**6))
    trainer.should_stop = lambda: trainer.position.epoch == 1 and next(phases) >= 0
    with pytest.raises(Interrupted):
        trainer.train()
    after = weights_of(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert {name.split(".")[1] for name in moved} == {"heads"}
    assert all(p.requires_grad for network in trainer.plain for p in network.parameters())


def test_clusters_alone_classify_what_labels_only_name(tmp_path: Path) -> None:
    data = tiny_images(num=120, wrong=0.5, seed=3)
    chain = Chain(
        SCAN(num_neighbours=5, epochs=12, batch_size=40, view="weak", lr=5e-3, head_steps=100),
        Clusters(num_neighbours=5),
    )
    trainer = build_trainer(data, chain, tmp_path, schedule={"epochs": 1, "warmup": 0})
    trainer.train()
    heads = trainer.plain[0].get_submodule("heads")
    classes, clusters = heads.get_submodule("classes"), heads.get_submodule("clusters")
    order = [
        next(c for c in range(3) if torch.equal(classes.weight[c], row))  # type: ignore[index, union-attr]
        for row in clusters.weight  # type: ignore[union-attr]
    ]
    assert sorted(order) == [0, 1, 2]


def test_ablation_recipes_are_methods_with_their_settings() -> None:
    found = known_recipes()
    assert {"scan", "dividemix", "c2d", "scanmix", "scanmix-without-estep-filter"} <= found.keys()
    method = parse_method(
        found["scanmix-neighbours-5"].method, found["scanmix-neighbours-5"].settings
    )
    assert isinstance(method, ScanMix)
    assert method.settings.num_neighbours == 5
    assert found["scanmix-entropy-weight-2"].settings == {"scanmix.entropy_weight": 2}
    assert found["scanmix-cifar10-symmetric-90"].paper_accuracy == 90.3
    assert found["scanmix-cifar100-symmetric-80"].settings["lambda_u"] == 150
