"""The import law: layers import downwards, nothing goes round, truth stays out of reach."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

import labelwise

ROOT = Path(labelwise.__file__).parent
LAYERS = (
    {"errors", "discovery", "config", "rng", "citations"},
    {"data", "noise", "models", "augment", "losses", "selection", "estimation"},
    {"training"},
    {"audit", "methods", "pretraining"},
    {
        *(
            "recipes",
            "binding",
            "experiment",
            "outputs",
            "running",
            "result",
            "pretrained",
            "estimator",
        ),
        *("advice", "diagnosis", "bench", "planning"),
    },
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TRUTHLESS = ("methods", "pretraining", "augment", "losses", "selection", "models", "estimation")


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    """Whether a node is an `if TYPE_CHECKING:` block."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def imports_of(name: str, late: bool) -> set[tuple[str, str]]:
    """Pairs (module, name taken from it or "") that a module of ours imports from the package.

    Args:
        name: the importing module.
        late: whether imports inside functions count too; those of type checkers never do.
    """
    found: set[tuple[str, str]] = set()

    def visit(node: ast.AST) -> None:
        if is_type_checking(node):
            for child in node.orelse:  # type: ignore[attr-defined]
                visit(child)
            return
        if not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update((source_of(name, node), alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    return {pair for pair in found if pair[0].split(".")[0] == "labelwise"}


def source_of(name: str, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a `from … import` reads."""
    if not node.level:
        return node.module or ""
    package = MODULES[name].name == "__init__.py"
    parts = name.split(".")
    base = parts[: len(parts) - node.level + package]
    return ".".join([*base, *([node.module] if node.module else [])])


@cache
def targets(name: str, late: bool = True) -> frozenset[str]:
    """The modules of ours that a module imports, submodules included."""
    found = set()
    for source, member in imports_of(name, late):
        inner = f"{source}.{member}"
        found.add(inner if inner in MODULES else source)
    return frozenset(found - {name})


def layer(name: str) -> str:
    """The part of the house a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "labelwise"


def test_every_module_has_a_layer() -> None:
    strangers = {name for name in MODULES if layer(name) not in {*LEVEL, "labelwise"}}
    assert not strangers, f"add them to LAYERS: {sorted(strangers)}"
    assert len(MODULES) > 50


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"labelwise"}))
def test_imports_only_go_down(name: str) -> None:
    own = LEVEL[layer(name)]
    for target in targets(name):
        if target == "labelwise":
            continue  # the version number
        assert target in MODULES, f"{name} imports {target}, which does not exist"
        assert LEVEL[layer(target)] <= own, f"{name} imports {target} from above"


def test_no_circles() -> None:
    graph = {name: targets(name, late=False) - {"labelwise"} for name in MODULES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for target in sorted(graph.get(name, ())):
                walk(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_nothing_below_imports_a_method() -> None:
    guilty = {
        (name, target)
        for name in MODULES
        for target in targets(name)
        if name != "labelwise"
        and layer(target) in ("methods", "pretraining")
        and LEVEL[layer(name)] < LEVEL["methods"]
    }
    assert not guilty


def test_truth_is_out_of_reach_of_methods() -> None:
    readers = []
    for name, path in MODULES.items():
        if layer(name) in TRUTHLESS:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                getattr(node, "id", None)
                or getattr(node, "attr", None)
                or getattr(node, "name", "")
                for node in ast.walk(tree)
                if isinstance(node, ast.Name | ast.Attribute | ast.alias)
            }
            readers += [name] * bool(names & {"Truth", "truth", "Source"})
    assert not readers, f"these can see true labels: {readers}"


def test_context_holds_no_truth() -> None:
    from dataclasses import fields

    from labelwise.training.context import Context

    assert not [f.name for f in fields(Context) if "Truth" in str(f.type) or "test" in f.name]


def test_import_is_fast_and_without_torch() -> None:
    script = "import sys, labelwise; print(','.join(m for m in sys.modules if '.' not in m))"
    seconds = []
    for _ in range(2):  # the first may have to compile
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - start)
    heavy = {"torch", "numpy", "pandas", "sklearn", "timm", "pydantic"} & set(
        done.stdout.strip().split(",")
    )
    assert not heavy
    assert min(seconds) < 1.0


def test_every_public_name_exists() -> None:
    assert set(labelwise.__all__) == set(labelwise._WHERE)
    for name in labelwise.__all__:
        assert getattr(labelwise, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = labelwise.nothing
