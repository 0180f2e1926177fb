"""Files: their bytes on disk, which never change, and their copies in the working folders, where tools may change them.

`data/files/{id}` holds a file as it was uploaded or made. `data/sessions/{session}/{name}` is the copy that tools see.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gateway.errors import ApiError, not_found
from gateway.ids import new_id
from gateway.store.files import FileRecord, FileStore, NoSession, OverQuota
from gateway.store.sessions import SessionRecord
from gateway.uploads import Upload
from tools import File, Session, ToolError
from tools.documents import media_type, safe_name
from tools.folder import Entry, listing, open_in, remove_in

logger = logging.getLogger(__name__)

ABANDONED = 86400.0
"""Seconds after which bytes that no row knows are those of a server that died. No upload takes as long."""

Describe = Callable[[BinaryIO, str], Awaitable[str]]
"""Tells in a line what an open file of a name holds; empty where that cannot be told."""


class Files:
    """All files, and `tools.session.Files` for sessions.

    Args:
        data: the data folder.
        store: what is known of them.
        describe: tells what a file holds.
        file_bytes: the largest file.
        session_bytes: what the files of a session may have together.
        user_bytes: what the files of a user may have together.
    """

    def __init__(
        self,
        data: Path,
        store: FileStore,
        describe: Describe,
        *,
        file_bytes: int,
        session_bytes: int,
        user_bytes: int,
    ) -> None:
        self.folder = data.resolve() / "files"
        self.file_bytes = file_bytes
        self.session_bytes = session_bytes
        self._sessions = data.resolve() / "sessions"
        self._store = store
        self._describe = describe
        self._user_bytes = user_bytes

    async def start(self) -> None:
        """Makes the folder, and deletes what a server that died has left there."""
        await asyncio.to_thread(self.folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        await self.sweep()

    async def sweep(self) -> None:
        """Deletes the bytes that a server that died has left."""
        old = await asyncio.to_thread(abandoned, self.folder)
        if left := set(old) - await self._store.ids():
            logger.warning("deleted what is no file that is known: %s", ", ".join(sorted(left)))
            await self.discard(left)

    def working_folder(self, session_id: str) -> Path:
        """Where the tools of a session work."""
        return self._sessions / session_id

    async def add(
        self, upload: Upload, session: SessionRecord, *, purpose: str = "user_data", expires_at: float | None = None
    ) -> FileRecord:
        """Keeps an upload, and lays a copy into the session's working folder under a safe name that is free.

        Raises:
            ApiError: 404, the session is deleted; 413, a quota.
            OSError: the disk is full.
        """
        folder = self.working_folder(session.id)
        try:
            name = await asyncio.to_thread(_place, upload.path, folder, upload.filename)
        except FileNotFoundError as error:
            raise no_session(session.id) from error
        try:
            return await self._keep(upload.path, upload.sha256, session, name, purpose, expires_at)
        except BaseException:
            await asyncio.to_thread(remove_in, folder, name)
            raise

    async def attach(self, record: FileRecord, session: SessionRecord) -> FileRecord:
        """The same file in another session: a copy, unless it is there already."""
        if record.session_id == session.id:
            return record
        if (found := await self._store.same(session.id, record.sha256)) is not None:
            return found
        try:
            copy = await asyncio.to_thread(_copy_to_temporary, self.path(record.id), self.folder)
        except FileNotFoundError as error:
            raise no_file(record.id) from error
        upload = Upload("file", record.name, copy, record.bytes, record.sha256)
        try:
            return await self.add(upload, session, purpose=record.purpose, expires_at=record.expires_at)
        finally:
            copy.unlink(missing_ok=True)

    async def same(self, session: SessionRecord, sha256: str) -> FileRecord | None:
        """The file of a session that has these bytes."""
        return await self._store.same(session.id, sha256)

    async def listed(self, session: Session) -> tuple[File, ...]:
        """The files in a session's working folder, each with what is known of it."""
        records = {record.name: record for record in await self._store.of_session(session.id)}
        entries = await asyncio.to_thread(listing, session.folder)
        return tuple([await self._known(session.folder, entry, records.get(entry.name)) for entry in entries])

    async def _known(self, folder: Path, entry: Entry, record: FileRecord | None) -> File:
        """What is known of a file in a working folder. A record of other bytes under its name tells nothing of it."""
        if record is None or record.bytes != entry.size:
            return File(entry.name, await asyncio.to_thread(_type_in, folder, entry.name), entry.size)
        return _file(record)

    async def kept(self, session: Session, names: Sequence[str]) -> tuple[File, ...]:
        """Keeps what tools have made. What no longer fits stays in the working folder, without an id."""
        return tuple([await self._kept(session, name) for name in names])

    async def _kept(self, session: Session, name: str) -> File:
        record = SessionRecord(session.id, session.user_id, 0, 0)
        try:
            path, digest, size = await asyncio.to_thread(_snapshot, session.folder, name, self.folder, self.file_bytes)
        except (OSError, ToolError):
            return File(name, "application/octet-stream", 0, "it could not be read")
        try:
            if (found := await self._store.same(session.id, digest, name)) is None:
                found = await self._keep(path, digest, record, name, "assistants_output", None)
            return _file(found)
        except ApiError as error:
            kind = await asyncio.to_thread(_type_of, path, name)
            return File(name, kind, size, f"only in the working folder: {error}")
        finally:
            path.unlink(missing_ok=True)

    async def _keep(
        self, path: Path, sha256: str, session: SessionRecord, name: str, purpose: str, expires_at: float | None
    ) -> FileRecord:
        """Takes the bytes at `path` for its own, with all that is to be known of them."""
        kind = await asyncio.to_thread(_type_of, path, name)
        size = (await asyncio.to_thread(path.stat)).st_size
        about = await self._store.about(session.user_id, sha256)
        if not about:
            with path.open("rb") as file:
                about = await self._describe(file, name)
        record = FileRecord(
            new_id("file-"),
            session.user_id,
            session.id,
            name,
            kind,
            size,
            sha256,
            about,
            purpose,
            time.time(),
            expires_at,
        )
        kept = self.path(record.id)
        await asyncio.to_thread(os.replace, path, kept)
        try:
            await self._store.add(record, session_bytes=self.session_bytes, user_bytes=self._user_bytes)
        except BaseException as error:
            kept.unlink(missing_ok=True)
            if isinstance(error, OverQuota):
                raise over_quota(error.whose, error.limit) from error
            if isinstance(error, NoSession):
                raise no_session(session.id) from error
            raise
        return record

    async def get(self, file_id: str, user_id: str) -> FileRecord:
        """A user's file.

        Raises:
            ApiError: 404, there is none, or it is someone else's.
        """
        if (record := await self._store.get(file_id, user_id)) is None:
            raise no_file(file_id)
        return record

    async def open(self, record: FileRecord) -> BinaryIO:
        """A file's bytes, to be read.

        Raises:
            ApiError: 404, it was deleted meanwhile.
        """
        try:
            return await asyncio.to_thread(self.path(record.id).open, "rb")
        except FileNotFoundError as error:
            raise no_file(record.id) from error

    async def page(
        self, user_id: str, *, limit: int, after: FileRecord | None, purpose: str | None, oldest_first: bool
    ) -> list[FileRecord]:
        """Some of a user's files."""
        return await self._store.page(user_id, limit=limit, after=after, purpose=purpose, oldest_first=oldest_first)

    async def of_session(self, session_id: str) -> list[FileRecord]:
        """A session's files, the oldest first."""
        return await self._store.of_session(session_id)

    def path(self, file_id: str) -> Path:
        """Where a file's bytes lie."""
        return self.folder / file_id

    async def delete(self, record: FileRecord) -> None:
        """Deletes a file, and its copy in the working folder if that has not been changed."""
        await self._store.delete(record.id)
        folder = self.working_folder(record.session_id)
        await asyncio.to_thread(_remove_unchanged, folder, record)
        await self.discard([record.id])

    async def discard(self, file_ids: Iterable[str]) -> None:
        """Deletes the bytes of files that no row knows any more."""
        paths = [self.path(file_id) for file_id in file_ids]

        def remove() -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    async def expire(self) -> None:
        """Deletes the files whose time has come."""
        for record in await self._store.expired(time.time()):
            await self.delete(record)


