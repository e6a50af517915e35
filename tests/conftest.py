"""Fixtures that several test files share; the functions behind them live in `support`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # two thread pools on the same cores are ten times slower than one

_register_fake = torch.library.register_fake


def _tolerant_register_fake(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Let torchvision import beside a torch it was not built for.

    A CPU build of torch (from PyTorch's own index) beside PyPI's torchvision lacks the compiled
    `torchvision::` operators, and torchvision then fails while importing, and timm with it. Nothing
    here needs those operators.
    """
    if isinstance(op, str) and op.startswith("torchvision::"):
        namespace, _, name = op.partition("::")
        if not hasattr(getattr(torch.ops, namespace), name):
            return lambda function: function
    return _register_fake(op, *args, **kwargs)


torch.library.register_fake = _tolerant_register_fake

from labelwise.data.dataset import Dataset  # noqa: E402
from labelwise.training.loop import Trainer  # noqa: E402
from support import build_trainer, tiny_embeddings, tiny_images  # noqa: E402


@pytest.fixture(scope="session")
def images() -> Dataset:
    """Grey 8 x 8 images of three learnable classes."""
    return tiny_images()


@pytest.fixture(scope="session")
def embeddings() -> Dataset:
    """Embeddings of width 6 in four clusters."""
    return tiny_embeddings()


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """`support.build_trainer`."""
    return build_trainer
