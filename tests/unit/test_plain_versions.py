"""The plain versions that benchmarks compare with do the same mathematics as the package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from bench import Bench, Options
from comparisons import scanmix_trainer, whole_epoch
from labelwise.augment.boxes import box_sides, place_boxes
from labelwise.augment.masking import Masker, activation_map, extreme_pixels
from labelwise.augment.mix import mix_coefficient
from labelwise.augment.operations import CODE, OPERATIONS, Choice, apply_choice
from labelwise.losses.contrastive import nt_xent
from labelwise.losses.masking import soften as package_soften
from labelwise.methods.dividemix import MixMatch
from labelwise.models.network import Network
from labelwise.pretraining.scan import Consistency
from labelwise.rng import Draw
from labelwise.selection.mixture import mixture
from labelwise.training.context import Context
from labelwise.training.groups import Group
from labelwise.training.masked import COPIES, MaskedStep
from labelwise.training.method import Step
from plain.dividemix import DivideMix, clean_probability
from plain.images import autoaugment, moved, operate, randaugment, strong, weak
from plain.networks import Peers
from plain.sanm import SANM, Side, cover, extremes, soften
from plain.scanmix import ENTROPY_WEIGHT, ScanMix, cluster_loss
from plain.sides import cluster_head, decoder_head
from plain.simclr import nt_xent as plain_nt_xent
from profiling import LOOP, LOSS, Profiler
from support import build_context, smooth_network, tiny_images
from trainers import DECIDED, HostDraw, decide, hold_still, neighbours_of, run_epoch

DATA = tiny_images(num=48, num_classes=3)
SIDES = {"clean": [0, 3, 7, 11, 20, 31], "noisy": [1, 2, 9, 15, 28, 40]}
CLEAN = {"clean": [0.9, 0.55, 1.0, 0.7, 0.62, 0.8], "noisy": [0.1, 0.0, 0.3, 0.2, 0.45, 0.4]}
LAMBDA_U = 25.0


def networks(heads: Any = None) -> list[Network]:
    """Two different peers whose predictions are far from uniform, and no batch statistics."""
    made = [smooth_network(DATA, number, heads=heads) for number in (0, 1)]
    for network in made:
        with torch.no_grad():
            network.heads["classes"].weight.mul_(12)  # type: ignore[operator]
    return made


def context_of(step_networks: list[Network]) -> Context:
    context = build_context(DATA, step_networks)
    context.ledger.decisions.update(lambda_u=LAMBDA_U)
    return context


def groups_of(context: Context) -> dict[str, Group]:
    found = {}
    for side, rows in SIDES.items():
        index = torch.tensor(rows)
        clean = torch.tensor(CLEAN[side])
        found[side] = Group(index, context.store.labels[index], clean, context.store.plain(index))
    return found


def peers_of(made: list[Network]) -> Peers:
    return Peers(made, [torch.optim.SGD(n.parameters(), lr=0.02) for n in made])


def as_plain(network: Network, images: Tensor) -> Tensor:
    """Images in [0, 1] as the plain loader gives them: normalised."""
    return (images - network.mean.view(1, -1, 1, 1)) / network.std.view(1, -1, 1, 1)


def gradients(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=2e-5)


def both(step: Step, made: list[Network]) -> tuple[Context, Any, Tensor]:
    """The package's views and the sum of its terms."""
    context = context_of(made)
    with torch.no_grad():
        groups = step.views(context, groups_of(context))
    return context, groups, torch.stack(list(step.loss(context, groups).values())).sum()


