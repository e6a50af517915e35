"""SANM's step: masked copies, softened targets and the reconstruction, on tiny images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from labelwise.augment.mix import mix_coefficient
from labelwise.data.store import as_input
from labelwise.errors import UserError
from labelwise.methods import parse_method
from labelwise.methods.coteaching import CoTeachingStep
from labelwise.methods.dividemix import MixMatch
from labelwise.methods.mixup import MixUpStep
from labelwise.methods.sanm import SANM
from labelwise.models.heads import RECONSTRUCTION
from labelwise.models.network import Network
from labelwise.rng import Draw
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups
from labelwise.training.masked import COPIES, Copies, MaskedStep
from labelwise.training.method import Problem, Step
from labelwise.training.steps import Supervised
from support import bound, build_context, build_trainer, smooth_network, tiny_images, usual_network

NUM_CLASSES = 3
DATA = tiny_images(num=30, num_classes=NUM_CLASSES)
ROWS = [0, 1, 4, 6, 9, 13, 17, 22, 25, 29]
SIDES = {"clean": [0, 3, 7, 11, 20], "noisy": [1, 2, 9, 15, 28]}
LARGE = {
    "sanm.basic_ratio": 0.3,
    "sanm.ratio_spread": 0.1,
    "sanm.ratio_gain": 0.2,
    "sanm.reference_side": 1,
}
PLAIN = {"sanm.place": "guided", "sanm.boxes": "both", "sanm.keep_views": True}
LEFT_ALONE = {"place": "auto", "boxes": "auto", "keep_views": None}


def group_of(rows: list[int], clean: float | list[float] = 1.0) -> Group:
    index = torch.tensor(rows)
    weight = torch.tensor(clean).expand(len(rows)) if isinstance(clean, float) else None
    return Group(
        index=index,
        label=DATA.labels[index],
        clean=torch.tensor(clean) if weight is None else weight,
        anchor=as_input(DATA.inputs[index]),
    )


def one_side(clean: float | list[float] = 1.0) -> dict[str, Group]:
    return {"all": group_of(ROWS, clean)}


def two_sides() -> dict[str, Group]:
    return {"clean": group_of(SIDES["clean"], 0.9), "noisy": group_of(SIDES["noisy"], 0.1)}


def sanm(host: str = "ce", **settings: Any) -> SANM:
    """Large masks, as they are; two copies beside the host's views, unless settings say else."""
    method = parse_method(f"sanm+{host}", {**LARGE, **PLAIN, **settings})
    assert isinstance(method, SANM)
    return method


def masked(step: Step, **settings: Any) -> MaskedStep:
    """A step as SANM wraps it; settings by their bare names."""
    wrapped = sanm("ce", **{f"sanm.{name}": value for name, value in settings.items()}).wrap(step)
    assert isinstance(wrapped, MaskedStep)
    return wrapped


def networks(num: int = 2) -> list[Network]:
    return [smooth_network(DATA, number, heads=sanm().heads) for number in range(num)]


def context_for(*trains: int, **decisions: float) -> Context:
    context = build_context(DATA, networks(), trains=trains)
    context.ledger.decisions.update({"lambda_u": 25.0, "forget_rate": 0.4, **decisions})
    return context


def views_of(step: Step, context: Context, groups: Mapping[str, Group]) -> Groups:
    with torch.no_grad():
        return step.views(context, groups)


def gradients(context: Context, total: Tensor) -> dict[str, Tensor]:
    """The gradient of every weight that gets one."""
    total.backward()  # type: ignore[no-untyped-call]
    found = {}
    for number, network in enumerate(context.plain):
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[f"{number}.{name}"] = parameter.grad.clone()
        network.zero_grad()
    return found


def paid(group: Group) -> Tensor:
    """What the top class of the last copy's target is short of (B)."""
    before, after = group.views[0][1], group.views[-1][1]
    top = before.argmax(1, keepdim=True)
    return (before - after).gather(1, top)[:, 0]


HOSTS = {
    "ce": (Supervised(), (0,), one_side),
    "penalty": (Supervised(confidence_penalty=0.5), (0,), one_side),
    "coteaching": (CoTeachingStep(), (0, 1), one_side),
}
every_host = pytest.mark.parametrize("name", HOSTS)


