"""Two-component mixtures over the per-sample loss: from losses to P(given label is right).

Wrong labels are learnt later than right ones, so the losses of a data set fall into a low group
(right) and a high group (wrong). `Mixture.fit` fits both groups by expectation-maximisation (EM)
and returns each sample's posterior of the low group. A family of distributions is one small
file that says how to normalise, start, evaluate and re-estimate; everything else is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from labelwise.discovery import find
from labelwise.errors import UserError

MIN_SAMPLES = 10
"""Fewer finite losses than this are not fitted (a mixture has five parameters)."""
MIN_COMPONENT = 2.0
"""A component that holds fewer samples (weight times N) than this is no group."""
TRUST_FLOOR = 0.9
"""Clean probability of the highest loss where nothing speaks for a second group."""


@dataclass(frozen=True)
class MixtureFit:
    """A fitted mixture; component 0 is the one with the smaller mean (right labels).

    Args:
        family: the mixture that was fitted, with its settings.
        parameters: the two components' parameters (2, P); their meaning is the family's.
        means: component means (2) on the normalised loss axis.
        weights: component weights (2), summing to one.
        clean: P(given label is right) per sample (N), never increasing with the loss.
        low: the loss that lies at 0 on the normalised axis (scalar).
        high: the loss that lies at 1 on the normalised axis (scalar).
        separation: Ashman's D of the components (scalar); above 2 they are clearly apart.
        fallback: None, or in plain words which guard rail took over and what it did.

    Where nothing could be fitted, `parameters`, `means` and `separation` are NaN, and the density
    is zero.
    """

    family: Mixture
    parameters: Tensor = field(repr=False)
    means: Tensor
    weights: Tensor
    clean: Tensor = field(repr=False)
    low: Tensor
    high: Tensor
    separation: Tensor
    fallback: str | None = None

    def density(self, x: Tensor) -> Tensor:
        """Weighted component densities (2, M) at points (M) of the normalised loss axis."""
        points = x.to(self.parameters)
        log_density = self.family.log_density(points, self.parameters)
        return (self.weights[:, None] * log_density.exp()).nan_to_num(nan=0.0)

    def to_loss(self, x: Tensor) -> Tensor:
        """Map points of the normalised axis to loss units."""
        return self.low + x.to(self.low) * (self.high - self.low)


class Mixture(ABC):
    """Fits two components to losses; a family fills in the abstract methods below `fit`.

    All numbers inside are float64 (float32 on devices that have no float64) and losses are
    sorted first, so the result does not depend on the order of the rows.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    iterations: int
    """Most EM iterations."""
    tolerance: float
    """EM stops when the mean log-likelihood changes by less; 0 runs all iterations."""

    def fit(
        self, losses: Tensor, single_mode: bool = True, low_weight: float | None = None
    ) -> MixtureFit:
        """Fit the mixture and return every sample's clean probability.

        The posterior `w` of the low component is made monotone: with `p` the midpoint of the two
        means, `clean(l) = max {w(l') : l <= l' <= p}` below the midpoint and
        `min {w(l') : p <= l' <= l}` above it. (Where the variances differ, the wider component
        wins *both* ends, so a raw posterior can call the smallest losses wrong or the largest
        right.) Equal losses get equal probabilities.

        Guard rails, each named in `MixtureFit.fallback`:

        1. A non-finite loss gives `clean = 0` and takes no part in the fit.
        2. Fewer than `MIN_SAMPLES` finite losses, or losses that are practically equal: not fitted.
        3. A component with fewer than `MIN_COMPONENT` samples: there is no second group.
        4. A single mode: the Bayesian information criterion prefers one component to two. Only
           with `single_mode`; without it such losses are divided all the same, as the papers do.

        In cases 2-4 the losses hold no evidence for wrong labels, so every label is trusted:
        `clean` falls linearly with the rank of the loss, from 1 to `TRUST_FLOOR`. The order stays
        usable, and training that thresholds `clean` keeps all its labelled samples.

        Args:
            losses: loss per sample (N), any float dtype, any device.
            single_mode: whether rule 4 holds. An audit wants it; training does not: the early
                losses of a hard data set have one mode, and a method that then trusts every
                label learns the wrong ones for good.
            low_weight: weight of the low component where it is known from elsewhere; EM then
                starts from that share of the smallest losses and holds it. None fits it.

        Raises:
            UserError: there is no loss, or none of them is finite.
        """
        assert losses.ndim == 1, f"losses have shape {tuple(losses.shape)}"
        finite = losses.isfinite()
        num_finite = int(finite.sum())
        if num_finite == 0:
            raise UserError(
                f"none of the {len(losses)} losses is finite: training has diverged. "
                "Lower the learning rate, or train in float32."
            )
        work = torch.float32 if losses.device.type == "mps" else torch.float64
        ordered, order = losses[finite].to(work).sort()
        low, high = self.bounds(ordered)
        parameters, weights, trusted, reason = self._components(
            ordered, low, high, single_mode, low_weight
        )
        means, variances = self.moments(parameters)
        clean = torch.zeros_like(losses, dtype=torch.float32)
        clean[finite] = torch.empty_like(trusted).scatter_(0, order, trusted).float()
        notes = [f"{reason}; every label is trusted"] if reason else []
        if num_bad := len(losses) - num_finite:
            notes.insert(0, f"{num_bad} of {len(losses)} losses are not finite: counted as wrong")
        separation = (2.0 / variances.sum()).sqrt() * (means[1] - means[0])
        return MixtureFit(
            self,
            parameters,
            means,
            weights,
            clean,
            low,
            high,
            separation,
            "; ".join(notes) or None,
        )

    def _components(
        self,
        ordered: Tensor,
        low: Tensor,
        high: Tensor,
        single_mode: bool,
        low_weight: float | None,
    ) -> tuple[Tensor, Tensor, Tensor, str | None]:
        """Parameters, weights, clean probability (N) of sorted losses, reason not to believe."""
        if reason := _unfit(ordered, low, high):
            nothing = ordered.new_full((2, 2), torch.nan)
            return nothing, ordered.new_tensor([1.0, 0.0]), _by_rank(ordered), reason
        x = (ordered - low) / (high - low)
        kept = self.kept(x)
        parameters, weights = self._expectation_maximisation(kept, low_weight)
        reason = self._one_group(kept, parameters, weights, single_mode)
        trusted = _by_rank(ordered) if reason else self._monotone(x, parameters, weights)
        return parameters, weights, trusted, reason

    @abstractmethod
    def bounds(self, ordered: Tensor) -> tuple[Tensor, Tensor]:
        """The losses that become 0 and 1 on the normalised axis, given sorted losses (N)."""

    @abstractmethod
    def kept(self, x: Tensor) -> Tensor:
        """The part of the sorted normalised losses (N) that the fit uses."""

    @abstractmethod
    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Starting parameters (2, P) and weights (2) for sorted normalised losses (N)."""

    @abstractmethod
    def log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log density (C, M) of C components with parameters (C, P) at points (M)."""

    @abstractmethod
    def maximise(self, x: Tensor, share: Tensor) -> Tensor:
        """Parameters (C, P) of C components that hold shares (C, N) of the samples (N)."""

    @abstractmethod
    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Means (C) and variances (C) of components with parameters (C, P)."""

    def single(self, x: Tensor) -> Tensor:
        """Parameters (1, P) of one component with a single mode that holds all samples (N)."""
        return self.maximise(x, torch.ones_like(x)[None])

    def _joint(self, x: Tensor, parameters: Tensor, weights: Tensor) -> Tensor:
        return self.log_density(x, parameters).add_(weights.log()[:, None])

    def _expectation_maximisation(
        self, x: Tensor, low_weight: float | None
    ) -> tuple[Tensor, Tensor]:
        """EM; returns parameters (2, P) and weights (2), the smaller mean first."""
        if low_weight is None:
            parameters, weights = self.initial(x)
        else:
            first = (torch.arange(len(x), device=x.device) < low_weight * len(x)).to(x)
            parameters = self.maximise(x, torch.stack([first, 1.0 - first]))
            weights = x.new_tensor([low_weight, 1.0 - low_weight])
        previous = x.new_tensor(-torch.inf)
        done = torch.zeros((), dtype=torch.bool, device=x.device)
        for _ in range(self.iterations):
            joint = self._joint(x, parameters, weights)
            likelihood = torch.logaddexp(joint[0], joint[1]).mean()
            first = torch.sigmoid(joint[0] - joint[1])
            share = torch.stack([first, 1.0 - first])
            parameters = torch.where(done, parameters, self.maximise(x, share))
            if low_weight is None:
                weights = torch.where(done, weights, _weights(share))
            done = done | ((likelihood - previous).abs() < self.tolerance)
            previous = likelihood
            # Elsewhere than on the CPU, reading `done` would wait for the device.
            if x.device.type == "cpu" and bool(done):
                break
        order = self.moments(parameters)[0].argsort(stable=True)
        return parameters[order], weights[order]

    def _one_group(
        self, x: Tensor, parameters: Tensor, weights: Tensor, single_mode: bool
    ) -> str | None:
        """Why the two fitted components are no two groups, or None if they are."""
        joint = self._joint(x, parameters, weights)
        two = torch.logaddexp(joint[0], joint[1]).sum()
        one = self.log_density(x, self.single(x)).sum()
        num_samples = len(x)
        # Two components have three parameters more than one: BIC asks 2 * gain > 3 * log N.
        gain = 2.0 * (two - one) - 3.0 * torch.log(x.new_tensor(float(num_samples)))
        held, gain_value = torch.stack([weights.min() * num_samples, gain]).tolist()
        if held < MIN_COMPONENT:
            return f"one of the two groups of losses would hold {held:.1f} samples"
        if single_mode and not gain_value > 0:
            return "the losses form a single group (BIC prefers one component)"
        return None

    def _monotone(self, x: Tensor, parameters: Tensor, weights: Tensor) -> Tensor:
        """Posterior (N) of component 0 at sorted x (N), made monotone as `fit` defines."""
        pivot = self.moments(parameters)[0].mean()[None]
        joint = self._joint(torch.cat([x, pivot]), parameters, weights)
        posterior = torch.sigmoid(joint[0] - joint[1])
        raw, middle = posterior[:-1], posterior[-1]
        below = x <= pivot
        falling_from = torch.where(below, raw, middle).flip(0).cummax(0).values.flip(0)
        falling_to = torch.where(below, middle, raw).cummin(0).values
        clean = torch.where(below, falling_from.clamp_min(middle), falling_to.clamp_max(middle))
        return clean[_first_of_equals(x)]


def mixture(name: str = "gaussian", **settings: float) -> Mixture:
    """Return the mixture called `name` with the given settings.

    Raises:
        UserError: there is no mixture of that name.
    """
    return find("mixture", name, "labelwise.selection", Mixture)(**settings)  # type: ignore[type-abstract]


def _weights(share: Tensor) -> Tensor:
    total = share.sum(1) + 10 * torch.finfo(share.dtype).eps
    return total / total.sum()


def _first_of_equals(ordered: Tensor) -> Tensor:
    """For sorted values (N), the index (N) of the first value equal to each."""
    return torch.searchsorted(ordered, ordered)


def _by_rank(ordered: Tensor) -> Tensor:
    """Clean probability (N) of sorted losses (N) when nothing speaks for a second group."""
    rank = _first_of_equals(ordered) / max(len(ordered) - 1, 1)
    return (1.0 - (1.0 - TRUST_FLOOR) * rank).to(ordered)


def _unfit(ordered: Tensor, low: Tensor, high: Tensor) -> str | None:
    """Why sorted losses (N) cannot be fitted at all, or None if they can."""
    if len(ordered) < MIN_SAMPLES:
        return f"{len(ordered)} losses are too few to fit (at least {MIN_SAMPLES})"
    if bool(high - low <= 1e-6 * high.abs().clamp_min(1.0)):
        return "the losses are practically equal"
    return None
