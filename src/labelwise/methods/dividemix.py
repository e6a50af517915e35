"""DivideMix: split by the peer's loss mixture, then MixMatch with label refinement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from labelwise.augment.mix import mix_coefficient
from labelwise.config import MethodSettings, Schedule
from labelwise.data.ledger import Column
from labelwise.losses.classification import (
    linear_ramp,
    one_hot,
    prior_penalty,
    sharpen,
    soft_cross_entropy,
    squared_error,
)
from labelwise.selection.split import Split, split_by_clean
from labelwise.training.context import Context
from labelwise.training.deciding import Decide, Rule
from labelwise.training.groups import Group, Groups, add_views
from labelwise.training.method import Method, Phase, Problem, Step
from labelwise.training.mixing import mix_groups
from labelwise.training.ranks import Ranks
from labelwise.training.sampling import Sampling, batch_rows, deal
from labelwise.training.scoring import EARLY, FitMixture, Score
from labelwise.training.steps import Supervised, mean_over_views

HISTORY = "recent_losses"
WINDOW = 5


class DivideMixSettings(MethodSettings):
    """Settings of DivideMix. None means: chosen from the estimated noise rate, and said."""

    temperature: float = Field(0.5, gt=0, description="T, sharpening of guessed labels")
    alpha: float = Field(4.0, gt=0, description="Beta(α, α) of the mixing coefficient")
    lambda_u: float | None = Field(None, ge=0, description="weight of the unlabelled loss")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="p_threshold: a sample is labelled above it"
    )
    loss_window: int | None = Field(
        None, ge=1, le=WINDOW, description="epochs of losses averaged before the mixture"
    )
    ramp_epochs: int | None = Field(
        None, ge=0, description="epochs until λ_u is reached (paper: 16); None: a tenth of the run"
    )
    confidence_penalty: float = Field(
        0.0, ge=0, description="weight of the negative entropy in warm-up (1 for asymmetric noise)"
    )
    at_least: float = Field(
        0.5, ge=0, le=4, description="least steps an epoch, as a fraction of N / batch (paper: 0)"
    )
    revive: float = Field(
        0.5, ge=0, le=1, description="least share of trusted labels of a class (paper: 0)"
    )
    num_views: int = Field(2, ge=1, le=8, description="weak views per sample and side")
    view: str = Field("weak", description="view policy of the training images")
    mixture: str = Field("gaussian", description="gaussian or beta")


@dataclass(frozen=True)
class Divided(Sampling):
    """Draw the labelled and the unlabelled side by the judging network's clean probability.

    An epoch has as many steps as the labelled side has batches; the unlabelled side goes round
    in fresh permutations (arXiv 2002.07394, Algorithm 1, lines 6-10).

    Args:
        judge: the network whose clean probability splits.
        at_least: an epoch has at least this fraction of N / batch size steps; the labelled side
            then goes round too.
    """

    judge: int
    at_least: float = 0.0

    def plan(self, context: Context, batch_size: int) -> dict[str, Tensor]:
        """Split, then deal full batches of both sides."""
        split = self.split(context)
        if split.fallback:
            context.say(f"epoch {context.epoch + 1}, phase {context.draw.phase}: {split.fallback}")
        size = batch_rows(len(split.labelled), batch_size, context.ranks.world)
        least = self.at_least * len(context.store) / min(batch_size, len(context.store))
        steps = math.ceil(max(self.counted(context, split) / size, least))
        return {
            "clean": deal(split.labelled, context.draw, "clean", steps, size),
            "noisy": deal(split.unlabelled, context.draw, "noisy", steps, size),
        }

    def counted(self, context: Context, split: Split) -> int:
        """Samples that an epoch goes through once."""
        del context
        return len(split.labelled)

    def split(self, context: Context) -> Split:
        """The two sides: labelled is what the judge trusts above the decided threshold."""
        return split_by_clean(
            context.ledger["clean"][self.judge],
            context.store.labels,
            context.ledger.decisions["threshold"],
            context.num_classes,
        )


def semi_supervised(
    logits: Tensor, targets: Tensor, num_labelled: int, weight: float, ranks: Ranks
) -> dict[str, Tensor]:
    """The MixMatch loss of one classifier (arXiv 2002.07394, equations 9-12), as named terms.

    Args:
        logits: (B, K), the labelled rows first.
        targets: soft targets (B, K).
        num_labelled: how many rows are labelled.
        weight: λ_u.
        ranks: the prior is compared with the mean over all processes.
    """
    probability = logits.float().softmax(1)
    labelled = soft_cross_entropy(logits[:num_labelled], targets[:num_labelled])
    unlabelled = squared_error(probability[num_labelled:], targets[num_labelled:])
    return {
        "labelled": labelled.mean(),
        "unlabelled": weight * unlabelled.mean(),
        "prior": prior_penalty(ranks.mean(probability.mean(0))),
    }


@dataclass(frozen=True)
class MixMatch(Step):
    """Co-guess, co-refine, MixUp and the MixMatch loss (arXiv 2002.07394, section 3.2).

    Args:
        view: view policy of the inputs.
        num_views: views per sample; guesses are averaged over them (M in the paper).
        temperature: T.
        alpha: Beta(α, α) of the mixing coefficient.
        ramp: linear ramp of λ_u in [0, 1].
    """

    view: str = "weak"
    num_views: int = 2
    temperature: float = 0.5
    alpha: float = 4.0
    ramp: float = 1.0

    def views(self, context: Context, groups: Groups) -> Groups:
        """Make the views of both sides, and the soft targets that all views of a sample share."""
        drawn = {
            side: [context.view(group, self.view, f"{side}/{n}") for n in range(self.num_views)]
            for side, group in groups.items()
        }
        clean = groups["clean"]
        own = context.guess(context.learner, torch.cat(drawn["clean"] + drawn["noisy"]))
        size = self.num_views * len(clean.index)
        refined = mean_over_views(own[:size], self.num_views)
        guessed = mean_over_views(own[size:], self.num_views)
        if context.peer != context.learner:
            peer = context.guess(context.peer, torch.cat(drawn["noisy"]))
            guessed = (guessed + mean_over_views(peer, self.num_views)) / 2  # eq. 7
        label, weight = self.believed(context, clean)
        weight = weight[:, None]
        mixed = weight * one_hot(label, context.num_classes) + (1 - weight) * refined  # eq. 4
        targets = {
            "clean": sharpen(mixed, self.temperature),
            "noisy": sharpen(guessed, self.temperature),
        }
        return add_views(
            groups, {side: [(view, targets[side]) for view in drawn[side]] for side in groups}
        )

    def believed(self, context: Context, group: Group) -> tuple[Tensor, Tensor]:
        """Labels (B) of the labelled side and their weights (B) in the co-refinement."""
        del context
        return group.label, group.clean

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Mix all views of both sides; L = L_X + λ_u L_U + L_reg (equations 9-12)."""
        coefficient = mix_coefficient(context.draw, self.alpha, "mix")
        inputs, targets = mix_groups(context, groups, coefficient)
        logits = context.logits(context.learner, inputs)
        size = len(groups["clean"].views) * len(groups["clean"].index)
        weight = self.ramp * context.ledger.decisions["lambda_u"]
        return semi_supervised(logits, targets, size, weight, context.ranks)


