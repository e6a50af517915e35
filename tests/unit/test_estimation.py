"""Estimation without truth: known transition matrices, invariances, coverage and bad input."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.errors import UserError
from labelwise.estimation.anchors import Anchors, anchor_points
from labelwise.estimation.bootstrap import (
    bootstrap_weights,
    normal_quantile,
    num_resamples,
    with_intervals,
)
from labelwise.estimation.combine import combine, estimate_noise
from labelwise.estimation.confident_joint import (
    ConfidentJoint,
    class_thresholds,
    confident_class,
)
from labelwise.estimation.consensus import Consensus, diagonal_start, maximise, named, rows_used
from labelwise.estimation.dual import DualT
from labelwise.estimation.estimator import (
    Estimate,
    Estimator,
    Evidence,
    estimators,
    find_estimator,
    row_normalised,
    with_prior,
)
from labelwise.estimation.pairs import confusable_pairs
from labelwise.estimation.probabilities import TopProbabilities

ALL = (ConfidentJoint, Anchors, DualT, Consensus)


def world(
    num_samples: int = 20_000, num_classes: int = 4, seed: int = 0, noise: float = 0.4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True classes, given labels, T and ten neighbours of the same true class."""
    draw = torch.Generator().manual_seed(seed)
    right = torch.randint(num_classes, (num_samples,), generator=draw)
    spread = torch.rand(num_classes, num_classes, generator=draw).double() + 0.1
    spread.fill_diagonal_(0)
    matrix = noise * row_normalised(spread) + (1 - noise) * torch.eye(num_classes).double()
    labels = torch.multinomial(matrix[right], 1, generator=draw).squeeze(1)
    neighbours = torch.empty(num_samples, 10, dtype=torch.int64)
    for number in range(num_classes):
        rows = (right == number).nonzero().flatten()
        pick = torch.randint(1, len(rows), (len(rows), 10), generator=draw)
        own = torch.arange(len(rows))[:, None]
        neighbours[rows] = rows[(own + pick) % len(rows)]
    return right, labels, matrix, neighbours


def perfect(seed: int = 0, noise: float = 0.4, size: int = 20_000) -> tuple[Evidence, Tensor]:
    """Evidence whose probabilities are P(given | x) of samples that surely are of one class."""
    right, labels, matrix, neighbours = world(size, seed=seed, noise=noise)
    return Evidence(TopProbabilities.of(matrix[right].float(), labels), neighbours), matrix


# --- TopProbabilities -------------------------------------------------------------------------


def some_probabilities(rows: int = 50, classes: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, classes, generator=draw) * 3
    return logits.softmax(1), torch.randint(classes, (rows,), generator=draw)


def test_everything_is_kept_exactly_when_classes_are_few() -> None:
    full, labels = some_probabilities()
    kept = TopProbabilities.of(full, labels)
    assert kept.is_complete
    assert torch.equal(kept.dense(), full)
    assert torch.equal(kept.predicted, full.argmax(1))
    assert torch.equal(kept.given, full[torch.arange(50), labels])
    assert bool((kept.values.diff(dim=1) <= 0).all())


def test_the_largest_are_kept_and_the_given_one() -> None:
    full, labels = some_probabilities()
    kept = TopProbabilities.of(full, labels, keep=3)
    assert not kept.is_complete
    assert len(kept) == 50
    cut = full.sort(1, descending=True).values[:, 2:3]
    own = F.one_hot(labels, 12).bool()
    expected = torch.where((full >= cut) | own, full, 0.0)
    assert torch.equal(kept.dense(), expected)
    every = torch.arange(12).expand(50, -1)
    assert torch.equal(kept.probability_of(every), expected)
    assert torch.equal(kept.probability_of(labels), full[torch.arange(50), labels])
    index = torch.tensor([7, 3])
    assert torch.equal(kept.rows(index).dense(), expected[index])
    assert torch.equal(kept.dense(index), expected[index])


def test_blocks_of_any_size_give_the_same() -> None:
    full, labels = some_probabilities()
    whole = TopProbabilities.of(full, labels, keep=4)
    parts = TopProbabilities.from_blocks(iter(full.split([1, 30, 19])), labels, 12, keep=4)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.classes, parts.classes)


