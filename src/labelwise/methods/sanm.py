"""SANM: self-supervised adversarial noisy masking, a wrapper around any method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from labelwise.augment.masking import (
    Anchor,
    Fill,
    Masker,
    Place,
    Ratio,
    Sides,
    Spot,
    activation_map,
)
from labelwise.augment.view import View
from labelwise.config import MethodSettings
from labelwise.data.dataset import Kind
from labelwise.discovery import find
from labelwise.errors import UserError
from labelwise.losses.masking import reconstruction_error, soften
from labelwise.models.heads import Decoder, HeadSpec
from labelwise.models.network import Network, Outputs
from labelwise.training.context import Context
from labelwise.training.evaluate import evaluating
from labelwise.training.groups import Group, Groups
from labelwise.training.groups import View as InputAndTarget
from labelwise.training.method import Method, Phase, Problem, Step, Wrapper
from labelwise.training.scoring import FitMixture, Score

HEAD = "reconstruction"
NAME = "sanm"
SCORINGS = 30
"""Scoring passes in a run of a host that has no clean probability, at most."""


class SANMSettings(MethodSettings):
    """Settings of SANM."""

    amg: bool = Field(True, description="adversarial mask generation: cover the boxes")
    nlr: bool = Field(True, description="noisy label regularisation: soften the copies' targets")
    smr: bool = Field(True, description="self-supervised reconstruction of the unmasked image")
    ratio: Ratio = Field("adaptive", description="share that is masked: adaptive, random or fixed")
    basic_ratio: float = Field(0.045, ge=0, le=0.9, description="its mean over right labels")
    ratio_spread: float = Field(0.025, ge=0, le=0.5, description="it is drawn from mean ± spread")
    ratio_gain: float = Field(0.03, ge=0, le=0.9, description="what a surely wrong label adds")
    reference_side: int = Field(
        1, ge=1, description="images with a shorter side get ratios larger in proportion; 1: none"
    )
    place: Place = Field(
        "auto", description="boxes guided by the activation map, random, or guided by a fine map"
    )
    spot: Spot = Field("pixel", description="extreme pixel (paper), or any of the extreme cell")
    anchor: Anchor = Field("centre", description="pixel in the box's centre, or its corner (code)")
    boxes: Sides = Field(
        "auto", description="copies: hot, cold, both, either of them; auto: as many as views"
    )
    keep_views: bool | None = Field(
        None, description="learn from the host's unmasked views too; None: where it has several"
    )
    fill: Fill = Field("random", description="one random value per image and channel, or black")
    elongation: float = Field(
        1.25, ge=1, le=10, description="height over width is drawn from U(1 / it, it)"
    )
    reconstruction_weight: float = Field(
        0.02, ge=0, description="weight of the reconstruction (CIFAR 0.02, Clothing1M 0.3)"
    )
    guess_view: str | None = Field(
        None, description="view policy in place of the host's own (code: autoaugment)"
    )
    learn_view: str | None = Field(
        None, description="view policy of further views that are learnt (code: randaugment)"
    )
    num_learn_views: int = Field(2, ge=1, le=8, description="how many, where learn_view is set")
    mask_warmup: bool = Field(True, description="mask in the host's warm-up too")
    warmup_clip: float | None = Field(
        None, gt=0, description="bound on the gradient norm in the warm-up (code: 1)"
    )
    score_every: int | None = Field(
        None, ge=1, description="epochs between scorings, for hosts without; None: 30 in a run"
    )


@dataclass(frozen=True)
class Copies:
    """Where the masked copies are among a group's views, and what they are copies of.

    Args:
        first: place of the first of them.
        count: how many.
        source: the view without the mask (B, C, H, W).
    """

    first: int
    count: int
    source: Tensor


@dataclass(frozen=True)
class GuessOn(Context):
    """A context in which every view that a step asks for is of one policy.

    Args:
        policy: its name.
    """

    policy: str = ""

    def view(self, group: Group, name: str, purpose: str) -> Tensor:
        """The view under the one policy."""
        return super().view(group, self.policy, purpose)


@dataclass(frozen=True)
class Rebuild(Context):
    """A context whose forwards with gradient also rebuild the images without their masks.

    An input carries its unmasked image along as further channels, and one more that says how far
    it is a masked copy (`carrying`). Whatever the host does to inputs (join, permute, mix) is
    linear and happens to these channels too, so a mixed input is to become the mixed unmasked
    images, and those that are masked copies, or mostly so, can be told from the rest. Both heads
    run in one forward: a data-parallel wrapper allows no second one.

    Args:
        share: of all rows that a step joins, how many are masked copies.
        errors: what each forward with gradient adds.
    """

    share: float = 0.0
    errors: list[Tensor] = field(default_factory=list)

    def forward(self, number: int, inputs: Tensor, heads: Iterable[str] = ("classes",)) -> Outputs:
        """Run the network on the inputs alone, and compare what it rebuilds."""
        network = self.plain[number]
        mean, std = network.get_buffer("mean"), network.get_buffer("std")
        channels = len(mean)
        if inputs.shape[1] == channels:
            return super().forward(number, inputs, heads)
        seen, whole, masked = torch.split(inputs, [channels, channels, 1], dim=1)
        if not torch.is_grad_enabled():
            return super().forward(number, seen, heads)
        # As many as there are: which ones need not be known on the host.
        count = round(self.share * len(inputs))
        assert count, "a forward without masked copies"
        rows = masked[:, 0, 0, 0].topk(count, sorted=False).indices
        outputs: Outputs = self.networks[number](seen, heads=(*heads, HEAD), rows={HEAD: rows})
        wanted = (whole[rows] - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
        self.errors.append(reconstruction_error(outputs.pop(HEAD), wanted).mean())
        return outputs


@dataclass(frozen=True)
class MaskedStep(Step):
    """The host's step, with masked copies among the views and the reconstruction as a term.

    Args:
        inner: the host's step.
        masker: how copies are masked.
        nlr: whether their targets are softened.
        weight: weight of the reconstruction; 0 for none.
        guess_view: view policy in place of the host's, or None.
        learn_views: view policies of further views.
        keep_views: whether the host's own views stay; None: where there are several.
        observes: as the host's step.
    """

    inner: Step
    masker: Masker
    nlr: bool = True
    weight: float = 0.02
    guess_view: str | None = None
    learn_views: tuple[str, ...] = ()
    keep_views: bool | None = None

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """As the host's step."""
        return self.inner.observes

    def views(self, context: Context, groups: Groups) -> Groups:
        """The host's views, further views, and the masked copies of the first one."""
        made = self.inner.views(self._guessing(context), groups)
        sources = {side: group.views[0][0] for side, group in made.items()}
        maps: dict[str, Tensor | None] = dict.fromkeys(made)
        if self.guided(context, next(iter(sources.values()))):
            joined = self.activation(context, torch.cat(list(sources.values())))
            parts = torch.split(joined, [len(source) for source in sources.values()])
            maps.update(zip(made, parts, strict=True))
        return {
            side: self._with_copies(context, side, group, maps[side])
            for side, group in made.items()
        }

    def _guessing(self, context: Context) -> Context:
        if self.guess_view is None:
            return context
        return GuessOn(**shared(context), policy=self.guess_view)

    def guided(self, context: Context, images: Tensor) -> bool:
        """Whether the activation map says where the boxes are."""
        network = cast(Network, context.plain[context.trains[0]])
        return self.masker.guides(network.map_size(tuple(images.shape[1:])))

    def activation(self, context: Context, images: Tensor) -> Tensor:
        """Activation maps (B, h, w) of the networks that learn, each scaled to mean 1, averaged.

        In eval mode, so that looking leaves no trace in the batch statistics.
        """
        found = []
        for number in context.trains:
            network = context.plain[number]
            with evaluating([network]), context.autocast():
                maps = activation_map(network(images, heads=("feature_map",))["feature_map"])
            tiny = torch.finfo(maps.dtype).tiny
            found.append(maps / maps.mean((1, 2), keepdim=True).clamp_min(tiny))
        return torch.stack(found).mean(0)

    def _with_copies(
        self, context: Context, side: str, group: Group, activation: Tensor | None
    ) -> Group:
        source, target = group.views[0]
        draw = context.draw.within(f"{NAME}/{side}")
        learn: list[InputAndTarget] = [
            (context.view(group, name, f"{NAME}/{side}/learn/{n}"), target)
            for n, name in enumerate(self.learn_views)
        ]
        ratio = self.masker.ratios(group.clean, draw)
        softer = soften(target, ratio) if self.nlr else target
        masked = self.masker(source, activation, ratio, draw, len(group.views))
        if not keeps(self.keep_views, len(group.views)):
            group = replace(group, views=())
        copies = Copies(len(group.views) + len(learn), len(masked), source)
        views: list[InputAndTarget] = [*learn, *((copy.images, softer) for copy in masked)]
        return group.adding(*views).keeping(NAME, copies)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The host's terms over all views, and the reconstruction of the masked ones."""
        if self.weight == 0:
            return self.inner.loss(context, groups)
        rebuild = Rebuild(**shared(context), share=masked_share(groups))
        carried = {side: carrying(group) for side, group in groups.items()}
        terms = dict(self.inner.loss(rebuild, carried))
        terms[HEAD] = self.weight * torch.stack(rebuild.errors).sum()
        return terms


