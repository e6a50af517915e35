"""Every recipe binds, and every published number stands in the recipe of its cell alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from labelwise.binding import bind
from labelwise.cli import app
from labelwise.cli.lists import table
from labelwise.config import RunConfig
from labelwise.data.dataset import Dataset
from labelwise.errors import UserError
from labelwise.methods import parse_method
from labelwise.methods.dividemix import DivideMix
from labelwise.noise.parse import parse as parse_noise
from labelwise.recipes import apply_recipe, find_recipe, known_recipes
from labelwise.recipes.cells import BASES, CELLS, NUM_CLASSES, Cell
from labelwise.recipes.recipe import Recipe
from labelwise.training.chain import Chain

C10 = [*(f"cifar10-symmetric-{rate}" for rate in (20, 50, 80, 90))]
C100 = [*(f"cifar100-symmetric-{rate}" for rate in (20, 50, 80, 90))]
ASYMMETRIC = ["cifar10-asymmetric-40", "cifar10-asymmetric-49"]
SEMANTIC = [f"{data}-semantic-{net}" for data in ("cifar10", "cifar100") for net in
            ("densenet", "resnet", "vgg")]  # fmt: skip
HUMAN = ["cifar10n-aggregate", "cifar10n-random1", "cifar10n-worst"]
BOTH = {
    "dividemix": (
        "96.1/95.7 94.6/94.4 93.2/92.9 76.0/75.4 93.4/92.1 83.7/76.3 "
        "77.3/76.9 74.6/74.2 60.2/59.6 31.5/31.0"
    ),
    "scanmix": (
        "96.0/95.7 94.5/93.9 93.5/92.6 91.0/90.3 93.7/93.4 88.7/87.1 "
        "77.0/76.0 75.7/75.4 66.0/65.0 58.5/58.2"
    ),
}
"""Best and last epoch, in percent: ScanMix, table 1."""
BEST = {
    "ce": "86.8 79.4 62.9 42.7 85.0 62.0 46.7 19.9 10.1",
    "mixup": "95.6 87.1 71.6 52.2 - 67.8 57.3 30.8 14.6",
    "coteaching-plus": "89.5 85.7 67.4 47.9 - 65.6 51.8 27.9 13.7",
    "c2d": "96.4 95.3 94.4 93.6 93.5 78.7 76.4 67.8 58.7",
}
"""The baselines of the same noise, 49 % asymmetric left out."""
SINGLE: dict[str, dict[str, float]] = {
    "dividemix": {
        **dict(zip(SEMANTIC, (84.57, 81.61, 85.71, 68.40, 66.28, 66.84), strict=True)),
        **dict(zip(HUMAN, (95.6, 95.7, 93.1), strict=True)),
        "webvision": 77.32,
        "clothing1m": 74.76,
    },
    "scanmix": {
        **dict(zip(SEMANTIC, (89.70, 85.58, 89.96, 68.44, 67.36, 67.34), strict=True)),
        "webvision": 77.72,
    },
    "ce": {
        **dict(zip(HUMAN, (91.7, 90.2, 83.9), strict=True)),
        "clothing1m": 69.2,
        "animal10n": 79.4,
    },
    "coteaching": {"webvision": 63.6},
    "c2d": {"webvision": 79.4, "clothing1m": 74.30},
    "sanm-dividemix": {"clothing1m": 75.63},
    "sanm-c2d": {"cifar10-symmetric-50": 96.4},
}
"""Cells with one number."""
ROWS = {
    "ce": "ce",
    "mixup": "mixup",
    "coteaching": "coteaching",
    "coteaching-plus": "coteaching+",
    "dividemix": "dividemix",
    "c2d": "c2d",
    "scanmix": "scanmix",
    "scan": "clusters",
    "sanm-dividemix": "sanm+dividemix",
    "sanm-c2d": "sanm+c2d",
    "tscsi": "tscsi",
    "hallucination": "hallucination",
}
"""Names of recipes start with the key; the value is their method and row."""


def published() -> Iterator[tuple[str, float | None, float | None]]:
    """Recipe, last epochs, best epoch."""
    cells = [*C10, *ASYMMETRIC, *C100]
    for row, text in BOTH.items():
        for cell, pair in zip(cells, text.split(), strict=True):
            best, last = map(float, pair.split("/"))
            yield f"{row}-{cell}", last, best
    for row, text in BEST.items():
        for cell, best in zip([*C10, ASYMMETRIC[0], *C100], text.split(), strict=True):
            if best != "-":
                yield f"{row}-{cell}", None, float(best)
    for row, found in SINGLE.items():
        for cell, number in found.items():
            yield f"{row}-{cell}", None, number


def test_every_number_stands_in_exactly_the_recipe_of_its_cell() -> None:
    wanted = {name: (last, best) for name, last, best in published()}
    assert len(wanted) == 20 + 34 + 11 + 7 + 5 + 1 + 2 + 1 + 1
    found = {
        name: (recipe.paper_accuracy, recipe.paper_best)
        for name, recipe in known_recipes().items()
        if recipe.paper_accuracy is not None or recipe.paper_best is not None
    }
    assert found == wanted
    assert all(known_recipes()[name].source for name in wanted)


def test_the_last_epochs_are_never_above_the_best() -> None:
    for name, recipe in known_recipes().items():
        if recipe.paper_accuracy is not None and recipe.paper_best is not None:
            assert recipe.paper_accuracy <= recipe.paper_best, name
        if recipe.paper_accuracy is None and recipe.paper_best is None:
            assert not recipe.source, name


def test_every_method_has_a_recipe_for_every_cell() -> None:
    found = known_recipes()
    for prefix, method in ROWS.items():
        for cell in CELLS:
            recipe = found[f"{prefix}-{cell.key}"]
            assert (recipe.method, recipe.row) == (method, method)
            assert (recipe.dataset, recipe.column) == (cell.dataset, cell.column)
            assert (recipe.noise, recipe.label_column) == (cell.noise, cell.label_column)
    filled = Counter((r.dataset, r.row, r.column) for r in found.values() if r.row)
    assert len(filled) == len(ROWS) * len(CELLS) + 1  # and SANM as coded, a row of its own
    assert set(filled.values()) == {1}
    levels = Counter((cell.dataset, cell.kind) for cell in CELLS)
    assert levels == {
        ("cifar10", "symmetric"): 4,
        ("cifar10", "asymmetric"): 2,
        ("cifar10", "semantic"): 3,
        ("cifar10", "instance"): 4,
        ("cifar100", "symmetric"): 4,
        ("cifar100", "semantic"): 3,
        ("cifar100", "instance"): 4,
        ("cifar10n", "human"): 5,
        **{(name, ""): 1 for name in ("cifar100n", "webvision", "clothing1m", "animal10n")},
    }


@cache
def made_up(num_classes: int) -> Dataset:
    """Two tiny images a class, or 20 in all."""
    count = max(20, 2 * num_classes)
    labels = torch.arange(count) % num_classes
    inputs = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    names = tuple(f"class {number:03}" for number in range(num_classes))
    return Dataset(inputs, labels, names, np.arange(count))


def parsed(recipe: Recipe) -> RunConfig:
    fields = {
        name: getattr(recipe, name)
        for name in ("method", "model", "pretrain", "noise", "label_column", "image_size")
    }
    return RunConfig.parse(
        {"data": "x", "settings": recipe.settings, "schedule": recipe.schedule, **fields},
        "the run",
    )


def test_every_recipe_binds() -> None:
    for name, recipe in known_recipes().items():
        train = made_up(NUM_CLASSES.get(str(recipe.dataset), 10))
        method = bind(parsed(recipe), train)
        main = method.parts[-1] if isinstance(method, Chain) else method
        for field, value in recipe.schedule.items():
            assert getattr(main.schedule, field) == value, (name, field)
        if recipe.noise is not None:
            parse_noise(recipe.noise)


def test_recipes_set_what_the_papers_say() -> None:
    found = known_recipes()
    weights = {"cifar10": (0, 25, 25, 50), "cifar100": (25, 150, 150, 150)}
    for row in ("dividemix", "scanmix", "c2d", "sanm-dividemix", "sanm-c2d"):
        for data, values in weights.items():
            for rate, weight in zip((20, 50, 80, 90), values, strict=True):
                settings = found[f"{row}-{data}-symmetric-{rate}"].settings
                assert settings["lambda_u"] == weight
                assert settings["threshold"] == (0.6 if rate == 90 else 0.5)
        settings = found[f"{row}-cifar10-asymmetric-40"].settings
        assert (settings["lambda_u"], settings["confidence_penalty"]) == (0, 1.0)
        assert found[f"{row}-cifar10-semantic-vgg"].settings["confidence_penalty"] == 1.0
    for name, recipe in found.items():
        if recipe.dataset in ("cifar10", "cifar100") and recipe.method != "clusters":
            epochs = 360 if recipe.method.startswith("sanm") else 300
            assert recipe.schedule["epochs"] == epochs, name
            assert recipe.schedule["decay_at"] * epochs == pytest.approx(150), name
            assert recipe.model == "preact_resnet18"
    assert found["dividemix-cifar10-symmetric-50"].schedule["warmup"] == 10
    assert found["dividemix-cifar100-symmetric-50"].schedule["warmup"] == 30
    assert found["c2d-cifar100-symmetric-50"].schedule["warmup"] == 5
    web = found["scanmix-webvision"]
    assert (web.model, web.image_size, web.pretrain) == ("inception_resnet_v2", 227, "moco")
    assert (web.schedule["batch_size"], web.schedule["epochs"]) == (64, 100)
    assert web.settings["alpha"] == 0.5
    assert web.settings["moco.lr"] == 0.015
    assert found["c2d-webvision"].model == "resnet50"
    assert found["sanm-dividemix-clothing1m"].settings["sanm.reconstruction_weight"] == 0.3
    assert found["ce-clothing1m"].model == "resnet50"
    assert found["dividemix-cifar10n-worst"].label_column == "human_worst"
    assert found["dividemix-cifar10-semantic-vgg"].label_column == "semantic_vgg"


def test_what_is_not_of_a_paper_says_so() -> None:
    found = known_recipes()
    for name in ("dividemix-cifar10-asymmetric-49", "ce-cifar10-symmetric-20", "c2d-animal10n",
                 "hallucination-cifar10-instance-40", "scanmix-cifar100-semantic-vgg",
                 "tscsi-cifar10-instance-40", "tscsi-cifar10-symmetric-50"):  # fmt: skip
        assert "settings ours" in found[name].summary, name
    assert "ours: backbone and warm-up" in found["tscsi-cifar10-instance-40"].summary
    assert "ours" not in found["dividemix-cifar10-symmetric-50"].summary
    assert "learning rate, warm-up and λ_u ours" in found["scanmix-webvision"].summary
    assert "SimCLR as in ScanMix" in found["sanm-c2d-cifar10-symmetric-50"].summary


def test_the_share_of_wrong_labels_of_a_cell() -> None:
    assert Cell("cifar10", "symmetric", 50).wrong == pytest.approx(0.45)
    assert Cell("cifar100", "symmetric", 50).wrong == pytest.approx(0.495)
    assert Cell("cifar10", "asymmetric", 40).wrong == pytest.approx(0.2)
    assert Cell("cifar10", "instance", 40).wrong == 0.4
    assert Cell("cifar10n", "human", "worst").wrong == 0.402
    recipe = find_recipe("coteaching-cifar10-symmetric-50")
    assert recipe.settings["coteaching.noise_rate"] == pytest.approx(0.45)


def test_a_recipe_derives_from_another_without_touching_it() -> None:
    base = Recipe(method="ce", summary="a", settings={"x": 1}, schedule={"lr": 0.1, "epochs": 3},
                  row="ce", column="c", paper_accuracy=50, paper_best=60, source="s")  # fmt: skip
    made = base.derive(method="mixup", settings={"y": 2}, schedule={"lr": 0.2})
    assert made.settings == {"x": 1, "y": 2}
    assert made.schedule == {"lr": 0.2, "epochs": 3}
    assert (made.paper_accuracy, made.row) == (50, "ce")
    assert base.settings == {"x": 1}
    changed = base.changed("b", x=3)
    assert changed.settings == {"x": 3}
    gone = ("paper_accuracy", "paper_best", "row", "column", "source")
    assert not any(getattr(changed, name) for name in gone)
    with pytest.raises(ValueError, match="extra"):
        base.derive(nothing=1)


# -- applying --------------------------------------------------------------------------------


def applied(name: str, **options: Any) -> dict[str, Any]:
    given = {"method": None, "model": "auto", "noise": None, "label_column": None,
             "image_size": None, "plant": 0.03, **options}  # fmt: skip
    return apply_recipe(name, given, {}, {})[0]


def test_labels_and_image_size_come_from_the_recipe_unless_given() -> None:
    human = "dividemix-cifar10n-worst"
    assert applied(human)["label_column"] == "human_worst"
    assert applied(human)["noise"] is None
    other = applied(human, label_column="mine")
    assert (other["label_column"], other["noise"]) == ("mine", None)
    planted = applied(human, noise="symmetric:0.2")
    assert (planted["label_column"], planted["noise"]) == (None, "symmetric:0.2")
    symmetric = "dividemix-cifar10-symmetric-50"
    assert applied(symmetric)["noise"] == "symmetric:0.5"
    assert applied(symmetric, label_column="mine")["noise"] is None
    assert applied("ce-webvision")["image_size"] == 227
    assert applied("ce-webvision", image_size=64)["image_size"] == 64
    assert applied(symmetric)["image_size"] is None
    assert applied(symmetric)["plant"] == 0.0
    assert applied("ce-webvision", model="resnet18")["model"] == "resnet18"


def lasting(name: str, epochs: int, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and schedule of a recipe for a number of epochs."""
    return apply_recipe(name, {"method": None}, settings, {"epochs": epochs})[1:]


