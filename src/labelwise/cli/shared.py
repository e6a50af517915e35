"""The typer application, and what every command shares: errors as messages, common options."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from labelwise.errors import UserError

if TYPE_CHECKING:
    from labelwise.estimator import Result
    from labelwise.training.progress import Silent

P = ParamSpec("P")
SHOWN_NOTES = 4

app = typer.Typer(
    help="Train on partly wrong labels, and find out which labels are wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write.")]


def friendly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn users' errors into one message and exit code 2, and Ctrl-C into 130.

    A reader that has enough of the output (`| head`) ends the command quietly, with 141 as a
    shell reports SIGPIPE.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # a closed pipe may only show here, or when Python exits
        except BrokenPipeError:
            # Python flushes again at exit: what is still in the buffer must go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            from labelwise.data.files import explained

            typer.echo(f"error: {explained(error, Path(error.filename or '.'))}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stopped.", err=True)
            raise typer.Exit(130) from None

    return run


def parse_assignments(pairs: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split ``--set`` values into method settings and schedule fields (``schedule.lr=0.01``)."""
    settings: dict[str, Any] = {}
    schedule: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {pair!r} is not of the form name=value, such as lambda_u=25.")
        try:
            value = json.loads(text)
        except ValueError:
            value = {"None": None, "True": True, "False": False}.get(text, text)
        prefix, _, field = name.strip().rpartition(".")
        (schedule if prefix == "schedule" else settings)[
            field if prefix == "schedule" else name.strip()
        ] = value
    return settings, schedule


def listener_for(title: str, quiet: bool) -> Silent:
    """A live bar on a terminal, silence elsewhere."""
    from labelwise.training.progress import Silent, Terminal

    return Terminal(title) if sys.stderr.isatty() and not quiet else Silent()


def show_result(result: Result, as_json: bool) -> None:
    """Print what a run found: a few plain lines, or the summary as JSON."""
    from labelwise.running import first_process

    if not first_process():
        return
    summary = result.summary
    if as_json:
        typer.echo(json.dumps({**summary, "run": str(result.path)}, indent=2))
        return
    show_stages(summary)
    if "num_suspects" not in summary:  # pre-training alone
        show_notes(summary)
        typer.echo(f"Start from it: labelwise fit DATA --init {shlex.quote(str(result.path))}")
        return
    total = summary["num_samples"]
    typer.echo(f"{summary['num_suspects']} of {total} labels look wrong", nl=False)
    typer.echo(f" (estimated noise rate {summary['estimated_noise_rate']:.1%}", nl=False)
    if "noise_rate_interval" in summary:  # runs of older versions have none
        low, high = summary["noise_rate_interval"]
        typer.echo(f", 95 % interval {low:.1%} to {high:.1%}", nl=False)
    typer.echo(").")
    if summary["num_suspects"] and "expected_recall" in summary:
        typer.echo(
            f"Of these {summary['expected_precision']:.0%} are expected to be wrong indeed; they "
            f"are {summary['expected_recall']:.0%} of the wrong labels expected."
        )
    if "test_accuracy_last" in summary:
        count = summary["test_accuracy_last_epochs"]
        last = "the last epoch" if count == 1 else f"mean of the last {count} epochs measured"
        typer.echo(
            f"Test accuracy {summary['test_accuracy_last']:.1%} ({last}), "
            f"best {summary['test_accuracy_best']:.1%}."
        )
    if "label_error_auroc" in summary:
        typer.echo(
            f"Truth is known: {summary['realised_noise_rate']:.1%} are wrong, "
            f"label-error AUROC {summary['label_error_auroc']:.3f}."
        )
    show_notes(summary)
    typer.echo(f"Labels: {result.path / 'labels.csv'}\nReport: {result.path / 'report.html'}")


def show_stages(summary: Mapping[str, Any]) -> None:
    """Print a line per stage of a run with pre-training: epochs, time, and what was measured."""
    from labelwise.training.figures import REPRESENTATION

    def words_of(name: str) -> str:
        title = REPRESENTATION[name]
        return f"{title} with the labels" if title.endswith("agreement") else title

    for stage in summary.get("stages", ()):
        count = stage["epochs"]
        epochs = f"{count} epoch{'s' * (count != 1)}"
        words = f"{stage['name']}: {epochs} in {stage['seconds']:.1f} s"
        found = [f"{words_of(key)} {stage[key]:.1%}" for key in REPRESENTATION if key in stage]
        typer.echo(", ".join([words, *found]))


def show_notes(summary: Mapping[str, Any]) -> None:
    """Print the first notes, and how many more there are."""
    for note in summary["notes"][:SHOWN_NOTES]:
        typer.echo(f"note: {note}")
    if len(summary["notes"]) > SHOWN_NOTES:
        typer.echo(f"note: {len(summary['notes']) - SHOWN_NOTES} more in summary.json")


def interrupted(folder: Path) -> None:
    """Say how to continue, and leave with code 130."""
    typer.echo(f"stopped; continue with: labelwise resume {folder}", err=True)
    raise typer.Exit(130) from None
