"""What a recipe is."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from labelwise.config import Strict


class Recipe(Strict):
    """A whole configuration with the paper's numbers beside it."""

    method: str = Field(description="method, with wrappers")
    summary: str = Field(description="one line for users")
    model: str = Field("preact_resnet18", description="backbone")
    pretrain: str | None = Field(None, description="pre-training; None: the method's own")
    dataset: str | None = Field(
        None,
        description="cifar10, cifar100, cifar10n, cifar100n, webvision, clothing1m or animal10n; "
        "None: any data",
    )
    noise: str | None = Field(None, description="noise to plant where no label column is given")
    label_column: str | None = Field(
        None, description="column of the given labels, for human and semantic noise"
    )
    image_size: int | None = Field(
        None, description="side of the images, pixels; None: as they are"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="method settings")
    schedule: dict[str, Any] = Field(default_factory=dict, description="schedule fields")
    row: str = Field("", description="row of the table that the recipe fills")
    column: str = Field("", description="column of that table")
    paper_accuracy: float | None = Field(
        None, description="test accuracy of the paper, mean of the last ten epochs, percent"
    )
    paper_best: float | None = Field(
        None, description="test accuracy of the paper, best epoch, percent"
    )
    source: str = Field("", description="where the numbers stand")

    def changed(self, summary: str, **settings: Any) -> Self:
        """The recipe with further settings, which the paper gives no number for."""
        return self.derive(
            summary=summary,
            settings=settings,
            row="",
            column="",
            paper_accuracy=None,
            paper_best=None,
            source="",
        )

    def derive(self, **fields: Any) -> Self:
        """The recipe with other fields; `settings` and `schedule` are added to its own."""
        for name in ("settings", "schedule"):
            if name in fields:
                fields[name] = {**getattr(self, name), **fields[name]}
        return type(self)(**{**self.model_dump(), **fields})
