"""Human noise: labels that people gave, from a column of the data."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.data.labels import Labels, encode
from labelwise.data.load import load_labels
from labelwise.errors import UserError
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess


class Human(NoiseProcess):
    """Labels that people gave: another column of the data, against the true one.

    CIFAR-10N and CIFAR-100N (Wei et al., arXiv 2110.12088) are such columns. Nothing is random:
    the seed changes nothing, and the rate is what the column holds. The two columns are joined by
    id, and classes by name.

    Args:
        column: name of the column.
        given: ids and labels of that column; `for_data` reads them from the data's own file.
    """

    name: ClassVar[str] = "human"
    citation: ClassVar[str] = (
        "Wei et al. Learning with Noisy Labels Revisited: A Study Using Real-World Human "
        "Annotations. ICLR 2022. arXiv 2110.12088"
    )
    usage: ClassVar[str] = "COLUMN"
    convention: ClassVar[str] = "none: the fraction of wrong labels that the column holds"
    needs_inputs: ClassVar[bool] = True

    def __init__(self, column: str, given: Dataset | None = None) -> None:
        self.column, self.given = column, given
        self.rate = math.nan  # not known before the column is read

    @classmethod
    def from_text(cls, argument: str) -> Self:
        """Take the name of the column."""
        if not argument:
            raise UserError(
                "noise 'human' has no column. Write human:COLUMN, with the column of the labels "
                "that people gave."
            )
        return cls(argument)

    def for_data(self, path: str | None) -> NoiseProcess:
        """Read the column from the data's file."""
        if self.given is not None:
            return self
        if path is None:
            raise UserError(
                f"noise 'human:{self.column}' needs data with label columns: a .csv, .tsv, "
                ".parquet or .npz file. For data in memory pass those labels as the labels, and "
                "the true ones as truth."
            )
        return Human(self.column, load_labels(path, label_column=self.column).data)

    def requested(self, data: Dataset) -> float:
        """The fraction of labels in the column that are wrong."""
        return float((self._aligned(data) != data.labels).double().mean())

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor | None:
        """None: people's mistakes depend on the images. The realised matrix is in the result."""
        return None

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N): those of the column."""
        return self._aligned(data)

    def _aligned(self, data: Dataset) -> Tensor:
        """The column's labels (N) int64, in the rows and classes of `data`."""
        if self.given is None:
            raise UserError(
                f"the labels of column {self.column!r} were not read: pass `given`, or use "
                "`for_data` with the path of the data."
            )
        row_of = {str(name): row for row, name in enumerate(self.given.ids.tolist())}
        absent = [name for name in data.ids.tolist() if str(name) not in row_of]
        if absent:
            raise UserError(
                f"column {self.column!r} has no label for {len(absent):,} of {len(data):,} "
                f"samples, the first with id {absent[0]!r}."
            )
        rows = torch.tensor([row_of[str(name)] for name in data.ids.tolist()])
        codes = self.given.labels[rows].numpy()
        labels = Labels(f"column {self.column!r}", codes, self.given.classes)
        return torch.from_numpy(encode(labels, data.classes, data.ids))

    def __repr__(self) -> str:
        return f"Human({self.column!r})"
