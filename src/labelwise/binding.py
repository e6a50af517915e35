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
from labelwise.pretraining.contrastive import Contrastive
from labelwise.pretraining.start import read_start, require_same_networks, usable_pretraining
from labelwise.training.chain import Chain
from labelwise.training.engine import resolve_device, resolve_precision
from labelwise.training.method import Method, Problem, Wrapper


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
    problem = problem_of(train)
    if method is None and is_pretraining(config.method):
        return bind_pretraining(config, problem)
    chosen, parts = build_method(config.method, config.settings, method)
    if train.num_classes < 2:
        raise UserError("the data have only one class; labels can only be wrong between classes.")
    wanted = chosen.pretraining(problem)
    given = None if config.pretrain is None else parse_names(config.pretrain)
    done: tuple[str, ...] = ()
    if resolved and given is not None:
        names = given
    else:
        if config.init is not None:
            done, _ = usable_pretraining(config.init, train.num_classes)
        names = chosen_names(tuple(wanted), given, done)
    require_fitting(names, train.kind, from_features=config.init is not None)
    if not resolved:
        require_agreeing(chosen, wanted, parts)
    parts = {name: {**wanted.get(name, {}), **parts.get(name, {})} for name in {*names, *parts}}
    bound = with_pretraining(chosen, names, parts).bind(problem, config.schedule)
    if not resolved:
        require_learnt(chosen, measured_by(tuple(wanted)), measured_by((*names, *done)))
    return bound


def problem_of(train: Dataset) -> Problem:
    """What a method may know about the training data before it starts."""
    return Problem(len(train), train.num_classes, train.kind, train.shape)


def require_agreeing(
    method: Method,
    wanted: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise a `UserError` where the user sets what the method itself hands to its pre-training.

    ScanMix goes on with the neighbours that SCAN mined, so both must mean as many.

    Args:
        method: the method of the run.
        wanted: the settings that it hands over, by the name of the pre-training.
        given: those the user set, likewise.
    """
    for name, fixed in wanted.items():
        part = known_pretraining()[name]
        own, theirs = part(**given.get(name, {})).settings, part(**fixed).settings
        for field in sorted(fixed.keys() & given.get(name, {}).keys()):
            value, right = getattr(own, field), getattr(theirs, field)
            if value == right:
                continue
            owner = owner_of(method, field)
            remedy = (
                f"leave {name}.{field} away"
                if owner is None
                else f"set {owner}.{field} to {value} instead, which counts for both"
            )
            raise UserError(
                f"{name}.{field} = {value}, but {method.spec} gives its {name} {right}: {remedy}."
            )


def owner_of(method: Method, field: str) -> str | None:
    """The method, or what it wraps, that has a setting of this name."""
    while True:
        if field in method.Settings.model_fields:
            return method.name
        if not isinstance(method, Wrapper):
            return None
        method = method.base


def require_learnt(method: Method, wanted: set[str], learnt: set[str]) -> None:
    """Raise a `UserError` for a method that trains nothing itself and has nothing to go on.

    Args:
        method: the method of the run, bound.
        wanted: what it wants pre-training to learn.
        learnt: what its pre-training, or that of the folder it starts from, does learn.
    """
    missing = sorted(wanted - learnt)
    epochs = range(method.schedule.epochs)
    if missing and not any(phase.trains for epoch in epochs for phase in method.phases(epoch)):
        what = " and ".join(missing)
        raise UserError(
            f"{method.spec} needs {what} and trains nothing itself: leave --pretrain none away, "
            "or start from a folder that has them (--init DIR)."
        )


def start_notes(config: RunConfig, train: Dataset, method: Method) -> list[str]:
    """What to tell the user of the pre-training when a run begins.

    Args:
        config: as resolved.
        train: the training data.
        method: bound.
    """
    parts = method.parts if isinstance(method, Chain) else (method,)
    notes = [
        f"{part.name}: a batch of {part.asked_batch:,} is more than all {len(train):,} samples; "
        f"it was cut to {part.schedule.batch_size:,}, and the learning rate is for that"
        for part in parts
        if isinstance(part, Contrastive) and part.asked_batch is not None
    ]
    if is_pretraining(config.method):
        return notes
    if isinstance(parts[-1], Wrapper) and not parts[-1].innermost.learns:
        host, name = parts[-1].innermost.spec, parts[-1].name
        notes.append(f"{host} trains nothing itself: {name} around it changes nothing")
    main, names = parts[-1], parse_names(config.pretrain or NONE)
    wanted = measured_by(tuple(main.pretraining(problem_of(train))))
    if config.init is None:
        if wanted and not names:
            notes.append(_without(main))
        return notes
    _, reason = usable_pretraining(config.init, train.num_classes)
    if reason is not None and "clusters" in wanted:
        anew = "clusters" in measured_by(names)
        notes.append(f"{reason}: {'they are learnt anew' if anew else 'its own start at random'}")
    return notes


def _without(method: Method) -> str:
    """The note on a method that goes without the pre-training it wants."""
    if any(phase.frozen for phase in method.phases(0)):
        return (
            f"{method.spec}: warm-up on the frozen features of an untrained network: expect "
            "little (leave --pretrain none away, or give --init)"
        )
    return f"{method.spec} goes without the pre-training it is made for: expect less"


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
