"""TSCSI: trust what is central in its class and what two diverging classifiers agree on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from labelwise.augment.mix import mix_coefficient
from labelwise.data.ledger import Column
from labelwise.losses.classification import negative_entropy, soft_cross_entropy
from labelwise.losses.discrepancy import discrepancy
from labelwise.methods.dividemix import (
    WINDOW,
    Divided,
    DivideMix,
    DivideMixSettings,
    MixMatch,
    WindowedMixture,
    semi_supervised,
)
from labelwise.models.heads import HeadSpec, Twins
from labelwise.models.network import Network
from labelwise.selection.split import Split, split_by_clean
from labelwise.training.centrality import (
    DISTANCES,
    TWINS,
    MeasureCentrality,
    MeasureConsistency,
)
from labelwise.training.context import Context
from labelwise.training.corrections import CONSISTENT
from labelwise.training.features import BANK, FeatureBank
from labelwise.training.groups import Groups
from labelwise.training.method import Phase, Step
from labelwise.training.mixing import mix_groups
from labelwise.training.sampling import Sampling, batch_rows, deal
from labelwise.training.scoring import EARLY, Score
from labelwise.training.steps import Supervised, labelled_views
from labelwise.training.trace import observe


class TSCSISettings(DivideMixSettings):
    """Settings of TSCSI. None means: DivideMix's choice from the estimated noise rate."""

    lambda_u: float | None = Field(
        25.0, ge=0, description="weight of the unlabelled loss (authors' code: 25 on CIFAR)"
    )
    threshold: float | None = Field(
        0.3, gt=0, lt=1, description="a sample is central above it (authors' code: 0.3)"
    )
    loss_window: int | None = Field(
        1, ge=1, le=WINDOW, description="epochs of distances averaged before the mixture"
    )
    consistency: float = Field(
        0.3, gt=0, lt=1, description="a central sample is labelled from it on (authors' code: 0.3)"
    )
    diverge_weight: float = Field(
        0.1, ge=0, description="λ of the twins' discrepancy where they diverge"
    )
    converge_weight: float = Field(
        0.1, ge=0, description="λ of the twins' discrepancy where the backbone lessens it"
    )
    diverge_steps: float = Field(
        0.125, ge=0, le=10, description="steps to diverge, as a fraction of N / batch (code: 100)"
    )


@dataclass(frozen=True)
class TwinSupervised(Supervised):
    """The warm-up: cross-entropy of the predicting classifier, and of the twins."""

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Mean over all views; the twins' terms move no features."""
        (group,) = groups.values()
        outputs = context.forward(context.learner, group.inputs, ("classes", TWINS))
        logits, targets = outputs["classes"], group.targets
        observe(context, context.learner, group.index, logits[: len(group.index)])
        twins = soft_cross_entropy(outputs[TWINS][:, 0], targets[:, None])
        terms = {
            "cross_entropy": soft_cross_entropy(logits, targets).mean(),
            "twins": twins.sum(1).mean(),
        }
        if self.confidence_penalty:
            terms["confidence_penalty"] = self.confidence_penalty * negative_entropy(logits)
        return terms


@dataclass(frozen=True)
class TwinMixMatch(MixMatch):
    """MixMatch of the predicting classifier and of the twins, on features that make them agree.

    Args:
        converge: weight of the twins' discrepancy, which moves the features alone.
    """

    converge: float = 0.1

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """All three classifiers learn the same targets; the features learn from the first."""
        coefficient = mix_coefficient(context.draw, self.alpha, "mix")
        inputs, targets = mix_groups(context, groups, coefficient)
        outputs = context.forward(context.learner, inputs, ("classes", TWINS))
        size = len(groups["clean"].views) * len(groups["clean"].index)
        weight = self.ramp * context.ledger.decisions["lambda_u"]
        terms = semi_supervised(outputs["classes"], targets, size, weight, context.ranks)
        learnt, held = outputs[TWINS].unbind(1)
        first, second = (
            semi_supervised(logits, targets, size, weight, context.ranks)
            for logits in learnt.unbind(1)
        )
        both = {name: first[name] + second[name] for name in first}
        terms["twins"] = both["labelled"] + both["unlabelled"] + both["prior"] / 2
        terms["discrepancy"] = self.converge * discrepancy(held[:, 0], held[:, 1]).mean()
        return terms


