"""Methods one after the other in one run: pre-training first, then the method itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from labelwise.augment.masking import Masker
from labelwise.config import Schedule
from labelwise.data.ledger import Column
from labelwise.models.heads import HeadSpec
from labelwise.models.network import Network
from labelwise.training.method import Method, Phase, Problem


class Chain(Method):
    """Several methods that share networks and ledger, each with its own schedule.

    The loop counts epochs over the whole chain; a part sees only its own, from 0. Where a part
    begins the optimisers are new, the networks are as the part before left them.

    Args:
        parts: at least one, in order; the last is the method of the run, whose name, settings and
            schedule the chain shows as its own.
    """

    name = "chain"

    def __init__(self, *parts: Method) -> None:
        assert parts, "a chain without parts"
        assert not any(isinstance(part, Chain) for part in parts), "a chain in a chain"
        super().__init__()
        self.parts = parts

    @property
    def main(self) -> Method:
        """The last part: the method of the run."""
        return self.parts[-1]

    @property
    def spec(self) -> str:
        """The main method's."""
        return self.main.spec

    @property
    def num_peers(self) -> int:
        """As many as the part with the most networks trains."""
        return max(part.num_peers for part in self.parts)

    @property
    def num_epochs(self) -> int:
        """Epochs of all parts."""
        return sum(part.schedule.epochs for part in self.parts)

    @property
    def rows_per_step(self) -> int:
        """Rows of the largest forward with gradient of any part."""
        return max(part.rows_per_step for part in self.parts)

    def part_at(self, epoch: int) -> tuple[Method, int]:
        """The part that an epoch of the chain belongs to, and the epoch as that part counts."""
        for part in self.parts[:-1]:
            if epoch < part.schedule.epochs:
                return part, epoch
            epoch -= part.schedule.epochs
        return self.main, epoch

    def columns(self) -> tuple[Column, ...]:
        """Every column that any part needs, once."""
        found: dict[str, Column] = {}
        for part in self.parts:
            for column in part.columns():
                held = found.setdefault(column.name, column)
                assert held == column, f"two parts declare the column {column.name!r} differently"
        return tuple(found.values())

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """Every head that any part needs, once."""
        found: dict[str, nn.Module] = {}
        for part in self.parts:
            for name, head in part.heads(spec).items():
                found.setdefault(name, head)
        return found

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """The further modules of all parts."""
        return {name: m for part in self.parts for name, m in part.extras(network).items()}

    def shows_masks(self) -> Masker | None:
        """As the main method masks them, if it does."""
        return self.main.shows_masks()

    def default_schedule(self, problem: Problem) -> Schedule:
        """The main method's."""
        return self.main.default_schedule(problem)

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Bind every part; what the user set of the schedule is for the main method."""
        for part in self.parts[:-1]:
            part.bind(problem)
        self.main.bind(problem, overrides)
        self.schedule = self.main.schedule
        return self

    def adopt(self, schedule: Schedule) -> None:
        """Give a schedule to the main method."""
        self.schedule = schedule
        self.main.adopt(schedule)

    def phases(self, epoch: int) -> list[Phase]:
        """The phases of the part that the epoch belongs to."""
        part, own = self.part_at(epoch)
        return part.phases(own)
