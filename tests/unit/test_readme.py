"""README and guide name only what exists: commands, options, settings, columns, files, links."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import labelwise
from labelwise import cli
from labelwise.cli.shared import parse_assignments
from labelwise.config import RunConfig, Schedule
from labelwise.data.sources.npz import INPUT_KEYS, LABEL_KEYS
from labelwise.methods import known_methods, parse_method
from labelwise.models.build import auto_model
from labelwise.noise.parse import parse as parse_noise
from labelwise.noise.parse import processes
from labelwise.pretraining import known_pretraining
from labelwise.recipes import known_recipes

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/guide.md",
    "docs/audit.md",
    "docs/sanm.md",
    "docs/hallucination.md",
    "docs/recipes.md",
    "docs/bench.md",
)
COLUMNS = {
    "given_label",
    "label_quality",
    "predicted_label",
    "is_suspect",
    "suggested_label",
    "suggestion_confidence",
    "true_label",
}
RUN_FILES = {
    "config.json",
    "metrics.jsonl",
    "labels.parquet",
    "labels.csv",
    "summary.json",
    "report.html",
    "evidence.npz",
    "pred_probs.npy",
    "diagnosis.json",
    "model/",
    "checkpoint/",
}
COMMANDS: Any = typer.main.get_command(cli.app)
PLACEHOLDERS = {"NAME", "KIND:RATE", "name=value"}
NOT_YET_MADE: set[str] = set()


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `labelwise ...` line of a page, from code blocks and from inline code."""
    for page in PAGES:
        text = without_fences(text_of(page))
        for line in re.findall(r"^    (\S.*)$", text, flags=re.M):
            if re.match(r"(\.venv/bin/)?labelwise ", line):
                yield page, line.split(" #")[0].strip()
        for code in re.findall(r"`([^`\n]+)`", text):
            if code.startswith("labelwise "):
                yield page, code


def inline_options() -> Iterator[tuple[str, str]]:
    """Inline code that starts with an option: `--set lambda_u=25`."""
    for page in PAGES:
        for code in re.findall(r"`(--[^`\n]+)`", without_fences(text_of(page))):
            yield page, code


def snippets() -> Iterator[tuple[str, str]]:
    """Python: fenced blocks, and inline code that calls labelwise."""
    for page in PAGES:
        text = text_of(page)
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
            yield page, block
        for code in re.findall(r"`(labelwise\.\w+\([^`\n]*\))`", without_fences(text)):
            yield page, code


