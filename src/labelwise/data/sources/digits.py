"""The digits that come with scikit-learn: small real data that needs no download."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from labelwise.data.assemble import assemble
from labelwise.data.dataset import Source
from labelwise.data.source import DataSource, Options, Raw

LARGEST_VALUE = 16


class Digits(DataSource):
    """1,797 handwritten digits, 8 x 8 grey pixels, ten classes, whose labels are all right."""

    name: ClassVar[str] = "digits"

    @classmethod
    def matches(cls, data: object) -> bool:
        """Whether `data` is the word "digits" (a folder of that name is "./digits")."""
        return isinstance(data, str) and data == cls.name

    def read(self, data: object, options: Options) -> Source:
        """Return the digits; the given labels are the true ones."""
        from sklearn.datasets import load_digits

        values, target = load_digits(return_X_y=True)
        images = np.rint(values.reshape(-1, 8, 8) * (255 / LARGEST_VALUE)).astype(np.uint8)
        raw = Raw(
            name=self.name,
            place="the digits data",
            ids=np.arange(len(images)),
            inputs=images,
            given=target,
            truth=target,
            flip=False,
        )
        return assemble(raw, options)
