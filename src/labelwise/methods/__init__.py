"""Methods by name, and the parsing of ``wrapper+method`` with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelwise.discovery import discover
from labelwise.errors import UserError, unknown
from labelwise.training.method import Method, Wrapper

PACKAGE = "labelwise.methods"


def known_methods() -> dict[str, type[Method]]:
    """Every method and wrapper, by name."""
    return discover(PACKAGE, Method)


def split_spec(spec: str) -> tuple[list[type[Wrapper]], type[Method]]:
    """Split ``sanm+coteaching+`` into its wrappers, outermost first, and the method.

    Raises:
        UserError: for a name that does not exist (with the nearest), or two plain methods.
    """
    known = known_methods()
    wrappers: list[type[Wrapper]] = []
    rest = spec.strip()
    while rest not in known or issubclass(known[rest], Wrapper):
        name, plus, inner = rest.partition("+")
        if name not in known or not plus or not inner:
            if name in known and issubclass(known[name], Wrapper):
                raise UserError(f"{name!r} wraps another method: write {name}+dividemix, say.")
            raise unknown("method", rest, known)
        outer = known[name]
        if not issubclass(outer, Wrapper):
            raise UserError(f"{name!r} in {spec!r} is not a wrapper; it cannot stand before a +.")
        wrappers.append(outer)
        rest = inner
    return wrappers, known[rest]


def parse_method(spec: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and settings.

    Args:
        spec: ``dividemix``, ``sanm+dividemix``, …
        settings: values by name. ``dividemix.lambda_u`` belongs to the named part; a bare
            ``lambda_u`` to the innermost part that has such a setting.

    Raises:
        UserError: unknown names, or values that are not valid.
    """
    wrappers, base = split_spec(spec)
    parts: list[type[Method]] = [base, *reversed(wrappers)]
    sorted_settings: dict[str, dict[str, Any]] = {part.name: {} for part in parts}
    for name, value in (settings or {}).items():
        owner, field = _owner(name, parts)
        sorted_settings[owner][field] = value
    method = base(**sorted_settings[base.name])
    for wrapper in reversed(wrappers):
        method = wrapper(method, **sorted_settings[wrapper.name])
    return method


def _owner(name: str, parts: list[type[Method]]) -> tuple[str, str]:
    """Which part a setting belongs to, and its name there."""
    prefix, dot, field = name.rpartition(".")
    names = [part.name for part in parts]
    if dot:
        if prefix not in names:
            raise unknown("part of the method", prefix, names)
        return prefix, field
    for part in parts:
        if field in part.Settings.model_fields or field == "preset":
            return part.name, field
    every = [setting for part in parts for setting in part.Settings.model_fields]
    raise unknown(f"setting of {'+'.join(reversed(names))}", field, every)


def all_settings(method: Method) -> dict[str, Any]:
    """Every setting of a method and of what it wraps, as `parse_method` reads them."""
    own = {f"{method.name}.{k}": v for k, v in method.settings.model_dump().items()}
    inner = all_settings(method.base) if isinstance(method, Wrapper) else {}
    return {**own, **inner}
