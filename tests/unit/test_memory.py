import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from labelwise.errors import UserError
from labelwise.models.build import HeadFactory, NetworkSpec, build_network
from labelwise.models.heads import Decoder, Projection
from labelwise.rng import Draw
from labelwise.training import memory

CPU = torch.device("cpu")


def network(model: str, shape: tuple[int, ...], heads: HeadFactory | None = None) -> nn.Module:
    wide = shape[0]
    return build_network(
        NetworkSpec(model, shape, 10), torch.zeros(wide), torch.ones(wide), Draw(0), heads
    )


class Chain(nn.Module):
    """Two squarings, of which each saves its input: known to the byte."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"classes": (inputs * self.scale).square().square()}


def test_saved_bytes_of_a_known_chain():
    # inputs (for the scale's gradient) and the inputs of both squarings: three tensors of 5 floats
    assert memory.saved_bytes(Chain(), (5,)) == 3 * 5 * 4


@pytest.mark.parametrize(
    ("model", "shape"), [("small_resnet", (3, 32, 32)), ("small_resnet", (1, 8, 8)), ("mlp", (64,))]
)
def test_saved_bytes_are_what_a_real_forward_saves(model, shape):
    net, batch = network(model, shape), 8
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (batch,):
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = net(torch.rand(batch, *shape))
    real = sum(t.untyped_storage().nbytes() for p, t in saved.items() if p not in weights) / batch
    del outputs
    assert memory.saved_bytes(net, shape) == pytest.approx(real, rel=0.05)


def test_live_bytes_of_a_known_chain():
    # without gradient: the batch, an operation's operand and its result
    assert memory.live_bytes(Chain(), (5,), train=False) == pytest.approx(3 * 5 * 4)


@pytest.mark.parametrize(("model", "shape"), [("small_resnet", (3, 32, 32)), ("mlp", (64,))])
def test_training_needs_what_is_saved_and_more_than_evaluation(model, shape):
    net = network(model, shape)
    train = memory.live_bytes(net, shape, train=True)
    assert train >= memory.saved_bytes(net, shape)
    assert train > memory.live_bytes(net, shape, train=False)


def test_a_trial_leaves_the_network_alone():
    net = network("small_resnet", (3, 8, 8)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    memory.live_bytes(net, (3, 8, 8), train=True)
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_decoder_counts_in_training_alone():
    """It runs in one forward with the other heads, and never when samples are scored."""
    shape = (3, 32, 32)
    plain = network("small_resnet", shape)
    rebuilding = network(
        "small_resnet",
        shape,
        lambda spec: {"image": Decoder(spec.num_features, spec.map_size(), spec.shape)},
    )
    held = {train: memory.live_bytes(rebuilding, shape, train) for train in (True, False)}
    assert held[False] == memory.live_bytes(plain, shape, train=False)
    decoder = rebuilding.get_submodule("heads.image")
    saved = memory.saved_bytes(decoder, (128, 8, 8))  # the map and what lies between its layers
    assert saved == 4 * (128 * 8 * 8 + 64 * 16 * 16)
    before = memory.saved_bytes(plain, shape)
    assert held[True] >= before + saved - 4 * 128 * 8 * 8  # the map is both sides'
    assert held[True] > memory.live_bytes(plain, shape, train=True)
    assert all(parameter.grad is None for parameter in rebuilding.parameters())


def test_heads_on_features_cost_next_to_nothing():
    """They are left out: a projection keeps a few numbers per sample."""
    shape = (3, 8, 8)
    projecting = network("small_resnet", shape, lambda spec: {"z": Projection(spec.num_features)})
    plain = network("small_resnet", shape)
    assert memory.live_bytes(projecting, shape, True) == memory.live_bytes(plain, shape, True)


def predicted(**changes) -> dict[str, int]:
    given = {
        "network": network("small_resnet", (3, 8, 8)),
        "num_peers": 2,
        "inputs": torch.zeros(3000, 3, 8, 8, dtype=torch.uint8),
        "rows": 256,
        "ledger_bytes_per_sample": 40,
        "mixed_precision": False,
    }
    return memory.predict_bytes(**{**given, **changes})


def test_exact_parts():
    parts = predicted()
    weights = sum(4 * p.numel() for p in network("small_resnet", (3, 8, 8)).parameters())
    assert parts["inputs"] == 3000 * 3 * 8 * 8
    assert parts["ledger"] == 3000 * 40
    assert parts["networks"] == parts["checkpoint"] == 2 * 2 * weights
    assert 0 < parts["process"] < memory.resident_bytes() * 1.1


def test_activations_scale_with_rows_and_precision():
    full, half = predicted(), predicted(mixed_precision=True)
    assert predicted(rows=512)["training"] == pytest.approx(2 * full["training"], rel=1e-6)
    assert full["training"] / 2 < half["training"] < full["training"]  # inputs stay float32


def test_evaluation_blocks_are_no_larger_than_the_data():
    few = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    share = 100 / 1024
    small, large = predicted(inputs=few), predicted()
    assert small["evaluation"] == pytest.approx(share * large["evaluation"], rel=1e-3)
    assert predicted(inputs=few, num_test=5000)["evaluation"] == large["evaluation"]


def test_what_fits_is_let_through(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    memory.require_memory({"process": 10**9, "inputs": 10**9, "training": 1000}, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    memory.require_memory({"training": 10**15}, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 999)
    with pytest.raises(UserError):  # one byte less is refused
        memory.require_memory({"process": 10**9, "inputs": 10**9, "training": 1000}, CPU)


def test_what_does_not_fit_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    with pytest.raises(UserError, match=r"about 3\.0 GiB on cpu.*1\.0 GiB are free.*--batch-size"):
        memory.require_memory({"training": 2 * 2**30, "evaluation": 2**30}, CPU)


def test_an_accelerator_also_needs_the_inputs(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    with pytest.raises(UserError, match="inputs 2"):
        memory.require_memory({"process": 0, "inputs": 2 * 2**30}, torch.device("cuda"))
