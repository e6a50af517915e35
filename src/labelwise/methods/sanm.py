"""SANM: self-supervised adversarial noisy masking, a wrapper around any method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from labelwise.augment.boxes import Anchor
from labelwise.augment.masking import (
    Fill,
    Masker,
    Place,
    Ratio,
    Sides,
    Spot,
)
from labelwise.augment.view import View
from labelwise.config import MethodSettings
from labelwise.data.dataset import Kind
from labelwise.discovery import find
from labelwise.errors import UserError
from labelwise.models.heads import RECONSTRUCTION, Decoder, HeadSpec
from labelwise.training.masked import MaskedStep, keeps
from labelwise.training.method import Method, Phase, Problem, Step, Wrapper
from labelwise.training.scoring import FitMixture, Score

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
        "auto",
        description="boxes guided by the map, random; auto: guided if it has 4 x 4 cells or more",
    )
    spot: Spot = Field("pixel", description="extreme pixel (paper), or any of the extreme cell")
    anchor: Anchor = Field("centre", description="pixel in the box's centre, or its corner (code)")
    boxes: Sides = Field(
        "auto",
        description="hot, cold, both, one of either; auto: both beside several views, else one",
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
        None, description="view policy of further views to learn from (code: randaugment)"
    )
    num_learn_views: int = Field(2, ge=1, le=8, description="how many, where learn_view is set")
    mask_warmup: bool = Field(True, description="mask in the host's warm-up too")
    warmup_clip: float | None = Field(
        None, gt=0, description="bound on the gradient norm in the warm-up (code: 1)"
    )
    score_every: int | None = Field(
        None, ge=1, description="epochs between scorings, for hosts without; None: 30 in a run"
    )


class SANM(Wrapper):
    """Mask what the network leans on, soften the label by as much, and rebuild the image.

    Networks that learn wrong labels look at regions that do not matter. Around the steps of any
    host method three things are added: masked copies of the images, covered where the activation
    map is largest or where it is smallest, more of a label that is doubtful (AMG); for these copies
    a target whose top class pays what was masked (NLR); and a decoder that rebuilds the unmasked
    image, which is a lesson no wrong label can spoil (SMR).

    Differences from the paper:
        1. A host that learns from several views of an image keeps them, and gets a copy with the
           hot and one with the cold box beside them (as in the authors' code around DivideMix). A
           host that learns from one view learns from one copy in its place, hot or cold by chance:
           on digits plain training gains as much or more from that than from copies beside its
           view, at less cost (`benchmarks/README.md`). `boxes=both`, `keep_views=true` treats all
           hosts alike.
        2. Where the activation map has fewer than 4 x 4 cells, or is flat (behind the last
           layer normalisation of token models), places are random: such a map tells none.
           `place=guided`, `spot=pixel` takes the extreme pixel of the resized map all the same.
        3. Each of the two boxes covers half of the ratio, with an aspect from U(0.8, 1.25), a
           random colour, and the extreme pixel in its centre. The authors' code takes that pixel
           as the corner (`anchor=corner`). One copy alone pays the whole ratio all the same.
        4. A box is at least one pixel and never the whole image. The ratio is the paper's for
           images of any size; `reference_side` makes it larger for tiny ones.
        5. The clean probability is that of the host (the peer's mixture in DivideMix). Where the
           host has none, or not in every epoch, the wrapper scores all samples and fits the
           mixture, some thirty times in a run (`score_every`); before that every label counts as
           right.
        6. Where two networks learn from one batch (Co-teaching), the places come from the mean of
           both activation maps and the ratio from the first network's clean probability. A sample
           is selected by the mean loss of all its views; by default that is its masked copy's.
        7. The activation map is taken in eval mode, of the host's first view.
        8. The host keeps its own view policy. The authors' code guesses on AutoAugment
           (`guess_view`) and learns from two RandAugment views more (`learn_view`), clips the
           gradients of the warm-up (`warmup_clip`), and trains for 360 epochs.
        9. In a host that mixes its inputs the copies are mixed too (as in the authors' code), and
           what is rebuilt is the mix of the unmasked images. The error is in the network's
           normalised units, over the masked copies alone; the decoder fits any backbone
           (`labelwise.models.heads.Decoder`).
        10. Steps whose targets are not classes (ScanMix's clustering pass) are left as they are.
        11. The authors' code applies a softmax twice and reports a running maximum; not here.
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

    def shows_masks(self) -> Masker | None:
        """As this method masks them; nothing where the host trains nothing."""
        return self.masker if self.innermost.learns else None

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
        found, own = super().heads(spec), self.settings
        if own.smr and own.reconstruction_weight > 0 and self.innermost.learns:
            found[RECONSTRUCTION] = Decoder(spec.num_features, spec.map_size(), spec.shape)
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
