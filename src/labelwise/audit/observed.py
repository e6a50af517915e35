"""Everything a finished run knows about its labels, gathered in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.augment.view import View
from labelwise.data.ledger import Ledger
from labelwise.data.neighbours import nearest_among
from labelwise.data.store import Store
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.models.modes import evaluating
from labelwise.noise.planting import Planted
from labelwise.rng import Draw
from labelwise.training import trace

NUM_VIEWS = 4
"""Augmented views of every sample that the final networks predict."""
NUM_NEIGHBOURS = 20
REFERENCES = 20_000
"""Samples among which neighbours are searched, a random part of more: time stays O(N)."""
LEAST_LEFT = 1e-6
"""Where a network leaves less than this to all classes but one, the rest is rounding."""
SOURCES = ("training", "views", "neighbours")
"""Where class probabilities come from: the trace of the run, views by the final networks, and the
mean of the neighbours' probabilities."""
SIGNS = ("margin over training", "learned early", "stability", "agreement", "neighbour vote")
"""Further signs, in [0, 1]; 1 speaks for the label. Area under the margin, mapped from [-1, 1]; how
early the label was first predicted; how steadily the run predicted one class, for the label (above
one half) or against it; its probability over networks and views; its share among neighbours."""
KEEP, KEEP_MANY, MANY = 50, 16, 200_000
"""Probabilities kept per sample, up to and above so many samples."""


@dataclass(frozen=True)
class Said:
    """What a run says about one label each of B samples.

    Args:
        sources: class probabilities with that label: the mean over `SOURCES` as "all", and, up to
            `MANY` samples, each by its name.
        signs: the `SIGNS` (B, S).
        losses: cross-entropy of the label by each final network, unaugmented (B, P), nats.
        own: the label's mean probability by the final networks, unaugmented (B).
    """

    sources: Mapping[str, TopProbabilities]
    signs: Tensor
    losses: Tensor
    own: Tensor

    @classmethod
    def join(cls, parts: Sequence[Said]) -> Said:
        """Put blocks together."""
        names = parts[0].sources
        return cls(
            {name: joined([part.sources[name] for part in parts]) for name in names},
            torch.cat([part.signs for part in parts]),
            torch.cat([part.losses for part in parts]),
            torch.cat([part.own for part in parts]),
        )


@dataclass(frozen=True)
class Observed:
    """What a finished run knows.

    Args:
        given: about the given labels (N), in the order of the data.
        planted: about the planted labels (M), or None.
        references: row numbers of the reference samples (R), ascending.
        reference_features: their unit feature vectors by the first network (R, D).
    """

    given: Said
    planted: Said | None
    references: Tensor
    reference_features: Tensor


@dataclass(frozen=True)
class _Seen:
    """What the networks see in B samples, whatever the label."""

    index: Tensor
    logits: Tensor  # (P, B, K), unaugmented
    sources: Mapping[str, Tensor]  # (B, K) each
    votes: Tensor  # labels of the neighbours (B, k)

    def rows(self, mask: Tensor) -> _Seen:
        """The samples in the mask (B)."""
        sources = {name: values[mask] for name, values in self.sources.items()}
        return _Seen(self.index[mask], self.logits[:, mask], sources, self.votes[mask])


