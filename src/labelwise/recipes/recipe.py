"""What a recipe is."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from labelwise.config import Strict


class Recipe(Strict):
    """A whole configuration with the paper's number beside it."""

    method: str = Field(description="method, with wrappers")
    summary: str = Field(description="one line for users")
    model: str = Field("preact_resnet18", description="backbone")
    pretrain: str | None = Field(None, description="pre-training; None: the method's own")
    noise: str | None = Field(None, description="noise to plant where no label column is given")
    settings: dict[str, Any] = Field(default_factory=dict, description="method settings")
    schedule: dict[str, Any] = Field(default_factory=dict, description="schedule fields")
    paper_accuracy: float | None = Field(None, description="test accuracy of the paper, percent")

    def changed(self, summary: str, **settings: Any) -> Recipe:
        """The recipe with further settings, which the paper gives no number for."""
        return self.model_copy(
            update={
                "summary": summary,
                "settings": {**self.settings, **settings},
                "paper_accuracy": None,
            }
        )
