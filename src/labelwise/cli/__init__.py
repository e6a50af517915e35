"""The command line: every command is a few lines over the Python interface.

Only what a command needs is imported, inside it, so that `labelwise --help` answers at once.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from labelwise.cli import audit, bench, cite, decide, lists, noise, pretrain, results, train
from labelwise.cli.shared import app

COMMANDS = (train, pretrain, audit, results, decide, lists, noise, bench, cite)
"""The modules whose import adds the commands."""


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train on partly wrong labels, and find out which labels are wrong."""
    if version:
        from labelwise import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The `labelwise` command.

    Idle threads of the CPU pool sleep rather than spin (set before PyTorch is imported): on a
    machine that is shared, spinning makes every step several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
