"""SCAN's and ScanMix's losses and the E-step against slow loops written from the equations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from labelwise.data.store import as_input
from labelwise.losses.clustering import (
    balanced_cross_entropy,
    entropy,
    neighbour_consistency,
)
from labelwise.methods.clusters import name_clusters
from labelwise.methods.dividemix import MixMatch
from labelwise.methods.scanmix import ChosenMixMatch
from labelwise.models.heads import Linear
from labelwise.pretraining.scan import WEIGHT, Consistency, SelfLabel
from labelwise.training.context import Context
from labelwise.training.groups import Group
from labelwise.training.neighbourhood import NEIGHBOURS, draw_partners, kept, neighbour_column
from labelwise.training.representation import cluster_figures, knn_figures
from support import build_context, smooth_network, tiny_images

NUM_CLASSES = 3
DATA = tiny_images(num=30, num_classes=NUM_CLASSES)


def softmax(logits: Tensor) -> list[list[float]]:
    rows = []
    for row in logits.double().tolist():
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        rows.append([value / sum(powers) for value in powers])
    return rows


def networks() -> list[nn.Module]:
    made: list[nn.Module] = []
    for number in (0, 1):
        network = smooth_network(DATA, number)
        with torch.random.fork_rng():
            torch.manual_seed(number)
            network.heads["clusters"] = Linear(network.backbone.num_features, NUM_CLASSES)
        with torch.no_grad():
            network.heads["clusters"].weight.mul_(20)  # type: ignore[operator, union-attr]
        made.append(network)
    return made


def context_for(count: int = 4) -> Context:
    return build_context(DATA, networks(), columns=[neighbour_column(count)])


def group_of(rows: list[int]) -> Group:
    index = torch.tensor(rows)
    anchor = as_input(DATA.inputs[index])
    return Group(index, DATA.labels[index], torch.ones(len(rows)), anchor)


def test_consistency_is_the_mean_of_the_negative_log_dot_product() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.randn(7, 4, generator=generator) for _ in range(2))
    total = 0.0
    for p, q in zip(softmax(first), softmax(second), strict=True):
        total -= math.log(sum(a * b for a, b in zip(p, q, strict=True)))
    assert float(neighbour_consistency(first, second)) == pytest.approx(total / 7, rel=1e-5)


def test_consistency_is_zero_for_equal_sure_pairs_and_finite_for_opposite_ones() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    assert float(neighbour_consistency(sure, sure)) == pytest.approx(0.0, abs=1e-6)
    other = torch.tensor([[0.0, 200.0, 0.0]])
    found = neighbour_consistency(sure.requires_grad_(), other)
    assert float(found.detach()) == pytest.approx(200.0 - math.log(2), rel=1e-3)
    (gradient,) = torch.autograd.grad(found, sure)
    assert bool(gradient.isfinite().all())


def test_entropy_is_that_of_the_textbook() -> None:
    assert float(entropy(torch.full((8,), 1 / 8))) == pytest.approx(math.log(8), rel=1e-6)
    assert float(entropy(torch.tensor([1.0, 0.0]))) == pytest.approx(0.0, abs=1e-6)
    mean = torch.tensor([0.0, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(mean), mean)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("weight", [0.0, 2.0, 5.0])
def test_clustering_loss_and_gradient_equal_the_loops(weight: float) -> None:
    """ℓ_CLU over pairs of a batch, in float64 and one sample at a time."""
    context = context_for()
    groups = {"anchors": group_of([0, 4, 9, 17]), "neighbours": group_of([3, 5, 10, 18])}
    step = Consistency("plain", weight)
    terms = step.loss(context, step.views(context, groups))
    network = context.networks[0]
    parameters = [p for name, p in network.named_parameters() if "classes" not in name]
    found = torch.autograd.grad(terms["consistency"] + terms["entropy"], parameters)

    exact = copy.deepcopy(network).double()
    rows = {side: group.index.tolist() for side, group in groups.items()}
    cluster = {
        row: exact(as_input(DATA.inputs[row][None]).double(), heads=("clusters",))["clusters"][0]
        for side in rows
        for row in rows[side]
    }
    p = {row: torch.exp(z) / torch.exp(z).sum() for row, z in cluster.items()}
    loss = torch.zeros((), dtype=torch.float64)
    for i, j in zip(rows["anchors"], rows["neighbours"], strict=True):
        loss = loss - torch.log((p[i] * p[j]).sum()) / len(rows["anchors"])
    mean = torch.stack([p[i] for i in rows["anchors"]]).sum(0) / len(rows["anchors"])
    loss = loss - weight * -(mean * torch.log(mean)).sum()
    both = (terms["consistency"] + terms["entropy"]).detach()
    assert float(both) == pytest.approx(float(loss.detach()), rel=1e-4)
    names = [q for name, q in exact.named_parameters() if "classes" not in name]
    wanted = torch.autograd.grad(loss, names)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours.double(), theirs, atol=1e-4 * float(theirs.abs().max() + 1))
    assert max(float(theirs.abs().max()) for theirs in wanted) > 1e-3


def test_further_views_count_alike() -> None:
    context = context_for()
    groups = {"anchors": group_of([0, 4]), "neighbours": group_of([3, 5])}
    step = Consistency("plain", 2.0)
    once = step.views(context, groups)
    twice = {side: replace(group, views=group.views * 2) for side, group in once.items()}
    first, second = step.loss(context, once), step.loss(context, twice)
    for name in first:
        assert float(first[name].detach()) == pytest.approx(float(second[name].detach()), rel=1e-5)


def test_weight_that_a_collapse_raised_is_used() -> None:
    context = context_for()
    groups = {"anchors": group_of([0, 4]), "neighbours": group_of([3, 5])}
    step = Consistency("plain", 3.0)
    views = step.views(context, groups)
    once = float(step.loss(context, views)["entropy"].detach())
    context.ledger.decisions[WEIGHT] = 6.0
    assert float(step.loss(context, views)["entropy"].detach()) == pytest.approx(2 * once)
    context.ledger.decisions[WEIGHT] = 1.0
    assert float(step.loss(context, views)["entropy"].detach()) == pytest.approx(once)


def test_e_step_keeps_mined_neighbours_of_the_same_prediction() -> None:
    generator = torch.Generator().manual_seed(3)
    near = torch.randint(-1, 12, (12, 5), generator=generator, dtype=torch.int32)
    prediction = torch.randint(0, 3, (12,), generator=generator)
    own = torch.arange(4, 10)
    found = kept(near[own], own, prediction)
    everything = kept(near[own], own, None)
    for line, i in enumerate(own.tolist()):
        for column in range(5):
            j = int(near[i, column])
            assert bool(everything[line, column]) == (j >= 0)
            wanted = j >= 0 and int(prediction[i]) == int(prediction[j])
            assert bool(found[line, column]) == wanted
    assert 0 < int(found.sum()) < int(everything.sum())


def test_partners_are_uniform_over_the_neighbours_that_are_kept() -> None:
    context = context_for(count=4)
    near = torch.full((30, 4), -1)
    near[0] = torch.tensor([1, 2, 3, -1])
    near[5] = torch.tensor([6, 7, -1, -1])
    context.ledger.set(NEIGHBOURS, 0, near)
    prediction = torch.zeros(30, dtype=torch.int64)
    prediction[[2, 6, 7]] = 1
    context.ledger.set("prediction", 1, prediction)
    drawn = [draw_partners(context.at_step(step), judge=1) for step in range(400)]
    first = torch.stack([partner[0] for partner in drawn])
    assert set(first.tolist()) == {1, 3}
    assert abs(int((first == 1).sum()) - 200) < 60
    others = torch.stack(drawn)[:, 1:]
    assert bool((others == -1).all())  # sample 5 has neighbours, but of another class
    free = torch.stack([draw_partners(context.at_step(step), judge=None) for step in range(50)])
    assert set(free[:, 5].tolist()) == {6, 7}


def test_balanced_cross_entropy_gives_every_class_the_same_say() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 3, generator=generator)
    labels = [0, 0, 0, 0, 0, 2, 2, None, None]
    targets = torch.zeros(9, 3)
    for row, label in enumerate(labels):
        if label is not None:
            targets[row, label] = 1
    losses: dict[int, list[float]] = {}
    for p, label in zip(softmax(logits), labels, strict=True):
        if label is not None:
            losses.setdefault(label, []).append(-math.log(p[label]))
    wanted = sum(sum(v) / len(v) for v in losses.values()) / len(losses)
    found = balanced_cross_entropy(logits, targets, targets.sum(0))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    halves = [
        balanced_cross_entropy(logits[part], targets[part], targets.sum(0))
        for part in (slice(0, 4), slice(4, 9))
    ]
    assert float(sum(halves)) == pytest.approx(wanted, rel=1e-5)
    nothing = balanced_cross_entropy(logits, torch.zeros(9, 3), torch.zeros(3))
    assert float(nothing) == 0.0


def test_self_labelling_learns_only_from_sure_views() -> None:
    context = context_for()
    step = SelfLabel(weak="plain", strong="plain", threshold=0.6)
    groups = step.views(context, {"all": group_of(list(range(30)))})
    (_, target), *_ = groups["all"].views
    with torch.no_grad():
        logits = context.forward(0, as_input(DATA.inputs), ("clusters",))["clusters"]
    confidence, label = logits.softmax(1).max(1)
    for row in range(30):
        wanted = [0.0] * NUM_CLASSES
        if float(confidence[row]) > 0.6:
            wanted[int(label[row])] = 1.0
        assert target[row].tolist() == wanted
    assert 0 < int(target.sum()) < 30
    assert float(step.loss(context, groups)["self_label"].detach()) > 0


@pytest.mark.parametrize("severe", [0.0, 1.0])
def test_strong_views_are_taken_where_that_was_decided(severe: float) -> None:
    context = context_for()
    context.ledger.decisions["strong_views"] = severe
    sides = {"clean": group_of([0, 3, 7]), "noisy": group_of([1, 2, 9])}
    chosen = ChosenMixMatch(view="weak", strong="strong").views(context, sides)
    plain = MixMatch(view="strong" if severe else "weak").views(context, sides)
    for side in sides:
        assert torch.equal(chosen[side].inputs, plain[side].inputs)
        assert torch.equal(chosen[side].targets, plain[side].targets)


def test_clusters_are_named_by_the_best_permutation() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        hidden = torch.randperm(4, generator=generator)
        assigned = torch.randint(0, 4, (200,), generator=generator)
        labels = hidden[assigned]
        wrong = torch.rand(200, generator=generator) < 0.5
        labels[wrong] = torch.randint(0, 4, (int(wrong.sum()),), generator=generator)
        named = name_clusters(assigned, labels, 4)
        assert torch.equal(named, hidden)
        best = max(
            int((torch.tensor(order)[assigned] == labels).sum()) for order in permutations(range(4))
        )
        assert cluster_figures(assigned, labels, 4)[0] == pytest.approx(best / 200)


def test_large_classes_do_not_take_two_clusters() -> None:
    """Uniform noise of 80 % on classes of very different size."""
    assigned = torch.tensor([0] * 800 + [1] * 100 + [2] * 100)
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(1000, generator=generator) < 0.8
    drawn = assigned[torch.randint(0, 1000, (1000,), generator=generator)]
    labels = torch.where(wrong, drawn, assigned)
    assert name_clusters(assigned, labels, 3).tolist() == [0, 1, 2]


def test_knn_figures_equal_the_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    labels[5] = -1
    features = torch.randn(3, 8, generator=generator)[labels] + 1.5 * torch.randn(
        60, 8, generator=generator
    )
    vote, purity = knn_figures(features, labels, 3)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    right, same = 0.0, 0.0
    asked = [row for row in range(60) if row != 5]
    for row in asked:
        others = sorted((-float(unit[row] @ unit[o]), o) for o in range(60) if o != row)[:20]
        theirs = [int(labels[o]) for _, o in others]
        counts = [theirs.count(c) for c in range(3)]
        right += counts.index(max(counts)) == int(labels[row])
        same += sum(c == int(labels[row]) for c in theirs) / 20
    assert vote == pytest.approx(right / 59)
    assert purity == pytest.approx(same / 59)
    assert 0.3 < purity < 1
