"""Which MCP servers there are: the file `{"mcpServers": {"name": {…}}}`, in the form that many clients share."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

LARGEST_FILE = 1_000_000
FIRST_DELAY = 1.0
"""Seconds after which a server that failed is tried again; each time it is twice as long."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class McpConfigError(Exception):
    """The file is wrong. The text says where, in a line."""


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How to reach a server, and what may be used of it."""

    name: str = ""
    """The file's key for it."""
    type: Literal["stdio", "http", "streamable-http", "streamableHttp"] | None = None
    """What `command` or `url` says already; other clients want it."""
    disabled: bool = False
    description: str = ""
    command: str = ""
    """The program of a server that is started here, found along PATH; `url` is then empty."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """Variables of that program, besides a few harmless ones. `${NAME}` stands for one of our own."""
    cwd: str = ""
    """Its working folder, seen from the file's folder; empty: that folder."""
    url: str = ""
    """The endpoint of a server that is reached by streamable HTTP."""
    headers: dict[str, str] = {}
    """Headers of every request. `${NAME}` stands for a variable of the environment."""
    tools: tuple[str, ...] = ("*",)
    """The tools that may be used, by the server's own names; `list*` for all that begin so."""
    timeout: float = 60.0
    """Seconds that a call may take."""
    max_output: int | None = None
    """Characters of a call's output; from a longer one the middle is cut out. None: what the toolbox allows."""

    @property
    def place(self) -> str:
        """Where the server is, without anything secret."""
        return str(URL(self.url).origin()) if self.url else self.command


class _File(Struct):
    # Editors keep other things beside it.
    servers: dict[str, ServerConfig] = msgspec.field(name="mcpServers")


def load(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[ServerConfig, ...]:
    """The servers that a file names, without those that are disabled.

    Raises:
        McpConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise McpConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > LARGEST_FILE:
        raise McpConfigError(f"{path} is larger than {LARGEST_FILE:,} bytes.")
    try:
        servers = msgspec.json.decode(data, type=_File).servers
    except msgspec.DecodeError as error:
        raise McpConfigError(f"{path}: {error}.") from error
    checked = []
    for name, server in servers.items():
        try:
            checked.append(_checked(name, server, path.resolve().parent, environment))
        except ValueError as error:
            raise McpConfigError(f"{path}: server {name!r}: {error}.") from error
    return tuple(server for server in checked if not server.disabled)


def _checked(name: str, server: ServerConfig, folder: Path, environment: Mapping[str, str]) -> ServerConfig:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 32 of the characters A-Z, a-z, 0-9, _ and -")
    if bool(server.command) == bool(server.url):
        raise ValueError("it needs either `command` or `url`")
    if server.type is not None and (server.type == "stdio") != bool(server.command):
        raise ValueError(f"the type {server.type} does not go with {'`command`' if server.command else '`url`'}")
    if strangers := [
        field for field in (("headers",) if server.command else ("args", "env", "cwd")) if getattr(server, field)
    ]:
        raise ValueError(f"`{strangers[0]}` does not go with {'`command`' if server.command else '`url`'}")
    if not 0 < server.timeout <= 86_400:
        raise ValueError("`timeout` is a number of seconds up to 86400")
    if server.max_output is not None and not 100 <= server.max_output <= 1_000_000:
        raise ValueError("`max_output` is a number of characters from 100 to 1000000")
    if any("\0" in text for text in (server.command, server.cwd, *server.args)):
        raise ValueError("there is a NUL in it")
    if server.disabled:  # What it refers to may be missing.
        return replace(server, name=name)
    if server.url:
        return replace(server, name=name, url=_url(server.url), headers=_headers(_filled(server.headers, environment)))
    return replace(server, name=name, env=_variables(_filled(server.env, environment)), cwd=str(folder / server.cwd))


def _filled(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise ValueError(f"the environment has no {found[1]}")
        return environment[found[1]]

    return {key: _VARIABLE.sub(value, text) for key, text in values.items()}


def _url(text: str) -> str:
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("`url` is not an http or https URL")
    if url.user is not None or url.password is not None:
        raise ValueError("`url` has a user name or a password; use `headers`")
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    # Neither a header nor its value is told: both may be secret.
    if not all(
        _HEADER_NAME.fullmatch(name) and text.isascii() and text.isprintable() for name, text in headers.items()
    ):
        raise ValueError("`headers` has something that HTTP cannot carry")
    return headers


def _variables(variables: dict[str, str]) -> dict[str, str]:
    if not all(name and "=" not in name and "\0" not in name + text for name, text in variables.items()):
        raise ValueError("`env` has something that an environment cannot carry")
    return variables
