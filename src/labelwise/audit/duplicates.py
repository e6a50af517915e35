"""Near-duplicate samples whose given labels differ: at least one of the two labels is wrong.

Exact copies are found by hashing. Near copies (another brightness, a shift by a pixel, saved as
JPEG again) are searched by cosine between small fingerprints and confirmed on the whole inputs.
Where all samples are alike, as handwritten digits are, a fixed bound would report half the data, so
a pair must also be much closer than the data's own near neighbours are to each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.data.neighbours import nearest_neighbours
from labelwise.rng import Draw

LIMIT = 200
SIDE = 8
"""Side of an image's fingerprint: grey pixels averaged over a grid of SIDE x SIDE cells."""
CANDIDATES = 5
"""Neighbours by fingerprint that are compared in full; the last one sets the data's own scale."""
ABSOLUTE = {"images": 0.95, "embeddings": 0.98}
"""Least similarity of a near duplicate, whatever the data."""
RELATIVE = {"images": 0.35, "embeddings": 0.25}
"""Largest distance of a near duplicate, in units of the data's usual distance."""
LOOSE = 0.8
"""Least similarity of fingerprints that are worth a comparison in full."""
SHIFT = 1
"""Pixels by which two images may be shifted against each other."""
SMOOTHED = 16
"""Images of this side and more are compared at half their size: JPEG changes single pixels."""
EXACT_SEARCH = 60_000
"""Up to so many samples every pair is compared; beyond, only pairs that share a hash bucket."""
TABLES, BITS, WINDOW = 12, 24, 6
"""Hash tables of random hyperplanes, bits of a hash, and how far along a sorted table to look."""
BLOCK = 4096


