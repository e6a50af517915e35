"""Find what is of a kind by looking into a package: one new file is all a new method needs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from labelwise.errors import unknown

T = TypeVar("T")


def modules(package: str) -> Iterator[ModuleType]:
    """Import the modules of a package (a dotted name), in the order of their names."""
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda item: item.name):
        yield importlib.import_module(f"{package}.{info.name}")


def gather(package: str, function: str) -> dict[str, Any]:
    """Return what the modules of `package` give that define `function() -> dict`, all in one."""
    found: dict[str, Any] = {}
    for module in modules(package):
        if hasattr(module, function):
            given = getattr(module, function)()
            assert not found.keys() & given.keys(), f"two of {package} have one name"
            found.update(given)
    return found


@cache
def discover(package: str, base: type[T]) -> dict[str, type[T]]:
    """Return the concrete subclasses of `base` defined in `package`, keyed by their `name`.

    Args:
        package: dotted name of the package whose modules are imported and searched.
        base: the class whose subclasses are wanted.

    A class counts when it is defined in the package (not merely imported there), is not abstract,
    and sets `name` itself.
    """
    found: dict[str, type[T]] = {}
    for module in modules(package):
        for _, member in inspect.getmembers(module, inspect.isclass):
            own = member.__module__ == module.__name__ and "name" in vars(member)
            if own and issubclass(member, base) and not inspect.isabstract(member):
                name = str(vars(member)["name"])
                assert name not in found, f"two classes of {package} are called {name!r}"
                found[name] = member
    return found


def find(kind: str, name: str, package: str, base: type[T]) -> type[T]:
    """Return the class called `name`, or raise a `UserError` that suggests the nearest."""
    known: dict[str, type[T]] = discover(package, base)  # type: ignore[arg-type]
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]
