"""What SANM does to a host's epochs: which steps it masks, where it scores, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import labelwise
from labelwise.errors import UserError
from labelwise.methods import all_settings, parse_method
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.dividemix import DivideMix
from labelwise.methods.sanm import SANM, SCORINGS
from labelwise.models.heads import RECONSTRUCTION, HeadSpec
from labelwise.pretraining import known_pretraining
from labelwise.training.chain import Chain
from labelwise.training.masked import MaskedStep
from labelwise.training.method import Method, Phase, Step
from labelwise.training.scoring import FitMixture, Score
from support import bound, tiny_embeddings, tiny_images

DATA = tiny_images(num=48)
SCHEDULE = {"epochs": 9, "warmup": 2, "batch_size": 16}
NO_MIXTURE = ("ce", "mixup", "quick", "coteaching", "coteaching+")
WITH_MIXTURE = ("dividemix", "c2d", "scanmix")


def sanm(host: str, schedule: dict[str, int] | None = None, **settings: Any) -> Method:
    named = {f"sanm.{name}": value for name, value in settings.items()}
    return bound(parse_method(f"sanm+{host}", named), DATA, **(schedule or SCHEDULE))


def host(name: str) -> Method:
    return bound(parse_method(name), DATA, **SCHEDULE)


def names(phases: list[Phase]) -> list[str]:
    return [phase.name for phase in phases]


def steps(method: Method) -> list[tuple[int, Phase]]:
    """Every phase of a run that trains, with its epoch."""
    every = range(method.schedule.epochs)
    return [(e, p) for e in every for p in method.phases(e) if isinstance(p.step, Step)]


def test_every_step_that_classifies_is_masked_and_phases_stay_as_they_were() -> None:
    for name in (*NO_MIXTURE, *WITH_MIXTURE):
        wrapped, plain = steps(sanm(name)), steps(host(name))
        assert len(wrapped) == len(plain)
        for (_, ours), (_, theirs) in zip(wrapped, plain, strict=True):
            assert isinstance(theirs.step, Step)
            assert isinstance(ours.step, MaskedStep) == theirs.step.classifies
            if isinstance(ours.step, MaskedStep):
                assert ours.step.inner == theirs.step
                assert ours.step.observes == theirs.step.observes
            else:
                assert ours.step == theirs.step
            for part in ("name", "trains", "sampling", "judge", "lr", "frozen", "clip", "warmup"):
                assert getattr(ours, part) == getattr(theirs, part), part


def test_clustering_of_scanmix_is_left_alone() -> None:
    """Its targets are clusters, which say nothing of the given label."""
    method = bound(
        parse_method("sanm+scanmix", {"scanmix.mild_cluster_lr": 1e-3}), DATA, **SCHEDULE
    )
    left = {p.name for _, p in steps(method) if not isinstance(p.step, MaskedStep)}
    assert left == {p.name for _, p in steps(method) if p.name.startswith("cluster")} != set()


@pytest.mark.parametrize("name", sorted(known_pretraining()))
def test_pre_training_is_left_alone(name: str) -> None:
    before = known_pretraining()[name]()
    chain = Chain(before, parse_method("sanm+dividemix"))
    bound(before, DATA, epochs=2)
    bound(chain.main, DATA, **SCHEDULE)
    for epoch in range(before.schedule.epochs):
        part, own = chain.part_at(epoch)
        assert part is before
        assert not any(isinstance(phase.step, MaskedStep) for phase in part.phases(own))
    wrapped = sanm("ce")
    for _, phase in steps(before):
        assert isinstance(phase.step, Step)
        assert wrapped.wrap(phase.step) is phase.step  # type: ignore[attr-defined]


# -- scoring ----------------------------------------------------------------------------------


def scored(method: Method) -> list[int]:
    """Epochs that begin with the wrapper's own scoring."""
    found = []
    for epoch in range(method.schedule.epochs):
        phases = method.phases(epoch)
        assert len(set(names(phases))) == len(phases), "a name stands for a random position"
        if "score-masks" in names(phases):
            assert names(phases)[:2] == ["score-masks", "mixture-masks"]
            assert isinstance(phases[0].step, Score)
            assert isinstance(phases[1].step, FitMixture)
            found.append(epoch)
    return found


@pytest.mark.parametrize("name", NO_MIXTURE)
def test_hosts_without_a_mixture_are_scored_after_the_warmup(name: str) -> None:
    """Where the host fits a mixture itself it is not done twice (Co-teaching's first)."""
    method = sanm(name)
    wanted = set(range(2, 9)) - ({2} if name.startswith("coteaching") else set())
    assert set(scored(method)) == wanted
    for epoch in range(2, 9):
        mixtures = [p for p in method.phases(epoch) if isinstance(p.step, FitMixture)]
        assert len(mixtures) == 1


@pytest.mark.parametrize("name", WITH_MIXTURE)
def test_hosts_with_a_mixture_are_not_scored_again(name: str) -> None:
    assert scored(sanm(name)) == []


@pytest.mark.parametrize("ratio", ["random", "fixed"])
def test_no_scoring_where_the_ratio_does_not_ask_for_it(ratio: str) -> None:
    assert scored(sanm("ce", ratio=ratio)) == []


def test_no_scoring_where_nothing_asks_for_the_clean_probability() -> None:
    """Copies that are neither covered nor softened are alike for right and wrong labels."""
    assert scored(sanm("ce", amg=False, nlr=False)) == []
    assert scored(sanm("ce", amg=False)) == scored(sanm("ce", nlr=False)) == [*range(2, 9)]