def over_quota(whose: str, limit: int) -> ApiError:
    """413: a session or a user has no room left."""
    owner = {"session": "This session", "user": "Your sessions together"}[whose]
    message = f"{owner} may hold {limit} bytes, and that would be more. Delete files or sessions."
    return ApiError(413, message, code=f"{whose}_quota_exceeded")


def no_file(file_id: str) -> ApiError:
    """404: there is no such file, or it is someone else's."""
    return not_found(f"No such File object: {file_id[:64]}", "file_not_found", "id")


def no_session(session_id: str) -> ApiError:
    """404: there is no such session, or it is someone else's."""
    return not_found(f"No session found with id '{session_id[:128]}'.", "session_not_found", "session_id")


def _file(record: FileRecord) -> File:
    return File(record.name, record.type, record.bytes, record.about, record.id)


def _type_of(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return media_type(file, name)


def _type_in(folder: Path, name: str) -> str:
    """The type of a file in a working folder."""
    try:
        with open_in(folder, name) as file:
            return media_type(file, name)
    except (OSError, ToolError):
        return "application/octet-stream"


def _place(source: Path, folder: Path, wanted: str) -> str:
    """Copies a file into a folder that others may write to, under a free name, and gives the name.

    The copy is made with O_EXCL below a descriptor of the folder: no link that lies there is followed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner = os.fstat(descriptor)
        while True:
            name = safe_name(wanted, os.listdir(descriptor))  # noqa: PTH208 - of a descriptor
            try:
                target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=descriptor)
                break
            except FileExistsError:
                continue
        try:
            with os.fdopen(target, "wb") as copy, source.open("rb") as original:
                if owner.st_uid != os.geteuid():
                    os.fchown(copy.fileno(), owner.st_uid, owner.st_gid)
                shutil.copyfileobj(original, copy, 1 << 20)
        except BaseException:
            os.unlink(name, dir_fd=descriptor)
            raise
        return name
    finally:
        os.close(descriptor)


def _copy_to_temporary(source: Path, folder: Path) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="tmp-", dir=folder)
    with os.fdopen(descriptor, "wb") as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy, 1 << 20)
    return Path(name)


def _snapshot(folder: Path, name: str, to: Path, most: int) -> tuple[Path, str, int]:
    """A copy of a file as it is now, its SHA-256 and its size.

    Raises:
        OSError, ToolError: it is not a regular file of the folder.
    """
    with open_in(folder, name) as original:
        descriptor, copy_name = tempfile.mkstemp(prefix="tmp-", dir=to)
        path, digest, size = Path(copy_name), hashlib.sha256(), 0
        try:
            with os.fdopen(descriptor, "wb") as copy:
                while block := original.read(1 << 20):
                    if (size := size + len(block)) > most:
                        raise ToolError(f"it is larger than {most} bytes")
                    digest.update(block)
                    copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path, digest.hexdigest(), size


def _remove_unchanged(folder: Path, record: FileRecord) -> None:
    try:
        with open_in(folder, record.name) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ToolError):
        return
    if digest.hexdigest() == record.sha256:
        remove_in(folder, record.name)


def abandoned(folder: Path) -> list[str]:
    """The names of what lies in a folder and has not changed for long."""
    long_ago, found = time.time() - ABANDONED, []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < long_ago:
                    found.append(entry.name)
    return found
