"""Everything that only a GPU can tell: is it right there, how fast, and how far does it go.

Run: `python benchmarks/gpu.py --data cifar10_train.parquet --test cifar10_test.parquet --out DIR
--minutes M`, from a copy of the repository, without a network. It needs what `pip install .` needs
and a torch with CUDA; torchvision and timm are not imported. The copy's own `src` is taken, also
where another labelwise is installed. Without `--data` throughput is measured on random images, and
the suite is left out.

Parts: `correctness` (no step waits for the device; the same numbers as on the CPU), `throughput`
(steps and epochs against the plain versions, in turn), `scaling` (batch size), `suite` (as much of
`labelwise bench cifar10` as fits). Each has a share of the minutes, runs in a process of its own,
and writes a line to DIR/gpu.jsonl for everything that it has done: the same command again goes on
with what is left. A part that fails is recorded and the others go on. After every part, and where
SIGTERM or Ctrl-C ends it, everything is written to DIR/gpu.md; in the end it is printed too.

`--device cpu --tiny` is a rehearsal of all parts in about a minute.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from on_gpu.record import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
SHARES = {"correctness": 0.15, "throughput": 0.4, "scaling": 0.1, "suite": 0.35}
"""Parts in order, and their shares of the minutes."""
NEEDED = (
    *("torch", "numpy", "scikit-learn", "scipy", "lightning-fabric", "pyarrow", "pandas"),
    *("pillow", "pydantic", "typer", "rich", "jinja2", "matplotlib"),
)
"""What has to be installed; timm is not imported here."""
LEAST_TORCH, LEAST_PYTHON = (2, 6), (3, 11)
UNUSABLE = 75
"""Exit status of a part after which the device needs a new process."""
RESTARTS = 10
PATIENCE, GRACE, LEAVE = 1.5, 180.0, 30.0
"""A part is stopped after so many times its share, and so many seconds more; and what it then has
to end by itself."""
REHEARSED = 120.0
"""Seconds that a part of a rehearsal has at most: it does not fill its share."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="manifest of CIFAR-10's training images")
    add("--test", type=Path, help="manifest of its test images")
    add("--out", type=Path, required=True, help="folder of the rows and the page")
    add("--minutes", type=float, default=60.0, help="for all parts together")
    add("--part", nargs="*", choices=list(SHARES), help="only these")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--seeds", help="of the suite: 0-2, or '0 1 2'")
    add("--tiny", action="store_true", help="a rehearsal with tiny images and networks")
    add("--suite-options", default="", help="further options of `labelwise bench`, in one string")
    add("--commit", help="of this copy, where it has no .git")
    add("--child", nargs=3, metavar=("PART", "SECONDS", "RUN"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def complaint(device: str) -> str | None:
    """What is missing to run at all, in a sentence; None where everything is there."""
    if sys.version_info < LEAST_PYTHON:
        return f"Python {platform.python_version()} is too old: labelwise needs 3.11 or newer."
    missing = []
    for name in NEEDED:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return f"not installed: {', '.join(missing)}. `pip install {REPOSITORY}` installs them."
    import torch

    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < LEAST_TORCH:
        return f"torch {torch.__version__} is too old: labelwise needs 2.6 or newer."
    if device != "cuda" or torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a build with it."
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no device. Is the driver new "
        "enough (`nvidia-smi`), and is CUDA_VISIBLE_DEVICES empty? --device cpu --tiny rehearses."
    )


def settings_of(given: argparse.Namespace, run: str) -> Settings:
    """The settings that all parts share."""
    from on_gpu.record import Settings

    named = {name: value for name, value in vars(given).items() if name in vars(Settings(Path()))}
    return Settings(**{**named, "run": run, "out": given.out.resolve()})


def use_own_source() -> None:
    """Take the package from this copy, in child processes too: these scripts belong to it."""
    source = str(REPOSITORY / "src")
    held = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{source}{os.pathsep}{held}" if held else source
    sys.path.insert(0, source)


def run_part(settings: Settings, part: str, seconds: float) -> int:
    """One part, in this process; returns the exit status."""
    import torch

    from on_gpu.record import run_items

    if settings.device == "cpu":
        torch.set_num_threads(1)
    if part == "correctness":
        from on_gpu.correctness import items
    elif part == "throughput":
        from on_gpu.speed import throughput_items as items
    elif part == "scaling":
        from on_gpu.speed import scaling_items as items
    else:
        from on_gpu.suite import items
    return 0 if run_items(settings, part, items(settings), seconds) else UNUSABLE


def child(part: str, seconds: float, run: str) -> tuple[int | None, str]:
    """Run a part in a process of its own, again after errors that spoil the device.

    Returns:
        Its exit status, None where it had to be stopped; and the last lines that it wrote.
    """
    end, said = time.monotonic() + seconds, ""
    for _ in range(RESTARTS):
        left = max(0.0, end - time.monotonic())
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        command += ["--child", part, f"{left:.1f}", run]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        ) as process:
            try:
                _, said = process.communicate(timeout=PATIENCE * left + GRACE)
            except subprocess.TimeoutExpired:
                return None, stopped(process)
            except KeyboardInterrupt:
                stopped(process)
                raise
        if process.returncode != UNUSABLE:
            return process.returncode, said
    return UNUSABLE, said


def stopped(process: subprocess.Popen[str]) -> str:
    """Interrupt a part, so that it can stop what it has started; then kill it."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=LEAVE)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[1]


def run_all(given: argparse.Namespace, settings: Settings) -> None:
    """Every part in its share of the time; what a part's process itself did wrong is a row too."""
    from on_gpu.record import append_row, environment

    parts = [part for part in SHARES if given.part is None or part in given.part]
    end = time.monotonic() + 60 * given.minutes
    for place, part in enumerate(parts):
        left = max(0.0, end - time.monotonic())
        seconds = left * SHARES[part] / sum(SHARES[later] for later in parts[place:])
        seconds = REHEARSED if settings.tiny else seconds
        print(f"\n{part}: {seconds / 60:.1f} minutes", flush=True)
        start = time.monotonic()
        code, said = child(part, seconds, settings.run)
        write_page(settings)
        if code == 0:
            continue
        why = "was stopped: it took too long" if code is None else f"ended with {code}"
        row: dict[str, Any] = {"part": part, "item": "(the whole part)", "status": "failed"}
        row |= {"error": f"the process of the part {why}", "traceback": said[-4000:]}
        row |= {"seconds": round(time.monotonic() - start, 3), **environment(settings)}
        append_row(settings.rows, row)
        print(f"{part} {why}", flush=True)


def write_page(settings: Settings) -> str:
    """Write the page of what there is so far, and return it."""
    from on_gpu.page import page
    from on_gpu.record import read_rows

    text = page(read_rows(settings.rows))
    settings.page.write_text(text, encoding="utf-8")
    return text


def main() -> int:
    given = parse()
    reason = complaint(given.device)
    if reason is not None:
        print(f"gpu.py: {reason}", file=sys.stderr)
        return 2
    use_own_source()
    if given.child is not None:
        part, seconds, run = given.child
        return run_part(settings_of(given, run), part, float(seconds))
    for path in (given.data, given.test):
        if path is not None and not path.exists():
            print(f"gpu.py: {path} does not exist", file=sys.stderr)
            return 2
    # Who ends this process in time means the part too, and wants the page.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    settings = settings_of(given, run)
    settings.out.mkdir(parents=True, exist_ok=True)
    try:
        run_all(given, settings)
    except KeyboardInterrupt:
        return 130
    finally:
        print(f"\n{write_page(settings)}\nwritten to {settings.page}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
