"""Start networks from those of an earlier run folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from labelwise.config import read_json
from labelwise.data.files import at_home
from labelwise.errors import UserError
from labelwise.models.build import NetworkSpec
from labelwise.pretraining import parse_names

CLASS_HEAD = "heads.classes."


def pretraining_of(folder: str | Path) -> tuple[str, ...]:
    """Names of the pre-training that the networks of a run folder have been through.

    Raises:
        UserError: when it is not a run folder.
    """
    config = read_json(at_home(folder) / "config.json").get("config")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is damaged: its 'config' is missing.")
    return parse_names(str(config.get("pretrain") or ""))


def start_from(folder: str | Path, spec: NetworkSpec, networks: Sequence[nn.Module]) -> None:
    """Load backbone and shared heads of a finished run into new networks.

    The class head is always new: it belongs to the labels of its own run. So are heads that the
    earlier run did not have. Where that run trained fewer networks, the others get its first.

    Args:
        folder: the run folder, of `labelwise pretrain` or `labelwise fit`.
        spec: what the new networks are.
        networks: they are changed in place.

    Raises:
        UserError: no finished model there, another backbone or input shape, damaged weights.
    """
    path = at_home(folder) / "model"
    try:
        described = json.loads((path / "model.json").read_text(encoding="utf-8"))
        theirs = NetworkSpec.from_json(described["network"])
        count = int(described["num_networks"])
    except FileNotFoundError:
        raise UserError(
            f"--init {folder}: there is no finished model. Give the folder of a finished "
            "`labelwise pretrain` or `labelwise fit`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--init {folder}: model.json is damaged ({error!r}).") from error
    for what, ours, other in (
        ("model", spec.model, theirs.model),
        ("input shape", spec.shape, theirs.shape),
    ):
        if ours != other:
            raise UserError(
                f"--init {folder}: its {what} is {other}, this run's is {ours}. Use the same "
                "--model and --image-size, or pre-train again."
            )
    for number, network in enumerate(networks):
        _load(network, _weights(path / f"network-{min(number, count - 1)}.pt"))


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} is missing or damaged ({reason}).") from error


def _load(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take over what both have in the same shape, except the class head."""
    held: dict[str, Any] = network.state_dict()
    taken = {
        name: value
        for name, value in weights.items()
        if name in held and held[name].shape == value.shape and not name.startswith(CLASS_HEAD)
    }
    missing = [name for name in held if name.startswith("backbone.") and name not in taken]
    assert not missing, f"the backbone lacks {missing[:3]}"
    network.load_state_dict(taken, strict=False)
