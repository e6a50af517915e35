"""Anchor hallucination: settings, phases, what is left in the ledger, odd data, the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import labelwise
from labelwise.data.dataset import NO_CLASS, Dataset, Truth
from labelwise.data.ledger import Column, Ledger
from labelwise.errors import UserError
from labelwise.experiment import inspector
from labelwise.methods import parse_method
from labelwise.methods.dividemix import DivideMix
from labelwise.methods.hallucination import Hallucination, Sorted, SortedMixMatch
from labelwise.models.hallucinator import Hallucinator
from labelwise.selection.easy import EasySet, easy_set
from labelwise.training.context import Context
from labelwise.training.correcting import FROM, Correct, SortOut, TrainHallucinator, name_of
from labelwise.training.corrections import (
    CLOSENESS,
    CONSISTENT,
    CORRECTED,
    EASY,
    FAR,
    HARD,
    NEAR,
    SIMILARITY,
    STATE,
    TARGET,
    TRUST,
    correction_columns,
)
from labelwise.training.division import Division
from labelwise.training.features import BANK, FeatureBank, bank_of
from labelwise.training.loop import Interrupted, Trainer
from labelwise.training.method import BASE_COLUMNS, Method, Problem
from labelwise.training.scoring import EARLY, Score
from support import (
    assert_same_tensors,
    bound,
    build_context,
    build_trainer,
    rows_without_times,
    smooth_network,
    tiny_embeddings,
    tiny_images,
    weights_of,
)

DATA = tiny_images(num=60, num_classes=3)
ALWAYS = {"doubtful": 0.0, "least_agreement": 0.0}
"""Corrections from the first epoch on, whatever the anchors know."""
SHORT = {
    **ALWAYS,
    "hallucinator_steps": 5,
    "hallucinator_first_steps": 20,
    "hallucinator_batch": 32,
}


def names(method: Method, epoch: int) -> list[str]:
    return [phase.name for phase in method.phases(epoch)]


def step_of(method: Method, epoch: int, name: str) -> Any:
    return next(phase.step for phase in method.phases(epoch) if phase.name == name)


def trained(
    folder: Path, data: Dataset = DATA, inspect: Any = None, **options: Any
) -> tuple[Trainer, list[dict[str, Any]]]:
    """A whole short run of a network without batch statistics, and the journal's lines."""
    folder.mkdir(parents=True, exist_ok=True)
    method = Hallucination(**{**SHORT, **options})
    networks = None
    if data.kind == "images":
        networks = [smooth_network(data, number) for number in range(method.num_peers)]
    trainer = build_trainer(data, method, folder, networks=networks, schedule={"lr": 0.05})
    if inspect is not None:
        trainer.inspect = inspect
    trainer.train()
    return trainer, trainer.journal.rows()


# -- settings ---------------------------------------------------------------------------------

BAD: list[tuple[str, Any]] = [
    ("easy_quantile", -0.1),
    ("easy_quantile", 1.1),
    ("easy_least", 2),
    ("anchors", "mean"),
    ("anchors_per_sample", 0),
    ("anchors_per_sample", 2.5),
    ("voters", 0),
    ("voters", 101),
    ("similarity_quantile", 1.0),
    ("similarity_quantile", -0.5),
    ("closeness", 1.2),
    ("closeness", math.nan),
    ("similarity_weight", -1),
    ("similarity_weight", math.inf),
    ("hallucinator_width", 0),
    ("hallucinator_steps", 0),
    ("hallucinator_first_steps", 0),
    ("hallucinator_batch", 1),
    ("hallucinator_lr", 0),
    ("epoch_length", "hard"),
    ("num_networks", 3),
    ("num_networks", 0),
    ("temperature", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"hallucination: {name} = .* is not valid"):
        Hallucination(**{name: value})


def test_unknown_setting_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="Did you mean 'anchors_per_sample'"):
        Hallucination(anchor_per_sample=3)
    with pytest.raises(UserError, match="has no presets"):
        Hallucination(preset="cifar10-symmetric-20")


def test_defaults_are_those_of_the_description() -> None:
    own = Hallucination().settings
    assert (own.easy_quantile, own.anchors_per_sample, own.anchors) == (0.5, 10, "hallucinated")
    assert (own.closeness, own.num_networks, own.similarity_weight) == (None, 1, 20.0)


def test_it_goes_by_its_name_and_under_the_wrapper() -> None:
    assert isinstance(parse_method("hallucination", {"voters": 3}), Hallucination)
    wrapped = parse_method("sanm+hallucination", {"hallucination.voters": 7})
    columns = {column.name: column for column in wrapped.columns()}
    assert columns[NEAR].shape == (7,)
    assert "ICIP 2024" in Hallucination.citation


