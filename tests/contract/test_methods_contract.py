"""What every method must do, whoever wrote it: methods and models are found, not listed."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from labelwise.config import Schedule
from labelwise.data.dataset import Dataset
from labelwise.discovery import discover
from labelwise.errors import UserError
from labelwise.methods import all_settings, known_methods, parse_method
from labelwise.models.build import NetworkSpec, build_backbone, build_network
from labelwise.models.network import Backbone, Network
from labelwise.rng import Draw
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.loop import Trainer
from labelwise.training.method import Method, Pass, Phase, Problem, Step, Wrapper
from labelwise.training.trace import HITS, PROBABILITY, SEEN, trace_columns
from support import (
    ExtraView,
    assert_same_tensors,
    bound,
    build_trainer,
    rows_without_times,
    tiny_embeddings,
    tiny_images,
    weights_of,
)

DATA = {"images": tiny_images(num=48), "embeddings": tiny_embeddings(num=48)}
SCHEDULE = {"epochs": 3, "warmup": 1, "batch_size": 16}
WITHIN = ("ce", "dividemix")  # hosts of a wrapper within the test's own
# Phases that the noise may switch off are to run here.
SETTINGS = {"scanmix": {"scanmix.mild_cluster_lr": 1e-3}}


def specs() -> list[str]:
    """Every method, every wrapper around every method, and the test's wrapper around them."""
    known = known_methods()
    plain = [name for name, kind in known.items() if not issubclass(kind, Wrapper)]
    wrappers = [name for name, kind in known.items() if issubclass(kind, Wrapper)]
    wrapped = [f"{name}+{host}" for name in wrappers for host in plain]
    twice = [f"{name}+{host}" for name in wrappers for host in WITHIN]
    return [*plain, *wrapped, *(f"extra-view+{spec}" for spec in [*plain, *twice])]


def build(spec: str) -> Method:
    """A method by its name, which may start with the test's own wrapper."""
    name, _, rest = spec.partition("+")
    if name == ExtraView.name:
        return ExtraView(build(rest))
    return parse_method(spec, SETTINGS.get(spec.split("+")[-1]))


def learns(spec: str) -> bool:
    """Whether a method trains anything by itself."""
    method = build(spec)
    while isinstance(method, Wrapper):
        method = method.base
    return method.learns


def learners(method: Method) -> set[int]:
    """The networks that a method must train."""
    while isinstance(method, Wrapper):
        method = method.base
    return set(range(method.num_peers)) if method.learns else set()


def kinds_of(method: Method) -> set[str]:
    """The kinds of data that all parts of a method work on."""
    own = set(method.kinds)
    return own & kinds_of(method.base) if isinstance(method, Wrapper) else own


SPECS = specs()
RUNS = [(spec, kind) for spec in SPECS for kind in DATA if kind in kinds_of(build(spec))]
every_spec = pytest.mark.parametrize("spec", SPECS)
every_run = pytest.mark.parametrize(("spec", "kind"), RUNS)
every_class = pytest.mark.parametrize("name", sorted(known_methods()))


# -- what a run does, checked from inside of it -----------------------------------------------


@dataclass
class Seen:
    """What happened in a run."""

    groups: int = 0
    views: Counter[int] = field(default_factory=Counter)
    terms: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unreached: dict[int, set[str]] = field(default_factory=dict)
    rows: int = 0
    phases: list[list[Phase]] = field(default_factory=list)


