"""The audit's numbers against brute force, on networks that were not even trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from labelwise.audit import evidence as audit
from labelwise.audit.evidence import (
    Evidence,
    audit_figures,
    evidence_arrays,
    gather_evidence,
    labels_table,
    nearest,
)
from labelwise.data.dataset import Dataset, Truth
from labelwise.data.store import Store
from labelwise.methods.ce import CrossEntropy
from labelwise.selection.mixture import mixture
from support import smooth_network, tiny_embeddings, tiny_images, usual_network

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


def logits_of(networks: list[nn.Module], store: Store) -> Tensor:
    """Logits of every sample by itself (P, N, K)."""
    rows = []
    with torch.no_grad():
        for network in networks:
            network.eval()
            index = torch.arange(len(store))[:, None]
            rows.append(torch.cat([network(store.plain(one))["classes"] for one in index]))
    return torch.stack(rows)


def by_hand(
    data: Dataset, suspect: list[bool], predicted: list[int], quality: list[float]
) -> Evidence:
    """Evidence with chosen columns."""
    number = len(data)
    marked = torch.tensor(suspect)
    answer = torch.tensor(predicted)
    return Evidence(
        quality=torch.tensor(quality),
        predicted=answer,
        suggested=torch.where(marked, answer, data.labels),
        confidence=torch.full((number,), 0.7),
        suspect=marked,
        loss=torch.arange(float(number)),
        fit=mixture("gaussian").fit(torch.arange(float(number))),
        fallback=None,
        worst=torch.arange(number),
        neighbours=torch.zeros((number, 1), dtype=torch.int64),
        similarity=torch.zeros((number, 1)),
    )


def test_scores_are_those_of_every_sample_by_itself(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    store = Store.of(data, CPU)
    found = gather_evidence(networks, store, block=7)
    logits = logits_of(networks, store)
    probability = logits.softmax(2).mean(0)
    rows = torch.arange(len(data))
    loss = -logits.log_softmax(2)[:, rows, data.labels].mean(0)
    torch.testing.assert_close(found.loss, loss, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.predicted, probability.argmax(1))
    each = -logits.log_softmax(2)[:, rows, data.labels]
    posteriors = torch.stack([mixture("gaussian").fit(losses).clean for losses in each])
    torch.testing.assert_close(found.quality, posteriors.mean(0), rtol=1e-3, atol=1e-4)
    chosen = probability[rows, found.suggested]
    torch.testing.assert_close(found.confidence, chosen, rtol=1e-4, atol=1e-5)


def test_a_suspect_is_doubtful_and_predicted_otherwise(
    case: tuple[Dataset, list[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, networks = case
    clean = torch.rand(len(data), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(audit, "label_quality", lambda losses: (clean, None))
    found = gather_evidence(networks, Store.of(data, CPU))
    torch.testing.assert_close(found.quality, clean)
    suspects = 0
    for row in range(len(data)):
        given, predicted = int(data.labels[row]), int(found.predicted[row])
        expected = float(found.quality[row]) < 0.5 and predicted != given
        suspects += expected
        assert bool(found.suspect[row]) == expected
        assert int(found.suggested[row]) == (predicted if expected else given)
    assert 0 < suspects < len(data)


def test_the_worst_come_first_and_ties_go_by_the_given_label(
    case: tuple[Dataset, list[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, networks = case
    monkeypatch.setattr(audit, "WORST", 20)
    store = Store.of(data, CPU)
    clean = (torch.arange(len(data)) % 2).float()
    monkeypatch.setattr(audit, "label_quality", lambda losses: (clean, None))
    found = gather_evidence(networks, store)
    assert len(found.worst) == 20
    assert found.worst.unique().numel() == 20
    assert bool((clean[found.worst] == 0).all())
    own = logits_of(networks, store).softmax(2).mean(0)[torch.arange(len(data)), data.labels]
    assert bool((own[found.worst].diff() > -1e-6).all())


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_neighbours_are_those_of_a_full_search(
    case: tuple[Dataset, list[nn.Module]], block: int
) -> None:
    data, networks = case
    store = Store.of(data, CPU)
    rows = torch.tensor([5, 0, 63, 17])
    found, similarity = nearest(networks, store, rows, block)
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


def test_networks_are_left_in_the_mode_they_were_in(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    networks[0].train()
    networks[1].eval()
    gather_evidence(networks, Store.of(data, CPU))
    assert networks[0].training
    assert not networks[1].training


def test_the_table_has_a_row_per_sample_in_order(
    case: tuple[Dataset, list[nn.Module]],
) -> None:
    data, networks = case
    found = gather_evidence(networks, Store.of(data, CPU))
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
    found = gather_evidence(networks, Store.of(data, CPU))
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
    assert figures == {"estimated_noise_rate": pytest.approx(0.4), "num_suspects": 1}


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
    found = gather_evidence(networks, Store.of(data, CPU))
    arrays = evidence_arrays(data, found)
    number = len(found.worst)
    assert arrays["loss"].shape == (len(data),)
    assert arrays["loss_grid"].shape == (audit.GRID,)
    assert arrays["loss_density"].shape == (2, audit.GRID)
    assert (arrays["loss_density"] >= 0).all()
    assert arrays["neighbours"].shape == arrays["similarity"].shape == (number, 3)
    pictures = {"worst_images", "neighbour_images"} & arrays.keys()
    assert len(pictures) == (2 if data.kind == "images" else 0)
    if pictures:
        worst, near = arrays["worst"], arrays["neighbours"]
        inputs = data.inputs.numpy()
        assert np.array_equal(arrays["worst_images"], inputs[worst])
        assert np.array_equal(arrays["neighbour_images"], inputs[near])


def test_identical_losses_are_no_evidence_against_any_label() -> None:
    data = tiny_embeddings(30, wrong=0.0)
    data = replace(data, inputs=torch.zeros_like(data.inputs), labels=torch.zeros_like(data.labels))
    found = gather_evidence(networks_for(data), Store.of(data, CPU))
    assert not found.suspect.any()
    assert found.fit.fallback
    arrays = evidence_arrays(data, found)
    assert all(np.isfinite(value).all() for value in arrays.values())
