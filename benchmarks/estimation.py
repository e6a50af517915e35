r"""How well the noise rate of digits is estimated without truth, by every estimator.

Noise is planted, probabilities and features are made without looking at the truth, and each
estimate is compared with the realised rate. Two kinds of input: `averaged`, the mean over the
epochs of a short cross-entropy training of its own training samples' probabilities (what an audit
has), and `crossval`, five-fold cross-validation of a logistic regression on the pixels.

    python benchmarks/estimation.py --seeds 20 --workers 2 --out benchmarks/estimation.json

The estimators' defaults were chosen on seeds 0 to 19; seeds 20 to 29 were run once, afterwards:

    python benchmarks/estimation.py --first-seed 20 --seeds 10 --kinds averaged \
        --out benchmarks/estimation_fresh.json

What a network that has learnt its labels by heart does to every estimator:

    python benchmarks/estimation.py --seeds 2 --kinds memorised \
        --out benchmarks/estimation_memorised.json

`--inputs FOLDER` keeps the probabilities, so that a second run only estimates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn import functional as F

from labelwise.augment.geometry import random_crop_flip, to_unit
from labelwise.data.dataset import Dataset
from labelwise.data.load import load
from labelwise.estimation.combine import estimate_noise
from labelwise.estimation.probabilities import TopProbabilities
from labelwise.models.build import NetworkSpec, build_network
from labelwise.models.network import Network
from labelwise.noise.parse import parse
from labelwise.outputs import commit, hardware, versions
from labelwise.rng import Draw

KINDS = ("averaged", "crossval")
"""Run by default; `memorised`, of a network that has learnt its labels by heart, only by name."""
NOISES = tuple(f"{kind}:{rate}" for kind in ("symmetric", "instance") for rate in (0.2, 0.4, 0.6))
EPOCHS = 20
BATCH = 64


def planted(noise: str, seed: int) -> tuple[Dataset, Tensor]:
    """Digits with planted noise, and which labels (N) are wrong."""
    data = load("digits").data
    noisy = parse(noise).corrupt(data, seed)
    return data.with_labels(noisy.labels), noisy.labels != data.labels


def averaged(
    data: Dataset, seed: int, epochs: int = EPOCHS, padding: int = 1, last: bool = False
) -> tuple[Tensor, Tensor]:
    """Probabilities (N, K) averaged over the epochs of a short training, and features (N, F)."""
    images = to_unit(data.inputs)
    draw = Draw(seed, phase="benchmark")
    spec = NetworkSpec("small_resnet", data.shape, data.num_classes)
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    network = build_network(spec, mean, std, draw)
    optimiser = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    total = torch.zeros(len(data), data.num_classes)
    probabilities = features = torch.empty(0)
    for epoch in range(epochs):
        network.train()
        order = draw.at(epoch=epoch).permutation("order", len(data))
        for step, rows in enumerate(torch.split(order, BATCH)):
            view = random_crop_flip(images[rows], draw.at(epoch=epoch, step=step), padding, False)
            loss = F.cross_entropy(network(view)["classes"], data.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        probabilities, features = score(network, images)
        total += probabilities
    return probabilities if last else total / epochs, features


def memorised(data: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """The last probabilities (N, K) and features (N, F) of a long training without augmentation."""
    return averaged(data, seed, epochs=2 * EPOCHS, padding=0, last=True)


@torch.no_grad()
def score(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, K) and penultimate features (N, F) of the plain images."""
    network.eval()
    found = [network(part, heads=("classes", "features")) for part in torch.split(images, 512)]
    logits = torch.cat([part["classes"] for part in found])
    return logits.softmax(1), torch.cat([part["features"] for part in found])


def crossval(data: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Out-of-sample probabilities (N, K) of a logistic regression, and the pixels (N, D)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    pixels = to_unit(data.inputs).flatten(1)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegression(C=0.1, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cross_val_predict(
            model, pixels.numpy(), data.labels.numpy(), cv=folds, method="predict_proba"
        )
    return torch.from_numpy(found).float(), pixels


def inputs(noise: str, seed: int, kind: str, folder: Path | None) -> dict[str, Tensor]:
    """Labels, wrong, probabilities and features of one case, from the folder if they are there."""
    path = folder / f"{kind}-{noise.replace(':', '-')}-{seed}.pt" if folder else None
    if path and path.exists():
        kept: dict[str, Tensor] = torch.load(path)
        return kept
    data, wrong = planted(noise, seed)
    makers = {"averaged": averaged, "crossval": crossval, "memorised": memorised}
    probabilities, features = makers[kind](data, seed)
    case = {
        "labels": data.labels,
        "wrong": wrong,
        "probabilities": probabilities,
        "features": features,
    }
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(case, path)
    return case


def run(noise: str, seed: int, kind: str, folder: Path | None) -> dict[str, Any]:
    """One row: the realised rate, and what every estimator and their combination say."""
    case = inputs(noise, seed, kind, folder)
    probabilities = TopProbabilities.of(case["probabilities"], case["labels"])
    start = time.perf_counter()
    found = estimate_noise(probabilities, case["features"], seed=seed)
    row: dict[str, Any] = {"noise": noise, "seed": seed, "input": kind}
    row["realised_rate"] = float(case["wrong"].double().mean())
    row["seconds"] = round(time.perf_counter() - start, 2)
    row["estimates"] = {
        each.name: [each.noise_rate, each.low, each.high] for each in found.estimates
    }
    answer = found.estimate
    row["estimates"]["combined"] = [answer.noise_rate, answer.low, answer.high]
    row["reason"] = found.reason
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Error in points (mean ± standard deviation, largest), coverage and width per estimator."""
    lines = [
        "| input | noise | estimator | n | error, points | largest | covered | half-width, points "
        "| cannot tell |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, noise in product((*KINDS, "memorised"), NOISES):
        of = [row for row in rows if (row["input"], row["noise"]) == (kind, noise)]
        for name in of[0]["estimates"] if of else ():
            said = [(row["estimates"][name], row["realised_rate"]) for row in of]
            errors = [100 * (rate - real) for (rate, _, _), real in said]
            covered = statistics.mean(low <= real <= high for (_, low, high), real in said)
            width = statistics.mean(50 * (high - low) for (_, low, high), _ in said)
            spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
            unsure = sum(row["reason"] is not None for row in of) if name == "combined" else "-"
            lines.append(
                f"| {kind} | {noise} | {name} | {len(of)} | {statistics.mean(errors):+.1f} ± "
                f"{spread:.1f} | {max(map(abs, errors)):.1f} | {covered:.0%} | {width:.1f} "
                f"| {unsure} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--noises", nargs="*", default=NOISES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--inputs", type=Path, help="folder that keeps the probabilities")
    parser.add_argument("--out", type=Path, help="write the rows here")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = list(product(options.noises, seeds, options.kinds))
    rows = Parallel(options.workers)(delayed(single_threaded)(*job, options.inputs) for job in jobs)
    print(table(rows))
    if options.out:
        described = {"versions": versions(), "hardware": hardware("cpu"), "commit": commit()}
        options.out.write_text(json.dumps({**described, "rows": rows}, indent=1) + "\n")


def single_threaded(*job: Any) -> dict[str, Any]:
    """A row on one thread: two pools on the same cores are slower than one."""
    torch.set_num_threads(1)
    return run(*job)


if __name__ == "__main__":
    main()
