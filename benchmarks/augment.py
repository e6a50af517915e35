"""Time our augmentations beside kornia's and PIL's: alternated in one run, medians, JSON.

Run `python benchmarks/augment.py [--threads 1] [--batch 256] [--rounds 15]`. Every round times each
contender once, so that whatever else the machine does falls on all of them; figures are images
per second from the median time of a batch of 32×32×3 uint8 images, conversion to float included.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from labelwise.augment.view import ViewOptions, build_view
from labelwise.rng import Draw

SUB_BATCH = 8  # kornia's policies choose once per call: cut the batch to keep its variety


def ours(name: str, images: Tensor) -> Callable[[int], object]:
    view = build_view(name, ViewOptions())
    return lambda step: view(images, Draw(seed=0, step=step))


def kornia_whole(module: nn.Module, images: Tensor) -> Callable[[int], object]:
    return lambda step: module(images.float() / 255)


def kornia_parts(module: nn.Module, crop: nn.Module, images: Tensor) -> Callable[[int], object]:
    def run(step: int) -> Tensor:
        unit = crop(images.float() / 255)[torch.randperm(len(images))]
        return torch.cat([module(part) for part in unit.split(SUB_BATCH)])

    return run


def pil_crop_flip(images: Tensor) -> Callable[[int], object]:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def run(step: int) -> Tensor:
        views = []
        for picture in pictures:
            left, top = random.randint(0, 8), random.randint(0, 8)
            view = ImageOps.expand(picture, 4).crop((left, top, left + 32, top + 32))
            views.append(np.asarray(ImageOps.mirror(view) if random.random() < 0.5 else view))
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255

    return run


def contenders(images: Tensor) -> dict[str, Callable[[int], object]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation as K
        from kornia.augmentation.auto import AutoAugment, RandAugment
    crop = nn.Sequential(K.RandomCrop((32, 32), padding=4), K.RandomHorizontalFlip(0.5))
    simclr = nn.Sequential(
        K.RandomResizedCrop((32, 32), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
    )
    return {
        "weak/ours": ours("weak", images),
        "weak/kornia": kornia_whole(crop, images),
        "weak/pil": pil_crop_flip(images),
        "autoaugment/ours": ours("autoaugment", images),
        "autoaugment/kornia": kornia_parts(AutoAugment("cifar10"), crop, images),
        "randaugment/ours": ours("randaugment", images),
        "randaugment/kornia": kornia_parts(RandAugment(2, 10), crop, images),
        "strong/ours": ours("strong", images),
        "strong/kornia": kornia_parts(RandAugment(4, 10), crop, images),
        "simclr/ours": ours("simclr", images),
        "simclr/kornia": kornia_whole(simclr, images),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    images = torch.randint(0, 256, (options.batch, 3, 32, 32), dtype=torch.uint8)
    runs = contenders(images)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(options.rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(step)
            if step >= 2:  # the first two rounds warm up
                seconds[name].append(time.perf_counter() - start)
    rate = {name: options.batch / statistics.median(times) for name, times in seconds.items()}
    print(
        json.dumps(
            {
                "images_per_second": {name: round(value) for name, value in rate.items()},
                "times_kornia": {
                    name.split("/")[0]: round(value / rate[name.replace("ours", "kornia")], 2)
                    for name, value in rate.items()
                    if name.endswith("ours")
                },
                "batch": options.batch,
                "rounds": options.rounds,
                "threads": options.threads,
                "machine": platform.machine(),
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
