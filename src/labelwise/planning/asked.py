"""What a budget of minutes can go with, and what it cannot."""

from __future__ import annotations

import math

from labelwise.binding import bind
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.methods import split_spec
from labelwise.methods.quick import Quick
from labelwise.methods.sprint import Sprint
from labelwise.training.chain import Chain


def require_budget(minutes: float, config: RunConfig) -> None:
    """Raise a `UserError` for a budget that is none, or that what else was asked for rules out."""
    if not (math.isfinite(minutes) and minutes > 0):
        raise UserError(f"--budget {minutes:g}: give the minutes as a positive number, such as 10.")
    if "epochs" in config.schedule:
        raise UserError(
            f"--budget {minutes:g} chooses the epochs, but --epochs {config.schedule['epochs']} "
            "was given: leave one of them away."
        )
    if config.pretrain not in (None, "none"):
        raise UserError(
            f"--budget {minutes:g} does not plan pre-training ({config.pretrain}): pre-train "
            "first (`labelwise pretrain DATA`), then fit with --init and the budget."
        )
    if config.devices > 1:
        raise UserError(
            f"--budget {minutes:g} plans for one process, not for --devices {config.devices}: "
            "plan with --devices 1 and stop; the report or config.json names the plain options."
        )


def require_plannable(config: RunConfig, train: Dataset, method_given: bool) -> None:
    """Raise a `UserError` for settings of no method, or a method that wants pre-training first.

    Args:
        config: as parsed.
        train: the training data.
        method_given: whether the user chose the method.
    """
    if config.settings and not method_given:
        named = ", ".join(config.settings)
        raise UserError(
            f"the settings {named} belong to a method, and the budget chooses that: give --method."
        )
    bound = bind(config, train) if method_given else None
    if isinstance(bound, Chain):
        raise UserError(
            f"--budget does not plan the pre-training that {bound.spec} wants: give --pretrain "
            "none, or start from a folder that has it (--init DIR)."
        )


def is_short(method: str) -> bool:
    """Whether a method divides nothing, so that any number of epochs of it is worth something."""
    return split_spec(method)[1].name in ("ce", "mixup", Quick.name, Sprint.name)
