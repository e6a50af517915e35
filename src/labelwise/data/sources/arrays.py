"""Arrays, tensors and lists of images that are already in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labelwise.data.assemble import assemble, where_in
from labelwise.data.dataset import Source
from labelwise.data.decode import Encoded
from labelwise.data.source import DataSource, Options, Raw
from labelwise.errors import UserError

PLACE = "the data in memory"


class Arrays(DataSource):
    """A NumPy array, a tensor, a list of Pillow images or arrays, or a pair (inputs, labels)."""

    name: ClassVar[str] = "arrays"
    takes: ClassVar[frozenset[str]] = frozenset({"labels", "truth"})

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` is an array, a tensor, a list or a tuple."""
        return isinstance(data, np.ndarray | Tensor | list | tuple)

    def read(self, data: object, options: Options) -> Source:
        """Read inputs from memory, with the labels of `options.labels`."""
        inputs, labels = data, options.labels
        if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], Image.Image):
            inputs, paired = data
            if labels is not None:
                raise UserError("labels were passed twice: in the pair and as labels=. Pass one.")
            labels = paired
            options = replace(options, labels=paired)
        found = _inputs(inputs)
        ids = np.arange(len(found))
        raw = Raw(
            name=self.name,
            place=PLACE,
            ids=ids,
            inputs=found if isinstance(found, np.ndarray) else _Pictures(found, ids),
            given=labels,
            truth=options.truth,
            remedy="Pass them as labels=, one per input.",
        )
        return assemble(raw, options)


class _Pictures:
    """Pillow images in memory, handed on one by one."""

    def __init__(self, images: list[Image.Image], ids: np.ndarray) -> None:
        self.images = images
        self.ids = ids

    def __call__(self, rows: np.ndarray) -> Iterable[Encoded]:
        return (Encoded(where_in(PLACE, int(row), self.ids), self.images[row]) for row in rows)


def _inputs(data: object) -> np.ndarray | list[Image.Image]:
    """Return inputs as one array, or as a list when they are Pillow images."""
    if isinstance(data, Tensor):
        tensor = data.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(data, np.ndarray):
        if data.ndim == 0:
            raise UserError("the inputs are a single number; pass an array with one row a sample.")
        return data
    if not isinstance(data, list | tuple):
        raise UserError(f"inputs of type {type(data).__name__} cannot be read; pass an array.")
    if not data:
        raise UserError("the list of inputs is empty.")
    pictures = [item for item in data if isinstance(item, Image.Image)]
    if len(pictures) == len(data):
        return pictures
    arrays = [item.detach().cpu().numpy() if isinstance(item, Tensor) else item for item in data]
    for row, item in enumerate(arrays):
        if not isinstance(item, np.ndarray):
            raise UserError(
                f"input {row} of the list is a {type(item).__name__}; pass Pillow images only, or "
                f"arrays only."
            )
        if item.shape != arrays[0].shape:
            raise UserError(
                f"input {row} has shape {item.shape} and input 0 has {arrays[0].shape}; arrays in "
                f"a list need one shape. Pillow images can differ when image_size is given."
            )
    return np.stack(arrays)