@dataclass(frozen=True)
class WindowedMixture(FitMixture):
    """The mixture over the mean of the last losses, as many as was decided."""

    def run(self, context: Context) -> dict[str, float]:
        """Fit on the decided window."""
        window = int(context.ledger.decisions.get("loss_window", 1))
        seen = min(self.seen, window)
        fit = FitMixture(self.family, self.history, seen, self.revive, single_mode=False)
        return fit.run(context)


def settings_rule(rate: float, num_classes: int) -> dict[str, float]:
    """λ_u, threshold and loss window from the estimated noise rate.

    The paper sets them by hand per noise level (CIFAR-10 symmetric 20/50/80/90 %: λ_u 0/25/25/50;
    CIFAR-100: 25/150/150/150; threshold 0.6 and five epochs of losses at 90 %).
    """
    many = num_classes >= 50
    if rate < 0.3:
        weight = 25.0 if many else 0.0
    elif rate < 0.75:
        weight = 150.0 if many else 25.0
    else:
        weight = 150.0 if many else 50.0
    severe = rate >= 0.75
    return {
        "lambda_u": weight,
        "threshold": 0.6 if severe else 0.5,
        "loss_window": float(WINDOW if severe else 1),
    }


def paper_settings(lambda_u: float, severe: bool = False) -> dict[str, float]:
    """The paper's settings of a noise level, without the additions of this package.

    Args:
        lambda_u: weight of the unlabelled loss.
        severe: 90 % noise, which takes a higher threshold and five epochs of losses.
    """
    return {
        "lambda_u": lambda_u,
        "threshold": 0.6 if severe else 0.5,
        "loss_window": WINDOW if severe else 1,
        "ramp_epochs": 16,
        "at_least": 0,
        "revive": 0,
    }


