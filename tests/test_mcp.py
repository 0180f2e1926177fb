"""Tools of MCP servers: real servers, as processes and over HTTP, well-behaved and not."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.backend import ToolSpec
from tests.fakes.mcp_server import PICTURE, Fake, over_http
from tests.live import until
from tools import File, Result, Session, Toolbox
from tools.mcp.config import McpConfigError, ServerConfig, load
from tools.mcp.servers import McpServers
from tools.mcp.transport import KNOWN

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]


def process(mode: str = "good", name: str = "good", **options: Any) -> ServerConfig:
    arguments = ("-m", "tests.fakes.mcp_server", mode)
    return ServerConfig(name=name, command=sys.executable, args=arguments, cwd=str(ROOT), **options)


def script(name: str, code: str, **options: Any) -> ServerConfig:
    return ServerConfig(name=name, command=sys.executable, args=("-c", code), **options)


class Running:
    """Servers that are up, and a session to call them in."""

    def __init__(self, servers: McpServers, folder: Path) -> None:
        self.servers = servers
        self.box = Toolbox([servers])
        self.session = Session(folder)

    async def call(self, name: str, **arguments: Any) -> Result:
        result = await self.box.run(name, arguments, self.session)
        return msgspec.structs.replace(result, seconds=0.0)

    def connected(self, name: str) -> bool:
        return bool(self.servers.status()[name]["connected"])


Run = Callable[..., Awaitable[Running]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Starts servers: `await run(config, …)`."""
    async with AsyncExitStack() as stack:

        async def run(*configs: ServerConfig, patience: float = 20.0) -> Running:
            servers = McpServers(configs, first_delay=0.05)
            stack.push_async_callback(servers.close)
            await servers.start(patience)
            return Running(servers, tmp_path)

        yield run


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One for all tests that do it no harm: a process takes a while to start."""
    servers = McpServers([process(tools=("*e*", "hang", "child", "mixed", "fail"))])
    await servers.start(20.0)
    yield Running(servers, tmp_path_factory.mktemp("work"))
    await servers.close()


async def test_a_server_and_its_tools(shared: Running) -> None:
    assert shared.servers.status() == {
        "good": {"connected": True, "place": sys.executable, "reason": "", "tools": 11, "refused": {}}
    }
    assert shared.box.specs()[0] == ToolSpec(
        "good__echo",
        "Does echo.",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What to say.", "pattern": "^(a+)+$"},
                "times": {"type": "integer", "minimum": 1},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
    )


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        # The schema's pattern would take for ever.
        ("echo", {"text": "a" * 40 + "!", "times": 2}, Result(" ".join(["a" * 40 + "!"] * 2))),
        ("fail", {}, Result("", error="It did not work.")),
        ("structured", {}, Result('{"answer":[42]}')),
        ("broken", {}, Result("broken is done")),
        ("large", {"size": 30_000}, Result("x" * 13_333 + "\n[… 10000 characters left out …]\n" + "x" * 6_667)),
    ],
)
async def test_what_calls_give(shared: Running, name: str, arguments: dict[str, Any], result: Result) -> None:
    assert await shared.call(f"good.{name}", **arguments) == result


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "$: 'text' is a required property"),
        ({"text": 1}, "$.text: 1 is not of type 'string'"),
        ({"text": "a", "times": 0}, "$.times: 0 is less than the minimum of 1"),
        ({"text": "a", "x": 1}, "$: Additional properties are not allowed ('x' was unexpected)"),
    ],
)
async def test_arguments_are_checked_before_the_call(shared: Running, arguments: dict[str, Any], reason: str) -> None:
    takes = "It takes text (string, required), times (integer, optional)."
    assert await shared.call("good.echo", **arguments) == Result(
        "", error=f"Wrong arguments for good.echo: {reason}. {takes}"
    )


async def test_data_become_files(shared: Running) -> None:
    files = (
        File("good-mixed.png", "image/png", len(PICTURE)),
        File("good-mixed.bin", "application/octet-stream", len(PICTURE)),
    )
    text = "Look:\n(image/png that is not base64)\npage https://example.org/ A page.\nnote:1:\nA note."
    assert await shared.call("good.mixed") == Result(text, files)
    assert (shared.session.folder / "good-mixed.png").read_bytes() == PICTURE


async def test_calls_go_side_by_side(shared: Running) -> None:
    hanging = asyncio.create_task(shared.call("good.hang"))
    assert [await shared.call("good.echo", text=str(n)) for n in range(3)] == [Result(str(n)) for n in range(3)]
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert await shared.call("good.echo", text="still there") == Result("still there")


async def test_a_process_gets_the_variables_of_its_configuration_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    running = await run(process(env={"TOKEN": "t"}, tools=("environment",)))
    names = set((await running.call("good.environment")).output.split())
    assert {"TOKEN", "PATH"} <= names <= {"TOKEN", "LC_CTYPE", *KNOWN}
    assert [tool.name for tool in running.servers.tools()] == ["good.environment"]


async def test_a_call_that_takes_too_long_is_given_up_at_the_server_too(run: Run) -> None:
    fake = Fake("good")
    async with over_http(fake) as port:
        running = await run(ServerConfig(name="web", url=f"http://127.0.0.1:{port}/mcp", timeout=0.3))
        assert await running.call("web.hang") == Result(
            "", error="web.hang did not end within 0.3 seconds and was stopped."
        )
        async with asyncio.timeout(5):
            await fake.cancelled.wait()
        assert await running.call("web.echo", text="on") == Result("on")
        await running.servers.close()


@pytest.mark.parametrize("json_response", [False, True])
async def test_a_server_over_http(run: Run, json_response: bool) -> None:
    async with over_http(Fake("good"), json_response=json_response) as port:
        running = await run(ServerConfig(name="web", url=f"http://127.0.0.1:{port}/mcp?key=secret"))
        assert running.servers.status()["web"]["place"] == f"http://127.0.0.1:{port}"
        assert await running.call("web.echo", text="hello") == Result("hello")
        result = await running.call("web.large", size=50_000_000)
        assert result.error is not None and len(result.text) < 300
        assert await running.call("web.echo", text="on") == Result("on")
        await running.servers.close()


async def test_a_server_over_http_that_restarts(run: Run) -> None:
    async with AsyncExitStack() as first:
        port = await first.enter_async_context(over_http(Fake("good")))
        running = await run(ServerConfig(name="web", url=f"http://127.0.0.1:{port}/mcp"))
        await first.aclose()
        assert (await running.call("web.echo", text="?")).error is not None
        await until(lambda: not running.connected("web"))
        assert await running.call("web.echo", text="?") == Result(
            "", error="The tool web.echo is not available: the MCP server web is down; it is tried again."
        )
        assert running.box.specs() == ()
    async with over_http(Fake("good"), port):
        await until(lambda: running.connected("web"))
        assert await running.call("web.echo", text="back") == Result("back")
        await running.servers.close()


async def test_new_tools_are_noticed(run: Run) -> None:
    running = await run(process(tools=("gr*",)))
    assert await running.call("good.grow") == Result("grow is done")
    await until(lambda: "good.grown" in running.box.tools())


async def test_a_server_that_dies_in_a_call_takes_only_itself_along_and_comes_back(run: Run, shared: Running) -> None:
    running = await run(process(name="weak", max_output=100), script("never", "raise SystemExit(1)"))
    assert running.servers.status()["never"]["connected"] is False
    assert await running.call("weak.large", size=200) == Result(
        f"{'x' * 66}\n[… 100 characters left out …]\n{'x' * 34}"
    )
    assert await running.call("weak.die") == Result("", error="The MCP server weak went away during the call.")
    assert await shared.call("good.echo", text="not me") == Result("not me")
    await until(lambda: running.connected("weak"))
    assert await running.call("weak.echo", text="back") == Result("back")


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("large", {"size": 50_000_000}, "it sent a message of more than 8,388,608 bytes"),
        ("flood", {}, "it sent more than 10,000 messages in 10 seconds"),
    ],
)
async def test_a_server_that_sends_too_much_is_given_up(
    run: Run, caplog: pytest.LogCaptureFixture, name: str, arguments: dict[str, Any], reason: str
) -> None:
    caplog.set_level(logging.WARNING)
    running = await run(process())
    await running.call(f"good.{name}", **arguments)
    await until(lambda: f"MCP server good: {reason}" in caplog.messages)
    await until(lambda: running.connected("good"))
    assert await running.call("good.echo", text="again") == Result("again")


async def test_of_five_hundred_tools_some_are_offered(run: Run) -> None:
    running = await run(process("many", "all"), process("many", "some", tools=("tool49?", "tool7")))
    assert [tool.name for tool in running.servers.tools()] == [
        *(f"all.tool{n}" for n in range(128)),
        *("some.tool7", *(f"some.tool49{n}" for n in range(10))),
    ]
    status = running.servers.status()["all"]
    assert (status["tools"], len(status["refused"])) == (128, 372)
    assert status["refused"]["tool499"] == "a server may have 128 tools; name those that are needed in `tools`"


async def test_odd_names_and_schemas(run: Run) -> None:
    running = await run(process("odd", "odd"))
    assert [tool.name for tool in running.servers.tools()] == [
        "odd.read_file_",
        "odd._n_code",
        "odd." + "x" * 59,
        "odd.loop",
    ]
    assert running.servers.status()["odd"]["refused"] == {
        "read_file?": "there is another tool odd.read_file_",
        "remote": "Invalid schema: 'http://127.0.0.1:1/schema' is not a reference within the schema.",
        "wrong": "Invalid schema: $.properties.a.type: 'strange' is not valid under any of the given schemas",
        "long": "its schema is longer than 32,768 bytes",
    }
    # A schema that refers to itself without an end holds nothing up; the server knows better.
    assert (await running.call("odd.loop", a=1)).error is None


async def test_servers_that_never_start(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    running = await run(
        script("mute", "import sys; sys.stdin.read()"),
        script("ill", "import sys; sys.exit('no such thing')"),
        ServerConfig(name="none", command="/no/such/program"),
        ServerConfig(name="closed", url="http://127.0.0.1:1/mcp"),
        patience=2.0,
    )
    assert running.servers.tools() == []
    status = running.servers.status()
    assert [each["connected"] for each in status.values()] == [False] * 4
    assert status["mute"]["reason"] == "it is still starting"
    assert "No such file" in status["none"]["reason"]
    assert any("MCP server ill:" in line and "it said: no such thing" in line for line in caplog.messages)
    assert "no such thing" not in status["ill"]["reason"]


async def test_nothing_that_a_server_started_outlives_it(run: Run) -> None:
    running = await run(process(tools=("child",)))
    child = (await running.call("good.child")).output
    assert Path(f"/proc/{child}").exists()
    await running.servers.close()
    await until(lambda: not alive(child))


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def written(folder: Path, servers: Any) -> Path:
    file = folder / "mcp.json"
    file.write_bytes(msgspec.json.encode({"mcpServers": servers, "other": 1}))
    return file


def test_a_configuration(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "files": {"command": "npx", "args": ["-y", "files"], "env": {"A": "x${TOKEN}y"},
                      "tools": ["read", "list*"]},
            "web": {"type": "http", "url": "https://x.example/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"},
                    "timeout": 30, "max_output": 1000},
            "off": {"command": "x", "env": {"A": "${MISSING}"}, "disabled": True},
        },
    )  # fmt: skip
    assert load(file, {"TOKEN": "secret"}) == (
        ServerConfig(
            name="files",
            command="npx",
            args=("-y", "files"),
            env={"A": "xsecrety"},
            cwd=str(tmp_path),
            tools=("read", "list*"),
        ),
        ServerConfig(
            name="web",
            type="http",
            url="https://x.example/mcp",
            headers={"Authorization": "Bearer secret"},
            timeout=30.0,
            max_output=1000,
        ),
    )


@pytest.mark.parametrize(
    ("server", "error"),
    [
        ({}, "it needs either `command` or `url`."),
        ({"command": "x", "url": "http://x/"}, "it needs either `command` or `url`."),
        ({"command": "x", "type": "http"}, "the type http does not go with `command`."),
        ({"command": "x", "headers": {"a": "b"}}, "`headers` does not go with `command`."),
        ({"url": "http://x/", "args": ["b"]}, "`args` does not go with `url`."),
        ({"url": "ftp://x/"}, "`url` is not an http or https URL."),
        ({"url": "http://x:99999/"}, "Port out of range 0-65535."),
        ({"url": "http://u:p@x/"}, "`url` has a user name or a password; use `headers`."),
        ({"url": "http://x/", "headers": {"a": "${NO}"}}, "the environment has no NO."),
        ({"url": "http://x/", "headers": {"a": "b\nc"}}, "`headers` has something that HTTP cannot carry."),
        ({"command": "x", "env": {"a=b": "c"}}, "`env` has something that an environment cannot carry."),
        ({"command": "x", "timeout": 0}, "`timeout` is a number of seconds up to 86400."),
        ({"command": "x", "max_output": 1}, "`max_output` is a number of characters from 100 to 1000000."),
        ({"command": "x\0"}, "there is a NUL in it."),
    ],
)
def test_a_server_that_is_configured_wrong(tmp_path: Path, server: Any, error: str) -> None:
    file = written(tmp_path, {"a": server})
    with pytest.raises(McpConfigError) as raised:
        load(file, {})
    assert str(raised.value) == f"{file}: server 'a': {error}"


@pytest.mark.parametrize(
    ("servers", "error"),
    [
        ({"a b": {"command": "x"}}, "server 'a b': a name has 1 to 32 of the characters A-Z, a-z, 0-9, _ and -."),
        ({"a": {"command": "x", "arg": []}}, "Object contains unknown field `arg` - at `$.mcpServers[...]`."),
        ({"a": {"command": "x", "args": "y"}}, "Expected `array`, got `str` - at `$.mcpServers[...].args`."),
        ([], "Expected `object`, got `array` - at `$.mcpServers`."),
    ],
)
def test_a_configuration_that_is_wrong(tmp_path: Path, servers: Any, error: str) -> None:
    file = written(tmp_path, servers)
    with pytest.raises(McpConfigError) as raised:
        load(file, {})
    assert str(raised.value) == f"{file}: {error}"


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(McpConfigError, match="cannot be read: No such file or directory"):
        load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(McpConfigError, match="Input data was truncated"):
        load(tmp_path / "bad.json")