def keeps(asked: bool | None, num_views: int) -> bool:
    """Whether a host's own views stay beside the masked copies."""
    return num_views > 1 if asked is None else asked


def shared(context: Context) -> dict[str, Any]:
    """The fields of a context, for one that behaves a little differently."""
    return {item.name: getattr(context, item.name) for item in fields(Context)}


def masked_share(groups: Groups) -> float:
    """The share of masked copies among the views of all groups, by rows."""
    kept: list[Copies] = [group.kept[NAME] for group in groups.values()]
    masked = sum(copies.count * len(copies.source) for copies in kept)
    return masked / sum(len(group.views) * len(group.index) for group in groups.values())


def carrying(group: Group) -> Group:
    """The group with every input (B, C, H, W) as (B, 2 C + 1, H, W).

    Behind the channels of the input come those of the image it is to become, and one that is 1 for
    masked copies and 0 for the other views.
    """
    copies: Copies = group.kept[NAME]
    masked = range(copies.first, copies.first + copies.count)
    flag = torch.ones_like(copies.source[:, :1])
    zero = torch.zeros_like(flag)
    return replace(
        group,
        views=tuple(
            (torch.cat((inputs, copies.source, flag), 1), target)
            if place in masked
            else (torch.cat((inputs, inputs, zero), 1), target)
            for place, (inputs, target) in enumerate(group.views)
        ),
    )


