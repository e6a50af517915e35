"""A method of your own: forget the largest losses of every batch, in one class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import labelwise
from labelwise.losses.classification import soft_cross_entropy
from labelwise.selection.small_loss import small_loss_mask
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.method import Method, Phase
from labelwise.training.steps import Supervised, mean_over_views


@dataclass(frozen=True)
class TrimmedStep(Supervised):
    """Cross-entropy over the smallest losses of the batch.

    Args:
        keep: fraction of the batch to learn from.
    """

    keep: float = 0.6

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Select per sample, over all of its views."""
        (group,) = groups.values()
        logits = context.logits(context.learner, group.inputs)
        loss = mean_over_views(soft_cross_entropy(logits, group.targets), len(group.views))
        return {"trimmed": loss[small_loss_mask(loss.detach(), self.keep)].mean()}


class Trimmed(Method):
    """Learn from the small losses of every batch."""

    name = "trimmed"

    def phases(self, epoch: int) -> list[Phase]:
        """One pass over all samples, all of them in the first five epochs."""
        step = TrimmedStep(keep=0.6 if epoch >= 5 else 1.0)
        return [Phase("train", step, trains=(0,))]


if __name__ == "__main__":
    result = labelwise.fit("digits", method=Trimmed(), noise="symmetric:0.4", epochs=30)
    print(result.summary["test_accuracy_last"], result.summary["label_error_auroc"])
