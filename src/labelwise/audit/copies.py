"""Near-duplicate samples with different labels, as pairs for the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelwise.audit.cards import THUMBNAIL, data_uri
from labelwise.audit.run_files import RunFiles

BUDGET = 500_000
"""Characters of pictures in all pairs; the page stops adding pairs there."""
MOST = 100
"""Pairs at most."""
SAME = 1 - 1e-6


@dataclass(frozen=True)
class Side:
    """One of two samples: id, given label, P(given label is right), picture (or None)."""

    id: str
    label: str
    quality: float
    picture: str | None


@dataclass(frozen=True)
class Copies:
    """Two samples that look alike and carry different labels.

    Args:
        sides: the two samples.
        similarity: at most 1.
    """

    sides: tuple[Side, Side]
    similarity: float

    @property
    def same(self) -> bool:
        """Whether they are equal."""
        return self.similarity >= SAME


def build_copies(run: RunFiles) -> list[Copies] | None:
    """The pairs of `evidence["duplicates"]`, most similar first; None where nobody looked."""
    if not run.has("duplicates", "duplicate_similarity"):
        return None
    rows = run.arrays["duplicates"].astype(np.int64)[:MOST]
    labels, classes = run.labels, run.classes
    ids = labels.texts("id", rows.reshape(-1))
    pictures = run.arrays.get("duplicate_images")
    found: list[Copies] = []
    spent = 0
    for place, pair in enumerate(rows):
        sides = []
        for side, row in enumerate(pair):
            picture = None
            if pictures is not None and place < len(pictures):
                picture = data_uri(pictures[place, side], THUMBNAIL)
                spent += len(picture)
            label = classes[labels.given[row]]
            sides.append(Side(ids[2 * place + side], label, float(labels.quality[row]), picture))
        if spent > BUDGET and found:
            break
        similarity = float(run.arrays["duplicate_similarity"][place])
        found.append(Copies((sides[0], sides[1]), similarity))
    return found
