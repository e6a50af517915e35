"""The most doubtful labels as cards, with pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelwise.audit.run_files import RunFiles
from labelwise.data.dataset import NO_CLASS

PICTURE = 128
"""Largest side of a card's picture, pixels; larger images are reduced."""
THUMBNAIL = 64
"""Largest side of a neighbour's picture, pixels."""
SMALL = 48
"""Images up to this side are shown with their pixels, as lossless PNG."""
BUDGET = 2_200_000
"""Characters of pictures on all cards; the page stops adding cards there, but shows `AT_LEAST`."""
AT_LEAST = 24

NO_CLASS_NAME = "none of the classes"


@dataclass(frozen=True)
class Neighbour:
    """A similar sample.

    Args:
        id: its id.
        label: its given label.
        similarity: cosine similarity in feature space.
        agrees: "given" or "suggested", whichever label of the card it carries, or "".
        picture: data URI, or None without images.
    """

    id: str
    label: str
    similarity: float
    agrees: str
    picture: str | None


@dataclass(frozen=True)
class Bar:
    """One kind of evidence: its name, and its value in [0, 1] (1 speaks for the given label)."""

    name: str
    value: float


@dataclass(frozen=True)
class Card:
    """One doubtful label.

    Args:
        rank: 1 is the most doubtful.
        id: the sample's id.
        given: given label.
        suggested: another label, or None where the networks have no better one.
        quality: P(given label is right).
        confidence: the networks' probability of `suggested` (of `given` where there is none).
        truth: true label, where known.
        right: whether the audit was right about this label; None where truth is not known.
        picture: data URI, or None without images.
        neighbours: most similar first.
        given_class: number of the given label's class.
        suggested_class: number of the suggestion's class, -1 without one.
        bars: what speaks for and against the given label.
    """

    rank: int
    id: str
    given: str
    suggested: str | None
    quality: float
    confidence: float
    truth: str | None
    right: bool | None
    picture: str | None
    neighbours: tuple[Neighbour, ...]
    given_class: int
    suggested_class: int
    bars: tuple[Bar, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        looks = f", looks like {self.suggested}" if self.suggested is not None else ""
        return f"sample {self.id}: labelled {self.given}{looks}"


def build_cards(run: RunFiles) -> list[Card]:
    """The cards of `evidence["worst"]`, worst first, as many as `BUDGET` allows."""
    rows = run.arrays["worst"].astype(np.int64)
    labels, classes = run.labels, run.classes
    ids = labels.texts("id", rows)
    confidence = labels.numbers("suggestion_confidence", rows)
    pictures = run.arrays.get("worst_images")
    near = Neighbourhood(run)
    bars = evidence_bars(run, rows)
    cards: list[Card] = []
    spent = 0
    for place, row in enumerate(rows):
        given, suggested = int(labels.given[row]), int(labels.suggested[row])
        suspect = bool(labels.suspect[row])
        truth = None if labels.truth is None else int(labels.truth[row])
        picture = None if pictures is None else data_uri(pictures[place], PICTURE)
        neighbours = near.of(place, given, suggested if suspect else -1)
        spent += sum(len(uri) for uri in (picture, *(n.picture for n in neighbours)) if uri)
        if spent > BUDGET and len(cards) >= AT_LEAST:
            break
        cards.append(
            Card(
                rank=place + 1,
                id=ids[place],
                given=classes[given],
                suggested=classes[suggested] if suspect else None,
                quality=float(labels.quality[row]),
                confidence=float(confidence[place]),
                truth=None if truth is None else true_name(truth, classes),
                right=None if truth is None else _is_right(truth, suggested, suspect),
                picture=picture,
                neighbours=neighbours,
                given_class=given,
                suggested_class=suggested if suspect else -1,
                bars=bars[place],
            )
        )
    return cards


def true_name(truth: int, classes: Sequence[str]) -> str:
    """The true label in words."""
    return NO_CLASS_NAME if truth == NO_CLASS else classes[truth]


def _is_right(truth: int, suggested: int, suspect: bool) -> bool:
    """Whether the audit was right: no suggestion fits a sample of no class, but doubt does."""
    return suspect if truth == NO_CLASS else truth == suggested


def evidence_bars(run: RunFiles, rows: np.ndarray) -> list[tuple[Bar, ...]]:
    """The kinds of evidence for each of `rows`, those that are not known left out."""
    if not run.has("evidence", "evidence_names"):
        return [()] * len(rows)
    names = [str(name) for name in run.arrays["evidence_names"]]
    values = np.clip(run.arrays["evidence"][rows].astype(float), 0, 1)
    return [
        tuple(Bar(n, float(v)) for n, v in zip(names, line, strict=True) if np.isfinite(v))
        for line in values
    ]


class Neighbourhood:
    """The neighbours of the cards, with all their texts read at once.

    Args:
        run: the run folder's content.
    """

    def __init__(self, run: RunFiles) -> None:
        self.run = run
        self.rows = run.arrays["neighbours"].astype(np.int64)
        self.ids = run.labels.texts("id", self.rows.reshape(-1))
        self.pictures = run.arrays.get("neighbour_images")

    def of(self, place: int, given: int, suggested: int) -> tuple[Neighbour, ...]:
        """Neighbours of the card at `place`, whose classes are `given` and `suggested`."""
        width = self.rows.shape[1]
        roles = {given: "given", suggested: "suggested"}
        found = []
        for column, row in enumerate(self.rows[place]):
            label = int(self.run.labels.given[row])
            picture = None
            if self.pictures is not None:
                picture = data_uri(self.pictures[place, column], THUMBNAIL)
            found.append(
                Neighbour(
                    id=self.ids[place * width + column],
                    label=self.run.classes[label],
                    similarity=float(self.run.arrays["similarity"][place, column]),
                    agrees=roles.get(label, ""),
                    picture=picture,
                )
            )
        return tuple(found)


def data_uri(image: np.ndarray, side: int) -> str:
    """Encode an image (C, H, W) uint8 as a data URI of at most `side` pixels.

    Small images stay lossless; larger ones are photographs and are stored as JPEG. Channels
    beyond three are left out; two are shown as their first.
    """
    from PIL import Image

    channels = image.shape[0]
    pixels = image[:3].transpose(1, 2, 0) if channels >= 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    lossless = max(picture.size) <= SMALL
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="JPEG", quality=88)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
