"""Predict the peak memory of a run before it starts, and refuse early what cannot fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from labelwise.errors import UserError


def saved_bytes(network: nn.Module, shape: Sequence[int], batch: int = 4) -> float:
    """Bytes per sample that a forward keeps for its backward (float32).

    Runs on the meta device: nothing is allocated or computed.

    Args:
        network: the network to ask; it is left as it was.
        shape: shape of one input.
        batch: samples of the trial forward.
    """
    import copy

    seen: dict[int, int] = {}
    keep: list[torch.Tensor] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (batch,):
            keep.append(tensor)  # held, so that an id is not given twice
            seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    trial = copy.deepcopy(network).to("meta")
    with saved_tensors_hooks(count, lambda tensor: tensor):
        trial(torch.empty(batch, *shape, device="meta"))
    return sum(seen.values()) / batch


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be allocated on a device, or None if it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((Path("/sys/fs/cgroup") / name).read_text())
        except (OSError, ValueError):
            continue
        free = min(free, max(0, limit - resident_bytes()))
    return free


def resident_bytes() -> int:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096


def predict_bytes(
    network: nn.Module,
    num_peers: int,
    inputs: torch.Tensor,
    rows: int,
    ledger_bytes_per_sample: int,
    mixed_precision: bool,
    block: int = 1024,
) -> dict[str, int]:
    """Predict what a run will allocate, in bytes by part.

    Args:
        network: one of the networks.
        num_peers: P.
        inputs: the stored training inputs (N, *S).
        rows: rows of the largest forward with gradient, over all sides and views.
        ledger_bytes_per_sample: of all peers.
        mixed_precision: activations take half the bytes (batch statistics stay float32).
        block: batch size of passes without gradient.
    """
    shape = tuple(inputs.shape[1:])
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    saved = saved_bytes(network, shape)
    scale = 0.55 if mixed_precision else 1.0
    activations = max(rows * saved * scale * 1.35, block * saved * scale * 0.45)
    return {
        "inputs": inputs.numel() * inputs.element_size(),
        "networks": num_peers * weights * 3,  # weights, gradients, momentum
        "ledger": len(inputs) * ledger_bytes_per_sample,
        "activations": math.ceil(activations),
        "checkpoint": num_peers * weights * 2,  # weights and momentum, once in a buffer
    }


def require_memory(parts: dict[str, int], device: torch.device) -> None:
    """Refuse a run that cannot fit.

    Raises:
        UserError: naming the parts and what to make smaller.
    """
    free = available_bytes(device)
    need = sum(value for name, value in parts.items() if name != "inputs")
    if device.type == "cuda":
        need += parts["inputs"]
    if free is not None and need > free:
        listed = ", ".join(f"{name} {value / 2**30:.1f} GiB" for name, value in parts.items())
        raise UserError(
            f"the run needs about {need / 2**30:.1f} GiB on {device}, but {free / 2**30:.1f} GiB "
            f"are free ({listed}). Use a smaller --batch-size, --model, --image-size or --limit."
        )
