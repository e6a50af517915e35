"""Noise with a transition matrix of the user's own."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.noise.draws import Draws
from labelwise.noise.matrix_files import read_matrix
from labelwise.noise.process import NoiseProcess

TOLERANCE = 1e-3
"""How far from 1 a row may sum: probabilities written with three digits. Rows are rescaled."""


class Matrix(NoiseProcess):
    """Class i is given label j with probability T[i, j], for any matrix T.

    Class-conditional noise (Patrini et al., arXiv 1609.03683, section 2). The rate that was asked
    for is what T makes of the data's class frequencies, `1 - sum_i p_i T[i, i]`.

    Args:
        matrix: T (K, K), true class i in the rows, given label j in the columns.
        classes: the K class names in the order of the matrix; None takes the data's order.

    Raises:
        UserError: T is not square, has an entry outside [0, 1] or a row that does not sum to 1.
    """

    name: ClassVar[str] = "matrix"
    citation: ClassVar[str] = (
        "Patrini et al. Making Deep Neural Networks Robust to Label Noise. CVPR 2017. "
        "arXiv 1609.03683"
    )
    usage: ClassVar[str] = "FILE"
    convention: ClassVar[str] = "expected fraction of wrong labels at the data's class frequencies"

    def __init__(self, matrix: ArrayLike | Tensor, classes: tuple[str, ...] = ()) -> None:
        values: Any = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else matrix
        self.classes = classes
        self.matrix = torch.from_numpy(checked_matrix(values, classes))
        self.rate = float(1.0 - self.matrix.diagonal().mean())

    @classmethod
    def from_text(cls, argument: str) -> Self:
        """Read the matrix from a .csv, .npy, .npz or .json file."""
        values, names = read_matrix(argument)
        try:
            return cls(values, names)
        except UserError as error:
            raise UserError(f"{argument}: {error}") from None

    def requested(self, data: Dataset) -> float:
        """The expected fraction of wrong labels at the data's class frequencies."""
        matrix = self.transition_matrix(data.num_classes, data.classes)
        return float((1.0 - matrix.diagonal())[data.labels].mean())

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """T, brought to the order of the data's classes where it has names."""
        if len(self.matrix) != num_classes:
            raise UserError(
                f"the transition matrix is {len(self.matrix)} x {len(self.matrix)}, and the data "
                f"have {num_classes} classes: one row and one column per class is needed."
            )
        if not self.classes or not classes or self.classes == classes:
            return self.matrix
        absent = sorted(set(classes) - set(self.classes))
        if absent:
            raise UserError(
                f"the transition matrix has no class {absent[0]!r}; its classes are "
                f"{', '.join(self.classes)}. Name its rows and columns as the data's classes."
            )
        order = torch.tensor([self.classes.index(name) for name in classes])
        return self.matrix[order][:, order]

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N), by inverting each row's distribution function.

        The true class comes first in its row's distribution, so that between two matrices the one
        with the larger diagonal keeps the labels that the other keeps.
        """
        matrix = self.transition_matrix(data.num_classes, data.classes)
        level = draws.uniform("class")
        given = data.labels.clone()
        for label in range(data.num_classes):
            rows = (data.labels == label).nonzero().flatten()
            others = torch.tensor([j for j in range(data.num_classes) if j != label])
            order = torch.cat([torch.tensor([label]), others])
            steps = matrix[label, order].cumsum(0)
            place = torch.searchsorted(steps, level[rows], right=True)
            # Rounding may leave the last step below 1: fall back on the last class of the support.
            last = int(matrix[label, order].nonzero().max())
            given[rows] = order[place.clamp_max(last)]
        return given

    def __repr__(self) -> str:
        size = len(self.matrix)
        return f"Matrix({size} x {size})"


def checked_matrix(values: ArrayLike, classes: tuple[str, ...] = ()) -> np.ndarray:
    """Return the matrix (K, K) float64 with rows that sum to one exactly, or say what is wrong."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError("the transition matrix is not a table of numbers, K rows of K.") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise UserError(
            f"the transition matrix has shape {matrix.shape}: K rows of K probabilities are needed."
        )
    if classes and len(classes) != len(matrix):
        raise UserError(f"{len(classes)} class names for a matrix of {len(matrix)} classes.")
    named = [f"row {k}" + (f" ({classes[k]})" if classes else "") for k in range(len(matrix))]
    for row, column in np.argwhere(~((matrix >= 0) & (matrix <= 1 + TOLERANCE)))[:1]:
        raise UserError(
            f"{named[row]}, column {column} of the transition matrix is {matrix[row, column]:g}: "
            "probabilities lie in [0, 1]."
        )
    total = matrix.sum(1)
    for row in np.flatnonzero(np.abs(total - 1) > TOLERANCE)[:1]:
        hint = ""
        if np.allclose(matrix.sum(0), 1, atol=TOLERANCE):
            hint = " Its columns do: transpose it, the true class goes in the rows."
        raise UserError(
            f"{named[row]} of the transition matrix sums to {total[row]:g}, not to 1.{hint}"
        )
    normalised: np.ndarray = matrix / total[:, None]
    return normalised
