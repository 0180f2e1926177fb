"""Knowledge over HTTP: collections, documents that are taken in as runs, and searching them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.backend import Embedded, ModelInfo
from models.messages import Usage
from models.scripted import Script, Scripted
from tests.doors import envelope
from tests.live import Live, Serve
from tests.wire import check_headers, failure
from tools.python import Sandbox

pytestmark = pytest.mark.anyio

PATH = "/api/knowledge"
MOON = "The moon is not made of cheese. It is a cold stone."
SUN = "The sun is a hot ball of plasma. It shines by day."
BY_WORDS = "Searched by words alone: no embedding model is set."


class Embedder(Scripted):
    """Knows that luna is the moon; waits where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def models(self) -> list[ModelInfo]:
        """A chat model and two that embed."""
        return [*await super().models(), ModelInfo("first", "scripted"), ModelInfo("second", "scripted")]

    async def embed(self, model: str, inputs: Sequence[str], dimensions: int | None = None) -> Embedded:
        """How often each of two words stands there."""
        self.started.set()
        await self.gate.wait()
        texts = [text.lower().replace("luna", "moon") for text in inputs]
        return Embedded([[text.count("moon"), text.count("sun"), 0.1] for text in texts], Usage())


async def call(client: httpx.AsyncClient, method: str, path: str = "", status: int = 200, **body: Any) -> Any:
    """The body of a success."""
    response = await client.request(method, PATH + path, json=body or None)
    check_headers(response)
    assert response.status_code == status, response.text
    return response.json()


async def run(client: httpx.AsyncClient, run_id: str) -> list[tuple[str, Any]]:
    """The events of a run until it has ended."""
    response = await client.get(f"/v1/runs/{run_id}/events")
    assert response.status_code == 200
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [(event["type"], event) for event in map(json.loads, lines)]


async def collection(client: httpx.AsyncClient, name: str = "sky") -> str:
    """A new collection; its path."""
    return "/" + str((await call(client, "POST", status=201, name=name))["id"])


async def add(client: httpx.AsyncClient, path: str, **body: Any) -> str:
    """A document taken in; its path."""
    started = await call(client, "POST", f"{path}/documents", 202, **body)
    assert (await run(client, started["run_id"]))[-1][0] == "answer"
    return f"{path}/documents/{started['id']}"


async def search(client: httpx.AsyncClient, path: str, query: str, **options: Any) -> list[str]:
    """The texts that are found."""
    found = await call(client, "POST", f"{path}/search", query=query, **options)
    return [passage["text"] for passage in found["data"]]


async def second_user(client: httpx.AsyncClient, live: Live, *scopes: str) -> httpx.AsyncClient:
    """Somebody else."""
    user = (await client.post("/api/users", json={"username": "mallory"})).json()
    body = {"name": "k", "user_id": user["id"], "scopes": scopes}
    return await live.http((await client.post("/api/auth/keys", json=body)).json()["key"])


async def test_a_collection_from_beginning_to_end(client: httpx.AsyncClient, live: Live) -> None:
    made = await call(client, "POST", status=201, name="sky", description="What is above")
    fixed = {"object": "knowledge", "name": "sky", "description": "What is above", "embedding_model": None}
    assert made == {"id": made["id"], "created_at": made["created_at"], **fixed}
    path = f"/{made['id']}"
    await add(client, path, text=f"# Night\n\n{MOON}\n", name="sky.md")
    assert await call(client, "GET", path) == made | {"documents": 1, "chunks": 1, "embedded": 0}
    (document,) = (await call(client, "GET", f"{path}/documents"))["data"]
    found = await call(client, "POST", f"{path}/search", query="cheese", k=1)
    text = f"# Night\n\n{MOON}"
    passage = {
        "text": text,
        "document": "sky.md",
        "document_id": document["id"],
        "page": None,
        "headings": ["Night"],
        "start": 0,
        "end": len(text),
        "score": round(1 / 61, 6),
    }
    assert found == {
        "object": "list",
        "data": [passage],
        "method": "lexical",
        "reranked": False,
        "notes": [BY_WORDS],
    }
    folder = live.settings.data_directory / "knowledge" / made["id"]
    assert folder.is_dir()
    assert await call(client, "DELETE", path) == {"id": made["id"], "object": "knowledge", "deleted": True}
    assert not folder.exists()
    missing = envelope(f"No collection found with id '{made['id']}'.", "knowledge_not_found", param="knowledge_id")
    assert failure(await client.get(PATH + path)) == (404, missing, {})


