"""Choosing and building networks, with timm there, missing, or broken."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from labelwise.errors import UserError
from labelwise.models import build
from labelwise.models.build import (
    NetworkSpec,
    auto_model,
    build_backbone,
    build_network,
    import_timm,
    map_size,
)
from labelwise.models.heads import Decoder, HeadSpec
from labelwise.models.network import Network
from labelwise.rng import Draw

BLANK = torch.zeros(3), torch.ones(3)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = importlib.import_module

    def importing(name: str, package: str | None = None) -> Any:
        if name == "timm":
            raise error
        return real(name, package)

    monkeypatch.setattr(build.importlib, "import_module", importing)


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ModuleNotFoundError("No module named 'timm'"))
    with pytest.raises(UserError, match=r"needs timm.*No module named 'timm'.*pip install timm"):
        import_timm()
    with pytest.raises(UserError, match="small_resnet"):
        build_backbone("resnet18", (3, 32, 32))
    assert build_backbone("small_resnet", (3, 32, 32)).num_features == 128


BROKEN = [
    RuntimeError("operator torchvision::nms does not exist"),
    pytest.param(
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'")
    ),
]


@pytest.mark.parametrize("error", BROKEN)
def test_timm_broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    with pytest.raises(UserError, match=r"installed but broken.*torchvision"):
        build_backbone("resnet18", (3, 32, 32))


def timm() -> Any:
    try:
        return import_timm()
    except UserError as error:
        pytest.skip(str(error))


def test_unknown_model_names_the_nearest() -> None:
    timm()
    with pytest.raises(UserError, match=r"'small_resnt'.*Did you mean 'small_resnet'"):
        build_backbone("small_resnt", (3, 32, 32))
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        build_backbone("resnet_18", (3, 32, 32))
    with pytest.raises(UserError, match=r"unknown model 'resnet18' for embeddings.*Known: mlp"):
        build_backbone("resnet18", (12,))


def test_timm_resnet_trains() -> None:
    timm()
    spec = NetworkSpec("resnet10t", (3, 32, 32), 5)
    network = build_network(spec, *BLANK, Draw(0, phase="network-0"))
    assert network.training
    outputs = network(torch.rand(4, 3, 32, 32), heads=("classes", "features", "feature_map"))
    assert outputs["classes"].shape == (4, 5)
    assert outputs["features"].shape == (4, network.backbone.num_features)
    assert outputs["feature_map"].ndim == 4
    outputs["classes"].sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    grey = build_network(NetworkSpec("resnet10t", (1, 32, 32), 5), *(v[:1] for v in BLANK), Draw(0))
    assert grey(torch.rand(2, 1, 32, 32))["classes"].shape == (2, 5)


def test_timm_transformer_takes_the_image_size_or_says_why_not() -> None:
    timm()
    network = build_network(NetworkSpec("vit_tiny_patch16_224", (3, 32, 32), 5), *BLANK, Draw(0))
    outputs = network(torch.rand(2, 3, 32, 32), heads=("classes", "features"))
    assert outputs["features"].shape == (2, network.backbone.num_features)
    with pytest.raises(UserError, match=r"does not take images of shape \(3, 8, 8\)"):
        build_backbone("vit_tiny_patch16_224", (3, 8, 8))


def token_network(model: str, shape: tuple[int, ...]) -> Network:
    timm()
    wide = torch.zeros(shape[0]), torch.ones(shape[0])
    return build_network(NetworkSpec(model, shape, 5), *wide, Draw(0)).eval()


@pytest.mark.parametrize(
    ("model", "num_prefix"),
    [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)],
)
def test_tokens_lie_as_their_patches_were_cut(model: str, num_prefix: int) -> None:
    network = token_network(model, (3, 64, 32))
    backbone = network.backbone
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        tokens = backbone(images)
        outputs = network(images, heads=("feature_map", "features"))
        pooled = backbone.model.forward_head(tokens, pre_logits=True)
    width = backbone.num_features
    assert tokens.shape == (2, num_prefix + 8, width)
    assert outputs["feature_map"].shape == (2, width, 4, 2)
    for row in range(4):
        for column in range(2):
            wanted = tokens[:, num_prefix + 2 * row + column]
            assert torch.equal(outputs["feature_map"][:, :, row, column], wanted)
    assert torch.equal(outputs["features"], pooled)
    assert map_size(backbone, (3, 64, 32)) == (4, 2)


def test_a_patch_that_changes_moves_its_own_cell_most() -> None:
    network = token_network("vit_tiny_patch16_224", (3, 64, 32))
    images = torch.rand(1, 3, 64, 32)
    other = images.clone()
    other[:, :, 32:48, 16:] = 0
    with torch.no_grad():
        maps = [network(x, heads=("feature_map",))["feature_map"] for x in (images, other)]
    moved = (maps[0] - maps[1]).square().sum(1).flatten()
    assert divmod(int(moved.argmax()), 2) == (2, 1)


def test_tokens_without_a_grid_are_pooled() -> None:
    """A mixer's patches have no order that it tells."""
    network = token_network("mixer_s32_224", (3, 64, 64))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        outputs = network(images, heads=("feature_map", "features"))
    assert outputs["feature_map"].shape == (2, network.backbone.num_features, 1, 1)
    assert torch.equal(outputs["feature_map"][:, :, 0, 0], outputs["features"])


def test_a_decoder_fits_tokens() -> None:
    timm()

    def heads(spec: HeadSpec) -> dict[str, nn.Module]:
        return {"image": Decoder(spec.num_features, spec.map_size(), spec.shape)}

    spec = NetworkSpec("vit_tiny_patch16_224", (3, 64, 32), 5)
    network = build_network(spec, *BLANK, Draw(0), heads)
    rebuilt = network(torch.rand(2, 3, 64, 32), heads=("image",))["image"]
    assert rebuilt.shape == (2, 3, 64, 32)
    rebuilt.square().mean().backward()
    found = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert found == {"backbone", "heads"}


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_weights_are_keyed_by_position() -> None:
    spec = NetworkSpec("small_resnet", (3, 8, 8), 4)
    first = build_network(spec, *BLANK, Draw(1, phase="network-0"))
    torch.rand(100)
    again = build_network(spec, *BLANK, Draw(1, phase="network-0"))
    peer = build_network(spec, *BLANK, Draw(1, phase="network-1"))
    other = build_network(spec, *BLANK, Draw(2, phase="network-0"))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(peer))
    assert not torch.equal(weights(first), weights(other))


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_network(NetworkSpec("small_resnet", (3, 8, 8), 4), *BLANK, Draw(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_specification_survives_json() -> None:
    import json

    spec = NetworkSpec("small_resnet", (3, 8, 8), 4)
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("shape", "num", "accelerated", "model"),
    [
        ((64,), 100, False, "mlp"),
        ((64,), 10**6, True, "mlp"),
        ((1, 8, 8), 10**6, True, "small_resnet"),
        ((3, 32, 32), 50_000, False, "small_resnet"),
        ((3, 32, 32), 5_000, True, "small_resnet"),
        ((3, 32, 32), 50_000, True, "preact_resnet18"),
    ],
)
def test_automatic_choice(shape: tuple[int, ...], num: int, accelerated: bool, model: str) -> None:
    assert auto_model(shape, num, accelerated) == model
