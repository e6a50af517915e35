"""Class probabilities of every sample in O(N · m) memory: the m largest and that of its label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.errors import UserError

KEEP = 50
"""Probabilities kept per sample: with 1,000 classes 1/20 of the memory, nearly all of the mass."""

BLOCK = 8192
"""Rows checked and sorted at once."""

SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a sample may sum: bfloat16 rounds to 0.004 each."""


@dataclass(frozen=True)
class TopProbabilities:
    """The largest class probabilities of every sample, and the probability of its given label.

    With no more than `keep` classes nothing is dropped and everything is exact.

    Args:
        values: the m largest probabilities (N, m) float32, descending.
        classes: the classes they belong to (N, m) int64.
        given: probability of the given label (N) float32, kept even where it is not among the m.
        labels: given labels (N) int64.
        num_classes: K.
    """

    values: Tensor
    classes: Tensor
    given: Tensor
    labels: Tensor
    num_classes: int

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, keep: int = KEEP) -> TopProbabilities:
        """Keep the largest of full probabilities.

        Args:
            probabilities: class probabilities (N, K), rows summing to 1.
            labels: given labels (N) in [0, K).
            keep: m, probabilities kept per sample; all of them when K is no larger.

        Raises:
            UserError: a value that is no probability, named with its row; a wrong shape or label.
        """
        if probabilities.ndim != 2:
            raise UserError(
                f"probabilities have shape {tuple(probabilities.shape)}; "
                "give one row per sample and one column per class"
            )
        return cls.from_blocks(
            torch.split(probabilities, BLOCK), labels, probabilities.shape[1], keep
        )

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[Tensor], labels: Tensor, num_classes: int, keep: int = KEEP
    ) -> TopProbabilities:
        """Keep the largest of probabilities that arrive in blocks; holds one block at a time.

        Args:
            blocks: consecutive rows of the class probabilities (B, K); B may vary.
            labels: given labels (N) in [0, K).
            num_classes: K.
            keep: m, probabilities kept per sample.

        Raises:
            UserError: as `of`; also when the blocks do not hold exactly N rows.
        """
        labels = _checked_labels(labels, num_classes)
        if keep < 1:
            raise UserError(f"keep is {keep}; keep at least one probability per sample")
        num_rows, kept = len(labels), min(keep, num_classes)
        values = torch.zeros((num_rows, kept), dtype=torch.float32, device=labels.device)
        classes = torch.zeros((num_rows, kept), dtype=torch.int64, device=labels.device)
        given = torch.zeros(num_rows, dtype=torch.float32, device=labels.device)
        start = 0
        for block in blocks:
            end = start + len(block)
            if end > num_rows:
                raise UserError(f"probabilities have more rows than the {num_rows} labels")
            part = _checked_block(block.detach(), num_classes, start).to(labels.device)
            values[start:end], classes[start:end] = _largest(part, kept)
            given[start:end] = part.gather(1, labels[start:end, None]).squeeze(1)
            start = end
        if start < num_rows:
            raise UserError(f"probabilities have {start} rows, but there are {num_rows} labels")
        return cls(values, classes, given, labels, num_classes)

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.labels)

    @property
    def predicted(self) -> Tensor:
        """Most probable class of every sample (N) int64."""
        return self.classes[:, 0]

    @property
    def is_complete(self) -> bool:
        """Whether the probabilities of all classes are kept."""
        return self.values.shape[1] == self.num_classes

    def rows(self, index: Tensor) -> TopProbabilities:
        """The samples `index` (row numbers or mask), in that order."""
        return TopProbabilities(
            self.values[index],
            self.classes[index],
            self.given[index],
            self.labels[index],
            self.num_classes,
        )

    def probability_of(self, classes: Tensor) -> Tensor:
        """Probability of chosen classes for every sample; 0 where it was dropped.

        Args:
            classes: one class per sample (N) or several (N, c), in [0, K).

        Returns:
            Probabilities of the same shape, float32. That of the given label is never dropped.
        """
        wanted = classes if classes.ndim == 2 else classes[:, None]
        found = torch.zeros(wanted.shape, dtype=torch.float32, device=self.values.device)
        for place in range(self.values.shape[1]):  # one slot at a time: no (N, c, m) tensor
            same = self.classes[:, place, None] == wanted
            found += self.values[:, place, None] * same
        found = torch.where(wanted == self.labels[:, None], self.given[:, None], found)
        return found if classes.ndim == 2 else found.squeeze(1)

    def dense(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Probabilities of all classes (n, K) of the samples `index`; dropped ones are 0."""
        shape = (len(self.labels[index]), self.num_classes)
        full = torch.zeros(shape, dtype=torch.float32, device=self.values.device)
        full.scatter_(1, self.classes[index], self.values[index])
        return full.scatter_(1, self.labels[index, None], self.given[index, None])


def _checked_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Given labels as int64 (N), every one of them a class."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            "give one class number per sample"
        )
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"label {int(labels[row])} of row {row} is no class: with {num_classes} columns of "
            f"probabilities labels are 0 to {num_classes - 1}"
        )
    return labels.long()


def _checked_block(block: Tensor, num_classes: int, start: int) -> Tensor:
    """A block of probabilities in float32, every row of it summing to 1."""
    if block.ndim != 2 or block.shape[1] != num_classes:
        raise UserError(
            f"the block of probabilities from row {start} on has shape {tuple(block.shape)}; "
            f"give (rows, {num_classes}), one column per class"
        )
    if not block.is_floating_point():
        raise UserError(f"probabilities from row {start} on are {block.dtype}; give floats")
    block = block.float()
    total = block.sum(dim=1)
    # Written so that a NaN fails: every comparison with it is false.
    good = (block.amin(dim=1) >= 0) & ((total - 1).abs() <= SUM_TOLERANCE)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        _refuse_row(block[row], row + start)
    return block


def _refuse_row(row: Tensor, number: int) -> None:
    """Raise the error for one row that holds no probabilities."""
    if bool(row.isfinite().all()):
        if bool((row < 0).any()):
            problem, remedy = f"the negative value {float(row.min()):.4g}", "softmax of the logits"
        else:
            problem, remedy = f"a sum of {float(row.sum()):.4g}", "probabilities that sum to 1"
    else:
        column = int((~row.isfinite()).nonzero()[0])
        problem = f"{float(row[column])} in column {column}"
        remedy = "finite probabilities; a training that diverged gives none"
    raise UserError(f"row {number} of the probabilities has {problem}; give {remedy}")


def _largest(block: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The largest `kept` values of every row and their classes, descending."""
    if kept == block.shape[1]:  # ties in the order of the classes, on every machine
        values, classes = block.sort(dim=1, descending=True, stable=True)
    else:
        values, classes = block.topk(kept, dim=1)
    return values, classes
