"""Semantic noise: exact rates, hard samples, and judges that never saw what they judge."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from labelwise.data.dataset import Dataset
from labelwise.data.load import load
from labelwise.errors import UserError
from labelwise.noise import semantic
from labelwise.noise.confusions import LEAST, Judge, parts, pooled
from labelwise.noise.draws import Draws, id_words
from labelwise.noise.semantic import Semantic, confusions

torch.set_num_threads(1)
DIGITS = load("digits").data


def independent_margin() -> np.ndarray:
    """Log-probability margin (N) of the best wrong class, by a linear model on other folds."""
    features, labels = DIGITS.inputs.flatten(1).numpy() / 255.0, DIGITS.labels.numpy()
    fold = np.random.default_rng(0).integers(3, size=len(labels))
    margin = np.empty(len(labels))
    for number in range(3):
        test = fold == number
        model = LogisticRegression(C=0.3, max_iter=300).fit(features[~test], labels[~test])
        logits = model.decision_function(features[test])
        own = logits[np.arange(test.sum()), labels[test]].copy()
        logits[np.arange(test.sum()), labels[test]] = -np.inf
        margin[test] = logits.max(1) - own
    return margin


def test_flips_hit_what_another_classifier_finds_hard() -> None:
    noisy = Semantic(0.1).corrupt(DIGITS, 0)
    flipped = (noisy.labels != DIGITS.labels).numpy()
    margin = independent_margin()
    assert flipped.sum() == round(0.1 * len(DIGITS))
    assert margin[flipped].mean() > margin[~flipped].mean() + 2
    hard = margin > np.quantile(margin, 0.9)
    assert flipped[hard].mean() > 4 * flipped[~hard].mean()


def test_wrong_labels_are_the_class_a_sample_resembles() -> None:
    """Eights become ones, threes and nines; symmetric noise would spread over nine classes."""
    confused = Semantic(0.1).corrupt(DIGITS, 0).transition_matrix.fill_diagonal_(0)
    assert confused[8, [1, 2, 3, 5, 9]].sum() > 0.8 * confused[8].sum()
    share = confused / confused.sum(1, keepdim=True).clamp_min(1e-9)
    assert share.max(1).values.mean() > 0.4


def test_an_impostor_takes_the_class_it_shows() -> None:
    """Of two separable classes, the few samples that carry the other's input are flipped first."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    inputs = torch.randn(400, 8, generator=generator) + 4 * labels[:, None]
    impostors = torch.arange(0, 400, 20)
    inputs[impostors] = (
        torch.randn(20, 8, generator=generator) + 4 * (1 - labels[impostors])[:, None]
    )
    data = Dataset(inputs, labels, ("a", "b"), np.arange(400))
    noisy = Semantic(0.05).corrupt(data, 0)
    assert torch.equal((noisy.labels != labels).nonzero().flatten(), impostors)


def test_nobody_judges_what_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[bytes]] = []
    judged: list[list[bytes]] = []

    class Watched(Judge):
        def __init__(self, features: np.ndarray, labels: torch.Tensor, seed: int) -> None:
            super().__init__(features, labels, seed)
            seen.append({row.tobytes() for row in features})
            judged.append([])

        def logits(self, features: np.ndarray, num_classes: int) -> torch.Tensor:
            judged[-1].extend(row.tobytes() for row in features)
            return super().logits(features, num_classes)

    monkeypatch.setattr(semantic, "Judge", Watched)
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    data = Dataset(rows, torch.arange(500) % 5, tuple("abcde"), np.arange(500))
    margin, _ = confusions(data, Draws(id_words(data.ids), 0, "semantic"))
    assert margin.isfinite().all()
    assert not seen[0] & seen[1]
    assert not seen[0] & set(judged[0])
    assert set(judged[1]) == seen[0]
    assert len(judged[0]) + len(judged[1]) == 500
    assert len(set(judged[0]) | set(judged[1])) == 500


def test_parts_are_stratified_and_disjoint() -> None:
    labels = torch.cat([torch.full((count,), k) for k, count in enumerate((1000, 30, 3, 1))])
    level = torch.rand(len(labels), generator=torch.Generator().manual_seed(0))
    part = parts(labels, level, 4)
    for label, size in enumerate((200, 15, 1, 0)):
        own = part[labels == label]
        assert int((own == 0).sum()) == int((own == 1).sum()) == size
    assert LEAST == 20
    large = parts(torch.zeros(200_000, dtype=torch.int64), torch.rand(200_000), 1)
    assert int((large == 0).sum()) == 10_000


def test_two_classes_and_absent_classes_have_proper_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2 * 2  # classes 0 and 2 of 4
    features = (torch.randn(80, 5, generator=generator) + 3 * labels[:, None]).numpy()
    judge = Judge(features, labels, 0)
    logits = judge.logits(features, 4)
    assert (logits[:, [1, 3]] == -torch.inf).all()
    np.testing.assert_allclose(
        logits[:, [0, 2]].softmax(1).numpy(),
        judge.network.predict_proba((features - judge.mean) * judge.scale),
        atol=1e-5,
    )
    assert torch.equal(logits.argmax(1), labels)


def test_large_images_are_pooled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 64, 48), dtype=torch.uint8, generator=generator)
    rows = torch.tensor([5, 0, 3])
    whole = pooled(images, rows)
    assert whole.shape == (3, 3 * 16 * 16)
    expected = images[rows].float().reshape(3, 3, 16, 4, 16, 3).mean((3, 5)).flatten(1) / 255
    np.testing.assert_allclose(whole, expected.numpy(), atol=1e-6)
    monkeypatch.setattr("labelwise.noise.confusions.BLOCK_VALUES", 1)
    np.testing.assert_array_equal(pooled(images, rows), whole)


def test_too_few_samples_are_explained() -> None:
    data = Dataset(torch.randn(3, 4), torch.arange(3), tuple("abc"), np.arange(3))
    with pytest.raises(UserError, match=r"can change 0 of the 3 labels .* too few samples"):
        Semantic(0.5).corrupt(data, 0)
