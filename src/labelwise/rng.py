"""Randomness keyed by position, never by history.

Every random number is drawn from a generator whose seed is a hash of *where* it is needed
(seed, epoch, phase, step, purpose). Nothing random is saved in a checkpoint: a resumed run asks
for the same position and draws what the uninterrupted run would have drawn.

Draws that belong to samples are made for the **global** batch and each rank keeps its own rows,
so the number of processes changes no draw.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """Hash a position to a 63-bit seed; equal on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Draw:
    """All the randomness of one position.

    Args:
        seed: the run's seed.
        epoch: epoch number, 0-based.
        phase: name of the phase.
        step: step within the phase, 0-based.
        rank: this process's number among `world`.
        world: number of processes that share the batch.
        device: where the drawn tensors live.

    A *purpose* names the use ("weak/0/crop"); asking twice for one purpose at one position gives
    the same numbers, so two uses must have two names (see `within`).
    """

    seed: int
    epoch: int = 0
    phase: str = ""
    step: int = 0
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    prefix: str = ""

    def at(self, *, epoch: int | None = None, phase: str | None = None, step: int = 0) -> Draw:
        """Return the draws of another position of the same run."""
        return replace(
            self,
            epoch=self.epoch if epoch is None else epoch,
            phase=self.phase if phase is None else phase,
            step=step,
        )

    def within(self, name: str) -> Draw:
        """Return a draw whose purposes are all prefixed, so that two callers never collide."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def seed_for(self, purpose: str) -> int:
        """The seed of one purpose at this position (the same on every rank)."""
        return key(self.seed, self.epoch, self.phase, self.step, self.prefix + purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """A torch generator on `device`, the same on every rank."""
        return torch.Generator(self.device).manual_seed(self.seed_for(purpose))

    def numpy(self, purpose: str) -> np.random.Generator:
        """A NumPy generator for host-side draws, the same on every rank."""
        return np.random.default_rng(self.seed_for(purpose))

    def uniform(
        self, purpose: str, rows: int, *shape: int, low: float = 0.0, high: float = 1.0
    ) -> Tensor:
        """Uniform floats (rows, *shape) in [low, high): this rank's rows of the global batch."""
        whole = torch.rand(
            (rows * self.world, *shape), generator=self.generator(purpose), device=self.device
        )
        return self.own_rows(whole) * (high - low) + low

    def normal(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """Standard normal floats (rows, *shape): this rank's rows of the global batch."""
        whole = torch.randn(
            (rows * self.world, *shape), generator=self.generator(purpose), device=self.device
        )
        return self.own_rows(whole)

    def integers(self, purpose: str, rows: int, *shape: int, low: int, high: int) -> Tensor:
        """Integers (rows, *shape) in [low, high): this rank's rows of the global batch."""
        generator = self.generator(purpose)
        size = (rows * self.world, *shape)
        return self.own_rows(
            torch.randint(low, high, size, generator=generator, device=self.device)
        )

    def shared_integers(self, purpose: str, count: int, high: int) -> Tensor:
        """Integers (count) in [0, high), the same on every rank."""
        generator = self.generator(purpose)
        return torch.randint(high, (count,), generator=generator, device=self.device)

    def own_rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of something made for the global batch: every `world`-th row."""
        return whole if self.world == 1 else whole[self.rank :: self.world]

    def permutation(self, purpose: str, count: int) -> Tensor:
        """A permutation of `count` items (int64), the same on every rank."""
        return torch.randperm(count, generator=self.generator(purpose), device=self.device)

    def beta(self, purpose: str, a: float, b: float) -> float:
        """One Beta(a, b) number, drawn on the host (no device synchronisation)."""
        return float(self.numpy(purpose).beta(a, b))

    @contextmanager
    def forked(self, purpose: str) -> Iterator[None]:
        """Seed the *global* generators from this position, and restore them afterwards.

        For libraries that cannot be handed a generator (kornia, torch.nn.init).
        """
        seed = self.seed_for(purpose)
        python, numpy = random.getstate(), np.random.get_state()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)
