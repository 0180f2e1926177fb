"""The OpenAPI document and its two pages, as a client gets them."""

import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from gateway.docs import ADDRESS, ASSETS
from gateway.openai.described import ChatBody, EmbeddingBody
from gateway.openai.request import ChatRequest
from gateway.routes.embeddings import EmbeddingRequest

pytestmark = pytest.mark.anyio

PUBLIC = {"register", "login", "refresh", "health", "live", "ready", "status", "metrics"}

PICTURE = "data:image/png;base64,iVBORw0KGgo="
CONVERSATION = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
]
FULL = {
    "model": "scripted",
    "messages": CONVERSATION,
    "temperature": 0.5,
    "max_completion_tokens": 5,
    "stop": ["\n"],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "text"},
    "x_agent": {},
}


@pytest.fixture
async def document(anonymous: httpx.AsyncClient) -> dict[str, Any]:
    response = await anonymous.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = response.json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


async def test_every_operation_is_there_once_with_a_stable_id(document: dict[str, Any]) -> None:
    listed = {
        f"{method.upper()} {path}": operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert listed == {
        "POST /v1/chat/completions": "createChatCompletion",
        "POST /v1/embeddings": "createEmbeddings",
        "GET /v1/models": "listModels",
        "GET /v1/models/{model_id}": "retrieveModel",
        "GET /v1/runs": "listRuns",
        "POST /v1/runs": "createRun",
        "GET /v1/runs/{run_id}": "retrieveRun",
        "POST /v1/runs/{run_id}/cancel": "cancelRun",
        "POST /v1/runs/{run_id}/pause": "pauseRun",
        "POST /v1/runs/{run_id}/resume": "resumeRun",
        "GET /v1/runs/{run_id}/events": "streamRunEvents",
        "GET /v1/runs/{run_id}/replay": "replayRun",
        "GET /api/sessions": "listSessions",
        "GET /api/sessions/{session_id}": "retrieveSession",
        "DELETE /api/sessions/{session_id}": "deleteSession",
        "POST /v1/files": "createFile",
        "GET /v1/files": "listFiles",
        "POST /api/upload": "uploadFiles",
        "GET /v1/files/{file_id}": "retrieveFile",
        "DELETE /v1/files/{file_id}": "deleteFile",
        "GET /v1/files/{file_id}/content": "downloadFile",
        "GET /api/tools": "listTools",
        "POST /api/tools/{name}": "callTool",
        "GET /api/tools/usage": "listToolUses",
        "GET /api/tools/python/status": "pythonStatus",
        "POST /api/knowledge": "createKnowledge",
        "GET /api/knowledge": "listKnowledge",
        "GET /api/knowledge/{knowledge_id}": "retrieveKnowledge",
        "DELETE /api/knowledge/{knowledge_id}": "deleteKnowledge",
        "POST /api/knowledge/{knowledge_id}/documents": "addDocument",
        "GET /api/knowledge/{knowledge_id}/documents": "listDocuments",
        "GET /api/knowledge/{knowledge_id}/documents/{document_id}": "retrieveDocument",
        "PUT /api/knowledge/{knowledge_id}/documents/{document_id}": "replaceDocument",
        "DELETE /api/knowledge/{knowledge_id}/documents/{document_id}": "deleteDocument",
        "POST /api/knowledge/{knowledge_id}/search": "searchKnowledge",
        "POST /api/knowledge/{knowledge_id}/reindex": "reindexKnowledge",
        "POST /api/auth/register": "register",
        "POST /api/auth/login": "login",
        "POST /api/auth/refresh": "refresh",
        "POST /api/auth/logout": "logout",
        "GET /api/auth/me": "me",
        "POST /api/auth/keys": "createKey",
        "GET /api/auth/keys": "listKeys",
        "DELETE /api/auth/keys/{key_id}": "revokeKey",
        "GET /api/users": "listUsers",
        "POST /api/users": "addUser",
        "PATCH /api/users/{user_id}": "changeUser",
        "GET /health": "health",
        "GET /health/live": "live",
        "GET /health/ready": "ready",
        "GET /health/status": "status",
        "GET /metrics": "metrics",
    }


async def test_security(document: dict[str, Any]) -> None:
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    open_to_all = {name for name, operation in operations(document).items() if operation.get("security") == [{}]}
    assert open_to_all == PUBLIC


async def test_every_error_has_the_envelope(document: dict[str, Any]) -> None:
    for operation in operations(document).values():
        for status, response in operation["responses"].items():
            if status == "default" or (status >= "400" and "$ref" in response):
                name = response["$ref"].rpartition("/")[2]
                content = document["components"]["responses"][name]["content"]
                assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
        assert "default" in operation["responses"]
    error = document["components"]["schemas"]["ErrorObject"]
    assert sorted(error["required"]) == ["code", "message", "param", "type"]


async def test_every_post_that_takes_a_body_describes_it(document: dict[str, Any]) -> None:
    without = {
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in ("post", "patch") and "requestBody" not in operation
    }
    assert without == {"cancelRun", "pauseRun", "resumeRun", "reindexKnowledge", "logout"}


async def test_chat_answers_with_a_completion_or_with_chunks(document: dict[str, Any]) -> None:
    answers = operations(document)["createChatCompletion"]["responses"]["200"]["content"]
    assert answers == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Completion"}},
        "text/event-stream": {"schema": {"$ref": "#/components/schemas/Chunk"}},
    }


