"""What a run knows about its labels, on networks and a ledger made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.audit import observed as module
from labelwise.audit.observed import SIGNS, SOURCES, Observed, Observer, Said
from labelwise.data.ledger import Ledger
from labelwise.data.neighbours import nearest_neighbours
from labelwise.data.store import Store
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.noise.planting import Planted
from labelwise.rng import Draw
from labelwise.training import trace

CPU = torch.device("cpu")
WIDTH = 4


class Reader(nn.Module):
    """A network whose answers stand in its inputs: K logits, then the features."""

    def __init__(self, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.scale = num_classes, scale

    def forward(self, inputs: Tensor, heads: Iterable[str] = ("classes",)) -> dict[str, Tensor]:
        found = {
            "classes": self.scale * inputs[:, : self.num_classes],
            "features": inputs[:, self.num_classes :],
        }
        return {name: found[name] for name in heads}


def same(rows: Tensor, draw: Draw) -> Tensor:
    """A view that changes nothing."""
    return rows


class Case:
    """A run of N samples: what the networks say, what was trained on, what is remembered."""

    def __init__(
        self, num: int = 40, num_classes: int = 3, planted: int = 6, kept: bool = True
    ) -> None:
        generator = torch.Generator().manual_seed(num_classes)
        self.num, self.num_classes = num, num_classes
        self.given = torch.randint(0, num_classes, (num,), generator=generator)
        self.inputs = torch.randn(num, num_classes + WIDTH, generator=generator)
        self.planted: Planted | None = None
        if planted:
            rows = torch.randperm(num, generator=generator)[:planted].sort().values
            shift = torch.randint(1, num_classes, (planted,), generator=generator)
            self.planted = Planted(rows, (self.given[rows] + shift) % num_classes)
        self.trained = self.given if self.planted is None else self.planted.in_place_of(self.given)
        self.store = Store(self.inputs, self.trained, num_classes)
        self.networks = [Reader(num_classes), Reader(num_classes, 2.0)]
        columns = trace.trace_columns(num_classes, num, 2) if kept else ()
        self.ledger = Ledger(columns, 2, num, CPU)
        if kept:
            self._remember(generator)

    def _remember(self, generator: torch.Generator) -> None:
        rows = torch.arange(self.num)
        for peer in (0, 1):
            run = torch.rand(self.num, self.num_classes, generator=generator).softmax(1)
            self.ledger.add(trace.PROBABILITY, peer, rows, 5 * run)
            self.ledger.add(trace.SEEN, peer, rows, torch.full((self.num,), 5.0))
            own = run.gather(1, self.trained[:, None])[:, 0]
            other = run.scatter(1, self.trained[:, None], -1.0).amax(1)
            self.ledger.add(trace.MARGIN, peer, rows, 8 * (own - other))
            times = torch.tensor([3.0, 8.0]).expand(self.num, 2)
            self.ledger.add(trace.HITS, peer, rows, times)
            learned = torch.rand(self.num, generator=generator)
            self.ledger.write(trace.LEARNED, peer, rows, learned)

    def observe(self, **options: Any) -> Observed:
        views: Any = {"weak": same}
        return Observer(
            self.networks,
            self.store,
            self.given,
            views,
            self.ledger,
            self.planted,
            **options,
        ).gather()

    def run_mean(self) -> Tensor:
        """The mean prediction of the run (N, K)."""
        return self.ledger[trace.PROBABILITY].sum(0) / 10

    def final(self) -> Tensor:
        """The networks' probabilities (P, N, K)."""
        return torch.stack([n(self.inputs)["classes"].softmax(1) for n in self.networks])


def full(said: Said, name: str) -> Tensor:
    return said.sources[name].dense()