@every_host
def test_nothing_masked_and_nothing_rebuilt_is_the_host(name: str) -> None:
    """All copies equal the view, so that a mean over them is the host's."""
    host, trains, sides = HOSTS[name]
    step = masked(host, basic_ratio=0, ratio_spread=0, ratio_gain=0, reconstruction_weight=0)
    results = []
    for tried in (host, step):
        context = context_for(*trains)
        terms = tried.loss(context, views_of(tried, context, sides()))
        values = {key: float(term.detach()) for key, term in terms.items()}
        results.append((values, gradients(context, torch.stack([*terms.values()]).sum())))
    (wanted, expected), (ours, found) = results
    assert ours == pytest.approx(wanted, rel=1e-5)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in found)


@every_host
def test_host_terms_do_not_feel_the_reconstruction(name: str) -> None:
    """Its channels are taken off before the host's network sees them."""
    host, trains, sides = HOSTS[name]
    results = []
    for weight in (0.0, 0.5):
        step, context = masked(host, reconstruction_weight=weight), context_for(*trains)
        results.append(step.loss(context, views_of(step, context, sides())))
    plain, rebuilt = results
    assert rebuilt.keys() - plain.keys() == {RECONSTRUCTION}
    assert float(rebuilt[RECONSTRUCTION].detach()) > 0
    for key, term in plain.items():
        assert float(rebuilt[key].detach()) == pytest.approx(float(term.detach()), rel=1e-6)


def test_each_part_can_be_left_out() -> None:
    context, host = context_for(0), Supervised()

    def parts(**settings: Any) -> tuple[bool, bool, bool]:
        step = masked(host, **settings)
        (group,) = views_of(step, context, one_side()).values()
        (view, target), *copies = group.views
        pixels = any(not torch.equal(copied, view) for copied, _ in copies)
        targets = any(not torch.equal(softer, target) for _, softer in copies)
        return pixels, targets, RECONSTRUCTION in step.loss(context, {"all": group})

    assert parts() == (True, True, True)
    assert parts(amg=False) == (False, True, True)
    assert parts(nlr=False) == (True, False, True)
    assert parts(smr=False) == (True, True, False)
    assert parts(reconstruction_weight=0) == (True, True, False)
    without = sanm(**{"sanm.smr": False})
    assert RECONSTRUCTION not in smooth_network(DATA, heads=without.heads).heads
    assert RECONSTRUCTION in smooth_network(DATA, heads=sanm().heads).heads


def test_copies_lie_behind_the_views_and_are_made_of_the_first() -> None:
    context = context_for(0)
    (group,) = views_of(masked(Supervised()), context, one_side()).values()
    (view, target), (hot, softer), (cold, same) = group.views
    kept = group.kept[COPIES]
    assert (kept.first, kept.count) == (1, 2)
    assert torch.equal(kept.source, view)
    assert softer is same, "both copies of an image learn one target"
    assert not torch.equal(hot, cold)
    assert torch.allclose(softer.sum(1), torch.ones(len(ROWS)))
    share = [float((image != view).any(1).float().mean()) for image in (hot, cold)]
    ratio = (target - softer).amax(1)
    assert share == pytest.approx([float(ratio.mean()) / 2] * 2, abs=0.04)


# -- reconstruction ---------------------------------------------------------------------------


def normalised(network: nn.Module, images: Tensor) -> Tensor:
    mean, std = network.get_buffer("mean"), network.get_buffer("std")
    return (images - mean[:, None, None]) / std[:, None, None]


def square_errors(network: nn.Module, seen: Tensor, whole: Tensor) -> list[float]:
    """Mean squared error of every image alone, in normalised units."""
    with torch.no_grad():
        rebuilt = [
            network(image[None], heads=(RECONSTRUCTION,))[RECONSTRUCTION][0] for image in seen
        ]
    wanted = normalised(network, whole)
    return [float((r - w).square().mean()) for r, w in zip(rebuilt, wanted, strict=True)]


def test_reconstruction_is_of_the_masked_copies_alone() -> None:
    context, step = context_for(0), masked(Supervised(), reconstruction_weight=0.3)
    groups = views_of(step, context, one_side())
    ours = float(step.loss(context, groups)[RECONSTRUCTION].detach())
    (view, _), *copies = groups["all"].views
    errors = [e for seen, _ in copies for e in square_errors(context.plain[0], seen, view)]
    assert len(errors) == 2 * len(ROWS)
    assert ours == pytest.approx(0.3 * sum(errors) / len(errors), rel=1e-5)


