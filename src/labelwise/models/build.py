"""Choose and build networks by name: our own backbones by discovery, any other from timm."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from labelwise.discovery import discover
from labelwise.errors import UserError, nearest
from labelwise.models.heads import HeadSpec
from labelwise.models.network import Backbone, Network, map_size
from labelwise.rng import Draw

HeadFactory = Callable[[HeadSpec], dict[str, nn.Module]]


@dataclass(frozen=True)
class NetworkSpec:
    """Everything needed to rebuild a network before its weights are loaded.

    Args:
        model: backbone name.
        shape: input shape (C, H, W) or (D,).
        num_classes: K.
    """

    model: str
    shape: tuple[int, ...]
    num_classes: int

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkSpec:
        """Rebuild the specification written by `to_json`."""
        return cls(str(data["model"]), tuple(data["shape"]), int(data["num_classes"]))


def auto_model(shape: Sequence[int], num_samples: int, accelerated: bool) -> str:
    """Choose a backbone from the input shape, the sample count and the hardware.

    Embeddings take the MLP. Images up to 12 pixels, fewer than 10,000 samples, or training on
    a CPU take the small ResNet; larger sets on an accelerator take PreAct ResNet-18.
    """
    if len(shape) == 1:
        return "mlp"
    small = min(shape[1:]) <= 12 or num_samples < 10_000 or not accelerated
    return "small_resnet" if small else "preact_resnet18"


class TimmBackbone(Backbone):
    """Any image backbone of timm, through its `forward_features`.

    Args:
        model: timm model name.
        shape: (C, H, W) of the images; models that need a fixed size are built for this one.
    """

    citation: ClassVar[str] = "Wightman, PyTorch Image Models"

    def __init__(self, model: str, shape: Sequence[int]) -> None:
        super().__init__()
        timm = import_timm()
        options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": shape[0]}
        try:
            self.model = timm.create_model(model, img_size=tuple(shape[1:]), **options)
        except TypeError:  # most convolutional models take any size and refuse `img_size`
            self.model = timm.create_model(model, **options)
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                probe = self.pool(self.forward(torch.zeros(1, *shape)))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"the timm model {model!r} does not take images of shape {tuple(shape)}: {error}. "
                "Choose another --model or an --image-size that it accepts."
            ) from error
        self.model.train(training)
        self.num_features = probe.shape[1]

    @classmethod
    def build(cls, shape: Sequence[int]) -> Backbone:
        """Not used: timm models are built by name in `build_backbone`."""
        raise AssertionError("timm models are built by name")

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> map (B, F, h, w), tokens (B, T, F) or features."""
        features = cast(Tensor, self.model.forward_features(inputs))
        if features.ndim == 4 and features.shape[1] != self.model.num_features:
            features = features.permute(0, 3, 1, 2)  # channels-last transformers
        return features

    def maps(self, raw: Tensor) -> Tensor:
        """The feature map (B, F, h, w); of tokens those of patches, laid out as they were cut.

        Tokens of a model that does not say how its patches lie are pooled to (B, F, 1, 1).
        """
        if raw.ndim != 3:
            return super().maps(raw)
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        patches = raw[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if grid is None or patches.shape[1:] != (grid[0] * grid[1], self.num_features):
            return super().maps(self.pool(raw))
        return patches.transpose(1, 2).reshape(len(raw), self.num_features, *grid)

    def pool(self, raw: Tensor) -> Tensor:
        """The features (B, F); tokens are pooled as timm does."""
        if raw.ndim != 3:
            return super().pool(raw)
        return cast(Tensor, self.model.forward_head(raw, pre_logits=True))


def import_timm() -> Any:
    """Import timm, or explain in one sentence why it cannot be."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            f"this model name needs timm, which cannot be imported ({error}). "
            "Install it with `pip install timm`, or choose one of labelwise's own: "
            f"{', '.join(sorted(discover('labelwise.models', Backbone)))}."
        ) from error
    except (
        RuntimeError,
        AttributeError,
    ) as error:  # torchvision built for another torch fails while importing
        raise UserError(
            f"timm is installed but broken: importing it failed with {error!s}. Usually "
            "torchvision was built for another torch: install the torchvision that matches "
            f"torch {torch.__version__}, or choose one of labelwise's own models."
        ) from error


def build_backbone(model: str, shape: Sequence[int]) -> Backbone:
    """Build a backbone by name: labelwise's own first, then timm's.

    Raises:
        UserError: for an unknown name (with the nearest), or a model for the other input kind.
    """
    own = discover("labelwise.models", Backbone)
    kind = "embeddings" if len(shape) == 1 else "images"
    if model in own:
        if kind not in own[model].kinds:
            fitting = sorted(name for name, cls in own.items() if kind in cls.kinds)
            raise UserError(
                f"model {model!r} does not take {kind}; choose one of: {', '.join(fitting)}."
            )
        built: Backbone = own[model].build(shape)
        return built
    if kind == "embeddings":
        raise UserError(f"unknown model {model!r} for embeddings.{nearest(model, own)} Known: mlp.")
    timm = import_timm()
    if not timm.is_model(model):
        names = [*own, *timm.list_models()]
        raise UserError(
            f"unknown model {model!r}.{nearest(model, names)} labelwise's own: "
            f"{', '.join(sorted(own))}; any timm model name works too."
        )
    return TimmBackbone(model, shape)


def build_network(
    spec: NetworkSpec, mean: Tensor, std: Tensor, draw: Draw, heads: HeadFactory | None = None
) -> Network:
    """Build one network with weights initialised from a position-keyed draw.

    Args:
        spec: backbone name, input shape, classes.
        mean: per-channel or per-feature mean of the training inputs, in the network's input units.
        std: the standard deviations likewise.
        draw: where the initial weights come from; peers get different positions.
        heads: makes the extra heads a method needs.
    """
    with draw.forked("weights"):
        backbone = build_backbone(spec.model, spec.shape)
        extra = heads(head_spec(backbone, spec)) if heads else None
        return Network(backbone, spec.num_classes, mean, std, extra)


def head_spec(backbone: Backbone, spec: NetworkSpec) -> HeadSpec:
    """What the heads of a network must fit."""
    size = partial(map_size, backbone, spec.shape)
    return HeadSpec(backbone.num_features, spec.num_classes, spec.shape, size)