@dataclass(frozen=True)
class CheckedStep(Step):
    """A step whose views and terms are inspected."""

    inner: Step
    seen: Seen = field(compare=False)

    def views(self, context: Context, groups: Groups) -> Groups:
        """Check that targets are distributions without gradient and inputs fit."""
        before = {side: len(group.views) for side, group in groups.items()}
        made = self.inner.views(context, groups)
        if before.keys() != made.keys():
            self.seen.problems.append(f"sides {set(before)} became {set(made)}")
        for side, group in made.items():
            self.seen.groups += 1
            self.seen.views[len(group.views)] += 1
            for inputs, target in group.views:
                sums = target.sum(1)
                bad = {
                    "input shape": inputs.shape != group.anchor.shape,
                    "input dtype": not inputs.dtype.is_floating_point,
                    "gradient": inputs.requires_grad or target.requires_grad,
                    "target shape": target.shape != (len(group.index), context.num_classes),
                    "negative target": bool((target < 0).any()),
                    "target sum": not torch.allclose(sums, torch.ones_like(sums), atol=1e-5),
                    "input range": not bool(inputs.isfinite().all()),
                }
                self.seen.problems += [f"{side}: {name}" for name, wrong in bad.items() if wrong]
        return made

    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Check that the terms are finite scalars with a gradient in their sum."""
        ran: list[int] = []
        hooks = [
            network.register_forward_pre_hook(lambda module, given: ran.append(len(given[0])))
            for network in context.plain
        ]
        terms = self.inner.loss(context, groups)
        for hook in hooks:
            hook.remove()
        if self.inner.classifies:
            drawn = {len(group.index) for group in groups.values()}
            self.seen.rows = max(self.seen.rows, sum(ran) // max(drawn))
        self.seen.terms |= terms.keys()
        for name, term in terms.items():
            if term.ndim != 0 or not bool(term.isfinite()):
                self.seen.problems.append(f"term {name} is {term}")
        if not any(term.requires_grad for term in terms.values()):
            self.seen.problems.append("no term has a gradient")
        return terms


class Checked(Wrapper):
    """Inspects every step of a method."""

    name: ClassVar[str] = "checked"
    seen: Seen

    def wrap(self, step: Step) -> Step:
        """Wrap a step."""
        return CheckedStep(step, self.seen)


class CheckedTrainer(Trainer):
    """Watches gradients, and the networks that must not move."""

    def _run(self, phase: Phase) -> None:
        seen = self.method.seen  # type: ignore[attr-defined]
        handed = isinstance(phase.step, Pass) and phase.step.moves
        still = {n: net for n, net in enumerate(self.plain) if n not in phase.trains and not handed}
        before = {n: pickle.dumps(net.state_dict()) for n, net in still.items()}
        super()._run(phase)
        for number, network in still.items():
            if pickle.dumps(network.state_dict()) != before[number]:
                seen.problems.append(f"phase {phase.name} changed network {number}")

    def _update(self, phase: Phase, terms: Any) -> None:
        seen = self.method.seen  # type: ignore[attr-defined]
        super()._update(phase, terms)
        for number in phase.trains:
            network = self.plain[number]
            needed = {
                name
                for name, _ in network.named_parameters()
                if name.startswith(("backbone.", "heads.classes.", "heads.reconstruction."))
            }
            waiting = seen.unreached.setdefault(number, needed)
            for name, parameter in network.named_parameters():
                if parameter.grad is None:
                    continue
                if not bool(parameter.grad.isfinite().all()):
                    seen.problems.append(f"gradient of {name} is not finite")
                if bool(parameter.grad.any()):
                    waiting.discard(name)


@dataclass(frozen=True)
class Outcome:
    """Everything a run leaves."""

    seen: Seen
    weights: dict[str, Tensor]
    ledger: dict[str, Tensor]
    decisions: dict[str, float]
    rows: list[dict[str, Any]]
    method: Method


@cache
def outcome(spec: str, kind: str, turn: int = 0) -> Outcome:
    """Run a method for three epochs; `turn` asks for the same run once more."""
    del turn
    checked = Checked(build(spec))
    checked.seen = Seen()
    with TemporaryDirectory() as folder:
        trainer = build_trainer(
            DATA[kind], checked, Path(folder), schedule=SCHEDULE, kind=CheckedTrainer
        )
        trainer.train()
        rows = rows_without_times(Path(folder) / "metrics.jsonl")
    ledger = {name: column.clone() for name, column in trainer.ledger.columns.items()}
    decisions = dict(trainer.ledger.decisions)
    return Outcome(checked.seen, weights_of(trainer), ledger, decisions, rows, checked.base)


@every_run
def test_views_are_distributions_and_terms_finite(spec: str, kind: str) -> None:
    seen = outcome(spec, kind).seen
    assert not seen.problems, sorted(set(seen.problems))
    assert bool(seen.groups) == bool(seen.terms) == learns(spec)


@every_run
def test_gradient_reaches_every_weight_of_every_peer(spec: str, kind: str) -> None:
    result = outcome(spec, kind)
    assert result.seen.unreached.keys() == learners(result.method)
    assert not any(result.seen.unreached.values()), result.seen.unreached


@every_run
def test_run_is_whole_and_finite(spec: str, kind: str) -> None:
    result = outcome(spec, kind)
    assert [row["epoch"] for row in result.rows] == [1, 2, 3]
    assert all(bool(value.isfinite().all()) for value in result.weights.values())
    clean = result.ledger["clean"]
    assert bool(((clean >= 0) & (clean <= 1)).all())
    data = DATA[kind]
    trace = trace_columns(data.num_classes, len(data), result.method.num_peers)
    columns = (*result.method.all_columns(), *trace)
    assert result.ledger.keys() == {column.name for column in columns}


@every_run
def test_rows_per_sample_are_those_that_run(spec: str, kind: str) -> None:
    """The memory of a run is predicted from them."""
    result = outcome(spec, kind)
    wrapped = spec.startswith(ExtraView.name)
    if learns(spec) and not wrapped:  # the test's wrapper runs its own view once more
        assert result.seen.rows == result.method.rows_per_sample


@every_run
def test_every_sample_is_observed_in_every_epoch(spec: str, kind: str, tmp_path: Path) -> None:
    """A step or pass that says it observes does so, and for the others the loop does."""
    trainer = build_trainer(DATA[kind], build(spec), tmp_path, schedule=SCHEDULE)
    trainer.train()
    hits = trainer.ledger[HITS]
    assert bool((hits[..., 1] >= trainer.schedule.epochs).all())
    assert bool((trainer.ledger[SEEN] >= 1).all())
    total = trainer.ledger[PROBABILITY].sum(2)
    torch.testing.assert_close(total, trainer.ledger[SEEN], rtol=1e-4, atol=0)


@every_run
def test_same_seed_gives_the_same_bits(spec: str, kind: str) -> None:
    first, second = outcome(spec, kind), outcome(spec, kind, turn=1)
    assert_same_tensors(first.weights, second.weights)
    assert_same_tensors(first.ledger, second.ledger)
    assert first.decisions == second.decisions
    assert first.rows == second.rows


@every_run
def test_phases_are_pure_also_after_a_run(spec: str, kind: str) -> None:
    fresh = bound(build(spec), DATA[kind], **SCHEDULE)
    ran = outcome(spec, kind).method
    for epoch in range(SCHEDULE["epochs"]):
        phases = fresh.phases(epoch)
        assert phases == fresh.phases(epoch)
        assert phases == ran.phases(epoch)


@every_run
def test_phases_are_valid(spec: str, kind: str) -> None:
    for schedule in (SCHEDULE, {"epochs": 1}, {"epochs": 2, "warmup": 5}, {"warmup": 0}):
        method = bound(build(spec), DATA[kind], **schedule)
        trained: set[int] = set()
        for epoch in range(method.schedule.epochs):
            phases = method.phases(epoch)
            names = [phase.name for phase in phases]
            assert phases
            assert len(set(names)) == len(names), names
            for phase in phases:
                peers = range(method.num_peers)
                assert all(number in peers for number in phase.trains)
                assert len(set(phase.trains)) == len(phase.trains)
                assert phase.judge in peers
                trained |= set(phase.trains)
        assert trained == learners(method)


@every_run
def test_short_schedules_run(spec: str, kind: str, tmp_path: Path) -> None:
    trainer = build_trainer(DATA[kind], build(spec), tmp_path, schedule={"epochs": 1, "warmup": 0})
    trainer.train()
    assert trainer.position.epoch == 1


# -- wrappers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kind"),
    [run for run in RUNS if run[0].startswith("extra-view+") and learns(run[0])],
)
def test_every_step_takes_one_more_view(spec: str, kind: str) -> None:
    plain = outcome(spec.partition("+")[2], kind)
    more = outcome(spec, kind)
    assert set(more.seen.views) == {count + 1 for count in plain.seen.views}
    assert more.seen.terms == plain.seen.terms | {"extra"}
    seen = more.ledger["times_seen"]
    assert bool((seen.sum(0) > 0).all()), "a sample was never drawn"
    assert any(name.endswith("/extra") for row in more.rows for name in row)


@every_spec
def test_wrapper_speaks_for_its_base(spec: str) -> None:
    base = build(spec)
    wrapped = ExtraView(base, extra_weight=0.3)
    assert wrapped.spec == f"extra-view+{base.spec}"
    assert wrapped.num_peers == base.num_peers
    assert wrapped.rows_per_sample == base.rows_per_sample + 1
    names = [column.name for column in wrapped.all_columns()]
    own = [column.name for column in base.columns()]
    assert set(own) < set(names)
    assert all_settings(wrapped) == {"extra-view.extra_weight": 0.3, **all_settings(base)}
    bound(wrapped, DATA["images"], epochs=7)
    assert wrapped.schedule == base.schedule
    assert wrapped.schedule.epochs == 7
    for ours, theirs in zip(wrapped.phases(5), base.phases(5), strict=True):
        assert (ours.name, ours.trains, ours.sampling) == (
            theirs.name,
            theirs.trains,
            theirs.sampling,
        )
        assert (ours.judge, ours.lr, ours.clip) == (theirs.judge, theirs.lr, theirs.clip)
        assert (ours.step == theirs.step) == (not theirs.trains)


class Longer(ExtraView):
    """A wrapper with a default schedule of its own."""

    name = "longer"

    def default_schedule(self, problem: Problem) -> Schedule:
        """Twice the epochs."""
        plan = super().default_schedule(problem)
        return plan.override({"epochs": 2 * plan.epochs, "warmup": 2 * plan.warmup})


@every_spec
def test_base_follows_the_schedule_of_its_wrapper(spec: str) -> None:
    wrapped = Longer(build(spec))
    bound(wrapped, DATA["images"])
    assert wrapped.base.schedule == wrapped.schedule


# -- settings ---------------------------------------------------------------------------------


def bare(name: str) -> type[Method]:
    return known_methods()[name]


@every_class
def test_is_described(name: str) -> None:
    kind = bare(name)
    assert kind.name == name
    assert kind.summary.strip()
    assert "\n" not in kind.summary
    assert kind.citation.strip()
    assert (kind.__doc__ or "").strip()
    assert kind.kinds
    assert kind.kinds <= set(DATA)
    for field_name, info in kind.Settings.model_fields.items():
        assert info.description, f"{name}.{field_name} has no description"
    assert all(0 < number <= 100 for number in kind.paper_numbers.values())


@every_spec
def test_unknown_setting_names_the_nearest(spec: str) -> None:
    method = build(spec)
    while isinstance(method, Wrapper):
        method = method.base
    for known in type(method).Settings.model_fields:
        wrong = known + "x"
        with pytest.raises(UserError, match=f"{wrong}.*Did you mean '{known}'"):
            parse_method(method.spec, {wrong: 1})
        with pytest.raises(UserError, match=f"{wrong}.*Did you mean '{known}'"):
            parse_method(method.spec, {f"{method.name}.{wrong}": 1})


@every_class
def test_presets_are_valid_and_run_a_schedule(name: str) -> None:
    kind = bare(name)
    for preset, values in kind.presets.items():
        spec = f"{name}+ce" if issubclass(kind, Wrapper) else name
        method = parse_method(spec, {f"{name}.preset": preset})
        held = method.settings.model_dump()
        assert {key: held[key] for key in values} == dict(values)
        bound(method, DATA[next(iter(kinds_of(method)))])
        assert all(method.phases(epoch) for epoch in range(method.schedule.epochs))
    if kind.presets:
        first = next(iter(kind.presets))
        spec = f"{name}+ce" if issubclass(kind, Wrapper) else name
        with pytest.raises(UserError, match=f"Did you mean '{first}'"):
            parse_method(spec, {f"{name}.preset": first + "x"})


@every_class
def test_a_setting_wins_over_the_preset(name: str) -> None:
    kind = bare(name)
    for preset, values in kind.presets.items():
        for key, value in values.items():
            if isinstance(value, float):
                spec = f"{name}+ce" if issubclass(kind, Wrapper) else name
                chosen = {f"{name}.preset": preset, f"{name}.{key}": value / 2}
                assert parse_method(spec, chosen).settings.model_dump()[key] == value / 2


@every_class
def test_every_setting_refuses_nonsense(name: str) -> None:
    kind = bare(name)
    spec = f"{name}+ce" if issubclass(kind, Wrapper) else name
    for key, info in kind.Settings.model_fields.items():
        if info.annotation in (str, str | None):
            continue
        with pytest.raises(UserError, match=key):
            parse_method(spec, {f"{name}.{key}": "nonsense"})


@every_run
def test_settings_survive_json_and_pickle(spec: str, kind: str) -> None:
    method = bound(build(spec), DATA[kind], **SCHEDULE)
    again: Method = pickle.loads(pickle.dumps(method))
    assert all_settings(again) == all_settings(method)
    assert again.phases(2) == method.phases(2)
    inner = method.base if isinstance(method, ExtraView) else method
    read = parse_method(inner.spec, json.loads(json.dumps(all_settings(inner))))
    assert all_settings(read) == all_settings(inner)
    assert bound(read, DATA[kind], **SCHEDULE).phases(2) == inner.phases(2)


@every_spec
def test_other_kind_of_data_is_refused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(spec)
    inner = method
    while isinstance(inner, Wrapper):
        inner = inner.base
    for kind in DATA:
        other = next(name for name in DATA if name != kind)
        monkeypatch.setattr(type(inner), "kinds", frozenset({other}))
        with pytest.raises(UserError, match=f"needs {other}, but the data are {kind}"):
            bound(method, DATA[kind])


@pytest.mark.parametrize("spec", ["", "+", "nothing", "ce+", "ce+ce", "+ce", "dividemix+ce"])
def test_bad_specs_are_refused(spec: str) -> None:
    with pytest.raises(UserError):
        parse_method(spec)


def test_nearest_method_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'dividemix'"):
        parse_method("devidemix")


# -- models -----------------------------------------------------------------------------------

SHAPES = {"images": [(1, 8, 8), (3, 32, 32), (3, 20, 28)], "embeddings": [(5,), (64,)]}
MODELS = [
    (name, shape)
    for name, kind in sorted(discover("labelwise.models", Backbone).items())
    for fits in sorted(kind.kinds)
    for shape in SHAPES[fits]
]


def network_for(name: str, shape: tuple[int, ...], **options: Any) -> Network:
    spec = NetworkSpec(name, shape, 4)
    blank = torch.zeros(shape[0]), torch.ones(shape[0])
    return build_network(spec, *blank, Draw(0, phase="network-0"), **options)


@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_model_gives_the_outputs_asked_for(name: str, shape: tuple[int, ...]) -> None:
    network = network_for(name, shape, heads=lambda spec: {"two": nn.Linear(spec.num_features, 2)})
    inputs = torch.rand(2, *shape)
    width = network.backbone.num_features
    outputs = network(inputs, heads=("classes", "features", "feature_map", "two"))
    assert set(outputs) == {"classes", "features", "feature_map", "two"}
    assert outputs["classes"].shape == (2, 4)
    assert outputs["features"].shape == (2, width)
    assert outputs["two"].shape == (2, 2)
    assert outputs["feature_map"].shape[:2] == (2, width)
    if len(shape) == 3:
        assert outputs["feature_map"].ndim == 4
        assert torch.allclose(outputs["features"], outputs["feature_map"].mean((2, 3)))
    assert set(network(inputs)) == {"classes"}
    assert set(network(inputs, heads=("features",))) == {"features"}
    outputs["classes"].square().sum().backward()
    assert all(p.grad is not None for p in network.backbone.parameters())
    assert all(p.grad is None for p in network.heads["two"].parameters())
    with pytest.raises(KeyError):
        network(inputs, heads=("nothing",))


@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_model_in_eval_mode_treats_samples_alone(name: str, shape: tuple[int, ...]) -> None:
    network = network_for(name, shape).eval()
    inputs = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = network(inputs)["classes"]
        alone = torch.cat([network(row[None])["classes"] for row in inputs])
    assert torch.allclose(together, alone, atol=1e-5)
    assert network.num_classes == 4


@pytest.mark.parametrize("name", sorted({name for name, _ in MODELS}))
def test_model_of_the_other_kind_is_refused(name: str) -> None:
    kinds = discover("labelwise.models", Backbone)[name].kinds
    for kind, shapes in SHAPES.items():
        if kind not in kinds:
            with pytest.raises(UserError, match="does not take"):
                build_backbone(name, shapes[0])


def test_network_normalises_and_survives_constant_channels() -> None:
    data = Dataset(
        torch.full((4, 2, 8, 8), 7, dtype=torch.uint8),
        torch.zeros(4, dtype=torch.int64),
        ("a", "b"),
        DATA["images"].ids[:4],
    )
    spec = NetworkSpec("small_resnet", data.shape, 2)
    network = build_network(spec, torch.full((2,), 7 / 255), torch.zeros(2), Draw(0))
    assert bool(network(data.inputs / 255)["classes"].isfinite().all())