def test_scoring_comes_some_thirty_times_or_as_often_as_asked() -> None:
    long = {"epochs": 300, "warmup": 10, "batch_size": 16}
    found = scored(sanm("ce", long))
    assert found[0] == 10
    assert set(torch.tensor(found).diff().tolist()) == {300 // SCORINGS}
    assert SCORINGS - 2 <= len(found) <= SCORINGS
    assert scored(sanm("ce", score_every=3)) == [2, 5, 8]
    assert scored(sanm("ce", {"epochs": 31, "warmup": 0, "batch_size": 16})) == [*range(1, 31, 2)]


def test_scoring_waits_for_a_network_that_has_learnt() -> None:
    """In a run of one epoch nothing has: an untrained network's losses tell nothing."""
    assert scored(sanm("ce", {"epochs": 1, "warmup": 0, "batch_size": 16})) == []
    assert scored(sanm("ce", {"epochs": 2, "warmup": 5, "batch_size": 16})) == [1]


# -- the warm-up ------------------------------------------------------------------------------


def test_warmup_can_stay_as_the_host_has_it() -> None:
    usual, plain = sanm("dividemix"), sanm("dividemix", mask_warmup=False)
    for epoch in range(9):
        for phase, unmasked in zip(usual.phases(epoch), plain.phases(epoch), strict=True):
            if phase.warmup:
                assert isinstance(phase.step, MaskedStep)
                assert unmasked.step == phase.step.inner
            else:
                assert unmasked == phase
    assert any(phase.warmup for phase in usual.phases(0))


def test_warmup_clip_bounds_the_warmup_alone() -> None:
    method = sanm("dividemix", warmup_clip=1.0)
    for _, phase in steps(method):
        assert phase.clip == (1.0 if phase.warmup else None)
    assert {phase.warmup for _, phase in steps(method)} == {True, False}
    assert all(phase.clip is None for _, phase in steps(sanm("dividemix")))


# -- what is refused --------------------------------------------------------------------------


def test_masking_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"masks twice.*write 'sanm\+ce'"):
        parse_method("sanm+sanm+ce")


def test_alone_it_is_no_method() -> None:
    with pytest.raises(UserError, match=r"'sanm' wraps another method"):
        parse_method("sanm")


@pytest.mark.parametrize("name", ["ce", "scanmix"])
def test_embeddings_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"'sanm\+{name}' needs images, but the data are embed"):
        bound(parse_method(f"sanm+{name}"), tiny_embeddings())


@pytest.mark.parametrize("setting", ["guess_view", "learn_view"])
def test_views_that_there_are_not_are_refused_before_the_run(setting: str) -> None:
    with pytest.raises(UserError, match=r"'strnog'.*Did you mean 'strong'"):
        sanm("ce", **{setting: "strnog"})
    assert getattr(sanm("ce", **{setting: "strong"}).settings, setting) == "strong"


def test_unknown_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"'basic_rato'.*Did you mean 'basic_ratio'"):
        parse_method("sanm+ce", {"sanm.basic_rato": 0.1})
    with pytest.raises(UserError, match=r"'reconstruction_wait'.*'reconstruction_weight'"):
        parse_method("sanm+ce", {"reconstruction_wait": 0.1})
    with pytest.raises(UserError, match=r"'snam'.*Did you mean 'sanm'"):
        parse_method("sanm+ce", {"snam.ratio": "fixed"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("basic_ratio", -0.1),
        ("basic_ratio", 0.95),
        ("reference_side", 0),
        ("place", "coarse"),
        ("spot", "auto"),
        ("ratio_gain", -1),
        ("ratio", "adaptiv"),
        ("anchor", "middle"),
        ("boxes", "all"),
        ("elongation", 0.5),
        ("reconstruction_weight", -1),
        ("num_learn_views", 0),
        ("warmup_clip", 0),
        ("score_every", 0),
        ("fill", float("nan")),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"sanm: {name} = .* is not valid"):
        parse_method("sanm+ce", {f"sanm.{name}": value})


def test_bare_settings_of_both_parts_find_their_owner() -> None:
    given = {"lambda_u": 3.0, "basic_ratio": 0.1, "alpha": 2.0, "nlr": False}
    settings = all_settings(parse_method("sanm+dividemix", given))
    assert settings["dividemix.lambda_u"] == 3.0
    assert settings["dividemix.alpha"] == 2.0
    assert settings["sanm.basic_ratio"] == 0.1
    assert settings["sanm.nlr"] is False


def test_only_a_method_can_be_wrapped() -> None:
    for base in ("dividemix", DivideMix):
        with pytest.raises(UserError, match=r"sanm wraps a method object.*SANM\(DivideMix\(\)\)"):
            SANM(base)  # type: ignore[arg-type]


def test_a_host_that_trains_nothing_gets_no_decoder_and_no_pictures() -> None:
    method = parse_method("sanm+clusters")
    spec = HeadSpec(8, 3, (3, 8, 8))
    assert RECONSTRUCTION not in method.heads(spec)
    assert method.shows_masks() is None
    assert RECONSTRUCTION in parse_method("sanm+ce").heads(spec)


class Mine(CrossEntropy):
    """A method of the caller's own."""

    name = "mine"


def test_a_method_of_ones_own_is_masked_and_predicts(tmp_path: Path) -> None:
    data = tiny_images(num=48)
    inputs, labels = data.inputs.numpy(), data.labels.numpy()
    result = labelwise.fit(
        inputs, labels, method=SANM(Mine()), epochs=2, plant=0, out=tmp_path / "run"
    )
    assert (tmp_path / "run" / "report.html").exists()
    assert len(result.predict(inputs)) == len(inputs)
    probability = result.predict_proba(inputs)
    assert np.allclose(probability.sum(1), 1, atol=1e-5)
