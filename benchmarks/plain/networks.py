"""The plain side's networks and optimisers, on already normalised images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.data.store import input_statistics
from labelwise.models.build import HeadFactory, NetworkSpec, build_network
from labelwise.models.network import Network
from labelwise.rng import Draw

CLASSES = 10
AUTOCAST: Mapping[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class Peers:
    """Networks of one shape with an optimiser each, called one by one.

    Args:
        networks: of the same class as labelwise's; their normalisation is left to the loader.
        optimisers: SGD with momentum.
        device: where they are.
        precision: "32-true", "bf16-mixed" or "16-mixed".
    """

    networks: list[Network]
    optimisers: list[torch.optim.SGD]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "32-true"

    @classmethod
    def of(
        cls,
        model: str,
        inputs: Tensor,
        count: int,
        heads: HeadFactory | None = None,
        device: str = "cpu",
        precision: str = "32-true",
    ) -> Peers:
        """Build `count` networks for images (N, C, H, W) uint8."""
        mean, std = input_statistics(inputs)
        spec = NetworkSpec(model, tuple(inputs.shape[1:]), CLASSES)
        networks = [
            build_network(spec, mean, std, Draw(number), heads).to(device)
            for number in range(count)
        ]
        optimisers = [
            torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
            for network in networks
        ]
        return cls(networks, optimisers, torch.device(device), precision)

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the channels (C), which the loader divides out."""
        network = self.networks[0]
        return network.mean.cpu().numpy(), network.std.cpu().numpy()

    @property
    def pin(self) -> bool:
        """Whether the loader should pin its batches."""
        return self.device.type == "cuda"

    def here(self, batch: Any) -> Any:
        """A loader's batch, moved to the device."""
        if isinstance(batch, Tensor):
            return batch.to(self.device, non_blocking=True)
        return [self.here(part) for part in batch]

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward runs under."""
        if self.precision not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.precision])

    def maps(self, number: int, inputs: Tensor) -> Tensor:
        """The last feature map (B, F, h, w)."""
        with self.autocast():
            found: Tensor = self.networks[number].backbone(inputs)
        return found

    def head(self, number: int, maps: Tensor, name: str = "classes") -> Tensor:
        """What a head makes of the pooled features, float32."""
        with self.autocast():
            found: Tensor = self.networks[number].heads[name](maps.mean((2, 3)))
        return found.float()

    def logits(self, number: int, inputs: Tensor, name: str = "classes") -> Tensor:
        """Class logits (B, K), or what another head makes of the features."""
        return self.head(number, self.maps(number, inputs), name)

    def update(self, number: int, loss: Tensor) -> float:
        """Backward and optimiser step."""
        self.optimisers[number].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers[number].step()
        return loss.item()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all networks."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr

    @torch.no_grad()
    def losses(self, number: int, batches: Any) -> Tensor:
        """Cross-entropy (N) of every image under one network, in order, on the host."""
        self.networks[number].eval()
        found = []
        for batch in batches:
            (images,), labels, _ = self.here(batch)
            loss = F.cross_entropy(self.logits(number, images), labels, reduction="none")
            found.append(loss.cpu())
        self.networks[number].train()
        return torch.cat(found)

    @torch.no_grad()
    def accuracy(self, batches: Any) -> float:
        """Share of images that the networks' mean prediction gets right."""
        right = total = 0
        for network in self.networks:
            network.eval()
        for batch in batches:
            (images,), labels, _ = self.here(batch)
            guesses = [self.logits(n, images).softmax(1) for n in range(len(self.networks))]
            right += int((torch.stack(guesses).sum(0).argmax(1) == labels).sum())
            total += len(labels)
        return right / total