class SANM(Wrapper):
    """Mask what the network leans on, soften the label by as much, and rebuild the image.

    Networks that learn wrong labels look at regions that do not matter. Around the steps of any
    host method three things are added: masked copies of the images, one covered where the
    activation map is largest and one where it is smallest, more of a label that is doubtful (AMG);
    for these copies a target whose top class pays what was masked (NLR); and a decoder that
    rebuilds the unmasked image, which is a lesson no wrong label can spoil (SMR).

    Differences from the paper:
        1. The copies are added to the host's views, and the host's own remain; in a host that
           mixes its inputs the copies are mixed too (as in the authors' code), and what is rebuilt
           is the mix of the unmasked images.
        2. Each of the two boxes covers half of the ratio, with an aspect from U(0.8, 1.25), a
           random colour, and the extreme pixel in its centre. The authors' code takes that pixel
           as the corner (`anchor=corner`).
        3. A box is at least one pixel and never the whole image, which tiny images need.
        4. The clean probability is that of the host (the peer's mixture in DivideMix). Where the
           host has none, or not in every epoch, the wrapper scores all samples and fits the
           mixture, some thirty times in a run (`score_every`); before that every label counts as
           right.
        5. Where two networks learn from one batch (Co-teaching), the places come from the mean of
           both activation maps, and the copies share the selection of their image.
        6. The activation map is taken in eval mode, of the host's first view.
        7. The host keeps its own view policy. The authors' code guesses on AutoAugment
           (`guess_view`) and learns from two RandAugment views more (`learn_view`), clips the
           gradients of the warm-up (`warmup_clip`), and trains for 360 epochs.
        8. The reconstruction is compared in the network's normalised units, on masked copies alone;
           its decoder fits any backbone (`labelwise.models.heads.Decoder`).
        9. Steps whose targets are not classes (ScanMix's clustering pass) are left as they are.
        10. The authors' code applies a softmax twice and reports a running maximum; not here.
    """

    name = NAME
    summary = "adversarial masking around any method: sanm+dividemix, sanm+ce, …"
    citation = (
        "Tu et al., Learning with Noisy labels via Self-supervised Adversarial Noisy Masking, "
        "CVPR 2023, arXiv 2302.06805"
    )
    kinds: ClassVar[frozenset[Kind]] = frozenset({"images"})
    paper_numbers: ClassVar = {
        "clothing1m, around dividemix": 75.63,
        "cifar10 symmetric 50, around c2d": 96.4,
    }
    Settings: ClassVar = SANMSettings
    settings: SANMSettings

    def __init__(self, base: Method, **settings: Any) -> None:
        super().__init__(base, **settings)
        self.scale = 1.0
        if NAME in base.spec.split("+"):
            raise UserError(f"{self.spec!r} masks twice: write {base.spec!r}.")

    @property
    def masker(self) -> Masker:
        """How images are masked."""
        own = self.settings
        return Masker(
            ratio=own.ratio,
            basic=own.basic_ratio,
            spread=own.ratio_spread,
            gain=own.ratio_gain,
            scale=self.scale,
            place=own.place,
            spot=own.spot,
            anchor=own.anchor,
            boxes=own.boxes,
            fill=own.fill,
            elongation=own.elongation,
            cover=own.amg,
        )

    def shows_masks(self) -> Masker:
        """As this method masks them."""
        return self.masker

    @property
    def learn_views(self) -> tuple[str, ...]:
        """View policies of the further views."""
        own = self.settings
        return () if own.learn_view is None else (own.learn_view,) * own.num_learn_views

    @property
    def rows_per_sample(self) -> int:
        """The host's, and the copies and further views of every side."""
        host = self.base.rows_per_sample
        views = host // self.num_sides
        added = len(self.masker.names(views)) + len(self.learn_views)
        kept = host if keeps(self.settings.keep_views, views) else 0
        return added * self.num_sides + kept

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Bind host and wrapper, and scale the ratios to the images."""
        bound = super().bind(problem, overrides)
        for name in (self.settings.guess_view, self.settings.learn_view):
            if name is not None:
                find("view", name, "labelwise.augment", View)  # type: ignore[type-abstract]
        self.scale = max(1.0, self.settings.reference_side / min(problem.shape[1:]))
        return bound

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The host's, and the decoder."""
        found = super().heads(spec)
        if self.settings.smr and self.settings.reconstruction_weight > 0:
            found[HEAD] = Decoder(spec.num_features, spec.map_size(), spec.shape)
        return found

    def wrap(self, step: Step) -> Step:
        """Add the copies to a step that classifies."""
        if not step.classifies:
            return step
        own = self.settings
        return MaskedStep(
            step,
            self.masker,
            nlr=own.nlr,
            weight=own.reconstruction_weight if own.smr else 0.0,
            guess_view=own.guess_view,
            learn_views=self.learn_views,
            keep_views=own.keep_views,
        )

    def phases(self, epoch: int) -> list[Phase]:
        """The host's, with its steps masked and, where it has none, a scoring before them."""
        own = self.settings
        plain, wrapped = self.base.phases(epoch), super().phases(epoch)
        phases = [
            before if before.warmup and not own.mask_warmup else after
            for before, after in zip(plain, wrapped, strict=True)
        ]
        if own.warmup_clip is not None:
            clip = own.warmup_clip
            phases = [replace(p, clip=clip) if p.warmup and p.trains else p for p in phases]
        if self.scores(epoch, phases):
            scoring = Phase("score-masks", Score()), Phase("mixture-masks", FitMixture())
            phases[:0] = scoring
        return phases

    def scores(self, epoch: int, phases: list[Phase]) -> bool:
        """Whether the epoch begins with a scoring of the wrapper's own."""
        schedule = self.schedule
        first = max(1, min(schedule.warmup, schedule.epochs - 1))
        every = self.settings.score_every or max(1, -(-schedule.epochs // SCORINGS))
        return (
            self.settings.ratio == "adaptive"
            and (self.settings.amg or self.settings.nlr)
            and any(isinstance(phase.step, MaskedStep) for phase in phases)
            and epoch >= first
            and (epoch - first) % every == 0
            and not any(isinstance(phase.step, FitMixture) for phase in phases)
        )
