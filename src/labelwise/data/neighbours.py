"""Exact nearest neighbours by cosine similarity, in blocks: memory O(N · k), not O(N²)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Progress = Callable[[int, int], None]
"""Called with (queries done, queries in all) after every block of queries."""

BLOCK = 2048
"""Queries, and rows compared with them, at once: 16 MiB of similarities."""


@torch.no_grad()
def nearest_neighbours(
    features: Tensor,
    count: int,
    *,
    queries: Tensor | None = None,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The `count` most similar *other* rows of every queried row, by cosine.

    Rows of zero length are similar to nothing (similarity 0). Among equal similarities any of
    the rows may be kept.

    Args:
        features: one feature vector per row (N, D), any float dtype, any device.
        count: k, neighbours per row; at most N - 1 are returned.
        queries: row numbers (Q) to look from; None takes every row.
        block: rows per block.
        progress: told how far the search has come.

    Returns:
        Row numbers (Q, k) int64 and cosine similarities (Q, k) float32, most similar first.
    """
    assert features.ndim == 2, f"features have shape {tuple(features.shape)}"
    unit = F.normalize(features.float(), dim=1)
    num_rows, count = len(unit), min(count, len(features) - 1)
    rows = torch.arange(num_rows, device=unit.device) if queries is None else queries
    everyone = torch.arange(num_rows, device=unit.device)
    found = torch.zeros((len(rows), count), dtype=torch.int64, device=unit.device)
    similarity = torch.zeros((len(rows), count), dtype=torch.float32, device=unit.device)
    if count == 0:
        return found, similarity
    for start in range(0, len(rows), block):
        own = rows[start : start + block]
        places, values = nearest_among(unit[own], own, unit, everyone, count, block)
        similarity[start : start + len(own)] = values
        found[start : start + len(own)] = places
        if progress is not None:
            progress(start + len(own), len(rows))
    return found, similarity


def nearest_among(
    query: Tensor,
    own: Tensor,
    reference: Tensor,
    rows: Tensor,
    count: int,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """The reference vectors most similar to each query, leaving out the query's own row.

    Args:
        query: unit vectors (Q, D).
        own: their row numbers (Q).
        reference: unit vectors (R, D) that are searched, block by block.
        rows: their row numbers (R), ascending.
        count: k, at most the number of references other than a query itself.
        block: references at once.

    Returns:
        Places in `reference` (Q, k) int64 and similarities (Q, k), most similar first.
    """
    best = query.new_full((len(query), count), -torch.inf)
    places = torch.zeros((len(query), count), dtype=torch.int64, device=query.device)
    itself = torch.searchsorted(rows, own)
    itself = torch.where(rows[itself.clamp_max(len(rows) - 1)] == own, itself, -1)
    for start in range(0, len(reference), block):
        with torch.autocast(query.device.type, enabled=False):  # near ones differ in few digits
            part = query @ reference[start : start + block].T
        line = ((itself >= start) & (itself < start + part.shape[1])).nonzero().flatten()
        part[line, itself[line] - start] = -torch.inf
        # Only the block's own best can enter the list: one top-k over the block, one over 2k.
        values, order = part.topk(min(count, part.shape[1]), dim=1)
        merged = torch.cat([best, values], dim=1)
        ranked = torch.cat([places, order + start], dim=1)
        chosen = merged.sort(dim=1, descending=True, stable=True).indices[:, :count]
        best, places = merged.gather(1, chosen), ranked.gather(1, chosen)
    return places, best
