"""Chains: the names and settings of pre-training, and which part an epoch belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from labelwise.audit.stages import FIGURES
from labelwise.binding import bind, every_setting, resolve, start_notes
from labelwise.config import RunConfig
from labelwise.data.ledger import Column
from labelwise.errors import UserError
from labelwise.experiment import extra_bytes, made_extras, predict_memory
from labelwise.methods import known_methods
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.dividemix import DivideMix
from labelwise.methods.scanmix import ScanMix
from labelwise.models.heads import HeadSpec
from labelwise.outputs import citations, stage_figures
from labelwise.pretraining import (
    chosen_names,
    fitting_settings,
    is_pretraining,
    known_pretraining,
    parse_names,
    require_fitting,
    require_method,
    split_settings,
    with_pretraining,
)
from labelwise.pretraining.scan import SCAN
from labelwise.pretraining.simclr import SimCLR
from labelwise.training.chain import Chain
from labelwise.training.figures import REPRESENTATION, SHORT
from labelwise.training.loop import Interrupted
from labelwise.training.method import Phase, Problem
from labelwise.training.steps import Supervised
from support import ExtraView, build_trainer, tiny_embeddings, tiny_images, usual_network

PROBLEM = Problem(64, 3, "images", (1, 8, 8))
MAIN = {"epochs": 4, "warmup": 1}


def chain(*parts: Any, **schedule: Any) -> Chain:
    bound = Chain(*parts).bind(PROBLEM, {**MAIN, **schedule})
    assert isinstance(bound, Chain)
    return bound


def test_no_name_is_a_method_and_pre_training() -> None:
    assert not set(known_methods()) & set(known_pretraining())
    assert {"simclr", "moco", "scan"} <= set(known_pretraining())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("", ()),
        ("simclr", ("simclr",)),
        (" simclr + scan ", ("simclr", "scan")),
        ("scan+simclr", ("scan", "simclr")),
    ],
)
def test_names_are_read(text: str, names: tuple[str, ...]) -> None:
    assert parse_names(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simlcr", "Did you mean 'simclr'"),
        ("simclr+", "unknown pre-training ''"),
        ("simclr+simclr", "simclr is there twice"),
        ("none+simclr", "unknown pre-training 'none'"),
        ("dividemix", "unknown pre-training 'dividemix'"),
    ],
)
def test_wrong_names_are_explained(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        parse_names(text)


@pytest.mark.parametrize(
    ("wanted", "given", "done", "chosen"),
    [
        ((), None, (), ()),
        ((), ("simclr",), (), ("simclr",)),
        (("simclr", "scan"), None, (), ("simclr", "scan")),
        (("simclr", "scan"), (), (), ()),
        (("simclr", "scan"), ("moco",), (), ("moco", "scan")),
        (("simclr", "scan"), ("scan",), (), ("simclr", "scan")),
        (("simclr", "scan"), None, ("moco",), ("scan",)),
        (("simclr", "scan"), None, ("simclr", "scan"), ()),
        (("simclr", "scan"), ("scan",), ("simclr",), ("scan",)),
        (("simclr", "scan"), ("moco",), ("simclr", "scan"), ("moco",)),
        ((), ("scan", "moco"), (), ("moco", "scan")),
    ],
)
def test_what_the_user_asks_for_takes_the_place_of_what_the_method_wants(
    wanted: tuple[str, ...],
    given: tuple[str, ...] | None,
    done: tuple[str, ...],
    chosen: tuple[str, ...],
) -> None:
    assert chosen_names(wanted, given, done) == chosen
    # What a run resolved to means the same run when it is asked for.
    assert chosen_names(wanted, chosen, done) == chosen


def test_settings_go_to_their_parts() -> None:
    settings = {"lambda_u": 25, "simclr.epochs": 3, "dividemix.alpha": 2.0, "scan.lr": 0.1}
    own, parts = split_settings(settings)
    assert own == {"lambda_u": 25, "dividemix.alpha": 2.0}
    assert parts == {"simclr": {"epochs": 3}, "scan": {"lr": 0.1}}
    with pytest.raises(UserError, match="Did you mean 'epochs'"):
        split_settings({"simclr.epoch": 3})
    with pytest.raises(UserError, match=r"simclr: epochs = 0 is not valid"):
        split_settings({"simclr.epochs": 0})
    with pytest.raises(UserError, match=r"scan.*Add --pretrain simclr\+scan"):
        with_pretraining(CrossEntropy(), ("simclr",), {"scan": {"epochs": 3}})


def test_a_recipe_s_settings_of_what_is_replaced_are_left_out() -> None:
    recipe = {"simclr.epochs": 500, "scan.epochs": 50, "lambda_u": 25, "scanmix.alpha": 4}
    rest = {"lambda_u": 25, "scanmix.alpha": 4}
    assert fitting_settings(recipe, None) == recipe
    assert fitting_settings(recipe, ("moco",)) == {"scan.epochs": 50, **rest}
    assert fitting_settings(recipe, ("simclr",)) == recipe
    assert fitting_settings(recipe, ()) == rest
    assert fitting_settings(recipe, None, ("moco", "scan")) == rest
    assert fitting_settings(recipe, ("scan",), ("simclr", "scan")) == {"scan.epochs": 50, **rest}


def test_pre_training_is_told_from_methods() -> None:
    assert is_pretraining("simclr")
    assert is_pretraining("moco+scan")
    assert not is_pretraining("simclr+ce")
    assert not is_pretraining("coteaching+")
    require_method("coteaching+")
    with pytest.raises(UserError, match=r"--pretrain simclr --method coteaching\+\."):
        require_method("simclr+coteaching+")


def test_what_the_data_do_not_allow_is_refused() -> None:
    require_fitting(("simclr", "scan"), "images", from_features=False)
    require_fitting(("scan",), "images", from_features=True)
    require_fitting(("scan",), "embeddings", from_features=False)
    with pytest.raises(UserError, match=r"simclr needs images.*features already.*scan or none"):
        require_fitting(("simclr",), "embeddings", from_features=True)
    with pytest.raises(UserError, match="there are none yet"):
        require_fitting(("scan",), "images", from_features=False)


def test_epochs_are_counted_over_the_parts() -> None:
    run = chain(SimCLR(epochs=2), CrossEntropy())
    assert run.num_epochs == 6
    seen = [(part.name, own) for part, own in map(run.part_at, range(6))]
    assert seen == [("simclr", 0), ("simclr", 1), *(("ce", epoch) for epoch in range(4))]
    assert run.schedule == run.main.schedule
    assert run.schedule.epochs == 4
    assert [phase.name for phase in run.phases(1)] == ["contrast", "share"]
    assert [phase.name for phase in run.phases(2)] == ["train"]


def test_a_chain_shows_its_main_method_and_adds_up_its_parts() -> None:
    run = chain(SimCLR(batch_size=32), DivideMix(), batch_size=16)
    assert run.spec == "dividemix"
    assert run.num_peers == 2
    assert run.rows_per_step == max(32 * 2, 16 * run.main.rows_per_sample)
    assert run.columns() == run.main.columns()
    assert set(run.heads(HeadSpec(8, 3, (3, 8, 8)))) == {"projection"}
    assert citations(run) == (SimCLR.citation, DivideMix.citation)
    wrapped = chain(SimCLR(), ExtraView(CrossEntropy()))
    assert citations(wrapped) == (SimCLR.citation, "none", CrossEntropy.citation)


def test_a_column_of_two_parts_is_made_once_and_must_be_the_same() -> None:
    class One(CrossEntropy):
        def columns(self) -> tuple[Column, ...]:
            return (Column("mine"),)

    class Other(One):
        def columns(self) -> tuple[Column, ...]:
            return (Column("mine", torch.int64),)

    assert Chain(One(), One()).columns() == (Column("mine"),)
    with pytest.raises(AssertionError, match="'mine' differently"):
        Chain(One(), Other()).columns()
    with pytest.raises(AssertionError, match="chain in a chain"):
        Chain(Chain(One()), One())


def config(**changes: Any) -> RunConfig:
    return RunConfig.parse({"data": "digits", "schedule": MAIN, **changes}, "the run")


@pytest.mark.parametrize("method", ["ce", "scanmix"])
def test_a_resolved_configuration_gives_the_same_run(method: str) -> None:
    data = tiny_images()
    first = config(method=method, pretrain="moco", settings={"moco.epochs": 2})
    run = bind(first, data)
    resolved = resolve(first, data, run)
    again = bind(resolved, data, resolved=True)
    assert resolve(resolved, data, again) == resolved
    assert resolved.pretrain == {"ce": "moco", "scanmix": "moco+scan"}[method]
    assert resolved.settings["moco.epochs"] == 2
    assert every_setting(again) == every_setting(run)
    assert again.num_epochs == run.num_epochs
    assert bind(resolved, data).num_epochs == run.num_epochs


@pytest.mark.parametrize("name", ["num_neighbours", "entropy_weight"])
def test_what_the_method_hands_to_its_pre_training_is_set_at_the_method(name: str) -> None:
    """SCAN mines the neighbours that ScanMix goes on with: both mean as many."""
    data = tiny_images()
    message = rf"scan\.{name} = 10.*scanmix gives its scan.*: set scanmix\.{name} to 10.* instead"
    with pytest.raises(UserError, match=message):
        bind(config(method="scanmix", settings={f"scan.{name}": 10}), data)
    with pytest.raises(UserError, match=message):
        bind(config(method="scanmix", settings={f"scan.{name}": 10, f"scanmix.{name}": 9}), data)
    both = {f"scan.{name}": 10, f"scanmix.{name}": 10}
    for settings in (both, {f"scanmix.{name}": 10}):
        run = bind(config(method="scanmix", settings=settings), data)
        assert every_setting(run) == every_setting(run) | both
    free = bind(config(method="scanmix", settings={"scan.epochs": 3}), data)
    assert isinstance(free, Chain)
    assert free.parts[1].schedule.epochs == 3


def test_what_a_method_fixes_is_found_through_wrappers_and_without_a_name_of_its_own() -> None:
    class Warm(CrossEntropy):
        def pretraining(self, problem: Problem) -> dict[str, dict[str, Any]]:
            return {"simclr": {"temperature": 0.5}}

    data = tiny_images()
    asked = config(settings={"scan.num_neighbours": 10})
    with pytest.raises(UserError, match=r"set scanmix\.num_neighbours to 10"):
        bind(asked, data, ExtraView(ScanMix()))
    asked = config(settings={"simclr.temperature": 0.1})
    with pytest.raises(UserError, match=r"simclr 0\.5: leave simclr\.temperature away"):
        bind(asked, data, Warm())
    bind(config(settings={"simclr.temperature": 0.5}), data, Warm())


def test_a_method_that_trains_nothing_needs_its_pre_training() -> None:
    data = tiny_images()
    for inputs, missing in ((data, "clusters and features"), (tiny_embeddings(), "clusters")):
        with pytest.raises(UserError, match=f"clusters needs {missing} and trains nothing itself"):
            bind(config(method="clusters", pretrain="none"), inputs)
    schedule = {"epochs": 1, "warmup": 0}
    assert bind(config(method="clusters", schedule=schedule), data).num_epochs > 1


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"method": "c2d"}, "c2d: warm-up on the frozen features of an untrained network"),
        ({"method": "scanmix"}, "scanmix: warm-up on the frozen features of an untrained network"),
        ({"method": "c2d", "settings": {"frozen_warmup": False}}, "c2d goes without"),
        ({"method": "c2d", "pretrain": "moco"}, None),
        ({"method": "c2d", "pretrain": None}, None),
        ({"method": "dividemix"}, None),
        ({"method": "simclr", "pretrain": "simclr"}, None),
    ],
)
def test_what_goes_without_its_pre_training_is_told(
    options: dict[str, Any], note: str | None
) -> None:
    data = tiny_images()
    asked = config(**{"pretrain": "none", **options})
    run = bind(asked, data)
    notes = start_notes(resolve(asked, data, run), data, run)
    assert len(notes) == (note is not None)
    assert all(said.startswith(note) for said in notes if note is not None)


@pytest.mark.parametrize("name", ["simclr", "moco"])
def test_a_contrastive_batch_larger_than_the_data_is_cut_and_told(name: str) -> None:
    data = tiny_images()
    asked = config(method="ce", pretrain=name, settings={f"{name}.batch_size": 5000})
    run = bind(asked, data)
    assert isinstance(run, Chain)
    whole = bind(config(method="ce", pretrain=name, settings={f"{name}.batch_size": 64}), data)
    assert isinstance(whole, Chain)
    assert run.parts[0].schedule == whole.parts[0].schedule
    assert run.parts[0].schedule.batch_size == 64
    assert every_setting(run) == every_setting(whole)
    (note,) = start_notes(resolve(asked, data, run), data, run)
    assert note.startswith(
        f"{name}: a batch of 5,000 is more than all 64 samples; it was cut to 64"
    )
    assert start_notes(resolve(asked, data, whole), data, whole) == []
    resolved = resolve(asked, data, run)
    again = bind(resolved, data, resolved=True)
    assert resolve(resolved, data, again) == resolved


def test_batches_larger_than_the_data_are_told_once_a_phase(tmp_path: Path) -> None:
    data = tiny_embeddings(num=40)
    parts = Chain(SCAN(epochs=2, batch_size=500, num_heads=0), CrossEntropy())
    trainer = build_trainer(data, parts, tmp_path, schedule={"batch_size": 41})
    trainer.train()
    told = [
        [note for note in row["notes"] if "a batch of" in note] for row in trainer.journal.rows()
    ]
    assert told == [
        ["scan, phase cluster: a batch of 500 is more than all 40 samples; it was cut to 40"],
        [],
        ["ce, phase train: a batch of 41 is more than all 40 samples; it was cut to 40"],
        [],
        [],
    ]
    (tmp_path / "fits").mkdir()
    fits = build_trainer(data, CrossEntropy(), tmp_path / "fits", schedule={"batch_size": 40})
    fits.train()
    assert not any(row["notes"] for row in fits.journal.rows())


class TwoRates(CrossEntropy):
    """A phase with the schedule's learning rate, and two with their own."""

    def phases(self, epoch: int) -> list[Phase]:
        """The last one's is the schedule's in the first half, by chance."""
        own = [Phase(f"own-{n}", Supervised(), trains=(0,), lr=0.001 * (n + 1)) for n in range(2)]
        return [*super().phases(epoch), *own]


