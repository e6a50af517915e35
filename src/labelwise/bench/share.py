"""Pre-train once for all methods that begin alike: the first run of them leaves its networks.

SimCLR sees neither labels nor the method that comes after it, so runs of one seed on the same
images go through it bit by bit alike. The first run stops where it ends and writes down its weights
and figures; the others begin with a checkpoint of that moment. Every run ends as if it had been
alone, and the time of pre-training counts in each.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from labelwise.binding import bind, resolve
from labelwise.config import RunConfig
from labelwise.data.files import write_atomically, write_json
from labelwise.experiment import Prepared, assemble
from labelwise.outputs import commit, describe, versions
from labelwise.pretraining.share import CLASS_HEAD
from labelwise.running import owned, read_config
from labelwise.training.chain import Chain
from labelwise.training.checkpoint import Checkpoints
from labelwise.training.engine import launch
from labelwise.training.folder import RunFolder
from labelwise.training.journal import Journal
from labelwise.training.optim import build_optimiser
from labelwise.training.progress import Silent

SHARED = "simclr"
"""What is shared: it keeps nothing beside its networks, neither in the ledger nor in extras."""
LEARNT = ("backbone.", "heads.projection.")
CARRIED = ("images", "seconds")
"""Fields of a run's position that go on counting from one part to the next."""


@dataclass(frozen=True)
class Stage:
    """The pre-training at the beginning of a run.

    Args:
        epochs: how long it takes.
        path: where its networks are, or will be.
    """

    epochs: int
    path: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for whoever is pre-training; the lock goes with the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def stage_of(config: RunConfig, prepared: Prepared, folder: Path) -> Stage | None:
    """The pre-training that a run begins with and may share; None where there is none.

    Args:
        config: as parsed.
        prepared: its data.
        folder: where shared networks are kept.
    """
    method = bind(config, prepared.train)
    if config.init is not None or config.devices > 1 or not isinstance(method, Chain):
        return None
    first = method.parts[0]
    if first.name != SHARED:
        return None
    config = resolve(config, prepared.train, method)
    decides = {
        # Figures are taken by the labels, so they belong to what is the same.
        "data": [prepared.train.input_hash(), prepared.train.label_hash(), prepared.noise],
        "planted": config.plant,
        "settings": first.settings.model_dump(),
        "schedule": first.schedule.model_dump(),
        "run": [config.seed, config.model, config.device, config.precision, config.threads],
        "code": [versions(), commit()],
    }
    text = json.dumps(decides, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Stage(first.schedule.epochs, folder / f"{digest}.pt")


def leave(stage: Stage, folder: RunFolder, prepared: Prepared) -> None:
    """Write down what a run that was stopped where the stage ends has learnt."""
    config = read_config(folder)[0]
    state = _checkpoints(config, prepared, folder).load()
    assert state is not None, "a run that was stopped is committed"
    position = state["position"]
    assert (position["epoch"], position["phase"], position["step"]) == (stage.epochs, 0, 0)
    weights = state["networks"][0]
    found = {
        "weights": {name: value for name, value in weights.items() if name.startswith(LEARNT)},
        "position": {name: position[name] for name in CARRIED},
        "rows": json.dumps(Journal(folder.metrics).rows()),
    }
    write_atomically(stage.path, lambda file: torch.save(found, file))


def begin_after(stage: Stage, config: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Make a run folder that stands where the stage has ended; the run is then gone on with.

    Args:
        stage: whose networks are there.
        config: as parsed.
        prepared: its data.
        folder: must be free.
    """
    found = torch.load(stage.path, map_location="cpu", weights_only=True)
    method = bind(config, prepared.train)
    config = resolve(config, prepared.train, method)
    fabric = launch(config.device, config.devices, config.precision)
    with owned(folder, fabric, new=True):
        trainer = assemble(config, prepared, method, folder, Silent(), fabric)
        state = trainer.state_dict()
        state["networks"] = _handed_on(state["networks"], found["weights"])
        schedule = method.part_at(stage.epochs)[0].schedule
        state["optimisers"] = [build_optimiser(n, schedule).state_dict() for n in trainer.plain]
        state["position"] = {**state["position"], **found["position"], "epoch": stage.epochs}
        rows = json.loads(found["rows"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(folder.metrics, lambda file: file.write(text.encode()))
        _checkpoints(config, prepared, folder).save(state)
        write_json(folder.config, describe(config, prepared, method))


def _handed_on(
    networks: list[dict[str, torch.Tensor]], weights: Mapping[str, torch.Tensor]
) -> list[dict[str, torch.Tensor]]:
    """New networks as `pretraining.share.Share` leaves them: all as the first, but for the classes.

    Args:
        networks: the states of new networks.
        weights: what the first has learnt.
    """
    first = {name: weights.get(name, value) for name, value in networks[0].items()}
    assert weights.keys() <= first.keys(), "networks of another shape"
    return [
        {
            name: value if name.startswith(CLASS_HEAD) else first[name]
            for name, value in network.items()
        }
        for network in networks
    ]


def _checkpoints(config: RunConfig, prepared: Prepared, folder: RunFolder) -> Checkpoints:
    """Those of a resolved configuration, as `experiment.assemble` makes them."""
    digest = config.digest() + prepared.train.label_hash()[:16]
    return Checkpoints(folder.checkpoint, digest)
