"""README.md is the manual: what can be set, called or typed is in it. So is .env.example for settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from auth.keys import SCOPES
from gateway.cli import cli
from gateway.openai.request import ChatRequest
from gateway.settings import Settings, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / ".env.example"

DEFAULTS = {name.upper(): field.default for name, field in Settings.model_fields.items()}
PAGES = {"GET /openapi.json", "GET /docs", "GET /redoc", "GET /docs/assets/{file}"}


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables, without the heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def written(default: Any) -> str:
    """A default as it stands in an environment."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return (
        ",".join(default)
        if isinstance(default, tuple)
        else f"{default:.15g}"
        if isinstance(default, float)
        else str(default)
    )


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("Settings")}
    assert listed == {name: written(default) or "empty" for name, default in DEFAULTS.items()}


def test_every_setting_is_in_the_example_with_its_default() -> None:
    listed = dict(re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert listed == {name: written(default) for name, default in DEFAULTS.items()}


def test_the_example_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "env"
    file.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert load(_env_file=file) == load(_env_file=None)


@pytest.mark.anyio
async def test_every_route_is_in_the_readme(anonymous: httpx.AsyncClient) -> None:
    document = (await anonymous.get("/openapi.json")).json()
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert {row[0].strip("`") for row in rows("Routes")} == served | PAGES


def test_every_command_is_in_the_readme() -> None:
    listed = {re.sub(r" \[?[A-Z].*", "", row[0].strip("`")) for row in rows("Commands")}
    assert listed == set(commands(cli))


def test_every_parameter_is_in_the_readme() -> None:
    listed = {name for row in rows("Chat parameters") for name in names(row[0])}
    assert listed == set(ChatRequest.__struct_fields__)


def test_every_scope_is_in_the_readme() -> None:
    assert {row[0].strip("`"): row[1] for row in rows("Who may call")} == dict(SCOPES)


@pytest.mark.anyio
async def test_every_metric_is_in_the_readme(client: httpx.AsyncClient) -> None:
    await client.post(
        "/v1/chat/completions", json={"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
    )
    text = (await client.get("/metrics")).text
    served = dict(re.findall(r"^# TYPE (drover_\w+) (\w+)$", text, re.MULTILINE))
    listed = {row[0].strip("`") for row in rows("Health, metrics and logs")}
    assert listed == {name for name in served if not name.endswith("_created")}


def test_links_lead_somewhere() -> None:
    heads = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) - anchors == set()


def test_the_tests_are_run_as_the_readme_says() -> None:
    assert "```sh\nuv run pytest\n```" in README
    assert "pip install uv && uv run server.py\n" in README
    assert "\ncheck uv run pytest\n" in (ROOT / ".ci" / "run").read_text()