def without(values: Tensor, row: int, label: int) -> Tensor:
    """One row's probabilities without one class."""
    left = values[row].clone()
    left[label] = 0
    return left / left.sum()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_everything_is_a_distribution_or_in_the_unit_interval(num_classes: int, kept: bool) -> None:
    case = Case(num_classes=num_classes, kept=kept)
    found = case.observe(block=7)
    assert found.planted is not None
    for said, count in ((found.given, 40), (found.planted, 6)):
        assert set(said.sources) == {*SOURCES, "all"}
        for name, top in said.sources.items():
            assert len(top) == count
            assert bool((top.values >= 0).all())
            sums = full(said, name).sum(1)
            torch.testing.assert_close(sums, torch.ones(count), rtol=0, atol=1e-5)
        assert said.signs.shape == (count, len(SIGNS))
        assert bool(((said.signs >= 0) & (said.signs <= 1)).all())
        assert bool(said.losses.isfinite().all())
        assert said.losses.shape == (count, 2)
        mean = torch.stack([full(said, name) for name in SOURCES]).mean(0)
        torch.testing.assert_close(full(said, "all"), mean, rtol=1e-4, atol=1e-6)


def test_labels_that_were_trained_on_are_told_by_the_plain_figures() -> None:
    case = Case(planted=0)
    found = case.observe()
    assert found.planted is None
    said, rows = found.given, torch.arange(case.num)
    torch.testing.assert_close(full(said, "training"), case.run_mean())
    torch.testing.assert_close(full(said, "views"), case.final().mean(0))
    near = nearest_neighbours(case.inputs[:, 3:], 20)[0]
    torch.testing.assert_close(full(said, "neighbours"), case.run_mean()[near].mean(1))
    losses = -case.final()[:, rows, case.given].log().T
    torch.testing.assert_close(said.losses, losses)
    torch.testing.assert_close(said.own, case.final()[:, rows, case.given].mean(0))
    margin = case.ledger[trace.MARGIN].sum(0) / 16
    vote = (case.given[near] == case.given[:, None]).float().mean(1)
    steady, usual = case.run_mean().max(1)
    expected = [
        (margin + 1) / 2,
        case.ledger[trace.LEARNED].mean(0),
        torch.where(usual == case.given, 0.5 + steady / 2, 0.5 - steady / 2),
        case.final()[:, rows, case.given].mean(0),
        vote,
    ]
    torch.testing.assert_close(said.signs, torch.stack(expected, dim=1))


def test_rows_with_a_planted_label_are_audited_for_the_users_label() -> None:
    case = Case()
    found, near = case.observe(), nearest_neighbours(case.inputs[:, 3:], 20)[0]
    assert case.planted is not None
    assert torch.equal(found.given.sources["all"].labels, case.given)
    for row, learnt in zip(case.planted.rows.tolist(), case.planted.labels.tolist(), strict=True):
        own = int(case.given[row])
        run = without(case.run_mean(), row, learnt)
        torch.testing.assert_close(full(found.given, "training")[row], run)
        torch.testing.assert_close(
            full(found.given, "views")[row], without(case.final().mean(0), row, learnt)
        )
        torch.testing.assert_close(
            full(found.given, "neighbours")[row], case.run_mean()[near[row]].mean(0)
        )
        rest = [float(-without(p, row, learnt)[own].log()) for p in case.final()]
        assert found.given.losses[row].tolist() == pytest.approx(rest, rel=1e-4)
        steady = float(run.max()) * (1 if int(run.argmax()) == own else -1)
        assert float(found.given.signs[row, 2]) == pytest.approx((1 + steady) / 2, abs=1e-5)
        lead = float(run[own] - run[[c for c in range(3) if c != own]].max())
        assert float(found.given.signs[row, 0]) == pytest.approx((lead + 1) / 2, abs=1e-5)


def test_planted_is_said_about_the_planted_labels_as_if_they_were_given() -> None:
    """What is known of a planted label is what would be known of a natural one there."""
    case = Case()
    found = case.observe()
    assert case.planted is not None
    assert found.planted is not None
    planted, case.planted, case.given = case.planted, None, case.trained
    plain = case.observe().given
    assert torch.equal(found.planted.sources["all"].labels, planted.labels)
    for name in (*SOURCES, "all"):
        torch.testing.assert_close(full(found.planted, name), full(plain, name)[planted.rows])
    torch.testing.assert_close(found.planted.signs, plain.signs[planted.rows])
    torch.testing.assert_close(found.planted.losses, plain.losses[planted.rows])