# -- phases -----------------------------------------------------------------------------------

SORTING = ["score", "mixture", "sort"]


def test_phases_of_epochs() -> None:
    method = bound(Hallucination(), DATA, epochs=5, warmup=2)
    assert names(method, 0) == names(method, 1) == ["warmup-0"]
    assert names(method, 2) == [
        *("score", "mixture", "decide", "sort", "hallucinate", "correct", "divide-0")
    ]
    assert names(method, 3) == names(method, 4) == [*SORTING, "hallucinate", "correct", "divide-0"]
    assert method.phases(0)[0].warmup
    last = method.phases(4)[-1]
    assert (last.trains, last.judge) == ((0,), 0)
    assert last.sampling == Sorted(0, 0.5, "labelled")
    assert isinstance(last.step, SortedMixMatch)


@pytest.mark.parametrize(
    ("anchors", "further"),
    [
        ("none", []),
        ("easy", ["correct"]),
        ("mixed", ["correct"]),
        ("hallucinated", ["hallucinate", "correct"]),
    ],
)
def test_ablations_leave_phases_out(anchors: str, further: list[str]) -> None:
    method = bound(Hallucination(anchors=anchors), DATA, epochs=4, warmup=1)
    assert names(method, 2) == [*SORTING, *further, "divide-0"]
    if further:
        assert step_of(method, 2, "correct").anchors == anchors


def test_two_networks_learn_from_what_the_other_sorted() -> None:
    method = bound(Hallucination(num_networks=2), DATA, epochs=4, warmup=1)
    assert method.num_peers == 2
    assert names(method, 0) == ["warmup-0", "warmup-1"]
    assert names(method, 2) == [*SORTING, "hallucinate", "correct", "divide-0", "divide-1"]
    first, second = method.phases(2)[-2:]
    assert (first.trains, first.sampling.judge, first.judge) == ((0,), 1, 1)  # type: ignore[attr-defined]
    assert (second.trains, second.sampling.judge, second.judge) == ((1,), 0, 0)  # type: ignore[attr-defined]


def test_settings_reach_the_phases() -> None:
    method = bound(
        Hallucination(
            easy_quantile=0.25,
            easy_least=0.1,
            anchors_per_sample=7,
            voters=9,
            similarity_quantile=0.75,
            closeness=0.6,
            similarity_weight=2.5,
            hallucinator_steps=11,
            hallucinator_first_steps=77,
            hallucinator_batch=13,
            hallucinator_lr=0.5,
            at_least=2.0,
            epoch_length="easy",
            temperature=0.7,
            num_views=3,
            view="plain",
            alpha=0.3,
            doubtful=0.2,
            correct_after=0.4,
            least_agreement=0.7,
            distinct_voters=False,
            vote_weight=0.3,
            hallucinator_skip=False,
        ),
        DATA,
        epochs=11,
        warmup=1,
    )
    teach = TrainHallucinator(11, 13, 0.5, 2.5, 0.6, first_steps=77)
    correct = Correct("hallucinated", 7, 9, 0.75, 0.6, distinct=False, agreement=0.7)
    for epoch in (1, 2):
        assert step_of(method, epoch, "sort") == SortOut(0.25, 0.1, 0.2, wait=4)
        assert step_of(method, epoch, "hallucinate") == replace(teach, scored=epoch)
        assert step_of(method, epoch, "correct") == replace(correct, scored=epoch)
    assert cast(Any, step_of(method, 1, "divide-0")).vote_weight == 0.3
    assert method.phases(2)[-1].sampling == Sorted(0, 2.0, "easy")
    ours = step_of(method, 9, "divide-0")
    assert (ours.view, ours.num_views, ours.temperature, ours.alpha) == ("plain", 3, 0.7, 0.3)
    assert ours.ramp == 1.0


@pytest.mark.parametrize("anchors", ["none", "easy", "mixed", "hallucinated"])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_further_modules_only_where_they_are_needed(anchors: str, num_networks: int) -> None:
    method = bound(
        Hallucination(anchors=anchors, num_networks=num_networks, hallucinator_width=9),
        DATA,
        epochs=4,
        warmup=1,
    )
    found = method.extras(smooth_network(DATA))
    own = [name for name in found if name.startswith("hallucinator")]
    assert len(own) == (num_networks if anchors == "hallucinated" else 0)
    assert (BANK in found) == (anchors != "none")
    for name in own:
        module = found[name]
        assert isinstance(module, Hallucinator)
        assert module.layers[0].weight.shape == (9, 13)
    score = step_of(method, 2, "score")
    assert isinstance(score, Score)
    assert score.features == (anchors != "none"), "features are kept that nobody reads"
    wide = bound(Hallucination(), DATA).extras(smooth_network(DATA))["hallucinator_0"]
    assert cast(Hallucinator, wide).layers[0].out_features == 6, "as many as features"


