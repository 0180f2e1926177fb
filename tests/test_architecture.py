"""DESIGN.md's import diagram, and the order of the top level."""

import ast
import graphlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "server": {"gateway"},
    "gateway": {"gateway", "agents", "tools", "models", "auth"},
    "agents": {"agents", "tools", "models"},
    "tools": {"tools", "models"},
    "models": {"models"},
    "auth": {"auth"},
}
OURS = {*MAY_IMPORT, "tests", "benchmarks"}

TOP_LEVEL = {
    "LICENSE", "README.md", "Dockerfile", "compose.yaml", "pyproject.toml", "server.py", "uv.lock",
    "agents", "auth", "benchmarks", "gateway", "models", "tests", "tools",
}  # fmt: skip


def modules(package: str) -> list[Path]:
    file = ROOT / f"{package}.py"
    return [file] if file.exists() else sorted((ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that some code imports, as far as they are ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in OURS)


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    strays = [
        f"{name_of(file)} imports {name}"
        for file in modules(package)
        for name in imports(ast.parse(file.read_text()))
        if name.partition(".")[0] not in MAY_IMPORT[package]
    ]
    assert strays == []


def test_no_module_needs_itself() -> None:
    files = {name_of(file): file for package in MAY_IMPORT for file in modules(package)}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = {target for node in top for target in imports(node)}
        graph[name] = {target if target in files else target.rpartition(".")[0] for target in found} - {name}
    order = tuple(graphlib.TopologicalSorter(graph).static_order())
    assert set(files) <= set(order)


def test_top_level_holds_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    entries = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} - TOP_LEVEL == set()
