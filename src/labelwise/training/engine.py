"""Device, precision and processes: resolve "auto", launch Lightning Fabric."""

from __future__ import annotations

import ctypes
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch

from labelwise.errors import UserError, unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def resolve_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto", or the device asked for if it is there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here. Use --device cpu.")
    return device


def resolve_precision(precision: str, device: str, shape: tuple[int, ...]) -> str:
    """Return the precision for "auto", or the one asked for.

    bf16 autocast is chosen where the hardware multiplies it natively. On a CPU that was measured
    to pay from 32-pixel images on (1.5 to 1.9 times faster on an AVX512-bf16 machine) and for wide
    embeddings (1.5 times and more at D = 512), and to cost some 10 % on 8-pixel images, whose
    steps are bound by overhead. A GPU without bf16 trains in float32 unless 16-mixed is asked
    for: its gradient scale is not part of a checkpoint.
    """
    if precision != "auto":
        if precision not in PRECISIONS:
            raise unknown("precision", precision, ("auto", *PRECISIONS))
        return precision
    if device == "cuda":
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    large = min(shape[1:]) >= 16 if len(shape) == 3 else shape[0] >= 256
    return "bf16-mixed" if large and cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-bf16 or AMX), so that it pays."""
    cpu = torch.cpu
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(cpu, check, lambda: False)() for check in checks)


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep freed blocks instead of handing them back after every step.

    Large activations are otherwise mapped, faulted in and unmapped in each step: 6 % of the time of
    a bf16 step of PreAct ResNet-18 on 256 images (one thread). The price is a peak that is higher
    by the holes in the heap. Other systems and allocators are left alone; the setting holds for
    the whole process.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, -1)  # never trim
        mallopt(mmap_threshold, 2**31 - 1)  # map only blocks above 2 GiB on their own


def launch(device: str, devices: int, precision: str) -> Fabric:
    """Start the engine; one process is just the smallest case.

    Args:
        device: "cpu" or "cuda".
        devices: processes on this machine; several use DistributedDataParallel.
        precision: resolved precision.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision, Precision
    from lightning_fabric.strategies.ddp import DDPStrategy

    class Autocast(MixedPrecision):
        """Autocast alone: inputs reach the network as they are and are normalised in float32."""

        def convert_input(self, data: Any) -> Any:
            return data

    plugin = (
        Precision() if precision == "32-true" else Autocast(precision=precision, device=device)  # type: ignore[arg-type]
    )

    if device == "cpu":
        keep_freed_memory()
    strategy = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # config.json says it all
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can be accelerated.*")
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            strategy=strategy,
            plugins=[plugin],
        )
        if devices > 1:
            fabric.launch()
    return fabric
