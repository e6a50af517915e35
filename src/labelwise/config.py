"""Configurations that reject unknown keys by name: the schedule, method settings and the run."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labelwise.errors import UserError, unknown

RISE = 0.2
"""Share of the run in which the learning rate of one cycle rises."""


class Strict(BaseModel):
    """A frozen model without unknown keys, whose errors are messages for users."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], owner: str) -> Self:
        """Validate `values`, or raise a `UserError` naming the key, the value and the remedy.

        Args:
            values: field values; strings are converted.
            owner: what the settings belong to, for the message ("dividemix").
        """
        for name in values:
            if name not in cls.model_fields:
                raise unknown(f"setting of {owner}", name, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            shown = reprlib.repr(first["input"])
            raise UserError(f"{owner}: {where} = {shown} is not valid: {first['msg']}.") from None

    def override(self, values: Mapping[str, Any], owner: str = "schedule") -> Self:
        """Return a copy with some fields replaced; None values are skipped."""
        given = {name: value for name, value in values.items() if value is not None}
        return self.parse({**self.model_dump(), **given}, owner) if given else self


class MethodSettings(Strict):
    """Base of every method's settings."""


class Schedule(Strict):
    """How long and how fast to train."""

    epochs: int = Field(60, ge=1, description="epochs of the whole run, warm-up included")
    warmup: int = Field(5, ge=0, description="epochs of warm-up (methods that have one)")
    batch_size: int = Field(64, ge=2, description="samples a step and side, over all ranks")
    lr: float = Field(0.02, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on all weights")
    decay: Literal["step", "cosine", "onecycle", "none"] = Field(
        "step", description="learning-rate decay; onecycle also rises at the start"
    )
    decay_at: float = Field(0.5, gt=0, le=1, description="step decay: fraction of the epochs")
    decay_factor: float = Field(0.1, gt=0, le=1, description="step decay: factor on the lr")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="sgd with momentum, or adam")
    evaluate_every: int = Field(
        1,
        ge=1,
        description="epochs between measurements on test data; the last one is measured, and the "
        "last accuracy is the mean of those measured among the last ten",
    )

    @classmethod
    def scaled(cls, num_samples: int, kind: str, iterations: int) -> Schedule:
        """A schedule that counts iterations, not epochs, from 500 to 1,000,000 samples.

        Semi-supervised methods need iterations: a few hundred samples want hundreds of epochs,
        a million want few. The number of iterations grows with the square root of N.

        Args:
            num_samples: N.
            kind: "images" or "embeddings". On embeddings a small network learns in a few epochs:
                they get 0.4 of the iterations, no more for more samples, in batches up to 512.
            iterations: for 2,000 images or fewer.
        """
        largest = 64 if kind == "images" else 512
        batch = max(16, min(largest, 2 ** round(math.log2(max(2, num_samples / 20)))))
        for size in (100_000, 400_000):  # fewer, larger steps keep the epochs between 8 and 20
            batch *= 2 if num_samples >= size else 1
        lr = 0.02 * max(1.0, math.sqrt(batch / 64))
        steps = math.ceil(num_samples / batch)
        total = iterations * growth(num_samples) if kind == "images" else 0.4 * iterations
        epochs = max(8, min(300, round(total / steps)))
        plan = cls(epochs=epochs, batch_size=batch, lr=round(lr, 4))
        return plan.with_warmup(num_samples)

    def with_warmup(self, num_samples: int) -> Schedule:
        """Set the warm-up to 450 iterations at 2,000 samples or fewer, growing like the run.

        It takes at least 4 % (as in the paper's 300 epochs) and at most 30 % of the epochs. On
        digits with 80 % symmetric noise, 250 iterations were too few for the mixture to tell
        right labels from wrong: one seed ended at 75 % instead of 97 %.
        """
        steps = math.ceil(num_samples / self.batch_size)
        wanted = max(0.04 * self.epochs, 450 * growth(num_samples) / steps)
        return self.override({"warmup": max(1, round(min(wanted, 0.3 * self.epochs)))})

    def lr_at(self, epoch: float) -> float:
        """The learning rate of an epoch (0-based), or of a moment within it under `by_step`.

        One cycle (Smith and Topin, arXiv 1708.07120, in straight lines) rises from a tenth of the
        rate to all of it over the first `RISE` of the run and falls to 0 at its very end.
        """
        if self.decay == "onecycle":
            part = epoch / self.epochs
            rising = 0.1 + 0.9 * part / RISE
            return self.lr * min(rising, (1 - part) / (1 - RISE))
        if self.decay == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        late = self.decay == "step" and epoch >= self.decay_at * self.epochs
        return self.lr * self.decay_factor if late else self.lr

    @property
    def by_step(self) -> bool:
        """Whether the learning rate changes from step to step: few epochs are too coarse for it."""
        return self.decay == "onecycle"


def growth(num_samples: int) -> float:
    """How many times more iterations N samples get than 2,000: the square root of the ratio."""
    return max(1.0, math.sqrt(num_samples / 2000))


class RunConfig(Strict):
    """What a run was asked for, as written to `config.json`.

    Fields that the user left open are resolved before the run starts, so that a resumed run and a
    reader see what was used.
    """

    data: str = Field(description="the data source as given")
    method: str = Field("dividemix", description="method; wrappers stand in front with a plus")
    pretrain: str | None = Field(
        None, description="pre-training: simclr, moco, simclr+scan, …, or none; None: the method's"
    )
    init: str | None = Field(None, description="run folder whose networks are started from")
    settings: dict[str, Any] = Field(default_factory=dict, description="method settings")
    schedule: dict[str, Any] = Field(default_factory=dict, description="schedule fields set")
    model: str = Field("auto", description="backbone: labelwise's or any timm name")
    seed: int = Field(0, ge=0, description="seed of everything random")
    label_column: str | None = Field(None, description="column of the given labels")
    truth_column: str | None = Field(None, description="column of the true labels, if known")
    test: str | None = Field(None, description="data source for testing")
    limit: int | None = Field(None, ge=2, description="keep a stratified sample of this size")
    noise: str | None = Field(None, description="noise to plant: KIND:RATE")
    plant: float = Field(
        0.03, ge=0, le=0.2, description="share of labels made wrong on purpose, to calibrate by"
    )
    image_size: int | None = Field(None, description="resize images to this square, pixels")
    on_bad_image: Literal["error", "skip"] = Field("error", description="unreadable images")
    device: str = Field("auto", description="auto, cpu, cuda")
    devices: int = Field(1, ge=1, description="number of processes or GPUs")
    precision: str = Field("auto", description="auto, 32-true, bf16-mixed, 16-mixed")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves them")
    checkpoint_every: float = Field(15.0, ge=0, description="seconds between commits at least")
    budget: dict[str, Any] | None = Field(
        None, description="how a time budget chose the values, for the reader; changes nothing"
    )

    def digest(self) -> str:
        """SHA-256 of what decides the result: a checkpoint of another digest is refused."""
        ignored = {"threads", "checkpoint_every", "on_bad_image", "budget"}
        text = json.dumps(self.model_dump(exclude=ignored), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by labelwise, or say which file is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} a run folder?") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value
