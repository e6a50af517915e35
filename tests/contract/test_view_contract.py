"""Every view keeps the contract of `View`; a new view is found and checked by itself."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from labelwise.augment.view import View, ViewOptions, build_view, views
from labelwise.errors import UserError
from labelwise.rng import Draw

torch.set_num_threads(1)

SHAPES = {
    "images": [
        (3, 32, 32),
        (1, 8, 8),
        (3, 8, 8),
        (1, 28, 28),
        (3, 20, 33),
        (4, 16, 16),
        (3, 64, 64),
        (3, 96, 100),
    ],
    "embeddings": [(16,), (257,)],
}
# Views that draw nothing: another position gives the same result.
DETERMINISTIC = {"plain"}
CASES = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name, view in sorted(views().items())
    for kind in sorted(view.kinds)
    for shape in SHAPES[kind]
]


def batch_of(shape: tuple[int, ...], rows: int = 12, *, floating: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 1:
        return torch.randn((rows, *shape), generator=generator)
    images = torch.randint(0, 256, (rows, *shape), generator=generator, dtype=torch.uint8)
    return images.float() / 255 if floating else images


def view_for(name: str, shape: tuple[int, ...]) -> View:
    if len(shape) == 1:
        std, mean = torch.linspace(0.1, 2, shape[0]), torch.ones(shape[0])
        options = ViewOptions("embeddings", False, (0, 0), 0, std, mean)
    else:
        options = ViewOptions(size=(shape[1], shape[2]), channels=shape[0])
    return build_view(name, options)


def test_all_views_are_found() -> None:
    assert {"plain", "weak", "autoaugment", "randaugment", "strong", "simclr"} <= set(views())
    assert all(view.citation or name in DETERMINISTIC for name, view in views().items())


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("floating", [False, True], ids=["uint8", "float"])
def test_output(name: str, shape: tuple[int, ...], floating: bool) -> None:
    batch = batch_of(shape, floating=floating)
    before, view = batch.clone(), view_for(name, shape)
    for step in range(3):
        result = view(batch, Draw(seed=0, step=step))
        assert result.shape == batch.shape
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        if len(shape) == 3:
            assert result.min() >= 0
            assert result.max() <= 1
        result.zero_()  # the view shares no memory with the batch
        assert torch.equal(batch, before)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_position_decides(name: str, shape: tuple[int, ...]) -> None:
    batch, view = batch_of(shape), view_for(name, shape)
    here = Draw(seed=3, epoch=1, phase="train", step=5)
    result = view(batch, here)
    assert torch.equal(result, view_for(name, shape)(batch, here))
    for other in (here.at(phase="train", step=6), here.at(epoch=2, step=5), here.within("second")):
        assert torch.equal(result, view(batch, other)) == (name in DETERMINISTIC)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_global_generators_are_left_alone(name: str, shape: tuple[int, ...]) -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()
    view_for(name, shape)(batch_of(shape), Draw(seed=0))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_number_of_processes_changes_no_view(name: str, shape: tuple[int, ...]) -> None:
    batch, view = batch_of(shape), view_for(name, shape)
    alone = view(batch, Draw(seed=0))
    shared = torch.empty_like(alone)
    for rank in range(2):
        shared[rank::2] = view(batch[rank::2], Draw(seed=0, rank=rank, world=2))
    torch.testing.assert_close(shared, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_rows_differ_and_do_not_mix(name: str, shape: tuple[int, ...]) -> None:
    """Equal rows get different views, and a row's view depends on no other row."""
    same = batch_of(shape, 1).expand(12, *shape).contiguous()
    view = view_for(name, shape)
    result = view(same, Draw(seed=0))
    distinct = len({tuple(row.flatten().tolist()) for row in result})
    assert distinct == 1 if name in DETERMINISTIC else distinct > 3
    changed = same.clone()
    changed[0] = 0
    rest = view(changed, Draw(seed=0))[1:]
    torch.testing.assert_close(rest, result[1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_batches(name: str, shape: tuple[int, ...], rows: int) -> None:
    assert view_for(name, shape)(batch_of(shape, rows), Draw(seed=0)).shape == (rows, *shape)


@pytest.mark.parametrize(
    "name", [n for n, view in sorted(views().items()) if "images" in view.kinds]
)
@pytest.mark.parametrize("floating", [False, True], ids=["uint8", "float"])
def test_channels_last_is_kept_and_changes_no_value(name: str, floating: bool) -> None:
    batch, view = batch_of((3, 32, 32), floating=floating), view_for(name, (3, 32, 32))
    last = batch.contiguous(memory_format=torch.channels_last)
    result = view(last, Draw(seed=0))
    assert result.is_contiguous(memory_format=torch.channels_last)
    plain = view(batch, Draw(seed=0))
    assert plain.is_contiguous()
    torch.testing.assert_close(result, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_constant_images_are_served(name: str, shape: tuple[int, ...]) -> None:
    for value in (0, 255):
        constant = torch.full_like(batch_of(shape), value)
        assert view_for(name, shape)(constant, Draw(seed=0)).isfinite().all()


def test_wrong_kind_is_named() -> None:
    options = ViewOptions(kind="embeddings", size=(0, 0), channels=0)
    with pytest.raises(UserError, match=r"'simclr' is not for embeddings.*plain"):
        build_view("simclr", options)
    with pytest.raises(UserError, match="not for embeddings"):
        build_view("randaugment", ViewOptions())(torch.zeros(2, 8), Draw(seed=0))
    with pytest.raises(UserError, match="Did you mean 'weak'"):
        build_view("week", options)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_no_view_waits_for_the_device(name: str, shape: tuple[int, ...]) -> None:
    device = torch.device("cuda")
    batch, view = batch_of(shape).to(device), view_for(name, shape)
    view(batch, Draw(seed=0, device=device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = view(batch, Draw(seed=0, step=1, device=device))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.isfinite().all()
