"""Suites of runs, found by themselves.

A module here defines `suites() -> dict[str, Callable[[], Suite]]`; one new file adds suites. A
suite is built when it is asked for, because some are read off the recipes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from labelwise.bench.suites.suite import Cell, Suite
from labelwise.errors import unknown

__all__ = ["Cell", "Suite", "find_suite", "known_suites"]


@cache
def known_suites() -> dict[str, Callable[[], Suite]]:
    """What builds every suite, by its name."""
    found: dict[str, Callable[[], Suite]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "suites"):
            found.update(module.suites())
    return found


def find_suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        UserError: there is none; the nearest is suggested.
    """
    builders = known_suites()
    if name not in builders:
        raise unknown("suite", name, builders)
    return builders[name]()
