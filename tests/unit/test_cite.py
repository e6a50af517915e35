"""What `labelwise cite` names: exactly what a run used, each work once, labelwise last."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import labelwise
from labelwise.augment.view import View
from labelwise.citations import DATASETS, LIBRARY, WORKS, Work, escaped, find_work, works_of_data
from labelwise.cli import app
from labelwise.cli.cite import cited, used_by
from labelwise.discovery import discover
from labelwise.methods import known_methods
from labelwise.models.build import TimmBackbone
from labelwise.models.network import Backbone
from labelwise.noise.parse import processes
from labelwise.pretraining import known_pretraining
from labelwise.recipes import known_recipes
from labelwise.recipes.cells import BASES

DIVIDEMIX, SIMCLR, SCAN, SCANMIX, SANM = (
    "li2020dividemix",
    "chen2020simclr",
    "vangansbeke2020scan",
    "sachdeva2023scanmix",
    "tu2023sanm",
)
RESNET, CIFAR, CIFAR_N = "he2016identity", "krizhevsky2009learning", "wei2022cifarn"


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["cite", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def keys(name: str) -> list[str]:
    return [row["key"] for row in cited(used_by(name))]


def described(**fields: Any) -> dict[str, Any]:
    """A config.json as a run writes it, as far as it matters here."""
    config = {"data": "/x/digits", "model": "small_resnet", "label_column": None}
    config |= fields.pop("config", {})
    return {"config": config, "data": {"name": "digits"}, "noise": None, "citation": "", **fields}


def written(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_everything_that_the_package_cites_is_known() -> None:
    cite = [
        *(kind.citation for kind in known_methods().values()),
        *(kind.citation for kind in known_pretraining().values()),
        *(kind.citation for kind in processes().values()),
        *(kind.citation for kind in discover("labelwise.models", Backbone).values()),
        TimmBackbone.citation,
    ]
    assert len(cite) > 25
    for citation in filter(None, cite):
        found = find_work(citation)
        assert found is not None, f"add it to labelwise.citations.WORKS: {citation}"
        year = re.search(r"\b(19|20)\d\d\b(?!\.)", citation.partition("arXiv")[0])
        assert year is None or int(year[0]) == found.year, citation
    assert "weak" in discover("labelwise.augment", View)  # views name works of their own


def test_works_are_well_formed() -> None:
    assert len({work.key for work in WORKS}) == len(WORKS)
    numbers = [work.arxiv for work in WORKS if work.arxiv]
    assert len(set(numbers)) == len(numbers)
    for work in WORKS:
        assert re.fullmatch(r"[a-z]+(19|20)\d\d[a-z0-9]*", work.key), work.key
        assert str(work.year) in work.key
        assert work.authors
        assert all(name == name.strip() for name in work.authors)
        surname = work.authors[0].partition(",")[0].split()[-1].lower().replace("-", "")
        assert surname in work.key, work.key
    assert {key for names in DATASETS.values() for key in names} <= {w.key for w in WORKS}


def fields_of(text: str) -> dict[str, str]:
    """The fields of a BibTeX entry; braces must balance and no key come twice."""
    depth = 0
    for before, character in zip(" " + text, text, strict=False):
        depth += {"{": 1, "}": -1}.get(character, 0) * (before != "\\")
        assert depth >= 0
    assert depth == 0
    pairs = re.findall(r"^  (\w+) += \{(.*)\},$", text, flags=re.M)
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_bibtex_entries_can_be_parsed() -> None:
    for work in (*WORKS, LIBRARY):
        text = work.bibtex
        assert re.match(r"@(inproceedings|article|book|techreport|misc)\{\w+,\n", text)
        fields = fields_of(text)
        assert {"author", "title"} <= fields.keys()
        assert fields["author"].count(" and ") == len(work.authors) - 1
        assert ("eprint" in fields) == bool(work.arxiv)
        assert ("year" in fields) == bool(work.year)
        place = {"article": "journal", "book": "publisher", "techreport": "institution"}
        place |= {"inproceedings": "booktitle"}
        if work.kind in place:
            assert fields[place[work.kind]]
    assert fields_of(LIBRARY.bibtex)["author"] == "{The labelwise developers}"
    assert labelwise.__version__ in LIBRARY.bibtex


def test_names_and_special_characters() -> None:
    work = Work("a2020b", ("Van Gool, Luc", "Ann Lee"), "50 % & more_", "P", 2020)
    assert work.text == "Van Gool, Lee, 50 % & more_, P, 2020"
    assert "Van Gool, Luc and Ann Lee" in work.bibtex
    assert r"{{50 \% \& more\_}}" in work.bibtex
    assert escaped("a{b}#$") == r"a\{b\}\#\$"
    assert find_work("Somebody, Something, 2031") is None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ce", ["goodfellow2016deep"]),
        ("dividemix", [DIVIDEMIX]),
        ("coteaching+", ["yu2019disagreement"]),
        ("sanm+dividemix", [SANM, DIVIDEMIX]),
        ("scanmix", [SIMCLR, SCAN, SCANMIX]),
        ("moco", ["chen2020mocov2"]),
        ("dividemix-cifar10-symmetric-50", [DIVIDEMIX, RESNET, CIFAR]),
        ("sanm-dividemix-cifar10-instance-40", [SANM, DIVIDEMIX, "xia2020part", RESNET, CIFAR]),
        ("ce-cifar10n-worst", ["goodfellow2016deep", RESNET, CIFAR, CIFAR_N]),
        ("ce-cifar100-semantic-vgg", ["goodfellow2016deep", "lee2019robust", RESNET, CIFAR]),
        (
            "scanmix-webvision",
            ["chen2020mocov2", SCAN, SCANMIX, "wightman2019timm", "li2017webvision"],
        ),
        ("ce-animal10n", ["goodfellow2016deep", "wightman2019timm", "song2019selfie"]),
    ],
)
def test_methods_and_recipes_cite_what_they_use(name: str, wanted: list[str]) -> None:
    assert keys(name) == [*wanted, "labelwise"]


def test_every_recipe_can_be_cited() -> None:
    for dataset in BASES:
        assert works_of_data(dataset), dataset
    for name in known_recipes():
        found = keys(name)
        assert len(found) > 1
        assert len(set(found)) == len(found)
        assert not any(key.startswith("unknown") for key in found), name


def test_a_run_cites_what_its_configuration_says(tmp_path: Path) -> None:
    """The same work under two names (method and noise) is named once."""
    content = described(
        citation=f"{known_pretraining()['simclr'].citation}; {known_methods()['c2d'].citation}; "
        f"{known_methods()['dividemix'].citation}",
        noise={"process": "symmetric", "citation": processes()["symmetric"].citation},
    )
    run = written(tmp_path / "run", content)
    found = json.loads(call(run, "--json"))
    assert [row["key"] for row in found] == [
        *(SIMCLR, "zheltonozhskii2022c2d", DIVIDEMIX, RESNET, "alpaydin1998digits", "labelwise"),
    ]
    (shared,) = (row for row in found if row["key"] == DIVIDEMIX)
    assert shared["for"] == ["method", "noise"]
    lines = call(run).splitlines()
    assert len(lines) == len(found)
    assert lines[-1].startswith("library: ")
    assert lines[2].startswith("method, noise: Li, Socher, Hoi, DivideMix")
    entries = call(run, "--bibtex").strip().split("\n\n")
    assert [re.match(r"@\w+\{(\w+),", text)[1] for text in entries] == [  # type: ignore[index]
        row["key"] for row in found
    ]


def test_a_run_cites_what_its_networks_went_through_before(tmp_path: Path) -> None:
    """`--init` starts from networks that the method's own citation does not know."""
    dividemix = known_methods()["dividemix"].citation
    digits = [RESNET, "alpaydin1998digits", "labelwise"]
    before = described(citation=dividemix, pretrained_by=["moco", "scan"])
    run = written(tmp_path / "before", before)
    assert keys(str(run)) == ["chen2020mocov2", SCAN, DIVIDEMIX, *digits]
    twice = f"{known_pretraining()['simclr'].citation}; {dividemix}"
    run = written(tmp_path / "twice", described(citation=twice, pretrained_by=["simclr"]))
    assert keys(str(run)) == [SIMCLR, DIVIDEMIX, *digits]
    other = described(citation=dividemix, pretrained_by=["later", None, []])
    assert keys(str(written(tmp_path / "other", other))) == [DIVIDEMIX, *digits]


