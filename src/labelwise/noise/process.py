"""What a noise process is: it replaces true labels by given ones and reports what it did."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.draws import Draws, id_words


@dataclass(frozen=True)
class NoisyLabels:
    """The labels a noise process gave.

    Args:
        labels: given labels (N) int64.
        realised_rate: fraction of labels that differ from the true ones.
        transition_matrix: realised frequencies (K, K) float64 of given label j among the samples
            of true class i; the row of a class without samples is that of the identity.
        process: name of the process.
        requested_rate: the rate that was asked for (conventions differ: see each process).
    """

    labels: Tensor = field(repr=False)
    realised_rate: float
    transition_matrix: Tensor = field(repr=False)
    process: str
    requested_rate: float


class NoiseProcess(ABC):
    """Corrupts labels. A subclass says how in `draw`, and what to expect in `transition_matrix`.

    Args:
        rate: noise rate in [0, 1), in the convention of the process. Rate 0 changes no label.

    Raises:
        UserError: `rate` lies outside [0, 1).
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    needs_inputs: ClassVar[bool] = False
    """Whether the wrong label depends on the input, not on the class alone."""

    def __init__(self, rate: float) -> None:
        self.rate = checked_rate(rate)

    @abstractmethod
    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor | None:
        """Expected P(given = j | true = i) as a (K, K) float64 matrix, rows summing to one.

        None where it depends on the inputs. Some processes treat known class names specially.
        """

    @abstractmethod
    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N) int64 for true labels `data.labels` (N)."""

    def corrupt(self, data: Dataset, seed: int) -> NoisyLabels:
        """Replace the labels of a data set, which are taken as true.

        Every draw is keyed by (seed, sample id): permuting the rows permutes the result. Two
        rows of equal id share their draws.

        Args:
            data: samples with true labels.
            seed: seed of the corruption.

        Raises:
            UserError: there are fewer than two classes, no labels, or a label out of range.
        """
        true, num_classes = data.labels, data.num_classes
        if num_classes < 2:
            raise UserError(
                f"{data.name!r} has {num_classes} class(es): a label can only be wrong where "
                "there are at least two."
            )
        if len(true) == 0:
            raise UserError(f"{data.name!r} has no labels to corrupt.")
        outside = ((true < 0) | (true >= num_classes)).nonzero().flatten()
        if len(outside):
            row = int(outside[0])
            raise UserError(
                f"label {int(true[row])} of sample {data.ids[row]!r} (row {row}) lies outside "
                f"[0, {num_classes})."
            )
        given = self.draw(data, Draws(id_words(data.ids), seed, self.name))
        return NoisyLabels(
            labels=given,
            realised_rate=float((given != true).double().mean()),
            transition_matrix=realised_matrix(true, given, num_classes),
            process=self.name,
            requested_rate=self.rate,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate})"


def checked_rate(rate: float) -> float:
    """Return the rate as a float, or raise a `UserError` that says what is wrong with it."""
    if not math.isfinite(rate) or not 0.0 <= rate < 1.0:
        percent = 1.0 < rate < 100.0
        hint = f" For {rate:g} % write {rate / 100:g}." if percent else ""
        raise UserError(f"noise rate {rate:g} lies outside [0, 1).{hint}")
    return float(rate)


def realised_matrix(true: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """Row-normalised counts (K, K) of given labels (N) per true label (N)."""
    counts = torch.bincount(true * num_classes + given, minlength=num_classes**2)
    table = counts.reshape(num_classes, num_classes).double()
    size = table.sum(1, keepdim=True)
    return torch.where(size > 0, table / size.clamp_min(1.0), torch.eye(num_classes).double())
