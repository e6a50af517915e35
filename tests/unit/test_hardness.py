"""Easy, hard and corrected samples as columns of the labels and as arrays of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import labelwise
from labelwise.audit import projection
from labelwise.audit.hardness import (
    CONTESTED,
    SHOWN,
    Sorting,
    choose_shown,
    hardness_arrays,
    kind_of,
    maker_of,
)
from labelwise.audit.masks import shrunk
from labelwise.audit.projection import choose_points, flat
from labelwise.data.dataset import Dataset
from labelwise.data.ledger import Ledger
from labelwise.data.store import Store
from labelwise.models.hallucinator import Hallucinator
from labelwise.noise.planting import Planted
from labelwise.rng import Draw
from labelwise.training.corrections import (
    CLOSENESS,
    CORRECTED,
    EASY,
    FAR,
    HARD,
    NEAR,
    SIMILARITY,
    STATE,
    TARGET,
    TRUST,
    UNSORTED,
    correction_columns,
)
from support import smooth_network, tiny_embeddings, tiny_images

CPU = torch.device("cpu")
DRAW = Draw(0, phase="test")


def sorted_ledger(
    data: Dataset, voters: int = 5, kind: str = "hallucinated", seed: int = 0
) -> Ledger:
    """A ledger as it is after the last epoch: a third of the samples in each state."""
    generator = torch.Generator().manual_seed(seed)
    number = len(data)
    ledger = Ledger(correction_columns(voters), 1, number, CPU, shared=False)
    state = torch.tensor([EASY, HARD, CORRECTED])[torch.randperm(number, generator=generator) % 3]
    easy = (state == EASY).nonzero().flatten()
    corrected = state == CORRECTED
    shape = (number, voters)
    lot = torch.randint(len(easy), (2, *shape), generator=generator)
    count = torch.randint(1, voters + 1, (number, 1), generator=generator)
    there = (torch.arange(voters) < count) & corrected[:, None] & (kind != "none")
    near, far = easy[lot[0]].where(there, -1), easy[lot[1]].where(there, -1)
    votes = data.labels[near.clamp_min(0)].where(there, -1)
    best = torch.tensor(
        [
            Counter(row[row >= 0].tolist()).most_common(1)[0][0] if len(row[row >= 0]) else 0
            for row in votes
        ]
    )
    share = (votes == best[:, None]).sum(1) / count[:, 0]
    similarity = torch.rand(shape, generator=generator).sort(1, descending=True).values
    closeness = torch.rand(shape, generator=generator) / 2 + 0.5
    ledger.set(STATE, 0, state)
    ledger.set(TARGET, 0, best.where(corrected, data.labels))
    ledger.set(TRUST, 0, share.where(corrected, torch.where(state == EASY, 0.9, 0.0)))
    ledger.set(NEAR, 0, near)
    ledger.set(FAR, 0, torch.full_like(far, -1) if kind == "easy" else far)
    ledger.set(CLOSENESS, 0, (torch.ones(shape) if kind == "easy" else closeness).where(there, 0))
    ledger.set(SIMILARITY, 0, similarity.where(there, 0))
    return ledger


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few iterations as t-SNE takes."""
    monkeypatch.setattr(projection, "ITERATIONS", 250)


class Counting(nn.Module):
    """A network that remembers how many rows it was asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows = 0

    def forward(self, inputs: Tensor, **options: Any) -> dict[str, Tensor]:
        """As the network's."""
        self.rows += len(inputs)
        found: dict[str, Tensor] = self.network(inputs, **options)
        return found


def arrays_of(
    data: Dataset, ledger: Ledger, extras: list[nn.Module] | None = None, **options: Any
) -> dict[str, np.ndarray]:
    network = smooth_network(data) if data.kind == "images" else Plain()
    planted = options.pop("planted", None)
    return hardness_arrays(
        Sorting.of(ledger, planted), ledger, network, Store.of(data, CPU), extras or [], **options
    )