def spoilt(row: int, column: int, value: float) -> Tensor:
    full, _ = some_probabilities()
    full[row, column] = value
    return full


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt(7, 3, float("nan")), "row 7 of the probabilities has nan in column 3"),
        (spoilt(9, 0, float("inf")), "row 9 of the probabilities has inf in column 0"),
        (spoilt(2, 0, -0.5), "row 2 .* negative value -0.5"),
        (spoilt(4, 1, 3.0), "row 4 .* a sum of"),
        (torch.zeros(50), "one row per sample"),
        (torch.zeros(50, 12, dtype=torch.int64), "give floats"),
        (some_probabilities(49)[0], "49 rows, but there are 50 labels"),
        (some_probabilities(51)[0], "more rows than the 50 labels"),
    ],
)
def test_bad_probabilities_are_refused_by_name(bad: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TopProbabilities.of(bad, some_probabilities()[1])


def test_bad_labels_are_refused_by_name() -> None:
    full, labels = some_probabilities()
    labels[11] = 12
    with pytest.raises(UserError, match="label 12 of row 11 is no class"):
        TopProbabilities.of(full, labels)
    with pytest.raises(UserError, match="one class number per sample"):
        TopProbabilities.of(full, labels.float())
    with pytest.raises(UserError, match="keep is 0"):
        TopProbabilities.of(full, labels.clamp_max(11), keep=0)
    with pytest.raises(UserError, match="row 0 on has shape"):
        TopProbabilities.from_blocks([full[:, :5]], labels.clamp_max(11), 12)


# --- the estimators against known truth -------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_the_transition_matrix_is_recovered(kind: type[Estimator], noise: float) -> None:
    evidence, matrix = perfect(noise=noise)
    found = kind().estimate(evidence)
    assert found.transition is not None
    torch.testing.assert_close(found.transition, matrix, atol=0.03, rtol=0)
    assert found.noise_rate == pytest.approx(noise, abs=0.02)
    assert float(found.joint.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found.prior, found.joint.sum(1))
    torch.testing.assert_close(found.transition.sum(1), torch.ones(4).double())


@pytest.mark.parametrize("kind", ALL)
def test_the_order_of_rows_changes_nothing(kind: type[Estimator]) -> None:
    evidence, _ = perfect(size=2000)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(5))
    assert evidence.neighbours is not None
    moved = Evidence(
        evidence.probabilities.rows(order), order.argsort()[evidence.neighbours[order]]
    )
    torch.testing.assert_close(kind().joint(moved), kind().joint(evidence), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_renaming_the_classes_renames_the_result(kind: type[Estimator]) -> None:
    evidence, _ = perfect(size=2000)
    data, rename = evidence.probabilities, torch.tensor([2, 0, 3, 1])
    full = torch.empty(2000, 4)
    full[:, rename] = data.dense()
    renamed = Evidence(TopProbabilities.of(full, rename[data.labels]), evidence.neighbours)
    expected = torch.empty(4, 4).double()
    expected[rename[:, None], rename] = kind().joint(evidence)
    torch.testing.assert_close(kind().joint(renamed), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_weights_are_repeated_samples(kind: type[Estimator]) -> None:
    evidence, _ = perfect(size=1000)
    weights = bootstrap_weights(1000, 0, seed=3)
    # Copies keep the neighbours of their original, which stand first and so keep their rows.
    extra = torch.arange(1000).repeat_interleave((weights - 1).clamp_min(0).long())
    index = torch.cat([torch.arange(1000), extra])
    assert evidence.neighbours is not None
    again = Evidence(evidence.probabilities.rows(index), evidence.neighbours[index])
    once = torch.cat([weights.clamp_max(1), torch.ones(len(extra))])
    torch.testing.assert_close(
        kind().joint(evidence, weights), kind().joint(again, once), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", ALL)
def test_two_classes(kind: type[Estimator]) -> None:
    right, labels, matrix, neighbours = world(10_000, num_classes=2, noise=0.3)
    evidence = Evidence(TopProbabilities.of(matrix[right].float(), labels), neighbours)
    found = kind().estimate(evidence)
    assert found.noise_rate == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_a_class_without_samples(kind: type[Estimator]) -> None:
    right, labels, matrix, neighbours = world(4000)
    wide = F.pad(matrix[right].float(), (0, 1))
    found = kind().estimate(Evidence(TopProbabilities.of(wide, labels), neighbours))
    assert found.transition is not None
    assert bool(found.transition.isfinite().all())
    assert found.noise_rate == pytest.approx(0.4, abs=0.03)
    assert float(found.prior[4]) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_a_class_that_is_never_predicted(kind: type[Estimator]) -> None:
    right, labels, matrix, neighbours = world(4000)
    full = matrix[right].float()
    full[right == 3] = matrix[0].float()  # a model that takes every 3 for a 0
    found = kind().estimate(Evidence(TopProbabilities.of(full, labels), neighbours))
    assert bool(found.joint.isfinite().all())
    assert float(found.joint.sum()) == pytest.approx(1.0)
    if kind is Consensus:
        assert found.noise_rate == pytest.approx(0.4, abs=0.03)
    if kind is DualT:
        assert found.noise_rate > 0.45


def test_confident_joint_against_a_slow_reference() -> None:
    full, labels = some_probabilities(400, 5)
    table = torch.zeros(5, 5).double()
    thresholds = [float(full[labels == j, j].mean()) for j in range(5)]
    for row, own in zip(full.tolist(), labels.tolist(), strict=True):
        passed = [j for j in range(5) if row[j] >= thresholds[j] * (1 - 1e-6)]
        if passed:
            table[max(passed, key=lambda j: row[j]), own] += 1
    joint = torch.zeros(5, 5).double()
    for own in range(5):
        joint[:, own] = table[:, own] / table[:, own].sum() * (labels == own).double().mean()
    evidence = Evidence(TopProbabilities.of(full, labels))
    torch.testing.assert_close(ConfidentJoint().joint(evidence), joint)


def test_confident_joint_is_sparse_for_very_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, _ = perfect(size=2000)
    dense = ConfidentJoint().estimate(evidence)
    for module in ("confident_joint", "estimator"):
        monkeypatch.setattr(f"labelwise.estimation.{module}.MAX_DENSE_CLASSES", 3)
    sparse = ConfidentJoint().estimate(evidence)
    assert sparse.joint.is_sparse
    assert sparse.transition is None
    torch.testing.assert_close(sparse.joint.to_dense(), dense.joint)
    torch.testing.assert_close(sparse.prior, dense.prior)
    assert sparse.noise_rate == pytest.approx(dense.noise_rate)
    found, expected = (confusable_pairs(each, 2000) for each in (sparse, dense))
    assert [(p.true, p.given) for p in found] == [(p.true, p.given) for p in expected]
    with pytest.raises(UserError, match="use 'confident_joint'"):
        DualT().estimate(evidence)


def test_a_label_that_no_sample_confirms_is_trusted() -> None:
    full = torch.tensor([[0.9, 0.1]] * 15 + [[0.8, 0.2]] * 15)
    labels = torch.tensor([0] * 15 + [1] * 15)
    data = TopProbabilities.of(full, labels)
    true = confident_class(data, class_thresholds(data) + torch.tensor([0.05, 0.0]))
    assert set(true[labels == 0].tolist()) == {-1}
    joint = ConfidentJoint().joint(Evidence(data))
    assert float(joint.sum()) == pytest.approx(1.0)


def test_the_anchor_is_at_the_97th_percentile() -> None:
    top = torch.linspace(0.6, 0.99, 100)
    full = torch.stack([top, 1 - top], dim=1)
    data = TopProbabilities.of(full, torch.zeros(100, dtype=torch.int64))
    assert int(anchor_points(data)[0]) in (96, 97)
    assert int(anchor_points(data)[1]) == 0  # never predicted: its largest probability


def test_likelihood_never_falls_and_names_are_an_assignment() -> None:
    evidence, matrix = perfect(size=2000)
    views = Consensus(2)._views(evidence)[1]
    weight = torch.full((2000,), 1 / 2000).double()
    model, last = diagonal_start(views, weight), -float("inf")
    for _ in range(20):
        model, share, likelihood = maximise(model, views, weight, 1)
        assert likelihood >= last - 1e-12
        last = likelihood
        torch.testing.assert_close(share.sum(1), torch.ones(2000).double())
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(named(matrix[order.argsort()]), order)


def test_consensus_survives_a_class_that_is_mostly_mislabelled() -> None:
    matrix = torch.tensor([[0.4, 0.55, 0.05], [0.02, 0.45, 0.53], [0.1, 0.0, 0.9]]).double()
    draw = torch.Generator().manual_seed(0)
    right = torch.arange(3000) % 3
    labels = torch.multinomial(matrix[right], 1, generator=draw).squeeze(1)
    pick = torch.randint(1, 1000, (3000, 10), generator=draw)
    neighbours = (torch.arange(3000)[:, None] + 3 * pick) % 3000
    evidence = Evidence(TopProbabilities.of(matrix[right].float(), labels), neighbours)
    found = Consensus().estimate(evidence)
    assert found.transition is not None
    torch.testing.assert_close(found.transition, matrix, atol=0.05, rtol=0)
    assert DualT().estimate(evidence).noise_rate < found.noise_rate - 0.05  # and it knows no better


def test_the_prior_fits_the_given_labels() -> None:
    matrix = world(100)[2]
    prior = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    joint = with_prior(matrix, matrix.T @ prior, 20_000)
    torch.testing.assert_close(joint.sum(1), prior, atol=1e-4, rtol=0)


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "trials"), [(ConfidentJoint, 60), (Consensus, 20)])
def test_intervals_cover_the_rate_that_samples_are_drawn_with(
    kind: type[Estimator], trials: int
) -> None:
    covered, width = 0, 0.0
    for seed in range(trials):
        right, labels, matrix, neighbours = world(400, num_classes=3, seed=seed)
        evidence = Evidence(TopProbabilities.of(matrix[right].float(), labels), neighbours)
        found = with_intervals(kind(), evidence, resamples=40, seed=seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.4 <= found.high
        width += (found.high - found.low) / trials
    assert covered >= 0.8 * trials
    assert width < 1.5 * 2 * 1.96 * (0.24 / 400) ** 0.5  # near the binomial one, which is the best


def test_intervals_are_keyed_by_the_seed_and_hold_the_estimate() -> None:
    evidence, matrix = perfect(size=2000)
    first, again, other = (
        with_intervals(ConfidentJoint(), evidence, seed=seed, resamples=30) for seed in (1, 1, 2)
    )
    assert first.rates is not None
    assert again.rates is not None
    assert other.rates is not None
    assert torch.equal(first.rates, again.rates)
    assert not torch.equal(first.rates, other.rates)
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.noise_rate < first.high
    assert first.transition_low is not None
    assert first.transition_high is not None
    inside = (first.transition_low <= matrix) & (matrix <= first.transition_high)
    assert float(inside.double().mean()) > 0.7


def test_more_samples_take_fewer_resamples() -> None:
    assert [num_resamples(size, 10) for size in (100, 20_000, 50_000, 10**6)] == [100, 100, 40, 20]
    weights = bootstrap_weights(500, 3, seed=0)
    assert float(weights.sum()) == 500
    assert int(weights.max()) < 12
    assert normal_quantile(0.95) == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize(("option", "value"), [("level", 1.5), ("level", 95.0), ("resamples", 1)])
def test_bad_interval_settings(option: str, value: float) -> None:
    evidence, _ = perfect(size=100)
    with pytest.raises(UserError, match=f"{value:g}"):
        with_intervals(ConfidentJoint(), evidence, **{option: value})  # type: ignore[arg-type]


# --- combination ------------------------------------------------------------------------------


def stated(name: str, rate: float, half: float = 0.02) -> Estimate:
    joint = torch.tensor([[0.5, rate / 2], [rate / 2, 0.5 - rate]]).double()
    found = Estimate.from_joint(name, joint)
    low, high = max(0.0, rate - half), min(1.0, rate + half)
    return Estimate(found.name, joint, rate, found.prior, found.transition, low, high)


def test_the_interval_reaches_the_middle_of_the_others() -> None:
    found = combine([stated("anchors", 0.2), stated("dual", 0.34), stated("consensus", 0.3)])
    assert found.estimate.name == "consensus"
    assert found.noise_rate == 0.3
    assert found.disagreement == pytest.approx(0.07)
    half = (0.02**2 + 0.07**2) ** 0.5
    assert found.estimate.low == pytest.approx(0.3 - half)
    assert found.estimate.high == pytest.approx(0.3 + half)
    assert found.reason is None


def test_estimators_that_disagree_cannot_tell() -> None:
    found = combine([stated("dual", 0.5), stated("consensus", 0.1), stated("anchors", 0.4)])
    assert found.reason is not None
    assert found.reason.startswith("cannot tell: ")
    assert "consensus 10 %" in found.reason
    assert "dual 50 %" in found.reason
    alone = combine([stated("confident_joint", 0.01)])
    assert alone.estimate.low == 0.0
    assert alone.estimate.high == pytest.approx(0.03)
    with pytest.raises(UserError, match="at least one"):
        combine([])
    with pytest.raises(UserError, match="no interval"):
        combine([Estimate.from_joint("dual", torch.eye(2).double() / 2)])


def test_every_estimator_that_can_run_is_asked() -> None:
    right, labels, matrix, _ = world(1500)
    data = TopProbabilities.of(matrix[right].float(), labels)
    features = F.one_hot(right, 4) + 0.1 * torch.randn(
        1500, 4, generator=torch.Generator().manual_seed(0)
    )
    found = estimate_noise(data, features, resamples=10)
    realised = float((labels != right).double().mean())
    assert [each.name for each in found.estimates] == [
        "consensus",
        "confident_joint",
        "dual",
        "anchors",
    ]
    assert found.noise_rate == pytest.approx(realised, abs=0.02)
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low <= realised <= found.estimate.high
    without = estimate_noise(data, resamples=10)
    assert [each.name for each in without.estimates] == ["confident_joint", "dual", "anchors"]
    with pytest.raises(UserError, match="needs features"):
        estimate_noise(data, names=["consensus"])
    with pytest.raises(UserError, match="Did you mean 'consensus'"):
        estimate_noise(data, names=["concensus"])
    with pytest.raises(UserError, match="features have shape"):
        estimate_noise(data, features[:7])
    features[5, 0] = float("nan")
    with pytest.raises(UserError, match="row 5 of the features"):
        estimate_noise(data, features)


def test_only_some_rows_of_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(rows_used(100, 10), torch.arange(100))
    assert len(rows_used(10**6, 10)) == 50_000
    assert len(rows_used(10**6, 1000)) == 4000
    assert len(rows_used(10**6, 1000).unique()) == 4000
    monkeypatch.setattr("labelwise.estimation.consensus.MAX_ROWS", 800)
    right, labels, matrix, neighbours = world(4000)
    data = TopProbabilities.of(matrix[right].float(), labels)
    noise = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    found = estimate_noise(data, F.one_hot(right, 4) + 0.1 * noise, resamples=5)
    assert found.noise_rate == pytest.approx(0.4, abs=0.04)
    known = estimate_noise(data, neighbours=neighbours, resamples=5)
    assert known.estimate.name == "consensus"
    assert known.noise_rate == pytest.approx(0.4, abs=0.04)


# --- pairs ------------------------------------------------------------------------------------


def test_pairs_are_ranked_by_wrong_labels() -> None:
    joint = torch.tensor([[0.30, 0.06, 0.0], [0.03, 0.25, 0.01], [0.10, 0.0, 0.25]]).double()
    pairs = confusable_pairs(Estimate.from_joint("dual", joint), 1000)
    assert [(p.true, p.given) for p in pairs] == [(2, 0), (0, 1), (1, 0), (1, 2)]
    first = pairs[1]
    assert first.count == pytest.approx(60)
    assert first.rate == pytest.approx(0.06 / 0.36)
    assert first.symmetry == pytest.approx(0.5)
    assert pairs[0].symmetry == 0.0
    assert first.confusion == pytest.approx(0.09 / 0.65)
    assert (first.low, first.high) == pytest.approx(
        (60 - 1.96 * 60**0.5, 60 + 1.96 * 60**0.5), 1e-3
    )
    assert len(confusable_pairs(Estimate.from_joint("dual", joint), 1000, limit=2)) == 2
    assert not confusable_pairs(Estimate.from_joint("dual", torch.eye(3).double() / 3), 1000)


def test_pairs_of_a_resampled_estimate_have_its_interval() -> None:
    evidence, _ = perfect(size=2000)
    found = with_intervals(ConfidentJoint(), evidence, resamples=20)
    pairs = confusable_pairs(found, 2000)
    assert len(pairs) == 12
    assert found.transition_high is not None
    for pair in pairs:
        assert 0 <= pair.low < pair.count < pair.high
        reach = float(found.transition_high[pair.true, pair.given] * found.prior[pair.true])
        assert pair.high >= reach * 2000 - 1e-9


# --- bad evidence and discovery ---------------------------------------------------------------


def test_tiny_and_misshapen_evidence_is_refused() -> None:
    full, labels = some_probabilities(12)
    with pytest.raises(UserError, match="from 12 samples; give at least 20"):
        Evidence(TopProbabilities.of(full, labels))
    full, labels = some_probabilities(30)
    data = TopProbabilities.of(full, labels)
    with pytest.raises(UserError, match="neighbours have shape"):
        Evidence(data, torch.zeros(29, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="two nearest"):
        Consensus().estimate(Evidence(data, torch.zeros(30, 1, dtype=torch.int64)))
    with pytest.raises(UserError, match="at least 2 neighbours"):
        Consensus(1)
    one = TopProbabilities.of(torch.ones(30, 1), torch.zeros(30, dtype=torch.int64))
    with pytest.raises(UserError, match="one class"):
        Evidence(one)


def test_every_estimator_is_found_with_its_citation() -> None:
    assert set(estimators()) == {"confident_joint", "anchors", "dual", "consensus"}
    for kind, word in product(estimators().values(), ("arXiv",)):
        assert word in kind.citation
        assert "Differences from the paper" in (kind.__doc__ or "")
    with pytest.raises(UserError, match="Did you mean 'dual'"):
        find_estimator("duel")