def test_two_networks_of_one_batch_each_rebuild() -> None:
    context, step = context_for(0, 1), masked(CoTeachingStep(), reconstruction_weight=0.3)
    groups = views_of(step, context, one_side())
    ours = float(step.loss(context, groups)[RECONSTRUCTION].detach())
    view = groups["all"].views[0][0]
    means = []
    for network in context.plain:
        copies = (seen for seen, _ in groups["all"].views[1:])
        errors = [e for seen in copies for e in square_errors(network, seen, view)]
        means.append(sum(errors) / len(errors))
    assert ours == pytest.approx(0.3 * sum(means), rel=1e-5)


MIXING = {
    "mixup": (MixUpStep(alpha=4.0), one_side),
    "mixmatch": (MixMatch(alpha=4.0), two_sides),
}


@pytest.mark.parametrize("name", MIXING)
def test_mixed_copies_rebuild_the_mixed_images(name: str) -> None:
    """λ x_i + (1 - λ) x_j is to become the same mix of the unmasked images.

    It counts where the larger part is a masked copy: of as many rows as there are copies.
    """
    host, sides = MIXING[name]
    context, step = context_for(0), masked(host, reconstruction_weight=0.3)
    groups = views_of(step, context, sides())
    terms = step.loss(context, groups)
    seen, whole, flags = [], [], []
    for group in groups.values():
        kept: Copies = group.kept[COPIES]
        for place, (inputs, _) in enumerate(group.views):
            copied = kept.first <= place < kept.first + kept.count
            seen.append(inputs)
            whole.append(kept.source if copied else inputs)
            flags += [float(copied)] * len(inputs)
    first, target = torch.cat(seen), torch.cat(whole)
    partner = context.draw.permutation("partner", len(first)).tolist()
    own = mix_coefficient(context.draw, 4.0, "mix")
    mixed = [own * first[i] + (1 - own) * first[j] for i, j in enumerate(partner)]
    wanted = [own * target[i] + (1 - own) * target[j] for i, j in enumerate(partner)]
    weight = [own * flags[i] + (1 - own) * flags[j] for i, j in enumerate(partner)]
    assert {0.0, own, 1 - own, 1.0} == set(weight), "all kinds of pairs"
    errors = square_errors(context.plain[0], torch.stack(mixed), torch.stack(wanted))
    counted = [error for w, error in zip(weight, errors, strict=True) if w > 0.5]
    assert len(counted) == sum(flags) < len(flags)
    total = sum(counted) / len(counted)
    assert float(terms[RECONSTRUCTION].detach()) == pytest.approx(0.3 * total, rel=1e-4)


def test_reconstruction_alone_teaches_encoder_and_decoder() -> None:
    context, step = context_for(0), masked(Supervised())
    found = gradients(
        context, step.loss(context, views_of(step, context, one_side()))[RECONSTRUCTION]
    )
    reached = {name.split(".", 2)[1] for name, value in found.items() if bool(value.any())}
    assert reached == {"backbone", "heads"}
    heads = {name for name, value in found.items() if "heads." in name and bool(value.any())}
    assert heads
    assert all(name.startswith(f"0.heads.{RECONSTRUCTION}") for name in heads)
    names = {name for name, _ in context.plain[0].named_parameters() if RECONSTRUCTION in name}
    assert heads == {f"0.{name}" for name in names}, "every weight of the decoder"
    assert not any(name.startswith("1.") for name in found)


# -- the look at the map ----------------------------------------------------------------------


def batch_norm_context() -> Context:
    network = usual_network(DATA, sanm(), 0).train()
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return build_context(DATA, [network])


@pytest.mark.parametrize("frozen", [False, True])
def test_the_look_leaves_no_trace(frozen: bool) -> None:
    """Neither in batch statistics nor in gradients nor in any module's mode."""
    context = batch_norm_context()
    (network,) = context.plain
    if frozen:  # as the loop holds a backbone still
        network.get_submodule("backbone").eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    views_of(masked(Supervised()), context, one_side())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [module.training for module in network.modules()] == modes