@pytest.mark.parametrize("spec", ["hallucination", "sanm+hallucination"])
def test_warmup_is_half_of_that_of_dividemix(spec: str) -> None:
    """Once, however the schedule is changed; as many epochs as DivideMix has are left after it."""
    for num in (1438, 50_000):
        problem = Problem(num, 10, "images", (1, 8, 8))
        for changes in ({}, {"epochs": 20}, {"epochs": 2}, {"epochs": 20, "warmup": 7}):
            ours, theirs = (
                parse_method(name, {}).bind(problem, changes).schedule
                for name in (spec, "dividemix")
            )
            if "warmup" in changes:
                assert ours.warmup == 7
            else:
                assert abs(ours.warmup - max(1.0, theirs.warmup / 2)) <= 0.5
            if not changes:
                left = [plan.epochs - plan.warmup for plan in (ours, theirs)]
                assert abs(left[0] - left[1]) <= 1


def test_length_of_an_epoch_follows_the_easy_or_the_labelled_samples() -> None:
    context = build_context(
        DATA, [smooth_network(DATA)], columns=correction_columns(5), trains=(0,)
    )
    state = torch.tensor([EASY] * 20 + [CORRECTED] * 28 + [HARD] * 12)
    context.ledger.set(STATE, 0, state)
    context.ledger.set(TRUST, 0, (state != HARD).float())
    context.ledger.set(TARGET, 0, DATA.labels)
    steps = {
        length: len(Sorted(0, 0.0, length).plan(context, 4)["clean"])  # type: ignore[arg-type]
        for length in ("easy", "labelled")
    }
    assert steps == {"easy": 5, "labelled": 12}


# -- what is left in the ledger ---------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "hallucinated": {},
    "mixed": {"anchors": "mixed", "similarity_quantile": 0.1},
    "easy": {"anchors": "easy", "similarity_quantile": 0.0},
    "fixed": {"closeness": 0.7, "voters": 2, "anchors_per_sample": 9},
    "two": {"num_networks": 2, "anchors": "mixed"},
    "none": {"anchors": "none"},
}


@cache
def after_training(kind: str) -> tuple[Ledger, list[dict[str, Any]]]:
    with TemporaryDirectory() as folder:
        options = {"easy_quantile": 0.0, "easy_least": 0.25, **KINDS[kind]}
        trainer, rows = trained(Path(folder), **options)
    return trainer.ledger, rows


