"""TSCSI against slow loops: centres, distances, the two stages, the division and the losses.

The references work in float64, one sample and one class at a time. The network has no batch
statistics, so that a sample alone gives what it gives in a batch.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor, nn

from labelwise.data.store import as_input
from labelwise.losses.discrepancy import discrepancy
from labelwise.methods.tscsi import TSCSI, Agreed, Central, Diverge, TwinMixMatch, TwinSupervised
from labelwise.models.heads import Twins
from labelwise.selection.centrality import centre_distance, class_centres, consistency_by_class
from labelwise.selection.mixture import mixture
from labelwise.training.centrality import (
    DISTANCES,
    TWINS,
    MeasureCentrality,
    MeasureConsistency,
    twin_discrepancy,
)
from labelwise.training.context import Context
from labelwise.training.corrections import CONSISTENT
from labelwise.training.features import BANK, FeatureBank
from labelwise.training.groups import Group, Groups
from labelwise.training.method import Step
from support import ExtraViewStep, bound, build_context, build_trainer, smooth_network, tiny_images

NUM_CLASSES = 3
DATA = tiny_images(num=30, num_classes=NUM_CLASSES)
SIDES = {"clean": [0, 3, 7, 11, 20], "noisy": [1, 2, 9, 15, 28]}
CLEAN = [0.9, 0.35, 1.0, 0.0, 0.62]


def networks() -> list[nn.Module]:
    """Two peers whose three classifiers are far from uniform and differ."""
    made: list[nn.Module] = [smooth_network(DATA, n, heads=TSCSI().heads) for n in (0, 1)]
    for network in made:
        heads: Any = network.heads
        with torch.no_grad():
            for head in (heads["classes"], heads[TWINS].first, heads[TWINS].second):
                head.weight.mul_(12)
    return made


def context_for(trains: tuple[int, ...] = (0,), **decisions: float) -> Context:
    context = build_context(DATA, networks(), trains=trains, columns=TSCSI().columns())
    context.extras[BANK] = FeatureBank()
    context.ledger.decisions.update({"threshold": 0.3, "lambda_u": 25.0, **decisions})
    return context


def groups_of(**sides: list[int]) -> dict[str, Group]:
    made = {}
    for side, rows in sides.items():
        index = torch.tensor(rows)
        clean = torch.tensor(CLEAN)[torch.arange(len(rows)) % len(CLEAN)]
        made[side] = Group(index, DATA.labels[index], clean, as_input(DATA.inputs[index]))
    return made


def views_of(step: Step, context: Context, groups: Groups) -> Groups:
    with torch.no_grad():
        return step.views(context, groups)


# -- slow building blocks ---------------------------------------------------------------------


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value**2 for value in vector))
    return [value / length for value in vector] if length > 0 else vector


def slow_distances(
    features: Tensor, predicted: list[int], labels: list[int], num_classes: int
) -> list[float]:
    """1 - cos to the normalised mean of the normalised features predicted as the given class."""
    rows = [unit(row) for row in features.double().tolist()]
    width = len(rows[0])
    centres = []
    for c in range(num_classes):
        members = [row for row, p in zip(rows, predicted, strict=True) if p == c]
        members = members or [row for row, y in zip(rows, labels, strict=True) if y == c]
        mean = [sum(row[d] for row in members) / max(1, len(members)) for d in range(width)]
        centres.append(unit(mean))
    return [
        1 - sum(a * b for a, b in zip(row, centres[y], strict=True))
        for row, y in zip(rows, labels, strict=True)
    ]


def slow_semi_supervised(
    logits: Tensor, targets: Tensor, num_labelled: int, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L_X, λ_u L_U and L_reg of one classifier, float64, with gradient."""
    log_p = [row - row.exp().sum().log() for row in logits]
    labelled = [-(targets[n] * log_p[n]).sum() for n in range(num_labelled)]
    squared = [
        ((log_p[n].exp() - targets[n]) ** 2).mean() for n in range(num_labelled, len(logits))
    ]
    mean = sum(row.exp() for row in log_p) / len(log_p)
    prior = sum(math.log(1 / NUM_CLASSES) - mean[c].log() for c in range(NUM_CLASSES))  # type: ignore[index]
    return (
        sum(labelled) / len(labelled),  # type: ignore[return-value]
        weight * sum(squared) / len(squared),
        prior / NUM_CLASSES,
    )


