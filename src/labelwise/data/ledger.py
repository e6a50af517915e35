"""The ledger: everything remembered per sample, as named columns that declare their own merge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Merge = Literal["owner", "sum", "max"]


class OverRanks(Protocol):
    """Combine a tensor over all processes (the identity for one process)."""

    def __call__(self, value: Tensor) -> Tensor:
        """Return the combination, equal on every process."""


@dataclass(frozen=True)
class Column:
    """One named column of shape (P, N, *shape).

    Args:
        name: column name.
        dtype: element type.
        shape: trailing shape per sample; () for a scalar.
        merge: how ranks combine what they wrote since the last merge. "owner": each row is
            written by one rank, whose value wins; "sum": the increments of all ranks are added;
            "max": the largest value wins.
        initial: value before anything is written.
    """

    name: str
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = ()
    merge: Merge = "owner"
    initial: float = 0.0


class Ledger:
    """Columns (P, N, ...) on the device, with P peers and N samples, and named decisions.

    Decisions are single numbers that a method takes on the way (the predicted noise rate, the
    weight chosen from it). They live here, not in an attribute, so that they survive a resume.

    Args:
        columns: what to remember.
        num_peers: P.
        num_samples: N.
        device: where the columns live.
        shared: whether several processes write; one alone has nothing to merge.
    """

    def __init__(
        self,
        columns: Iterable[Column],
        num_peers: int,
        num_samples: int,
        device: torch.device,
        shared: bool = True,
    ) -> None:
        self.shared = shared
        self.declared = {column.name: column for column in columns}
        self.columns: dict[str, Tensor] = {
            column.name: torch.full(
                (num_peers, num_samples, *column.shape),
                column.initial,
                dtype=column.dtype,
                device=device,
            )
            for column in self.declared.values()
        }
        self.decisions: dict[str, float] = {}
        self._written: dict[str, Tensor] = {}
        self._base: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The whole column (P, N, ...). Read it; write through `write`."""
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def write(self, name: str, peer: int, index: Tensor, values: Tensor) -> None:
        """Set the rows `index` (B) of one peer's column to `values` (B, ...)."""
        self._open(name)
        self.columns[name][peer].index_copy_(0, index, values.to(self.columns[name].dtype))
        if self.shared:
            self._written[name][peer].index_fill_(0, index, True)

    def add(self, name: str, peer: int, index: Tensor, values: Tensor) -> None:
        """Add `values` (B, ...) to the rows `index` (B) of one peer's column of merge "sum"."""
        assert self.declared[name].merge == "sum", f"{name!r} does not sum over ranks"
        self._open(name)
        self.columns[name][peer].index_add_(0, index, values.to(self.columns[name].dtype))

    def set(self, name: str, peer: int, values: Tensor) -> None:
        """Replace one peer's whole column by `values` (N, ...) that every rank has alike."""
        self.columns[name][peer].copy_(values)

    def _open(self, name: str) -> None:
        if self.shared and name not in self._written:
            column = self.columns[name]
            self._written[name] = torch.zeros(
                column.shape[:2], dtype=torch.bool, device=column.device
            )
            if self.declared[name].merge == "sum":
                self._base[name] = column.clone()

    def merge(self, world: int, total: OverRanks, largest: OverRanks | None = None) -> None:
        """Combine what each rank wrote since the last merge, by each column's rule.

        Args:
            world: number of processes; with one there is nothing to do.
            total: adds a tensor over the processes. "owner" rows are exact, since every other
                rank contributes zeros.
            largest: takes the maximum over the processes, for columns of merge "max".
        """
        if world > 1:
            assert self.shared, "this ledger was made for one process"
            for name in sorted(self._written):
                self.columns[name] = self._merged(name, total, largest)
        self._written.clear()
        self._base.clear()

    def _merged(self, name: str, total: OverRanks, largest: OverRanks | None) -> Tensor:
        column, rule = self.columns[name], self.declared[name].merge
        wide = torch.float64 if column.dtype.is_floating_point else torch.int64
        if rule == "sum":
            return self._base[name] + total((column - self._base[name]).to(wide)).to(column.dtype)
        if rule == "max":
            assert largest is not None, f"nothing takes the maximum of {name!r}"
            return largest(column)
        written = self._written[name]
        mask = written.reshape(*written.shape, *(1,) * (column.ndim - 2))
        if rule == "owner":
            value = total(torch.where(mask, column, torch.zeros_like(column)).to(wide))
            anywhere = total(mask.to(torch.int64)) > 0
            return torch.where(anywhere, value.to(column.dtype), column)
        raise AssertionError(f"merge rule {rule!r} of column {name!r}")

    def state_dict(self) -> dict[str, Any]:
        """Columns and decisions, for a checkpoint."""
        return {"columns": self.columns, "decisions": dict(self.decisions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, onto this ledger's device."""
        assert state["columns"].keys() == self.columns.keys(), "the checkpoint has other columns"
        for name, column in self.columns.items():
            column.copy_(state["columns"][name])
        self.decisions = dict(state["decisions"])
        self._written.clear()
        self._base.clear()
