"""Asymmetric noise: classes are mistaken for a class that resembles them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.dataset import Dataset
from labelwise.noise.draws import Draws
from labelwise.noise.process import NoiseProcess

_ALIASES = {"car": "automobile", "plane": "airplane", "aeroplane": "airplane"}
_CIFAR10 = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
_CIFAR10_MAP = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
_CIFAR100_SUPERCLASSES = [
    line.split()
    for line in """
    beaver dolphin otter seal whale
    aquarium_fish flatfish ray shark trout
    orchid poppy rose sunflower tulip
    bottle bowl can cup plate
    apple mushroom orange pear sweet_pepper
    clock keyboard lamp telephone television
    bed chair couch table wardrobe
    bee beetle butterfly caterpillar cockroach
    bear leopard lion tiger wolf
    bridge castle house road skyscraper
    cloud forest mountain plain sea
    camel cattle chimpanzee elephant kangaroo
    fox porcupine possum raccoon skunk
    crab lobster snail spider worm
    baby boy girl man woman
    crocodile dinosaur lizard snake turtle
    hamster mouse rabbit shrew squirrel
    maple_tree oak_tree palm_tree pine_tree willow_tree
    bicycle bus motorcycle pickup_truck train
    lawn_mower rocket streetcar tank tractor
    """.strip().splitlines()
]


class Asymmetric(NoiseProcess):
    """Class c is given the label of its look-alike with probability `rate`.

    - CIFAR-10 (known by its ten class names, in any order): truck → automobile, bird → airplane,
      deer → horse, cat ↔ dog; the other five classes keep their labels. With equal classes only
      `rate / 2` of all labels are wrong.
    - CIFAR-100 (known by its class names): the next class of the same superclass, in alphabetical
      order, circularly.
    - Otherwise: the next class, `c + 1 mod K`.

    Patrini et al. (arXiv 1609.03683, section 5). Above a rate of 0.5 the wrong label of a class is
    more frequent than the right one.

    Differences from the paper:
        1. Labels flip independently, so realised rates vary binomially. The loader of DivideMix
           maps exactly `rate * N` random samples, half of which map to themselves on CIFAR-10:
           the same expected matrix.
    """

    name: ClassVar[str] = "asymmetric"
    citation: ClassVar[str] = (
        "Patrini et al. Making Deep Neural Networks Robust to Label Noise. CVPR 2017. "
        "arXiv 1609.03683"
    )
    convention: ClassVar[str] = "probability that a class with a look-alike is mistaken for it"

    def transition_matrix(self, num_classes: int, classes: tuple[str, ...] = ()) -> Tensor:
        """`1 - rate` on the diagonal and `rate` at the look-alike; 1 where there is none."""
        eye = torch.eye(num_classes, dtype=torch.float64)
        return (1.0 - self.rate) * eye + self.rate * eye[look_alikes(num_classes, classes)]

    def draw(self, data: Dataset, draws: Draws) -> Tensor:
        """Given labels (N)."""
        flipped = draws.uniform("flip") < self.rate
        target = look_alikes(data.num_classes, data.classes)[data.labels]
        return torch.where(flipped, target, data.labels)


def look_alikes(num_classes: int, classes: tuple[str, ...]) -> Tensor:
    """The class (K) int64 that each class is mistaken for; itself where it is never mistaken."""
    names = [_normal(name) for name in classes]
    if sorted(names) == _CIFAR10:
        return torch.tensor([names.index(_CIFAR10_MAP.get(name, name)) for name in names])
    groups = _CIFAR100_SUPERCLASSES
    if sorted(names) == sorted(name for group in groups for name in group):
        following = {
            name: group[(place + 1) % len(group)]
            for group in groups
            for place, name in enumerate(group)
        }
        return torch.tensor([names.index(following[name]) for name in names])
    return (torch.arange(num_classes) + 1) % num_classes


def _normal(name: str) -> str:
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return _ALIASES.get(plain, plain)
