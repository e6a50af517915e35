"""What a Step or Pass may see and use: networks, samples, ledger, randomness, other ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.augment.view import View
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.errors import unknown
from labelwise.models.modes import evaluating
from labelwise.models.network import Outputs
from labelwise.rng import Draw
from labelwise.training.groups import Group
from labelwise.training.ranks import Ranks


@dataclass(frozen=True)
class Context:
    """Everything a step works with. It holds no truth and no test data.

    Args:
        networks: the P networks, as wrapped by the engine; call them through `forward`.
        plain: the same networks without the wrapper, for passes without gradient: a wrapper
            synchronises on every call, and ranks may score different numbers of blocks.
        autocast: the engine's precision, for `plain`.
        store: the training inputs and given labels.
        ledger: what is remembered per sample.
        views: view policies by name, built for this data.
        draw: randomness of this position.
        ranks: the other processes.
        epoch: epoch number, 0-based.
        num_epochs: epochs of the whole run.
        trains: numbers of the networks that learn in this phase.
        say: tells the user something once ("λ_u = 25, from an estimated noise rate of 0.52").
        extras: the method's further modules by name.
        progress: shows how far a long pass has come, as (done, of how many).
        eval_batch: batch size of passes without gradient.
    """

    networks: tuple[nn.Module, ...]
    plain: tuple[nn.Module, ...]
    autocast: Callable[[], AbstractContextManager[Any]]
    store: Store
    ledger: Ledger
    views: Mapping[str, View]
    draw: Draw
    ranks: Ranks
    epoch: int
    num_epochs: int
    trains: tuple[int, ...]
    say: Callable[[str], None]
    extras: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    progress: Callable[[int, int], None] = lambda done, total: None
    eval_batch: int = 1024

    @property
    def num_classes(self) -> int:
        """K."""
        return self.store.num_classes

    @property
    def learner(self) -> int:
        """The number of the one network that learns in this phase."""
        assert len(self.trains) == 1, "the phase trains several networks"
        return self.trains[0]

    @property
    def peer(self) -> int:
        """The number of the other network in co-training (itself when there is only one)."""
        return (self.learner + 1) % len(self.networks)

    def suffix(self, number: int) -> str:
        """What ends the name of a figure of network `number`, where there are several."""
        return f"_{number}" if len(self.networks) > 1 else ""

    def at_step(self, step: int) -> Context:
        """The same phase at another step."""
        return replace(self, draw=replace(self.draw, step=step))

    def view(self, group: Group, name: str, purpose: str) -> Tensor:
        """Make one augmented view (B, *S) of a group's samples.

        Args:
            group: whose samples.
            name: a view policy ("plain", "weak", "strong", …).
            purpose: names the draw; two views of one side need two purposes.
        """
        if name not in self.views:
            raise unknown("view policy", name, self.views)
        return self.views[name](self.store.rows(group.index), self.draw.within(purpose))

    def forward(
        self,
        number: int,
        inputs: Tensor,
        heads: Iterable[str] = ("classes",),
        rows: Mapping[str, Tensor] | None = None,
    ) -> Outputs:
        """Run network `number` with gradient, in the mode that the phase gave it.

        Args:
            number: of the network.
            inputs: (B, *S).
            heads: the outputs that are wanted.
            rows: for heads that are to run on some rows only (`Network.forward`).
        """
        outputs: Outputs = self.networks[number](inputs, heads=tuple(heads), rows=rows)
        return outputs

    def logits(self, number: int, inputs: Tensor) -> Tensor:
        """Class logits (B, K) of network `number`, with gradient if it is enabled."""
        return self.forward(number, inputs)["classes"]

    def guess(self, number: int, inputs: Tensor) -> Tensor:
        """Class probabilities (B, K) of network `number`, without gradient."""
        with torch.no_grad():
            return self.logits(number, inputs).softmax(dim=1)

    def score_blocks(
        self, number: int, heads: Iterable[str] = ("classes",)
    ) -> Iterator[tuple[Tensor, Outputs]]:
        """Run network `number` in eval mode on this rank's unaugmented samples, in blocks.

        Yields:
            Row numbers (B) and the outputs asked for.
        """
        network = self.plain[number]
        with evaluating([network]):
            for index in self.store.blocks(self.eval_batch, self.ranks.rank, self.ranks.world):
                with torch.no_grad(), self.autocast():
                    outputs: Outputs = network(self.store.plain(index), heads=tuple(heads))
                yield index, outputs
