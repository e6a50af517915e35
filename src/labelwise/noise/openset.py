"""Open-set noise: some images belong to none of the classes."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.data.load import load
from labelwise.data.source import SMALLEST_IMAGE
from labelwise.errors import UserError
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess, read_rate

MOST_FOREIGN = 20_000
"""At most this many samples of the foreign source are read."""
LEAST_VALUES = 4
"""Inputs of fewer values cannot be scrambled into anything else."""


class OpenSet(NoiseProcess):
    """A fraction of the inputs is replaced by foreign ones, and the labels are kept.

    Each sample's input is replaced with probability `rate` (Wang et al., arXiv 1804.00092, section
    3). A replaced sample belongs to no class (`NO_CLASS` in the truth): its label is wrong,
    whatever it is, and no label would be right. It is trained on and audited, never tested on.

    Args:
        rate: probability that an input is replaced, in [0, 1).
        source: data to take foreign inputs from, with replacement: any data source, brought to
            the shape of the data. Samples labelled with a class name of the data are left out.
            None takes a synthetic stand-in made from the replaced inputs themselves:

            - images: the phase-scrambled image, every spatial frequency with its own amplitude
              and the phase of white noise (the same in all channels). It keeps the mean colour
              and the spectrum, and shows nothing;
            - embeddings: the same values in a random order of the features.

    Raises:
        UserError: the rate lies outside [0, 1).

    Differences from the paper:
        1. Samples are replaced independently, so realised rates vary binomially.
        2. Without `source` the foreign images are synthetic, and easier to find than photographs.
    """

    name: ClassVar[str] = "openset"
    citation: ClassVar[str] = (
        "Wang et al. Iterative Learning with Open-set Noisy Labels. CVPR 2018. arXiv 1804.00092"
    )
    usage: ClassVar[str] = "RATE[:SOURCE]"
    convention: ClassVar[str] = "probability that an image is replaced by a foreign one"

    def __init__(self, rate: float, source: str | None = None) -> None:
        super().__init__(rate)
        self.source = source

    @classmethod
    def from_text(cls, argument: str) -> Self:
        """Read the rate and, after another colon, the foreign source."""
        rate, colon, source = (part.strip() for part in argument.partition(":"))
        if colon and not source:
            raise UserError(
                f"noise {cls.name}:{argument!r} ends with a colon: name the source of the foreign "
                f"images after it, or leave it out."
            )
        return cls(read_rate(cls.name, rate), source or None)

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """The identity: samples that have a class keep its label."""
        return torch.eye(num_classes, dtype=torch.float64)

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N): the true ones of the inputs before they were replaced."""
        return data.labels.clone()

    def replace(self, data: Dataset, draws: Draws) -> tuple[Tensor, Tensor] | None:
        """Which inputs are replaced (N) bool, and all inputs (N, *S) after it."""
        if self.rate == 0.0:
            return None
        replaced = draws.uniform("flip") < self.rate
        rows = replaced.nonzero().flatten()
        inputs = data.inputs.clone()
        if self.source is not None:
            foreign = foreign_inputs(self.source, data, draws.seed)
            chosen = draws.integers("foreign", len(foreign))[rows]
            inputs[rows] = foreign[chosen]
            return replaced, inputs
        values = int(np.prod(data.shape[-2:]))
        if values < LEAST_VALUES:
            raise UserError(
                f"{data.name!r} has inputs of {values} value(s), too few to scramble. Name data to "
                f"take foreign inputs from: openset:{self.rate:g}:SOURCE."
            )
        for row in rows.tolist():
            seed = draws.seed_of("scramble", int(draws.words[row]))
            generator = np.random.default_rng(seed)
            inputs[row] = scrambled(inputs[row], generator)
        return replaced, inputs

    def __repr__(self) -> str:
        return f"OpenSet({self.rate}, {self.source!r})" if self.source else f"OpenSet({self.rate})"


def scrambled(sample: Tensor, generator: np.random.Generator) -> Tensor:
    """An input of the same shape that shows nothing (see `OpenSet`).

    Args:
        sample: image (C, H, W) uint8, or embedding (D) float32.
        generator: of the random phases or of the order.
    """
    if sample.ndim == 1:
        return sample[torch.from_numpy(generator.permutation(len(sample)))]
    spectrum = np.fft.rfft2(sample.numpy().astype(np.float64))
    noise = np.fft.rfft2(generator.standard_normal(sample.shape[-2:]))
    phase = noise / np.maximum(np.abs(noise), 1e-300)
    phase[0, 0] = 1.0  # the mean of a channel stays what it is
    image = np.fft.irfft2(spectrum * phase, s=sample.shape[-2:])
    return torch.from_numpy(np.rint(image.clip(0, 255)).astype(np.uint8))


def foreign_inputs(path: str, data: Dataset, seed: int) -> Tensor:
    """Inputs (M, *S) of another data set, in the shape of `data`, of none of its classes.

    Args:
        path: the foreign data source.
        data: the data whose inputs are replaced.
        seed: decides which samples are read where there are more than `MOST_FOREIGN`.

    Raises:
        UserError: it cannot be read, has another shape, or has no class of its own.
    """
    size = channels = None
    if data.kind == "images":
        channels, size = data.shape[0], max(SMALLEST_IMAGE, *data.shape[1:])
    found = load(
        path,
        image_size=size,
        channels=channels,
        limit=MOST_FOREIGN,
        seed=seed,
        require_labels=False,
        on_bad_image="skip",
    )
    foreign = found.data
    if foreign.kind != data.kind or (data.kind == "embeddings" and foreign.shape != data.shape):
        raise UserError(
            f"the foreign data {path} hold {foreign.kind} of shape {foreign.shape}, the data "
            f"{data.kind} of shape {data.shape}. Take foreign data of the same kind."
        )
    inputs = foreign.inputs
    if len(foreign.labels):
        truth = foreign.labels if found.truth is None else found.truth.labels
        known = set(data.classes)
        own = torch.tensor([name not in known for name in foreign.classes])
        inputs = inputs[own[truth]]
    if len(inputs) == 0:
        raise UserError(
            f"every class of the foreign data {path} is also a class of {data.name!r}, so that "
            f"none of its samples is foreign. Take other data, or remove its labels."
        )
    if data.kind == "images":  # squares are read; what lies outside the data's shape is cut off
        inputs = inputs[:, :, : data.shape[1], : data.shape[2]]
    return inputs
