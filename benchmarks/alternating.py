"""Two ways of doing the same thing, timed in turn: while one runs, the other waits.

The two sides live in two processes, so that neither gets the other's memory allocator or thread
pool. On a CUDA device every timing waits for the device at both ends.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

Side = Callable[[], Any]
Factory = Callable[[], Side]
"""Builds a side in its own process; must be picklable."""
ROUNDS_AT_LEAST = 3


@dataclass(frozen=True)
class Turn:
    """What one turn of a side took.

    Args:
        seconds: wall time.
        peak: most bytes of the device allocated at once; None on a CPU.
    """

    seconds: float
    peak: int | None = None


def take_turn(side: Side, device: str) -> Turn:
    """Run a side once."""
    if device != "cuda":
        start = time.perf_counter()
        side()
        return Turn(time.perf_counter() - start)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    side()
    torch.cuda.synchronize()
    return Turn(time.perf_counter() - start, torch.cuda.max_memory_allocated())


@dataclass(frozen=True)
class How:
    """How a comparison is run.

    Args:
        seconds: time to spend; a comparison ends in time, but for its least rounds.
        device: "cpu" or "cuda".
        rounds: turns of each side at least.
        threads: CPU threads of each side; None for PyTorch's own number.
        apart: whether the other side gets a process of its own.
    """

    seconds: float
    device: str = "cpu"
    rounds: int = ROUNDS_AT_LEAST
    threads: int | None = None
    apart: bool = True


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of each side, and how they are to be read.

    Args:
        name: what was run.
        ours: seconds of labelwise, turn by turn.
        plain: seconds of the plain side.
        note: said beside the figures.
        images: images that the reported seconds stand for; None where images are not counted.
        peaks: most device memory of either side, bytes.
        parts: where labelwise's seconds go, by part; empty where that was not asked.
    """

    name: str
    ours: list[float]
    plain: list[float]
    note: str = ""
    images: int | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times faster labelwise is: ratio of the medians."""
        return statistics.median(self.plain) / statistics.median(self.ours)

    def show(self) -> str:
        """A line of the table."""
        left, right = spread(self.ours), spread(self.plain)
        return f"{self.name:40} {left:>30} {right:>30} {self.ratio:6.2f} {len(self.ours):3}"

    def to_json(self) -> dict[str, Any]:
        """All times, and what follows from them."""
        content = {**vars(self), "ratio_of_medians": self.ratio}
        if self.images is not None:
            content["images_per_second"] = {
                "ours": self.images / statistics.median(self.ours),
                "plain": self.images / statistics.median(self.plain),
            }
        return content


def spread(seconds: list[float]) -> str:
    """Median and range."""
    low, high = min(seconds), max(seconds)
    return f"{statistics.median(seconds):9.3f} ({low:.3f}..{high:.3f})"


def alternate(
    name: str, ours: Side, plain: Factory, how: How, factor: float = 1.0, **more: Any
) -> Row:
    """Time both sides in turn, after a warm-up of each, until the time is over.

    Args:
        name: of the comparison.
        ours: labelwise's side.
        plain: builds the other side.
        how: for how long, and where.
        factor: turns what was run into what is reported.
        more: `note` and `images` of the row; the images are those of one turn.
    """
    other = Apart(plain, how) if how.apart else Beside(plain, how)
    try:
        take_turn(ours, how.device)
        other.warm()
        left: list[Turn] = []
        right: list[Turn] = []
        end = time.perf_counter() + how.seconds
        while len(left) < how.rounds or time.perf_counter() < end:
            left.append(take_turn(ours, how.device))
            right.append(other.turn())
    finally:
        other.close()
    sides = {"ours": left, "plain": right}
    peaks = {
        side: max(turn.peak or 0 for turn in turns)
        for side, turns in sides.items()
        if turns[0].peak is not None
    }
    images = more.pop("images", None)
    row = Row(
        name,
        [turn.seconds * factor for turn in left],
        [turn.seconds * factor for turn in right],
        images=None if images is None else round(images * factor),
        peaks=peaks,
        **more,
    )
    print(row.show(), flush=True)
    return row


def in_turn(sides: Mapping[str, Side], how: How) -> dict[str, list[Turn]]:
    """Time several sides of this process in turn, after a warm-up of each."""
    for side in sides.values():
        take_turn(side, how.device)
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    end, rounds = time.perf_counter() + how.seconds, 0
    while rounds < how.rounds or time.perf_counter() < end:
        for name, side in sides.items():
            turns[name].append(take_turn(side, how.device))
        rounds += 1
    return turns


class Beside:
    """The other side in this process."""

    def __init__(self, factory: Factory, how: How) -> None:
        self.side, self.device = factory(), how.device

    def warm(self) -> None:
        """The first turn, which does not count."""
        self.turn()

    def turn(self) -> Turn:
        """One turn."""
        return take_turn(self.side, self.device)

    def close(self) -> None:
        """Nothing is left to close."""


class Apart:
    """The other side in a process of its own.

    Raises:
        RuntimeError: what it raised, with its traceback.
    """

    def __init__(self, factory: Factory, how: How) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.here, there = spawn.Pipe()
        arguments = (there, factory, how.device, how.threads)
        self.process = spawn.Process(target=serve, args=arguments)
        self.process.start()
        there.close()  # so that the end of the process is noticed

    def warm(self) -> None:
        """Wait until it has been built and has had its first turn."""
        self._answer()

    def turn(self) -> Turn:
        """One turn."""
        self.here.send("run")
        return self._answer()

    def _answer(self) -> Turn:
        try:
            answer = self.here.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(f"the plain side's process ended with {code}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"the plain side failed:\n{answer}")
        assert isinstance(answer, Turn)
        return answer

    def close(self) -> None:
        """End the process."""
        self.here.close()
        self.process.join()


def serve(connection: Connection, factory: Factory, device: str, threads: int | None) -> None:
    """The other side's process: run when told to, answer with what it took."""
    warnings.filterwarnings("ignore", message=".*worker processes.*")
    if threads:
        torch.set_num_threads(threads)
    try:
        side = factory()
        connection.send(take_turn(side, device))
        while True:
            connection.recv()
            connection.send(take_turn(side, device))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        connection.send(traceback.format_exc())