def test_a_run_on_labels_of_classifiers_cites_what_its_recipe_does(tmp_path: Path) -> None:
    config = {"label_column": "semantic_vgg", "model": "preact_resnet18",
              "data": "/x/cifar-100-python"}  # fmt: skip
    content = described(citation=known_methods()["ce"].citation, config=config)
    run = written(tmp_path / "run", {**content, "data": {"name": "cifar-100-python"}})
    assert keys(str(run)) == keys("ce-cifar100-semantic-vgg")
    assert "lee2019robust" in keys(str(run))
    config["label_column"] = "semantics"  # a column of another name
    run = written(tmp_path / "run", {**content, "data": {"name": "cifar-100-python"},
                                     "config": config})  # fmt: skip
    assert "lee2019robust" not in keys(str(run))


def test_a_real_run_can_be_cited(tmp_path: Path) -> None:
    labelwise.fit("digits", method="ce", out=tmp_path / "run", limit=60, epochs=1, model="auto",
                  noise="symmetric:0.2")  # fmt: skip
    assert keys(str(tmp_path / "run")) == [
        *("goodfellow2016deep", DIVIDEMIX, RESNET, "alpaydin1998digits", "labelwise"),
    ]


@pytest.mark.parametrize(
    ("name", "column", "wanted"),
    [
        ("cifar-10-batches-bin", "", [CIFAR]),
        ("cifar10_train", "human_worst", [CIFAR, CIFAR_N]),
        ("cifar-100-python", "human", [CIFAR, CIFAR_N]),
        ("CIFAR-10N", "", [CIFAR, CIFAR_N]),
        ("cifar10_noisy", "", [CIFAR]),
        ("webvision50", "", ["li2017webvision"]),
        ("Clothing-1M", "", ["xiao2015clothing"]),
        ("animal10n", "human", ["song2019selfie"]),
        ("digits", "", ["alpaydin1998digits"]),
        ("my_digits", "", []),
        ("photos", "human", []),
    ],
)
def test_data_sets_are_told_by_their_names(name: str, column: str, wanted: list[str]) -> None:
    assert [work.key for work in works_of_data(name, column)] == wanted


def test_a_citation_that_is_not_known_is_printed_all_the_same(tmp_path: Path) -> None:
    run = written(tmp_path / "run", described(citation="Doe & Roe, New_Method, 2031; Poe, 2032"))
    assert "method: Doe & Roe, New_Method, 2031\n" in call(run)
    text = call(run, "--bibtex")
    assert r"note = {Doe \& Roe, New\_Method, 2031}," in text
    assert "@misc{unknown1," in text
    assert "@misc{unknown2," in text


def test_bad_input_is_named(tmp_path: Path) -> None:
    assert "is not a run folder (it has no config.json)" in call(tmp_path, code=2)
    assert "Did you mean 'dividemix'" in call("dividemx", code=2)
    assert "Did you mean 'dividemix'" in call("sanm+dividemx", code=2)
    assert "is no run folder, method or recipe" in call(tmp_path / "nothing", code=2)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in call(tmp_path, code=2)
    (tmp_path / "config.json").write_text('{"config": 3}')
    assert "is not that of a labelwise run" in call(tmp_path, code=2)