def test_the_map_is_of_the_network_in_eval_mode() -> None:
    """A sample's map does not depend on the others of its batch."""
    context, step = batch_norm_context(), masked(Supervised())
    images = as_input(DATA.inputs[:6])
    with torch.no_grad():
        whole, alone = step.activation(context, images), step.activation(context, images[:1])
    assert torch.allclose(whole[:1], alone, atol=1e-4)
    assert torch.allclose(whole.mean((1, 2)), torch.ones(6), atol=1e-5)


def test_two_networks_look_with_equal_weight() -> None:
    """A network with large features does not outvote the other."""
    images, maps = as_input(DATA.inputs[:6]), []
    for trains in ((0,), (1,), (0, 1)):
        context = context_for(*trains)
        with torch.no_grad():
            for parameter in context.plain[1].get_submodule("backbone.layers.4").parameters():
                parameter.mul_(100)
            maps.append(masked(CoTeachingStep()).activation(context, images))
    first, second, both = maps
    assert torch.allclose(both, (first + second) / 2, atol=1e-5)
    assert not torch.allclose(both, second, atol=0.01)


@pytest.mark.parametrize("settings", [{"place": "random"}, {"amg": False}], ids=str)
def test_no_look_where_no_map_is_needed(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward would be for nothing."""
    context = context_for(0)
    monkeypatch.setattr(MaskedStep, "activation", None)
    assert len(views_of(masked(Supervised(), **settings), context, one_side())["all"].views) == 3
    with pytest.raises(TypeError):
        views_of(masked(Supervised()), context, one_side())


@pytest.mark.parametrize("grid", [(4, 4), (3, 4)])
def test_a_coarse_map_is_not_looked_at(grid: tuple[int, int]) -> None:
    """Unless it is asked for; then the boxes are those of random places."""
    context = context_for(0)
    for network in context.plain:
        network.map_sizes[tuple(DATA.inputs.shape[1:])] = grid

    def copies(place: str) -> list[Tensor]:
        group = views_of(masked(Supervised(), place=place), context, one_side())["all"]
        return [image for image, _ in group.views[1:]]

    same = {
        place: all(map(torch.equal, copies("auto"), copies(place)))
        for place in ("guided", "random")
    }
    assert same == {"guided": grid == (4, 4), "random": grid != (4, 4)}


def test_the_size_of_the_map_is_tried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a trace in the network, and for every shape anew."""
    (network,) = batch_norm_context().plain
    network.get_submodule("backbone").eval()  # as the loop holds a backbone still
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    for shape in ((1, 8, 8), (1, 16, 24)):
        with torch.no_grad():
            maps = network(torch.rand(2, *shape), heads=("feature_map",))["feature_map"]
        assert network.map_size(shape) == tuple(maps.shape[2:])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    monkeypatch.setattr(network.backbone, "maps", None)
    assert network.map_size((1, 8, 8)) != network.map_size((1, 16, 24))


class Waits(TorchDispatchMode):
    """Notes what makes the host wait for a device: reading from it, or copying small numbers."""

    WAITING: ClassVar = {"_local_scalar_dense", "lift_fresh", "nonzero", "equal", "masked_select"}

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"spot": "cell"},
        {"boxes": "either"},
        {"place": "random"},
        {"ratio": "fixed"},
        LEFT_ALONE,
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [*HOSTS, "mixmatch"])
def test_no_step_waits_for_the_device(name: str, settings: dict[str, Any]) -> None:
    """What `tests/gpu` proves on a device, as far as a processor can tell."""
    host, trains, sides = {**HOSTS, "mixmatch": (MixMatch(), (0,), two_sides)}[name]
    context, step, groups = context_for(*trains), masked(host, **settings), sides()
    with Waits() as waits:
        step.loss(context, views_of(step, context, groups))
    assert "convolution" in waits.seen
    assert waits.seen.isdisjoint(Waits.WAITING), waits.seen & Waits.WAITING


# -- doubt and selection ----------------------------------------------------------------------


def test_doubtful_labels_pay_the_gain() -> None:
    context, step = context_for(0), masked(Supervised(), basic_ratio=0.1, ratio_spread=0.05)
    sure, unsure = (paid(views_of(step, context, one_side(clean))["all"]) for clean in (1.0, 0.0))
    assert torch.allclose(unsure - sure, torch.full((len(ROWS),), 0.2), atol=1e-6)
    assert bool(((sure > 0.05 - 1e-6) & (sure < 0.15 + 1e-6)).all())