def test_learning_rates_of_phases_are_in_the_log(tmp_path: Path) -> None:
    schedule = {"epochs": 4, "lr": 0.002, "decay": "step", "decay_at": 0.5}
    stops = iter([False] * 12 + [True] + [False] * 1000)
    for stop in (lambda: next(stops), lambda: False):
        run = build_trainer(
            tiny_images(num=40), TwoRates(), tmp_path, schedule=schedule, should_stop=stop
        )
        run.resume()
        try:
            run.train()
        except Interrupted:
            continue
    rows = run.journal.rows()
    assert [row["lr"] for row in rows] == pytest.approx([0.002, 0.002, 0.0002, 0.0002])
    assert all("lr_train" not in row and row["lr_own-0"] == 0.001 for row in rows)
    assert [row.get("lr_own-1") for row in rows] == [None, None, 0.002, 0.002]


def test_what_a_run_resolved_to_is_not_added_to() -> None:
    """A run that skipped SimCLR because of --init goes on without it, the folder gone or not."""
    resolved = config(method="scanmix", pretrain="scan", init="/gone", settings={})
    run = bind(resolved, tiny_images(), resolved=True)
    assert isinstance(run, Chain)
    assert [part.name for part in run.parts] == ["scan", "scanmix"]


def test_embeddings_take_only_what_works_on_them() -> None:
    with pytest.raises(UserError, match="simclr needs images"):
        bind(config(method="ce", pretrain="simclr"), tiny_embeddings())
    assert bind(config(method="ce", pretrain="none"), tiny_embeddings()).num_epochs == 4


