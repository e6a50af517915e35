"""The contrastive losses against loops written from the equations, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labelwise.losses.contrastive import info_nce, nt_xent

torch.set_num_threads(1)


def projections(views: int, images: int, width: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (views, images, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second) / (first.square().sum().sqrt() * second.square().sum().sqrt())


def nt_xent_by_hand(rows: Tensor, temperature: float) -> Tensor:
    """Eq. 1 of SimCLR for every pair of views (v, w) of an image, over all ordered pairs."""
    views, images, _ = rows.shape
    everything = [(v, i) for v in range(views) for i in range(images)]
    terms = []
    for v, i in everything:
        for w in range(views):
            if w == v:
                continue
            top = (cosine(rows[v, i], rows[w, i]) / temperature).exp()
            bottom = torch.zeros((), dtype=torch.float64)
            for u, k in everything:
                if (u, k) != (v, i):
                    bottom = bottom + (cosine(rows[v, i], rows[u, k]) / temperature).exp()
            terms.append(-(top / bottom).log())
    return torch.stack(terms).mean()


def info_nce_by_hand(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Eq. 1 of MoCo for every query."""
    terms = []
    for view in queries:
        for query, key in zip(view, keys, strict=True):
            top = (cosine(query, key) / temperature).exp()
            bottom = top
            for other in queue:
                bottom = bottom + (cosine(query, other) / temperature).exp()
            terms.append(-(top / bottom).log())
    return torch.stack(terms).mean()


def gradient(loss: Tensor, rows: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, rows)
    return found


@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_and_its_gradient(views: int, images: int, temperature: float) -> None:
    rows = projections(views, images)
    ours = nt_xent(rows, rows, torch.arange(images), temperature)
    wanted = nt_xent_by_hand(rows, temperature)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(ours, rows), gradient(wanted, rows), rtol=1e-9, atol=1e-11)
    assert torch.autograd.gradcheck(
        lambda x: nt_xent(x, x, torch.arange(images), temperature), (rows,)
    )


@pytest.mark.parametrize("world", [2, 3])
def test_nt_xent_of_the_parts_is_that_of_the_whole(world: int) -> None:
    """The mean over processes, which hold their images one after the other."""
    rows = projections(2, 6)
    whole = nt_xent(rows, rows, torch.arange(6), 0.2)
    places = torch.arange(6).chunk(world)
    parts = torch.stack([nt_xent(rows[:, place], rows, place, 0.2) for place in places]).mean()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient(parts, rows), gradient(whole, rows))


def test_nt_xent_does_not_depend_on_lengths_or_order() -> None:
    rows = projections(2, 6).detach()
    place = torch.arange(6)
    loss = nt_xent(rows, rows, place, 0.2)
    longer = rows * torch.rand(2, 6, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(nt_xent(longer, longer, place, 0.2), loss)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    mixed = rows[:, order].flip(0)
    torch.testing.assert_close(nt_xent(mixed, mixed, place, 0.2), loss)


def test_nt_xent_at_its_ends() -> None:
    """All alike: log of the number of others. Twins equal, others opposite: nothing is left."""
    alike = torch.ones(2, 4, 3)
    torch.testing.assert_close(nt_xent(alike, alike, torch.arange(4), 0.5), torch.tensor(7.0).log())
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).expand(2, 2, 2)
    assert float(nt_xent(apart, apart, torch.arange(2), 0.05)) < 1e-6
    small = (1e3 * torch.randn(2, 4, 3)).requires_grad_()
    loss = nt_xent(small, small, torch.arange(4), 0.01)
    assert bool(loss.isfinite())
    assert bool(gradient(loss, small).isfinite().all())


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce_and_its_gradient(views: int, temperature: float) -> None:
    queries = projections(views, 4)
    keys = torch.nn.functional.normalize(projections(1, 4, seed=1)[0].detach(), dim=1)
    queue = torch.nn.functional.normalize(projections(1, 9, seed=2)[0].detach(), dim=1)
    ours = info_nce(queries, keys, queue, temperature)
    wanted = info_nce_by_hand(queries, keys, queue, temperature)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(ours, queries), gradient(wanted, queries), rtol=1e-9, atol=1e-11
    )
    assert torch.autograd.gradcheck(lambda x: info_nce(x, keys, queue, temperature), (queries,))
