"""Steps with masked copies among their views, and contexts that let a host's step run unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from labelwise.augment.masking import Masker, activation_map
from labelwise.losses.masking import reconstruction_error, soften
from labelwise.models.heads import RECONSTRUCTION
from labelwise.models.modes import evaluating
from labelwise.models.network import Network, Outputs
from labelwise.training.context import Context
from labelwise.training.groups import Group, Groups, View
from labelwise.training.method import Step

COPIES = "masked copies"
"""Under this name a group keeps its `Copies`."""


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


@dataclass(frozen=True, kw_only=True)
class GuessOn(Context):
    """A context in which every view that a step asks for is of one policy.

    Args:
        outer: the context that it stands for.
        policy: its name.
    """

    outer: Context
    policy: str

    def view(self, group: Group, name: str, purpose: str) -> Tensor:
        """The view under the one policy."""
        return self.outer.view(group, self.policy, purpose)


@dataclass(frozen=True, kw_only=True)
class Rebuild(Context):
    """A context whose forwards with gradient also rebuild the images without their masks.

    An input carries its unmasked image along as further channels, and one more that says how far
    it is a masked copy (`carrying`). Whatever the host does to inputs (join, permute, mix) is
    linear and happens to these channels too, so a mixed input is to become the mixed unmasked
    images, and those that are masked copies, or mostly so, can be told from the rest. Both heads
    run in one forward: a data-parallel wrapper allows no second one.

    Args:
        outer: the context that it stands for, which may be another wrapper's.
        share: of all rows that a step joins, how many are masked copies.
        errors: what each forward with gradient adds.
    """

    outer: Context
    share: float
    errors: list[Tensor] = field(default_factory=list)

    def forward(
        self,
        number: int,
        inputs: Tensor,
        heads: Iterable[str] = ("classes",),
        rows: Mapping[str, Tensor] | None = None,
    ) -> Outputs:
        """Run the network on the inputs alone, and compare what it rebuilds."""
        network = self.plain[number]
        mean, std = network.get_buffer("mean"), network.get_buffer("std")
        channels = len(mean)
        if inputs.shape[1] == channels:
            return self.outer.forward(number, inputs, heads, rows)
        seen, whole, masked = torch.split(inputs, [channels, channels, 1], dim=1)
        if not torch.is_grad_enabled():
            return self.outer.forward(number, seen, heads, rows)
        # As many as there are: which ones need not be known on the host.
        count = round(self.share * len(inputs))
        assert count, "a forward without masked copies"
        copies = masked[:, 0, 0, 0].topk(count, sorted=False).indices
        outputs = self.outer.forward(
            number, seen, (*heads, RECONSTRUCTION), {**(rows or {}), RECONSTRUCTION: copies}
        )
        wanted = (whole[copies] - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
        self.errors.append(reconstruction_error(outputs.pop(RECONSTRUCTION), wanted).mean())
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
        return GuessOn(**shared(context), outer=context, policy=self.guess_view)

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
        draw = context.draw.within(f"sanm/{side}")
        learn: list[View] = [
            (context.view(group, name, f"sanm/{side}/learn/{n}"), target)
            for n, name in enumerate(self.learn_views)
        ]
        ratio = self.masker.ratios(group.clean, draw)
        softer = soften(target, ratio) if self.nlr else target
        masked = self.masker(source, activation, ratio, draw, len(group.views))
        if not keeps(self.keep_views, len(group.views)):
            group = replace(group, views=())
        copies = Copies(len(group.views) + len(learn), len(masked), source)
        views: list[View] = [*learn, *((copy.images, softer) for copy in masked)]
        return group.adding(*views).keeping(COPIES, copies)

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """The host's terms over all views, and the reconstruction of the masked ones."""
        if self.weight == 0:
            return self.inner.loss(context, groups)
        rebuild = Rebuild(**shared(context), outer=context, share=masked_share(groups))
        carried = {side: carrying(group) for side, group in groups.items()}
        terms = dict(self.inner.loss(rebuild, carried))
        terms[RECONSTRUCTION] = self.weight * torch.stack(rebuild.errors).sum()
        return terms


def keeps(asked: bool | None, num_views: int) -> bool:
    """Whether a host's own views stay beside the masked copies."""
    return num_views > 1 if asked is None else asked


def shared(context: Context) -> dict[str, Any]:
    """The fields of a context, for one that behaves a little differently."""
    return {item.name: getattr(context, item.name) for item in fields(Context)}


def masked_share(groups: Groups) -> float:
    """The share of masked copies among the views of all groups, by rows."""
    kept: list[Copies] = [group.kept[COPIES] for group in groups.values()]
    masked = sum(copies.count * len(copies.source) for copies in kept)
    return masked / sum(len(group.views) * len(group.index) for group in groups.values())


def carrying(group: Group) -> Group:
    """The group with every input (B, C, H, W) as (B, 2 C + 1, H, W).

    Behind the channels of the input come those of the image it is to become, and one that is 1 for
    masked copies and 0 for the other views.
    """
    copies: Copies = group.kept[COPIES]
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
