"""Pre-activation ResNets (He et al., arXiv 1603.05027) for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.models.network import Backbone


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice plus the shortcut (He et al., figure 4e).

    Where the block changes the shape, the shortcut starts after the first activation.
    """

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_in)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Conv2d(num_in, num_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H/stride, W/stride)."""
        active = F.relu(self.norm1(x), inplace=True)
        skip = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv1(active)
        out: Tensor = self.conv2(F.relu(self.norm2(inner), inplace=True))
        return out + skip


class PreActResNet(Backbone):
    """Stem without pooling, stages of `PreActBlock`, final BN-ReLU.

    Args:
        channels: image channels.
        widths: channels of each stage; every stage after the first halves the size.
        blocks: number of blocks in each stage.
    """

    citation: ClassVar[str] = "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016"

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        stages: list[nn.Module] = []
        num_in = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(PreActBlock(num_in, width, stride))
                num_in = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(num_in)
        self.num_features = num_in

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, F, h, w) feature map."""
        return F.relu(self.norm(self.stages(self.stem(inputs))), inplace=True)


class PreActResNet18(PreActResNet):
    """PreAct ResNet-18, the network of the papers' CIFAR tables (11.2 million weights)."""

    name: ClassVar[str] = "preact_resnet18"

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for images of shape (C, H, W)."""
        return cls(shape[0], (64, 128, 256, 512), (2, 2, 2, 2))


class PreActResNet34(PreActResNet):
    """PreAct ResNet-34 (21.3 million weights)."""

    name: ClassVar[str] = "preact_resnet34"

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for images of shape (C, H, W)."""
        return cls(shape[0], (64, 128, 256, 512), (3, 4, 6, 3))


class SmallResNet(PreActResNet):
    """Three stages of one block: the default for tiny images, few samples and a CPU.

    Width 16-32-64 up to 12 pixels, 32-64-128 above. A further halving stage is added for every
    doubling beyond 48 pixels, so that the last feature map stays near 8 x 8.
    """

    name: ClassVar[str] = "small_resnet"

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Construct it for images of shape (C, H, W)."""
        size = min(shape[1], shape[2])
        widths = [16, 32, 64] if size <= 12 else [32, 64, 128]
        while size > 48:
            widths.append(min(256, widths[-1] * 2))
            size //= 2
        return cls(shape[0], widths, [1] * len(widths))
