"""What a finished run offers: its labels, its totals, its model and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labelwise.audit.report import write_report
from labelwise.binding import heads_of
from labelwise.config import read_json
from labelwise.data.load import load
from labelwise.data.source import OnBadImage
from labelwise.errors import UserError
from labelwise.models.stored import StoredModel, read_model
from labelwise.running import read_config
from labelwise.training.folder import RunFolder


@dataclass(frozen=True)
class Result:
    """A finished run, read from its folder.

    Args:
        path: the run folder.
    """

    path: Path

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One row per training sample: given and suggested label, quality, and so on."""
        # Absolute: pyarrow takes a relative name with a colon for a URI.
        return pd.read_parquet(RunFolder(self.path).labels.absolute())

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's totals: accuracy, estimated noise rate, time, memory."""
        return read_json(RunFolder(self.path).summary)

    @cached_property
    def model(self) -> StoredModel:
        """The trained networks."""
        folder = RunFolder(self.path)
        config = read_config(folder)[0]
        try:
            heads = heads_of(config)
        except UserError:  # a method object of the caller's own: its extra heads cannot be known
            heads = None
        return read_model(folder.model, heads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.model.classes

    def predict_proba(self, data: Any, on_bad_image: OnBadImage = "error") -> np.ndarray:
        """Class probabilities (N, K) for images or embeddings in any form `fit` takes."""
        return self._predict(data, on_bad_image)[1]

    def predict(self, data: Any, on_bad_image: OnBadImage = "error") -> pd.DataFrame:
        """Predictions for new data.

        Args:
            data: arrays, a folder, a manifest, … ; labels are not needed. Images are brought to
                the size and colours the model was trained on.
            on_bad_image: "error" stops at unreadable images, "skip" leaves them out.

        Returns:
            One row per sample: `id`, `predicted_label`, `confidence`.
        """
        ids, probability = self._predict(data, on_bad_image)
        names = np.asarray(self.classes, dtype=object)
        return pd.DataFrame(
            {
                "id": ids,
                "predicted_label": names[probability.argmax(1)],
                "confidence": probability.max(1).round(6),
            }
        )

    def _predict(self, data: Any, on_bad_image: OnBadImage) -> tuple[np.ndarray, np.ndarray]:
        shape = self.model.shape
        images = len(shape) == 3
        given = tuple(getattr(data, "shape", ()))
        if images and given in (shape, (*shape[1:], shape[0])):
            raise UserError(f"{given} is a single image: pass a batch of one, images[None].")
        config = read_config(RunFolder(self.path))[0]
        loaded = load(
            data,
            image_size=shape[1] if images and shape[1] == shape[2] else config.image_size,
            on_bad_image=on_bad_image,
            require_labels=False,
            channels=shape[0] if images else None,
        ).data
        if loaded.shape != shape:
            raise UserError(
                f"the model takes inputs of shape {shape}, the data have {loaded.shape}."
            )
        return loaded.ids, self.model.predict_proba(loaded.inputs).numpy()

    def report(self, beside: str | Path | None = None) -> Path:
        """Write `report.html` again from the run folder and return its path.

        Args:
            beside: folder of another run on the same samples and labels, to be drawn beside it.
        """
        return write_report(self.path, None if beside is None else Path(beside))
