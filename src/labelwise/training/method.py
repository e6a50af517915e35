"""The nouns of the loop: Step, Pass, Phase, Method and Wrapper.

A `Method` says what happens in each epoch as a list of `Phase`s; a phase draws samples by its
`Sampling` and runs a `Step` on every batch, or runs a `Pass` once. The loop knows nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from labelwise.augment.masking import Masker
from labelwise.config import MethodSettings, Schedule
from labelwise.data.dataset import Kind
from labelwise.data.ledger import Column
from labelwise.errors import UserError
from labelwise.models.heads import HeadSpec
from labelwise.models.network import Network
from labelwise.training.context import Context
from labelwise.training.groups import Groups
from labelwise.training.sampling import Everything, Sampling


class Step(ABC):
    """What is done with one batch: build views, then the loss. A frozen dataclass of settings.

    Class attributes:
        observes: whether the step hands the logits of its single, unmixed samples to
            `labelwise.training.trace.observe`.
        classifies: whether its targets say of which class a sample is, so that a wrapper may add
            altered copies of the samples; the targets of clusters and of pairs do not.
    """

    observes: ClassVar[bool] = False
    classifies: ClassVar[bool] = True

    @abstractmethod
    def views(self, context: Context, groups: Groups) -> Groups:
        """Build inputs and soft targets, without gradient; return the groups with their views."""

    @abstractmethod
    def loss(self, context: Context, groups: Groups) -> dict[str, Tensor]:
        """Return named scalar terms, already weighted: the loop adds them.

        Selections and weights are per sample and apply to all views of the sample. Inputs are
        only joined, permuted and mixed linearly here, and a network runs by `context.forward`, once
        with gradient, on all views of all sides: a wrapper may carry further channels along.
        """


class Pass(ABC):
    """Something done once per phase that trains no network: scoring, fitting, deciding.

    Class attributes:
        observes: as for a `Step`.
        moves: whether it sets weights all the same, by handing over what was learnt elsewhere.
    """

    observes: ClassVar[bool] = False
    moves: ClassVar[bool] = False

    @abstractmethod
    def run(self, context: Context) -> dict[str, float]:
        """Read networks and ledger, write the ledger, return figures for the epoch's log line."""


@dataclass(frozen=True)
class Phase:
    """A part of an epoch.

    Args:
        name: unique within the epoch; part of every random position.
        step: what to do: a `Step` on every batch, or a `Pass` once.
        trains: numbers of the networks that learn; the others are in eval mode. Empty for a Pass.
        sampling: which samples are drawn.
        judge: number of the network whose clean probability the groups carry; in co-training
            the peer of the one that learns.
        lr: learning rate of this phase; None takes the schedule's, a name takes the decision of
            that name from the ledger.
        batch_size: samples a step and side, over all ranks; None takes the schedule's.
        frozen: only the heads learn: the backbone is in eval mode and gets no gradient. A name
            takes the decision of that name from the ledger.
        clip: bound on the gradient norm of each network; None for no bound.
        warmup: whether the phase belongs to the warm-up.
    """

    name: str
    step: Step | Pass
    trains: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Everything)
    judge: int = 0
    lr: float | str | None = None
    batch_size: int | None = None
    frozen: bool | str = False
    clip: float | None = None
    warmup: bool = False

    def __post_init__(self) -> None:
        assert bool(self.trains) == isinstance(self.step, Step), f"phase {self.name}"


@dataclass(frozen=True)
class Problem:
    """What a method may know about the data before it starts.

    Args:
        num_samples: N.
        num_classes: K.
        kind: "images" or "embeddings".
        shape: shape of one input.
    """

    num_samples: int
    num_classes: int
    kind: Kind
    shape: tuple[int, ...]


Measured = Literal["classes", "features", "clusters"]

BASE_COLUMNS = (
    Column("loss"),  # cross-entropy of the given label, unaugmented, eval mode (nats)
    Column("prediction", torch.int64, initial=-1),  # argmax of the same pass
    Column("clean", initial=1.0),  # P(given label is right)
)