def test_of_two_classes_the_neighbours_speak_for_a_row_with_a_planted_label() -> None:
    """Without the trained class one is left, whatever the networks learnt: no evidence."""
    case = Case(num_classes=2)
    found, near = case.observe(), nearest_neighbours(case.inputs[:, 2:], 20)[0]
    assert case.planted is not None
    rows = case.planted.rows
    expected = case.run_mean()[near].mean(1)[rows]
    for name in (*SOURCES, "all"):
        torch.testing.assert_close(full(found.given, name)[rows], expected)
    own = expected.gather(1, case.given[rows][:, None])[:, 0]
    torch.testing.assert_close(found.given.own[rows], own)
    for sign in ("learned early", "agreement"):
        torch.testing.assert_close(found.given.signs[rows, SIGNS.index(sign)], own)
    assert float(own.max()) < 0.9


def test_a_label_learnt_by_heart_leaves_the_others_to_the_neighbours() -> None:
    """Softmax of a gap of 200 is exactly 0 everywhere else: nothing to divide by."""
    case = Case(kept=False)
    assert case.planted is not None
    rows = case.planted.rows
    case.inputs[rows, :3] = 200.0 * F.one_hot(case.planted.labels, 3).float()
    found = case.observe()
    assert bool(full(found.given, "all").isfinite().all())
    assert bool(found.given.losses.isfinite().all())
    torch.testing.assert_close(
        full(found.given, "views")[rows], full(found.given, "neighbours")[rows]
    )


def test_the_block_changes_nothing() -> None:
    case = Case()
    first, second = case.observe(block=1024), case.observe(block=3)
    for name in (*SOURCES, "all"):
        torch.testing.assert_close(full(first.given, name), full(second.given, name))
    torch.testing.assert_close(first.given.signs, second.given.signs)
    assert first.planted is not None
    assert second.planted is not None
    torch.testing.assert_close(first.planted.signs, second.planted.signs)
    torch.testing.assert_close(first.reference_features, second.reference_features)


@pytest.mark.parametrize("planted", [0, 6])
def test_some_references_stand_for_many(monkeypatch: pytest.MonkeyPatch, planted: int) -> None:
    monkeypatch.setattr(module, "REFERENCES", 25)
    case = Case(num=60, planted=planted)
    found = case.observe(block=16)
    rows = found.references
    assert len(rows) == 25
    assert bool((rows.diff() > 0).all())
    unit = F.normalize(case.inputs[:, 3:], dim=1)
    torch.testing.assert_close(found.reference_features, unit[rows])
    table = unit @ unit[rows].T
    table[torch.arange(60)[:, None] == rows] = -torch.inf
    near = rows[table.topk(20, dim=1).indices]
    torch.testing.assert_close(full(found.given, "neighbours"), case.run_mean()[near].mean(1))
    assert torch.equal(case.observe(seed=0).references, rows)
    assert not torch.equal(case.observe(seed=1).references, rows)


def test_references_of_data_in_periodic_order_are_of_all_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REFERENCES", 30)
    case = Case(num=300, num_classes=5, planted=0)
    chosen = torch.arange(300)[case.observe().references] % 5
    assert len(chosen.unique()) == 5


def test_two_samples_are_each_others_neighbour() -> None:
    found = Case(num=2, planted=0).observe().given
    assert bool(full(found, "all").isfinite().all())
    assert bool(found.signs.isfinite().all())


def test_networks_keep_their_mode_and_get_no_gradient() -> None:
    case = Case()
    case.networks[0].train()
    case.networks[1].eval()
    case.inputs.requires_grad_(True)
    found = case.observe()
    assert [network.training for network in case.networks] == [True, False]
    assert not found.given.signs.requires_grad


def test_many_classes_keep_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP", 4)
    case = Case(num_classes=9)
    top = case.observe().given.sources["training"]
    assert isinstance(top, TopProbabilities)
    assert top.values.shape == (40, 4)
    rows = torch.arange(40)
    assert case.planted is not None
    plain = torch.ones(40, dtype=torch.bool)
    plain[case.planted.rows] = False
    torch.testing.assert_close(top.given[plain], case.run_mean()[rows, case.given][plain])
