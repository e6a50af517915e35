"""The same on embeddings: here made-up ones, in practice those of CLIP, DINO or a text model."""

from __future__ import annotations

import numpy as np

import labelwise


def main() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, 64))
    truth = random.integers(0, 20, 5000)
    embeddings = (centres[truth] + random.normal(size=(5000, 64))).astype(np.float32)
    labels = [f"topic {label}" for label in truth]
    result = labelwise.fit(embeddings, labels, noise="symmetric:0.3")
    print(result.summary["estimated_noise_rate"], result.summary["label_error_auroc"])
    print(result.labels.sort_values("label_quality").head())


if __name__ == "__main__":
    main()