@dataclass(frozen=True)
class Diverge(Step):
    """Drive the twins apart on samples that look central, so that only the sure ones stay agreed.

    Args:
        view: view policy of the inputs.
        weight: of the discrepancy.
    """

    classifies: ClassVar[bool] = False
    view: str = "weak"
    weight: float = 0.1

    def views(self, context: Context, groups: Groups) -> Groups:
        """One augmented view; the label is not looked at."""
        return labelled_views(context, groups, self.view)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The negative mean discrepancy; it moves the twins alone."""
        (group,) = groups.values()
        twins = context.forward(context.learner, group.inputs, (TWINS,))[TWINS][:, 0]
        return {"divergence": -self.weight * discrepancy(twins[:, 0], twins[:, 1]).mean()}


@dataclass(frozen=True)
class Central(Divided):
    """Draw among what the judge finds central.

    Args:
        fraction: steps, as a fraction of N / batch size; at least one.
    """

    fraction: float = 0.125

    def plan(self, context: Context, batch_size: int) -> dict[str, Tensor]:
        """Deal full batches of the central samples."""
        rows = self.split(context).labelled
        steps = max(1, round(self.fraction * len(context.store) / batch_size))
        size = batch_rows(len(rows), batch_size, context.ranks.world)
        return {"central": deal(rows, context.draw, "central", steps, size)}


@dataclass(frozen=True)
class Agreed(Divided):
    """Draw both sides: labelled is what is central and what the judge's twins agree on.

    Args:
        consistency: least probability that the twins agree as on right labels.
    """

    consistency: float = 0.3

    def split(self, context: Context) -> Split:
        """The two sides, by the rules against empty ones."""
        threshold = context.ledger.decisions["threshold"]
        clean = context.ledger["clean"][self.judge]
        agreed = context.ledger[CONSISTENT][self.judge] >= self.consistency
        # What is not agreed on falls below the threshold and keeps its order there.
        trusted = torch.where(agreed, clean, clean * threshold)
        return split_by_clean(trusted, context.store.labels, threshold, context.num_classes)


class TSCSI(DivideMix):
    """Two stages find right labels, then DivideMix's semi-supervised learning uses them.

    *Centrality.* Wrong labels put a sample far from the centre of the class that its label says:
    the mean direction of the features that are predicted as this class. A mixture over the cosine
    distances gives P(label right); below a low threshold a label is not used.

    *Consistency.* What is left holds wrong labels near the border between classes. Two further
    classifiers on the same features are driven apart, while the backbone learns features on which
    they agree; where they still disagree the label is not used either. A mixture for each class
    turns their discrepancy into a probability.

    Each network learns from what the other one finds central and agreed on, with the probability of
    the first stage as the weight of the label.

    Differences from the paper, as far as its abstract and the authors' code tell it:
        1. The abstract says that rare classes are aggregated by the entropy of their predictions.
           Neither of the authors' two scripts does so (one mixture for all classes on CIFAR, a
           threshold for each class on Clothing1M); here one mixture serves all classes.
        2. The second stage sorts out some of what the first one kept, as in the authors' code; the
           abstract can also be read as adding to it.
        3. Features are the backbone's own, and the twins are linear on them. In the authors' code
           a linear layer of 128 stands between (its outputs are the features of the first stage),
           then a batch normalisation and a ReLU for each.
        4. Centres follow the predicting classifier, not the mean of the twins. A class that is
           never predicted takes the mean of the samples that carry its label.
        5. Both networks' twins diverge before either network is trained, for an eighth of the
           steps of an epoch (the authors' code: 100, an eighth of its epoch on CIFAR), with the
           backbone in eval mode. The mean is over samples; the authors' code weights samples by
           the frequency of their label and divides by the batch size once more, which leaves the
           step next to nothing.
        6. Features learn to lessen the discrepancy within the same update, not in one after it.
        7. The twins' penalty for predicting few classes counts half, so that both together weigh
           as that of the predicting classifier.
        8. Thresholds of 0.3 and λ_u = 25 are the defaults of the authors' code for CIFAR. The
           mixture is DivideMix's (10 iterations) in both stages (authors' code: 100 in the first,
           with a looser stop).
        9. Those of `labelwise.methods.dividemix.DivideMix`.
    """

    name = "tscsi"
    summary = "central in its class and agreed on by two classifiers, then DivideMix's learning"
    citation = (
        "Zhao, Li, Qin, Liu, Yu, Centrality and Consistency: Two-Stage Clean Samples "
        "Identification for Learning with Instance-Dependent Noisy Labels, ECCV 2022, "
        "arXiv 2207.14476"
    )
    paper_numbers: ClassVar = {}
    presets: ClassVar = {"cifar10-instance": {"ramp_epochs": 16, "at_least": 0, "revive": 0}}
    Settings: ClassVar = TSCSISettings
    settings: TSCSISettings

    @property
    def keeps_features(self) -> bool:
        """Both stages read them."""
        return True

    def columns(self) -> tuple[Column, ...]:
        """The last distances, what the twins agree on, and the first losses to show."""
        return (Column(DISTANCES, shape=(WINDOW,)), Column(CONSISTENT), EARLY)

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The twins."""
        return {TWINS: Twins(spec.num_features, spec.num_classes)}

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """The features that scoring leaves for both stages."""
        del network
        return {BANK: FeatureBank()}

    def phases(self, epoch: int) -> list[Phase]:
        """DivideMix's; in the warm-up the twins learn too."""
        own = self.settings
        warm = TwinSupervised(own.view, own.confidence_penalty)
        return [
            replace(phase, step=warm) if phase.warmup else phase for phase in super().phases(epoch)
        ]

    def divide(self, first: bool, scored: int) -> list[Phase]:
        """Score; centrality and, the first time, decide; diverge the twins; consistency."""
        own = self.settings
        window = min(scored, WINDOW)
        phases = [
            Phase("score", Score(None, first, self.keeps_features)),
            Phase("centrality", MeasureCentrality()),
            Phase("mixture", WindowedMixture(own.mixture, DISTANCES, window, own.revive)),
        ]
        if first:
            phases.append(self.decide())
        if own.diverge_weight > 0 and own.diverge_steps > 0:
            step = Diverge(own.view, own.diverge_weight)
            phases += [
                Phase(
                    f"diverge-{n}",
                    step,
                    (n,),
                    Central(n, fraction=own.diverge_steps),
                    judge=n,
                    frozen=True,
                )
                for n in range(self.num_peers)
            ]
        return [*phases, Phase("consistency", MeasureConsistency(own.mixture, own.consistency))]

    def sampling(self, judge: int) -> Sampling:
        """By both stages of the network that judges."""
        return Agreed(judge, self.settings.at_least, self.settings.consistency)

    def mixmatch(self, age: int) -> MixMatch:
        """DivideMix's step, with the twins."""
        step = super().mixmatch(age)
        own = {name: getattr(step, name) for name in ("view", "num_views", "temperature", "alpha")}
        return TwinMixMatch(**own, ramp=step.ramp, converge=self.settings.converge_weight)
