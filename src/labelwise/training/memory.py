"""Predict the peak memory of a run before it starts, and refuse early what cannot fit.

The prediction is the sum of what is live at the worst moment:

    process + later imports + gradients and momentum + ledger
    + training activations + evaluation activations + checkpoint buffer

Activations come from a trial on the meta device that follows every allocation of a forward (and
backward); they are counted for training *and* for evaluation because an allocator seldom fits the
blocks of the one into what the other freed. The process is what is resident when the prediction is
made: interpreter, libraries, data and weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labelwise.errors import NoMemory
from labelwise.models.heads import MapHead
from labelwise.models.network import Network

LATER = 100 * 2**20
"""Resident bytes of what is loaded after the prediction: optimiser, kernels, audit, report."""

INPUT_COPIES = 6
"""Float32 copies of a batch's inputs at once: anchors, views, joined, shuffled, mixed, scaled."""

FRAGMENTS = 1.5
"""Resident over live bytes of large evaluation blocks: the convolutions' scratch and what the
allocator cannot fit into its holes. Calibrated by `benchmarks/memory.py`."""

TRIALS = (512, 1024)
"""Batch sizes of the meta-device trials: activations then outweigh the weights' gradients."""


def saved_bytes(network: nn.Module, shape: Sequence[int], batch: int = 4) -> float:
    """Bytes per sample that a forward keeps for its backward (float32).

    Runs on the meta device: nothing is allocated or computed.

    Args:
        network: the network to ask; it is left as it was.
        shape: shape of one input.
        batch: samples of the trial forward.
    """
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


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the storages made inside the block; `peak` is the most bytes live at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @staticmethod
    def _gone(reference: StorageWeakRef) -> bool:
        return bool(reference.expired())  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {
            value.untyped_storage()._cdata
            for value in tree_leaves((args, kwargs))
            if isinstance(value, Tensor)
        }
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in inputs:  # views and in-place results are not new
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self.held[storage._cdata] = (reference, storage.nbytes())
        self.held = {k: entry for k, entry in self.held.items() if not self._gone(entry[0])}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result


def live_bytes(network: nn.Module, shape: Sequence[int], train: bool) -> float:
    """Bytes per sample live at the worst moment of a pass (float32), weights left out.

    Runs on the meta device. Two batch sizes are tried: their difference has no constant part.
    Training counts every head of a network of which one reads the feature map: a decoder keeps
    more than the other heads together, and runs in one forward with them.

    Args:
        network: the network to ask; it is left as it was.
        shape: shape of one input.
        train: forward and backward; else a forward without gradient.
    """
    trial = copy.deepcopy(network).to("meta").train(train)
    options = {"heads": tuple(trial.heads)} if train and _reads_maps(trial) else {}
    peaks: list[int] = []
    for batch in TRIALS:
        trial.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(train), _Live() as live:
            outputs = trial(torch.empty(batch, *shape, device="meta"), **options)
            if train:
                total = torch.stack([value.float().sum() for value in outputs.values()]).sum()
                total.backward()  # type: ignore[no-untyped-call]
        peaks.append(live.peak)
    return (peaks[1] - peaks[0]) / (TRIALS[1] - TRIALS[0])


def _reads_maps(network: nn.Module) -> TypeGuard[Network]:
    """Whether it is a `Network` with a head that reads the last feature map."""
    return isinstance(network, Network) and any(
        isinstance(head, MapHead) for head in network.heads.values()
    )


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
    num_test: int = 0,
) -> dict[str, int]:
    """Predict the peak memory of a run, in bytes by part; the sum is the peak.

    The networks and the inputs must have been built already. With inputs on the host, "process"
    is the resident memory now (without the inputs, which stand apart) and the sum is the peak
    resident memory; see the module's formula.

    Args:
        network: one of the networks.
        num_peers: P.
        inputs: the stored training inputs (N, *S).
        rows: rows of the largest forward with gradient, over all sides and views.
        ledger_bytes_per_sample: of all peers.
        mixed_precision: activations take half the bytes.
        block: batch size of passes without gradient.
        num_test: number of test samples.
    """
    shape = tuple(inputs.shape[1:])
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    stored = inputs.numel() * inputs.element_size()
    block = min(block, max(len(inputs), num_test))
    scale = 0.5 if mixed_precision else 1.0
    sample = 4 * math.prod(shape)
    train = rows * (live_bytes(network, shape, True) * scale + INPUT_COPIES * sample)
    score = FRAGMENTS * block * (live_bytes(network, shape, False) * scale + sample)
    return {
        "process": max(0, resident_bytes() - stored),
        "later imports": LATER,
        "inputs": stored,
        "networks": num_peers * weights * 2,  # gradients and momentum
        "ledger": len(inputs) * ledger_bytes_per_sample,
        "training": math.ceil(train),
        "evaluation": math.ceil(score),
        "checkpoint": num_peers * weights * 2,  # weights and momentum, once in a buffer
    }


def require_memory(parts: Mapping[str, int], device: torch.device) -> None:
    """Refuse a run that cannot fit.

    Args:
        parts: as predicted by `predict_bytes`.
        device: where the run will be. Of the parts, "process" is taken already; so are the
            inputs on the host, while an accelerator gets a copy of them.

    Raises:
        NoMemory: naming the parts and what to make smaller.
    """
    free = available_bytes(device)
    taken = {"process", "later imports"} if device.type == "cuda" else {"process", "inputs"}
    coming = {name: value for name, value in parts.items() if name not in taken}
    need = sum(coming.values())
    if free is not None and need > free:
        listed = ", ".join(f"{name} {value / 2**30:.1f} GiB" for name, value in coming.items())
        raise NoMemory(
            f"the run needs about {need / 2**30:.1f} GiB on {device}, but {free / 2**30:.1f} GiB "
            f"are free ({listed}). Use a smaller --batch-size, --model, --image-size or --limit."
        )
