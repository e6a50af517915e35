"""A model read back from its folder predicts what the trained networks do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labelwise.data.store import as_input
from labelwise.errors import UserError
from labelwise.models.build import NetworkSpec, build_network
from labelwise.models.stored import StoredModel, read_model
from labelwise.rng import Draw

SHAPES = {"mlp": (5,), "small_resnet": (1, 8, 8)}
CLASSES = ("cat", "dog", "owl")


def write_model(folder: Path, model: str, count: int = 2) -> list[nn.Module]:
    """Write `count` untrained networks and return them in eval mode."""
    folder.mkdir(parents=True)
    spec = NetworkSpec(model, SHAPES[model], len(CLASSES))
    networks: list[nn.Module] = []
    width = spec.shape[0]
    for number in range(count):
        statistics = torch.full((width,), 0.3), torch.full((width,), 0.7)
        network = build_network(spec, *statistics, Draw(number))
        torch.save(network.state_dict(), folder / f"network-{number}.pt")
        networks.append(network.eval())
    described = {"network": spec.to_json(), "num_networks": count, "classes": list(CLASSES)}
    (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")
    return networks


def some_inputs(model: str, count: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if model == "mlp":
        return torch.randn(count, *SHAPES[model], generator=generator)
    return torch.randint(0, 256, (count, *SHAPES[model]), generator=generator, dtype=torch.uint8)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model folder of a run on embeddings."""
    write_model(tmp_path / "run" / "model", "mlp")
    return tmp_path / "run" / "model"


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("count", [1, 2])
def test_the_mean_of_the_networks_probabilities(tmp_path: Path, model: str, count: int) -> None:
    networks = write_model(tmp_path / "model", model, count)
    stored = read_model(tmp_path / "model")
    inputs = some_inputs(model)
    with torch.no_grad():
        logits = [network(as_input(inputs))["classes"] for network in networks]
    expected = torch.stack([value.softmax(1) for value in logits]).mean(0)
    found = stored.predict_proba(inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(len(inputs)))
    assert stored.classes == CLASSES
    assert stored.shape == SHAPES[model]
    assert len(stored.networks) == count
    assert not any(network.training for network in stored.networks)


@pytest.mark.parametrize("model", SHAPES)
def test_the_block_size_does_not_matter(tmp_path: Path, model: str) -> None:
    write_model(tmp_path / "model", model)
    stored = read_model(tmp_path / "model")
    inputs = some_inputs(model)
    whole = stored.predict_proba(inputs)
    torch.testing.assert_close(stored.predict_proba(inputs, block=2), whole)
    torch.testing.assert_close(stored.predict_proba(inputs[4:5]), whole[4:5])


def test_predicting_keeps_no_gradient(folder: Path) -> None:
    stored = read_model(folder)
    assert isinstance(stored, StoredModel)
    assert not stored.predict_proba(some_inputs("mlp")).requires_grad


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labelwise resume .*run`"):
        read_model(tmp_path / "run" / "model")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"network": 3}', "\x00"])
def test_a_damaged_description_is_named(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        read_model(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "network-1.pt").unlink()
    with pytest.raises(UserError, match=r"network-1\.pt is missing or damaged"):
        read_model(folder)


def test_weights_cut_short_are_named(folder: Path) -> None:
    path = folder / "network-0.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"network-0\.pt is missing or damaged"):
        read_model(folder)


def test_weights_of_another_kind_are_named(folder: Path) -> None:
    (folder / "network-0.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"network-0\.pt is missing or damaged"):
        read_model(folder)


def test_empty_weights_are_named(folder: Path) -> None:
    (folder / "network-0.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"network-0\.pt is missing or damaged"):
        read_model(folder)


def test_weights_of_another_network_are_named(folder: Path) -> None:
    edit(folder, network={"model": "mlp", "shape": [6], "num_classes": 3})
    with pytest.raises(UserError, match=r"network-0\.pt is missing or damaged"):
        read_model(folder)


def test_an_unknown_backbone_is_named(folder: Path) -> None:
    edit(folder, network={"model": "mlpp", "shape": [5], "num_classes": 3})
    with pytest.raises(UserError, match="mlpp"):
        read_model(folder)
