"""Errors meant for users, and the nearest-name suggestions that go into them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend: names the value, the place and the remedy.

    The command line prints the message alone and exits with code 2; anything that is not a
    `UserError` is a mistake of ours and keeps its traceback.
    """


class NoMemory(UserError):
    """A run would need more memory than is free; a smaller one may fit."""


class UnusableFolder(UserError):
    """A run folder that nobody can go on with as it is: only a new run helps."""


class NoColumn(UserError):
    """The data have no column, or key, of that name; another name may do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for an unknown name: what was asked, the nearest, and the whole list."""
    names = sorted(known)
    return UserError(f"unknown {kind} {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
