"""Pre-training by name: methods that need no labels and run before the method of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelwise.data.dataset import Kind
from labelwise.discovery import discover
from labelwise.errors import UserError, unknown
from labelwise.training.chain import Chain
from labelwise.training.method import Method

PACKAGE = "labelwise.pretraining"
NONE = "none"


def known_pretraining() -> dict[str, type[Method]]:
    """Every way of pre-training, by name."""
    return discover(PACKAGE, Method)


def is_pretraining(spec: str) -> bool:
    """Whether what stands in a method's place names pre-training and nothing else."""
    names = [name.strip() for name in spec.split("+")]
    return all(name in known_pretraining() for name in names)


def require_method(spec: str) -> None:
    """Raise a `UserError` where pre-training is named as if it were a method."""
    names = [name.strip() for name in spec.split("+")]
    own = [name for name in names if name in known_pretraining()]
    if own:
        method = "+".join(name for name in names if name not in own) or "dividemix"
        wanted = "+".join(own)
        raise UserError(
            f"{wanted} is pre-training, which comes before a method: --pretrain {wanted} "
            f"--method {method}. For the pre-trained networks alone: `labelwise pretrain DATA "
            f"--method {wanted}`."
        )


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


def measured_by(names: Sequence[str]) -> set[str]:
    """What some ways of pre-training learn: features, clusters."""
    return {known_pretraining()[name].measures for name in names}


def require_fitting(names: Sequence[str], kind: Kind, from_features: bool) -> None:
    """Raise a `UserError` for pre-training that the data, or the rest of it, leave no sense.

    Args:
        names: the pre-training of a run.
        kind: of the data.
        from_features: whether the run starts from networks that have features already.
    """
    known = known_pretraining()
    for name in names:
        if kind not in known[name].kinds:
            fitting = [other for other, part in known.items() if kind in part.kinds]
            which = f"--pretrain {', '.join(fitting)} or none" if fitting else "--pretrain none"
            reason = ", which are features already" if kind == "embeddings" else ""
            raise UserError(
                f"pre-training {name} needs {' or '.join(sorted(known[name].kinds))}, but the "
                f"data are {kind}{reason}. What works on them: {which}."
            )
    learnt = measured_by(names)
    if "clusters" in learnt and "features" not in learnt and kind == "images" and not from_features:
        raise UserError(
            f"pre-training {'+'.join(names)} clusters features, and there are none yet: put "
            f"simclr+ or moco+ before it, as in simclr+{'+'.join(names)}, or start from a "
            "pre-trained run with --init DIR."
        )


def chain_of(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> Chain:
    """Pre-training alone: its parts in order, without a method after them.

    Raises:
        UserError: settings of a pre-training that is not part of the run.
    """
    _require_parts(names, settings, "--method")
    known = known_pretraining()
    return Chain(*(known[name](**settings.get(name, {})) for name in names))


def fitting_settings(
    settings: Mapping[str, Any], given: Sequence[str] | None, done: Sequence[str] = ()
) -> dict[str, Any]:
    """A recipe's settings without those of pre-training that other pre-training replaces.

    Args:
        settings: by name; those of pre-training have its name in front.
        given: as in `chosen_names`.
        done: as in `chosen_names`.
    """
    known = known_pretraining()
    parts = {name: name.rpartition(".")[0] for name in settings}
    return {
        name: value
        for name, value in settings.items()
        if parts[name] not in known or parts[name] in chosen_names((parts[name],), given, done)
    }


def with_pretraining(
    method: Method, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> Method:
    """Put pre-training before a method; without any it is the method itself.

    Raises:
        UserError: settings of a pre-training that is not part of the run.
    """
    _require_parts(names, settings, "--pretrain")
    if not names:
        return method
    known = known_pretraining()
    return Chain(*(known[name](**settings.get(name, {})) for name in names), method)


def _require_parts(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], option: str
) -> None:
    for name in settings:
        if name not in names:
            raise UserError(
                f"settings of {name} were given, but the run has no such part. "
                f"Add {option} {'+'.join((*names, name))}, or leave them away."
            )
