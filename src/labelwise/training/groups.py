"""A group: one side of a batch, with the views that are learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

View = tuple[Tensor, Tensor]
"""One view of a group: network input (B, *S) and soft target (B, K)."""


@dataclass(frozen=True)
class Group:
    """One side of a batch.

    Args:
        index: row numbers (B) int64 in the data set.
        label: given labels (B) int64.
        clean: P(given label is right) (B), from the ledger; ones before it was ever estimated.
        anchor: unaugmented inputs (B, *S).
        views: the inputs to learn from, each with its soft target. Any number of them: a wrapper
            may append some, so no step may count on how many there are.
        kept: what a wrapper's `views` hands to its own `loss`, by the wrapper's name.
    """

    index: Tensor
    label: Tensor
    clean: Tensor
    anchor: Tensor
    views: tuple[View, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)

    def keeping(self, name: str, value: Any) -> Group:
        """Return the group with something handed from `views` to `loss`."""
        return replace(self, kept={**self.kept, name: value})

    def adding(self, *views: View) -> Group:
        """Return the group with further views."""
        return replace(self, views=(*self.views, *views))

    @property
    def inputs(self) -> Tensor:
        """All views' inputs (V·B, *S), view by view."""
        return torch.cat([inputs for inputs, _ in self.views])

    @property
    def targets(self) -> Tensor:
        """All views' soft targets (V·B, K), view by view."""
        return torch.cat([target for _, target in self.views])


Groups = Mapping[str, Group]


def add_views(groups: Groups, added: Mapping[str, Sequence[View]]) -> dict[str, Group]:
    """Return the groups with `added[side]` appended to each side's views."""
    return {side: group.adding(*added.get(side, ())) for side, group in groups.items()}