async def test_a_document_from_beginning_to_end(client: httpx.AsyncClient) -> None:
    path = await collection(client)
    started = await call(client, "POST", f"{path}/documents", 202, text=MOON, name="moon.txt")
    run_id = started.pop("run_id")
    times = {key: started[key] for key in ("id", "created_at", "updated_at")}
    empty = {"chunks": 0, "tokens": 0, "characters": 0}
    fixed = {"object": "knowledge.document", "collection_id": path[1:], "name": "moon.txt", "error": None}
    assert started == {**times, **fixed, **empty, "status": "ingesting"}
    events = await run(client, run_id)
    assert [kind for kind, _ in events] == ["asked", "log", "log", "log", "answer"]
    assert [event["text"] for _, event in events[1:]] == [
        "Reading",
        "Storing",
        "Indexing",
        "moon.txt: 1 chunks of 14 tokens.",
    ]
    shown = (await client.get(f"/v1/runs/{run_id}")).json()
    assert (shown["mode"], shown["status"]) == ("knowledge", "completed")
    full = {"chunks": 1, "tokens": 14, "characters": len(MOON)}
    document = f"{path}/documents/{started['id']}"
    assert await call(client, "GET", document) == {**times, **fixed, **full, "status": "ready"}
    replaced = await call(client, "PUT", document, 202, text=SUN)
    assert (replaced["id"], replaced["name"], replaced["status"]) == (started["id"], "moon.txt", "ingesting")
    await run(client, replaced["run_id"])
    assert await search(client, path, "moon sun") == [SUN]
    deleted = {"id": started["id"], "object": "knowledge.document", "deleted": True}
    assert await call(client, "DELETE", document) == deleted
    assert await search(client, path, "moon sun") == []
    missing = envelope(f"No document found with id '{started['id']}'.", "knowledge_not_found", param="document_id")
    assert failure(await client.get(PATH + document)) == (404, missing, {})


async def test_pages(client: httpx.AsyncClient) -> None:
    paths = [await collection(client, f"c{number}") for number in range(3)]
    first = await call(client, "GET", "?limit=2")
    assert [each["id"] for each in first["data"]] == [path[1:] for path in paths[:0:-1]]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, paths[2][1:], paths[1][1:])
    second = await call(client, "GET", f"?limit=2&after={first['last_id']}")
    assert ([each["id"] for each in second["data"]], second["has_more"]) == ([paths[0][1:]], False)
    documents = [(await add(client, paths[0], text=MOON, name=f"{n}.txt")).rpartition("/")[2] for n in range(3)]
    first = await call(client, "GET", f"{paths[0]}/documents?limit=2")
    second = await call(client, "GET", f"{paths[0]}/documents?limit=2&after={first['last_id']}")
    assert [each["id"] for each in first["data"] + second["data"]] == documents[::-1]


async def test_a_file_that_was_uploaded(serve: Serve, sandbox: Sandbox) -> None:
    client = await (await serve([Scripted()], sandbox=sandbox)).http()
    path = await collection(client)
    page = b"<html><body><h1>Sky</h1><p>The <b>moon</b> is cold.</p><script>alert(1)</script></body></html>"
    form = {"purpose": "user_data"}
    uploaded = (await client.post("/v1/files", files={"file": ("sky.html", page)}, data=form)).json()
    await add(client, path, file_id=uploaded["id"])
    (passage,) = (await call(client, "POST", f"{path}/search", query="moon"))["data"]
    assert (passage["document"], passage["headings"]) == ("sky.html", ["Sky"])
    assert "The moon is cold." in passage["text"] and "alert" not in passage["text"]
    empty = (await client.post("/v1/files", files={"file": ("dot.png", b"\x89PNG\r\n\x1a\n")}, data=form)).json()
    started = await call(client, "POST", f"{path}/documents", 202, file_id=empty["id"], name="a dot")
    kind, failed = (await run(client, started["run_id"]))[-1]
    assert (kind, failed["code"], failed["status"]) == ("failed", "unreadable_document", 400)
    document = await call(client, "GET", f"{path}/documents/{started['id']}")
    assert (document["status"], document["error"]) == ("failed", failed["message"])


