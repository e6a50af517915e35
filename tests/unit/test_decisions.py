"""Decisions of a person, applied to run folders written by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from labelwise import cli
from labelwise.audit.decisions import apply_decisions
from labelwise.audit.verdicts import FORMULA, plain, read_decisions
from labelwise.data.load import load
from labelwise.errors import UserError

CLASSES = ("cat", "dog", "bird")
RUNNER = CliRunner()


def write_run(
    path: Path,
    ids: list[Any],
    given: list[str],
    suggested: list[str] | None = None,
    classes: tuple[str, ...] = CLASSES,
    **config: Any,
) -> Path:
    """What `apply` reads of a run: its description and its labels."""
    path.mkdir(parents=True)
    suggested = given if suggested is None else suggested
    described = {
        "config": {"data": "x", "method": "ce", **config},
        "data": {"name": "x", "kind": "images", "classes": list(classes)},
        "noise": None,
    }
    (path / "config.json").write_text(json.dumps(described), encoding="utf-8")
    differs = [one != other for one, other in zip(given, suggested, strict=True)]
    pd.DataFrame(
        {
            "id": ids,
            "given_label": given,
            "label_quality": [0.1 if d else 0.9 for d in differs],
            "predicted_label": suggested,
            "suggested_label": suggested,
            "suggestion_confidence": 0.8,
            "is_suspect": differs,
        }
    ).to_parquet(path / "labels.parquet", index=False)
    return path


def write_decisions(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """As the page writes them: all cells quoted, formulas with an apostrophe in front."""

    def cell(text: str) -> str:
        return f"'{text}" if text[:1] and text[0] in FORMULA + "'" else text

    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(("id", "given_label", "decision", "label"))
    writer.writerows([tuple(map(cell, row)) for row in rows])
    path.write_bytes(text.getvalue().encode("utf-8-sig"))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    given = ["cat", "cat", "dog", "dog", "bird"]
    return write_run(tmp_path / "run", list("abcde"), given, ["cat", "dog", "dog", "bird", "bird"])


def test_decisions_are_applied(run: Path, tmp_path: Path) -> None:
    rows = [("a", "cat", "keep", "cat"), ("b", "cat", "fix", "bird"), ("c", "dog", "drop", "")]
    file = write_decisions(tmp_path / "decisions.csv", rows)
    done = apply_decisions(run, file, tmp_path / "clean.parquet")
    assert done.counts == {"kept": 1, "fixed": 1, "dropped": 1, "undecided": 2, "suggested": 0}
    table = pd.read_parquet(done.path)
    assert list(table.columns) == ["id", "label", "given_label", "was"]
    assert table.to_numpy().tolist() == [
        ["a", "cat", "cat", "kept"],
        ["b", "bird", "cat", "fixed"],
        ["d", "dog", "dog", "undecided"],
        ["e", "bird", "bird", "undecided"],
    ]


@pytest.mark.parametrize("rule", ["suggest", "drop-suspects"])
def test_undecided_samples_follow_the_rule(run: Path, tmp_path: Path, rule: Any) -> None:
    file = write_decisions(tmp_path / "decisions.csv", [("b", "cat", "keep", "cat")])
    done = apply_decisions(run, file, tmp_path / "clean.csv", undecided=rule)
    table = pd.read_csv(done.path, index_col="id")
    assert table.label["b"] == "cat"  # a person's word counts more than the rule
    assert table.was["b"] == "kept"
    if rule == "suggest":
        assert (table.label["d"], table.was["d"]) == ("bird", "suggested")
    else:
        assert "d" not in table.index
    again = apply_decisions(run, None, tmp_path / "c.tsv", undecided=rule)
    assert again.counts["kept"] == 0
    assert pd.read_csv(again.path, sep="\t").was.notna().all()


def test_nothing_to_apply_and_nothing_left(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to apply"):
        apply_decisions(run, None, tmp_path / "clean.csv")
    with pytest.raises(UserError, match="Did you mean 'suggest'"):
        apply_decisions(run, None, tmp_path / "clean.csv", undecided="sugest")  # type: ignore[arg-type]
    rows = [(i, g, "drop", "") for i, g in zip("abcde", "ccddb", strict=True)]
    names = {"c": "cat", "d": "dog", "b": "bird"}
    rows = [(i, names[g], d, x) for i, g, d, x in rows]
    file = write_decisions(tmp_path / "decisions.csv", rows)
    with pytest.raises(UserError, match="every sample would be dropped"):
        apply_decisions(run, file, tmp_path / "clean.csv")
    file = write_decisions(tmp_path / "decisions.csv", rows[-1:])
    assert "1 class: 'bird'" in apply_decisions(run, file, tmp_path / "clean.csv").notes[-1]


HOSTILE = [
    "=HYPERLINK(1)",
    "'=HYPERLINK(1)",
    "'",
    "''x",
    "-5",
    "+1",
    "@a",
    "\ttab",
    'say "x", y',
    "two\nlines",
    "cr\r\nlf",
    "日本 🐈",
    "\u202egnp.exe",
    " spaces ",
    "007",
    "<script>",
    ";",
]


def test_every_id_comes_back_exactly(tmp_path: Path) -> None:
    classes = ("=1+1", "'quoted'", "-1", "a,b")
    given = [classes[k % 4] for k in range(len(HOSTILE))]
    run = write_run(tmp_path / "run", HOSTILE, given, classes=classes)
    rows = [
        (i, g, "fix", classes[(k + 1) % 4])
        for k, (i, g) in enumerate(zip(HOSTILE, given, strict=True))
    ]
    file = write_decisions(tmp_path / "decisions.csv", rows)
    for line in csv.reader(io.StringIO(file.read_text("utf-8-sig"), newline="")):
        assert all(cell[:1] not in set(FORMULA) or not cell for cell in line)
    out = apply_decisions(run, file, tmp_path / "clean.parquet").path
    table = pd.read_parquet(out)
    assert table.id.tolist() == HOSTILE
    assert table.label.tolist() == [row[3] for row in rows]
    assert set(table.was) == {"fixed"}


def test_ids_written_by_hand(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ["=x", "'=y"], ["cat", "dog"])
    (tmp_path / "mine.csv").write_text("decision;id\nDrop;=x\n;\nkeep;'=y\n", encoding="utf-8")
    table = pd.read_csv(apply_decisions(run, tmp_path / "mine.csv", tmp_path / "c.csv").path)
    assert table.id.tolist() == ["'=y"]
    assert [plain(text) for text in ("'=x", "''", "'", "'a", "a", "")] == [
        *("=x", "'", "'", "'a", "a", ""),
    ]


def test_numbers_as_ids_and_labels_csv_with_a_column(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0, 1, -2], ["cat", "dog", "cat"], ["cat", "cat", "cat"])
    table = pd.read_parquet(run / "labels.parquet")
    table["decision"] = ["", "fix", "drop"]  # the label to put is the suggested one
    table.to_csv(tmp_path / "edited.csv", index=False)
    out = apply_decisions(run, tmp_path / "edited.csv", tmp_path / "clean.parquet").path
    cleaned = pd.read_parquet(out)
    assert cleaned.id.tolist() == [0, 1]
    assert cleaned.label.tolist() == ["cat", "cat"]


HEAD = "id,given_label,decision,label\n"
WRONG = {
    "": "is empty",
    "\n": "is empty",
    "id,label\na,cat\n": "no column 'decision'",
    "id,decision,id\na,keep,b\n": "a column twice",
    HEAD + "a,cat,keep\n": r"line 2: 3 fields for 4 columns",
    HEAD + "a,cat,kep,cat\n": r"line 2 \(id 'a'\): unknown decision 'kep'. Did you mean 'keep'",
    HEAD + "a,cat,keep,cat\na,cat,drop,\n": "line 3: the id 'a' was already decided in line 2",
    HEAD + "a,cat,keep,\n'a,cat,drop,\nq,cat,drop,\n": r"2 ids not in .* line 3: \"'a\", line 4",
    HEAD + "x1,cat,keep,cat\nx2,cat,keep,cat\n": "none of its 2 ids.*another run",
    HEAD + "a,dog,keep,\n": r"line 2 .*'cat' in this run, 'dog' in the file",
    HEAD + '"b\n",cat,drop,\na,cat,fix,cow\n': "not in",
    HEAD + "a,cat,fix,brd\n": "unknown class 'brd'. Did you mean 'bird'",
    HEAD + "a,cat,fix,\n": "the run suggests none",
    HEAD + "a,cat,keep,dog\n": "Write fix to change",
    HEAD + '"a,cat,keep,dog\n': "line 2: unexpected end of data",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_what_is_wrong_is_named_with_its_line(run: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "decisions.csv"
    file.write_bytes(text.encode())
    with pytest.raises(UserError, match=WRONG[text]):
        apply_decisions(run, file, tmp_path / "clean.csv")
    assert not (tmp_path / "clean.csv").exists()


def test_lines_are_counted_in_the_file(tmp_path: Path) -> None:
    rows = [("two\nlines", "cat", "keep", ""), ("b", "cat", "drop", "")]
    found = read_decisions(write_decisions(tmp_path / "d.csv", rows))
    assert [row.line for row in found] == [2, 4]


def test_files_that_are_missing_or_broken(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        apply_decisions(run, tmp_path / "none.csv", tmp_path / "c.csv")
    (tmp_path / "d.csv").write_bytes("id,decision\nä,keep".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        apply_decisions(run, tmp_path / "d.csv", tmp_path / "c.csv")
    file = write_decisions(tmp_path / "d.csv", [("a", "cat", "drop", "")])
    with pytest.raises(UserError, match="must end in"):
        apply_decisions(run, file, tmp_path / "c.txt")
    for out in (file, run / "labels.csv"):
        with pytest.raises(UserError, match="choose another --out"):
            apply_decisions(run, file, out)
    (run / "labels.parquet").unlink()
    with pytest.raises(UserError, match=r"labels\.parquet does not exist"):
        apply_decisions(run, file, tmp_path / "c.csv")
    with pytest.raises(UserError, match=r"config\.json"):
        apply_decisions(tmp_path / "no run", file, tmp_path / "c.csv")


def save_images(folder: Path, names: list[str]) -> None:
    random = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_folder_is_joined_and_loads_again(tmp_path: Path, suffix: str) -> None:
    photos = tmp_path / "photos"
    names = [f"{label}/{k}.png" for label in ("cat", "dog") for k in range(4)]
    save_images(photos, names)
    before = load(photos).data
    given = [before.classes[k] for k in before.labels]
    run = write_run(tmp_path / "run", before.ids.tolist(), given)
    rows = [("cat/1.png", "cat", "fix", "dog"), ("dog/0.png", "dog", "drop", "")]
    file = write_decisions(tmp_path / "d.csv", rows)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    out = tmp_path / "deep" / "er" / f"clean{suffix}"
    apply_decisions(run, file, out, data=photos)
    after = load(str(out)).data
    assert after.ids.tolist() == [name for name in names if name != "dog/0.png"]
    label = dict(zip(after.ids, (after.classes[k] for k in after.labels), strict=True))
    assert (label["cat/1.png"], label["cat/0.png"]) == ("dog", "cat")
    pixels = dict(zip(before.ids, before.inputs, strict=True))
    assert all((pixels[i] == x).all() for i, x in zip(after.ids, after.inputs, strict=True))
    described = json.loads((run / "config.json").read_text())
    described["noise"] = {"process": "openset", "num_foreign": 3}
    (run / "config.json").write_text(json.dumps(described))
    notes = apply_decisions(run, file, out, data=photos).notes
    assert "replaced 3 inputs by foreign ones" in notes[0]
    (photos / "cat" / "2.png").unlink()
    with pytest.raises(UserError, match=r"lacks 1 sample of the run: cat/2\.png"):
        apply_decisions(run, file, out, data=photos)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_manifest_of_paths_is_joined(tmp_path: Path, ending: str) -> None:
    save_images(tmp_path / "in" / "img", [f"{k}.png" for k in range(6)])
    table = pd.DataFrame(
        {
            "Image": [f"img/{k}.png" for k in range(6)],
            "noisy": ["cat", "dog"] * 3,
            "label": ["dog", "dog"] * 3,
            "better": ["cat", "dog"] * 3,
            "Note": ["", "a,b", "007", "ü", "5", "6"],
        }
    )
    source = tmp_path / "in" / f"list.{ending}"
    table.to_csv(source, index=False) if ending == "csv" else table.to_parquet(source)
    # Rows 0 to 4 were trained on, out of order; their numbers are the ids.
    order = [3, 1, 0, 4, 2]
    run = write_run(
        tmp_path / "run",
        order,
        [table.noisy[k] for k in order],
        label_column="noisy",
        truth_column="better",
    )
    file = write_decisions(
        tmp_path / "d.csv", [("0", "cat", "fix", "dog"), ("1", "dog", "drop", "")]
    )
    out = tmp_path / "clean.parquet"
    done = apply_decisions(run, file, out, data=str(source))
    assert any("1 row of list" in note for note in done.notes)
    assert any("'label'" in note for note in done.notes)
    cleaned = pd.read_parquet(out)
    assert set(cleaned.columns) == {
        *("id", "label", "given_label", "was", "Image", "Note", "true_label"),
    }
    assert cleaned.id.tolist() == [0, 2, 3, 4]
    assert cleaned.label.tolist() == ["dog", "cat", "dog", "cat"]
    assert cleaned.given_label.tolist() == ["cat", "cat", "dog", "cat"]
    assert cleaned.Image.tolist() == [f"in/img/{k}.png" for k in (0, 2, 3, 4)]
    assert cleaned.Note.tolist() == ["", "007", "ü", "5"]
    again = load(str(out), truth_column="true_label")
    assert again.data.ids.tolist() == [0, 2, 3, 4]
    assert again.data.labels.tolist() == [1, 0, 1, 0]
    assert again.truth is not None
    table.noisy = ["dog", "cat"] * 3
    table.to_csv(source, index=False) if ending == "csv" else table.to_parquet(source)
    with pytest.raises(UserError, match="not what the run was trained on: 5 labels"):
        apply_decisions(run, file, out, data=str(source))


def test_paths_lead_home_through_links_and_tildes(tmp_path: Path) -> None:
    photos = tmp_path / "a" / "~photos"
    save_images(photos, ["cat/0.png", "cat/1.png", "dog/0.png", "~dog/1.png"])
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "b" / "c")
    ids = load(photos).data.ids.tolist()
    run = write_run(
        tmp_path / "run", ids, ["cat", "cat", "dog", "~dog"], classes=(*CLASSES, "~dog")
    )
    file = write_decisions(tmp_path / "d.csv", [("cat/0.png", "cat", "keep", "")])
    for out in (tmp_path / "link" / "c.csv", tmp_path / "a" / "c.csv", photos / "c.csv"):
        apply_decisions(run, file, out, data=photos)
        assert load(str(out)).data.ids.tolist() == ids


def test_bytes_and_vectors_need_parquet(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "PNG")
    table = pd.DataFrame({"id": ["a", "b"], "image": [stream.getvalue()] * 2})
    table["label"] = ["cat", "dog"]
    table.to_parquet(tmp_path / "in.parquet")
    run = write_run(tmp_path / "run", ["a", "b"], ["cat", "dog"], ["dog", "dog"])
    options: dict[str, Any] = {"undecided": "suggest", "data": tmp_path / "in.parquet"}
    with pytest.raises(UserError, match=r"holds bytess?: .*End --out in \.parquet"):
        apply_decisions(run, None, tmp_path / "c.csv", **options)
    out = apply_decisions(run, None, tmp_path / "c.parquet", **options).path
    cleaned = pd.read_parquet(out)
    assert cleaned.image.tolist() == table.image.tolist()
    assert cleaned.label.tolist() == ["dog", "dog"]
    with pytest.raises(UserError, match="choose another --out"):
        apply_decisions(run, None, tmp_path / "in.parquet", **options)


def test_columns_of_numbers_stay_features(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [0.5, 1, 2, 3], "y": [4, 5, 6, 7], "target": [0, 1, 0, 1]})
    table.to_csv(tmp_path / "in.csv", index=False)
    run = write_run(tmp_path / "run", [0, 1, 2, 3], ["0", "1", "0", "1"], classes=("0", "1"))
    file = write_decisions(tmp_path / "d.csv", [("0", "0", "fix", "1")])
    for name in ("c.parquet", "c.csv"):
        out = apply_decisions(run, file, tmp_path / name, data=tmp_path / "in.csv").path
        data = load(str(out)).data
        assert data.inputs.tolist() == table[["x", "y"]].to_numpy().tolist()
        assert data.labels.tolist() == [1, 1, 0, 1]


def test_data_that_cannot_be_joined(run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"undecided": "suggest"}
    with pytest.raises(UserError, match="digits cannot be joined"):
        apply_decisions(run, None, tmp_path / "c.csv", data="digits", **options)
    pd.DataFrame({"id": ["a"], "image": ["a.png"], "label": ["cat"]}).to_csv(tmp_path / "in.csv")
    with pytest.raises(UserError, match="lacks 4 samples of the run: b, c, d and 1 more"):
        apply_decisions(run, None, tmp_path / "c.csv", data=tmp_path / "in.csv", **options)


def test_command_line(run: Path, tmp_path: Path) -> None:
    file = write_decisions(tmp_path / "d.csv", [("a", "cat", "drop", "")])
    out = tmp_path / "clean.parquet"
    words = ["apply", str(run), str(file), "--out", str(out), "--undecided", "suggest"]
    result = RUNNER.invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "0 kept, 0 fixed, 1 dropped, 2 taken as suggested, 2 undecided" in result.output
    assert "4 labels in" in result.output
    assert json.loads(RUNNER.invoke(cli.app, [*words, "--json"]).output)["dropped"] == 1
    result = RUNNER.invoke(cli.app, ["apply", str(run), "--out", str(out)])
    assert result.exit_code == 2
    assert "nothing to apply" in result.output