class Method(ABC):
    """A way of training under noisy labels. A subclass with a `name` is found by discovery.

    Class attributes:
        name: as typed after ``--method``.
        summary: one line for users.
        citation: the paper.
        paper_numbers: test accuracy in percent by table cell, best or last epoch, from the paper.
        presets: settings of the paper per noise level, by name.
        kinds: input kinds it can work on.
        measures: what the end of an epoch is judged by: the class predictions, the features
            (k-NN accuracy) or the clusters of the "clusters" head.
        learns: whether any phase trains; a method may only use what pre-training has learnt.
        Settings: the pydantic model of its settings; each field says its unit and source.

    Args:
        settings: values of `Settings`, by keyword.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    paper_numbers: ClassVar[Mapping[str, float]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    kinds: ClassVar[frozenset[Kind]] = frozenset({"images", "embeddings"})
    measures: ClassVar[Measured] = "classes"
    learns: ClassVar[bool] = True
    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, **settings: Any) -> None:
        preset = settings.pop("preset", None)
        if preset is not None:
            settings = {**self.preset(preset), **settings}
        self.settings = self.Settings.parse(settings, owner=self.name)
        self.schedule = Schedule()

    @classmethod
    def preset(cls, name: str) -> Mapping[str, Any]:
        """Return the settings of a named preset."""
        from labelwise.errors import unknown

        if not cls.presets:
            raise UserError(f"{cls.name} has no presets: leave preset={name} away.")
        if name not in cls.presets:
            raise unknown(f"preset of {cls.name}", name, cls.presets)
        return cls.presets[name]

    @property
    def spec(self) -> str:
        """The method as typed after ``--method``, wrappers first."""
        return self.name

    @property
    def num_peers(self) -> int:
        """P, the number of networks of the same shape that are trained."""
        return 1

    @property
    def rows_per_sample(self) -> int:
        """Rows of the largest forward with gradient per drawn sample: sides times views."""
        return 1

    @property
    def num_sides(self) -> int:
        """Groups of a batch, or networks that run on it at once: rows per sample and view."""
        return 1

    @property
    def rows_per_step(self) -> int:
        """Rows of the largest forward with gradient, over all ranks."""
        return self.schedule.batch_size * self.rows_per_sample

    def measured(self, epoch: int) -> bool:
        """Whether an epoch ends with a measurement; features and clusters cost a neighbour search.

        They are measured some twenty times, classes as often as the schedule says, and all of
        them in the last epoch.
        """
        if self.measures == "classes":
            return (self.schedule.epochs - 1 - epoch) % self.schedule.evaluate_every == 0
        return (self.schedule.epochs - 1 - epoch) % max(1, self.schedule.epochs // 20) == 0

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.schedule.epochs

    def part_at(self, epoch: int) -> tuple[Method, int]:
        """The method that an epoch of the run belongs to, and the epoch as that method counts.

        A chain answers with one of its parts, any other method with itself.
        """
        return self, epoch

    def pretraining(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """The pre-training that the method wants before it, in order; most want none.

        Returns:
            Names, each with the settings that differ from its own defaults.
        """
        del problem
        return {}

    def columns(self) -> tuple[Column, ...]:
        """The ledger columns the method needs beyond the loop's own."""
        return ()

    def all_columns(self) -> tuple[Column, ...]:
        """The loop's own columns, which every method has, and the method's."""
        return (*BASE_COLUMNS, *self.columns())

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """Extra network heads, freshly initialised; most methods need none."""
        del spec
        return {}

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """Further modules the method keeps beside the networks, freshly initialised.

        They are state: checkpointed, resumed and handed to every step as `context.extras`. A
        momentum encoder and a queue are such modules. Their names are unique over all methods.

        Args:
            network: the first peer as built, to be measured or copied.
        """
        del network
        return {}

    def shows_masks(self) -> Masker | None:
        """How the method masks its images, for the report's pictures; None where it does not."""
        return None

    def default_schedule(self, problem: Problem) -> Schedule:
        """A schedule that suits the number of samples; the paper's is a preset or recipe."""
        return Schedule.scaled(problem.num_samples, problem.kind, iterations=1500)

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """Fit the warm-up to a schedule that the user changed."""
        return schedule.with_warmup(problem.num_samples)

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Return the method with its schedule fixed for a problem.

        Args:
            problem: what is known about the data.
            overrides: schedule fields the user set (epochs, batch_size, lr, …); Nones are skipped.

        Raises:
            UserError: when the method cannot work on this kind of data.
        """
        if problem.kind not in self.kinds:
            raise UserError(
                f"method {self.spec!r} needs {' or '.join(sorted(self.kinds))}, but the data are "
                f"{problem.kind}. `labelwise methods` lists what each method works on."
            )
        given = {name: value for name, value in (overrides or {}).items() if value is not None}
        schedule = self.default_schedule(problem).override(given)
        if "warmup" not in given and given.keys() & {"epochs", "batch_size"}:
            schedule = self.with_warmup(schedule, problem)
        self.adopt(schedule)
        return self

    def adopt(self, schedule: Schedule) -> None:
        """Take a schedule."""
        self.schedule = schedule

    @abstractmethod
    def phases(self, epoch: int) -> list[Phase]:
        """The epoch's phases in order; pure in (settings, schedule, epoch)."""


