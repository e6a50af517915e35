"""Views with automatic policies: autoaugment, randaugment, strong.

All choices are made for the global batch, with another one for every image; each rank keeps its
own rows, so the number of processes changes no view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labelwise.augment.basic import Weak
from labelwise.augment.contrastive import SMALL, SimCLR
from labelwise.augment.geometry import cut_out
from labelwise.augment.operations import CODE, Choice, apply_choice
from labelwise.augment.view import BOTH, IMAGES, ViewOptions
from labelwise.data.dataset import Kind
from labelwise.rng import Draw

T = TypeVar("T", bound=np.generic)

# The operations of RandAugment (arXiv 1909.13719, section 4).
RANDAUGMENT = (
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "saturation", "posterize"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
# The policy found on CIFAR-10 (AutoAugment, arXiv 1805.09501, appendix, table 7): 25 sub-policies
# of two operations, each with its probability and its magnitude from 0 to 9.
CIFAR10_POLICY = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("saturation", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("saturation", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("auto_contrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("saturation", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("saturation", 0.9, 9), ("equalize", 0.6, 6)),
    (("auto_contrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("saturation", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 1)),
)


@dataclass(frozen=True)
class AutoAugment(Weak):
    """Crop and flip, then one of the 25 sub-policies found on CIFAR-10, another for every image.

    AutoAugment (arXiv 1805.09501).

    Args:
        fill: value of what moves into the picture.

    Differences from the paper:
        1. Pixels are resampled bilinearly and shears are about the image centre.
        2. What moves into the picture is black, as in the crop's border, not grey.
    """

    name: ClassVar[str] = "autoaugment"
    kinds: ClassVar[frozenset[Kind]] = IMAGES
    citation: ClassVar[str] = "Cubuk et al., AutoAugment, arXiv 1805.09501"

    fill: float = 0.0

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """Crop, flip, and apply the two operations of the drawn sub-policy."""
        images = super().images(batch, draw)
        policy = _own(
            draw, draw.numpy("policy").integers(len(CIFAR10_POLICY), size=_all(draw, images))
        )
        for slot in range(2):
            entries = [sub[slot] for sub in CIFAR10_POLICY]
            code = np.array([CODE[operation] for operation, _, _ in entries])[policy]
            probability = np.array([chance for _, chance, _ in entries])[policy]
            level = np.array([magnitude / 9 for _, _, magnitude in entries])[policy]
            host = draw.numpy(f"slot/{slot}")
            applied = _own(draw, host.random(_all(draw, images))) < probability
            sign = _own(draw, host.choice((-1.0, 1.0), size=_all(draw, images)))
            code = np.where(applied, code, CODE["identity"])
            images = apply_choice(images, Choice.of(code, level, sign), self.fill)
        return images


@dataclass(frozen=True)
class RandAugment(Weak):
    """Crop and flip, then random operations of one magnitude, other ones for every image.

    RandAugment(n, m) (arXiv 1909.13719), operations drawn with replacement.

    Args:
        num_operations: n, operations applied one after the other.
        magnitude: m in [0, 30], where 30 is each operation's greatest strength; None draws it
            uniformly for every image and operation.
        cut_out: side of the blanked box relative to the image; 0 for none.
        fill: value of what moves into the picture.

    Differences from the paper:
        1. Magnitudes count to 30, as common implementations do (10 is a third of the strength).
        2. Pixels are resampled bilinearly, shears are about the image centre, and what moves into
           the picture is black, as in the crop's border.
    """

    name: ClassVar[str] = "randaugment"
    kinds: ClassVar[frozenset[Kind]] = IMAGES
    citation: ClassVar[str] = "Cubuk et al., RandAugment, arXiv 1909.13719"

    num_operations: int = 2
    magnitude: float | None = 10.0
    cut_out: float = 0.0
    fill: float = 0.0

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """Crop, flip, apply the operations, and blank a box if one is asked for."""
        images = super().images(batch, draw)
        codes = np.array([CODE[operation] for operation in RANDAUGMENT])
        for slot in range(self.num_operations):
            host, count = draw.numpy(f"slot/{slot}"), _all(draw, images)
            code = _own(draw, codes[host.integers(len(codes), size=count)])
            sign = _own(draw, host.choice((-1.0, 1.0), size=count))
            level = _own(draw, host.random(count))
            if self.magnitude is not None:
                level = np.full_like(level, self.magnitude / 30)
            images = apply_choice(images, Choice.of(code, level, sign), self.fill)
        if self.cut_out == 0:
            return images
        height, width = (max(1, round(side * self.cut_out)) for side in images.shape[-2:])
        return cut_out(images, draw.within("cut_out"), (height, width))


@dataclass(frozen=True)
class Strong(RandAugment):
    """Four random operations of random magnitude and one cut-out of half the side (SCAN).

    SCAN (arXiv 2005.12320), section 3; RandAugment (arXiv 1909.13719); Cutout (arXiv 1708.04552).
    For embeddings: the weak view's noise and dropout, several times as strong.

    Args:
        tiny: the view of tiny images (up to 12 pixels) instead, of which four operations leave
            nothing to recognise: the affine map, intensity and noise of contrastive learning.

    Differences from the paper:
        1. The crop is of the zero-padded image, as in the weak view.
        2. Tiny images get another view: four operations and a cut-out of half the side leave too
           little of 8 by 8 pixels.
    """

    name: ClassVar[str] = "strong"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    citation: ClassVar[str] = "Van Gansbeke et al., SCAN, arXiv 2005.12320"

    num_operations: int = 4
    magnitude: float | None = None
    cut_out: float = 0.5
    noise: float = 0.3
    dropout: float = 0.3
    tiny: SimCLR | None = None

    @classmethod
    def for_data(cls, options: ViewOptions) -> Self:
        """Pad by an eighth of the side, flip where allowed; tiny images have their own view."""
        view = super().for_data(options)
        if options.kind == "embeddings" or max(options.size) > SMALL:
            return view
        return replace(view, tiny=SimCLR.for_data(options))

    def images(self, batch: Tensor, draw: Draw) -> Tensor:
        """Crop, flip, operations and cut-out; or the view of tiny images."""
        if self.tiny is not None:
            return self.tiny.images(batch, draw)
        return super().images(batch, draw)


def _all(draw: Draw, images: Tensor) -> int:
    """Number of images in the global batch."""
    return len(images) * draw.world


def _own(draw: Draw, whole: NDArray[T]) -> NDArray[T]:
    """This rank's rows of a host-side draw for the global batch, as `Draw.own_rows`."""
    return whole[draw.rank :: draw.world]