async def test_others_see_nothing(client: httpx.AsyncClient, live: Live) -> None:
    path = await collection(client)
    document = await add(client, path, text=MOON, name="moon.txt")
    form = {"purpose": "user_data"}
    file = (await client.post("/v1/files", files={"file": ("a.txt", b"secret")}, data=form)).json()["id"]
    other = await second_user(client, live)
    theirs = await collection(other)
    assert [each["id"] for each in (await call(other, "GET"))["data"]] == [theirs[1:]]
    for method, address, body in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("GET", f"{path}/documents", None),
        ("POST", f"{path}/documents", {"text": "x", "name": "x"}),
        ("GET", document, None),
        ("PUT", document, {"text": "x"}),
        ("DELETE", document, None),
        ("POST", f"{path}/search", {"query": "moon"}),
        ("POST", f"{path}/reindex", None),
        ("GET", f"?after={path[1:]}", None),
        ("GET", document.replace(path, theirs), None),
        ("PUT", document.replace(path, theirs), {"text": "x"}),
        ("POST", f"{theirs}/documents", {"file_id": file}),
    ):
        status, _, _ = failure(await other.request(method, PATH + address, json=body))
        assert (status, method, address) == (404, method, address)
    assert await search(client, path, "moon") == [MOON]


async def test_a_key_needs_the_scope(client: httpx.AsyncClient, live: Live) -> None:
    other = await second_user(client, live, "chat")
    status, body, _ = failure(await other.get(PATH))
    assert (status, body["error"]["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("", {}, 400, "missing_required_parameter", "name"),
        ("", {"name": ""}, 400, "invalid_value", "name"),
        ("", {"name": "x" * 201}, 400, "invalid_value", "name"),
        ("", {"name": "\u200b"}, 400, "invalid_value", "name"),
        ("", {"name": 7}, 400, "invalid_type", "name"),
        ("", {"name": "a", "colour": "red"}, 400, "unknown_parameter", "colour"),
        ("", {"name": "taken"}, 409, "name_taken", "name"),
        ("/documents", {}, 400, "invalid_value", "text"),
        ("/documents", {"text": "a", "file_id": "b"}, 400, "invalid_value", "text"),
        ("/documents", {"text": "a"}, 400, "missing_required_parameter", "name"),
        ("/documents", {"file_id": "file-none"}, 404, "file_not_found", "id"),
        ("/documents", {"file_id": "../../../etc/passwd"}, 404, "file_not_found", "id"),
        ("/documents", {"text": "x" * 2_000_001, "name": "long"}, 413, "quota_exceeded", None),
        ("/search", {}, 400, "missing_required_parameter", "query"),
        ("/search", {"query": ""}, 400, "invalid_value", "query"),
        ("/search", {"query": "x" * 4001}, 400, "invalid_value", "query"),
        ("/search", {"query": "a", "k": 0}, 400, "invalid_value", "k"),
        ("/search", {"query": "a", "k": 51}, 400, "invalid_value", "k"),
    ],
)
async def test_what_cannot_be_taken_is_refused_by_name(
    client: httpx.AsyncClient, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    taken = await collection(client, "taken")
    response = await client.post(PATH + (taken + path if path else ""), json=body)
    got, refused, _ = failure(response)
    assert (got, refused["error"]["code"], refused["error"]["param"]) == (status, code, param)
    assert (await call(client, "GET", f"{taken}/documents"))["data"] == []


async def test_a_document_that_is_empty_fails(client: httpx.AsyncClient) -> None:
    path = await collection(client)
    started = await call(client, "POST", f"{path}/documents", 202, text="", name="empty.txt")
    kind, failed = (await run(client, started["run_id"]))[-1]
    assert (kind, failed["message"]) == ("failed", "empty.txt holds no text.")
    assert (await call(client, "GET", f"{path}/documents/{started['id']}"))["status"] == "failed"


async def test_words_and_meaning(serve: Serve) -> None:
    client = await (await serve([Embedder()], embedding_model="first")).http()
    path = await collection(client)
    await add(client, path, text=MOON, name="moon.txt")
    await add(client, path, text=SUN, name="sun.txt")
    found = await call(client, "POST", f"{path}/search", query="luna", k=1)
    assert (found["method"], found["notes"], found["data"][0]["text"]) == ("hybrid", [], MOON)
    shown = await call(client, "GET", path)
    assert (shown["embedding_model"], shown["chunks"], shown["embedded"]) == ("first", 2, 2)


async def test_another_embedding_model_after_a_restart(serve: Serve) -> None:
    first = await serve([Embedder()], embedding_model="first")
    client = await first.http()
    path = await collection(client)
    await add(client, path, text=MOON, name="moon.txt")
    second = await serve([Embedder()], embedding_model="second")
    client = await second.http()
    found = await call(client, "POST", f"{path}/search", query="luna moon")
    assert (found["method"], [each["text"] for each in found["data"]]) == ("lexical", [MOON])
    assert "vectors were made by first (3 dimensions), and queries now are by second" in found["notes"][0]
    started = await call(client, "POST", f"{path}/reindex", 202)
    events = await run(client, started["run_id"])
    assert (events[-1][0], events[-1][1]["text"]) == ("answer", "sky was embedded.")
    found = await call(client, "POST", f"{path}/search", query="luna")
    assert (found["method"], found["notes"]) == ("hybrid", [])
    assert (await call(client, "GET", path))["embedding_model"] == "second"


async def test_without_an_embedding_model_there_is_nothing_to_embed(client: httpx.AsyncClient) -> None:
    path = await collection(client)
    started = await call(client, "POST", f"{path}/reindex", 202)
    kind, failed = (await run(client, started["run_id"]))[-1]
    assert (kind, failed["code"]) == ("failed", "no_embedding_model")


async def test_a_run_that_is_cancelled_leaves_what_was_there(serve: Serve) -> None:
    backend = Embedder()
    client = await (await serve([backend], embedding_model="first")).http()
    path = await collection(client)
    document = await add(client, path, text=MOON, name="moon.txt")
    backend.gate.clear()
    backend.started.clear()
    started = await call(client, "PUT", document, 202, text=SUN)
    await backend.started.wait()
    assert (await call(client, "GET", document))["status"] == "ingesting"
    assert (await client.post(f"/v1/runs/{started['run_id']}/cancel")).json()["status"] == "cancelled"
    backend.gate.set()
    async with asyncio.timeout(10):
        while (shown := await call(client, "GET", document))["status"] == "ingesting":
            pass
    assert (shown["status"], shown["error"], shown["chunks"]) == ("failed", "It was stopped before it was done.", 1)
    assert await search(client, path, "moon sun") == [MOON]


async def test_a_server_that_stopped_in_the_middle(serve: Serve, tmp_path: Path) -> None:
    backend = Embedder()
    backend.gate.clear()
    live = await serve([backend], embedding_model="first", shutdown_grace=0)
    client = await live.http()
    path = await collection(client)
    started = await call(client, "POST", f"{path}/documents", 202, text=MOON, name="moon.txt")
    await backend.started.wait()
    # Another one starts on the same data, as after a crash.
    again = await (await serve([Scripted()])).http()
    shown = await call(again, "GET", f"{path}/documents/{started['id']}")
    assert (shown["status"], shown["error"]) == (
        "failed",
        "The server stopped before the document was read. Send it again.",
    )
    backend.gate.set()
    kind, failed = (await run(client, started["run_id"]))[-1]
    assert (kind, failed["code"]) == ("failed", "superseded")
    assert await search(again, path, "moon") == []


async def test_too_many_at_once(serve: Serve) -> None:
    backend = Embedder()
    backend.gate.clear()
    client = await (await serve([backend], embedding_model="first")).http()
    path = await collection(client)
    started = [await call(client, "POST", f"{path}/documents", 202, text=MOON, name="m") for _ in range(20)]
    status, body, _ = failure(await client.post(f"{PATH}{path}/documents", json={"text": MOON, "name": "m"}))
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    backend.gate.set()
    for each in started:
        assert (await run(client, each["run_id"]))[-1][0] == "answer"
    assert (await call(client, "GET", path))["documents"] == 20


async def test_the_chat_model_puts_what_is_found_in_order(serve: Serve) -> None:
    backend = Scripted([Script('{"order": [2, 1]}')])
    client = await (await serve([backend], knowledge_rerank=True)).http()
    path = await collection(client)
    for text in (MOON, SUN):
        await add(client, path, text=text, name="sky.txt")
    found = await call(client, "POST", f"{path}/search", query="the moon the sun")
    assert (found["reranked"], [each["text"] for each in found["data"]]) == (True, [SUN, MOON])
