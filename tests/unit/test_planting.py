"""Labels made wrong on purpose: what is planted, and that the user's labels stay the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import labelwise
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.experiment import InMemory, prepare, trained_on
from labelwise.noise.planting import FEWEST, MOST, plant_wrong_labels
from support import tiny_embeddings


def data_of(num: int, num_classes: int = 4) -> Dataset:
    return tiny_embeddings(num, num_classes)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_every_planted_label_is_another_class(num_classes: int) -> None:
    data = data_of(2000, num_classes)
    before = data.labels.clone()
    planted = plant_wrong_labels(data, 0.1, seed=0)
    assert planted is not None
    assert len(planted) == 200
    assert bool((planted.labels != data.labels[planted.rows]).all())
    assert bool(((planted.labels >= 0) & (planted.labels < num_classes)).all())
    assert bool((planted.rows.diff() > 0).all()), "ascending, none twice"
    changed = planted.in_place_of(data.labels)
    assert torch.equal((changed != data.labels).nonzero().flatten(), planted.rows)
    assert torch.equal(changed[planted.rows], planted.labels)
    assert torch.equal(data.labels, before)


def test_with_two_classes_it_is_the_other_one() -> None:
    data = data_of(1000, 2)
    planted = plant_wrong_labels(data, 0.05, seed=3)
    assert planted is not None
    assert torch.equal(planted.labels, 1 - data.labels[planted.rows])


def test_the_seed_decides() -> None:
    data = data_of(1000)
    first, again, other = (plant_wrong_labels(data, 0.05, seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.rows, other.rows)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    plant_wrong_labels(data, 0.05, 1)
    assert np.array_equal(np.random.get_state()[1], state)


def test_other_classes_and_all_rows_are_equally_likely() -> None:
    data = data_of(20_000, 5)
    planted = plant_wrong_labels(data, 0.1, seed=0)
    assert planted is not None
    shift = (planted.labels - data.labels[planted.rows]) % 5
    counts = torch.bincount(shift, minlength=5).numpy()
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 1e-3
    assert chisquare(np.histogram(planted.rows.numpy(), 20, (0, 20_000))[0]).pvalue > 1e-3


def test_how_many_are_planted() -> None:
    data = data_of(1000)
    assert plant_wrong_labels(data, (FEWEST - 1) / 1000, 0) is None
    fewest = plant_wrong_labels(data, FEWEST / 1000, 0)
    assert fewest is not None
    assert len(fewest) == FEWEST
    assert plant_wrong_labels(data, 0.0, 0) is None
    most = plant_wrong_labels(data_of(50_000), 0.2, 0)
    assert most is not None
    assert len(most) == MOST


def test_one_class_has_no_wrong_label() -> None:
    data = data_of(1000)
    single = replace(data, labels=torch.zeros_like(data.labels), classes=("only",))
    assert plant_wrong_labels(single, 0.1, 0) is None


@pytest.mark.parametrize("share", [-0.1, 0.3])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="plant"):
        RunConfig.parse({"data": "digits", "plant": share}, "the run")


def test_networks_see_planted_labels_and_the_user_does_not() -> None:
    data = data_of(1000)
    memory = InMemory(data.inputs.numpy(), data.labels.numpy())
    config = RunConfig(data="(in memory)")
    prepared = prepare(config, memory)
    assert prepared.planted is not None
    assert len(prepared.planted) == 30
    assert torch.equal(prepared.train.labels, data.labels)
    seen = trained_on(prepared)
    assert int((seen.labels != data.labels).sum()) == 30
    without = prepare(config.model_copy(update={"plant": 0.0}), memory)
    assert without.planted is None
    assert trained_on(without) is without.train
    assert prepared.train.label_hash() == without.train.label_hash() != seen.label_hash()


def test_outputs_of_a_run_speak_of_the_users_labels(tmp_path: Path) -> None:
    data = data_of(400)
    truth = (torch.arange(400) % 4).numpy()
    hashes, summaries = [], []
    for share in (0.1, 0.0):
        out = tmp_path / str(share)
        run = labelwise.fit(
            data.inputs.numpy(),
            data.labels.numpy(),
            truth=truth,
            method="ce",
            epochs=3,
            out=out,
            plant=share,
            threads=1,
        )
        kept = data.labels.numpy()[run.labels["id"].to_numpy()]
        assert run.labels["given_label"].tolist() == [str(label) for label in kept]
        summaries.append(run.summary)
        hashes.append(json.loads((out / "config.json").read_text())["data"]["label_hash"])
        with np.load(out / "evidence.npz", allow_pickle=False) as arrays:
            assert ("reliability" in arrays) == (share > 0)
    assert hashes[0] == hashes[1]
    assert summaries[0]["num_planted"] == round(0.1 * summaries[0]["num_samples"])
    assert summaries[0]["calibration_error"] >= 0
    assert summaries[1]["num_planted"] == 0
    assert "calibration_error" not in summaries[1]
    same = "realised_noise_rate"
    assert summaries[0][same] == summaries[1][same]
