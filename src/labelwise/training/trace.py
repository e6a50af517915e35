"""What the run itself shows of every label: predictions over the epochs, kept in the ledger.

A network learns right labels early and wrong ones late, if at all. One prediction a sample and
epoch is remembered as running sums, so that an audit can read the whole run at the end: the mean
prediction over the run (`PROBABILITY`), how clearly the given label led (`MARGIN`, the area under
the margin of Pleiss et al., arXiv 2001.10528, on probabilities), how often it was predicted
(`HITS`), and how early it first was (`LEARNED`).

Steps that run a network on single, unmixed samples hand over their logits, which costs nothing;
for methods whose steps do not, the loop adds the pass `Observe` to some epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.data.ledger import Column
from labelwise.training.context import Context
from labelwise.training.method import Method, Pass, Phase

SEEN = "trace_seen"
MARGIN = "trace_margin"
HITS = "trace_hits"
LEARNED = "trace_learned"
PROBABILITY = "trace_probability"
FIRST = 0.25
"""The mean prediction starts after this part of the run: earlier ones say little."""
MOST_PASSES = 30
"""Passes of `Observe` in a run, at most."""
MOST_NUMBERS = 2**25
"""Above this many probabilities (128 MiB, in every checkpoint) the mean prediction is not kept."""


def trace_columns(num_classes: int, num_samples: int, num_peers: int) -> tuple[Column, ...]:
    """The ledger columns of the trace, for N samples of K classes and P networks."""
    columns: tuple[Column, ...] = (
        Column(SEEN, merge="sum"),  # predictions that PROBABILITY sums
        Column(MARGIN, merge="sum"),  # sum of p_given - max of the others, over all predictions
        Column(HITS, shape=(2,), merge="sum"),  # predictions of the given label, predictions
        Column(LEARNED, merge="max"),  # 1 - epoch / epochs at the first such prediction; 0: never
    )
    if num_peers * num_samples * num_classes <= MOST_NUMBERS:
        columns += (Column(PROBABILITY, shape=(num_classes,), merge="sum"),)
    return columns


@torch.no_grad()
def observe(context: Context, number: int, index: Tensor, logits: Tensor) -> None:
    """Add one prediction of some samples to the trace.

    Args:
        context: of the step or pass.
        number: the network that predicted.
        index: row numbers (B).
        logits: its logits (B, K) for these samples, each seen alone.
    """
    ledger = context.ledger
    if SEEN not in ledger:
        return
    probability = logits.detach().float().softmax(1)
    given = context.store.labels[index][:, None]
    own = probability.gather(1, given)
    others = probability.scatter(1, given, -1.0).amax(1)
    hit = (own[:, 0] > others).float()
    ledger.add(MARGIN, number, index, own[:, 0] - others)
    ledger.add(HITS, number, index, torch.stack([hit, torch.ones_like(hit)], dim=1))
    early = 1.0 - context.epoch / max(1, context.num_epochs)
    # A row may come twice in a batch; whichever is written last, both write the larger one.
    same = index[:, None] == index
    learned = torch.where(same, hit * early, 0.0).amax(1)
    ledger.write(LEARNED, number, index, learned.maximum(ledger[LEARNED][number, index]))
    if PROBABILITY in ledger and context.epoch >= int(FIRST * context.num_epochs):
        ledger.add(SEEN, number, index, torch.ones_like(hit))
        ledger.add(PROBABILITY, number, index, probability)


@dataclass(frozen=True)
class Observe(Pass):
    """Predict every sample once, unaugmented, only to remember the predictions."""

    observes: ClassVar[bool] = True

    def run(self, context: Context) -> dict[str, float]:
        """Run all networks over this rank's samples."""
        for number in range(len(context.networks)):
            for index, outputs in context.score_blocks(number):
                observe(context, number, index, outputs["classes"])
        return {}


def with_trace(phases: list[Phase], method: Method, epoch: int) -> list[Phase]:
    """The epoch's phases, with a pass of `Observe` where it is due and no phase observes."""
    num_epochs = method.schedule.epochs
    every = max(1, -(-num_epochs // MOST_PASSES))
    due = (num_epochs - 1 - epoch) % every == 0
    if not due or any(phase.step.observes for phase in phases):
        return phases
    return [*phases, Phase("observe", Observe())]