async def test_messages_and_parts_are_told_apart_by_their_tags(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    messages = schemas["ChatBody"]["properties"]["messages"]
    assert messages["items"]["discriminator"]["propertyName"] == "role"
    assert list(messages["items"]["discriminator"]["mapping"]) == ["system", "developer", "user", "assistant", "tool"]
    parts = schemas["UserMessage"]["properties"]["content"]["anyOf"][1]["items"]
    assert [item["$ref"].rpartition("/")[2] for item in parts["oneOf"]] == ["TextPart", "ImagePart", "FilePart"]
    assert parts["discriminator"]["propertyName"] == "type"


async def test_names_are_plain_and_fields_explained(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert [name for name in schemas if "." in name] == []
    fields = schemas["ChatBody"]["properties"]
    assert [name for name, field in fields.items() if "description" not in field] == []
    assert fields["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}


def test_described_requests_have_the_fields_that_are_taken() -> None:
    assert ChatBody.__struct_fields__ == ChatRequest.__struct_fields__
    assert EmbeddingBody.__struct_fields__ == EmbeddingRequest.__struct_fields__


async def test_what_is_described_is_taken(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    validator(document, "ChatBody").validate(FULL)
    response = await client.post("/v1/chat/completions", json=FULL)
    assert response.status_code == 200, response.text
    validator(document, "Completion").validate(response.json())


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "judge", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"temperature": 2.5},
        {"n": 0},
        {"stop": 5},
        {"tool_choice": {"type": "function"}},
        {"response_format": {"type": "sound"}},
        {"reasoning_effort": "enormous"},
        {"x_agent": {"unheard_of": 1}},
    ],
    ids=str,
)
async def test_what_is_refused_is_not_described(
    client: httpx.AsyncClient, document: dict[str, Any], wrong: dict[str, Any]
) -> None:
    body = FULL | wrong
    assert not validator(document, "ChatBody").is_valid(body)
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text
    validator(document, "ErrorBody").validate(response.json())


async def test_a_picture_is_described(document: dict[str, Any]) -> None:
    part = {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}}
    validator(document, "UserMessage").validate({"role": "user", "content": [part]})


async def test_streams_keep_to_the_document(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    body = FULL | {"stream": True, "tool_choice": "auto", "stream_options": {"include_usage": True}}
    lines = (await client.post("/v1/chat/completions", json=body)).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    for line in lines[:-2]:
        validator(document, "Chunk").validate(httpx.Response(200, content=line.removeprefix("data: ")).json())


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_pages_load_nothing_from_elsewhere(anonymous: httpx.AsyncClient, page: str) -> None:
    response = await anonymous.get(page)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "//" not in response.text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    loaded = [address for address in addresses if address != "data:,"]
    assert loaded and all(address.startswith(f"{ADDRESS}/") for address in loaded)
    for address in loaded:
        asset = await anonymous.get(address)
        assert asset.status_code == 200
        kind = "text/css" if ".css" in address else "javascript"
        assert kind in asset.headers["content-type"]
        assert "immutable" in asset.headers["cache-control"]
        assert (await anonymous.head(address)).status_code == 200


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_pages_have_a_strict_policy(anonymous: httpx.AsyncClient, page: str) -> None:
    response = await anonymous.get(page)
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    styles = {"/docs": "'self'", "/redoc": "'unsafe-inline'"}[page]
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", styles)
    assert (policy["connect-src"], policy["frame-ancestors"]) == ("'self'", "'none'")
    assert "<script>" not in response.text and "style=" not in response.text


def test_bundles_ask_for_nothing_foreign() -> None:
    for file in ASSETS.rglob("*.js"):
        text = file.read_text()
        assert not re.search(r"fonts\.googleapis|cdn\.redoc|unpkg|jsdelivr|sourceMappingURL=http", text), file
    for file in ASSETS.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", file.read_text()), file


@pytest.mark.parametrize(
    "path",
    [
        "..%2fdocs.py",
        "%2e%2e%2fdocs.py",
        "redoc-2.5.4/..%2f..%2fdocs.py",
        "%2fetc%2fpasswd",
        "",
        "redoc-2.5.4",
        "nothing.js",
        "a%00b",
    ],
)
async def test_assets_are_files_of_their_folder_only(anonymous: httpx.AsyncClient, path: str) -> None:
    response = await anonymous.get(f"{ADDRESS}/{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
