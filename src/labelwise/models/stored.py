"""A trained model read back from a run folder, ready to predict."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from labelwise.data.store import as_input
from labelwise.errors import UserError
from labelwise.models.build import HeadFactory, NetworkSpec, build_network
from labelwise.rng import Draw


@dataclass(frozen=True)
class StoredModel:
    """The networks of a run with the class list and input shape they were trained for.

    Args:
        networks: plain networks in eval mode, on the CPU.
        classes: class names in label order.
        shape: shape of one input.
    """

    networks: tuple[nn.Module, ...]
    classes: tuple[str, ...]
    shape: tuple[int, ...]

    @torch.no_grad()
    def predict_proba(self, inputs: Tensor, block: int = 1024) -> Tensor:
        """Mean class probabilities (N, K) for stored inputs: uint8 images or embeddings."""
        parts = []
        for rows in torch.split(inputs, block):
            batch = as_input(rows)
            outputs = [network(batch)["classes"].float().softmax(1) for network in self.networks]
            parts.append(torch.stack(outputs).mean(0))
        return torch.cat(parts)


def read_model(folder: Path, heads: HeadFactory | None = None) -> StoredModel:
    """Read the `model/` folder of a run.

    Args:
        folder: the folder with `model.json` and the weights.
        heads: makes the method's extra heads, if it has any.

    Raises:
        UserError: when it is missing (the run has not finished) or damaged.
    """
    path = folder / "model.json"
    if not path.exists():
        raise UserError(
            f"{folder} holds no finished model. If the run was interrupted, finish it with "
            f"`labelwise resume {folder.parent}`."
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        spec = NetworkSpec.from_json(described["network"])
        count, classes = int(described["num_networks"]), tuple(described["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): run the training again.") from error
    channels = spec.shape[0]
    blank = torch.zeros(channels), torch.ones(channels)
    networks = []
    for number in range(count):
        network = build_network(spec, *blank, Draw(0), heads)
        weights = folder / f"network-{number}.pt"
        try:
            held = torch.load(weights, weights_only=True)
            network.load_state_dict(without_unknown_heads(held, network))
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"{weights} is missing or damaged ({reason}): run the training again."
            ) from error
        networks.append(network.eval())
    return StoredModel(tuple(networks), classes, spec.shape)


def without_unknown_heads(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Stored weights without those of heads that the network does not have.

    A caller's own method may have heads that cannot be made from its name; predictions need none.
    """
    own = network.state_dict().keys()
    return {k: value for k, value in state.items() if k in own or not k.startswith("heads.")}
