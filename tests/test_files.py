"""Files over HTTP, as OpenAI's client and curl send them."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError

from tests.live import Live, Serve
from tests.wire import refusal

pytestmark = pytest.mark.anyio

CSV = b"a,b\n1,2\n3,4\n"


async def upload(client: httpx.AsyncClient, *files: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    """Files uploaded together; the answer."""
    response = await client.post("/api/upload", files=[("files", file) for file in files], data=fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert response.headers["x-session-id"] == body["x_session_id"]
    return body


async def second_user(client: httpx.AsyncClient, live: Live) -> httpx.AsyncClient:
    """Somebody else."""
    user = (await client.post("/api/users", json={"username": "mallory"})).json()
    key = (await client.post("/api/auth/keys", json={"name": "k", "user_id": user["id"]})).json()["key"]
    return await live.http(key)


def folder(live: Live, session_id: str) -> Path:
    return live.settings.data_directory / "sessions" / session_id


async def test_the_openai_client_uploads_lists_reads_and_deletes(live: Live) -> None:
    openai = await live.openai()
    made = await openai.files.create(file=("table.csv", CSV), purpose="user_data")
    assert made.model_dump(exclude={"id", "created_at", "x_session_id"}, exclude_none=True) == {
        "object": "file",
        "bytes": len(CSV),
        "filename": "table.csv",
        "purpose": "user_data",
        "status": "processed",
        "x_type": "text/csv",
        "x_about": made.model_extra["x_about"] if made.model_extra else "",
    }
    assert made.id.startswith("file-")
    assert await openai.files.retrieve(made.id) == made
    assert (await openai.files.content(made.id)).content == CSV
    second = await openai.files.create(file=("b.txt", b"hello"), purpose="assistants")
    assert [file.id async for file in openai.files.list()] == [second.id, made.id]
    assert [file.id async for file in openai.files.list(limit=1, order="asc")] == [made.id, second.id]
    assert [file.id async for file in openai.files.list(purpose="assistants")] == [second.id]
    assert (await openai.files.delete(made.id)).model_dump() == {"id": made.id, "object": "file", "deleted": True}
    with pytest.raises(NotFoundError, match="No such File object"):
        await openai.files.retrieve(made.id)
    assert [file.id async for file in openai.files.list()] == [second.id]


async def test_a_file_lies_in_its_session_and_its_bytes_never_change(live: Live, client: httpx.AsyncClient) -> None:
    body = await upload(client, ("data.csv", CSV))
    (file,) = body["data"]
    working = folder(live, body["x_session_id"]) / "data.csv"
    assert working.read_bytes() == CSV
    working.write_bytes(b"changed by a tool")
    response = await client.get(f"/v1/files/{file['id']}/content")
    assert response.content == CSV
    assert response.headers["content-type"] == "text/csv"
    assert response.headers["content-length"] == str(len(CSV))
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''data.csv"
    assert response.headers["etag"] == f'"{hashlib.sha256(CSV).hexdigest()}"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"


async def test_many_files_go_into_one_session_under_names_of_their_own(live: Live, client: httpx.AsyncClient) -> None:
    first = await upload(client, ("a.txt", b"1"), ("a.txt", b"2"), ("../../etc/pass\u202ewd", b"3"))
    session_id = first["x_session_id"]
    assert [file["filename"] for file in first["data"]] == ["a.txt", "a (2).txt", "passwd"]
    again = await upload(client, ("a.txt", b"5"), session_id=session_id)
    assert again["x_session_id"] == session_id
    assert sorted(path.name for path in folder(live, session_id).iterdir()) == [
        "a (2).txt", "a (3).txt", "a.txt", "passwd",
    ]  # fmt: skip
    assert (folder(live, session_id) / "a (3).txt").read_bytes() == b"5"


async def test_a_link_in_the_working_folder_is_not_followed(
    live: Live, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    session_id = (await upload(client, ("x", b"x")))["x_session_id"]
    victim = tmp_path / "victim"
    (folder(live, session_id) / "a.txt").symlink_to(victim)
    (file,) = (await upload(client, ("a.txt", b"1"), session_id=session_id))["data"]
    assert file["filename"] == "a (2).txt"
    assert not victim.exists()


async def test_deleting_a_file_deletes_its_bytes_and_its_copy(live: Live, client: httpx.AsyncClient) -> None:
    body = await upload(client, ("same.txt", b"1"), ("changed.txt", b"2"))
    working = folder(live, body["x_session_id"])
    (working / "changed.txt").write_bytes(b"by a tool")
    for file in body["data"]:
        await client.delete(f"/v1/files/{file['id']}")
    assert list((live.settings.data_directory / "files").iterdir()) == []
    assert [path.name for path in working.iterdir()] == ["changed.txt"]


async def test_another_users_files_and_sessions_are_not_there(live: Live, client: httpx.AsyncClient) -> None:
    body = await upload(client, ("a.txt", b"1"))
    file_id, session_id = body["data"][0]["id"], body["x_session_id"]
    other = await second_user(client, live)
    for response in (
        await other.get(f"/v1/files/{file_id}"),
        await other.get(f"/v1/files/{file_id}/content"),
        await other.delete(f"/v1/files/{file_id}"),
        await other.get("/v1/files", params={"after": file_id}),
    ):
        assert refusal(response, 404)["code"] == "file_not_found"
    refused = await other.post("/api/upload", files={"f": b"1"}, data={"session_id": session_id})
    assert refusal(refused, 404)["code"] == "session_not_found"
    assert (await other.get("/v1/files")).json()["data"] == []
    assert (await client.get(f"/v1/files/{file_id}/content")).content == b"1"


async def test_what_is_too_large_is_refused_with_the_limit(serve: Serve) -> None:
    live = await serve([], upload_max_bytes=1000, session_max_bytes=1500, user_max_bytes=2500)
    client = await live.http()
    response = await client.post("/v1/files", files={"file": b"x" * 1001})
    assert refusal(response, 413) == {
        "message": "The file is larger than 1000 bytes.",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_too_large",
    }
    session_id = (await upload(client, ("a", b"x" * 1000)))["x_session_id"]
    response = await client.post("/api/upload", files={"f": b"x" * 501}, data={"session_id": session_id})
    assert refusal(response, 413)["code"] == "session_quota_exceeded"
    await upload(client, ("b", b"x" * 1000))
    response = await client.post("/api/upload", files={"f": b"x" * 501})
    assert refusal(response, 413)["code"] == "user_quota_exceeded"
    assert len(list((live.settings.data_directory / "files").iterdir())) == 2
    assert [path.name for path in folder(live, session_id).iterdir()] == ["a"]
    assert (await client.post("/v1/files", files={"file": b"x" * 500})).status_code == 200


async def test_all_files_of_an_upload_are_kept_or_none(serve: Serve) -> None:
    live = await serve([], session_max_bytes=1500)
    client = await live.http()
    response = await client.post("/api/upload", files=[("f", b"x" * 1000), ("f", b"x" * 1000)])
    assert refusal(response, 413)["code"] == "session_quota_exceeded"
    assert (await client.get("/v1/files")).json()["data"] == []
    assert list((live.settings.data_directory / "files").iterdir()) == []


FORM = {"content-type": "multipart/form-data; boundary=B"}


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"content-type": "application/json"}, b"{}", "invalid_value"),
        ({"content-type": "multipart/form-data"}, b"", "invalid_value"),
        (FORM, b"", "invalid_form"),
        (FORM, b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf', "invalid_form"),
        (FORM, b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", "missing_required_parameter"),
        (FORM, b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n\xff\r\n--B--\r\n', "invalid_form"),
        (FORM, b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--B--\r\n', "missing_required_parameter"),
    ],
)
async def test_a_broken_form_is_refused(
    live: Live, client: httpx.AsyncClient, headers: dict[str, str], body: bytes, code: str
) -> None:
    response = await client.post("/v1/files", headers=headers, content=body)
    assert refusal(response, 400)["code"] == code
    assert list((live.settings.data_directory / "files").iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(live: Live, client: httpx.AsyncClient) -> None:
    files = live.settings.data_directory / "files"
    begun = asyncio.Event()

    async def slowly() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 3_000_000
        begun.set()
        await asyncio.Event().wait()

    send = asyncio.create_task(client.post("/v1/files", headers=FORM, content=slowly()))
    await begun.wait()
    async with asyncio.timeout(10):
        while not list(files.iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        send.cancel()
        while list(files.iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_file_expires_when_openai_s_parameter_says_so(client: httpx.AsyncClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    body = (await client.post("/v1/files", files={"file": b"1"}, data=fields)).json()
    assert body["expires_at"] == pytest.approx(body["created_at"] + 3600, abs=1)
    fields["expires_after[seconds]"] = "5"
    response = await client.post("/v1/files", files={"file": b"1"}, data=fields)
    assert refusal(response, 400)["param"] == "expires_after"


async def test_what_a_dead_server_left_behind_goes_at_the_next_start(serve: Serve) -> None:
    live = await serve([])
    kept = await upload(await live.http(), ("a.txt", b"1"))
    orphan = live.settings.data_directory / "files" / "tmp-orphan"
    orphan.write_bytes(b"half")
    fresh = live.settings.data_directory / "files" / "tmp-fresh"
    fresh.write_bytes(b"another server's")
    import os

    os.utime(orphan, (0, 0))
    again = await serve([])
    assert {path.name for path in orphan.parent.iterdir()} == {kept["data"][0]["id"], "tmp-fresh"}
    assert (await (await again.http()).get(f"/v1/files/{kept['data'][0]['id']}/content")).content == b"1"
