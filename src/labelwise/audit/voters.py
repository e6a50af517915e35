"""Corrected samples as cards, with the anchors that voted on each and where those come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelwise.audit.cards import data_uri, true_name
from labelwise.audit.hardness import SIDE, SMALL_SIDE
from labelwise.audit.run_files import RunFiles

BUDGET = 600_000
"""Characters of pictures on all cards; the page stops adding cards there."""
ARRAYS = (
    "hardness_trust",
    "hardness_rows",
    "hardness_voters",
    "hardness_near",
    "hardness_far",
    "hardness_near_labels",
    "hardness_far_labels",
    "hardness_closeness",
    "hardness_similarity",
)


@dataclass(frozen=True)
class Origin:
    """An easy sample that an anchor comes from: id, label and picture (or None)."""

    id: str
    label: str
    picture: str | None


@dataclass(frozen=True)
class Vote:
    """An anchor that voted.

    Args:
        near: the easy sample whose class it has.
        far: its partner; None for an easy sample that votes itself.
        closeness: λ_p.
        similarity: cosine similarity to the sample.
        agrees: whether it voted for the label that was taken.
    """

    near: Origin
    far: Origin | None
    closeness: float
    similarity: float
    agrees: bool


@dataclass(frozen=True)
class Correction:
    """A hard sample with the anchors that voted on it.

    Args:
        id: the sample's id.
        given: given label.
        label: the label that was taken.
        votes_for: anchors that voted for it.
        voters: anchors that voted.
        truth: true label, where known.
        right: whether the label that was taken is the true one.
        picture: data URI, or None without images.
        votes: the most similar anchors.
    """

    id: str
    given: str
    label: str
    votes_for: int
    voters: int
    truth: str | None
    right: bool | None
    picture: str | None
    votes: tuple[Vote, ...]

    @property
    def changed(self) -> bool:
        """Whether the vote replaced the label."""
        return self.given != self.label

    @property
    def alt(self) -> str:
        """The picture in words."""
        done = f"corrected to {self.label}" if self.changed else "confirmed"
        return f"sample {self.id}: labelled {self.given}, {done}"


def build_corrections(run: RunFiles) -> tuple[Correction, ...]:
    """The cards of `evidence["hardness_rows"]`, as many as `BUDGET` allows."""
    if not run.has(*ARRAYS):
        return ()
    rows = run.arrays["hardness_rows"].astype(np.int64)
    origins = _Origins(run)
    found: list[Correction] = []
    spent = 0
    for place in range(len(rows)):
        card = _card(run, place, int(rows[place]), origins)
        pictures = [card.picture]
        for vote in card.votes:
            pictures += [vote.near.picture, vote.far.picture if vote.far else None]
        spent += sum(len(uri) for uri in pictures if uri)
        if spent > BUDGET and found:
            break
        found.append(card)
    return tuple(found)


def _card(run: RunFiles, place: int, row: int, origins: _Origins) -> Correction:
    arrays, labels, classes = run.arrays, run.labels, run.classes
    taken = int(arrays["hardness_target"][row])
    voters = int(arrays["hardness_voters"][place])
    truth = None if labels.truth is None else int(labels.truth[row])
    votes = []
    for column in np.flatnonzero(arrays["hardness_near"][place] >= 0).tolist():
        label = int(arrays["hardness_near_labels"][place, column])
        votes.append(
            Vote(
                near=origins.of("near", place, column),
                far=origins.of("far", place, column)
                if arrays["hardness_far"][place, column] >= 0
                else None,
                closeness=float(arrays["hardness_closeness"][place, column]),
                similarity=float(arrays["hardness_similarity"][place, column]),
                agrees=label == taken,
            )
        )
    picture = None
    if run.has("hardness_images"):
        picture = data_uri(arrays["hardness_images"][place], SIDE)
    return Correction(
        id=labels.texts("id", np.array([row]))[0],
        given=classes[labels.given[row]],
        label=classes[taken],
        votes_for=round(float(arrays["hardness_trust"][row]) * voters),
        voters=voters,
        truth=None if truth is None else true_name(truth, classes),
        right=None if truth is None else truth == taken,
        picture=picture,
        votes=tuple(votes),
    )


class _Origins:
    """The easy samples behind the anchors, with all texts read and pictures encoded once.

    Args:
        run: the run folder's content.
    """

    def __init__(self, run: RunFiles) -> None:
        self.run = run
        both = np.concatenate([run.arrays["hardness_near"], run.arrays["hardness_far"]])
        rows = np.unique(both[both >= 0]).astype(np.int64)
        self.ids = dict(zip(rows.tolist(), run.labels.texts("id", rows), strict=True))
        held = run.arrays.get("hardness_voter_rows", np.empty(0, dtype=np.int64))
        self.places = {row: place for place, row in enumerate(held.tolist())}
        self.pictures: dict[int, str] = {}

    def of(self, side: str, place: int, column: int) -> Origin:
        """The sample on one side of an anchor of the card at `place`."""
        row = int(self.run.arrays[f"hardness_{side}"][place, column])
        label = int(self.run.arrays[f"hardness_{side}_labels"][place, column])
        return Origin(self.ids[row], self.run.classes[label], self._picture(row))

    def _picture(self, row: int) -> str | None:
        if row not in self.places or not self.run.has("hardness_voter_images"):
            return None
        if row not in self.pictures:
            pixels = self.run.arrays["hardness_voter_images"][self.places[row]]
            self.pictures[row] = data_uri(pixels, SMALL_SIDE)
        return self.pictures[row]