def gradients(total: Tensor, modules: list[nn.Module]) -> list[Tensor | None]:
    """Gradients of some modules' weights alone."""
    weights = [weight for module in modules for weight in module.parameters()]
    return list(torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True))


def assert_close_gradients(module: nn.Module, expected: list[Tensor | None]) -> None:
    ours = [weight.grad for weight in module.parameters()]
    largest = max(float(grad.abs().max()) for grad in expected if grad is not None)
    assert largest > 0
    for mine, wanted in zip(ours, expected, strict=True):
        assert mine is not None
        assert wanted is not None
        assert float((mine.double() - wanted).abs().max()) < 3e-5 * largest


# -- stage one --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("never", [False, True])
def test_distances_from_the_centres(seed: int, never: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 5, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    predicted = torch.randint(0, 4, (40,), generator=generator)
    if never:
        predicted[predicted == 2] = 1
    centres = class_centres(features, predicted, labels, 4)
    ours = centre_distance(features, labels, centres)
    wanted = slow_distances(features, predicted.tolist(), labels.tolist(), 4)
    assert ours.tolist() == pytest.approx(wanted, abs=1e-5)
    assert torch.allclose(centres.norm(dim=1), torch.ones(4))
    scaled = features * (torch.rand(40, 1, generator=generator) + 0.1)
    again = centre_distance(scaled, labels, class_centres(scaled, predicted, labels, 4))
    assert torch.allclose(again, ours, atol=1e-5)


def test_a_class_without_samples_has_no_centre_and_zero_features_no_direction() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 0])
    centres = class_centres(features, labels, labels, 3)
    assert centres.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert centre_distance(features, labels, centres).tolist() == [0.0, 1.0]


