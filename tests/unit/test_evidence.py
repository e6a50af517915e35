"""The audit's verdicts against known truth and brute force, on evidence made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

import labelwise
from labelwise.audit import evidence as audit
from labelwise.audit import outcome, weighing
from labelwise.audit.evidence import EVIDENCE, Verdicts, nearest, reach_verdicts
from labelwise.audit.fusion import curve_error, true_reliability
from labelwise.audit.observed import SIGNS, Observed, Observer, Said
from labelwise.audit.outcome import audit_figures, evidence_arrays, labels_table
from labelwise.data.dataset import Dataset, Truth
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.estimation.estimator import Estimate
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.methods.ce import CrossEntropy
from labelwise.selection.mixture import mixture
from support import fitting_views, smooth_network, tiny_embeddings, tiny_images, usual_network

CPU = torch.device("cpu")
COLUMNS = [
    "id",
    "given_label",
    "label_quality",
    "predicted_label",
    "suggested_label",
    "suggestion_confidence",
    "is_suspect",
]
NEED_TRUTH = {
    "realised_noise_rate",
    "calibration_error_truth",
    "label_error_auroc",
    "label_error_average_precision",
    "suspect_recall",
    "suspect_precision",
    "suggestion_accuracy",
    "label_accuracy_given",
    "label_accuracy_suggested",
}


def networks_for(data: Dataset) -> list[nn.Module]:
    if data.kind == "images":
        return [smooth_network(data, number) for number in range(2)]
    return [usual_network(data, CrossEntropy(), number) for number in range(2)]


@pytest.fixture(params=["images", "embeddings"])
def case(request: pytest.FixtureRequest) -> tuple[Dataset, list[nn.Module]]:
    """Data and two untrained networks."""
    data = tiny_images() if request.param == "images" else tiny_embeddings()
    return data, networks_for(data)


def audited(data: Dataset, networks: list[nn.Module]) -> Verdicts:
    """The verdicts of networks that remember nothing."""
    store = Store.of(data, CPU)
    ledger = Ledger((), len(networks), len(data), CPU)
    views = fitting_views(data)
    observed = Observer(networks, store, data.labels, views, ledger, None).gather()
    return reach_verdicts(observed, networks, store)


def by_hand(
    data: Dataset, suspect: list[bool], predicted: list[int], quality: list[float]
) -> Verdicts:
    """Verdicts with chosen columns."""
    number, size = len(data), data.num_classes
    marked = torch.tensor(suspect)
    answer = torch.tensor(predicted)
    joint = torch.eye(size, dtype=torch.float64) / size
    one_hot = F.one_hot(answer, size).float()
    return Verdicts(
        quality=torch.tensor(quality),
        planted_quality=torch.zeros(0),
        predicted=answer,
        suggested=torch.where(marked, answer, data.labels),
        confidence=torch.full((number,), 0.7),
        suspect=marked,
        signs=torch.ones((number, len(EVIDENCE))),
        estimate=Estimate.from_joint("none", joint),
        rates={"none": 0.0},
        interval=(0.1, 0.5),
        noise_rate=1 - sum(quality) / number,
        loss=torch.arange(float(number)),
        fit=mixture("gaussian").fit(torch.arange(float(number))),
        fallback=None,
        method="by hand",
        top=TopProbabilities.of(one_hot, data.labels),
        notes=(),
        worst=torch.arange(number),
        neighbours=torch.zeros((number, 1), dtype=torch.int64),
        similarity=torch.zeros((number, 1)),
    )


class World:
    """Samples whose truth is known, and networks that are right but not sure.

    Args:
        num: N.
        num_classes: K.
        rate: share of wrong labels, uniform over the other classes.
        planted: M.
        sure: log-odds by which the true class leads on average.
        seed: of everything.
    """

    def __init__(
        self,
        num: int = 600,
        num_classes: int = 4,
        rate: float = 0.3,
        planted: int = 0,
        sure: float = 5.0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.num_classes = num_classes
        self.truth = torch.randint(0, num_classes, (num,), generator=generator)
        wrong = torch.rand(num, generator=generator) < rate
        shift = torch.randint(1, num_classes, (num,), generator=generator)
        self.given = torch.where(wrong, (self.truth + shift) % num_classes, self.truth)
        self.right = self.given == self.truth
        centres = F.normalize(torch.randn(num_classes, 16, generator=generator), dim=1)
        noise = 0.02 * torch.randn(num, 16, generator=generator)
        self.features = F.normalize(centres[self.truth] + noise, dim=1)
        self.logits = torch.randn(num, num_classes, generator=generator)
        self.logits += sure * F.one_hot(self.truth, num_classes)
        self.said = self._said(torch.arange(num), self.given, generator)
        self.planted: Said | None = None
        if planted:
            rows = torch.randperm(num, generator=generator)[:planted]
            by = torch.randint(1, num_classes, (planted,), generator=generator)
            self.planted = self._said(rows, (self.given[rows] + by) % num_classes, generator)
        self.data = Dataset(
            self.features, self.given, tuple(map(str, range(num_classes))), np.arange(num), "world"
        )
        self.networks: list[nn.Module] = [usual_network(self.data, CrossEntropy(), 0)]

    def _said(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> Said:
        probability = self.logits[rows].softmax(1)
        own = probability.gather(1, labels[:, None])[:, 0]
        noise = 0.1 * torch.randn(len(rows), len(SIGNS), generator=generator)
        right = (labels == self.truth[rows]).float()[:, None]
        return Said(
            {"all": TopProbabilities.of(probability, labels)},
            (0.3 + 0.4 * right + noise).clamp(0, 1),
            -own.log()[:, None].repeat(1, 2),
            own,
        )

    def verdicts(self, features: bool = True) -> Verdicts:
        references = torch.arange(len(self.given)) if features else torch.arange(2)
        observed = Observed(self.said, self.planted, references, self.features[references])
        return reach_verdicts(observed, self.networks, Store.of(self.data, CPU))


def assert_sound(found: Verdicts, num: int, num_planted: int = 0) -> None:
    """Finite, of the right shape, in range."""
    for part in (found.quality, found.confidence, found.planted_quality, found.signs):
        assert bool(part.isfinite().all())
        assert bool(((part >= 0) & (part <= 1)).all())
    assert found.quality.shape == found.suspect.shape == found.suggested.shape == (num,)
    assert found.planted_quality.shape == (num_planted,)
    assert found.signs.shape == (num, len(EVIDENCE))
    assert bool(found.loss.isfinite().all())
    low, high = found.interval
    assert 0 <= low <= high <= 1
    assert 0 <= found.noise_rate <= 1
    assert all(0 <= rate <= 1 for rate in found.rates.values())


# -- verdicts where the truth is known --------------------------------------------------------


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("planted", [0, 60])
def test_labels_that_are_easy_to_judge(planted: int, features: bool) -> None:
    world = World(planted=planted, sure=12.0)
    found = world.verdicts(features)
    assert_sound(found, 600, planted)
    wrong = ~world.right
    assert roc_auc_score(wrong, 1 - found.quality) > 0.999
    assert float((found.suspect == wrong).double().mean()) > 0.99
    assert bool((found.suggested[found.suspect] == world.truth[found.suspect]).all())
    assert found.noise_rate == pytest.approx(float(wrong.double().mean()), abs=0.03)
    assert found.interval[0] <= found.noise_rate <= found.interval[1]
    if planted:
        assert float((found.planted_quality < 0.5).double().mean()) > 0.85
        assert "planted" in found.method


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_quality_is_the_share_of_right_labels(num_classes: int) -> None:
    world = World(3000, num_classes, 0.3, planted=300, sure=4.0)
    found = world.verdicts()
    assert_sound(found, 3000, 300)
    error = curve_error(true_reliability(found.quality.numpy(), world.right.numpy()))
    assert error < 0.04
    assert found.expected_precision is not None
    assert found.expected_recall is not None
    precision = float((~world.right)[found.suspect].double().mean())
    recall = float(found.suspect[~world.right].double().mean())
    assert found.expected_precision == pytest.approx(precision, abs=0.06)
    assert found.expected_recall == pytest.approx(recall, abs=0.08)


def test_right_labels_give_few_suspects() -> None:
    world = World(rate=0.0, planted=20)
    found = world.verdicts()
    assert_sound(found, 600, 20)
    assert int(found.suspect.sum()) <= 6
    assert found.noise_rate < 0.03


@pytest.mark.parametrize("num", [2, 5, 19])
def test_few_samples_are_judged_without_an_estimate(num: int) -> None:
    world = World(num, 2, 0.0, sure=12.0)
    found = world.verdicts()
    assert_sound(found, num)
    assert found.interval == (0.0, 1.0)
    assert any("too few" in note for note in found.notes)
    assert not found.suspect.any()
    assert all(np.isfinite(audit_figures(world.data, found, None)["noise_rate_interval"]))


def test_a_small_run_comes_to_its_end() -> None:
    inputs = np.arange(12, dtype=np.float32)[:, None] % 2 * np.ones((1, 3), dtype=np.float32)
    run = labelwise.fit(inputs, np.arange(12) % 2, method="ce", epochs=2, threads=1)
    assert len(run.labels) == 12
    assert any("too few" in note for note in run.summary["notes"])


def test_a_class_that_is_never_predicted() -> None:
    world = World(planted=40)
    world.logits[:, 3] = -30.0
    generator = torch.Generator().manual_seed(1)
    world.said = world._said(torch.arange(600), world.given, generator)
    found = world.verdicts()
    assert_sound(found, 600, 40)
    assert not (found.predicted == 3).any()


def test_a_class_that_no_label_names() -> None:
    world = World()
    world.given = torch.where(world.given == 3, 0, world.given)
    world.data = replace(world.data, labels=world.given)
    world.said = world._said(torch.arange(600), world.given, torch.Generator().manual_seed(1))
    assert_sound(world.verdicts(), 600)


def test_many_classes_are_judged_by_the_confident_joint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "MOST_CLASSES", 9)

    def never(*args: object) -> object:
        raise AssertionError("neighbours were asked")

    monkeypatch.setattr(weighing, "estimate_by_neighbours", never)
    world = World(800, 10, planted=40, sure=9.0)
    found = world.verdicts()
    assert_sound(found, 800, 40)
    assert found.estimate.name == "confident_joint"
    assert float((found.suspect == ~world.right).double().mean()) > 0.95


def test_really_many_classes() -> None:
    world = World(900, 150, planted=30, sure=12.0)
    found = world.verdicts()
    assert_sound(found, 900, 30)
    assert float((found.suspect == ~world.right).double().mean()) > 0.9
    assert not np.isnan(evidence_arrays(world.data, found, None)["evidence"]).any()


def test_the_order_of_the_data_does_not_matter() -> None:
    """The bootstrap and k-means aside, which only touch the last digits of the rate."""
    world = World(planted=60)
    first = world.verdicts(features=False)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(5))
    top = world.said.sources["all"].rows(order)
    world.said = Said(
        {"all": top}, world.said.signs[order], world.said.losses[order], world.said.own[order]
    )
    world.features, world.given = world.features[order], world.given[order]
    second = world.verdicts(features=False)
    torch.testing.assert_close(second.quality, first.quality[order], rtol=1e-3, atol=1e-3)
    assert torch.equal(second.suspect, first.suspect[order])
    assert torch.equal(second.suggested, first.suggested[order])
    torch.testing.assert_close(second.planted_quality, first.planted_quality, rtol=0, atol=1e-3)


def test_mixed_precision_is_for_the_networks_alone() -> None:
    """A run in bfloat16 audits within autocast; what is computed from the networks' answers
    must not lose digits there."""
    world = World(planted=60)
    first = world.verdicts()
    with torch.autocast("cpu", torch.bfloat16):
        second = world.verdicts()
    torch.testing.assert_close(second.quality, first.quality, rtol=0, atol=1e-6)
    assert second.rates == pytest.approx(first.rates, abs=1e-9)
    assert second.interval == pytest.approx(first.interval, abs=1e-9)
    # Features are the networks' answers, and are of that precision; the cosine of them is not.
    assert second.similarity.dtype == torch.float32
    assert len(second.similarity.unique()) > 0.5 * second.similarity.numel()


def test_digits_with_half_of_the_labels_wrong() -> None:
    """A whole run: what is promised of the labels holds."""
    run = labelwise.fit("digits", noise="symmetric:0.5", method="ce", epochs=20, threads=1)
    summary = run.summary
    assert summary["label_error_auroc"] > 0.99
    assert summary["calibration_error_truth"] < 0.06
    rate = summary["realised_noise_rate"]
    assert summary["estimated_noise_rate"] == pytest.approx(rate, abs=0.03)
    assert summary["expected_precision"] == pytest.approx(summary["suspect_precision"], abs=0.06)
    assert summary["expected_recall"] == pytest.approx(summary["suspect_recall"], abs=0.06)
    low, high = summary["noise_rate_interval"]
    assert low <= rate <= high
    assert summary["num_planted"] > 40
    # Some planted labels are right by chance: 0.5 / 9 of them.
    assert summary["planted_found"] > 0.85


# -- suspects, the worst, their neighbours ------------------------------------------------------


def test_a_suspect_is_doubtful_and_predicted_otherwise() -> None:
    world = World(sure=2.0)
    found = world.verdicts()
    suspects = 0
    for row in range(600):
        given, predicted = int(world.given[row]), int(found.predicted[row])
        expected = float(found.quality[row]) < 0.5 and predicted != given
        suspects += expected
        assert bool(found.suspect[row]) == expected
        assert int(found.suggested[row]) == (predicted if expected else given)
        if not expected:
            assert found.confidence[row] == found.quality[row]
        elif expected:
            assert float(found.confidence[row]) <= 1 - float(found.quality[row]) + 1e-5
    assert 0 < suspects < 600


def test_the_worst_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WORST", 20)
    world = World()
    found = world.verdicts()
    assert found.worst.unique().numel() == 20
    order = found.quality + 1e-3 * world.said.own
    torch.testing.assert_close(order[found.worst], order.sort().values[:20])


def test_the_same_losses_and_predictions_of_all_samples_are_no_evidence() -> None:
    data = tiny_embeddings(30, wrong=0.0)
    data = replace(data, inputs=torch.zeros_like(data.inputs), labels=torch.zeros_like(data.labels))
    found = audited(data, networks_for(data))
    assert_sound(found, 30)
    assert not found.suspect.any()
    arrays = evidence_arrays(data, found, None)
    assert all(np.isfinite(value).all() for value in arrays.values() if value.dtype.kind in "fiu")


def test_losses_are_those_of_every_sample_by_itself(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    store, found = Store.of(data, CPU), audited(data, networks)
    losses = []
    for network in networks:
        network.eval()
        with torch.no_grad():
            one_by_one = [network(store.plain(row))["classes"] for row in data_rows(data)]
        losses.append(F.cross_entropy(torch.cat(one_by_one), data.labels, reduction="none"))
    torch.testing.assert_close(found.loss, torch.stack(losses).mean(0), rtol=1e-4, atol=1e-5)


def data_rows(data: Dataset) -> Tensor:
    return torch.arange(len(data))[:, None]


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_neighbours_are_those_of_a_full_search(
    case: tuple[Dataset, list[nn.Module]], block: int
) -> None:
    data, networks = case
    store = Store.of(data, CPU)
    rows = torch.tensor([5, 0, 63, 17])
    found, similarity = nearest(networks, store, rows, block)
    assert not similarity.requires_grad  # a graph over all blocks would hold all activations
    networks[0].eval()
    with torch.no_grad():
        features = networks[0](store.plain(torch.arange(len(data))), heads=("features",))
    unit = nn.functional.normalize(features["features"], dim=1)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-torch.inf)
    best = cosine[rows].topk(audit.NEIGHBOURS, dim=1).values
    torch.testing.assert_close(similarity, best, rtol=1e-4, atol=1e-5)
    at_found = cosine[rows].gather(1, found)
    torch.testing.assert_close(at_found, best, rtol=1e-4, atol=1e-5)
    assert bool((found != rows[:, None]).all())
    assert all(len(set(row)) == audit.NEIGHBOURS for row in found.tolist())


def test_two_samples_have_one_neighbour_each() -> None:
    data = tiny_embeddings(2, num_classes=2, wrong=0.0)
    found, similarity = nearest(networks_for(data), Store.of(data, CPU), torch.arange(2))
    assert found.tolist() == [[1], [0]]
    assert similarity.shape == (2, 1)


def test_the_table_has_a_row_per_sample_in_order(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    found = audited(data, networks)
    table = labels_table(data, found, None)
    assert list(table.columns) == COLUMNS
    assert table["id"].tolist() == data.ids.tolist()
    assert table["given_label"].tolist() == [data.classes[c] for c in data.labels.tolist()]
    assert table["predicted_label"].tolist() == [data.classes[c] for c in found.predicted.tolist()]
    assert table["is_suspect"].dtype == bool
    for column in ("label_quality", "suggestion_confidence"):
        assert table[column].between(0, 1).all()
    suspects = table[table["is_suspect"]]
    assert (suspects["suggested_label"] == suspects["predicted_label"]).all()
    rest = table[~table["is_suspect"]]
    assert (rest["suggested_label"] == rest["given_label"]).all()


def test_the_truth_is_a_column_only_where_it_is_known(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    found = audited(data, networks)
    truth = Truth((data.labels + 1) % data.num_classes)
    table = labels_table(data, found, truth)
    assert list(table.columns) == [*COLUMNS, "true_label"]
    assert table["true_label"].tolist() == [data.classes[c] for c in truth.labels.tolist()]


def test_text_ids_and_class_names_come_out_as_they_went_in() -> None:
    data = tiny_embeddings(6, num_classes=2)
    ids = np.array(["007", "a,b", "ü", "", " x", "1e3"], dtype=object)
    data = replace(data, ids=ids, classes=("True", "no, never"))
    found = by_hand(data, [False] * 6, [0] * 6, [0.9] * 6)
    table = labels_table(data, found, None)
    assert table["id"].tolist() == ids.tolist()
    assert set(table["given_label"]) == {"True", "no, never"}
    assert isinstance(table, pd.DataFrame)


def test_figures_without_truth_say_nothing_about_it() -> None:
    data = tiny_embeddings(4, num_classes=2, wrong=0.0)
    found = by_hand(data, [True, False, False, False], [1, 1, 0, 1], [0.1, 0.9, 0.8, 0.6])
    figures = audit_figures(data, found, None)
    assert not NEED_TRUTH & figures.keys()
    assert figures["estimated_noise_rate"] == pytest.approx(0.4)
    assert figures["num_suspects"] == 1
    assert figures["num_planted"] == 0
    assert figures["expected_precision"] == pytest.approx(0.9)
    assert figures["expected_recall"] == pytest.approx(0.9 / 1.6)
    assert figures["noise_rate_interval"] == [0.1, 0.5]
    assert "calibration_error" not in figures
    nobody = by_hand(data, [False] * 4, [0] * 4, [1.0] * 4)
    assert nobody.expected_precision is None
    assert nobody.expected_recall is None


def test_figures_with_truth_are_the_counts() -> None:
    data = replace(tiny_embeddings(8, num_classes=2), labels=torch.tensor([0, 1] * 4))
    truth = Truth(torch.tensor([1, 0, 0, 1, 0, 1, 0, 1]))  # the first two labels are wrong
    suspect = [True, False, True, False, False, False, False, False]
    quality = [0.1, 0.6, 0.2, 0.7, 0.8, 0.9, 0.95, 1.0]
    figures = audit_figures(data, by_hand(data, suspect, [1, 1, 1, 1, 0, 1, 0, 1], quality), truth)
    assert figures.keys() > NEED_TRUTH
    assert figures["realised_noise_rate"] == 2 / 8
    assert figures["num_suspects"] == 2
    assert figures["suspect_precision"] == 1 / 2
    assert figures["suspect_recall"] == 1 / 2
    assert figures["suggestion_accuracy"] == 1 / 2
    assert figures["label_accuracy_given"] == 6 / 8
    assert figures["label_accuracy_suggested"] == 6 / 8
    wrong = [1, 1, 0, 0, 0, 0, 0, 0]
    expected = roc_auc_score(wrong, [1 - q for q in quality])
    assert figures["label_error_auroc"] == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0, 1])
def test_ranking_figures_are_left_out_where_all_labels_are_alike(shift: int) -> None:
    data = tiny_embeddings(6, num_classes=2)
    truth = Truth((data.labels + shift) % 2)
    figures = audit_figures(data, by_hand(data, [False] * 6, [0] * 6, [0.9] * 6), truth)
    assert figures["realised_noise_rate"] == shift
    assert not {"label_error_auroc", "suspect_precision", "suggestion_accuracy"} & figures.keys()


def test_evidence_arrays_hold_what_the_report_shows(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    found = audited(data, networks)
    arrays = evidence_arrays(data, found, Truth(data.labels))
    number = len(found.worst)
    assert arrays["loss"].shape == (len(data),)
    assert arrays["loss_grid"].shape == (outcome.GRID,)
    assert arrays["loss_density"].shape == (2, outcome.GRID)
    assert (arrays["loss_density"] >= 0).all()
    assert arrays["neighbours"].shape == arrays["similarity"].shape == (number, 3)
    assert arrays["evidence"].shape == (len(data), len(EVIDENCE))
    assert arrays["evidence_names"].tolist() == list(EVIDENCE)
    assert arrays["reliability_truth"].shape == (10, 3)
    assert "reliability" not in arrays
    pictures = {"worst_images", "neighbour_images"} & arrays.keys()
    assert len(pictures) == (2 if data.kind == "images" else 0)
    if pictures:
        worst, near = arrays["worst"], arrays["neighbours"]
        inputs = data.inputs.numpy()
        assert np.array_equal(arrays["worst_images"], inputs[worst])
        assert np.array_equal(arrays["neighbour_images"], inputs[near])