class DivideMix(Method):
    """Two networks divide the data for each other and learn semi-supervised from the division.

    Differences from the paper:
        1. All views of a step go through one forward for guessing, so batch statistics are those
           of both sides together; the paper's code runs a forward per view.
        2. Where λ_u, the threshold and the loss window are not given they follow from the noise
           rate estimated after warm-up (`settings_rule`).
        3. Every batch is full, and an epoch has at least N / (2 · batch size) steps: where few
           labels are trusted the labelled side goes round, so that a run's length does not
           depend on the noise. `at_least=0` gives the paper's epochs.
        4. The ramp of λ_u rises once an epoch, not with every step.
        5. The clean posterior is monotone in the loss, and both sides and every class are kept
           alive by stated rules (`labelwise.selection`); `revive=0` leaves starving classes alone.
    """

    name = "dividemix"
    summary = "two networks, loss mixture, semi-supervised learning on the suspected part"
    citation = "Li, Socher, Hoi, DivideMix, ICLR 2020, arXiv 2002.07394"
    paper_numbers: ClassVar = {
        "cifar10 symmetric 20 last": 95.7,
        "cifar10 symmetric 50 last": 94.4,
        "cifar10 symmetric 80 last": 92.9,
        "cifar10 symmetric 90 last": 75.4,
        "cifar10 asymmetric 40 last": 92.1,
        "cifar10 asymmetric 49 last": 76.3,
        "cifar100 symmetric 20 last": 76.9,
        "cifar100 symmetric 50 last": 74.2,
        "cifar100 symmetric 80 last": 59.6,
        "cifar100 symmetric 90 last": 31.0,
        "cifar10 symmetric 20 best": 96.1,
        "cifar10 symmetric 50 best": 94.6,
        "cifar10 symmetric 80 best": 93.2,
        "cifar10 symmetric 90 best": 76.0,
        "cifar10 asymmetric 40 best": 93.4,
        "cifar10 asymmetric 49 best": 83.7,
        "cifar100 symmetric 20 best": 77.3,
        "cifar100 symmetric 50 best": 74.6,
        "cifar100 symmetric 80 best": 60.2,
        "cifar100 symmetric 90 best": 31.5,
        "cifar10 semantic densenet best": 84.57,
        "cifar10 semantic resnet best": 81.61,
        "cifar10 semantic vgg best": 85.71,
        "cifar100 semantic densenet best": 68.4,
        "cifar100 semantic resnet best": 66.28,
        "cifar100 semantic vgg best": 66.84,
        "cifar10n aggregate best": 95.6,
        "cifar10n random1 best": 95.7,
        "cifar10n worst best": 93.1,
        "webvision best": 77.32,
        "clothing1m best": 74.76,
    }
    presets: ClassVar = {
        "cifar10-symmetric-20": paper_settings(lambda_u=0),
        "cifar10-symmetric-50": paper_settings(lambda_u=25),
        "cifar10-symmetric-80": paper_settings(lambda_u=25),
        "cifar10-symmetric-90": paper_settings(lambda_u=50, severe=True),
        "cifar10-asymmetric-40": {**paper_settings(lambda_u=0), "confidence_penalty": 1.0},
        # Not in the paper: the number is from ScanMix's table 1, the settings are those of 40 %.
        "cifar10-asymmetric-49": {**paper_settings(lambda_u=0), "confidence_penalty": 1.0},
        "cifar100-symmetric-20": paper_settings(lambda_u=25),
        "cifar100-symmetric-50": paper_settings(lambda_u=150),
        "cifar100-symmetric-80": paper_settings(lambda_u=150),
        "cifar100-symmetric-90": paper_settings(lambda_u=150, severe=True),
    }
    Settings = DivideMixSettings
    settings: DivideMixSettings

    decided: ClassVar[tuple[str, ...]] = ("lambda_u", "threshold", "loss_window")

    @property
    def num_peers(self) -> int:
        """Two."""
        return 2

    @property
    def rows_per_sample(self) -> int:
        """Both sides in all their views go through one forward."""
        return 2 * self.settings.num_views

    @property
    def num_sides(self) -> int:
        """Two: the labelled and the unlabelled."""
        return 2

    def columns(self) -> tuple[Column, ...]:
        """The last epochs' losses, for the mean that severe noise needs; the first ones to show."""
        return (Column(HISTORY, shape=(WINDOW,)), EARLY)

    def default_schedule(self, problem: Problem) -> Schedule:
        """Semi-supervised learning needs iterations: more than cross-entropy."""
        return Schedule.scaled(problem.num_samples, problem.kind, iterations=2000)

    def phases(self, epoch: int) -> list[Phase]:
        """Warm-up; then score, divide and train each network on the other's division."""
        warmup = min(max(1, self.schedule.warmup), self.schedule.epochs - 1)
        if epoch < warmup:
            warm = Supervised(self.settings.view, self.settings.confidence_penalty)
            return [
                Phase(f"warmup-{n}", warm, trains=(n,), warmup=True) for n in range(self.num_peers)
            ]
        phases = self.divide(first=epoch == warmup, scored=epoch - warmup + 1)
        step = self.mixmatch(epoch - warmup)
        for number in range(self.num_peers):
            judge = (number + 1) % self.num_peers
            phases.append(
                Phase(
                    f"divide-{number}",
                    step,
                    (number,),
                    self.sampling(judge),
                    judge=judge,
                )
            )
        return phases

    @property
    def keeps_features(self) -> bool:
        """Whether scoring keeps the features, for a relative that reads them."""
        return False

    def sampling(self, judge: int) -> Sampling:
        """Which samples a network learns from, by the network that judges them."""
        return Divided(judge, self.settings.at_least)

    def rule(self) -> Rule:
        """How the settings in `decided` follow from the estimated noise rate."""
        return settings_rule

    def divide(self, first: bool, scored: int) -> list[Phase]:
        """Score, fit the mixture and, the first time, decide the settings left open."""
        family = self.settings.mixture
        phases = [
            Phase("score", Score(HISTORY, first, self.keeps_features)),
            Phase(
                "mixture",
                WindowedMixture(family, HISTORY, min(scored, WINDOW), self.settings.revive),
            ),
        ]
        if first:
            phases.append(self.decide())
        return phases

    def decide(self) -> Phase:
        """Choose the settings left open by the estimated noise rate."""
        values = ((name, getattr(self.settings, name)) for name in self.decided)
        given = tuple((name, float(value)) for name, value in values if value is not None)
        return Phase("decide", Decide(self.rule(), given))

    def mixmatch(self, age: int) -> MixMatch:
        """The step of the epoch `age` epochs after warm-up."""
        length = self.settings.ramp_epochs
        if length is None:
            length = max(1, round(0.1 * (self.schedule.epochs - self.schedule.warmup)))
        return MixMatch(
            view=self.settings.view,
            num_views=self.settings.num_views,
            temperature=self.settings.temperature,
            alpha=self.settings.alpha,
            ramp=linear_ramp(age, length),
        )