def test_what_is_counted_in_epochs_keeps_its_share_of_other_epochs() -> None:
    settings, schedule = lasting("dividemix-cifar100-symmetric-50", 30)
    assert (schedule["epochs"], schedule["warmup"], settings["ramp_epochs"]) == (30, 3, 2)
    settings, schedule = lasting("dividemix-cifar100-symmetric-50", 3)
    assert (schedule["warmup"], settings["ramp_epochs"]) == (1, 1)
    assert lasting("dividemix-cifar100-symmetric-50", 600)[1]["warmup"] == 60
    settings, schedule = lasting("coteaching-plus-cifar10-symmetric-50", 60)
    assert settings["coteaching+.initial_epochs"] == 4
    assert (schedule["warmup"], settings["coteaching+.ramp_epochs"]) == (2, 2)
    assert lasting("scan-cifar10-symmetric-50", 5)[1]["warmup"] == 0  # there is none
    assert lasting("scanmix-cifar10-symmetric-50", 30)[0]["simclr.epochs"] == 500
    assert lasting("scanmix", 30) == (find_recipe("scanmix").settings, {"epochs": 30})


def test_what_is_counted_in_epochs_and_given_is_kept() -> None:
    name = "coteaching-plus-cifar10-symmetric-50"
    kept, _ = lasting(name, 60, **{"coteaching+.ramp_epochs": 7})
    assert (kept["coteaching+.ramp_epochs"], kept["coteaching+.initial_epochs"]) == (7, 4)
    bare = parse_method("coteaching+", lasting(name, 60, ramp_epochs=7)[0])
    assert bare.settings.ramp_epochs == 7  # type: ignore[attr-defined]
    _, _, schedule = apply_recipe(name, {}, {}, {"epochs": 60, "warmup": 9})
    assert schedule["warmup"] == 9
    with pytest.raises(UserError, match="epochs = 0 is not valid"):
        lasting(name, 0)


