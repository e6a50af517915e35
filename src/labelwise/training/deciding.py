"""Decisions taken once from the data and kept in the ledger, so that they survive a resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labelwise.selection.noise_rate import estimate_noise_rate
from labelwise.training.context import Context
from labelwise.training.method import Pass

Rule = Callable[[float, int], dict[str, float]]
"""From (estimated noise rate, number of classes) to named decisions."""


@dataclass(frozen=True)
class Decide(Pass):
    """Estimate the noise rate from the clean probabilities and decide settings from it.

    Args:
        rule: gives the decisions.
        given: settings that the user fixed, which win over the rule.
    """

    rule: Rule
    given: tuple[tuple[str, float], ...] = ()

    def run(self, context: Context) -> dict[str, float]:
        """Write the decisions and say them."""
        rate = float(estimate_noise_rate(context.ledger["clean"]).mean())
        decisions = {**self.rule(rate, context.num_classes), **dict(self.given)}
        context.ledger.decisions.update({"noise_rate": rate, **decisions})
        chosen = ", ".join(f"{name} = {value:g}" for name, value in decisions.items())
        context.say(f"about {rate:.0%} of the labels look wrong after warm-up: {chosen}")
        return {}
