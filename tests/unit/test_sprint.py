"""The short training: targets between label and mean prediction, and small images first."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import labelwise
from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.methods import parse_method
from labelwise.methods.sprint import Sprint, SprintStep
from labelwise.models.convnet import ConvNet
from labelwise.training import trace
from labelwise.training.context import Context
from labelwise.training.groups import Group
from labelwise.training.method import Problem
from support import bound, build_trainer, tiny_images

DATA = tiny_images(num=48)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """The context of the first phase of a run on tiny images."""
    trainer = build_trainer(DATA, bound(Sprint(), DATA), tmp_path)
    return trainer._context(trainer.method.phases(0)[0])


def group_of(context: Context, rows: list[int]) -> Group:
    index = torch.tensor(rows)
    labels = context.store.labels[index]
    return Group(index, labels, torch.ones(len(rows)), context.store.plain(index))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_targets_lie_between_label_and_mean_prediction(context: Context, share: float) -> None:
    rows, twice = [5, 9, 11], [5, 9]
    told = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]])
    for predicted in told:
        context.ledger.add(trace.PROBABILITY, 0, torch.tensor(twice), predicted)
        context.ledger.add(trace.SEEN, 0, torch.tensor(twice), torch.ones(2))
    group = group_of(context, rows)
    targets = SprintStep(share=share).targets(context, group)
    for place, row in enumerate(rows):
        label = np.eye(3)[DATA.labels[row]]
        # Sample 11 was never predicted: it keeps its label.
        mean = told[:, place].numpy().mean(0) if row in twice else label
        expected = (1 - share) * label + share * mean
        np.testing.assert_allclose(targets[place].numpy(), expected, atol=1e-6)


def test_the_share_grows_after_the_warmup_and_stays() -> None:
    method = Sprint(trust=0.6, ramp=0.2)
    problem = Problem(1000, 3, "images", (3, 32, 32))
    method.bind(problem, {"epochs": 30})
    assert method.schedule.warmup == 9
    steps = [method.phases(epoch)[0].step for epoch in range(30)]
    shares = [step.share for step in steps if isinstance(step, SprintStep)]
    assert shares[:9] == [0.0] * 9
    assert shares[9:15] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert shares[15:] == pytest.approx([0.6] * 15)
    assert method.schedule.decay == "onecycle"


@pytest.mark.parametrize(
    ("side", "expected"), [(24, [12, 18, 24]), (32, [16, 24, 32]), (23, [23, 23, 23])]
)
def test_images_grow(tmp_path: Path, side: int, expected: list[int]) -> None:
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 255, (48, 1, side, side), dtype=np.uint8))
    data = Dataset(images, DATA.labels, DATA.classes, DATA.ids)
    method = bound(Sprint(small_start=True), data)
    trainer = build_trainer(data, method, tmp_path)
    sizes = []
    for epoch in (0, method.schedule.warmup, method.schedule.epochs - 1):
        context = trainer._context(method.phases(epoch)[0])
        step = method.phases(epoch)[0].step
        assert isinstance(step, SprintStep)
        group = step.views(context, {"all": group_of(context, [1, 2])})["all"]
        sizes.append(group.inputs.shape[-1])
        assert 0 <= float(group.inputs.min()) <= float(group.inputs.max()) <= 1
    assert sizes == expected


def test_a_wrapper_waits_for_whole_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (48, 1, 24, 24), dtype=np.uint8)
    result = labelwise.fit(
        images,
        DATA.labels.numpy(),
        method="sanm+sprint",
        settings={"small_start": True},
        epochs=6,
        out=tmp_path / "run",
        threads=1,
    )
    rows = map(json.loads, (result.path / "metrics.jsonl").read_text().splitlines())
    rebuilt = ["train/reconstruction" in row for row in rows]
    assert rebuilt == [False] * 4 + [True] * 2


def test_settings_are_found_by_name() -> None:
    method = parse_method("sprint", {"trust": 0.5})
    assert method.settings.model_dump()["trust"] == 0.5
    with pytest.raises(UserError, match="trust"):
        parse_method("sprint", {"trust": 1.5})


@pytest.mark.parametrize(("side", "blocks"), [(4, 3), (32, 3), (48, 3), (96, 4), (224, 6)])
def test_convnet_ends_with_a_small_map(side: int, blocks: int) -> None:
    network = ConvNet.build((3, side, side)).eval()
    with torch.no_grad():
        maps = network(torch.rand(1, 3, side, side))
    assert maps.shape[1] == network.num_features == 256
    assert maps.shape[-1] == math.ceil(side / 2**blocks)


def test_the_step_is_a_value() -> None:
    assert replace(SprintStep(), share=0.5) == SprintStep(share=0.5)