def rows_of(page: str, header: str) -> list[str]:
    """The first cells of the table with this first header cell."""
    lines = iter(text_of(page).splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            next(lines)
            found = []
            for row in lines:
                if not row.startswith("|"):
                    return found
                found.append(row.split("|")[1])
    raise AssertionError(f"{page} has no table headed {header!r}")


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def check_words(name: str, words: list[str]) -> None:
    """Parse words as click would, without running the command."""
    assert name in COMMANDS.commands, name
    command = COMMANDS.commands[name]
    known = {option: p for p in command.params for option in (*p.opts, *p.secondary_opts)}
    places = [p for p in command.params if p.param_type_name == "argument"]
    positional = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            positional.append(word)
            continue
        assert word in known, f"labelwise {name} has no option {word}"
        if not getattr(known[word], "is_flag", False):
            value = next(rest)
            check_value(word, value)
    assert len(positional) == len(places), f"labelwise {name} takes {len(places)}: {positional}"


def check_value(option: str, value: str) -> None:
    """Check what follows an option, where it names something of ours."""
    if value in PLACEHOLDERS:
        return
    if option in ("--method", "--pretrain") and set(value.split("+")) <= {
        *known_pretraining(),
        "none",
    }:
        return
    if option == "--method":
        parse_method(value)
    elif option == "--recipe":
        assert value in known_recipes(), value
    elif option == "--noise":
        parse_noise(value)
    elif option == "--set":
        settings, schedule = parse_assignments([value])
        assert set(schedule) <= set(Schedule.model_fields), value
        for setting, wanted in settings.items():
            prefix, _, setting = setting.rpartition(".")
            takers = [
                method
                for name, method in (known_methods() | known_pretraining()).items()
                if prefix in ("", name)
                if setting in method.Settings.model_fields
                or (setting == "preset" and wanted in method.presets)
            ]
            assert takers, f"no method has the setting {value}"


def test_the_pages_have_something_to_check() -> None:
    assert len(list(command_lines())) > 12
    assert len(list(inline_options())) > 8
    assert len(list(snippets())) > 5


@pytest.mark.parametrize(("page", "line"), list(command_lines()))
def test_a_command_line_refers_to_what_exists(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if len(words) == 1 and words[0] in COMMANDS.commands:
        return  # the mention of a command, not a call
    check_words(words[0], words[1:])


@pytest.mark.parametrize(("page", "code"), list(inline_options()))
def test_an_option_in_the_text_exists(page: str, code: str) -> None:
    words = shlex.split(code)
    known = {o: p for c in COMMANDS.commands.values() for p in c.params for o in p.opts}
    assert words[0] in known, f"no command has the option {words[0]}"
    assert len(words) <= 2
    if len(words) == 2:
        check_value(words[0], words[1])


@pytest.mark.parametrize(("page", "code"), list(snippets()))
def test_a_snippet_uses_what_exists(page: str, code: str) -> None:
    tree = ast.parse(code)
    own = {name: getattr(labelwise, name) for name in labelwise.__all__}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "labelwise":
                assert node.attr in own
            elif node.value.id == "result":
                assert hasattr(labelwise.Result, node.attr), node.attr
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            assert node.slice.value in COLUMNS
        if isinstance(node, ast.Call):
            check_call(node, own)


def check_call(node: ast.Call, own: dict[str, Any]) -> None:
    """Check the keywords of a call, and the column in a query."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = {keyword.arg for keyword in node.keywords}
    if name == "fit":
        parameters = inspect.signature(labelwise.fit).parameters
        assert keywords <= set(parameters) | set(RunConfig.model_fields)
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
                check_value(f"--{keyword.arg}", keyword.value.value)
    elif name == "query":
        assert isinstance(node.args[0], ast.Constant)
        names = {n.id for n in ast.walk(ast.parse(node.args[0].value)) if isinstance(n, ast.Name)}
        assert names <= COLUMNS
    elif name in own and hasattr(own[name], "Settings"):
        assert keywords <= set(own[name].Settings.model_fields)


def test_the_table_of_columns_is_complete() -> None:
    listed = [name for cell in rows_of("README.md", "column") for name in coded(cell)]
    assert set(listed) == COLUMNS


def test_the_table_of_run_files_is_complete() -> None:
    listed = [name for cell in rows_of("docs/guide.md", "file") for name in coded(cell)]
    assert set(listed) == RUN_FILES


def test_the_table_of_methods_is_complete() -> None:
    rows = rows_of("README.md", "method")
    assert {coded(cell)[0] for cell in rows} == set(known_methods())
    default = [coded(cell)[0] for cell in rows if "(default)" in cell]
    assert default == [RunConfig.model_fields["method"].default]


def test_the_table_of_noise_is_complete() -> None:
    listed = [coded(cell)[0] for cell in rows_of("docs/guide.md", "kind")]
    assert set(listed) == set(processes())


def test_names_in_the_text_exist() -> None:
    guide = text_of("docs/guide.md")
    fields = re.search(r"set the schedule: `([^`]+)`", guide.replace("\n  ", " "))
    assert fields
    assert set(re.split(r",\s*", fields[1])) == set(Schedule.model_fields)
    for inputs, labels in re.findall(r"\(keys `(\w+)`, `(\w+)`\)", guide):
        assert inputs in INPUT_KEYS
        assert labels in LABEL_KEYS
    every = re.search(r"`--checkpoint-every` seconds, (\d+) by default", guide)
    assert every
    assert float(every[1]) == RunConfig.model_fields["checkpoint_every"].default
    assert auto_model((16,), 1000, False) == "mlp"
    assert auto_model((3, 32, 32), 50_000, True) == "preact_resnet18"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), flags=re.M))
    for page in (*PAGES, "CONTRIBUTING.md"):
        blocks = re.findall(r"^    make ([\w-]+)", text_of(page), flags=re.M)
        assert set(blocks) <= targets


def links() -> list[Any]:
    """Every relative link of the pages."""
    found = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
            if not link.startswith("http"):
                path = (ROOT / page).parent / link
                name = path.resolve().relative_to(ROOT).as_posix()
                late = pytest.mark.xfail(reason="not yet made", strict=False)
                found.append(pytest.param(name, marks=[late] if name in NOT_YET_MADE else []))
    return found


@pytest.mark.parametrize("name", links())
def test_a_link_leads_somewhere(name: str) -> None:
    assert (ROOT / name).exists()
