"""From the words of a configuration to a bound method: its pre-training, settings and schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.errors import UserError, unknown
from labelwise.methods import all_settings, parse_method, split_spec
from labelwise.models.build import HeadFactory, NetworkSpec, auto_model
from labelwise.pretraining import (
    NONE,
    chain_of,
    chosen_names,
    is_pretraining,
    known_pretraining,
    measured_by,
    parse_names,
    require_fitting,
    require_method,
    split_settings,
    with_pretraining,
)
from labelwise.pretraining.start import pretraining_of, read_start, require_same_networks
from labelwise.training.chain import Chain
from labelwise.training.engine import resolve_device, resolve_precision
from labelwise.training.method import Method, Problem


def bind(
    config: RunConfig, train: Dataset, method: Method | None = None, resolved: bool = False
) -> Method:
    """Build the method of a configuration, its pre-training before it, and fix the schedules.

    Args:
        config: as parsed, or as resolved when the run began.
        train: the training data.
        method: the method object; None builds the configuration's.
        resolved: whether the configuration is resolved: its pre-training is then taken as it is.

    Raises:
        UserError: names or settings that do not exist, or parts that cannot work on these data.
    """
    problem = Problem(len(train), train.num_classes, train.kind, train.shape)
    if method is None and is_pretraining(config.method):
        return bind_pretraining(config, problem)
    chosen, parts = build_method(config.method, config.settings, method)
    if train.num_classes < 2:
        raise UserError("the data have only one class; labels can only be wrong between classes.")
    wanted = chosen.pretraining(problem)
    given = None if config.pretrain is None else parse_names(config.pretrain)
    if resolved and given is not None:
        names = given
    else:
        done = () if config.init is None else pretraining_of(config.init)
        names = chosen_names(tuple(wanted), given, done)
    require_fitting(names, train.kind, from_features=config.init is not None)
    parts = {name: {**wanted.get(name, {}), **parts.get(name, {})} for name in {*names, *parts}}
    return with_pretraining(chosen, names, parts).bind(problem, config.schedule)


def bind_pretraining(config: RunConfig, problem: Problem) -> Method:
    """Build the parts of a run that is pre-training alone, and fix their schedules."""
    names = chosen_names((), parse_names(config.method))
    require_fitting(names, problem.kind, from_features=config.init is not None)
    if "clusters" in measured_by(names) and problem.num_classes < 2:
        raise UserError(
            f"pre-training {'+'.join(names)} makes clusters, and how many is not known: the data "
            "have no labels, or only one class. Give the number: --classes K."
        )
    own, parts = split_settings(config.settings)
    assert not own, f"settings of no part: {sorted(own)}"
    return chain_of(names, parts).bind(problem, config.schedule)


def build_method(
    spec: str, settings: Mapping[str, Any], method: Method | None = None
) -> tuple[Method, dict[str, dict[str, Any]]]:
    """The method of a name and settings, and the settings of each pre-training among them.

    Raises:
        UserError: a name of pre-training in the method's place, or settings of no part.
    """
    own, parts = split_settings(settings)
    if method is not None:
        return method, parts
    require_method(spec)
    wrappers, base = split_spec(spec)
    known = [part.name for part in (*wrappers, base)]
    for name in own:
        prefix = name.rpartition(".")[0]
        if prefix and prefix not in known:
            raise unknown("part of the run", prefix, (*known, *known_pretraining()))
    return parse_method(spec, own), parts


def pretraining_names(method: Method) -> str:
    """The pre-training of a bound method as typed after ``--pretrain``; "none" without any."""
    parts = method.parts[:-1] if isinstance(method, Chain) else ()
    return "+".join(part.name for part in parts) or NONE


def resolve(config: RunConfig, train: Dataset, method: Method) -> RunConfig:
    """Fill in everything the user left open, so that `config.json` says what was used."""
    device = resolve_device(config.device)
    model = config.model
    if model == "auto" and config.init is not None:
        model = read_start(config.init).spec.model
    elif model == "auto":
        model = auto_model(train.shape, len(train), device != "cpu")
    if config.init is not None:
        spec = NetworkSpec(model, train.shape, train.num_classes)
        require_same_networks(read_start(config.init), spec)
    alone = is_pretraining(config.method)
    return config.model_copy(
        update={
            "model": model,
            "device": device,
            "precision": resolve_precision(config.precision, device, train.shape),
            "method": config.method if alone else method.spec,
            "pretrain": config.method if alone else pretraining_names(method),
            "settings": every_setting(method),
            "schedule": method.schedule.model_dump(),
        }
    )


def heads_of(config: RunConfig) -> HeadFactory:
    """What makes the extra heads of the networks of a resolved configuration."""
    names = parse_names(config.pretrain or NONE)
    if is_pretraining(config.method):
        return chain_of(names, split_settings(config.settings)[1]).heads
    try:
        method, parts = build_method(config.method, config.settings)
    except UserError:  # a method object of the caller's own: those of its pre-training are known
        if not names:
            raise
        return chain_of(names, split_settings(config.settings)[1]).heads
    return with_pretraining(method, names, parts).heads


def every_setting(method: Method) -> dict[str, Any]:
    """Every setting of a method and of its pre-training, by its full name."""
    parts = method.parts if isinstance(method, Chain) else (method,)
    return {name: value for part in parts for name, value in all_settings(part).items()}
