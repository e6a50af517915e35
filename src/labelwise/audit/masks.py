"""Where a network looks, and what a masking method covers: pictures for the report.

SANM (Tu et al., arXiv 2302.06805), figure 1, shows that a network that has learnt a wrong label
responds to regions that do not matter. So that this can be looked for in any run that masks, each
of the most doubtful samples stands beside one with the same given label that is surely right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.augment.boxes import Boxes
from labelwise.augment.masking import Masked, Masker, activation_map, has_relief
from labelwise.data.store import Store
from labelwise.models.heads import RECONSTRUCTION
from labelwise.models.modes import evaluating
from labelwise.noise.planting import Planted
from labelwise.rng import Draw

PAIRS = 8
"""Doubtful samples that are shown, at most."""
SURE = 0.9
"""Quality from which a label counts as surely right."""
SIDE = 96
"""Larger side of the stored pictures, pixels, at most. Three channels of it are less than the 32
KiB that zlib looks back, so that a masked copy costs next to nothing after its original."""
MEASURED = 4000
"""Samples whose activation maps are measured, at most; they are drawn at random."""
CELLS = 4
"""A map of fewer cells has no quarter to measure."""
BLOCK = 256


def mask_arrays(
    masker: Masker | None,
    network: nn.Module,
    store: Store,
    quality: Tensor,
    worst: Tensor,
    planted: Planted | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Pictures of what a network looks at and of what is covered, for `evidence.npz`.

    Masks are drawn as in training, from the unaugmented image, the map of this one network in eval
    mode, and the label quality as the clean probability. Where training draws one of both boxes
    for an image, both are shown. Planted samples are left out: the network has learnt another
    label there than the one that is judged.

    Args:
        masker: how the run's method masks (`Method.shows_masks`); None gives nothing.
        network: the first trained network.
        store: training inputs and the labels that were trained on (N).
        quality: P(given label is right) (N).
        worst: rows of the most doubtful labels (W), worst first.
        planted: labels made wrong on purpose.
        seed: of the masks and of the samples that are measured.

    Returns:
        Nothing without images. Else, for P pairs of a doubtful and a sure sample with S pictures
        each, of which M are masked copies: `masks_rows` (P, 2) int64, -1 where there is no sure
        one; `masks_kinds` (S) str; `masks_pictures` (P, 2, S, C, h, w) uint8, at most `SIDE`
        pixels and three channels; `masks_maps` (P, 2, h, w) uint8, the activation, 255 where each
        map is largest; `masks_boxes` (P, 2, M, 4) float32: top, left, height and width as shares
        of the image's sides; `masks_grid` (2) int64: rows and columns of the map;
        `masks_ratio` () str: `Masker.ratio`; `masks_places` () str: `places_of`. Where the map has
        at least `CELLS` cells, also `masks_focus_rows` (Q) int64 and their `focus`, `masks_focus`
        (Q) float32.
    """
    if masker is None or store.inputs.ndim != 4:
        return {}
    left_out = torch.zeros(len(store), dtype=torch.bool)
    if planted is not None:
        left_out[planted.rows.cpu()] = True
    rows = choose_pairs(worst.cpu(), quality.cpu(), store.labels.cpu(), left_out)
    if not len(rows):
        return {}
    draw = Draw(seed, phase="report-masks", device=store.device)
    with torch.no_grad(), evaluating([network]):
        arrays = _pictures(masker, network, store, rows, quality, draw)
        if int(arrays["masks_grid"].prod()) >= CELLS:
            kept = (~left_out).nonzero().squeeze(1)
            chosen = np.sort(draw.numpy("measured").permutation(len(kept))[:MEASURED])
            measured = kept[torch.from_numpy(chosen)]
            arrays["masks_focus_rows"] = measured.numpy()
            arrays["masks_focus"] = _focus_of(network, store, measured)
    return arrays


def choose_pairs(
    worst: Tensor, quality: Tensor, labels: Tensor, left_out: Tensor, count: int = PAIRS
) -> Tensor:
    """Each of the most doubtful samples with the surest one of the same given label.

    Args:
        worst: rows of the most doubtful labels (W), worst first.
        quality: P(given label is right) (N).
        labels: given labels (N).
        left_out: samples that are not to be shown (N) bool.
        count: pairs at most.

    Returns:
        Rows (P, 2) int64: the doubtful sample, and one with a quality of at least `SURE` that no
        other pair has; -1 where there is none.
    """
    doubtful = worst[~left_out[worst]][:count]
    free = ~left_out & (quality >= SURE)
    free[doubtful] = False
    surest = torch.argsort(quality, descending=True, stable=True)
    pairs = []
    for row in doubtful.tolist():
        fitting = surest[(free & (labels == labels[row]))[surest]]
        partner = int(fitting[0]) if len(fitting) else -1
        if partner >= 0:
            free[partner] = False
        pairs.append((row, partner))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def focus(activation: Tensor) -> Tensor:
    """Share of the activation that lies in the strongest quarter of the cells (B).

    Args:
        activation: activation maps (B, h, w), at least 0.

    Returns:
        From about 1/4, where a map is even, to 1; NaN where it is 0 everywhere. A number of cells
        that has no quarter is rounded up.
    """
    flat = activation.float().flatten(1)
    total = flat.sum(1)
    share = flat.topk(quarter(flat.shape[1]), dim=1).values.sum(1) / total
    return torch.where(total > 0, share, torch.nan)


