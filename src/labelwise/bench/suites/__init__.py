"""Suites of runs, found by themselves.

A module here defines `suites() -> dict[str, Callable[[], Suite]]`; one new file adds suites. A
suite is built when it is asked for, because some are read off the recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from labelwise.bench.suites.suite import Cell, Suite
from labelwise.discovery import gather
from labelwise.errors import unknown

__all__ = ["Cell", "Suite", "find_suite", "known_suites"]


@cache
def known_suites() -> dict[str, Callable[[], Suite]]:
    """What builds every suite, by its name."""
    return gather(__name__, "suites")


def find_suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        UserError: there is none; the nearest is suggested.
    """
    builders = known_suites()
    if name not in builders:
        raise unknown("suite", name, builders)
    return builders[name]()
