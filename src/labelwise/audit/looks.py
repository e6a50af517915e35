"""The report's section on what the network looks at: pictures of doubtful and of sure samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelwise.audit.cards import data_uri, true_name
from labelwise.audit.focus import Focus, focus_figure
from labelwise.audit.masks import SIDE, SURE
from labelwise.audit.run_files import RunFiles
from labelwise.augment.masking import COARSE
from labelwise.errors import UserError
from labelwise.training.folder import RunFolder

COLOURS = "inferno"
"""Perceptually uniform, dark where nothing is: as good in print and for the colour-blind."""
VISIBLE = 0.2
"""Share of the image in the heat picture."""
BUDGET = 450_000
"""Characters of pictures in all pairs; the page stops adding pairs there."""
ARRAYS = ("rows", "kinds", "pictures", "maps", "boxes", "grid")
TITLES = {
    "image": ("image", ""),
    "hot": ("hot covered", "with a box over the place that it responds to most"),
    "cold": ("cold covered", "with a box over the place that it responds to least"),
    "random": ("masked", "with a box at a random place"),
    "rebuilt": ("rebuilt", "as the network rebuilds it from the masked copy"),
}
"""What a kind of picture is called, and what it is, in words."""
COVERED = {
    frozenset(
        {"hot", "cold"}
    ): "the most active place in a copy of the image, or over the least active one",
    frozenset({"hot"}): "the most active place in a copy of the image",
    frozenset({"cold"}): "the least active place in a copy of the image",
    frozenset({"random"}): "a place drawn at random in a copy of the image",
}
"""What copies of these kinds cover; the first that fits. Whether training covers both places, each
in a copy of its own, or one that is drawn, is left open: it depends on the views of each step."""
REASONS = {
    "coarse": ", because the activation map is too coarse to say where",
    "flat": ", because the activation map is everywhere the same",
}
"""Why places are random, by `masks_places`, where the settings do not ask for it."""


@dataclass(frozen=True)
class Picture:
    """One picture of a sample.

    Args:
        title: what is written below it.
        uri: data URI.
        alt: the picture in words.
        box: top, left, height and width of what is covered, in percent; None where nothing is.
    """

    title: str
    uri: str
    alt: str
    box: tuple[float, ...] | None = None

    @property
    def covered(self) -> float:
        """Covered share of the image."""
        return 0.0 if self.box is None else self.box[2] * self.box[3] / 1e4


@dataclass(frozen=True)
class Looked:
    """A sample with its pictures: id, given label, quality, true label (where known)."""

    id: str
    given: str
    quality: float
    truth: str | None
    right: bool | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Looks:
    """What the section shows.

    Args:
        pairs: a doubtful sample and, where there is one, a sure one with the same given label.
        kinds: which pictures there are, by name as in `TITLES`.
        covered: what the masked copies cover, in words; "" where there are none.
        places: how the places of the boxes are found (`labelwise.audit.masks.places_of`).
        adaptive: whether they cover more where the label is doubtful.
        grid: rows and columns of the activation map.
        gradient: colours of the heat from none to the strongest, as CSS.
        sure: quality from which a sample may stand beside a doubtful one.
        focus: the figure; None where maps are too coarse or a group is too small.
    """

    pairs: tuple[tuple[Looked, Looked | None], ...]
    kinds: tuple[str, ...]
    covered: str
    places: str
    adaptive: bool
    grid: tuple[int, int]
    gradient: str
    focus: Focus | None
    sure: float = SURE

    @property
    def coarse(self) -> bool:
        """Whether the activation map says only roughly where."""
        return min(self.grid) < COARSE


def build_looks(run: RunFiles) -> Looks | None:
    """The pairs of `evidence["masks_rows"]`; None for a run whose method does not mask.

    Raises:
        UserError: the arrays do not fit each other or the labels.
    """
    if not run.has(*(f"masks_{name}" for name in ARRAYS)):
        return None
    _check(run)
    kinds = tuple(str(name) for name in run.arrays["masks_kinds"])
    rows, columns = (int(side) for side in run.arrays["masks_grid"])
    pairs: list[tuple[Looked, Looked | None]] = []
    spent = 0
    for place, (_, partner) in enumerate(run.arrays["masks_rows"]):
        doubtful = _looked(run, place, 0, kinds)
        sure = _looked(run, place, 1, kinds) if partner >= 0 else None
        shown = (doubtful, sure) if sure else (doubtful,)
        spent += sum(len(picture.uri) for sample in shown for picture in sample.pictures)
        if spent > BUDGET and pairs:
            break
        pairs.append((doubtful, sure))
    covered = next((words for names, words in COVERED.items() if names <= set(kinds)), "")
    places = str(run.arrays.get("masks_places", ""))
    return Looks(
        pairs=tuple(pairs),
        kinds=kinds,
        covered=covered + REASONS.get(places, "") if covered else "",
        places=places,
        adaptive=str(run.arrays.get("masks_ratio", "")) == "adaptive",
        grid=(rows, columns),
        gradient=_gradient(),
        focus=focus_figure(run),
    )


def _check(run: RunFiles) -> None:
    """Raise a `UserError` unless the arrays of the masks fit each other and the labels."""
    arrays = {name: run.arrays[f"masks_{name}"] for name in ARRAYS}
    rows, pictures, boxes = (arrays[name] for name in ("rows", "pictures", "boxes"))
    focus, focus_rows = (run.arrays.get(f"masks_{name}") for name in ("focus", "focus_rows"))
    number = len(rows)
    fits = {
        "rows": rows.shape == (number, 2) and _inside(rows[:, :1], 0, run),
        "rows[:, 1]": rows.shape == (number, 2) and _inside(rows[:, 1:], -1, run),
        "kinds": pictures.ndim == 6 and pictures.shape[:3] == (number, 2, len(arrays["kinds"])),
        "maps": arrays["maps"].shape == (number, 2, *pictures.shape[-2:]),
        "boxes": boxes.ndim == 4 and boxes.shape[:2] == (number, 2) and boxes.shape[3] == 4,
        "grid": arrays["grid"].shape == (2,),
    }
    if focus is not None and focus_rows is not None:
        fits["focus"] = focus.shape == focus_rows.shape and _inside(focus_rows, 0, run)
    for name, right in fits.items():
        if not right:
            raise UserError(
                f"{RunFolder(run.path).evidence} is broken: masks_{name} does not fit the other "
                f"arrays or labels.parquet. Remove it and `labelwise resume {run.path}`, or run "
                "again."
            )


def _inside(rows: np.ndarray, low: int, run: RunFiles) -> bool:
    """Whether these are rows of the labels; -1 counts as one where `low` is -1."""
    return bool(((rows >= low) & (rows < len(run.labels))).all())


def _looked(run: RunFiles, place: int, side: int, kinds: Sequence[str]) -> Looked:
    """One sample of a pair with all its pictures."""
    labels = run.labels
    row = int(run.arrays["masks_rows"][place, side])
    pictures = run.arrays["masks_pictures"][place, side]
    boxes = iter(run.arrays["masks_boxes"][place, side])
    name = labels.texts("id", np.array([row]))[0]
    truth = None if labels.truth is None else int(labels.truth[row])
    found = []
    for kind, pixels in zip(kinds, pictures, strict=True):
        title, words = TITLES.get(kind, (kind, kind))
        box = None if kind in ("image", "rebuilt") else _percent(next(boxes, None))
        alt = f"sample {name} {words}".strip()
        found.append(Picture(title, data_uri(pixels, SIDE), alt, box))
        if kind == "image":
            heat = heat_picture(pixels, run.arrays["masks_maps"][place, side])
            alt = f"where the network responds to sample {name}: {_strongest(run, place, side)}"
            found.append(Picture("activation", data_uri(heat, SIDE), alt))
    given = int(labels.given[row])
    return Looked(
        id=name,
        given=run.classes[given],
        quality=float(labels.quality[row]),
        truth=None if truth is None else true_name(truth, run.classes),
        right=None if truth is None else truth == given,
        pictures=tuple(found),
    )


def _percent(box: np.ndarray | None) -> tuple[float, ...] | None:
    if box is None or not box[2:].all():
        return None
    return tuple(round(100 * float(side), 2) for side in box)


def _strongest(run: RunFiles, place: int, side: int) -> str:
    """Where the activation is largest, in words."""
    heat = run.arrays["masks_maps"][place, side]
    if heat.min() == heat.max():
        return "everywhere alike"
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    down = ("top", "middle", "bottom")[3 * int(row) // heat.shape[0]]
    across = ("left", "centre", "right")[3 * int(column) // heat.shape[1]]
    return f"most at the {down} {across}"


def heat_picture(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The activation in colours over the image in grey, (3, H, W) uint8.

    Args:
        image: (C, H, W) uint8, one or three channels.
        heat: activation (H, W) uint8.
    """
    from matplotlib import colormaps

    colours = colormaps[COLOURS](heat / 255.0)[..., :3].transpose(2, 0, 1)
    mixed = VISIBLE * image.astype(float).mean(0) / 255 + (1 - VISIBLE) * colours
    return np.asarray((255 * mixed).round(), dtype=np.uint8)


def _gradient() -> str:
    """The colours of `heat_picture` over a mid-grey image, from none to the strongest, as CSS."""
    steps = np.linspace(0, 255, 9)[None].astype(np.uint8)
    colours = heat_picture(np.full((1, 1, 9), 128, dtype=np.uint8), steps)[:, 0].T
    return ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours.tolist())
