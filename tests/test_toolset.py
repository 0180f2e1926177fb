"""Tools over HTTP: listed, called by people, counted; and the workspace that they share."""

import asyncio
from typing import Any

import httpx
import pytest

from models.scripted import Scripted
from tests.live import Live, Serve
from tests.wire import CHAT, HELLO, refusal
from tools.python import Sandbox

pytestmark = pytest.mark.anyio

CSV = b"city,people\nOslo,700000\nBergen,290000\n"


@pytest.fixture
async def working(serve: Serve, scripted: Scripted, sandbox: Sandbox) -> Live:
    """A server whose tools work."""
    return await serve([scripted], sandbox=sandbox)


@pytest.fixture
async def people(working: Live) -> httpx.AsyncClient:
    return await working.http()


async def call(
    client: httpx.AsyncClient, tool: str, session_id: str | None = None, /, **arguments: Any
) -> dict[str, Any]:
    """A call of a tool; its result without the time that it took."""
    body: dict[str, Any] = {"arguments": arguments}
    if session_id is not None:
        body["session_id"] = session_id
    response = await client.post(f"/api/tools/{tool}", json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    assert response.headers["x-session-id"] == result["x_session_id"]
    assert result.pop("seconds") > 0
    return result


async def test_all_tools_are_listed_with_schemas(people: httpx.AsyncClient) -> None:
    tools = {each["name"]: each for each in (await people.get("/api/tools")).json()["data"]}
    assert list(tools) == [
        "python", "list_files", "read_file", "knowledge_search", "web_search", "web_fetch", "analyze_image",
    ]  # fmt: skip
    assert tools["python"]["parameters"]["required"] == ["code"]
    assert tools["python"]["available"] is True
    assert (tools["web_search"]["available"], tools["web_search"]["reason"]) == (
        False,
        "no provider is set (WEB_SEARCH_PROVIDER).",
    )


async def test_variables_and_files_last_from_call_to_call(people: httpx.AsyncClient) -> None:
    first = await call(people, "python", code="x = 41\nopen('a.txt', 'w').write('hello')")
    session_id = first["x_session_id"]
    (made,) = first["files"]
    assert (made["name"], made["type"], made["bytes"]) == ("a.txt", "text/plain", 5)
    assert (await people.get(made["url"])).content == b"hello"
    second = await call(people, "python", session_id, code="print(x + 1)\nopen('a.txt').read()")
    assert second == {"output": "42\n'hello'", "files": [], "error": None, "x_session_id": session_id}
    assert (await call(people, "read_file", session_id, name="a.txt"))["output"].endswith("\n\nhello\n")


async def test_an_uploaded_table_becomes_a_chart(people: httpx.AsyncClient) -> None:
    upload = (await people.post("/api/upload", files={"f": ("cities.csv", CSV)})).json()
    assert upload["data"][0]["x_about"].startswith("Table: 2 rows, 2 columns")
    code = "import pandas as pd\ndf = pd.read_csv('cities.csv')\ndf.plot.bar(x='city')\ndf.people.sum()"
    result = await call(people, "python", upload["x_session_id"], code=code)
    assert (result["error"], result["output"].splitlines()[-1]) == (None, "np.int64(990000)")
    (chart,) = result["files"]
    assert chart["type"] == "image/png"
    assert (await people.get(chart["url"])).content.startswith(b"\x89PNG")
    listed = (await call(people, "list_files", upload["x_session_id"]))["output"]
    assert "cities.csv" in listed and chart["name"] in listed


async def test_a_file_that_changes_gets_an_id_of_its_own(people: httpx.AsyncClient) -> None:
    first = await call(people, "python", "s", code="open('a.txt', 'w').write('one')")
    second = await call(people, "python", "s", code="open('a.txt', 'w').write('two')")
    third = await call(people, "python", "s", code="open('a.txt', 'w').write('two')")
    urls = [result["files"][0]["url"] for result in (first, second)]
    assert [(await people.get(url)).text for url in urls] == ["one", "two"]
    assert [file["url"] for file in third["files"]] in ([], [urls[1]])


async def test_what_goes_wrong_inside_is_told_and_no_error_of_http(people: httpx.AsyncClient) -> None:
    result = await call(people, "python", "s", code="1 / 0")
    assert result["error"].rstrip().endswith("ZeroDivisionError: division by zero")
    assert "/work" not in result["error"] and "site-packages" not in result["error"]
    wrong = await call(people, "python", "s", cod="1")
    assert wrong["error"].startswith("Wrong arguments for python: Object contains unknown field `cod`.")


async def test_a_tool_that_is_not_there_or_cannot_be_used_is_refused(people: httpx.AsyncClient) -> None:
    assert refusal(await people.post("/api/tools/nothing", json={}), 404)["code"] == "tool_not_found"
    refused = refusal(await people.post("/api/tools/web_search", json={"arguments": {"query": "x"}}), 400)
    assert (refused["code"], refused["message"]) == (
        "tool_unavailable",
        "The tool 'web_search' is not available: no provider is set (WEB_SEARCH_PROVIDER).",
    )
    assert (await people.get("/api/sessions")).json()["data"] == []


async def test_only_tools_that_are_set_are_there(serve: Serve, scripted: Scripted) -> None:
    client = await (await serve([scripted], tools="list_*,python")).http()
    tools = {each["name"]: each["available"] for each in (await client.get("/api/tools")).json()["data"]}
    assert tools == {"python": False, "list_files": True}


async def test_a_client_that_leaves_stops_the_tool(working: Live, people: httpx.AsyncClient) -> None:
    impatient = await working.http()
    body = {"arguments": {"code": "import time\nx = 1\ntime.sleep(25)"}, "session_id": "s"}
    request = asyncio.create_task(impatient.post("/api/tools/python", json=body))
    async with asyncio.timeout(20):
        while not any(  # noqa: ASYNC110
            each["busy"] for each in (await people.get("/api/tools/python/status")).json()["sessions"]
        ):
            await asyncio.sleep(0.01)
    request.cancel()
    result = await call(people, "python", "s", code="'x' in globals()")
    assert result["output"].startswith("False")


async def test_calls_are_counted_by_user_and_tool(people: httpx.AsyncClient) -> None:
    await call(people, "list_files", "s")
    await call(people, "list_files", "s")
    await call(people, "read_file", "s", name="nothing")
    uses = {each.pop("tool"): each for each in (await people.get("/api/tools/usage")).json()["data"]}
    assert {tool: (each["calls"], each["failures"]) for tool, each in uses.items()} == {
        "list_files": (2, 0),
        "read_file": (1, 1),
    }
    metrics = (await people.get("/metrics")).text
    assert 'drover_tool_calls_total{status="ok",tool="list_files"} 2.0' in metrics
    assert 'drover_tool_calls_total{status="failed",tool="read_file"} 1.0' in metrics
    everybody = (await people.get("/api/tools/usage", params={"all": True})).json()["data"]
    assert {(each["tool"], each["calls"]) for each in everybody} == {("list_files", 2), ("read_file", 1)}


async def test_deleting_a_session_ends_its_python(people: httpx.AsyncClient) -> None:
    await call(people, "python", "s", code="secret = 42")
    await people.delete("/api/sessions/s")
    result = await call(people, "python", "s", code="'secret' in globals()")
    assert result["output"].startswith("False") and result["files"] == []


async def test_a_key_needs_the_scope(people: httpx.AsyncClient, working: Live) -> None:
    key = (await people.post("/api/auth/keys", json={"name": "k", "scopes": ["chat"]})).json()["key"]
    limited = await working.http(key)
    assert refusal(await limited.get("/api/tools"), 403)["code"] == "insufficient_scope"
    assert refusal(await limited.get("/v1/files"), 403)["code"] == "insufficient_scope"
    assert refusal(await limited.get("/api/sessions"), 403)["code"] == "insufficient_scope"
    assert (await limited.post(CHAT, json=HELLO)).status_code == 200


async def test_the_status_names_the_layers(people: httpx.AsyncClient) -> None:
    status = (await people.get("/health/status")).json()["tools"]["python"]
    assert status["available"] is True and status["isolation"] in ("full", "kernel")
    assert {"landlock", "seccomp"} & set(status["layers"])
