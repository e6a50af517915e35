"""As much of a suite of `labelwise bench` as fits."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from typing import Any

from on_gpu.record import Failed, Item, Settings, read_rows

GRACE = 60.0
"""Seconds that a suite gets to end after its time; a run that is stopped can be resumed."""
TAIL = 4000
REHEARSAL = "--methods ce --noises symmetric:0.5 --epochs 2 --limit 200"
KEPT = (
    *("name", "row", "column", "seed", "status", "error", "test_accuracy_last"),
    *("test_accuracy_best", "paper_last", "paper_best", "epochs", "wall_seconds"),
    *("seconds", "peak_memory_bytes"),
)


def items(settings: Settings) -> list[Item]:
    """The one suite, which goes on in every run."""
    name = "digits" if settings.tiny else "cifar10"
    return [Item(name, partial(run_suite, settings), again=True)]


def command_of(settings: Settings, suite: str, seconds: float) -> list[str]:
    """The command line of the suite."""
    command = [sys.executable, "-m", "labelwise.cli", "bench", suite]
    command += ["--minutes", f"{seconds / 60:.2f}", "--out", str(settings.out / suite)]
    command += ["--device", settings.device]
    if suite == "cifar10":
        for name, path in (("--data", settings.data), ("--test", settings.test)):
            command += [] if path is None else [name, str(path)]
    seeds = settings.seeds or ("0" if settings.tiny else None)
    command += [] if seeds is None else ["--seeds", seeds]
    more = settings.suite_options or (REHEARSAL if settings.tiny else "")
    return [*command, *shlex.split(more)]


def run_suite(settings: Settings, seconds: float) -> dict[str, Any]:
    """Run it, stop it in time, and read its rows.

    Raises:
        Failed: there is no such command, it needs data, or it left no rows.
    """
    suite = "digits" if settings.tiny else "cifar10"
    command = command_of(settings, suite, seconds)
    shown = shlex.join(["labelwise", *command[3:]])
    if suite == "cifar10" and settings.data is None:
        raise Failed("the suite needs --data, and no manifest was given", {"command": shown})
    code, said = ended_in_time(command, seconds)
    rows = [
        {key: row.get(key) for key in KEPT}
        for row in read_rows(settings.out / suite / "rows.jsonl")
    ]
    result = {"command": shown, "code": code, "rows": rows, "said": said[-TAIL:]}
    if not rows:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise Failed(f"the suite left no rows (exit status {code}): {last[0]}", result)
    return result


def ended_in_time(
    command: list[str], seconds: float, grace: float = GRACE
) -> tuple[int | None, str]:
    """Run a command; interrupt it, then kill it and its children, when its time is over.

    Args:
        command: and its arguments.
        seconds: until it is interrupted.
        grace: seconds that it then gets to end, twice.

    Returns:
        Its exit status, and what it wrote.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said = waited_for(process, seconds, grace)
        except BaseException:  # whoever interrupts this process means that one too
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


def waited_for(process: subprocess.Popen[str], seconds: float, grace: float) -> str:
    """What a process writes until it ends, is interrupted, or is killed."""
    for wait, signalled in (
        (seconds, signal.SIGINT),
        (grace, signal.SIGTERM),
        (grace, signal.SIGKILL),
    ):
        try:
            return process.communicate(timeout=wait)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signalled)
    return process.communicate()[0]
