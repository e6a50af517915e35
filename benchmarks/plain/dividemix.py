"""DivideMix, plainly (arXiv 2002.07394): score, divide, MixMatch of both networks, evaluate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F

from plain.networks import Peers

TEMPERATURE, ALPHA, LAMBDA_U, THRESHOLD = 0.5, 4.0, 25.0, 0.5
SCORED_AT_ONCE = 5
"""Batches of the scoring pass are so many times those of training."""


def sharpen(probabilities: Tensor) -> Tensor:
    """p^(1/T), normalised."""
    powered = probabilities ** (1 / TEMPERATURE)
    return powered / powered.sum(1, keepdim=True)


def mean_of(guesses: Sequence[Tensor]) -> Tensor:
    """Mean of some predictions."""
    return torch.stack(list(guesses)).mean(0)


def clean_probability(losses: np.ndarray) -> np.ndarray:
    """Clean probabilities (N) by scikit-learn's mixture with the published code's settings."""
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    model = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(scaled)
    return np.asarray(model.predict_proba(scaled)[:, model.means_.argmin()])


def semi_supervised(logits: Tensor, targets: Tensor, num_labelled: int, weight: float) -> Tensor:
    """L_X + λ_u L_U + L_reg (equations 9 to 12)."""
    probability = logits.softmax(1)
    labelled = -(targets[:num_labelled] * logits[:num_labelled].log_softmax(1)).sum(1).mean()
    unlabelled = ((probability[num_labelled:] - targets[num_labelled:]) ** 2).mean()
    classes = logits.shape[1]
    prior = torch.full((classes,), 1 / classes, device=logits.device)
    penalty = (prior * (prior / probability.mean(0)).log()).sum()
    return labelled + weight * unlabelled + penalty


@dataclass
class DivideMix:
    """Two networks that divide the data for each other.

    Args:
        peers: both networks.
        everything: loader of all images as they are, in order.
        labelled: endless or one-epoch loader of the labelled side, its views, labels and weights.
        unlabelled: likewise of the unlabelled side.
        test: loader of the test images.
        weight: λ_u.
    """

    peers: Peers
    everything: Any
    labelled: Any
    unlabelled: Any
    test: Any
    weight: float = LAMBDA_U

    def divide(self) -> list[np.ndarray]:
        """Score all images under both networks and fit a mixture to each network's losses.

        What it finds is returned and not used: the loaders' division is fixed, so that an epoch
        has as many steps on both sides of a comparison.
        """
        return [
            clean_probability(self.peers.losses(number, self.everything).numpy())
            for number in range(2)
        ]

    def guesses(self, number: int, views: Sequence[Tensor]) -> list[Tensor]:
        """Predictions of one network, a forward per view."""
        return [self.peers.logits(number, view).softmax(1) for view in views]

    @torch.no_grad()
    def targets(
        self,
        learner: int,
        labelled: Sequence[Tensor],
        labels: Tensor,
        weights: Tensor,
        unlabelled: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Co-refined labels and co-guessed ones (equations 3 to 7), both (B, K).

        Args:
            learner: number of the network that learns.
            labelled: views of the labelled side.
            labels: its given labels (B).
            weights: P(given label is right), of the peer (B).
            unlabelled: views of the unlabelled side.
        """
        both = self.guesses(learner, unlabelled) + self.guesses(1 - learner, unlabelled)
        own = mean_of(self.guesses(learner, labelled))
        weight = weights.float()[:, None]
        refined = weight * F.one_hot(labels, own.shape[1]) + (1 - weight) * own
        return sharpen(refined), sharpen(mean_of(both))

    def loss(
        self,
        learner: int,
        inputs: Tensor,
        targets: Tensor,
        num_labelled: int,
        share: float,
        partner: Tensor,
    ) -> Tensor:
        """Mix every row with its partner, then the loss of the learner.

        Args:
            learner: number of the network that learns.
            inputs: all views of both sides (M, C, H, W), the labelled ones first.
            targets: (M, K).
            num_labelled: rows of the labelled side.
            share: λ of the row itself.
            partner: rows to mix with (M).
        """
        mixed = share * inputs + (1 - share) * inputs[partner]
        aims = share * targets + (1 - share) * targets[partner]
        logits = self.peers.logits(learner, mixed)
        return semi_supervised(logits, aims, num_labelled, self.weight)

    def draw(self, rows: int) -> tuple[float, Tensor]:
        """λ and the partners of a step."""
        share = float(np.random.beta(ALPHA, ALPHA))
        return max(share, 1 - share), torch.randperm(rows, device=self.peers.device)

    def modes(self, learner: int) -> None:
        """The learner in train mode, its peer in eval mode."""
        self.peers.networks[learner].train()
        self.peers.networks[1 - learner].eval()

    def step(self, learner: int, labelled: Any, unlabelled: Any) -> float:
        """One step of one network with the other as its peer."""
        xs, labels, weights = self.peers.here(labelled)
        us, _, _ = self.peers.here(unlabelled)
        self.modes(learner)
        on_x, on_u = self.targets(learner, xs, labels, weights, us)
        inputs = torch.cat([*xs, *us])
        targets = torch.cat([on_x] * len(xs) + [on_u] * len(us))
        share, partner = self.draw(len(inputs))
        size = len(xs) * len(labels)
        loss = self.loss(learner, inputs, targets, size, share, partner)
        return self.peers.update(learner, loss)

    def learn(self, learner: int) -> None:
        """One network's part of an epoch: the labelled side once, the unlabelled one goes round."""
        others = around(self.unlabelled)
        for labelled in self.labelled:
            self.step(learner, labelled, next(others))

    def epoch(self) -> float:
        """Divide, train both networks, and the test accuracy."""
        self.divide()
        for learner in range(2):
            self.learn(learner)
        return self.peers.accuracy(self.test)


def around(batches: Any) -> Iterator[Any]:
    """A loader's batches, from the start again at its end."""
    while True:
        yield from batches
