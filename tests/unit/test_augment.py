"""Properties of the views and of MixUp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from labelwise.augment.basic import Weak
from labelwise.augment.blur import gaussian_blur, random_blur
from labelwise.augment.colour import colour_jitter
from labelwise.augment.contrastive import SimCLR
from labelwise.augment.geometry import crop_and_flip, cut_out, random_affine, random_resized_crop
from labelwise.augment.mix import mix_coefficient, mixup
from labelwise.augment.operations import CODE, FAMILIES, OPERATIONS, Choice, apply_choice
from labelwise.augment.policies import CIFAR10_POLICY, RANDAUGMENT, RandAugment, Strong
from labelwise.augment.view import ViewOptions, build_view
from labelwise.data.dataset import Dataset
from labelwise.rng import Draw

torch.set_num_threads(1)


def random_images(count: int = 16, channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, size, size, generator=generator)


def dataset(inputs: torch.Tensor, flip: bool = True) -> Dataset:
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    return Dataset(inputs, labels, ("a",), np.arange(len(inputs)), flip=flip)


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (8, 1), (28, 4), (64, 8), (224, 28)])
def test_padding_follows_the_size(size: int, padding: int) -> None:
    images = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    assert ViewOptions.of(dataset(images)).padding == padding


def test_options_are_read_off_the_data() -> None:
    images = ViewOptions.of(dataset(torch.zeros(2, 1, 8, 10, dtype=torch.uint8), flip=False))
    assert (images.kind, images.size, images.channels, images.flip) == ("images", (8, 10), 1, False)
    features = torch.randn(100, 5) * torch.arange(5) + 2
    options = ViewOptions.of(dataset(features))
    assert options.kind == "embeddings"
    torch.testing.assert_close(options.std, features.std(0, correction=0))
    torch.testing.assert_close(options.mean, features.mean(0))


def test_no_flip_where_the_data_forbid_it() -> None:
    """A picture dark on the left stays so in every view of data that may not be mirrored."""
    images = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    images[..., 16:] = 255
    for name, expected in (("weak", 0), ("simclr", 0)):
        view = build_view(name, ViewOptions(flip=False, channels=1))(images, Draw(seed=0))
        mirrored = view[..., :8].mean((1, 2, 3)) > view[..., -8:].mean((1, 2, 3)) + 0.2
        assert mirrored.sum() == expected
        view = build_view(name, ViewOptions(flip=True, channels=1))(images, Draw(seed=0))
        mirrored = view[..., :8].mean((1, 2, 3)) > view[..., -8:].mean((1, 2, 3)) + 0.2
        assert 12 < mirrored.sum() < 52


def test_every_shift_and_half_the_flips_occur() -> None:
    images = torch.zeros(4000, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 3, 4] = 255
    view = Weak(padding=2)(images, Draw(seed=0))
    places = view.flatten(1).argmax(1)
    rows, columns = places // 8, places % 8
    assert set(rows.tolist()) == {1, 2, 3, 4, 5}
    assert set(columns.tolist()) == {1, 2, 3, 4, 5, 6}  # 2..6, and mirrored 1..5
    assert abs((columns == 6).float().mean() - 0.1) < 0.02
    assert abs((columns == 1).float().mean() - 0.1) < 0.02


def test_crop_without_padding_and_shift_is_the_image() -> None:
    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8)
    zero, no = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    torch.testing.assert_close(crop_and_flip(images, zero, zero, no, 0), images.float() / 255)
    mirrored = crop_and_flip(images, zero, zero, ~no, 0)
    torch.testing.assert_close(mirrored, images.flip(-1).float() / 255)


def test_weak_embeddings_noise_and_dropout() -> None:
    std, mean = torch.tensor([1.0, 5.0, 0.0]), torch.tensor([0.0, 7.0, -1.0])
    batch = torch.full((20_000, 3), 3.0)
    noisy = Weak(std=std, mean=mean, noise=0.2, dropout=0.0)(batch, Draw(seed=0))
    torch.testing.assert_close((noisy - batch).std(0), 0.2 * std, atol=0.02, rtol=0)
    dropped = Weak(std=std, mean=mean, noise=0.0, dropout=0.25)(batch, Draw(seed=0))
    share = (dropped == mean).float().mean(0)
    torch.testing.assert_close(share, torch.full((3,), 0.25), atol=0.02, rtol=0)
    assert ((dropped == mean) | (dropped == batch)).all()


def test_strong_is_stronger_than_weak() -> None:
    batch = torch.randn(500, 8)
    options = ViewOptions(kind="embeddings", size=(0, 0), channels=0)
    change = {
        name: (build_view(name, options)(batch, Draw(seed=0)) - batch).square().mean()
        for name in ("plain", "weak", "strong")
    }
    assert change["plain"] == 0 < change["weak"] < change["strong"] / 2


def test_families_cover_all_operations_in_order() -> None:
    assert tuple(name for names, _ in FAMILIES for name in names) == OPERATIONS
    assert set(RANDAUGMENT) <= set(CODE)
    assert {name for sub in CIFAR10_POLICY for name, _, _ in sub} <= set(CODE)


def test_a_batch_keeps_its_variety() -> None:
    """Each image draws its own operation: all 14 occur in one batch, about equally often."""
    images = random_images(1, size=16).expand(700, 3, 16, 16).contiguous()
    view = RandAugment(padding=0, flip=False, num_operations=1)(images, Draw(seed=0))
    unchanged = (view == images).flatten(1).all(1).sum()
    assert 20 < unchanged < 180  # identity, and auto-contrast of an image of full range
    kinds = len({round(float(value), 4) for value in (view - images).abs().mean((1, 2, 3))})
    assert kinds >= len(RANDAUGMENT)


def test_two_kinds_of_view_at_one_position_are_independent() -> None:
    images = (random_images() * 255).to(torch.uint8)
    weak = Weak()(images, Draw(seed=0))
    assert not torch.equal(weak, RandAugment(num_operations=0)(images, Draw(seed=0)))


def test_apply_choice_restores_the_order() -> None:
    images = random_images(30)
    operation = np.arange(30) % 2 * CODE["invert"]  # identity and invert by turns
    result = apply_choice(images, Choice.of(operation, np.ones(30), np.ones(30)))
    torch.testing.assert_close(result[::2], images[::2])
    torch.testing.assert_close(result[1::2], 1 - images[1::2])


def test_translation_moves_by_the_amount_and_fills() -> None:
    images = torch.ones(2, 1, 8, 8)
    code = np.array([CODE["translate_x"], CODE["translate_y"]])
    choice = Choice(code, np.array([0.25, -0.25], dtype=np.float32))
    moved = apply_choice(images, choice, fill=0.5)
    assert torch.equal(moved[0, 0, :, :6], torch.ones(8, 6))
    assert torch.equal(moved[0, 0, :, 6:], torch.full((8, 2), 0.5))
    assert torch.equal(moved[1, 0, :2], torch.full((2, 8), 0.5))


def test_strong_blanks_half_a_side() -> None:
    white = torch.full((200, 1, 32, 32), 255, dtype=torch.uint8)
    view = Strong(padding=0, num_operations=0)(white, Draw(seed=0))
    blank = (view == 0).flatten(1).sum(1)
    assert blank.max() == 256  # 16 × 16
    assert blank.min() >= 64  # a corner
    assert (cut_out(white.float() / 255, Draw(seed=0), (1, 1)) == 0).sum() == 200


def test_resized_crop_keeps_constants_and_area() -> None:
    flat = torch.full((50, 3, 16, 16), 0.3)
    torch.testing.assert_close(random_resized_crop(flat, Draw(seed=0)), flat)
    ramp = torch.linspace(0, 1, 64).expand(400, 1, 64, 64).contiguous()
    span = random_resized_crop(ramp, Draw(seed=0), area=(0.2, 1.0))
    width = (span[..., -1] - span[..., 0]).mean((1, 2))
    assert width.min() > 0.35  # √(0.2 · 3/4) = 0.39 of the side, less half a pixel each way
    assert width.max() > 0.95
    whole = random_resized_crop(ramp, Draw(seed=0), area=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(whole, ramp, atol=1e-5, rtol=0)


def test_affine_of_nothing_is_the_image() -> None:
    images = random_images(4)
    still = random_affine(images, Draw(seed=0), degrees=0, scale=0, shear=0, shift=0)
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)


def test_jitter_probability_and_grey() -> None:
    images = random_images(400, size=8)
    untouched = colour_jitter(images, Draw(seed=0), probability=0.0, grey=0.0)
    torch.testing.assert_close(untouched, images, atol=1e-4, rtol=0)
    grey = colour_jitter(images, Draw(seed=0), probability=0.0, grey=0.2)
    is_grey = (grey.amax(1) - grey.amin(1)).amax((1, 2)) < 1e-3
    assert 0.13 < is_grey.float().mean() < 0.27
    jittered = colour_jitter(images, Draw(seed=0), probability=0.8, grey=0.0)
    changed = (jittered - images).abs().amax((1, 2, 3)) > 1e-3
    assert 0.72 < changed.float().mean() < 0.88


def test_simclr_chooses_by_size() -> None:
    assert SimCLR.for_data(ViewOptions(size=(8, 8))).small
    assert not SimCLR.for_data(ViewOptions(size=(28, 28))).small
    assert SimCLR.for_data(ViewOptions(size=(64, 200))).blur == 0
    assert SimCLR.for_data(ViewOptions(size=(96, 120))).blur == 0.5


def test_blur_is_scipys_for_every_image() -> None:
    images = random_images(3, size=20).double()
    sigma = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    blurred = gaussian_blur(images, sigma, radius=4)
    for image, strength, ours in zip(images, sigma.tolist(), blurred, strict=True):
        for channel, own in zip(image.numpy(), ours.numpy(), strict=True):
            wanted = gaussian_filter(channel, strength, mode="mirror", radius=4)
            np.testing.assert_allclose(own, wanted, atol=1e-12)
    flat = torch.full((3, 1, 9, 9), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, sigma.float(), radius=2), flat)


def test_random_blur_takes_half_of_the_images() -> None:
    images = random_images(200, size=20)
    blurred = random_blur(images, Draw(seed=0))
    changed = (blurred != images).flatten(1).any(1)
    assert 0.4 < changed.float().mean() < 0.6
    assert torch.equal(random_blur(images, Draw(seed=0), probability=0.0), images)
    all_blurred = random_blur(images, Draw(seed=0), probability=1.0)
    assert float((all_blurred != images).flatten(1).any(1).float().mean()) > 0.9
    strengths = (blurred - images).square().mean((1, 2, 3))[changed]
    assert strengths.max() > 20 * strengths.min(), "every image has a strength of its own"


def test_mixup_by_hand() -> None:
    inputs = torch.tensor([[0.0], [10.0], [20.0]])
    targets = torch.eye(3)
    mixed, soft = mixup(inputs, targets, 0.75, torch.tensor([1, 2, 0]))
    torch.testing.assert_close(mixed, torch.tensor([[2.5], [12.5], [15.0]]))
    torch.testing.assert_close(soft[0], torch.tensor([0.75, 0.25, 0.0]))
    torch.testing.assert_close(soft.sum(1), torch.ones(3))
    assert torch.equal(inputs[0], torch.tensor([0.0]))


def test_mixup_keeps_channels_last_and_is_the_identity_at_one() -> None:
    images = random_images(6).contiguous(memory_format=torch.channels_last)
    mixed, _ = mixup(images, torch.eye(6), 1.0, torch.arange(6).flip(0))
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mixed, images)


def test_mix_coefficient() -> None:
    drawn = [mix_coefficient(Draw(seed=0, step=step), 4.0, "mix") for step in range(2000)]
    assert min(drawn) >= 0.5
    assert max(drawn) <= 1.0
    expected = np.random.default_rng(0).beta(4, 4, 20_000)
    assert abs(np.mean(drawn) - np.maximum(expected, 1 - expected).mean()) < 0.01
    assert mix_coefficient(Draw(seed=0), 0.0, "mix") == 1.0
    shared = {mix_coefficient(Draw(seed=0, rank=rank, world=2), 4.0, "mix") for rank in range(2)}
    assert len(shared) == 1
