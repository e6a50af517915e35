"""Resolving device and precision, and the messages when that cannot be done."""

from __future__ import annotations

import pytest
import torch

from labelwise.errors import UserError
from labelwise.training import engine
from labelwise.training.engine import PRECISIONS, launch, resolve_device, resolve_precision

LARGE, SMALL, ROWS = (3, 32, 32), (1, 8, 8), (64,)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("no_cuda")
def test_device_without_an_accelerator() -> None:
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match=r"no CUDA device here\. Use --device cpu"):
        resolve_device("cuda")


@pytest.mark.usefixtures("cuda")
def test_device_with_an_accelerator() -> None:
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("cuda") == "cuda"


@pytest.mark.parametrize(("asked", "meant"), [("gpu", "cpu"), ("cuba", "cuda"), ("Auto", "auto")])
def test_unknown_device_suggests(asked: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown device '{asked}'.*Did you mean '{meant}'"):
        resolve_device(asked)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_asked_for_is_kept(precision: str) -> None:
    for device in ("cpu", "cuda"):
        assert resolve_precision(precision, device, SMALL) == precision


def test_unknown_precision_suggests() -> None:
    with pytest.raises(UserError, match="Did you mean 'bf16-mixed'"):
        resolve_precision("bf16", "cpu", LARGE)


@pytest.mark.parametrize("has", [True, False])
def test_precision_on_a_cpu(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(engine, "cpu_has_bf16", lambda: has)
    assert resolve_precision("auto", "cpu", LARGE) == ("bf16-mixed" if has else "32-true")
    assert resolve_precision("auto", "cpu", SMALL) == "32-true"
    assert resolve_precision("auto", "cpu", ROWS) == "32-true"


@pytest.mark.parametrize("has", [True, False])
def test_precision_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    for shape in (LARGE, SMALL, ROWS):
        assert resolve_precision("auto", "cuda", shape) == ("bf16-mixed" if has else "32-true")


def test_cpu_check_survives_a_torch_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(engine.cpu_has_bf16(), bool)
    monkeypatch.setattr(torch, "cpu", object())
    assert engine.cpu_has_bf16() is False


def test_single_process() -> None:
    fabric = launch("cpu", 1, "32-true")
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
    assert fabric.is_global_zero
