"""Steps that several methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from labelwise.losses.classification import negative_entropy, one_hot, soft_cross_entropy
from labelwise.training.context import Context
from labelwise.training.groups import Groups, add_views
from labelwise.training.method import Step
from labelwise.training.trace import observe


@dataclass(frozen=True)
class Supervised(Step):
    """Cross-entropy against the given labels: the plain baseline and every method's warm-up.

    Args:
        view: view policy of the inputs.
        confidence_penalty: weight of the negative entropy of the predictions, which keeps a
            warm-up from becoming sure of asymmetric noise (Pereyra et al., arXiv 1701.06548;
            DivideMix, section 3.1).
    """

    observes: ClassVar[bool] = True
    view: str = "weak"
    confidence_penalty: float = 0.0

    def views(self, context: Context, groups: Groups) -> Groups:
        """One augmented view of each side, with its given label."""
        return labelled_views(context, groups, self.view)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Mean soft cross-entropy over all views of all sides."""
        (group,) = groups.values()
        logits = context.logits(context.learner, group.inputs)
        observe(context, context.learner, group.index, logits[: len(group.index)])
        terms = {"cross_entropy": soft_cross_entropy(logits, group.targets).mean()}
        if self.confidence_penalty:
            terms["confidence_penalty"] = self.confidence_penalty * negative_entropy(logits)
        return terms


def mean_over_views(values: Tensor, num_views: int) -> Tensor:
    """Average rows (V·B, ...) that lie view by view to (B, ...)."""
    return values.reshape(num_views, -1, *values.shape[1:]).mean(0)


def labelled_views(context: Context, groups: Groups, view: str) -> Groups:
    """The groups with one more view of the policy `view`, with its given label as the target."""
    return add_views(
        groups,
        {
            side: [
                (
                    context.view(group, view, f"{side}/0"),
                    one_hot(group.label, context.num_classes),
                )
            ]
            for side, group in groups.items()
        },
    )
