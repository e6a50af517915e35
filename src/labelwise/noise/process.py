"""What a noise process is: it replaces true labels by given ones and reports what it did."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from labelwise.data.dataset import NO_CLASS, Dataset, Source, Truth
from labelwise.errors import UserError
from labelwise.noise.draws import Draws, id_words


@dataclass(frozen=True)
class NoisyLabels:
    """What a noise process gave, and what it did.

    Args:
        labels: given labels (N) int64.
        truth: true labels (N) int64; `NO_CLASS` where the input was replaced by a foreign one.
        realised_rate: fraction of samples whose given label is not the true one.
        transition_matrix: realised frequencies (K, K) float64 of given label j among the samples
            of true class i; the row of a class without samples is that of the identity. Samples
            of no class are not counted.
        process: name of the process.
        requested_rate: the rate that was asked for (conventions differ: see each process).
        citation: the paper of the process.
        inputs: inputs (N, *S) where the process replaced some of them, else None.
    """

    labels: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)
    realised_rate: float
    transition_matrix: Tensor = field(repr=False)
    process: str
    requested_rate: float
    citation: str
    inputs: Tensor | None = field(default=None, repr=False)

    @property
    def foreign(self) -> Tensor:
        """Which samples (N) bool belong to no class."""
        return self.truth == NO_CLASS

    def planted_in(self, data: Dataset) -> Source:
        """The corrupted data set and, apart from it, the truth."""
        planted = data if self.inputs is None else data.with_inputs(self.inputs)
        return Source(planted.with_labels(self.labels), Truth(self.truth))

    def to_json(self) -> dict[str, Any]:
        """What was planted, for `config.json` and programs; `num_foreign` only where there are."""
        described: dict[str, Any] = {
            "process": self.process,
            "requested_rate": self.requested_rate,
            "realised_rate": self.realised_rate,
            "transition_matrix": self.transition_matrix.tolist(),
            "citation": self.citation,
        }
        if self.inputs is not None:
            described["num_foreign"] = int(self.foreign.sum())
        return described


class NoiseProcess(ABC):
    """Corrupts labels. A subclass says how in `draw`, and what to expect in `transition_matrix`.

    Args:
        rate: noise rate in [0, 1), in the convention of the process. Rate 0 changes no label.

    Raises:
        UserError: `rate` lies outside [0, 1).
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    convention: ClassVar[str] = "probability that a label is wrong"
    """What the rate counts, in a few words."""
    usage: ClassVar[str] = "RATE"
    """What follows the name and a colon on the command line."""
    needs_inputs: ClassVar[bool] = False
    """Whether the wrong label depends on the sample, not on the class alone."""

    def __init__(self, rate: float) -> None:
        self.rate = checked_rate(rate)

    @classmethod
    def from_text(cls, argument: str) -> Self:
        """Build the process from what follows ``KIND:``; a rate, unless a subclass reads more.

        Raises:
            UserError: it is missing, not a number or outside [0, 1).
        """
        return cls(read_rate(cls.name, argument))

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0].replace("**", "")

    def for_data(self, path: str | None) -> NoiseProcess:
        """Return the process with what it needs to know of the data's own file.

        Args:
            path: the data source as given; None where the data came from memory.
        """
        return self

    def requested(self, data: Dataset) -> float:
        """The rate that was asked for, in the convention of the process."""
        return self.rate

    @abstractmethod
    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor | None:
        """Expected P(given = j | true = i) as a (K, K) float64 matrix, rows summing to one.

        None where it depends on the inputs. Some processes treat known class names specially.
        """

    @abstractmethod
    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N) int64 for true labels `data.labels` (N)."""

    def replace(self, data: Dataset, draws: Draws) -> tuple[Tensor, Tensor] | None:
        """Which inputs are replaced (N) bool, and all inputs (N, *S) after it; None replaces none.

        A sample whose input is replaced belongs to no class any more.
        """
        return None

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
            if int(true[row]) == NO_CLASS:
                raise UserError(
                    f"the true label of sample {data.ids[row]} (row {row}) is missing: noise is "
                    "planted on true labels. Fill it in, or leave the truth column away."
                )
            raise UserError(
                f"label {int(true[row])} of sample {data.ids[row]} (row {row}) lies outside "
                f"[0, {num_classes})."
            )
        draws = Draws(id_words(data.ids), seed, self.name)
        given, replaced = self.draw(data, draws), self.replace(data, draws)
        truth = true if replaced is None else true.masked_fill(replaced[0], NO_CLASS)
        return NoisyLabels(
            labels=given,
            truth=truth,
            realised_rate=float((given != truth).double().mean()),
            transition_matrix=realised_matrix(truth, given, num_classes),
            process=self.name,
            requested_rate=self.requested(data),
            citation=self.citation,
            inputs=None if replaced is None else replaced[1],
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


def read_rate(name: str, text: str) -> float:
    """Read the rate that follows ``name:``.

    Raises:
        UserError: it is missing or not a number.
    """
    whole = f"{name}:{text}"
    if not text:
        raise UserError(f"noise {name!r} has no rate. Write KIND:RATE, such as {name}:0.2.")
    number, percent = text.removesuffix("%").strip(), text.endswith("%")
    try:
        rate = float(number)
    except ValueError:
        raise UserError(
            f"noise rate {text!r} in {whole!r} is not a number. Write a fraction in [0, 1), "
            f"such as {name}:0.2."
        ) from None
    if percent:
        raise UserError(f"noise rate {text!r} in {whole!r}: write {name}:{rate / 100:g}.")
    return rate


def realised_matrix(true: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """Row-normalised counts (K, K) of given labels (N) per true label (N), if it is a class."""
    true, given = true[true >= 0], given[true >= 0]
    counts = torch.bincount(true * num_classes + given, minlength=num_classes**2)
    table = counts.reshape(num_classes, num_classes).double()
    size = table.sum(1, keepdim=True)
    return torch.where(size > 0, table / size.clamp_min(1.0), torch.eye(num_classes).double())
