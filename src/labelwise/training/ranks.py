"""The processes that train together; with one process every operation is the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Ranks:
    """Collectives that steps and the ledger use.

    Args:
        fabric: the engine, or None for a single process.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.fabric = fabric
        self.rank = fabric.global_rank if fabric else 0
        self.world = fabric.world_size if fabric else 1

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor over all ranks, without gradient."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def max(self, value: Tensor) -> Tensor:
        """Take the elementwise maximum of a tensor over all ranks, without gradient."""
        if self.world == 1:
            return value
        largest = value.detach().clone()
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return largest

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank."""
        if self.world == 1:
            return flags
        assert self.fabric is not None
        total = self.sum(torch.tensor(flags, dtype=torch.int32, device=self.fabric.device))
        return tuple(bool(count) for count in total.tolist())

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over all ranks, with gradient.

        Under data-parallel averaging the gradient of a function of the global mean is right:
        every rank's contribution flows back through the collective.
        """
        if self.world == 1:
            return value
        total: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
        return total / self.world

    def whole(self, rows: Tensor) -> Tensor:
        """The rows (B, ...) of every rank as the global batch (B · world, ...), no gradient.

        Row i of rank r stands at place i · world + r, as `Draw.own_rows` deals them.
        """
        rows = rows.detach()
        return rows if self.world == 1 else self.gather(rows).transpose(0, 1).flatten(0, 1)

    def everyone(self, rows: Tensor) -> Tensor:
        """The rows (V, b, ...) of every rank, rank after rank (V, b · world, ...), with gradient.

        The gradient that other ranks' losses give to these rows comes back through the
        collective; after data-parallel averaging a loss that is the mean over the ranks has the
        gradient that one process with all rows would have.
        """
        if self.world == 1:
            return rows
        everyones: Tensor = _Everyone.apply(rows, self.rank, self.world)  # type: ignore[no-untyped-call]
        return everyones

    def own(self, whole: Tensor) -> Tensor:
        """This rank's rows of the global batch: the inverse of `whole`."""
        return whole if self.world == 1 else whole[self.rank :: self.world]

    def share_buffers(self, network: nn.Module) -> None:
        """Give every rank the first one's buffers (batch statistics), which drift apart."""
        if self.world > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def gather(self, value: Tensor) -> Tensor:
        """Stack a tensor of every rank to (world, *shape), without gradient."""
        if self.world == 1:
            return value.unsqueeze(0)
        parts = [torch.empty_like(value) for _ in range(self.world)]
        torch.distributed.all_gather(parts, value.detach().contiguous())
        return torch.stack(parts)


class _Total(torch.autograd.Function):
    """Sum a tensor over the ranks; so are its gradients.

    `torch.distributed.nn.functional.all_reduce` does this too, but is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """What all ranks' losses say about this rank's value."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


class _Everyone(torch.autograd.Function):
    """Gather rows (V, b, ...) to (V, b · world, ...); their gradients are summed over the ranks.

    `torch.distributed.nn.functional.all_gather` does this too, but is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world: int) -> Tensor:
        """All ranks' rows, rank after rank."""
        ctx.rank, ctx.world = rank, world
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world)]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """What all ranks' losses say about this rank's rows."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(ctx.world, dim=1)[ctx.rank], None, None
