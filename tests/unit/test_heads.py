"""Heads that read the last feature map: a decoder for any map and image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labelwise.models.heads import Decoder, HeadSpec, Linear, MapHead
from labelwise.models.network import Network
from support import Smooth

CASES = [
    # width, map, image, doublings
    (512, (4, 4), (3, 32, 32), 3),
    (128, (8, 8), (3, 32, 32), 2),
    (128, (2, 2), (1, 8, 8), 2),
    (512, (4, 4), (1, 28, 28), 3),
    (128, (7, 7), (1, 28, 28), 2),
    (2048, (7, 7), (3, 224, 224), 5),
    (192, (14, 14), (3, 224, 224), 4),
    (64, (8, 8), (3, 8, 8), 0),
    (64, (1, 1), (3, 8, 8), 3),
    (64, (1, 1), (2, 1, 1), 0),
    (32, (3, 2), (3, 97, 33), 5),
    (32, (4, 2), (3, 64, 32), 4),
    (32, (1, 7), (1, 1, 56), 3),
    (6, (10, 10), (3, 15, 15), 1),
    (6, (9, 9), (3, 8, 8), 0),
]


@pytest.mark.parametrize(("width", "grid", "shape", "doublings"), CASES)
def test_the_decoder_gives_images_of_any_size(
    width: int, grid: tuple[int, int], shape: tuple[int, ...], doublings: int
) -> None:
    """On the meta device: only shapes are computed."""
    decoder = Decoder(width, grid, shape).to("meta")
    images = decoder(torch.empty(2, width, *grid, device="meta"))
    assert images.shape == (2, *shape)
    layers = list(decoder.layers)
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in layers) == doublings
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert not isinstance(layers[-1], nn.ReLU), "images in normalised units may be negative"


def test_the_decoder_of_the_authors() -> None:
    """512 -> 256 -> 128 -> 3 from PreAct ResNet-18 at 32 pixels."""
    layers = [m for m in Decoder(512, (4, 4), (3, 32, 32)).layers if not isinstance(m, nn.ReLU)]
    widths = [(m.in_channels, m.out_channels) for m in layers]  # type: ignore[union-attr]
    assert widths == [(512, 256), (256, 128), (128, 3)]


def test_widths_stay_between_the_narrowest_and_the_widest() -> None:
    layers = Decoder(2048, (1, 1), (3, 256, 256)).layers
    widths = [m.out_channels for m in layers if isinstance(m, nn.ConvTranspose2d)]
    assert widths == [256, 128, 64, 32, 16, 16, 16, 3]


def test_every_pixel_feels_the_map_and_the_other_way_round() -> None:
    """No layer is cut off, and a mistake anywhere in the image reaches the encoder."""
    torch.manual_seed(0)
    decoder = Decoder(8, (4, 3), (2, 15, 12))
    maps = torch.randn(1, 8, 4, 3, requires_grad=True)
    images = decoder(maps)
    (gradient,) = torch.autograd.grad(images.square().sum(), maps)
    assert bool((gradient.abs().amax(1) > 0).all())
    assert bool(images.flatten().unique().numel() > 300)


def test_a_network_hands_the_map_to_map_heads_and_features_to_others() -> None:
    class Remember(MapHead):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return maps

    class Features(Linear):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    heads: dict[str, nn.Module] = {"map": Remember(), "vector": Features(6, 3)}
    network = Network(Smooth.build((1, 8, 8)), 3, torch.zeros(1), torch.ones(1), heads)
    names = ("map", "vector", "features", "feature_map")
    outputs = network(torch.rand(2, 1, 8, 8), heads=names)
    assert set(outputs) == set(names)
    assert torch.equal(outputs["map"], outputs["feature_map"])
    assert torch.equal(outputs["vector"], outputs["features"])
    assert torch.allclose(outputs["map"].mean((2, 3)), outputs["features"], atol=1e-6)


def test_a_head_can_run_on_some_rows_only() -> None:
    """Those rows in that order; every other output is of all rows."""
    torch.manual_seed(0)
    backbone = Smooth.build((1, 8, 8))
    heads: dict[str, nn.Module] = {"image": Decoder(6, (4, 4), (1, 8, 8)), "vector": Linear(6, 2)}
    network = Network(backbone, 3, torch.zeros(1), torch.ones(1), heads)
    inputs, rows = torch.rand(5, 1, 8, 8), torch.tensor([3, 0])
    names = ("classes", "features", "image", "vector")
    whole = network(inputs, heads=names)
    part = network(inputs, heads=names, rows={"image": rows, "vector": rows[:1]})
    assert torch.allclose(part["image"], whole["image"][rows], atol=1e-6)
    assert torch.allclose(part["vector"], whole["vector"][rows[:1]], atol=1e-6)
    assert torch.equal(part["classes"], whole["classes"])
    assert torch.equal(part["features"], whole["features"])


def test_the_map_size_is_not_asked_where_no_head_reads_the_map() -> None:
    spec = HeadSpec(4, 3, (1, 8, 8))
    assert spec.map_size() == (1, 1)