def test_dividemix_masks_by_what_the_peer_thinks(tmp_path: Path) -> None:
    method = sanm("dividemix", **{"sanm.ratio_spread": 0.0, "sanm.basic_ratio": 0.1})
    made = [smooth_network(DATA, number, heads=method.heads) for number in (0, 1)]
    trainer = build_trainer(DATA, method, tmp_path, networks=made)
    trainer.ledger.decisions.update(lambda_u=25.0, threshold=0.5)
    trainer.ledger.set("clean", 0, torch.full((30,), 0.75))
    trainer.ledger.set("clean", 1, torch.full((30,), 0.25))
    phases = [p for p in method.phases(2) if isinstance(p.step, MaskedStep)]
    assert [phase.trains for phase in phases] == [(0,), (1,)]
    plan = {side: torch.tensor([rows]) for side, rows in SIDES.items()}
    for phase, clean in zip(phases, (0.25, 0.75), strict=True):
        assert isinstance(phase.step, MaskedStep)
        context = trainer._context(phase)
        groups = views_of(phase.step, context, trainer._groups(context, phase, plan))
        for group in groups.values():
            expected = torch.full((5,), 0.1 + 0.2 * (1 - clean))
            assert torch.allclose(paid(group), expected, atol=1e-5)


def test_coteaching_copies_share_the_selection_of_their_image() -> None:
    context, step = context_for(0, 1), masked(CoTeachingStep(ramp=1.0, noise_rate=0.4))
    groups = views_of(step, context, one_side([0.1 * n for n in range(10)]))
    terms = step.loss(context, groups)
    per_sample = []
    for network in context.plain:
        losses = [0.0] * len(ROWS)
        for inputs, targets in groups["all"].views:
            with torch.no_grad():
                log_p = network(inputs)["classes"].log_softmax(1)
            for i in range(len(ROWS)):
                losses[i] -= float((targets[i] * log_p[i]).sum()) / 3
        per_sample.append(losses)
    for number, losses in enumerate(per_sample):
        others = per_sample[1 - number]
        chosen = sorted(range(len(ROWS)), key=others.__getitem__)[:6]
        wanted = sum(losses[i] for i in chosen) / 6
        assert float(terms[f"cross_entropy_{number}"].detach()) == pytest.approx(wanted, rel=1e-5)


# -- views ------------------------------------------------------------------------------------


def test_guess_view_takes_the_place_of_the_hosts_own() -> None:
    context = context_for(0)
    usual = views_of(masked(Supervised()), context, one_side())["all"]
    (group,) = views_of(masked(Supervised(), guess_view="plain"), context, one_side()).values()
    assert torch.allclose(group.views[0][0], group.anchor)
    assert not torch.allclose(usual.views[0][0], usual.anchor)
    sides = views_of(masked(MixMatch(), guess_view="plain"), context, two_sides())
    for side in sides.values():
        assert len(side.views) == 4
        assert all(torch.allclose(inputs, side.anchor) for inputs, _ in side.views[:2])
    with pytest.raises(UserError, match=r"'strnog'.*Did you mean 'strong'"):
        views_of(masked(Supervised(), guess_view="strnog"), context, one_side())


def test_learn_views_are_further_views_of_the_hosts_target() -> None:
    context, host = context_for(0), MixMatch()
    step = masked(host, learn_view="strong", num_learn_views=3)
    groups = views_of(step, context, two_sides())
    for group in groups.values():
        assert len(group.views) == 2 + 3 + 2
        source = group.kept[COPIES].source
        assert torch.equal(source, group.views[0][0])
        assert all(float((seen == source).float().mean()) > 0.5 for seen, _ in group.views[5:])
        assert (group.kept[COPIES].first, group.kept[COPIES].count) == (5, 2)
        for inputs, target in group.views[2:5]:
            assert torch.equal(target, group.views[0][1])
            assert not any(torch.equal(inputs, seen) for seen, _ in group.views[:2])
        assert not torch.equal(group.views[2][0], group.views[3][0])
    assert set(step.loss(context, groups)) == {"labelled", "unlabelled", "prior", RECONSTRUCTION}