def test_dividemix_has_the_same_targets_loss_and_gradient() -> None:
    made = networks()
    step = MixMatch(ramp=1.0)
    context, groups, total = both(step, made)
    ours = gradients(made[0], total)
    plain = DivideMix(peers_of(made), None, None, None, None, LAMBDA_U)
    views = {side: [as_plain(made[0], v) for v, _ in groups[side].views] for side in SIDES}
    clean = groups["clean"]
    on_x, on_u = plain.targets(0, views["clean"], clean.label, clean.clean, views["noisy"])
    torch.testing.assert_close(on_x, clean.views[0][1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(on_u, groups["noisy"].views[0][1], rtol=1e-4, atol=1e-5)
    inputs = torch.cat([*views["clean"], *views["noisy"]])
    targets = torch.cat([on_x, on_x, on_u, on_u])
    share = mix_coefficient(context.draw, step.alpha, "mix")
    partner = context.draw.permutation("partner", len(inputs))
    loss = plain.loss(0, inputs, targets, 2 * len(on_x), share, partner)
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)
    assert_alike(gradients(made[0], loss), ours)


@pytest.fixture
def sanm() -> tuple[list[Network], MaskedStep, Context, Any, Tensor]:
    made = networks(decoder_head)
    masker = Masker(place="guided", boxes="both")
    step = MaskedStep(
        MixMatch(ramp=1.0),
        masker,
        guess_view="autoaugment",
        learn_views=("randaugment", "randaugment"),
        keep_views=True,
    )
    context, groups, total = both(step, made)
    return made, step, context, groups, total


def test_sanm_has_the_same_loss_and_gradient(sanm: Any) -> None:
    made, step, context, groups, total = sanm
    ours = gradients(made[0], total)
    sides = []
    for group in groups.values():
        views = [as_plain(made[0], image) for image, _ in group.views]
        first = group.kept[COPIES].first
        assert (len(views), first) == (6, 4)
        sides.append(Side(views[:first], views[first:], group.views[0][1], group.views[first][1]))
    plain = SANM(peers_of(made), None, None, None, None, LAMBDA_U)
    rows = sum(6 * len(side.target) for side in sides)
    share = mix_coefficient(context.draw, step.inner.alpha, "mix")
    partner = context.draw.permutation("partner", rows)
    loss = plain.masked_loss(0, sides, share, partner)
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)
    assert_alike(gradients(made[0], loss), ours)


def test_sanm_masks_alike(sanm: Any) -> None:
    """With the same draws the boxes are the same, and what they cost the top class."""
    made, step, context, groups, _ = sanm
    for side, group in groups.items():
        draw = context.draw.within(f"sanm/{side}")
        source, size = group.kept[COPIES].source, (8, 8)
        ratio = step.masker.ratios(group.clean, draw)
        torch.testing.assert_close(
            soften(group.views[0][1], ratio), package_soften(group.views[0][1], ratio)
        )
        maps = made[0](source, heads=("feature_map",))["feature_map"]
        places = extreme_pixels(activation_map(maps), size)
        found = extremes(maps, size)
        assert [p.tolist() for p in places] == list(found)
        for name, place, copy in zip(("hot", "cold"), found, group.views[4:], strict=True):
            aspect = draw.uniform(f"{name}/aspect", len(ratio), low=0.8, high=1.25)
            fill = draw.uniform(f"{name}/fill", len(ratio), source.shape[1])
            covered = cover(source, place, ratio.tolist(), aspect.tolist(), fill)
            torch.testing.assert_close(covered, copy[0])


def test_boxes_are_the_package_s() -> None:
    draw = np.random.default_rng(0)
    images, count, size = torch.zeros(40, 1, 32, 32), 40, (32, 32)
    ratio = torch.from_numpy(draw.uniform(0.02, 0.1, count)).float()
    aspect = torch.from_numpy(draw.uniform(0.8, 1.25, count)).float()
    places = torch.from_numpy(draw.integers(0, 32, (count, 2)))
    ones = torch.ones(count, 1)
    ours = cover(images, places.tolist(), ratio.tolist(), aspect.tolist(), ones)[:, 0] > 0
    sides = box_sides(ratio / 2, aspect, size)
    boxes = place_boxes(places, *sides, size, "centre").inside(size)
    assert bool((ours == boxes).all())


def test_scanmix_has_the_same_clustering_loss_and_gradient() -> None:
    made = networks(cluster_head)
    context = context_of(made)
    sides = groups_of(context)
    pairs = {"anchors": sides["clean"], "neighbours": sides["noisy"]}
    step = Consistency("weak", ENTROPY_WEIGHT)
    groups = step.views(context, pairs)
    total = torch.stack(list(step.loss(context, groups).values())).sum()
    ours = gradients(made[0], total)
    plain = ScanMix(peers_of(made), None, None, None, None)
    inputs = torch.cat([as_plain(made[0], group.views[0][0]) for group in groups.values()])
    loss = cluster_loss(*plain.peers.logits(0, inputs, "clusters").chunk(2))
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)
    assert_alike(gradients(made[0], loss), ours)


def test_simclr_has_the_same_loss() -> None:
    own = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    ours = nt_xent(own, own, torch.arange(6), 0.2)
    torch.testing.assert_close(plain_nt_xent(own.flatten(0, 1), 0.2), ours)


def test_mixture_is_the_package_s() -> None:
    draw = np.random.default_rng(0)
    losses = np.where(draw.random(4000) < 0.5, draw.gamma(1, 0.2, 4000), draw.gamma(8, 0.3, 4000))
    ours = mixture("gaussian").fit(torch.from_numpy(losses)).clean.numpy()
    assert np.abs(clean_probability(losses) - ours).mean() < 0.01


# -- views image by image ----------------------------------------------------------------------


