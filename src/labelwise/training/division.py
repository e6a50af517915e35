"""How well a method divides the data, where the truth is known: nothing is selected by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.data.dataset import NO_CLASS, Truth
from labelwise.data.ledger import Ledger
from labelwise.training.corrections import CONSISTENT, CORRECTED, EASY, STATE, TARGET, UNSORTED
from labelwise.training.scoring import EARLY

HARDEST = 0.25
"""Share of the rightly labelled samples, those with the largest losses, that are called hard."""


@dataclass(frozen=True)
class Division:
    """Compares the labels that a method learns from with the true ones.

    Args:
        given: given labels (N) int64, as trained on.
        truth: the true ones.
    """

    given: Tensor
    truth: Truth

    def __call__(self, ledger: Ledger) -> dict[str, float]:
        """Figures of the first network, fractions; nothing for methods that do not divide.

        Returns:
            `labelled_right`: of the samples whose label is used, how many have a right one.
            `hard_clean_kept`: of the quarter of rightly labelled samples that had the largest
            losses after warm-up, how many are used with their right label. `wrong_mended`: of the
            wrongly labelled, how many are used with their right label. For methods that sort:
            `easy_right`, `corrected_right` (of the easy, of the corrected samples), and
            `corrected_count`.
        """
        if "threshold" not in ledger.decisions or EARLY.name not in ledger:
            return {}
        true = self.truth.labels.to(self.given.device)
        known = true != NO_CLASS
        right = (self.given == true) & known
        used, target = self._used(ledger)
        good = used & (target == true)
        early = ledger[EARLY.name][0]
        hard = right & (early >= largest(early[right], HARDEST)) if right.any() else right
        figures = {
            "labelled_right": share(good, used & known),
            "hard_clean_kept": share(good, hard),
            "wrong_mended": share(good, known & ~right),
        }
        if STATE in ledger:
            state = ledger[STATE][0]
            easy, corrected = (state == EASY) & known, (state == CORRECTED) & known
            figures["easy_right"] = share(right, easy)
            figures["corrected_right"] = share(target == true, corrected)
            figures["corrected_count"] = corrected.sum()
        names = list(figures)
        values = torch.stack([value.double() for value in figures.values()]).tolist()
        return {
            name: value
            for name, value in zip(names, values, strict=True)
            if value == value  # a share of nothing is no figure
        }

    def _used(self, ledger: Ledger) -> tuple[Tensor, Tensor]:
        """Which samples' labels are learnt from (N) bool, and the labels (N)."""
        if STATE in ledger and bool((ledger[STATE][0] != UNSORTED).any()):
            state = ledger[STATE][0]
            return (state == EASY) | (state == CORRECTED), ledger[TARGET][0]
        used = ledger["clean"][0] > ledger.decisions["threshold"]
        if CONSISTENT in ledger:
            used &= ledger[CONSISTENT][0] >= ledger.decisions[CONSISTENT]
        return used, self.given


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Share of `whole` (N) bool that is in `part` (N) bool; NaN of nothing."""
    return (part & whole).sum().double() / whole.sum()


def largest(values: Tensor, fraction: float) -> Tensor:
    """The value from which on the largest `fraction` of values (M) lie, M > 0."""
    count = max(1, round(fraction * len(values)))
    return values.kthvalue(len(values) - count + 1).values
