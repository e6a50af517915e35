"""Ten cluster heads on fixed features of digits: does the loss tell the good ones from the bad?

For each seed SimCLR learns features, ten linear heads are learnt on them as `StartHead` does, and
each head's loss and accuracy are noted. Then labels get symmetric noise, the clusters of the head
with the least loss are named by them, and a linear classifier learns from the same labels on the
same features: which names more samples rightly?

    python benchmarks/cluster_heads.py --json benchmarks/cluster_heads.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import labelwise
from labelwise.data.neighbours import nearest_neighbours
from labelwise.methods.clusters import name_clusters
from labelwise.outputs import commit, hardware, versions
from labelwise.pretraining.cluster_head import candidate_losses
from labelwise.selection.agreement import noise_rate_from_pairs
from labelwise.training.representation import cluster_figures

HEADS, STEPS, BATCH, LENGTH, WEIGHT = 10, 700, 128, 7.0, 5.0
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse regularisation of the linear classifier
RATE = 0.9


def learn(features: torch.Tensor, near: torch.Tensor, seed: int) -> tuple[torch.Tensor, Any]:
    """Logits (N, H, K) of ten heads, and the losses (H)."""
    torch.manual_seed(seed)
    heads = torch.nn.Linear(features.shape[1], HEADS * 10)
    optimiser = torch.optim.Adam(heads.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(STEPS):
        rows = torch.randint(len(features), (BATCH,))
        partner = near[rows, torch.randint(near.shape[1], (BATCH,))]
        both = heads(features[torch.cat([rows, partner])]).view(2 * BATCH, HEADS, 10)
        agreement, spread = candidate_losses(both[:BATCH], both[BATCH:], WEIGHT)
        optimiser.zero_grad()
        (agreement + spread).sum().backward()
        optimiser.step()
    with torch.no_grad():
        logits = heads(features).view(-1, HEADS, 10)
        parts = [candidate_losses(logits, logits[near[:, k]], WEIGHT) for k in range(20)]
    return logits, torch.stack([a + s for a, s in parts]).mean(0)


def row(seed: int) -> dict[str, Any]:
    """The figures of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        run = labelwise.pretrain("digits", out=Path(folder) / "run", seed=seed, threads=1)
        features = LENGTH * torch.from_numpy(np.array(run.features))
        ids = pd.read_csv(run.path / "ids.csv").iloc[:, 0].to_numpy().astype(int)
    truth = torch.from_numpy(load_digits().target[ids]).long()
    near, _ = nearest_neighbours(features, 20)
    logits, losses = learn(features, near, seed)
    accuracy = [cluster_figures(logits[:, h].argmax(1), truth, 10)[0] for h in range(HEADS)]
    best = int(losses.argmin())
    draw = np.random.default_rng(seed)
    labels = truth.clone()
    moved = torch.from_numpy(draw.random(len(labels)) < RATE)
    labels[moved] = torch.from_numpy(draw.integers(0, 10, int(moved.sum())))
    assigned = logits[:, best].argmax(1)
    named = name_clusters(assigned, labels, 10)[assigned]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear = [
            LogisticRegression(C=c, max_iter=300).fit(features.numpy(), labels.numpy())
            for c in STRENGTHS
        ]
    right = [float((m.predict(features.numpy()) == truth.numpy()).mean()) for m in linear]
    return {
        "seed": seed,
        "losses": [round(float(v), 4) for v in losses],
        "accuracies": [round(v, 4) for v in accuracy],
        "least_loss_accuracy": round(accuracy[best], 4),
        "wrong_labels": round(float((labels != truth).float().mean()), 4),
        "rate_told_by_neighbours": round(noise_rate_from_pairs(labels, truth, near, 10), 4),
        "named_clusters_right": round(float((named == truth).float().mean()), 4),
        "linear_right": dict(zip(map(str, STRENGTHS), (round(v, 4) for v in right), strict=True)),
    }


def main() -> None:
    """Run all seeds and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(seed) for seed in range(options.seeds)]
    for found in rows:
        print(found)
    if options.json:
        about = {"versions": versions(), "hardware": hardware("cpu"), "commit": commit()}
        options.json.write_text(json.dumps({"rows": rows, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