def test_wrong_labels_are_far_from_the_centre_even_where_they_are_most() -> None:
    """Centres follow predictions: 60 % of class 0's labels belong to class 1."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    features = 3 * torch.eye(6)[truth] + torch.randn(300, 6, generator=generator)
    labels = truth.clone()
    labels[(truth == 1).nonzero().flatten()[:60]] = 0
    labels[(truth == 0).nonzero().flatten()[:60]] = 2
    distance = centre_distance(features, labels, class_centres(features, truth, labels, 3))
    assert roc_auc_score((labels != truth).numpy(), distance.numpy()) > 0.95


def test_distances_are_kept_by_epoch() -> None:
    context = context_for()
    prediction = torch.arange(30) % 3
    for number in (0, 1):
        context.ledger.set("prediction", number, prediction)
    MeasureCentrality().run(context)
    first = context.ledger[DISTANCES].clone()
    assert bool((first[:, :, :-1] == 0).all())
    for number, network in enumerate(context.plain):
        with torch.no_grad():
            features = network(as_input(DATA.inputs), heads=("features",))["features"]
        wanted = slow_distances(features, prediction.tolist(), DATA.labels.tolist(), 3)
        assert first[number, :, -1].tolist() == pytest.approx(wanted, abs=1e-5)
    MeasureCentrality().run(context)
    second = context.ledger[DISTANCES]
    assert torch.equal(second[:, :, -2], first[:, :, -1])


# -- stage two --------------------------------------------------------------------------------


def test_discrepancy() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (4 * torch.randn(50, 5, generator=generator) for _ in range(2))
    ours = discrepancy(first, second)
    for row in range(50):
        p, q = softmax(first[row].tolist()), softmax(second[row].tolist())
        assert float(ours[row]) == pytest.approx(
            sum(abs(a - b) for a, b in zip(p, q, strict=True)), abs=1e-5
        )
    assert torch.equal(ours, discrepancy(second, first))
    assert bool((discrepancy(first, first) == 0).all())
    certain = 100 * torch.eye(2)
    assert float(discrepancy(certain[:1], certain[1:])) == pytest.approx(2.0)


def test_every_class_has_its_own_mixture() -> None:
    """Against scikit-learn, with classes on different scales; what is no candidate gets 0."""
    generator = np.random.default_rng(0)
    labels = torch.tensor(generator.integers(0, 3, 600))
    apart = torch.tensor(generator.random(600) < 0.4)
    base = torch.where(apart, 0.8, 0.1) + torch.tensor(generator.normal(0, 0.06, 600))
    values = base * torch.tensor([1.0, 0.2, 0.01])[labels]
    candidates = torch.tensor(generator.permutation(600)[:450])
    ours = consistency_by_class(values, labels, candidates, 3, mixture())
    chosen = torch.zeros(600, dtype=torch.bool)
    chosen[candidates] = True
    assert bool((ours[~chosen] == 0).all())
    for c in range(3):
        rows = chosen & (labels == c)
        x = values[rows].numpy()
        x = ((x - x.min()) / (x.max() - x.min()))[:, None]
        reference = SklearnMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x)
        wanted = reference.predict_proba(x)[:, reference.means_.argmin()]
        assert float((ours[rows] - torch.tensor(wanted)).abs().max()) < 0.02
        assert bool(((ours[rows] > 0.5) == ~apart[rows]).all())


def test_small_and_missing_classes_are_trusted() -> None:
    labels = torch.tensor([0] * 30 + [1] * 4 + [3])
    values = torch.linspace(0, 1, 35)
    found = consistency_by_class(values, labels, torch.arange(34), 5, mixture())
    assert bool((found[30:34] >= 0.9).all()), "four are too few to fit"
    assert float(found[34]) == 0
    same = consistency_by_class(torch.zeros(35), labels, torch.arange(35), 5, mixture())
    assert bool((same >= 0.9).all()), "nothing speaks against any"
    nobody = consistency_by_class(values, labels, torch.arange(0), 5, mixture())
    assert bool((nobody == 0).all())


def test_consistency_of_central_samples_alone() -> None:
    context = context_for()
    for number in (0, 1):
        context.ledger.set("clean", number, torch.linspace(0, 1, 30))
    apart = twin_discrepancy(context, 0)
    with torch.no_grad():
        raw = context.plain[0](as_input(DATA.inputs), heads=(TWINS,))[TWINS]
    assert torch.allclose(apart, discrepancy(raw[:, 0, 0], raw[:, 0, 1]), atol=1e-5)
    figures = MeasureConsistency(least=0.3).run(context)
    central = torch.linspace(0, 1, 30) > 0.3
    for number in (0, 1):
        found = context.ledger[CONSISTENT][number]
        assert bool((found[~central] == 0).all())
        assert bool((found[central] > 0).any())
        share = float((found[central] >= 0.3).float().mean())
        assert figures[f"agreed_fraction_{number}"] == pytest.approx(share)


@pytest.mark.parametrize("seed", range(3))
def test_division(seed: int) -> None:
    """Labelled: central and agreed on. Everything else is unlabelled."""
    generator = torch.Generator().manual_seed(seed)
    context = context_for()
    clean, consistent = torch.rand(2, 30, generator=generator)
    context.ledger.set("clean", 1, clean)
    context.ledger.set(CONSISTENT, 1, consistent)
    labelled = [n for n in range(30) if clean[n] > 0.3 and consistent[n] >= 0.4]
    split = Agreed(1, consistency=0.4).split(context)
    assert split.labelled.tolist() == labelled
    assert split.unlabelled.tolist() == [n for n in range(30) if n not in labelled]
    assert split.fallback is None


@pytest.mark.parametrize(("clean", "consistent"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)])
def test_no_side_and_no_class_runs_dry(clean: float, consistent: float) -> None:
    context = context_for()
    context.ledger.set("clean", 0, torch.full((30,), clean))
    context.ledger.set(CONSISTENT, 0, torch.full((30,), consistent))
    split = Agreed(0).split(context)
    assert len(split.unlabelled) > 0
    assert set(DATA.labels[split.labelled].tolist()) == set(DATA.labels.tolist())
    assert set(split.labelled.tolist()) | set(split.unlabelled.tolist()) == set(range(30))
    plan = Central(0, fraction=0.5).plan(context, 8)
    assert plan["central"].shape == (2, min(8, len(Central(0).split(context).labelled)))


# -- losses -----------------------------------------------------------------------------------


def test_twins_give_each_side_its_own_gradient() -> None:
    twins = Twins(4, 3)
    features = torch.randn(7, 4, requires_grad=True)
    out = twins(features)
    assert out.shape == (7, 2, 2, 3)
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.allclose(out[:, 0, 0], twins.first(features))
    assert torch.allclose(out[:, 0, 1], twins.second(features))
    to_features, *to_twins = torch.autograd.grad(
        out[:, 0].square().sum(), [features, *twins.parameters()], allow_unused=True
    )
    assert not bool(to_features.any())
    assert all(grad is not None and bool(grad.any()) for grad in to_twins)
    (moved,) = torch.autograd.grad(twins(features)[:, 1].square().sum(), features)
    assert bool(moved.any())
    held = torch.autograd.grad(
        twins(features)[:, 1].square().sum(), list(twins.parameters()), allow_unused=True
    )
    assert not any(grad is not None and bool(grad.any()) for grad in held)


def run_exactly(context: Context, number: int, inputs: Tensor) -> tuple[nn.Module, Any, Tensor]:
    """A float64 copy of a network, its heads, and the features of inputs, one by one."""
    network = copy.deepcopy(context.plain[number]).double()
    rows = [network(row[None].double(), heads=("features",))["features"] for row in inputs]
    return network, network.heads, torch.cat(rows)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize(("learner", "ramp"), [(0, 1.0), (1, 0.25)])
def test_mixmatch_terms_and_gradients(learner: int, ramp: float, extra: bool) -> None:
    context = context_for((learner,))
    step = TwinMixMatch(ramp=ramp, converge=0.7)
    maker: Step = ExtraViewStep(step, 0.0) if extra else step
    groups = views_of(maker, context, groups_of(**SIDES))
    terms = step.loss(context, groups)
    sum(terms.values()).backward()  # type: ignore[union-attr]

    inputs = torch.cat([group.inputs for group in groups.values()]).double()
    targets = torch.cat([group.targets for group in groups.values()]).double()
    draw = context.draw.beta("mix", 4.0, 4.0)
    share = max(draw, 1 - draw)
    partner = context.draw.permutation("partner", len(inputs))
    mixed = share * inputs + (1 - share) * inputs[partner]
    wanted = share * targets + (1 - share) * targets[partner]
    network, heads, features = run_exactly(context, learner, mixed)
    twins, size = heads[TWINS], (3 if extra else 2) * 5
    main = slow_semi_supervised(heads["classes"](features), wanted, size, 25 * ramp)
    pairs = [
        slow_semi_supervised(head(features), wanted, size, 25 * ramp)
        for head in (twins.first, twins.second)
    ]
    twin_term = sum(x + u + r / 2 for x, u, r in pairs)
    p, q = (head(features).softmax(1) for head in (twins.first, twins.second))
    apart = 0.7 * (p - q).abs().sum() / len(mixed)
    expected = dict(zip(("labelled", "unlabelled", "prior"), main, strict=True))
    expected |= {"twins": twin_term, "discrepancy": apart}  # type: ignore[dict-item]
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name
        assert float(value.detach()) > 1e-4, f"{name} is too small to test anything"
    total = sum(main)
    ours: Any = context.plain[learner]
    assert_close_gradients(ours.backbone, gradients(total + apart, [network.backbone]))  # type: ignore[operator, list-item]
    assert_close_gradients(ours.heads["classes"], gradients(total, [heads["classes"]]))  # type: ignore[arg-type]
    assert_close_gradients(ours.heads[TWINS], gradients(twin_term, [twins]))  # type: ignore[arg-type]
    assert all(weight.grad is None for weight in context.plain[1 - learner].parameters())


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_warmup(penalty: float) -> None:
    context = context_for((1,))
    step = TwinSupervised(confidence_penalty=penalty)
    groups = views_of(step, context, groups_of(all=[0, 1, 4, 6, 9, 13, 17, 22, 25, 29]))
    terms = step.loss(context, groups)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    (group,) = groups.values()
    network, heads, features = run_exactly(context, 1, group.inputs)
    rows = torch.arange(10)

    def cross_entropy(head: nn.Module) -> Tensor:
        loss: Tensor = -head(features).log_softmax(1)[rows, group.label].mean()
        return loss

    p = heads["classes"](features).softmax(1)
    main = cross_entropy(heads["classes"]) + penalty * (p * p.log()).sum(1).mean()
    both = cross_entropy(heads[TWINS].first) + cross_entropy(heads[TWINS].second)
    assert float(terms["twins"].detach()) == pytest.approx(float(both.detach()), rel=1e-5)
    found = float(sum(terms.values()).detach())  # type: ignore[union-attr]
    assert found == pytest.approx(float((main + both).detach()), rel=1e-5)
    ours: Any = context.plain[1]
    assert_close_gradients(ours.backbone, gradients(main, [network.backbone]))  # type: ignore[list-item]
    assert_close_gradients(ours.heads[TWINS], gradients(both, [heads[TWINS]]))


def test_diverging_moves_the_twins_apart_and_nothing_else() -> None:
    context = context_for((0,))
    step = Diverge(weight=0.5)
    groups = views_of(step, context, groups_of(central=list(range(12))))
    network: Any = context.plain[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    values = []
    for _ in range(20):
        (term,) = step.loss(context, groups).values()
        values.append(-float(term.detach()) / 0.5)
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
    assert values[-1] > values[0] + 0.05
    with torch.no_grad():
        raw = network(groups["central"].inputs, heads=(TWINS,))[TWINS][:, 0]
    slow = np.mean(
        [
            sum(abs(a - b) for a, b in zip(softmax(x), softmax(y), strict=True))
            for x, y in raw.tolist()
        ]
    )
    again = -float(step.loss(context, groups)["divergence"].detach()) / 0.5
    assert again == pytest.approx(slow, rel=1e-4)
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.startswith(f"heads.{TWINS}.") for name in changed)


# -- the method -------------------------------------------------------------------------------


def test_phases() -> None:
    method = bound(TSCSI(), DATA, epochs=6, warmup=2)
    assert all(isinstance(phase.step, TwinSupervised) for phase in method.phases(1))
    names = [phase.name for phase in method.phases(2)]
    assert names == [
        *("score", "centrality", "mixture", "decide", "diverge-0", "diverge-1", "consistency"),
        *("divide-0", "divide-1"),
    ]
    assert "decide" not in [phase.name for phase in method.phases(3)]
    for phase in method.phases(4):
        if phase.name.startswith("diverge"):
            assert phase.frozen is True
            assert phase.sampling == Central(phase.trains[0], fraction=0.125)
        if phase.name.startswith("divide"):
            assert phase.sampling == Agreed(1 - phase.trains[0], 0.5, 0.3)
    off = bound(TSCSI(diverge_weight=0), DATA, epochs=6, warmup=2)
    assert not any(phase.name.startswith("diverge") for phase in off.phases(3))


def test_a_run_keeps_the_backbone_while_the_twins_diverge(tmp_path: Path) -> None:
    method = TSCSI(diverge_weight=5.0, diverge_steps=3.0, at_least=0.01)
    trainer = build_trainer(tiny_images(num=48), method, tmp_path, schedule={"epochs": 2})
    trainer.train()
    assert trainer.ledger.decisions["threshold"] == pytest.approx(0.3)
    assert bool((trainer.ledger[CONSISTENT] > 0).any())
    assert bool((trainer.ledger[DISTANCES][:, :, -1] > 0).any())
    assert not trainer.extras[BANK].held, "features are not kept longer than they are needed"