def test_host_views_can_be_left_out() -> None:
    context, step = context_for(0), masked(Supervised(), keep_views=False)
    kept = views_of(masked(Supervised()), context, one_side())["all"]
    groups = views_of(step, context, one_side())
    assert len(groups["all"].views) == 2
    for ours, theirs in zip(groups["all"].views, kept.views[1:], strict=True):
        assert torch.equal(ours[0], theirs[0])
    assert float(step.loss(context, groups)[RECONSTRUCTION].detach()) == pytest.approx(
        float(masked(Supervised()).loss(context, {"all": kept})[RECONSTRUCTION].detach()), rel=1e-5
    )


def test_copies_left_alone_stand_in_for_one_view_and_beside_several() -> None:
    """One copy with either box in place of a single view; two beside two views."""
    context = context_for(0)
    (alone,) = views_of(masked(Supervised(), **LEFT_ALONE), context, one_side()).values()
    (either,) = views_of(
        masked(Supervised(), boxes="either", keep_views=False), context, one_side()
    ).values()
    assert len(alone.views) == alone.kept[COPIES].count == 1
    assert torch.equal(alone.views[0][0], either.views[0][0])
    assert not torch.equal(alone.views[0][0], alone.kept[COPIES].source)
    usual = views_of(masked(MixMatch()), context, two_sides())
    for side, group in views_of(masked(MixMatch(), **LEFT_ALONE), context, two_sides()).items():
        assert len(group.views) == 4
        for (ours, _), (theirs, _) in zip(group.views, usual[side].views, strict=True):
            assert torch.equal(ours, theirs)


def test_defaults_leave_copies_and_views_to_the_host() -> None:
    usual = parse_method("sanm+ce")
    assert isinstance(usual, SANM)
    own = usual.settings
    assert (own.place, own.boxes, own.keep_views) == tuple(LEFT_ALONE.values())


@pytest.mark.parametrize("host", ["ce", "dividemix", "coteaching"])
@pytest.mark.parametrize("boxes", ["auto", "both", "either"])
@pytest.mark.parametrize("learn_view", [None, "strong"])
@pytest.mark.parametrize("keep_views", [None, True, False])
def test_rows_per_sample_counts_what_is_learnt(
    host: str, boxes: str, learn_view: str | None, keep_views: bool | None
) -> None:
    """What memory is predicted from: rows of all forwards with gradient of a step."""
    method = sanm(
        host,
        **{"sanm.boxes": boxes, "sanm.learn_view": learn_view, "sanm.keep_views": keep_views},
    )
    bound(method, DATA, epochs=4, warmup=1)
    (phase, *_) = [p for p in method.phases(3) if isinstance(p.step, MaskedStep)]
    context = context_for(*phase.trains)
    sides = two_sides() if host == "dividemix" else one_side()
    assert isinstance(phase.step, MaskedStep)
    groups = views_of(phase.step, context, sides)
    rows = sum(len(group.inputs) for group in groups.values()) * len(phase.trains)
    drawn = len(next(iter(sides.values())).index)
    assert rows == drawn * method.rows_per_sample


# -- tiny images ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "shape", "scale"),
    [
        (32, (1, 8, 8), 4.0),
        (32, (3, 64, 16), 2.0),
        (32, (3, 16, 64), 2.0),
        (12, (1, 8, 8), 1.5),
        (32, (3, 32, 32), 1.0),
        (32, (3, 224, 224), 1.0),
        (1, (1, 8, 8), 1.0),
    ],
)
def test_binding_scales_the_ratios_to_the_images(
    reference: int, shape: tuple[int, ...], scale: float
) -> None:
    """In proportion to the shorter side, and never down."""
    method = sanm(**{"sanm.reference_side": reference})
    assert method.masker.scale == 1.0
    assert method.bind(Problem(100, 3, "images", shape)) is method
    step = method.wrap(Supervised())
    assert isinstance(step, MaskedStep)
    assert step.masker.scale == method.shows_masks().scale == pytest.approx(scale)
    wanted = 0.3 * scale + torch.zeros(5)
    small = replace(step.masker, spread=0.0)
    assert torch.allclose(small.ratios(torch.ones(5), Draw(seed=0)), wanted.clamp(max=1), atol=1e-6)


def test_by_default_the_ratio_is_the_papers_at_every_size() -> None:
    usual = parse_method("sanm+ce")
    assert isinstance(usual, SANM)
    for side in (8, 32):
        usual.bind(Problem(100, 3, "images", (3, side, side)))
        assert usual.masker.scale == 1.0