class Plain(nn.Module):
    """Embeddings are their own features."""

    def forward(self, inputs: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
        """Features alone."""
        assert heads == ("features",)
        return {"features": inputs}


# -- columns of the labels -----------------------------------------------------------------------


def test_columns_say_what_became_of_every_sample() -> None:
    sorting = Sorting(
        np.array([EASY, HARD, CORRECTED, UNSORTED], dtype=np.uint8),
        np.array([2, 1, 0, -1]),
        np.array([0.97, 0.0, 0.8, 0.0], dtype=np.float32),
    )
    table = pd.DataFrame(sorting.columns(["cat", "dog", "bird"]))
    assert table.state.fillna("").tolist() == ["easy", "hard", "corrected", ""]
    assert table.corrected_label.fillna("").tolist() == ["", "", "cat", ""]
    assert table.vote_share.isna().tolist() == [True, True, False, True]
    assert table.vote_share[2] == pytest.approx(0.8)


def test_planted_samples_are_in_no_state_and_the_ledger_stays_as_it_is() -> None:
    data = tiny_images(30)
    ledger = sorted_ledger(data)
    before = {name: column.clone() for name, column in ledger.columns.items()}
    planted = Planted(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    found = Sorting.of(ledger, planted)
    assert found is not None
    assert (found.state[:3] == UNSORTED).all()
    assert (found.state[3:] == ledger[STATE][0, 3:].numpy()).all()
    assert (found.target[:3] == -1).all()
    table = pd.DataFrame(found.columns(data.classes))
    assert table[:3].isna().all().all()
    corrected = ledger[STATE][0, 3:] == CORRECTED
    assert table.corrected_label[3:].notna().tolist() == corrected.tolist()
    for name, column in before.items():
        assert torch.equal(ledger[name], column)


def test_methods_that_do_not_sort_give_nothing() -> None:
    data = tiny_images(12)
    ledger = Ledger((), 1, 12, CPU)
    assert Sorting.of(ledger, None) is None
    assert arrays_of(data, ledger) == {}


def test_a_run_that_never_sorted_has_states_alone() -> None:
    data = tiny_images(12)
    ledger = Ledger(correction_columns(5), 1, 12, CPU)
    found = arrays_of(data, ledger)
    assert sorted(found) == ["hardness_state", "hardness_target", "hardness_trust"]
    assert not found["hardness_state"].any()
    sorting = Sorting.of(ledger, None)
    assert sorting is not None
    assert pd.DataFrame(sorting.columns(data.classes)).isna().all().all()


# -- which samples are shown ---------------------------------------------------------------------


def shown_of(
    share: list[float], given: list[int], target: list[int], voters: list[int] | None = None
) -> list[int]:
    number = len(share)
    sorting = Sorting(
        np.full(number, CORRECTED, dtype=np.uint8), np.array(target), np.float32(share)
    )
    count = np.array(voters or [5] * number)
    return choose_shown(sorting, np.array(given), count, np.linspace(1, 0.5, number)).tolist()


def test_changed_labels_come_first_then_contested_ones() -> None:
    share = [0.6, 1.0, 0.8, 1.0, 0.4]
    assert shown_of(share, [0, 0, 0, 1, 2], [1, 1, 1, 1, 2]) == [1, 2, 0, 4]  # 3 is confirmed


def test_pairs_of_labels_take_turns_among_equal_shares() -> None:
    given, target = [0, 0, 0, 1, 2], [1, 1, 1, 2, 0]
    assert shown_of([1.0] * 5, given, target) == [0, 3, 4, 1, 2]
    assert shown_of([1.0] * 5, given, target, [1, 3, 5, 5, 5]) == [2, 3, 4, 1, 0]


@pytest.mark.parametrize("number", [0, 5, 24, 25, 300])
@pytest.mark.parametrize("split", [0.0, 0.5, 1.0])
def test_places_are_filled(number: int, split: float) -> None:
    random = np.random.default_rng(number)
    contested = random.random(number) < split
    share = np.where(contested, random.choice([0.4, 0.6, 0.8], number), 1.0)
    state = np.where(random.random(number) < 0.7, CORRECTED, HARD).astype(np.uint8)
    labels, target = random.integers(0, 3, (2, number))
    sorting = Sorting(state, target, share.astype(np.float32))
    rows = choose_shown(sorting, labels, np.full(number, 5), random.random(number))
    corrected = state == CORRECTED
    worth = corrected & ((labels != target) | contested)
    assert len(set(rows.tolist())) == len(rows) == min(SHOWN, worth.sum())
    assert worth[rows].all()
    changed = labels != target
    first = int(np.argmin(np.r_[changed[rows], False]))  # the leading ones with another label
    leading = rows[:first]
    if (changed & corrected).sum() > SHOWN and (contested & corrected).sum() > SHOWN:
        assert (np.diff(share[leading[: SHOWN - CONTESTED]]) <= 0).all()
        assert contested[rows[SHOWN - CONTESTED :]].all()
        assert (np.diff(share[rows[SHOWN - CONTESTED :]]) >= 0).all()


# -- arrays --------------------------------------------------------------------------------------


def test_what_is_kept_of_the_shown_samples() -> None:
    data = tiny_images(60)
    ledger = sorted_ledger(data, voters=7)
    found = arrays_of(data, ledger, [Hallucinator(6, 6)])
    rows = found["hardness_rows"]
    number = len(rows)
    assert 0 < number <= SHOWN
    assert (ledger[STATE][0, rows] == CORRECTED).all()
    assert found["hardness_state"].dtype == np.uint8
    assert found["hardness_target"].dtype == np.int8
    assert found["hardness_trust"].dtype == np.float16
    for name, column in (("near", NEAR), ("far", FAR), ("similarity", SIMILARITY)):
        assert (found[f"hardness_{name}"] == ledger[column][0, rows, :5].numpy()).all()
    assert (found["hardness_voters"] == (ledger[NEAR][0, rows] >= 0).sum(1).numpy()).all()
    for side in ("near", "far"):
        own, labels = found[f"hardness_{side}"], found[f"hardness_{side}_labels"]
        assert (labels[own >= 0] == data.labels.numpy()[own[own >= 0]]).all()
        assert (labels[own < 0] == -1).all()
    assert (found["hardness_images"] == data.inputs[rows].numpy()).all()
    used = set(found["hardness_near"].flatten()) | set(found["hardness_far"].flatten())
    assert found["hardness_voter_rows"].tolist() == sorted(used - {-1})
    voters = found["hardness_voter_rows"]
    assert (found["hardness_voter_images"] == data.inputs[voters].numpy()).all()
    assert str(found["hardness_anchors"]) == "hallucinated"


def test_target_is_wide_enough_for_many_classes() -> None:
    data = replace(tiny_images(12), classes=tuple(f"class {k}" for k in range(200)))
    ledger = sorted_ledger(data)
    assert arrays_of(data, ledger)["hardness_target"].dtype == np.int16


def test_planted_samples_are_never_shown_but_may_have_voted() -> None:
    data = tiny_images(60)
    ledger = sorted_ledger(data)
    rows = torch.arange(0, 60, 5)
    trained = Planted(rows, (data.labels[rows] + 1) % 3)
    changed = replace(data, labels=trained.in_place_of(data.labels))
    found = arrays_of(changed, ledger, planted=trained)
    assert not set(found["hardness_rows"]) & set(rows.tolist())
    assert not set(found["hardness_point_rows"]) & set(rows.tolist())
    near, labels = found["hardness_near"], found["hardness_near_labels"]
    voted = np.isin(near, rows.numpy())
    assert voted.any()
    assert (labels[voted] == changed.labels.numpy()[near[voted]]).all()


def test_embeddings_have_no_pictures() -> None:
    data = tiny_embeddings(60)
    found = arrays_of(data, sorted_ledger(data))
    assert len(found["hardness_rows"])
    assert not [name for name in found if "images" in name]
    assert found["hardness_points"].shape[1] == 2


def test_large_pictures_are_reduced() -> None:
    images = torch.arange(2 * 4 * 100 * 200).reshape(2, 4, 100, 200).remainder(251).byte()
    small = shrunk(images, 50)
    assert (small.shape, small.dtype) == ((2, 3, 25, 50), torch.uint8)
    same = shrunk(images[:, :2, :10, :10], 50)
    assert torch.equal(same, images[:, :1, :10, :10])


@pytest.mark.parametrize("kind", ["hallucinated", "mixed", "easy", "none"])
def test_what_voted_is_known(kind: str) -> None:
    data = tiny_images(30)
    ledger = sorted_ledger(data, kind=kind)
    extras: list[nn.Module] = [nn.Identity()]
    extras += [Hallucinator(6, 6)] if kind == "hallucinated" else []
    make = maker_of(extras)
    assert (make is not None) == (kind == "hallucinated")
    assert kind_of(make, ledger) == kind
    assert str(arrays_of(data, ledger, extras)["hardness_anchors"]) == kind


# -- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hallucinated", "mixed", "easy", "none"])
def test_anchors_are_made_anew_from_the_features_of_now(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def keep(features: np.ndarray, draw: Draw) -> np.ndarray:
        seen.append(features)
        return np.zeros((len(features), 2), dtype=np.float32)

    monkeypatch.setattr(projection, "flat", keep)
    data = tiny_embeddings(60)
    ledger = sorted_ledger(data, kind=kind)
    make = Hallucinator(6, 6) if kind == "hallucinated" else None
    found = arrays_of(data, ledger, [make] if make else [])
    rows, voted = found["hardness_point_rows"], found["hardness_anchor_rows"]
    inputs = data.inputs
    assert np.array_equal(seen[0][: len(rows)], inputs[rows].numpy())
    assert len(seen[0]) == len(rows) + len(voted) == len(found["hardness_points"])
    made = seen[0][len(rows) :]
    expected = []
    for row in rows[ledger[STATE][0, rows].numpy() == CORRECTED].tolist():
        for place in range(5):
            near, far = (int(ledger[name][0, row, place]) for name in (NEAR, FAR))
            if near < 0:
                continue
            part = ledger[CLOSENESS][0, row, place]
            anchor = inputs[near]
            if make is not None:
                with torch.no_grad():
                    anchor = make(inputs[near][None], inputs[far][None], part[None])[0]
            elif far >= 0:
                anchor = part * inputs[near] + (1 - part) * inputs[far]
            expected.append((row, int(data.labels[near]), anchor.numpy()))
    assert voted.tolist() == [row for row, _, _ in expected]
    assert found["hardness_anchor_labels"].tolist() == [label for _, label, _ in expected]
    for one, (_, _, anchor) in zip(made, expected, strict=True):
        assert one == pytest.approx(anchor, abs=1e-5)
    assert bool(len(made)) == (kind != "none")


def test_only_chosen_samples_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "SAMPLES", 30)
    monkeypatch.setattr(projection, "ANCHORS", 8)
    monkeypatch.setattr(choose_points, "__defaults__", (30,))
    data = tiny_images(900)
    ledger = sorted_ledger(data)
    network = Counting(smooth_network(data).train())
    found = hardness_arrays(Sorting.of(ledger, None), ledger, network, Store.of(data, CPU))
    assert found["hardness_points"].shape == (38, 2)
    assert 0 < network.rows <= 30 + 2 * 8
    assert network.network.training
    state = found["hardness_state"][found["hardness_point_rows"]]
    assert np.bincount(state).tolist() == [0, 10, 10, 10]
    assert set(found["hardness_anchor_rows"]) <= set(found["hardness_point_rows"])


def test_every_state_is_well_seen() -> None:
    state = np.repeat([EASY, HARD, CORRECTED, UNSORTED], [5000, 900, 40, 60]).astype(np.uint8)
    state = np.random.default_rng(0).permutation(state)
    rows = choose_points(state, DRAW, 300)
    assert np.bincount(state[rows]).tolist() == [0, 130, 130, 40]
    assert (np.diff(rows) > 0).all()
    assert (choose_points(state, DRAW, 300) == rows).all()
    assert (choose_points(state, Draw(1, phase="test"), 300) != rows).any()
    assert len(choose_points(state, DRAW, 10_000)) == 5940
    assert len(choose_points(np.zeros(9, dtype=np.uint8), DRAW)) == 0


def test_too_few_samples_make_no_picture() -> None:
    data = tiny_images(9)
    found = arrays_of(data, sorted_ledger(data))
    assert "hardness_points" not in found
    assert "hardness_rows" in found


def clusters(number: int = 240, groups: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features in some directions, of any length."""
    random = np.random.default_rng(3)
    group = random.integers(0, groups, number)
    centres = np.eye(12)[:groups]
    noise = 0.1 * random.standard_normal((number, 12))
    return ((centres[group] + noise) * random.uniform(0.1, 9, (number, 1))).astype("f4"), group


def test_similar_features_are_close_together() -> None:
    features, group = clusters()
    points = flat(features, DRAW)
    assert points.dtype == np.float32
    assert points.min() >= 0
    assert points.max() <= 1
    assert np.ptp(points, axis=0).max() == pytest.approx(1, abs=1e-4)
    distance = np.linalg.norm(points[:, None] - points, axis=2) + 9 * np.eye(len(points))
    assert (group[distance.argmin(1)] == group).mean() > 0.99


def test_the_projection_is_a_function_of_its_input() -> None:
    features, _ = clusters(100)
    before = torch.get_num_threads()
    first = flat(features, DRAW)
    np.random.seed(5)
    assert (flat(features, DRAW) == first).all()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("width", [1, 2, 5])
def test_features_without_spread_are_drawn(width: int) -> None:
    same = np.ones((20, width), dtype=np.float32)
    assert (flat(same, DRAW) == 0.5).all()
    same[0] = np.nan
    same[1] = 0
    assert np.isfinite(flat(same, DRAW)).all()
    mixed = np.where(np.arange(20)[:, None] % 2, 1, -1) * np.ones((20, width))
    assert np.isfinite(flat(mixed.astype("f4"), DRAW)).all()


# -- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", ["hallucinated", "mixed", "easy", "none", "dividemix"])
def test_a_run_leaves_columns_and_arrays(tmp_path: Path, anchors: str) -> None:
    sorts = anchors != "dividemix"
    run = labelwise.fit(
        "digits",
        method="hallucination" if sorts else "dividemix",
        noise="symmetric:0.4",
        limit=200,
        epochs=3,
        schedule={"warmup": 2},
        settings={"anchors": anchors, "doubtful": 0.0, "least_agreement": 0.0} if sorts else {},
        out=str(tmp_path / "run"),
        threads=1,
        plant=0.15,
    )
    with np.load(tmp_path / "run" / "evidence.npz") as file:
        found = {name: file[name] for name in file.files if name.startswith("hardness_")}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ('<section id="hardness">' in page) == sorts
    table = pd.read_csv(tmp_path / "run" / "labels.csv")
    if not sorts:
        assert found == {}
        assert not {"state", "corrected_label", "vote_share"} & set(table.columns)
        return
    assert list(table.columns[-3:]) == ["state", "corrected_label", "vote_share"]
    num_planted = run.summary["num_planted"]
    assert num_planted >= 20
    states = ["", "easy", "hard", "corrected"]
    held = run.labels["state"].fillna("").tolist()
    assert [states[code] for code in found["hardness_state"]] == held
    assert held.count("") == num_planted
    corrected = table.state == "corrected"
    assert (corrected == table.vote_share.notna()).all()
    assert (corrected == table.corrected_label.notna()).all()
    assert corrected.any() == (anchors != "none")
    assert table.vote_share[corrected].between(0.2, 1).all()
    names = np.array([str(k) for k in range(10)])
    taken = names[found["hardness_target"][corrected]]
    assert (table.corrected_label[corrected].astype(int).astype(str) == taken).all()
    assert str(found["hardness_anchors"]) == anchors
    number = len(found["hardness_point_rows"]) + len(found["hardness_anchor_rows"])
    assert len(found["hardness_points"]) == number
    assert bool(len(found["hardness_anchor_rows"])) == (anchors != "none")