def test_recipes_of_their_own_length_are_unchanged() -> None:
    for name, recipe in known_recipes().items():
        for given in ({}, {"epochs": recipe.schedule["epochs"]} if recipe.schedule else {}):
            _, settings, schedule = apply_recipe(name, {}, {}, given)
            assert json.dumps(settings) == json.dumps(recipe.settings), name
            assert json.dumps(schedule) == json.dumps(recipe.schedule), name


def fitted(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What `labelwise fit` asks for, without a run."""
    asked: dict[str, Any] = {}

    def fit(data: object, **options: Any) -> None:
        asked.update(options)
        raise UserError("asked")

    monkeypatch.setattr("labelwise.estimator.fit", fit)
    result = CliRunner().invoke(app, ["fit", "digits", *words])
    assert result.exit_code == 2, result.output
    return asked


def test_what_is_given_beside_a_recipe_wins_though_it_be_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = ("--recipe", "dividemix-cifar10-symmetric-50")
    asked = fitted(monkeypatch, *recipe)
    assert (asked["model"], asked["plant"]) == ("preact_resnet18", 0.0)
    assert asked["schedule"] == find_recipe(recipe[1]).schedule
    asked = fitted(monkeypatch, *recipe, "--plant", "0.03", "--model", "auto", "--epochs", "30")
    assert (asked["model"], asked["plant"]) == ("auto", 0.03)
    assert (asked["schedule"]["warmup"], asked["settings"]["ramp_epochs"]) == (1, 2)
    asked = fitted(monkeypatch, *recipe, "--set", "schedule.epochs=60")
    assert (asked["schedule"]["epochs"], asked["schedule"]["warmup"]) == (60, 2)
    asked = fitted(monkeypatch, "--method", "ce")
    config = RunConfig(data="digits", **{k: asked[k] for k in ("model", "plant") if k in asked})
    assert (config.model, config.plant) == ("auto", 0.03)


def test_unknown_recipes_and_other_methods_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'scanmix-cifar10-symmetric-90'") as caught:
        applied("scanmix-cifar10-symmetric-91")
    assert len(str(caught.value)) < 400  # not some hundreds of names
    with pytest.raises(UserError, match="is for the method 'dividemix'"):
        applied("dividemix-cifar10n-worst", method="ce")


# -- the command -----------------------------------------------------------------------------


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["recipes", *words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_recipes_are_listed_by_data_set_with_their_numbers() -> None:
    lines = call("--dataset", "cifar10", "--method", "scanmix").splitlines()
    assert len(lines) == 13
    (line,) = (line for line in lines if line.startswith("scanmix-cifar10-symmetric-90 "))
    assert line.split() == ["scanmix-cifar10-symmetric-90", "90.3", "91.0", "symmetric", "90", "%"]
    assert len({line.index("  symmetric") for line in lines if "  symmetric" in line}) == 1
    assert "89.70" not in call("--match", "cifar100-semantic")
    listed = json.loads(call("--match", "SEMANTIC-VGG", "--json"))
    assert set(listed) == {name for name in known_recipes() if "semantic-vgg" in name}
    assert listed["scanmix-cifar10-semantic-vgg"]["paper_best"] == 89.96


def test_people_get_headings_by_data_set() -> None:
    found = {name: r for name, r in known_recipes().items() if r.method == "ce"}
    text = "\n".join(table(found, headings=True))
    order = [text.index(title) for title in ("CIFAR-10 ", "CIFAR-100 ", "CIFAR-10N", "Animal-10N")]
    assert order == sorted(order)
    assert text.count("last") == len(BASES)
    assert len(list(table(found, headings=False))) == len(found)


def test_one_recipe_is_shown_with_all_that_it_sets() -> None:
    for name in ("scanmix-webvision", "dividemix-cifar10n-worst", "hallucination-easy-only"):
        text, recipe = call(name), find_recipe(name)
        assert f"--recipe {name}" in text
        for setting, value in {**recipe.settings, **recipe.schedule}.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            assert f"{setting}={shown}\n" in text + "\n"
    assert "--label-column human_worst" in call("dividemix-cifar10n-worst")
    assert "--test cifar-10-batches-bin/test_batch.bin" in call("dividemix-cifar10n-worst")
    assert "CIFAR-10_human.pt of CIFAR-N beside the batches" in call("dividemix-cifar10n-worst")
    assert "semantic_vgg.npy or semantic_vgg.txt" in call("scanmix-cifar100-semantic-vgg")
    assert "DATA and TEST: yours" in call("scanmix-webvision")
    assert "DATA: yours" in call("scan")
    assert "yours" not in call("ce-cifar10-symmetric-50")
    assert set(json.loads(call("scan", "--json"))) == {"scan"}


def test_what_a_recipe_shows_sets_the_same_as_the_recipe() -> None:
    from labelwise.cli.shared import parse_assignments

    for name in ("scanmix-cifar10-symmetric-90", "sanm-c2d-cifar10-symmetric-50"):
        lines = [line.strip() for line in call(name).splitlines()]
        settings, schedule = parse_assignments([x[6:] for x in lines if x.startswith("--set ")])
        assert settings == find_recipe(name).settings
        assert schedule == find_recipe(name).schedule
        parse_method(find_recipe(name).method)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("scanmix-webvison",), "Did you mean 'scanmix-webvision'"),
        (("--dataset", "cifar"), "Did you mean 'cifar10'"),
        (("--method", "dividemx"), "Did you mean 'dividemix'"),
        (("--match", "no such thing"), "no recipe is all of that"),
        (("ce-webvision", "--dataset", "cifar10"), "unknown data set"),
    ],
)
def test_unknown_names_suggest_the_nearest(words: tuple[str, ...], message: str) -> None:
    assert message in call(*words, code=2)


def test_presets_and_recipes_agree() -> None:
    for preset, values in DivideMix.presets.items():
        assert find_recipe(f"dividemix-{preset}").settings == values
