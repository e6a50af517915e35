"""Pre-training by name: methods that need no labels and run before the method of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelwise.discovery import discover
from labelwise.errors import UserError, unknown
from labelwise.training.chain import Chain
from labelwise.training.method import Method

PACKAGE = "labelwise.pretraining"
NONE = "none"


def known_pretraining() -> dict[str, type[Method]]:
    """Every way of pre-training, by name."""
    return discover(PACKAGE, Method)


def parse_names(text: str) -> tuple[str, ...]:
    """Split ``simclr+scan`` into its names, in order; ``none`` gives none.

    Raises:
        UserError: for a name that does not exist, or one given twice.
    """
    if text.strip() in ("", NONE):
        return ()
    names = tuple(name.strip() for name in text.split("+"))
    for name in names:
        if name not in known_pretraining():
            raise unknown("pre-training", name, (*known_pretraining(), NONE))
        if names.count(name) > 1:
            raise UserError(f"--pretrain {text}: {name} is there twice.")
    return names


def chosen_names(
    wanted: Sequence[str], given: Sequence[str] | None, done: Sequence[str] = ()
) -> tuple[str, ...]:
    """The pre-training of a run.

    Args:
        wanted: what the method wants by itself.
        given: what the user asked for; each takes the place of a wanted part that learns the
            same (features or clusters). Empty for no pre-training, None where nothing was asked.
        done: what the networks that the run starts from have been through: wanted parts that
            learn the same are not repeated.
    """
    known = known_pretraining()
    if given is not None and not given:
        return ()
    own = given or ()
    covered = {known[name].measures for name in (*own, *done)}
    kept = [name for name in wanted if known[name].measures not in covered]
    order = ("features", "clusters")
    return tuple(sorted((*own, *kept), key=lambda name: order.index(known[name].measures)))


def split_settings(
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Separate settings such as ``simclr.epochs`` from those of the method.

    Returns:
        The method's settings as they were, and those of each pre-training by its name.

    Raises:
        UserError: a setting that a pre-training does not have, or a value that is not valid.
    """
    known = known_pretraining()
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        prefix, _, field = name.rpartition(".")
        if prefix in known:
            parts.setdefault(prefix, {})[field] = value
        else:
            own[name] = value
    for prefix, values in parts.items():
        known[prefix](**values)
    return own, parts


def with_pretraining(
    method: Method, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> Method:
    """Put pre-training before a method; without any it is the method itself.

    Raises:
        UserError: settings of a pre-training that is not part of the run.
    """
    for name in settings:
        if name not in names:
            raise UserError(
                f"settings of {name} were given, but the run has no such part. "
                f"Add --pretrain {'+'.join((*names, name))}, or leave them away."
            )
    if not names:
        return method
    known = known_pretraining()
    return Chain(*(known[name](**settings.get(name, {})) for name in names), method)