@pytest.mark.parametrize("kind", KINDS)
def test_states_targets_and_trust_are_consistent(kind: str) -> None:
    ledger, _ = after_training(kind)
    threshold = ledger.decisions["threshold"]
    for number in range(len(ledger[STATE])):
        state, target, trust = (ledger[name][number] for name in (STATE, TARGET, TRUST))
        assert set(state.tolist()) <= {EASY, HARD, CORRECTED}
        easy, hard, corrected = (state == value for value in (EASY, HARD, CORRECTED))
        assert bool(easy.any())
        assert bool(hard.any())
        assert bool(corrected.any()) == (kind != "none")
        assert torch.equal(target[~corrected], DATA.labels[~corrected])
        assert bool((trust[easy] >= threshold).all())
        clean = ledger["clean"][number][easy].clamp_min(threshold)
        assert torch.equal(trust[easy], clean)
        assert bool((trust[hard] == 0).all())
        assert bool(((trust[corrected] > 0) & (trust[corrected] <= 1)).all())
        assert bool(((target >= 0) & (target < 3)).all())
        assert DATA.labels[easy].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_voters_of_a_corrected_sample_speak_for_its_target(kind: str) -> None:
    ledger, _ = after_training(kind)
    options = {"closeness": None, "voters": 5, "anchors": "hallucinated", **KINDS[kind]}
    for number in range(len(ledger[STATE])):
        state = ledger[STATE][number].tolist()
        for row, value in enumerate(state):
            near, far, closeness, similarity = (
                ledger[name][number, row].tolist() for name in (NEAR, FAR, CLOSENESS, SIMILARITY)
            )
            voters = [place for place, easy in enumerate(near) if easy >= 0]
            assert len(near) == options["voters"]
            assert voters == list(range(len(voters))), "voters come first"
            assert bool(voters) == (value == CORRECTED)
            blank = range(len(voters), len(near))
            assert all(far[v] == -1 and closeness[v] == similarity[v] == 0 for v in blank)
            if not voters:
                continue
            assert all(state[near[v]] == EASY for v in voters)
            labels = [int(DATA.labels[near[v]]) for v in voters]
            target = int(ledger[TARGET][number, row])
            most = max(labels.count(label) for label in labels)
            assert labels.count(target) == most
            first = next(label for label in labels if labels.count(label) == most)
            assert target == first, "of equals the most similar one wins"
            assert float(ledger[TRUST][number, row]) == pytest.approx(most / len(labels))
            seen = [similarity[v] for v in voters]
            assert seen == sorted(seen, reverse=True)
            assert -1.001 < seen[-1] <= seen[0] < 1.001
            if options["anchors"] == "easy":
                assert [far[v] for v in voters] == [-1] * len(voters)
                assert [closeness[v] for v in voters] == [1.0] * len(voters)
                continue
            assert all(state[far[v]] == EASY for v in voters)
            assert all(DATA.labels[far[v]] != DATA.labels[near[v]] for v in voters)
            if options["closeness"] is None:
                assert all(0.5 <= closeness[v] <= 1 for v in voters)
            else:
                assert all(closeness[v] == pytest.approx(0.7) for v in voters)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_the_journal_are_those_of_the_ledger(kind: str) -> None:
    ledger, rows = after_training(kind)
    two = kind == "two"
    last = rows[-1]
    for number in range(len(ledger[STATE])):
        end = f"_{number}" if two else ""
        state = ledger[STATE][number]
        # A corrected sample was hard when the easy ones were counted.
        assert last[f"easy{end}"] == pytest.approx(float((state == EASY).float().mean()))
        assert (f"corrected{end}" in last) == (kind != "none")
        if kind != "none":
            corrected = state == CORRECTED
            assert last[f"corrected{end}"] == pytest.approx(float(corrected.float().mean()))
            mean = float(ledger[TRUST][number][corrected].mean())
            assert last[f"vote_share{end}"] == pytest.approx(mean)
        taught = kind in ("hallucinated", "fixed")
        assert (f"anchor_cross_entropy{end}" in last) == taught
        if taught:
            assert math.isfinite(last[f"anchor_dissimilarity{end}"])
    assert not any(name.startswith("corrected") for name in rows[0]), "that was the warm-up"


def test_corrections_of_an_epoch_that_has_none_are_forgotten() -> None:
    """Nothing is left of an earlier epoch's voters where everything is easy."""
    context = build_context(DATA, [smooth_network(DATA)], columns=correction_columns(5))
    bank = nn.ModuleDict({BANK: FeatureBank()})
    context = replace(context, extras=bank)
    context.ledger.decisions["threshold"] = 0.5
    context.ledger.set("clean", 0, (torch.arange(60) % 2).float())
    SortOut().run(context)
    assert Correct("mixed").run(context)["corrected"] > 0
    context.ledger.set("clean", 0, torch.ones(60))
    SortOut(1.0).run(context)
    assert Correct("mixed").run(context) == {}
    for column in correction_columns(5)[3:]:
        assert bool((context.ledger[column.name] == column.initial).all()), column.name
    assert torch.equal(context.ledger[TARGET][0], DATA.labels)
    assert bool((context.ledger[STATE][0] == EASY).all())


# -- odd data ---------------------------------------------------------------------------------


