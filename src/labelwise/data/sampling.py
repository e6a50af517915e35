"""Seeded, class-stratified choice of rows: for limiting a data set and for splitting it."""

from __future__ import annotations

import numpy as np
import torch

from labelwise.data.dataset import NO_CLASS, Source
from labelwise.errors import UserError
from labelwise.rng import Draw


def stratified_rows(
    labels: np.ndarray, count: int, seed: int, purpose: str = "limit"
) -> np.ndarray:
    """Choose `count` rows so that every class keeps its share; return them in rising order.

    Shares follow the largest-remainder rule, with at least one row of each class whenever
    `count` is no smaller than the number of classes.

    Args:
        labels: (N) integers.
        count: how many rows to keep; N or more keeps all.
        seed: equal seeds give equal rows.
        purpose: name of the draw; two uses with one seed need two names.

    Returns:
        Row numbers, int64, rising.
    """
    assert count >= 0, f"cannot keep {count} rows"
    if count >= len(labels):
        return np.arange(len(labels))
    shuffled = Draw(seed).numpy(purpose).permutation(len(labels))
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    grouped = shuffled[np.argsort(codes[shuffled], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.sort(grouped[rank < np.repeat(_shares(sizes, count), sizes)])


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """Return how many of each class to keep; they sum to `count` and none exceeds its class."""
    exact: np.ndarray = sizes * (count / sizes.sum())
    least = 1 if count >= len(sizes) else 0
    shares: np.ndarray = np.maximum(np.floor(exact).astype(np.int64), least)
    while shares.sum() > count:  # rare classes were raised to one: the best served give
        shares[np.argmax(np.where(shares > least, shares / exact, -np.inf))] -= 1
    lacking = count - int(shares.sum())
    wanting = np.where(shares < sizes, exact - shares, -np.inf)
    shares[np.argsort(-wanting, kind="stable")[:lacking]] += 1
    return shares


def split(source: Source, fraction: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """Set a part aside for testing: disjoint, seeded, stratified on the given labels.

    Every class keeps at least one sample for training. In the test part the given labels are
    replaced by the true ones where they are known, since only those measure accuracy. Samples
    that truly belong to no class cannot be tested on: all of them stay in the training part.

    Args:
        source: what to split.
        fraction: share of the samples (of a class) to set aside, in (0, 1).
        seed: equal seeds give equal splits.

    Returns:
        The training part and the test part, both in the original order.

    Raises:
        UserError: the fraction is out of range or leaves one part empty.
    """
    data, truth = source.data, source.truth
    testable = np.arange(len(data))
    if truth is not None and bool((truth.labels == NO_CLASS).any()):
        testable = np.flatnonzero(truth.labels.numpy() != NO_CLASS)
    count = len(testable)
    if not 0 < fraction < 1:
        raise UserError(f"test fraction {fraction} is out of range: give a number between 0 and 1.")
    num_test = round(count * fraction)
    if num_test == 0 or num_test == count:
        raise UserError(
            f"a test fraction of {fraction} of {count} samples leaves one part empty. "
            f"Pass a test set with --test, or use more samples."
        )
    labels = data.labels.numpy() if len(data.labels) else np.zeros(len(data), dtype=np.int64)
    chosen = stratified_rows(labels[testable], count - num_test, seed, purpose="split")
    held = np.setdiff1d(testable, testable[chosen], assume_unique=True)
    kept = np.setdiff1d(np.arange(len(data)), held, assume_unique=True)
    train = Source(data.subset(kept), truth.subset(kept) if truth else None)
    test = Source(data.subset(held), truth.subset(held) if truth else None)
    if test.truth is not None:
        test = Source(test.data.with_labels(test.truth.labels.to(torch.int64)), test.truth)
    return train, test