def test_memory_counts_the_largest_part_and_the_modules_beside_the_networks() -> None:
    data = tiny_images()
    sizes = {}
    for name in ("none", "simclr", "moco"):
        run_config = config(method="ce", pretrain=name, model="small_resnet")
        run = bind(run_config, data)
        network = usual_network(data, run, 0)
        before = torch.random.get_rng_state()
        sizes[name] = predict_memory(resolve(run_config, data, run), data, run, network)
        assert torch.equal(torch.random.get_rng_state(), before)
        extras = extra_bytes(made_extras(run, network, seed=0))
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        assert sizes[name]["networks"] == 2 * weights + extras
        assert (extras > weights / 2) == (name == "moco")
    assert sizes["simclr"]["networks"] > sizes["none"]["networks"]
    assert sizes["simclr"]["training"] > sizes["none"]["training"]
    assert sizes["moco"]["checkpoint"] > sizes["simclr"]["checkpoint"]


def features_part(data: Any, **options: Any) -> tuple[int, int]:
    """Predicted bytes of the features, and those of one copy of them."""
    asked = config(model="small_resnet" if data.kind == "images" else "mlp", **options)
    run = bind(asked, data)
    network = usual_network(data, run, 0)
    width = network.get_submodule("backbone").num_features
    assert isinstance(width, int)
    parts = predict_memory(resolve(asked, data, run), data, run, network)
    return parts["features"], len(data) * width * 4