def picture() -> Image.Image:
    """A smooth picture of full range."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, (32, 32), mode="bilinear", align_corners=True)[0]
    return Image.fromarray((smooth * 255).to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_the_package_s(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, and the smoothing that Pillow does at borders."""
    monkeypatch.setattr("plain.images.uniform", lambda low, high: 0.9)  # the sign stays
    image = picture()
    plain = np.asarray(operate(image, operation, 0.4), dtype=np.float32) / 255
    batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    choice = Choice.of(np.array([CODE[operation]]), np.array([0.4]), np.array([1.0]))
    ours = apply_choice(batch, choice)[0].permute(1, 2, 0).numpy()
    apart = np.abs(plain - ours)
    assert np.quantile(apart, 0.9) < 0.02, apart.max()
    if operation != "identity":
        assert np.abs(ours - np.asarray(image) / 255).max() > 0.005


@pytest.mark.parametrize("view", [weak, autoaugment, randaugment, strong])
def test_views_keep_size_and_vary(view: Callable[[Image.Image], Image.Image]) -> None:
    torch.manual_seed(0)
    image = picture()
    made = [np.asarray(view(image)) for _ in range(8)]
    assert all(array.shape == (32, 32, 3) for array in made)
    assert len({array.tobytes() for array in made}) > 4


def test_shear_is_about_the_centre() -> None:
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    sheared = np.asarray(moved(white, "shear_x", 0.5)).sum(2) > 0
    assert sheared[16].all()
    assert not sheared[0].all()
    assert sheared[0].sum() == pytest.approx(sheared[31].sum(), abs=1)


# -- whole epochs ------------------------------------------------------------------------------

TINY = Options(
    limit=128, image_size=8, model="small_resnet", precision="32-true", workers=0, batch=16,
    images=128, test_images=16, rounds=1, apart=False,
)  # fmt: skip


def test_an_epoch_has_as_many_steps_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    update = Peers.update
    monkeypatch.setattr(Peers, "update", lambda *a: (steps.append("plain"), update(*a))[1])
    bench = Bench(TINY, tmp_path)
    trainer = scanmix_trainer(bench)
    own = trainer._update
    trainer._update = lambda *a: (steps.append("ours"), own(*a))[1]  # type: ignore[method-assign]
    row = whole_epoch(bench, 0, trainer, "ScanMix epoch", "scanmix-epoch", bench.labels)
    # Each network: 64 labelled images in batches of 16, and 128 pairs in one batch.
    whole = 2 * (128 // 2 // 16 + 1)
    turns = 1 + len(row.plain)
    assert steps.count("plain") == turns * whole
    assert steps.count("ours") == (turns + 1) * whole  # and once for the profile
    assert {"views", "guess of the learner", "guess of the peer", "forward"} < row.parts.keys()
    assert {"backward", "optimiser", "scoring", "mixture", "evaluation"} < row.parts.keys()
    assert {LOSS, LOOP} < row.parts.keys()
    assert all(seconds >= 0 for seconds in row.parts.values())
    assert row.to_json()["images_per_second"]["ours"] == pytest.approx(128 / row.ours[0])
    assert "ScanMix epoch, 128 images" in capsys.readouterr().out


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    bench = Bench(replace(TINY, image_size=16), tmp_path)
    trainer = bench.trainer("sanm+dividemix", part=True)
    decide(trainer, DECIDED)
    profiler, taken = Profiler(trainer, "cpu"), []

    def run() -> None:
        start = profiler.parts.now()
        run_epoch(trainer, after=hold_still(bench.part_clean))
        taken.append(profiler.parts.now() - start)

    spent = profiler.run(run)
    assert 0.9 * taken[0] < sum(spent.values()) <= taken[0]
    assert spent["activation map"] > 0
    views = {name: type(view) for name, view in trainer.views.items()}
    assert "function" not in {kind.__name__ for kind in views.values()}, "the clocks are out again"


def test_neighbours_are_of_the_same_class() -> None:
    classes = np.arange(40) % 4
    near = neighbours_of(classes)
    assert near.shape == (40, 20)
    assert bool((classes[near] == classes[:, None]).all())


def test_draws_on_the_host_are_those_of_the_host() -> None:
    own = Draw(seed=3, epoch=1, phase="p", step=2)
    host = replace(HostDraw(**vars(own)), step=2).within("a")
    assert isinstance(host, HostDraw)
    like = own.within("a")
    torch.testing.assert_close(host.uniform("x", 5, 2), like.uniform("x", 5, 2))
    torch.testing.assert_close(host.permutation("x", 5), like.permutation("x", 5))
    drawn = host.integers("x", 5, low=0, high=9)
    torch.testing.assert_close(drawn, like.integers("x", 5, low=0, high=9))
