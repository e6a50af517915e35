"""Start networks from those of an earlier run folder."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.config import read_json
from labelwise.data.files import at_home
from labelwise.errors import UserError
from labelwise.models.build import NetworkSpec
from labelwise.pretraining import known_pretraining, parse_names
from labelwise.pretraining.share import CLASS_HEAD
from labelwise.training.neighbourhood import CLUSTERING

CLUSTER_HEAD = "heads.clusters."


@dataclass(frozen=True)
class Start:
    """The networks of a finished run, to start from.

    Args:
        folder: the run folder, as it was given.
        spec: what its networks are.
        count: how many there are.
    """

    folder: str | Path
    spec: NetworkSpec
    count: int

    @property
    def weights(self) -> tuple[Path, ...]:
        """The file of each network."""
        path = at_home(self.folder) / "model"
        return tuple(path / f"network-{number}.pt" for number in range(self.count))


def read_start(folder: str | Path) -> Start:
    """Read what the networks of a finished run are; their weights are not read.

    Args:
        folder: the run folder, of `labelwise pretrain` or `labelwise fit`.

    Raises:
        UserError: nothing there, a file, a run that is not finished, or a damaged one.
    """
    path = at_home(folder)
    remedy = "Give the folder of a finished `labelwise pretrain` or `labelwise fit`."
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"--init {folder}: {path} {what}. {remedy}")
    try:
        described = json.loads((path / "model" / "model.json").read_text(encoding="utf-8"))
        start = Start(
            folder,
            NetworkSpec.from_json(described["network"]),
            int(described["num_networks"]),
        )
    except FileNotFoundError:
        if (path / "config.json").exists():
            remedy = f"If it was interrupted, finish it first: `labelwise resume {folder}`."
        raise UserError(f"--init {folder}: there is no finished model. {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--init {folder}: model.json is damaged ({error!r}).") from error
    if start.count < 1:
        raise UserError(f"--init {folder}: model.json is damaged: it names no network.")
    return start


def pretraining_of(folder: str | Path) -> tuple[str, ...]:
    """Names of the pre-training that the networks of a run folder have been through, in order.

    That of the folder which the run itself started from is among them; clustering that was given
    up is not.

    Raises:
        UserError: when it is not a run folder.
    """
    names = _gone_through(folder)
    return _without_clusters(names) if _gave_up(folder) else names


def usable_pretraining(folder: str | Path, num_classes: int) -> tuple[tuple[str, ...], str | None]:
    """The pre-training in a run folder that a run with so many classes need not repeat.

    Returns:
        Its names in order, and, where the folder was clustered but its clusters cannot be used,
        why not.

    Raises:
        UserError: when it is not a run folder, or its weights are damaged.
    """
    names = _gone_through(folder)
    rest = _without_clusters(names)
    if rest == names:
        return names, None
    if _gave_up(folder):
        return rest, f"--init {folder}: its clusters collapsed and were given up"
    head = _weights(read_start(folder).weights[0]).get(f"{CLUSTER_HEAD}weight")
    if head is None:
        return rest, f"--init {folder}: its last run kept no clusters"
    if len(head) != num_classes:
        return rest, (
            f"--init {folder}: it has {len(head)} clusters, and this run has {num_classes} classes"
        )
    return names, None


def _without_clusters(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if known_pretraining()[name].measures != "clusters")


def _gave_up(folder: str | Path) -> bool:
    """Whether the run of a folder learnt clusters that collapsed."""
    path = at_home(folder) / "summary.json"
    decisions = read_json(path).get("decisions") if path.exists() else None
    return isinstance(decisions, dict) and decisions.get(CLUSTERING, 1) == 0


def _gone_through(folder: str | Path) -> tuple[str, ...]:
    described = read_json(at_home(folder) / "config.json")
    config = described.get("config")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is damaged: its 'config' is missing.")
    if "pretrained_by" in described:
        return parse_names("+".join(described["pretrained_by"]))
    return parse_names(str(config.get("pretrain") or ""))


def start_hash(folder: str | Path) -> str:
    """SHA-256 of the weights of a finished run: which networks another run started from.

    Raises:
        UserError: no finished run there, or weights that are missing.
    """
    found = hashlib.sha256()
    for path in read_start(folder).weights:
        try:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(
                f"--init {folder}: {path} cannot be read ({error.strerror})."
            ) from error
    return found.hexdigest()


def require_same_networks(start: Start, spec: NetworkSpec) -> None:
    """Raise a `UserError` when a run with networks of `spec` cannot start from these."""
    theirs = start.spec
    if theirs.model != spec.model:
        raise UserError(
            f"--init {start.folder}: its model is {theirs.model}, this run's is {spec.model}. "
            f"Use --model {theirs.model} (or leave --model away), or pre-train again."
        )
    if theirs.shape != spec.shape:
        sizes = len(theirs.shape) == len(spec.shape) == 3 and theirs.shape[0] == spec.shape[0]
        square = sizes and theirs.shape[1] == theirs.shape[2]
        remedy = f"Use --image-size {theirs.shape[1]}, or pre-train" if square else "Pre-train"
        raise UserError(
            f"--init {start.folder}: its input shape is {theirs.shape}, this run's is "
            f"{spec.shape}. {remedy} again on data like these."
        )


def start_from(folder: str | Path, spec: NetworkSpec, networks: Sequence[nn.Module]) -> None:
    """Load backbone and shared heads of a finished run into new networks.

    The class head is always new: it belongs to the labels of its own run. So are heads that the
    earlier run did not have or not in this size, and clusters that it gave up. Where that run
    trained fewer networks, the others get its first.

    Args:
        folder: the run folder, of `labelwise pretrain` or `labelwise fit`.
        spec: what the new networks are.
        networks: they are changed in place.

    Raises:
        UserError: no finished model there, another backbone or input shape, damaged weights.
    """
    start = read_start(folder)
    require_same_networks(start, spec)
    new = (CLASS_HEAD, CLUSTER_HEAD) if _gave_up(folder) else (CLASS_HEAD,)
    for number, network in enumerate(networks):
        path = start.weights[number if number < start.count else 0]
        _load(network, _weights(path), path, new)


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} is missing or damaged ({reason}).") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path} is damaged: it holds no weights.")
    return weights


def _load(network: nn.Module, weights: dict[str, Tensor], path: Path, new: tuple[str, ...]) -> None:
    """Take over what both have in the same shape, except what begins with one of `new`."""
    held: dict[str, Any] = network.state_dict()
    taken = {
        name: value
        for name, value in weights.items()
        if name in held and held[name].shape == value.shape and not name.startswith(new)
    }
    missing = [name for name in held if name.startswith("backbone.") and name not in taken]
    if missing:
        raise UserError(f"{path} is damaged: the backbone's {missing[0]} is not in it.")
    network.load_state_dict(taken, strict=False)