def quarter(cells: int) -> int:
    """How many cells are a quarter of them, rounded up."""
    return -(-cells // 4)


def places_of(masker: Masker, activation: Tensor) -> str:
    """How the places of the boxes are found.

    Args:
        masker: how the run's method masks.
        activation: activation maps of what is shown (B, h, w).

    Returns:
        "guided" by the map; or "random", as the settings have it or because the map is "coarse"
        (`Masker.guides`) or, of every image, "flat" (`has_relief`).
    """
    if masker.place == "random" or not masker.cover:
        return "random"
    if not masker.guides((activation.shape[1], activation.shape[2])):
        return "coarse"
    return "guided" if bool(has_relief(activation).any()) else "flat"


def _pictures(
    masker: Masker, network: nn.Module, store: Store, rows: Tensor, quality: Tensor, draw: Draw
) -> dict[str, np.ndarray]:
    """The arrays of the pairs; where a sample has no partner, it is stored twice itself."""
    flat = torch.where(rows < 0, rows[:, :1], rows).flatten().to(store.device)
    images = store.plain(flat)
    activation = activation_map(network(images, heads=("feature_map",))["feature_map"])
    places = places_of(masker, activation)
    copies = _copies(
        masker,
        images,
        activation if places == "guided" else None,
        masker.ratios(quality.to(store.device)[flat].float(), draw),
        draw,
    )
    shown = [images, *(copy.images for copy in copies.values())]
    kinds = ["image", *(name if places == "guided" else "random" for name in copies)]
    if RECONSTRUCTION in dict(network.get_submodule("heads").named_children()):
        shown.append(_rebuilt(network, shown[1] if copies else images))
        kinds.append("rebuilt")
    size = (images.shape[2], images.shape[3])
    pictures = torch.stack([_stored(picture) for picture in shown], dim=1)
    wide = F.interpolate(activation.unsqueeze(1), size, mode="bilinear", align_corners=False)
    strongest = wide.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    maps = _stored(wide / strongest)
    boxes = [_shares(copy.boxes, size) for copy in copies.values()]
    return {
        "masks_rows": rows.numpy(),
        "masks_kinds": np.asarray(kinds),
        "masks_pictures": _paired(pictures),
        "masks_maps": _paired(maps[:, 0]),
        "masks_boxes": _paired(
            torch.stack(boxes, dim=1) if boxes else images.new_zeros(len(flat), 0, 4)
        ),
        "masks_ratio": np.asarray(masker.ratio),
        "masks_places": np.asarray(places),
        "masks_grid": np.asarray(activation.shape[1:], dtype=np.int64),
    }


def _copies(
    masker: Masker, images: Tensor, activation: Tensor | None, ratio: Tensor, draw: Draw
) -> dict[str, Masked]:
    """The masked copies by name; one of each kind where training draws one or has both."""
    if not masker.cover:
        return {}
    if masker.boxes in ("auto", "either"):
        masker = replace(masker, boxes="both")
    copies = masker(images, activation, ratio, draw)
    return dict(zip(masker.names(len(copies)), copies, strict=True))


def _rebuilt(network: nn.Module, images: Tensor) -> Tensor:
    """What the network makes of masked images, in [0, 1]; its decoder works in normalised units."""
    mean, std = (network.get_buffer(name).view(1, -1, 1, 1) for name in ("mean", "std"))
    found: Tensor = network(images, heads=(RECONSTRUCTION,))[RECONSTRUCTION]
    return (found.float() * std + mean).clamp(0, 1)


def _stored(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] as `shrunk` pictures of at most `SIDE` pixels."""
    return shrunk(images.float() * 255, SIDE)


def shrunk(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) in 0 to 255 as uint8 of at most `side` pixels, 1 or 3 channels."""
    images = images[:, : 3 if images.shape[1] >= 3 else 1]
    height, width = images.shape[2:]
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    if images.dtype != torch.uint8:
        images = images.round().clamp(0, 255).to(torch.uint8)
    return images


def _shares(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Top, left, height and width (B, 4) as shares of the image's sides."""
    sides = torch.stack((boxes.top, boxes.left, boxes.height, boxes.width), dim=1)
    return sides / sides.new_tensor([*size, *size])


def _paired(values: Tensor) -> np.ndarray:
    """(2 P, …) as (P, 2, …)."""
    return values.reshape(len(values) // 2, 2, *values.shape[1:]).cpu().numpy()


def _focus_of(network: nn.Module, store: Store, rows: Tensor) -> np.ndarray:
    """The focus of the network's activation map on each of `rows`, float32."""
    parts = []
    for index in torch.split(rows.to(store.device), BLOCK):
        maps = network(store.plain(index), heads=("feature_map",))["feature_map"]
        parts.append(focus(activation_map(maps)))
    return torch.cat(parts).cpu().numpy()
