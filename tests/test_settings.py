"""Settings: where they come from, and what a wrong one looks like."""

from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings, SettingsError, load
from tests.process import Finished, run

pytestmark = pytest.mark.anyio

WRONG = {
    "SERVER_PORT": ("eighty", "Input should be a valid integer, unable to parse string as an integer"),
    "SECRET_KEY": ("canary", "must have 32 characters or more (try: openssl rand -hex 32)"),
    "LOG_LEVEL": ("loud", "Input should be 'debug', 'info', 'warning' or 'error'"),
    "SHUTDOWN_GRACE": ("inf", "Input should be a finite number"),
    "ACCESS_TOKEN_LIFETIME": ("59", "Input should be greater than or equal to 60"),
    "JWKS": ("/nowhere/keys.json", "is neither a file nor an http(s) URL"),
    "OPENWEBUI_JWT_SECRET": (
        "change-me-canary-0123456789-abcdefgh",
        "looks like a placeholder; make a random one (try: openssl rand -hex 32)",
    ),
    "CORS_ORIGINS": ("chat.example.org", "'chat.example.org' is not an origin such as https://chat.example.org"),
    "CORS_CREDENTIALS": ("perhaps", "Input should be a valid boolean, unable to interpret input"),
    "TRUSTED_PROXIES": ("proxy", "'proxy' does not appear to be an IPv4 or IPv6 network"),
    "RATE_LIMIT_STORAGE": ("redis://:canary@host", "must be async+memory:// or async+redis://host:port/0"),
    "BACKENDS": ("ollama,olama", "unknown backend 'olama'; known are llama_cpp, ollama, openai, scripted"),
    "OLLAMA_HOST": ("http://canary:canary", "each must be like http://127.0.0.1:11434 or 127.0.0.1:11434"),
    "UPSTREAM_BASE_URL": ("http://a/v1,canary", "each must be a URL such as http://127.0.0.1:8080/v1"),
    "UPSTREAM_API_KEY": ("canary canary", "has spaces or characters that no HTTP header can carry"),
    "BUILTIN_MODEL": ("2", "Input should be a valid boolean, unable to interpret input"),
    "REASONING_FIELD": (
        "thoughts",
        "Input should be 'reasoning_content', 'reasoning', 'think_tags' or 'none'",
    ),
}
"""A wrong value of each kind, in the order of the fields, and what is said of it."""

LINES = "".join(f"{name}: {reason}\n" for name, (_, reason) in WRONG.items())


async def test_every_wrong_value_in_the_environment_is_a_line_and_none_is_repeated(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {name: value for name, (value, _) in WRONG.items()}
    finished = await run(tmp_path, **wrong)
    assert finished == Finished(2, "", LINES)
    assert "canary" not in finished.err


async def test_every_wrong_value_in_the_file_is_a_line_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, (value, _) in WRONG.items()))
    finished = await run(tmp_path, without=("BACKENDS", "SERVER_PORT"))
    assert finished == Finished(2, "", LINES)


async def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=loud\nSERVER_PORT=1\nRUN_TIMEOUT=0\nKEEP_ALIVE_SECONDS=\n")
    finished = await run(tmp_path, "serve", SERVER_PORT=99999, LOG_LEVEL="info", LOG_FORMAT="")
    assert finished.err == (
        "SERVER_PORT: Input should be less than or equal to 65535\nRUN_TIMEOUT: Input should be greater than 0\n"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"LOG_LEVEL=\xff\n", ".env cannot be read: it is not UTF-8\n")],
)
async def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert await run(tmp_path) == Finished(2, "", line)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("nonsense", "The database URL cannot be read; it looks like sqlite+aiosqlite:////path/to/drover.db"),
        ("mysql://u:canary@host/x", "Drover keeps its data in SQLite or PostgreSQL, not in 'mysql'."),
        ("sqlite+aiosqlite://", "The database URL names no file: sqlite+aiosqlite:////path/to/drover.db"),
    ],
)
async def test_a_database_that_cannot_be_one_is_one_line(tmp_path: Path, url: str, line: str) -> None:
    assert await run(tmp_path, DATABASE_URL=url) == Finished(2, "", f"DATABASE_URL: {line}\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"cors_origins": "*", "cors_credentials": "true"},
            "CORS_ORIGINS=* with CORS_CREDENTIALS would let any page act as its visitor; name the origins",
        ),
        ({"jwks": "https://id.example.org/keys"}, "JWKS needs JWKS_ISSUER and JWKS_AUDIENCE"),
    ],
)
def test_values_that_do_not_go_together_are_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(_env_file=None, **values)
    assert str(caught.value) == line


def test_lists_are_separated_by_commas() -> None:
    settings = load(_env_file=None, backends=" scripted , ollama,", ollama_host=":1,[::1]:2,host,http://h:3,0.0.0.0")
    assert settings.backends == ("scripted", "ollama")
    assert settings.ollama_host == (":1", "[::1]:2", "host", "http://h:3", "0.0.0.0")


def test_a_folder_may_be_at_home() -> None:
    assert load(_env_file=None, data_directory="~/drover").data_directory == Path.home() / "drover"


def test_settings_cannot_be_changed_and_hide_their_secrets() -> None:
    settings = load(_env_file=None, secret_key="0123456789abcdef" * 2, upstream_api_key="canary")
    assert "canary" not in repr(settings) and "0123456789abcdef" not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.server_port = 1


def test_every_setting_says_what_it_is_for() -> None:
    source = Path(Settings.__module__.replace(".", "/") + ".py").resolve().read_text()
    for name in Settings.model_fields:
        after = source.split(f"    {name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), name
