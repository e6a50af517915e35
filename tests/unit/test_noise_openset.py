"""Open-set and human noise: foreign inputs without a class, and columns that people labelled."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from labelwise import cli
from labelwise.config import RunConfig
from labelwise.data.dataset import NO_CLASS, Dataset, Source, Truth
from labelwise.data.load import load, split
from labelwise.errors import UserError
from labelwise.experiment import InMemory, prepare
from labelwise.noise.human import Human
from labelwise.noise.openset import OpenSet, scrambled
from labelwise.noise.parse import parse, processes

torch.set_num_threads(1)


def images(count: int = 300, shape: tuple[int, int, int] = (3, 8, 6)) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 190, (count, *shape), dtype=torch.uint8, generator=generator)
    return Dataset(pixels, torch.arange(count) % 3, ("a", "b", "c"), np.arange(count), "things")


def foreign_npz(path: Path, classes: tuple[str, ...] = ("x", "b"), side: int = 12) -> Path:
    """Images whose first class is 7 everywhere and whose second is 9 everywhere."""
    labels = np.array(classes)[np.arange(20) % 2]
    values = np.where(np.arange(20) % 2 == 0, 7, 9).astype(np.uint8)
    pixels = np.broadcast_to(values[:, None, None, None], (20, side, side, 1)).copy()
    np.savez(path, images=pixels, labels=labels)
    return path


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6), (3, 5, 7)])
def test_scrambling_keeps_mean_and_spectrum_and_shows_nothing(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(100, 156, shape, dtype=torch.uint8, generator=generator)
    found = scrambled(sample, np.random.default_rng(0)).double()
    # Pixels are rounded, so that a coefficient moves by at most about the root of their number.
    assert (found.mean((1, 2)) - sample.double().mean((1, 2))).abs().max() < 0.5
    slack = 4 * (shape[1] * shape[2]) ** 0.5
    before, after = (torch.fft.rfft2(image).abs() for image in (sample.double(), found))
    inner = (slice(None), slice(1, (shape[1] + 1) // 2), slice(1, (shape[2] + 1) // 2))
    assert (before - after)[inner].abs().max() < slack
    pair = torch.stack([sample.double().flatten(), found.flatten()])
    assert torch.corrcoef(pair)[0, 1].abs() < 0.6


def test_embeddings_keep_their_values_in_another_order() -> None:
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    data = Dataset(rows, torch.arange(200) % 2, ("a", "b"), np.arange(200))
    noisy = OpenSet(0.5).corrupt(data, 0)
    assert noisy.inputs is not None
    assert torch.equal(noisy.inputs.sort(1).values, rows.sort(1).values)
    assert torch.equal((noisy.inputs != rows).any(1), noisy.foreign)
    few = Dataset(rows[:, :3], data.labels, data.classes, data.ids)
    with pytest.raises(UserError, match=r"too few to scramble.*openset:0.5:SOURCE"):
        OpenSet(0.5).corrupt(few, 0)


def test_foreign_images_come_from_the_source_and_no_shared_class(tmp_path: Path) -> None:
    source = foreign_npz(tmp_path / "far.npz")
    noisy = parse(f"openset:0.4:{source}").corrupt(images(), 0)
    assert noisy.inputs is not None
    assert noisy.inputs.shape == images().inputs.shape
    assert (noisy.inputs[noisy.foreign] == 7).all()
    assert torch.equal(noisy.inputs[~noisy.foreign], images().inputs[~noisy.foreign])
    assert torch.equal(noisy.labels, images().labels)
    assert noisy.realised_rate == pytest.approx(0.4, abs=4 * (0.24 / 300) ** 0.5)
    shared = foreign_npz(tmp_path / "near.npz", ("a", "b"))
    with pytest.raises(UserError, match=r"every class of .* is also a class of 'things'"):
        parse(f"openset:0.4:{shared}").corrupt(images(), 0)
    np.savez(tmp_path / "rows.npz", embeddings=np.zeros((4, 5), np.float32))
    with pytest.raises(UserError, match=r"hold embeddings of shape \(5,\), the data images"):
        parse(f"openset:0.4:{tmp_path / 'rows.npz'}").corrupt(images(), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openset", "has no rate"),
        ("openset:0.2:", "ends with a colon"),
        ("openset:1.2", r"outside \[0, 1\)"),
        ("openset:x:digits", "'x' in 'openset:x' is not a number"),
        ("human", "Write human:COLUMN"),
    ],
)
def test_parse_names_the_problem(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_a_missing_source_is_explained() -> None:
    with pytest.raises(UserError, match=r"nowhere.npz does not exist"):
        parse("openset:0.2:nowhere.npz").corrupt(images(), 0)


def test_foreign_samples_are_trained_on_and_never_tested_on() -> None:
    prepared = prepare(RunConfig(data="digits", noise="openset:0.4", seed=1))
    assert prepared.truth is not None
    assert prepared.test is not None
    assert prepared.test.truth is not None
    assert int(prepared.test.truth.labels.min()) >= 0
    assert torch.equal(prepared.test.data.labels, prepared.test.truth.labels)
    num_foreign = int((prepared.truth.labels == NO_CLASS).sum())
    assert prepared.noise is not None
    assert num_foreign == prepared.noise["num_foreign"]
    clean = 1797 - num_foreign
    assert len(prepared.test.data) == round(0.2 * clean)
    ids = [*prepared.train.ids.tolist(), *prepared.test.data.ids.tolist()]
    assert sorted(ids) == list(range(1797))
    whole = load("digits").data
    rows = torch.from_numpy(prepared.test.data.ids)
    assert torch.equal(prepared.test.data.inputs, whole.inputs[rows])
    assert torch.equal(prepared.train.labels, whole.labels[torch.from_numpy(prepared.train.ids)])


def test_split_without_foreign_samples_is_what_it_was() -> None:
    source = Source(images(), Truth(images().labels))
    unknown = split(Source(images()), seed=3)
    for part, other in zip(split(source, seed=3), unknown, strict=True):
        assert (part.data.ids == other.data.ids).all()
    truth = images().labels.clone()
    truth[:3] = NO_CLASS
    train, test = split(Source(images(), Truth(truth)), seed=3)
    assert {0, 1, 2} <= set(train.data.ids.tolist())
    assert len(test.data) == round(0.2 * 297)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A parquet of 60 embeddings with true labels, a column of votes and one of other names."""
    generator = np.random.default_rng(0)
    label = np.array(["ant", "bee", "cow"])[np.arange(60) % 3]
    votes = label.copy()
    votes[::5] = np.array(["bee", "cow", "ant"])[np.arange(60) % 3][::5]
    frame = pd.DataFrame(
        {
            "id": [f"s{number}" for number in range(60)],
            "embedding": list(generator.standard_normal((60, 4)).astype(np.float32)),
            "label": label,
            "votes": votes,
            "others": np.where(label == "cow", "cw", label),
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_human_labels_come_from_a_column(table: Path) -> None:
    frame = pd.read_parquet(table)
    prepared = prepare(RunConfig(data=str(table), noise="human:votes", limit=45))
    assert prepared.noise is not None
    assert prepared.truth is not None
    assert prepared.noise["process"] == "human"
    by_id = frame.set_index("id").loc[prepared.train.ids]
    names = np.array(prepared.train.classes)
    assert (names[prepared.train.labels.numpy()] == by_id["votes"]).all()
    assert (names[prepared.truth.labels.numpy()] == by_id["label"]).all()
    data = load(table).data
    noisy = parse("human:votes").for_data(str(table)).corrupt(data, 0)
    assert noisy.realised_rate == noisy.requested_rate == 12 / 60
    assert noisy.transition_matrix.diagonal().tolist() == pytest.approx([0.8, 0.8, 0.8])


def test_human_columns_that_cannot_be_used_are_explained(table: Path) -> None:
    data = load(table).data
    with pytest.raises(UserError, match=r"Did you mean 'votes'"):
        parse("human:vote").for_data(str(table))
    with pytest.raises(UserError, match=r"'cw' .* not among the 3 known .* Did you mean 'cow'"):
        parse("human:others").for_data(str(table)).corrupt(data, 0)
    with pytest.raises(UserError, match=r"for 20 of 60 samples, the first with id 's40'"):
        Human("votes", data.subset(range(40))).corrupt(data, 0)
    with pytest.raises(UserError, match=r"labels of column 'votes' were not read"):
        parse("human:votes").corrupt(data, 0)
    memory = InMemory(np.zeros((6, 4), np.float32), [0, 1, 2] * 2)
    with pytest.raises(UserError, match=r"needs data with label columns"):
        prepare(RunConfig(data="(in memory)", noise="human:votes"), memory)


def call(*words: object, code: int = 0) -> str:
    outcome = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_the_command_lists_processes() -> None:
    listed = json.loads(call("noise", "--list", "--json"))
    assert {row["name"] for row in listed} == set(processes())
    for row in listed:
        assert all(row[key] for key in ("usage", "summary", "rate", "citation"))
    text = call("noise")
    assert all(f"{row['usage']}: " in text and row["citation"] in text for row in listed)
    assert "no --noise was given" in call("noise", "digits", "--out", "x.csv", code=2)
    assert "needs data" in call("noise", "--noise", "symmetric:0.2", code=2)


def test_the_command_says_what_it_did(table: Path, tmp_path: Path) -> None:
    text = call("noise", table, "--noise", "human:votes", "--out", tmp_path / "h.csv")
    assert text.startswith("20.0% of 60 labels changed; written to ")
    assert "requested rate 0.2, realised rate 0.2" in text
    assert [line.split() for line in text.splitlines() if line.startswith("ant")] == [
        ["ant", "80.0", "20.0", "0.0"]
    ]
    assert "arXiv 2110.12088" in text
    described = json.loads(call("noise", table, "--noise", "human:votes", "--json"))
    assert described["realised_rate"] == 0.2
    assert described["classes"] == ["ant", "bee", "cow"]


def test_many_classes_are_listed_as_pairs(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "m.npz", embeddings=np.zeros((500, 2), np.float32), labels=np.arange(500) % 25
    )
    text = call("noise", tmp_path / "m.npz", "--noise", "pairflip:0.5")
    assert text.count(" → ") == 21
    assert "Realised transition matrix" not in text


def test_foreign_images_can_be_saved_and_read_again(tmp_path: Path) -> None:
    out, saved = tmp_path / "n.csv", tmp_path / "n.npz"
    words = ("noise", "digits", "--noise", "openset:0.3", "--limit", 200)
    text = call(*words, "--out", out, "--images-out", saved)
    table = pd.read_csv(out)
    assert table["true_label"].isna().equals(table["is_foreign"])
    assert f"{table['is_foreign'].mean():.1%} of 200 inputs replaced" in text
    again = load(saved)
    assert again.truth is None
    assert again.data.labels.tolist() == table["given_label"].tolist()
    assert again.data.ids.tolist() == table["id"].tolist()
    with np.load(saved) as arrays:
        assert (arrays["is_foreign"] == table["is_foreign"]).all()
    call("noise", "digits", "--noise", "pairflip:0.3", "--limit", 200, "--images-out", saved)
    truth = load(saved).truth
    assert truth is not None
    assert torch.equal(truth.labels, load("digits", limit=200).data.labels)
    assert "must end in .npz" in call(*words, "--images-out", tmp_path / "n.csv", code=2)