class Observer:
    """Reads a finished run.

    Args:
        networks: the trained networks.
        store: training inputs, with the labels that were trained on.
        given: the labels to be audited (N); they differ from the store's where some were planted.
        views: view policies; "weak" is used.
        ledger: what the run remembered.
        planted: labels made wrong on purpose.
        seed: of the augmented views.
        block: batch size.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        store: Store,
        given: Tensor,
        views: Mapping[str, View],
        ledger: Ledger,
        planted: Planted | None,
        seed: int = 0,
        block: int = 1024,
    ) -> None:
        self.networks, self.store, self.ledger = networks, store, ledger
        self.given = given.to(store.device)
        self.view, self.block = views["weak"], block
        self.draw = Draw(seed, phase="audit", device=store.device)
        # Not evenly spaced: the order of the data may have a period.
        chosen = Draw(seed, phase="audit").permutation("references", len(store))[:REFERENCES]
        self.references = chosen.sort().values.to(store.device)
        self.is_planted = torch.zeros(len(store), dtype=torch.bool, device=store.device)
        if planted is not None:
            self.is_planted[planted.rows.to(store.device)] = True
        self.keep = KEEP if len(store) <= MANY else KEEP_MANY

    @torch.no_grad()
    def gather(self) -> Observed:
        """Run the final networks over all samples, plain and augmented, and read the ledger."""
        given, planted = [], []
        with evaluating(self.networks):
            self.reference_features, self.reference_probability = self._references()
            for index in self.store.blocks(self.block):
                seen = self._see(index)
                chosen = self.is_planted[index]
                given.append(self._say(seen, self.given[index], chosen))
                if chosen.any():
                    part = seen.rows(chosen)
                    trained = self.store.labels[part.index]
                    planted.append(self._say(part, trained, torch.zeros_like(trained).bool()))
        return Observed(
            Said.join(given),
            Said.join(planted) if planted else None,
            self.references.cpu(),
            self.reference_features.cpu(),
        )

    def _references(self) -> tuple[Tensor, Tensor]:
        """Unit features (R, D) and class probabilities (R, K) of the references."""
        features, probabilities = [], []
        for index in torch.split(self.references, self.block):
            features.append(self._features(index))
            run = self._traced(index)
            probabilities.append(self._viewed(index) if run is None else run)
        return torch.cat(features), torch.cat(probabilities)

    def _features(self, index: Tensor) -> Tensor:
        outputs = self.networks[0](self.store.plain(index), heads=("features",))
        return F.normalize(outputs["features"].float(), dim=1)

    def _traced(self, index: Tensor) -> Tensor | None:
        """Mean prediction over the run (B, K), or None where it was not kept."""
        if trace.PROBABILITY not in self.ledger:
            return None
        total = self.ledger[trace.PROBABILITY][:, index].sum(0)
        seen = self.ledger[trace.SEEN][:, index].sum(0)[:, None]
        return torch.where(seen > 0, total / seen.clamp_min(1), 1 / total.shape[1])

    def _viewed(self, index: Tensor) -> Tensor:
        """Mean softmax of the networks over augmented views (B, K)."""
        rows, logits = self.store.rows(index), []
        for number in range(NUM_VIEWS):
            view = self.view(rows, self.draw.within(f"{number}/{int(index[0])}"))
            logits += [network(view)["classes"] for network in self.networks]
        return torch.stack(logits).float().softmax(2).mean(0)

    def _see(self, index: Tensor) -> _Seen:
        inputs = self.store.plain(index)
        first = self.networks[0](inputs, heads=("classes", "features"))
        others = [network(inputs)["classes"] for network in self.networks[1:]]
        logits = torch.stack([first["classes"], *others]).float()
        unit = F.normalize(first["features"].float(), dim=1)
        count = min(NUM_NEIGHBOURS, len(self.references) - 1)
        places, _ = nearest_among(unit, index, self.reference_features, self.references, count)
        viewed, run = self._viewed(index), self._traced(index)
        near = torch.zeros_like(viewed)
        for column in places.T:  # one neighbour at a time: no (B, k, K) tensor
            near += self.reference_probability[column]
        near = near / count if count else viewed
        values = (viewed if run is None else run, viewed, near)
        votes = self.store.labels[self.references[places]]
        return _Seen(index, logits, dict(zip(SOURCES, values, strict=True)), votes)

    def _say(self, seen: _Seen, labels: Tensor, other_learnt: Tensor) -> Said:
        """What was seen as evidence for or against `labels` (B).

        Where another label was trained on (`other_learnt`), that one was learnt to some degree:
        the label competes with what the networks would say without it. Where they would say
        nothing (of two classes one is left, whatever they learnt), the neighbours say it.
        """
        learnt = self.store.labels[seen.index]
        near = seen.sources["neighbours"]
        sources = {
            name: values if values is near else _without(values, learnt, other_learnt, near)
            for name, values in seen.sources.items()
        }
        own = {name: _own(values, labels) for name, values in sources.items()}
        lead = own["training"] - _best_other(sources["training"], labels)
        early = own["training"]
        if trace.HITS in self.ledger:
            seen_times = self.ledger[trace.HITS][:, seen.index, 1].sum(0).clamp_min(1)
            traced = self.ledger[trace.MARGIN][:, seen.index].sum(0) / seen_times
            lead = torch.where(other_learnt, lead, traced)
            learned = self.ledger[trace.LEARNED][:, seen.index].mean(0)
            early = torch.where(other_learnt, early, learned)
        vote = (seen.votes == labels[:, None]).float().mean(1)
        steady, usual = sources["training"].max(1)
        stable = torch.where(usual == labels, 1 + steady, 1 - steady) / 2
        signs = torch.stack([(lead + 1) / 2, early, stable, own["views"], vote], dim=1)
        mean = torch.stack(list(sources.values())).mean(0)
        each = [_without(p, learnt, other_learnt, near) for p in seen.logits.softmax(2)]
        rest = [-_own(values, labels).clamp_min(1e-12).log() for values in each]
        given = labels[None, :, None].expand(len(seen.logits), -1, 1)
        losses = -seen.logits.log_softmax(2).gather(2, given)[..., 0].T
        losses = torch.where(other_learnt[:, None], torch.stack(rest, dim=1), losses)
        kept = {"all": mean} if len(self.store) > MANY else {**sources, "all": mean}
        return Said(
            {name: _top(values, labels, self.keep) for name, values in kept.items()},
            signs.clamp(0, 1).cpu(),
            losses.cpu(),
            (-losses).exp().mean(1).cpu(),
        )


def _own(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None])[:, 0]


def _best_other(values: Tensor, labels: Tensor) -> Tensor:
    return values.scatter(1, labels[:, None], -1.0).amax(1)


def _without(values: Tensor, classes: Tensor, where: Tensor, otherwise: Tensor) -> Tensor:
    """Probabilities (B, K) without the class `classes` (B) in the rows `where` (B).

    Where nothing else is left to choose from, those of `otherwise` (B, K), all of them.
    """
    left = values.scatter(1, classes[:, None], 0.0)
    total = left.sum(1, keepdim=True)
    some = (total > LEAST_LEFT) & (values.shape[1] > 2)
    left = torch.where(some, left / total.clamp_min(LEAST_LEFT), otherwise)
    return torch.where(where[:, None], left, values)


def _top(values: Tensor, labels: Tensor, keep: int) -> TopProbabilities:
    values = values.cpu().double()
    values = (values / values.sum(1, keepdim=True)).float()
    return TopProbabilities.of(values, labels.cpu(), keep)


def joined(parts: Sequence[TopProbabilities]) -> TopProbabilities:
    """Put blocks of probabilities together."""
    return TopProbabilities(
        torch.cat([part.values for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.given for part in parts]),
        torch.cat([part.labels for part in parts]),
        parts[0].num_classes,
    )


def audit_bytes(num_samples: int, num_classes: int) -> int:
    """Memory that gathering and weighing the evidence takes beside the data, bytes.

    Measured: 2.5 kB a sample at N = 100,000, K = 10; 18 kB at N = 20,000, K = 1,000.
    """
    many = num_samples > MANY
    kept = min(KEEP_MANY if many else KEEP, num_classes)
    copies = 2 * (1 if many else len(SOURCES) + 1)  # blocks, and all of them joined
    references = 12 * min(num_samples, REFERENCES) * num_classes
    return num_samples * (1600 + 12 * kept * copies) + references
