"""Chains: the names and settings of pre-training, and which part an epoch belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labelwise.binding import bind, every_setting, resolve
from labelwise.config import RunConfig
from labelwise.data.ledger import Column
from labelwise.errors import UserError
from labelwise.experiment import extra_bytes, predict_memory
from labelwise.methods import known_methods
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.dividemix import DivideMix
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
from labelwise.pretraining.simclr import SimCLR
from labelwise.training.chain import Chain
from labelwise.training.method import Problem
from support import ExtraView, tiny_embeddings, tiny_images, usual_network

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
    assert set(run.heads(8, 3)) == {"projection"}
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
        extras = extra_bytes(run, network, seed=0)
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        assert sizes[name]["networks"] == 2 * weights + extras
        assert (extras > weights / 2) == (name == "moco")
    assert sizes["simclr"]["networks"] > sizes["none"]["networks"]
    assert sizes["simclr"]["training"] > sizes["none"]["training"]
    assert sizes["moco"]["checkpoint"] > sizes["simclr"]["checkpoint"]


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
