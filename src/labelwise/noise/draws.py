"""Uniform numbers keyed by (seed, purpose, sample id): no row order, no history.

A 64-bit counter-based hash: each id becomes a 64-bit word, and SplitMix64's finaliser (Steele, Lea
and Flood, OOPSLA 2014, `doi:10.1145/2660193.2660195`) mixes it with the hash of seed and purpose.
A sample's draw is therefore the same in whatever order or subset of the data it is asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelwise import rng

_GOLDEN = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
_FIRST = np.array([0xBF58476D1CE4E5B9], dtype=np.uint64)
_SECOND = np.array([0x94D049BB133111EB], dtype=np.uint64)


def _mix(words: np.ndarray) -> np.ndarray:
    """One SplitMix64 step for every word (N) uint64: increment, then finalise."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


def id_words(ids: np.ndarray) -> np.ndarray:
    """Turn ids (N), integers or text, into 64-bit words (N) uint64.

    Integers of any width are taken as they are; anything else is hashed (blake2b) as text.
    """
    values = np.asarray(ids.tolist()) if ids.dtype == object else ids
    if values.dtype.kind in "iu":
        return values.astype(np.int64).view(np.uint64)
    hashed = b"".join(
        hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in values.tolist()
    )
    return np.frombuffer(hashed, dtype="<u8").astype(np.uint64)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one noise process on one data set.

    Args:
        words: one 64-bit word per sample (N) uint64, from `id_words`.
        seed: seed of the corruption.
        name: name of the process; two processes draw independently of each other.

    The rate is not part of the key: at one seed, the labels that a higher rate leaves alone are
    left alone at a lower rate too, which makes comparisons between rates less noisy.
    """

    words: np.ndarray
    seed: int
    name: str

    def uniform(self, purpose: str) -> Tensor:
        """Uniform float64 numbers (N) in [0, 1), one per sample."""
        position = np.array([rng.key(self.seed, self.name, purpose)], dtype=np.uint64)
        mixed = _mix(_mix(self.words) ^ _mix(position))
        return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def integers(self, purpose: str, high: int) -> Tensor:
        """Uniform integers (N) int64 in [0, high), one per sample."""
        return (self.uniform(purpose) * high).long().clamp_max(high - 1)

    def seed_of(self, purpose: str, part: int) -> int:
        """A 63-bit seed for a library's own generator, that belongs to no sample."""
        return rng.key(self.seed, self.name, purpose, part)

    def normal(self, purpose: str, part: int, *shape: int) -> Tensor:
        """Standard normal float64 numbers (*shape) that belong to no sample."""
        generator = np.random.default_rng(self.seed_of(purpose, part))
        return torch.from_numpy(generator.standard_normal(shape))