def find_duplicates(
    inputs: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    limit: int = LIMIT,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of (nearly) equal samples whose labels differ.

    A pair of near copies has a similarity of at least `ABSOLUTE`, and a distance of at most
    `RELATIVE` times the median distance from a sample to its fifth neighbour. Distance is
    sqrt(2 - 2 similarity). The similarity of two images is the largest correlation of their
    pixels over shifts of up to `SHIFT` pixels, so brightness and contrast do not count; that of
    two embeddings is the cosine about the data's mean. Images of one colour only are compared
    exactly. Of a set of exact copies, every sample that differs from the set's most frequent
    label is paired with a sample that has it.

    Time: N² comparisons of 64 numbers up to `EXACT_SEARCH` samples; beyond, N log N by hashing
    fingerprints with random hyperplanes (Charikar, STOC 2002), which may miss a pair. Memory
    beyond the inputs is about 600 bytes an image, or one copy of the embeddings.

    Args:
        inputs: images (N, C, H, W) uint8, or embeddings (N, D) float.
        labels: given labels (N) int.
        limit: keep at most this many pairs, the most similar ones.
        seed: decides the random hyperplanes.
        device: where fingerprints are compared.

    Returns:
        Row numbers (D, 2) int64, lower row first, and similarities (D) float32, most similar
        first; exact copies have similarity 1.
    """
    if isinstance(inputs, np.ndarray):  # PyTorch warns about memory it may not write to
        inputs = torch.from_numpy(inputs if inputs.flags.writeable else inputs.copy())
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    assert inputs.ndim in (2, 4), f"inputs have shape {tuple(inputs.shape)}"
    assert len(inputs) == len(given), f"{len(given)} labels for {len(inputs)} inputs"
    exact, unique = _exact_copies(inputs, given)
    near, similarity = _near_copies(inputs, given, unique, seed, torch.device(device))
    rows = np.concatenate([exact, near])
    values = np.concatenate([np.ones(len(exact), dtype=np.float32), similarity])
    order = np.lexsort((rows[:, 1], rows[:, 0], -values))[:limit]
    return rows[order], values[order]


def _exact_copies(inputs: Tensor, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of equal rows with different labels (E, 2), and one row (U) of each set of equals."""
    sets: dict[bytes, list[int]] = {}
    for start in range(0, len(inputs), BLOCK):
        part = inputs[start : start + BLOCK].contiguous().cpu().numpy()
        for place, row in enumerate(part):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            sets.setdefault(digest, []).append(start + place)
    pairs, unique = [], []
    for rows in sets.values():
        usual = Counter(int(given[row]) for row in rows).most_common(1)[0][0]
        keeper = next(row for row in rows if given[row] == usual)
        unique.append(keeper)
        pairs += [sorted((keeper, row)) for row in rows if given[row] != usual]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.sort(np.array(unique, dtype=np.int64))


def _near_copies(
    inputs: Tensor, given: np.ndarray, unique: np.ndarray, seed: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (M, 2) of different but nearly equal rows with different labels, and similarities."""
    kind = "images" if inputs.ndim == 4 else "embeddings"
    nothing = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
    prints = _fingerprints(inputs, unique).to(device)
    lively = prints.norm(dim=1) > 0
    prints, unique = prints[lively], unique[lively.cpu().numpy()]
    count = min(CANDIDATES, len(unique) - 1)
    if count < 1:
        return nothing
    if len(unique) <= EXACT_SEARCH:
        others, alike = nearest_neighbours(prints, count)
    else:
        others, alike = _hashed_neighbours(prints, count, seed)
    others, alike = others.cpu(), alike.cpu()
    scale = float((2 - 2 * alike[:, -1].clamp(-1, 1)).sqrt().median())
    place, column = ((alike >= LOOSE) & (others >= 0)).nonzero(as_tuple=True)
    pairs = np.stack([unique[place.numpy()], unique[others[place, column].numpy()]], axis=1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    pairs = pairs[given[pairs[:, 0]] != given[pairs[:, 1]]]
    if not len(pairs):
        return nothing
    similarity = _similarity(inputs, pairs)
    far = RELATIVE[kind] * scale
    close = (similarity >= ABSOLUTE[kind]) & (np.sqrt(np.maximum(0, 2 - 2 * similarity)) <= far)
    return pairs[close], similarity[close]


def _fingerprints(inputs: Tensor, rows: np.ndarray) -> Tensor:
    """What is compared first (U, F) float32: small, centred, of length 1 (0 where constant)."""
    if inputs.ndim == 2:
        return F.normalize(inputs[rows].float() - inputs.float().mean(0), dim=1)
    height, width = inputs.shape[2:]
    parts = []
    for start in range(0, len(rows), BLOCK):
        grey = inputs[rows[start : start + BLOCK]].float().mean(1, keepdim=True)
        small = F.adaptive_avg_pool2d(grey, (min(SIDE, height), min(SIDE, width))).flatten(1)
        centred = small - small.mean(1, keepdim=True)
        # Half a grey level is rounding, not a picture: it must not be blown up to length 1.
        centred[centred.abs().amax(1) < 0.5] = 0
        parts.append(F.normalize(centred, dim=1))
    return torch.cat(parts)


def _similarity(inputs: Tensor, pairs: np.ndarray) -> np.ndarray:
    """Similarity (M) float32 of pairs of whole inputs; see `find_duplicates`."""
    if inputs.ndim == 2:
        mean = inputs.float().mean(0)
        first, second = (inputs[pairs[:, side]].float() - mean for side in (0, 1))
        return F.cosine_similarity(first, second).numpy()
    height, width = inputs.shape[2:]
    found = []
    for start in range(0, len(pairs), BLOCK):
        first, second = (inputs[pairs[start : start + BLOCK, side]].float() for side in (0, 1))
        best = torch.full((len(first),), -1.0)
        for down in range(-SHIFT, SHIFT + 1):
            for right in range(-SHIFT, SHIFT + 1):
                one = _shared(first, down, right, height, width)
                other = _shared(second, -down, -right, height, width)
                best = torch.maximum(best, F.cosine_similarity(one, other))
        found.append(best)
    return torch.cat(found).numpy()


def _shared(images: Tensor, down: int, right: int, height: int, width: int) -> Tensor:
    """The part of images that a shifted partner covers too, flat and centred (M, P)."""
    rows = slice(max(0, down), height + min(0, down))
    columns = slice(max(0, right), width + min(0, right))
    part = images[:, :, rows, columns]
    if min(height, width) >= SMOOTHED:
        part = F.avg_pool2d(part, 2)
    flat = part.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def _hashed_neighbours(prints: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Probable nearest neighbours (U, count) by random hyperplanes, and their cosines.

    Each table sorts the samples by a hash of `BITS` signs; a sample is compared with the
    `WINDOW` samples on either side. Places left open hold row -1 and cosine -1.
    """
    number, width = prints.shape
    offsets = [step for step in range(-WINDOW, WINDOW + 1) if step]
    best = torch.full((number, count), -1.0, device=prints.device)
    found = torch.full((number, count), -1, dtype=torch.int64, device=prints.device)
    powers = 2 ** torch.arange(BITS, device=prints.device)
    draw = Draw(seed, phase="duplicates")
    centred = prints - prints.mean(0)  # or most signs would agree on the average picture
    for table in range(TABLES):
        planes = draw.normal(f"planes/{table}", width, BITS).to(prints.device)
        order = (((centred @ planes) > 0) * powers).sum(1).argsort()
        for start in range(0, number, BLOCK):
            line = torch.arange(start, min(start + BLOCK, number), device=prints.device)
            own = order[line]
            beside = order[(line[:, None] + torch.tensor(offsets, device=line.device)) % number]
            cosine = (prints[own][:, None] * prints[beside]).sum(2)
            known = (beside[:, :, None] == found[own][:, None]).any(2) | (beside == own[:, None])
            cosine[known] = -1.0
            values = torch.cat([best[own], cosine], dim=1)
            places = torch.cat([found[own], beside], dim=1)
            top, chosen = values.topk(count, dim=1)
            best[own], found[own] = top, places.gather(1, chosen)
    return found, best
