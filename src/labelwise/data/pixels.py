"""Arrays in memory to a data set's inputs: uint8 images (N, C, H, W) or float32 embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from labelwise.data.decode import allocate
from labelwise.data.wording import place, plural
from labelwise.errors import UserError

BLOCK_BYTES = 2**25
"""Bytes of input converted at a time, so that a float copy never doubles the memory."""
CHANNEL_COUNTS = (1, 3, 4)
FORMS = (
    "images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, or embeddings (N, D)"
)


def to_inputs(
    array: np.ndarray,
    rows: np.ndarray,
    ids: np.ndarray,
    size: int | None = None,
    channels: int | None = None,
) -> Tensor:
    """Bring the chosen rows to uint8 images (M, C, H, W) or float32 embeddings (M, D).

    Integer pixels must lie in 0 to 255 and are kept; floats must lie in 0 to 1 and are scaled.
    A fourth channel is opacity and is laid over white.

    Args:
        array: (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W); only `rows` are read from it.
        rows: (M) int64 row numbers.
        ids: N identifiers, for messages.
        size: side in pixels of the square images are resized and cropped to, or None.
        channels: 1 or 3 to force that many channels.

    Raises:
        UserError: the shape, the type or a value cannot be used.
    """
    if array.dtype.kind not in "biuf":
        raise UserError(f"inputs have type {array.dtype}: numbers are needed, {FORMS}.")
    if 0 in array.shape[1:]:
        raise UserError(f"inputs have shape {array.shape}: there is nothing in a sample.")
    if array.ndim == 2:
        return _embeddings(array, rows, ids)
    axis = _channel_axis(array.shape)
    block = max(1, BLOCK_BYTES // (4 * max(1, int(np.prod(array.shape[1:])))))
    result: np.ndarray | None = None
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        images = _with_channels(_to_bytes(array[chosen], chosen, ids), axis, channels)
        if size is not None:
            images = square(images, size)
        if result is None:
            result = allocate((len(rows), *images.shape[1:]))
        result[start : start + len(chosen)] = images
    assert result is not None, "no rows were chosen"
    return torch.from_numpy(result)


def _embeddings(array: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, reported below
        values = array[rows].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise UserError(
            f"{plural(len(bad), 'embedding')} of {len(rows):,} with NaN or infinity, the first at "
            f"{place(int(rows[bad[0]]), ids)}. Recompute or remove them."
        )
    return torch.from_numpy(values)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels, or None for grey images (N, H, W)."""
    if len(shape) == 3:
        return None
    if len(shape) != 4:
        raise UserError(f"inputs have shape {shape}: expected {FORMS}.")
    found = [axis for axis in (1, 3) if shape[axis] in CHANNEL_COUNTS]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"inputs have shape {shape}: channels may be axis 1 ({shape[1]}) or axis 3 "
            f"({shape[3]}). Pass images whose other sides are not 1, 3 or 4 pixels."
        )
    raise UserError(
        f"inputs have shape {shape}: neither axis 1 ({shape[1]}) nor axis 3 ({shape[3]}) counts "
        f"1, 3 or 4 channels. Expected {FORMS}."
    )


def _to_bytes(values: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return pixel values as uint8, refusing what is out of range."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    top = 1 if values.dtype.kind == "f" else 255
    flat = values.reshape(len(values), -1)
    # `~(...)` so that NaN, for which every comparison is false, is refused as well.
    wrong = np.flatnonzero(~((flat >= 0) & (flat <= top)).all(axis=1))
    if len(wrong):
        row = wrong[0]
        low, high = flat[row].min(), flat[row].max()
        what = "floating-point" if top == 1 else str(values.dtype)
        raise UserError(
            f"{what} pixels must lie in 0 to {top}; at {place(int(rows[row]), ids)} they reach "
            f"from {low:g} to {high:g}. Pass uint8 pixels (0 to 255), or floats scaled to 0 to 1 "
            f"(not standardised)."
        )
    if top == 255:
        return values.astype(np.uint8)
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def _with_channels(images: np.ndarray, axis: int | None, channels: int | None) -> np.ndarray:
    """Return uint8 images as (n, C, H, W) with C 1 or 3."""
    planes = images[:, None] if axis is None else np.moveaxis(images, axis, 1)
    if planes.shape[1] == 4:
        alpha = planes[:, 3:].astype(np.float32) / 255
        planes = np.rint(planes[:, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if channels == 3 and planes.shape[1] == 1:
        return np.repeat(planes, 3, axis=1)
    if channels == 1 and planes.shape[1] == 3:
        red, green, blue = np.moveaxis(planes.astype(np.uint32), 1, 0)
        # The integer weights and rounding of Pillow, so that files and arrays agree.
        luma: np.ndarray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        return luma[:, None].astype(np.uint8)
    return planes


def square(images: np.ndarray, size: int) -> np.ndarray:
    """Crop the centre square and resize it (bicubic, antialiased) to `size` x `size`."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(images[:, :, top : top + side, left : left + side])
    if side == size:
        return square
    values = torch.from_numpy(square).float()
    resized = functional.interpolate(
        values, (size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.round().clamp(0, 255).to(torch.uint8).numpy()