def assert_sound(trainer: Trainer, rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 3
    for row in rows:
        terms = [value for name, value in row.items() if "/" in name]
        assert terms
        assert all(math.isfinite(value) for value in terms)
    assert all(bool(weight.isfinite().all()) for weight in weights_of(trainer).values())


@pytest.mark.parametrize("anchors", ["hallucinated", "easy"])
def test_labels_of_one_class_leave_nothing_to_make_anchors_between(
    tmp_path: Path, anchors: str
) -> None:
    data = DATA.with_labels(torch.ones(60, dtype=torch.int64))
    trainer, rows = trained(tmp_path, data, anchors=anchors)
    assert_sound(trainer, rows)
    assert not any("corrected" in row or "anchor_cross_entropy" in row for row in rows)
    assert not bool((trainer.ledger[STATE] == CORRECTED).any())
    assert bool((trainer.ledger[NEAR] == -1).all())


def test_samples_that_are_all_easy_leave_nothing_to_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(clean: Tensor, *rest: Any) -> EasySet:
        return easy_set(torch.ones_like(clean), *rest)

    monkeypatch.setattr("labelwise.training.correcting.easy_set", everything)
    trainer, rows = trained(tmp_path, easy_quantile=1.0)
    assert_sound(trainer, rows)
    assert [row.get("easy") for row in rows] == [None, 1.0, 1.0]
    assert not any("corrected" in row for row in rows)
    assert any("fill the unlabelled side" in note for row in rows for note in row["notes"])


def test_two_classes(tmp_path: Path) -> None:
    trainer, rows = trained(tmp_path, tiny_images(num=40, num_classes=2))
    assert_sound(trainer, rows)
    assert rows[-1]["corrected"] > 0


@pytest.mark.parametrize("num_networks", [1, 2])
def test_embeddings(tmp_path: Path, num_networks: int) -> None:
    trainer, rows = trained(tmp_path, tiny_embeddings(), num_networks=num_networks)
    assert_sound(trainer, rows)
    assert any("corrected" in name for name in rows[-1])


def long_tailed() -> Dataset:
    """Classes of 36, 12, 4 and 1 samples."""
    whole = tiny_images(num=160, num_classes=4, wrong=0.0)
    rows = torch.cat([torch.arange(size) * 4 + k for k, size in enumerate((36, 12, 4, 1))])
    labels = whole.labels[rows].clone()
    labels[[0, 5, 40]] = torch.tensor([1, 2, 0])
    return replace(whole, inputs=whole.inputs[rows], labels=labels, ids=whole.ids[rows.numpy()])


@pytest.mark.parametrize("revive", [0.0, 0.5])
def test_long_tail_runs_through_and_keeps_every_class(tmp_path: Path, revive: float) -> None:
    data = long_tailed()
    trainer, rows = trained(tmp_path, data, revive=revive)
    assert_sound(trainer, rows)
    easy = trainer.ledger[STATE][0] == EASY
    assert data.labels[easy].unique().tolist() == [0, 1, 2, 3]
    single = int((data.labels == 3).nonzero())
    assert int(trainer.ledger[STATE][0, single]) == EASY
    assert float(trainer.ledger[TRUST][0, single]) >= trainer.ledger.decisions["threshold"]


def test_starving_classes_are_told_of() -> None:
    context = build_context(DATA, [smooth_network(DATA)], columns=correction_columns(5))
    said: list[str] = []
    context = replace(context, say=said.append)
    context.ledger.decisions["threshold"] = 0.5
    context.ledger.set("clean", 0, (DATA.labels != 2).float())
    SortOut().run(context)
    assert len(said) == 1
    assert "1 of 3 classes had far fewer easy samples" in said[0]
    assert bool((context.ledger[STATE][0][DATA.labels == 2] == EASY).any())


def test_fewer_samples_than_voters_and_hallucinator_pairs(tmp_path: Path) -> None:
    data = tiny_images(num=12, num_classes=3)
    trainer, rows = trained(tmp_path, data, voters=100, hallucinator_batch=500)
    assert_sound(trainer, rows)


# -- resume -----------------------------------------------------------------------------------


class Counting(FeatureBank):
    """Counts how often features were kept, by scoring or by a pass of their own."""

    kept = 0

    def keep(self, context: Any, number: int, features: Tensor) -> None:
        """Count."""
        type(self).kept += 1
        super().keep(context, number, features)


@pytest.mark.parametrize("num_networks", [1, 2])
def test_interrupted_between_any_two_phases_ends_bit_identical(
    tmp_path: Path, num_networks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_images(num=24)
    monkeypatch.setattr("labelwise.methods.hallucination.FeatureBank", Counting)

    def run(folder: Path, **options: Any) -> Trainer:
        folder.mkdir(exist_ok=True)
        method = Hallucination(**SHORT, num_networks=num_networks, easy_quantile=0.25)
        # One has batch statistics, two have none: either kind is resumed.
        networks = [smooth_network(data, n) for n in (0, 1)] if num_networks == 2 else None
        return build_trainer(data, method, folder, networks=networks, **options)

    Counting.kept = 0
    undisturbed = run(tmp_path / "whole")
    undisturbed.train()
    wanted, ledger = weights_of(undisturbed), undisturbed.ledger.state_dict()
    extras = undisturbed.extras.state_dict()
    assert any(name.startswith("hallucinator_0.layers") for name in extras)
    assert not any(name.startswith(BANK) for name in extras), "features are no state"
    rows = rows_without_times(tmp_path / "whole" / "metrics.jsonl")
    assert any(row.get("corrected", row.get("corrected_0", 0)) > 0 for row in rows)
    usual = Counting.kept
    stops: dict[int, str] = {}
    again: set[str] = set()
    stop = 0
    while True:
        folder = tmp_path / f"stop-{stop}"
        asked = iter(range(10**6))
        first = run(folder, should_stop=lambda asked=asked, stop=stop: next(asked) == stop)
        Counting.kept = 0
        try:
            first.train()
        except Interrupted:
            phases = first.part.phases(first.epoch)
            # The loop may add a phase that observes.
            names = ["start", *(phase.name for phase in phases[1:]), "end", "end"]
            stops[stop] = names[first.position.phase]
        else:
            break
        second = run(folder)
        assert second.resume()
        second.train()
        if Counting.kept > usual:
            again.add(stops[stop])
        assert_same_tensors(weights_of(second), wanted)
        assert_same_tensors(dict(second.extras.state_dict()), extras)
        assert_same_tensors(dict(second.ledger.columns), ledger["columns"])
        assert second.ledger.decisions == ledger["decisions"]
        assert rows_without_times(folder / "metrics.jsonl") == rows
        # In the phases without steps, every stop; in the others some.
        passes = ("mixture", "decide", "sort", "hallucinate", "correct")
        stop += 1 if stops[stop] in passes else 3
    seen = set(stops.values())
    assert {"sort", "hallucinate", "correct", "divide-0"} <= seen
    assert {"hallucinate", "correct"} <= again, "the features were not computed anew"


# -- when labels are corrected ----------------------------------------------------------------


def sorted_context(**options: Any) -> Context:
    """Two thirds of the labels are trusted; features as an untrained network has them."""
    context = build_context(
        DATA,
        [smooth_network(DATA)],
        columns=correction_columns(5),
        trains=(),
    )
    made = {BANK: FeatureBank(), name_of(0): Hallucinator(6, 6)}
    context = replace(context, extras=nn.ModuleDict(made))
    context.ledger.decisions["threshold"] = 0.5
    context.ledger.set("clean", 0, (torch.arange(len(DATA)) % 3 > 0).float())
    SortOut(1.0, 0.5, **options).run(context)
    return context


def test_corrections_wait_where_losses_tell_right_from_wrong() -> None:
    sure = sorted_context(doubtful=0.1, wait=3)
    assert sure.ledger.decisions[FROM] == 4.0
    for scored in (1, 3):
        before = sure.extras[name_of(0)].state_dict()
        assert TrainHallucinator(5, 16, scored=scored).run(sure) == {}
        assert_same_tensors(sure.extras[name_of(0)].state_dict(), before)
        assert Correct("mixed", scored=scored).run(sure) == {}
        assert not bool((sure.ledger[STATE][0] == CORRECTED).any())
    assert Correct("mixed", scored=4).run(sure)["corrected"] > 0
    sure.ledger.set("clean", 0, torch.full((len(DATA),), 0.5))
    SortOut(doubtful=0.1, wait=3).run(sure)
    assert sure.ledger.decisions[FROM] == 4.0, "decided once"
    assert sorted_context(doubtful=0.0, wait=3).ledger.decisions[FROM] == 1.0


def test_corrections_wait_for_nothing_where_labels_are_in_doubt() -> None:
    context = sorted_context(doubtful=0.1, wait=3)
    del context.ledger.decisions[FROM]
    clean = torch.linspace(0, 1, len(DATA))
    context.ledger.set("clean", 0, clean)
    SortOut(doubtful=0.1, wait=3).run(context)
    assert context.ledger.decisions[FROM] == 1.0


@pytest.mark.parametrize("know", [True, False])
def test_anchors_that_do_not_know_held_out_labels_correct_nothing(know: bool) -> None:
    context, said = sorted_context(), []
    context = replace(context, say=said.append)
    features = torch.nn.functional.one_hot(DATA.labels, 3).float()
    if not know:
        features = torch.randn(len(DATA), 3, generator=torch.Generator().manual_seed(0))
    bank_of(context).keep(context, 0, features + 0.01)
    figures = Correct("mixed", agreement=0.9).run(context)
    corrected = bool((context.ledger[STATE][0] == CORRECTED).any())
    assert corrected == know
    assert (figures["vote_agreement"] >= 0.9) == know
    assert bool(said) != know
    if know:
        assert figures["vote_agreement"] == 1.0


def test_weight_of_a_vote_counts_for_corrected_samples_alone() -> None:
    context = sorted_context()
    state = torch.tensor([EASY, CORRECTED, HARD] * 20)
    context.ledger.set(STATE, 0, state)
    context.ledger.set(TRUST, 0, torch.full((60,), 0.8))
    group = SimpleNamespace(index=torch.arange(60))
    step = SortedMixMatch(vote_weight=0.5)
    _, weight = step.believed(replace(context, trains=(0,)), cast(Any, group))
    assert torch.allclose(weight, torch.where(state == CORRECTED, 0.4, 0.8))


# -- the truth --------------------------------------------------------------------------------

# given, true, loss after warm-up, state, target, clean
TABLE: list[tuple[int, int, float, int, int, float]] = [
    (0, 0, 0.10, EASY, 0, 0.9),
    (0, 0, 0.20, EASY, 0, 0.8),
    (0, 0, 0.30, HARD, 0, 0.7),
    (1, 1, 0.40, HARD, 1, 0.1),
    (1, 1, 0.50, CORRECTED, 1, 0.2),
    (1, 1, 0.60, CORRECTED, 0, 0.3),  # right before, wrong now
    (1, 1, 1.90, CORRECTED, 1, 0.4),  # one of the two hard right ones, kept
    (1, 1, 1.80, HARD, 1, 0.6),  # the other, not used (but by a plain threshold)
    (0, 1, 2.00, CORRECTED, 1, 0.1),  # mended
    (0, 1, 2.10, HARD, 0, 0.0),
    (1, 0, 0.70, EASY, 1, 0.9),  # a wrong one among the easy
    (1, 2, 2.20, CORRECTED, 0, 0.2),  # wrong before and after
    (0, NO_CLASS, 3.00, EASY, 0, 0.9),
    (1, NO_CLASS, 3.10, CORRECTED, 0, 0.0),
]


def table_ledger(sorts: bool, early: bool = True, peers: int = 1) -> Ledger:
    columns: list[Column] = [*BASE_COLUMNS, *([EARLY] if early else [])]
    if sorts:
        columns += correction_columns(2)
    ledger = Ledger(columns, peers, len(TABLE), torch.device("cpu"))
    for place, name in ((2, EARLY.name), (3, STATE), (4, TARGET), (5, "clean")):
        if name in ledger:
            values = torch.tensor([line[place] for line in TABLE])
            ledger.set(name, 0, values)
    ledger.decisions["threshold"] = 0.5
    return ledger


def division() -> Division:
    given, true = (torch.tensor([line[place] for line in TABLE]) for place in (0, 1))
    return Division(given, Truth(true))


def test_division_of_a_method_that_sorts_by_hand() -> None:
    """Known and used: 8, of which 0, 1, 4, 6, 8 have their true label."""
    assert division()(table_ledger(sorts=True)) == pytest.approx(
        {
            "labelled_right": 5 / 8,
            "hard_clean_kept": 1 / 2,
            "wrong_mended": 1 / 4,
            "easy_right": 2 / 3,
            "corrected_right": 3 / 5,
            "corrected_count": 5.0,
        }
    )


def test_division_by_the_clean_probability_by_hand() -> None:
    """Trusted and known: 0, 1, 2, 7 and 10; a given label that is wrong is never mended."""
    assert division()(table_ledger(sorts=False)) == pytest.approx(
        {"labelled_right": 4 / 5, "hard_clean_kept": 1 / 2, "wrong_mended": 0.0}
    )


def test_division_before_the_first_sorting_is_by_the_clean_probability() -> None:
    ledger = table_ledger(sorts=True)
    ledger.set(STATE, 0, torch.zeros(len(TABLE), dtype=torch.uint8))
    found = division()(ledger)
    assert found["labelled_right"] == pytest.approx(4 / 5)
    assert found["corrected_count"] == 0.0
    assert "easy_right" not in found
    assert "corrected_right" not in found


def test_quarter_of_the_right_labels_with_the_largest_losses_is_a_quarter() -> None:
    for num in (4, 8, 40, 100):
        columns = [*BASE_COLUMNS, EARLY]
        ledger = Ledger(columns, 1, num, torch.device("cpu"))
        ledger.decisions["threshold"] = 0.5
        labels = torch.zeros(num, dtype=torch.int64)
        ledger.set(EARLY.name, 0, torch.rand(num, generator=torch.Generator().manual_seed(num)))
        largest = ledger[EARLY.name][0].argsort(descending=True)[: num // 4]
        clean = torch.zeros(num)
        clean[largest] = 1.0
        ledger.set("clean", 0, clean)
        assert Division(labels, Truth(labels))(ledger)["hard_clean_kept"] == 1.0, num
        clean[largest[0]] = 0.0
        ledger.set("clean", 0, clean)
        found = Division(labels, Truth(labels))(ledger)["hard_clean_kept"]
        assert found == pytest.approx(1 - 4 / num)


def test_division_asks_for_the_second_look_of_a_method_that_has_one() -> None:
    """TSCSI uses what is central and agreed on."""
    columns = [*BASE_COLUMNS, EARLY, Column(CONSISTENT)]
    ledger = Ledger(columns, 1, 4, torch.device("cpu"))
    ledger.decisions |= {"threshold": 0.3, CONSISTENT: 0.4}
    ledger.set("clean", 0, torch.tensor([0.9, 0.9, 0.9, 0.2]))
    ledger.set(CONSISTENT, 0, torch.tensor([0.4, 0.1, 0.8, 0.9]))
    labels, truth = torch.tensor([0, 0, 0, 0]), Truth(torch.tensor([0, 0, 1, 0]))
    assert Division(labels, truth)(ledger)["labelled_right"] == 0.5


def test_division_has_no_figures_without_truth_or_division() -> None:
    nothing = SimpleNamespace(truth=None, labelled=True)
    store = SimpleNamespace(labels=torch.tensor([line[0] for line in TABLE]))
    assert inspector(cast(Any, nothing), cast(Any, store))(table_ledger(sorts=True)) == {}
    assert division()(table_ledger(sorts=False, early=False)) == {}, "the method does not divide"
    ledger = table_ledger(sorts=True)
    ledger.decisions.clear()
    assert division()(ledger) == {}, "the warm-up is not over"
    unknown = Truth(torch.full((len(TABLE),), NO_CLASS))
    figures = Division(torch.zeros(len(TABLE), dtype=torch.int64), unknown)(
        table_ledger(sorts=True)
    )
    assert figures == {"corrected_count": 0.0}


def test_shares_of_nothing_are_no_figures() -> None:
    """All labels are right: there is no wrong one to mend."""
    given = torch.tensor([line[0] for line in TABLE])
    found = Division(given, Truth(given))(table_ledger(sorts=False))
    assert "wrong_mended" not in found
    assert found["labelled_right"] == 1.0


@pytest.mark.parametrize("method", ["hallucination", "dividemix"])
def test_figures_of_the_truth_are_in_every_epoch_after_the_warmup(
    tmp_path: Path, method: str
) -> None:
    truth = torch.arange(60) % 3
    inspect = Division(DATA.labels, Truth(truth))
    if method == "dividemix":
        trainer = build_trainer(
            DATA,
            DivideMix(),
            tmp_path,
            networks=[smooth_network(DATA, number) for number in (0, 1)],
        )
        trainer.inspect = inspect
        trainer.train()
        rows = trainer.journal.rows()
    else:
        trainer, rows = trained(tmp_path, inspect=inspect)
    assert "labelled_right" not in rows[0]
    for row in rows[1:]:
        for name in ("labelled_right", "hard_clean_kept", "wrong_mended"):
            assert 0 <= row[name] <= 1
        assert ("corrected_count" in row) == (method == "hallucination")
    ledger, last = trainer.ledger, rows[-1]
    if method == "dividemix":
        used, target = ledger["clean"][0] > ledger.decisions["threshold"], DATA.labels
    else:
        used, target = ledger[STATE][0] != HARD, ledger[TARGET][0]
        corrected = ledger[STATE][0] == CORRECTED
        assert last["corrected_count"] == int(corrected.sum())
        right = (target == truth)[corrected].double().mean()
        assert last["corrected_right"] == pytest.approx(float(right))
    rightly = [int(target[row]) == int(truth[row]) for row in range(60) if used[row]]
    assert last["labelled_right"] == pytest.approx(sum(rightly) / len(rightly))
    wrong = [row for row in range(60) if DATA.labels[row] != truth[row]]
    mended = [bool(used[row]) and bool(target[row] == truth[row]) for row in wrong]
    assert last["wrong_mended"] == pytest.approx(sum(mended) / len(wrong))


def test_runs_of_the_command_have_these_figures(tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 80, "epochs": 2, "noise": "symmetric:0.3", "threads": 1}
    labelwise.fit("digits", method="dividemix", out=tmp_path / "run", **options)
    row = rows_without_times(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"labelled_right", "hard_clean_kept", "wrong_mended"} <= row.keys()
    assert "easy_right" not in row