def test_memory_counts_the_features_of_all_samples_where_they_are_held() -> None:
    data = tiny_images()
    for options in (
        {"method": "scanmix"},
        {"method": "ce", "pretrain": "simclr+scan"},
        {"method": "simclr", "pretrain": "simclr"},
        {"method": "simclr+scan", "pretrain": "simclr+scan"},
    ):
        found, copy = features_part(data, **options)
        assert found == 2 * copy
    found, copy = features_part(data, method="scanmix", devices=2)
    assert found == 3 * copy
    # A method that keeps those of every network, and searches among one network's.
    held_copies = {"hallucination": 2, "tscsi": 3}
    for method, copies in held_copies.items():
        found, copy = features_part(data, method=method)
        assert found == copies * copy
    found, copy = features_part(tiny_embeddings(), method="clusters", schedule={})
    assert found == 2 * copy
    for name in ("none", "simclr"):
        assert features_part(data, method="dividemix", pretrain=name)[0] == 0


def test_every_figure_of_features_and_clusters_has_a_name_for_people() -> None:
    assert set(FIGURES) == {*REPRESENTATION, "test_accuracy"}
    assert {"clusters_used", "knn_agreement"} <= set(REPRESENTATION)
    assert set(SHORT) <= set(FIGURES)


def test_stages_are_read_from_the_epochs() -> None:
    def row(stage: str | None, **figures: float) -> dict[str, Any]:
        own = {} if stage is None else {"stage": stage}
        return {**own, **figures, "phase_seconds": {"a": 0.5, "evaluate": 0.25}}

    rows = [
        row("simclr", knn_accuracy=0.5, neighbour_purity=0.4),
        row("simclr", knn_accuracy=0.9),
        row("ce", test_accuracy=0.7),
    ]
    assert stage_figures(rows)["stages"] == [
        {
            "name": "simclr",
            "epochs": 2,
            "seconds": 1.5,
            "knn_accuracy": 0.9,
            "neighbour_purity": 0.4,
        },
        {"name": "ce", "epochs": 1, "seconds": 0.75},
    ]
    assert stage_figures([row(None, test_accuracy=0.7)]) == {}
