"""MixMatch, MixUp, Co-teaching and Co-teaching+ against slow loops written from the equations.

The references work in float64 on copies of the networks, one sample and one class at a time. The
networks have no batch statistics, so that a sample alone gives what it gives in a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labelwise.data.store import as_input
from labelwise.methods.coteaching import CoTeachingStep
from labelwise.methods.coteaching_plus import CoTeachingPlusStep
from labelwise.methods.dividemix import DivideMix, MixMatch
from labelwise.methods.mixup import MixUpStep
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups
from labelwise.training.method import Step
from labelwise.training.steps import Supervised
from support import ExtraViewStep, bound, build_context, smooth_network, tiny_images

NUM_CLASSES = 3
DATA = tiny_images(num=30, num_classes=NUM_CLASSES)
SIDES = {"clean": [0, 3, 7, 11, 20], "noisy": [1, 2, 9, 15, 28]}
CLEAN = [0.9, 0.35, 1.0, 0.0, 0.62]


def networks() -> list[nn.Module]:
    """Two different peers whose predictions are far from uniform."""
    made: list[nn.Module] = [smooth_network(DATA, number) for number in (0, 1)]
    for network in made:
        with torch.no_grad():
            network.heads["classes"].weight.mul_(12)  # type: ignore[index]
    return made


def exact(network: nn.Module) -> nn.Module:
    """A float64 copy with its own gradients."""
    return copy.deepcopy(network).double()


def group_of(rows: Sequence[int], clean: Sequence[float]) -> Group:
    index = torch.tensor(rows)
    return Group(
        index=index,
        label=DATA.labels[index],
        clean=torch.tensor(clean),
        anchor=as_input(DATA.inputs[index]),
    )


def both_sides() -> dict[str, Group]:
    return {"clean": group_of(SIDES["clean"], CLEAN), "noisy": group_of(SIDES["noisy"], [0.1] * 5)}


def all_samples() -> dict[str, Group]:
    return {"all": group_of([0, 1, 4, 6, 9, 13, 17, 22, 25, 29], [1.0] * 10)}


def context_for(trains: tuple[int, ...], **decisions: float) -> Context:
    context = build_context(DATA, networks(), trains=trains)
    context.ledger.decisions.update(decisions)
    return context


def views_of(step: Step, context: Context, groups: Groups) -> Groups:
    with torch.no_grad():
        return step.views(context, groups)


# -- slow building blocks ---------------------------------------------------------------------


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    """Logits (K) of one image, float64."""
    logits: Tensor = network(image[None].double())["classes"][0]
    return logits


def softmax_of(network: nn.Module, image: Tensor) -> list[float]:
    values = [float(v) for v in logits_of(network, image).detach()]
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def sharpened(p: Sequence[float], temperature: float) -> list[float]:
    powers = [value ** (1 / temperature) for value in p]
    return [power / sum(powers) for power in powers]


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(row[c] for row in rows) / len(rows) for c in range(len(rows[0]))]


def cross_entropy(network: nn.Module, image: Tensor, target: Sequence[float]) -> Tensor:
    """-Σ_c t_c log p_c of one image, with gradient."""
    logits = logits_of(network, image)
    total = sum(logits[c].exp() for c in range(NUM_CLASSES))
    return -sum(target[c] * (logits[c] - total.log()) for c in range(NUM_CLASSES))  # type: ignore[union-attr]


def assert_gradients(network: nn.Module, reference: nn.Module) -> None:
    """Every gradient of the network equals the reference's, relative to the largest."""
    largest = max(float(p.grad.abs().max()) for p in reference.parameters() if p.grad is not None)
    assert largest > 0
    pairs = zip(network.named_parameters(), reference.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        assert ours.grad is not None, name
        error = float((ours.grad.double() - theirs.grad).abs().max())
        assert error < 2e-5 * largest, f"{name}: {error} of {largest}"


# -- MixMatch ---------------------------------------------------------------------------------


def mixmatch_targets(
    groups: Groups, own: nn.Module, peer: nn.Module, num_views: int, temperature: float
) -> dict[str, list[list[float]]]:
    """Co-refined and co-guessed targets, sample by sample."""
    refined = []
    group = groups["clean"]
    for row in range(len(group.index)):
        guesses = [softmax_of(own, group.views[v][0][row]) for v in range(num_views)]
        mean, w, label = mean_of(guesses), float(group.clean[row]), int(group.label[row])
        mixed = [w * (c == label) + (1 - w) * mean[c] for c in range(NUM_CLASSES)]
        refined.append(sharpened(mixed, temperature))
    guessed = []
    group = groups["noisy"]
    for row in range(len(group.index)):
        guesses = [
            softmax_of(network, group.views[v][0][row])
            for network in (own, peer)
            for v in range(num_views)
        ]
        guessed.append(sharpened(mean_of(guesses), temperature))
    return {"clean": refined, "noisy": guessed}


def mixed_rows(
    groups: Groups, coefficient: float, partner: Sequence[int]
) -> list[tuple[Tensor, list[float]]]:
    """Every view of every side mixed with its partner: (image, target) pairs, float64."""
    rows = [
        (image.double(), [float(t) for t in target])
        for group in groups.values()
        for inputs, targets in group.views
        for image, target in zip(inputs, targets, strict=True)
    ]
    mixed = []
    for number, (image, target) in enumerate(rows):
        other_image, other_target = rows[partner[number]]
        mixed.append(
            (
                coefficient * image + (1 - coefficient) * other_image,
                [
                    coefficient * t + (1 - coefficient) * o
                    for t, o in zip(target, other_target, strict=True)
                ],
            )
        )
    return mixed


def mixmatch_terms(
    network: nn.Module,
    rows: Sequence[tuple[Tensor, list[float]]],
    num_labelled: int,
    weight: float,
) -> dict[str, Tensor]:
    """L_X, λ_u L_U and L_reg of METHODS-style loops."""
    labelled = [cross_entropy(network, image, target) for image, target in rows[:num_labelled]]
    squared = []
    for image, target in rows[num_labelled:]:
        p = logits_of(network, image).softmax(0)
        squared += [(p[c] - target[c]) ** 2 for c in range(NUM_CLASSES)]
    predictions = [logits_of(network, image).softmax(0) for image, _ in rows]
    prior = 1 / NUM_CLASSES
    penalty = torch.zeros((), dtype=torch.float64)
    for c in range(NUM_CLASSES):
        mean = sum(p[c] for p in predictions) / len(predictions)
        penalty = penalty + prior * torch.log(prior / mean)
    return {
        "labelled": sum(labelled) / len(labelled),  # type: ignore[dict-item]
        "unlabelled": weight * sum(squared) / len(squared),  # type: ignore[dict-item]
        "prior": penalty,
    }


@pytest.mark.parametrize("learner", [0, 1])
@pytest.mark.parametrize(("num_views", "temperature"), [(2, 0.5), (1, 0.5), (3, 0.8)])
def test_mixmatch_targets(learner: int, num_views: int, temperature: float) -> None:
    context = context_for((learner,), lambda_u=25.0)
    step = MixMatch(num_views=num_views, temperature=temperature)
    groups = views_of(step, context, both_sides())
    own, peer = (exact(context.plain[n]) for n in (learner, 1 - learner))
    expected = mixmatch_targets(groups, own, peer, num_views, temperature)
    for side, group in groups.items():
        assert len(group.views) == num_views
        for _, target in group.views:
            wanted = torch.tensor(expected[side], dtype=torch.float64)
            assert torch.allclose(target.double(), wanted, atol=1e-5)
    # Not only the easy ends: some target must be far from one-hot for the test to mean anything.
    assert float(groups["noisy"].targets.max(1).values.min()) < 0.9


def test_mixmatch_of_one_network_guesses_alone() -> None:
    context = build_context(DATA, networks()[:1])
    groups = views_of(MixMatch(), context, both_sides())
    own = exact(context.plain[0])
    expected = mixmatch_targets(groups, own, own, 2, 0.5)
    for side, group in groups.items():
        wanted = torch.tensor(expected[side], dtype=torch.float64)
        assert torch.allclose(group.views[0][1].double(), wanted, atol=1e-5)


def test_views_of_mixmatch_differ_between_and_within_sides() -> None:
    context = context_for((0,), lambda_u=25.0)
    groups = views_of(MixMatch(), context, both_sides())
    for group in groups.values():
        assert not torch.equal(group.views[0][0], group.views[1][0])
    same = {"clean": both_sides()["clean"], "noisy": both_sides()["clean"]}
    twice = views_of(MixMatch(), context, same)
    assert not torch.equal(twice["clean"].views[0][0], twice["noisy"].views[0][0])


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize(("learner", "ramp"), [(0, 1.0), (1, 0.25)])
def test_mixmatch_terms_and_gradients(learner: int, ramp: float, extra: bool) -> None:
    context = context_for((learner,), lambda_u=25.0)
    step = MixMatch(ramp=ramp, alpha=4.0)
    maker: Step = ExtraViewStep(step, 0.0) if extra else step
    groups = views_of(maker, context, both_sides())
    terms = step.loss(context, groups)
    sum(terms.values()).backward()  # type: ignore[union-attr]

    draw = context.draw.beta("mix", 4.0, 4.0)
    coefficient = max(draw, 1 - draw)
    num_views = 3 if extra else 2
    partner = context.draw.permutation("partner", 2 * num_views * 5).tolist()
    reference = exact(context.plain[learner])
    reference.zero_grad()
    rows = mixed_rows(groups, coefficient, partner)
    expected = mixmatch_terms(reference, rows, num_views * 5, 25.0 * ramp)
    sum(expected.values()).backward()  # type: ignore[union-attr]
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name
        assert float(value.detach()) > 1e-4, f"{name} is too small to test anything"
    assert_gradients(context.plain[learner], reference)
    assert all(p.grad is None for p in context.plain[1 - learner].parameters())


def test_mixing_partners_cross_the_sides() -> None:
    context = context_for((0,), lambda_u=25.0)
    partner = context.draw.permutation("partner", 20)
    assert bool((partner[:10] >= 10).any())
    assert bool((partner[10:] < 10).any())


def test_ramp_of_the_unlabelled_weight() -> None:
    """Linear over 16 epochs after warm-up, as the paper has it."""
    method = bound(DivideMix(ramp_epochs=16), DATA, epochs=40, warmup=10)
    ramps = {}
    for epoch in range(10, 40):
        steps = [p.step for p in method.phases(epoch) if isinstance(p.step, MixMatch)]
        assert len(steps) == 2
        ramps[epoch] = steps[0].ramp
    assert [ramps[e] for e in (10, 14, 18, 26, 39)] == [0.0, 0.25, 0.5, 1.0, 1.0]


# -- MixUp ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.4, 4.0, 32.0])
def test_mixup(alpha: float) -> None:
    context = context_for((0,))
    step = MixUpStep(alpha=alpha)
    groups = views_of(step, context, all_samples())
    (term,) = step.loss(context, groups).values()
    term.backward()
    draw = context.draw.beta("mix", alpha, alpha)
    partner = context.draw.permutation("partner", 10).tolist()
    rows = mixed_rows(groups, max(draw, 1 - draw), partner)
    reference = exact(context.plain[0])
    expected = sum(cross_entropy(reference, image, target) for image, target in rows) / len(rows)
    expected.backward()  # type: ignore[union-attr]
    assert float(term.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)  # type: ignore[union-attr]
    assert_gradients(context.plain[0], reference)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_warmup(penalty: float) -> None:
    """Cross-entropy and, for asymmetric noise, the negative entropy Σ p log p."""
    context = context_for((1,))
    step = Supervised(confidence_penalty=penalty)
    groups = views_of(step, context, all_samples())
    terms = step.loss(context, groups)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    reference = exact(context.plain[1])
    (group,) = groups.values()
    total = torch.zeros((), dtype=torch.float64)
    for image, label in zip(group.views[0][0], group.label.tolist(), strict=True):
        target = [float(c == label) for c in range(NUM_CLASSES)]
        total = total + cross_entropy(reference, image, target) / 10
        p = logits_of(reference, image).softmax(0)
        total = total + penalty * sum(p[c] * p[c].log() for c in range(NUM_CLASSES)) / 10
    total.backward()
    ours = float(sum(terms.values()).detach())  # type: ignore[union-attr]
    assert ours == pytest.approx(float(total.detach()), rel=1e-5)
    assert_gradients(context.plain[1], reference)


# -- Co-teaching ------------------------------------------------------------------------------


def sample_losses(network: nn.Module, groups: Groups) -> list[Tensor]:
    """Loss of each sample: the mean over its views."""
    (group,) = groups.values()
    losses = []
    for row in range(len(group.index)):
        per_view = [
            cross_entropy(network, inputs[row], [float(t) for t in target[row]])
            for inputs, target in group.views
        ]
        losses.append(sum(per_view) / len(per_view))
    return losses  # type: ignore[return-value]


def predictions(network: nn.Module, groups: Groups) -> list[int]:
    """Argmax of each sample's mean softmax over its views."""
    (group,) = groups.values()
    found = []
    for row in range(len(group.index)):
        p = mean_of([softmax_of(network, inputs[row]) for inputs, _ in group.views])
        found.append(p.index(max(p)))
    return found


def kept(losses: Sequence[Tensor], keep: float, among: Sequence[int]) -> list[int]:
    """The `keep` fraction of `among` with the smallest losses, at least one."""
    count = max(1, math.floor(keep * len(among) + 1e-6))
    return sorted(among, key=lambda row: float(losses[row].detach()))[:count]


def coteaching_terms(
    peers: Sequence[nn.Module], groups: Groups, keep: float, disagree: bool
) -> Mapping[str, Tensor]:
    losses = [sample_losses(network, groups) for network in peers]
    rows = list(range(len(losses[0])))
    if disagree:
        first, second = (predictions(network, groups) for network in peers)
        differing = [row for row in rows if first[row] != second[row]]
        rows = differing or rows
    terms = {}
    for number in (0, 1):
        chosen = kept(losses[1 - number], keep, rows)  # what the peer finds easy
        terms[f"cross_entropy_{number}"] = sum(losses[number][row] for row in chosen) / len(chosen)
    return terms  # type: ignore[return-value]


STEPS: dict[str, Any] = {"coteaching": CoTeachingStep, "coteaching+": CoTeachingPlusStep}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize(("ramp", "forget"), [(0.0, 0.5), (1.0, 0.5), (0.5, 0.8), (1.0, 0.95)])
def test_coteaching(name: str, extra: bool, ramp: float, forget: float) -> None:
    context = context_for((0, 1), forget_rate=forget)
    step = STEPS[name](ramp=ramp)
    maker: Step = ExtraViewStep(step, 0.0) if extra else step
    groups = views_of(maker, context, all_samples())
    terms = step.loss(context, groups)
    sum(terms.values()).backward()
    peers = [exact(network) for network in context.plain]
    if name == "coteaching+":
        first, second = (predictions(network, groups) for network in peers)
        differing = sum(a != b for a, b in zip(first, second, strict=True))
        assert 2 <= differing < 10, "the peers must disagree on some samples, not on all"
    expected = coteaching_terms(peers, groups, 1 - ramp * forget, name == "coteaching+")
    sum(expected.values()).backward()  # type: ignore[union-attr]
    assert terms.keys() == expected.keys()
    for key, value in expected.items():
        assert float(terms[key].detach()) == pytest.approx(float(value.detach()), rel=1e-5)
    for ours, reference in zip(context.plain, peers, strict=True):
        assert_gradients(ours, reference)


def test_batch_without_disagreement_uses_the_small_losses_of_all() -> None:
    same = smooth_network(DATA)
    context = build_context(DATA, [same, copy.deepcopy(same)], trains=(0, 1))
    context.ledger.decisions["forget_rate"] = 0.4
    groups = views_of(CoTeachingPlusStep(), context, all_samples())
    plus = CoTeachingPlusStep().loss(context, groups)
    plain = CoTeachingStep().loss(context, groups)
    for name, value in plain.items():
        assert torch.equal(plus[name], value)
