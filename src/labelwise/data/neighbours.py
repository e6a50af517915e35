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

RUN = 64
"""Columns of a block of which only the maximum is looked at first."""


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
        lines, values, order = entering(part, best[:, -1], count)
        merged = torch.cat([best[lines], values], dim=1)
        ranked = torch.cat([places[lines], order + start], dim=1)
        chosen = merged.sort(dim=1, descending=True, stable=True).indices[:, :count]
        best[lines], places[lines] = merged.gather(1, chosen), ranked.gather(1, chosen)
    return places, best


def entering(part: Tensor, least: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` of every line of a block, or less where they cannot enter the lists.

    The further the search has come, the fewer similarities beat what is held. The maxima of runs
    of `RUN` columns say where those are; only these runs are ranked. With few of them a block
    takes little more than its matrix product; ranking all of it would take as long again
    (1,000,000 rows of width 128: 1.7 times faster on one core; up to 100,000 hardly any gain).

    Args:
        part: similarities (Q, R) of a block.
        least: the smallest that is held for each query (Q).
        count: k.

    Returns:
        Lines (L) that change, and for each the similarities (L, c) and columns (L, c) of the best
        of the block: all that are above `least` are among them.
    """
    num_lines, width = part.shape
    runs = part.view(num_lines, -1, RUN if width % RUN == 0 else width)
    tops = runs.amax(2)
    above = tops > least[:, None]
    most = int(above.sum(1).max())
    if 4 * most >= tops.shape[1]:
        lines = torch.arange(num_lines, device=part.device)
        return lines, *part.topk(min(count, width), dim=1)
    lines = above.any(1).nonzero().flatten()
    # Runs that a line does not need come along with those of another: they hold nothing above.
    chosen = tops[lines].topk(most, dim=1).indices
    values, order = runs[lines[:, None], chosen].flatten(1).topk(min(count, most * RUN), dim=1)
    return lines, values, chosen.gather(1, order // RUN) * RUN + order % RUN
