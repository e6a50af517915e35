"""Many encoded images to one uint8 tensor: in threads, in chunks, with bounded memory."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labelwise.data.images import BadImage, Content, pixels, upright_size
from labelwise.data.wording import few, plural
from labelwise.errors import UserError

CHUNK = 128
"""Images per task: small enough that few are in flight, large enough to hide the hand-over."""
THREAD_BYTES = 8192
"""Mean encoded size (bytes) above which threads pay. Below it most of the time is Python's own,
and threads that wait for the interpreter lock are slower than one loop (measured: 32 x 32 JPEG,
two cores, 1.05 s against 0.83 s for 10,000 images)."""
MAX_THREADS = 16


@dataclass(frozen=True)
class Encoded:
    """An image not decoded yet, and how messages name it."""

    place: str
    content: Content


@dataclass(frozen=True)
class Decoded:
    """Decoded images.

    Args:
        images: (M, C, H, W) uint8.
        kept: positions (M) int64 of those images among the ones asked for.
        bad: (place, reason) of each image that could not be used.
    """

    images: Tensor
    kept: np.ndarray
    bad: tuple[tuple[str, str], ...]


Result = np.ndarray | tuple[int, int] | BadImage
Chunk = list[Encoded]
Pending = deque[tuple[Chunk, Future[list[Result]]]]


class _Stack:
    """Collects images in one array that is allocated once and widened to colour once at most."""

    def __init__(self, count: int, channels: int | None) -> None:
        self.count = count
        self.channels = channels
        self.buffer: np.ndarray | None = None
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.kept: list[int] = []

    @property
    def mixed(self) -> bool:
        return len(self.sizes) > 1

    def add(self, position: int, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        self.sizes[width, height] += 1
        self.kept.append(position)
        if self.mixed:
            self.buffer = None
            return
        colour = image.ndim == 3
        if self.buffer is None:
            depth = self.channels or (3 if colour else 1)
            self.buffer = allocate((self.count, depth, height, width))
        elif colour and self.buffer.shape[1] == 1:
            self.buffer = np.repeat(self.buffer, 3, axis=1)
        self.buffer[position] = image.transpose(2, 0, 1) if colour else image


def decode(
    encoded: Iterable[Encoded], count: int, size: int | None = None, channels: int | None = None
) -> Decoded:
    """Decode `count` images into one tensor; C is 1 when all are grey, else 3.

    Args:
        encoded: the images, taken from the iterator a few chunks ahead of the decoding.
        count: how many there are.
        size: side in pixels of the square every image is brought to, or None.
        channels: 1 or 3 to force that many channels.

    Raises:
        UserError: the images have several sizes and `size` is None, or they cannot fit in memory.
    """
    stack = _Stack(count, channels)
    bad: list[tuple[str, str]] = []

    def read(chunk: Chunk) -> list[Result]:
        return [_read(item, size, channels, only_size=stack.mixed) for item in chunk]

    position = 0
    for chunk, results in _in_order(read, encoded):
        for item, result in zip(chunk, results, strict=True):
            if isinstance(result, BadImage):
                bad.append((item.place, str(result)))
            elif isinstance(result, tuple):
                stack.sizes[result] += 1
            else:
                stack.add(position, result)
            position += 1
    assert position == count, f"{position} images came, {count} were announced"
    if stack.mixed:
        raise _mixed_sizes(stack.sizes)
    if stack.buffer is None:
        place, reason = bad[0]
        raise UserError(
            f"not one of {plural(count, 'image')} can be read; the first, {place}: {reason}."
        )
    kept = np.asarray(stack.kept, dtype=np.int64)
    images = stack.buffer if len(kept) == count else stack.buffer[kept]
    return Decoded(torch.from_numpy(images), kept, tuple(bad))


def _read(item: Encoded, size: int | None, channels: int | None, only_size: bool) -> Result:
    # Once two sizes are known the images are of no use: headers alone complete the count.
    try:
        return upright_size(item.content) if only_size else pixels(item.content, size, channels)
    except BadImage as error:
        return error


def _in_order(
    read: Callable[[Chunk], list[Result]], encoded: Iterable[Encoded]
) -> Iterator[tuple[Chunk, list[Result]]]:
    """Yield each chunk with its results, in order, at most two chunks per thread ahead."""
    threads = min(MAX_THREADS, _cores())
    pending: Pending = deque()
    source = iter(encoded)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(source, CHUNK)):
            if not _threads_pay(chunk):
                while pending:
                    yield _finish(pending)
                yield chunk, read(chunk)
                continue
            pending.append((chunk, pool.submit(read, chunk)))
            if len(pending) >= 2 * threads:
                yield _finish(pending)
        while pending:
            yield _finish(pending)


def _cores() -> int:
    # The affinity counts what a container may use; it exists on Linux only.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads_pay(chunk: Chunk) -> bool:
    # Files may come from a slow disk, where threads always help.
    if any(isinstance(item.content, Path) for item in chunk):
        return True
    lengths = [len(item.content) for item in chunk if isinstance(item.content, bytes)]
    return sum(lengths) > THREAD_BYTES * len(chunk)


def _finish(pending: Pending) -> tuple[Chunk, list[Result]]:
    chunk, future = pending.popleft()
    return chunk, future.result()


def _mixed_sizes(sizes: Counter[tuple[int, int]]) -> UserError:
    found = few(
        (f"{width}x{height} ({plural(n, 'image')})" for (width, height), n in sizes.most_common(2)),
        len(sizes),
        shown=2,
    )
    short = min(max(min(sizes.most_common(1)[0][0]), 4), 224)
    return UserError(
        f"the images have {len(sizes)} different sizes: {found}. One size is needed: pass "
        f"--image-size {short} (the short side is resized to it and the centre is cropped)."
    )


def allocate(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return an uninitialised uint8 array, or refuse before the machine starts to swap."""
    needed, free = int(np.prod(shape, dtype=np.int64)), free_memory()
    if free is not None and needed > free:
        count, channels, height, width = shape
        raise UserError(
            f"{count:,} images of {width}x{height} pixels and {channels} channels need "
            f"{needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free. Pass a "
            f"smaller --image-size, or --limit to keep fewer images."
        )
    return np.empty(shape, dtype=np.uint8)


def free_memory() -> int | None:
    """Bytes of memory that can be used without swapping, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
