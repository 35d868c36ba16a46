"""Holds the shape of the code: who may import whom, how long a file may be, and what the checkers say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONGEST

ROOT = Path(__file__).parent.parent
PACKAGES = ("offload", "experts", "scheduler", "tools")
MAX_LINES = 400

# What a package must not import: experts and scheduler know neither each other, nor devices, nor the composer.
FORBIDDEN = {
    "experts": {"torch", "offload", "scheduler", "tools", "tests"},
    "scheduler": {"torch", "numba", "offload", "experts", "tools", "tests"},
    "offload": {"tools", "tests"},
    "tools": {"tests"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_keep_their_direction(package: str) -> None:
    wrong = {str(path): imported(path) & FORBIDDEN[package] for path in sources(package)}
    assert sources(package)
    assert not {path: names for path, names in wrong.items() if names}


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {node for block in blocks for node in ast.walk(block)}


def parts_imported(package: str) -> dict[str, set[str]]:
    """For each folder or file right below a package, the others there that it imports."""
    root = ROOT / package
    parts = {path.stem if path.suffix == ".py" else path.name for path in root.iterdir() if path.name[0] != "_"}
    found: dict[str, set[str]] = {part: set() for part in parts}
    for path in sources(package):
        here = path.relative_to(ROOT).with_suffix("").parts
        if here[1] not in parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in set(ast.walk(tree)) - for_types_only(tree):
            if isinstance(node, ast.ImportFrom):
                base = list(here[: len(here) - node.level]) if node.level else []
                base += (node.module or "").split(".") if node.module else []
                names = [[*base, alias.name] for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name.split(".") for alias in node.names]
            else:
                continue
            found[here[1]] |= {name[1] for name in names if name[0] == package and len(name) > 1}
    return {part: (others & parts) - {part} for part, others in found.items()}


def in_circles(edges: dict[str, set[str]]) -> set[str]:
    """All that import themselves by way of others."""
    reached = {part: set(others) for part, others in edges.items()}
    for middle in edges:
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    return {part for part, others in reached.items() if part in others}


def test_circles_are_found() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "c"}}) == {"b", "c"}
    assert not in_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("package", ["experts", "scheduler", "offload"])
def test_packages_have_no_import_circles(package: str) -> None:
    """Files and folders right below a package can be read one after the other."""
    assert not in_circles(parts_imported(package))


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for p in PACKAGES for path in sources(p)}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert sorted(lengths.values())[len(lengths) // 2] < 150


def test_files_that_come_first_exist() -> None:
    assert not [name for name in LONGEST if not (ROOT / "tests" / name).exists()]


def test_scheduler_is_pure() -> None:
    """No input or output: nothing is opened, read from the environment or printed."""
    calls = {
        node.func.id
        for path in sources("scheduler")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}
    assert not {"os", "io", "pathlib"} & set().union(*(imported(path) for path in sources("scheduler")))


@pytest.mark.parametrize("command", [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]])
def test_checkers_find_nothing(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_readme_names_the_files_that_exist() -> None:
    """The map is true in both directions for `offload`; elsewhere nothing is named that is not there."""
    words = set(re.findall(r"\b(\w+\.py)\b", (ROOT / "README.md").read_text(encoding="utf-8")))
    existing = {path.name for package in PACKAGES for path in sources(package)}
    existing |= {path.name for path in ROOT.glob("*.py")}
    assert not words - existing
    assert not {path.name for path in (ROOT / "offload").glob("[a-z]*.py")} - words
