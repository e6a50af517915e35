"""Heads: small modules from features to a named output."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """A linear head (B, F) -> (B, K), initialised by PyTorch's default rule."""