class Wrapper(Method):
    """A method around a method: it maps over the base's phases and wraps each step.

    Args:
        base: the method that is wrapped; it may be a wrapper itself.
        settings: the wrapper's own settings.
    """

    def __init__(self, base: Method, **settings: Any) -> None:
        if not isinstance(base, Method):
            raise UserError(
                f"{self.name} wraps a method object, not {base!r}: write "
                f"{type(self).__name__}(DivideMix()), or method='{self.name}+dividemix'."
            )
        super().__init__(**settings)
        self.base = base

    @property
    def innermost(self) -> Method:
        """The method within all wrappers."""
        base = self.base
        return base.innermost if isinstance(base, Wrapper) else base

    @property
    def spec(self) -> str:
        """The wrapper's name, a plus and the base's."""
        return f"{self.name}+{self.base.spec}"

    @property
    def num_peers(self) -> int:
        """As many as the base trains."""
        return self.base.num_peers

    @property
    def rows_per_sample(self) -> int:
        """As many as the base's; a wrapper that adds views adds them here."""
        return self.base.rows_per_sample

    @property
    def num_sides(self) -> int:
        """As many as the base has."""
        return self.base.num_sides

    def pretraining(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """As the base wants it."""
        return self.base.pretraining(problem)

    def columns(self) -> tuple[Column, ...]:
        """The base's columns; a wrapper adds its own."""
        return self.base.columns()

    def heads(self, spec: HeadSpec) -> dict[str, nn.Module]:
        """The base's heads; a wrapper adds its own."""
        return self.base.heads(spec)

    def extras(self, network: Network) -> dict[str, nn.Module]:
        """The base's further modules; a wrapper adds its own."""
        return self.base.extras(network)

    def shows_masks(self) -> Masker | None:
        """As the base masks them, if it does."""
        return self.base.shows_masks()

    def default_schedule(self, problem: Problem) -> Schedule:
        """The base's schedule."""
        return self.base.default_schedule(problem)

    def with_warmup(self, schedule: Schedule, problem: Problem) -> Schedule:
        """As the base fits it."""
        return self.base.with_warmup(schedule, problem)

    def bind(self, problem: Problem, overrides: Mapping[str, Any] | None = None) -> Method:
        """Bind the wrapper and what it wraps; both must take this kind of data."""
        self.base.bind(problem, overrides)
        return super().bind(problem, overrides)

    def adopt(self, schedule: Schedule) -> None:
        """Take a schedule, and give it to the base: loop and phases must agree on it."""
        super().adopt(schedule)
        self.base.adopt(schedule)

    @abstractmethod
    def wrap(self, step: Step) -> Step:
        """Return the step with the wrapper's part added."""

    def phases(self, epoch: int) -> list[Phase]:
        """The base's phases with every training step wrapped."""
        return [
            replace(phase, step=self.wrap(phase.step)) if isinstance(phase.step, Step) else phase
            for phase in self.base.phases(epoch)
        ]
