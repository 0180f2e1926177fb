"""Sessions: a conversation that the server keeps, with its files and its working folder."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from gateway.errors import bad_request
from gateway.files import Files, abandoned, no_session, over_quota
from gateway.ids import new_id
from gateway.store.database import StoreError
from gateway.store.sessions import SessionRecord, SessionStore, Sizes
from gateway.turns import Turns
from models.messages import Image, Message
from tools import Session
from tools.folder import remove_tree

logger = logging.getLogger(__name__)

TOUCH_EVERY = 60.0
"""Seconds to which it is known when a session was last used."""
MOST_UNWRITTEN = 1000
"""Conversations that are held for a database that refuses, before the oldest are given up."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")

Forget = Callable[[str], Awaitable[None]]


class Turn(Struct, frozen=True):
    """What a request adds to a conversation; `anew`: what the whole of it is now."""

    messages: tuple[Message, ...]
    anew: bool


class Sessions:
    """All sessions, each of one owner.

    Args:
        store: what is known of them.
        files: their files.
        forget: told of a session that is deleted, by its id, for what else belongs to it.
        session_bytes: what a session's conversation may hold.
        user_bytes: what all sessions of a user may hold together.
    """

    def __init__(
        self, store: SessionStore, files: Files, forget: Forget, *, session_bytes: int, user_bytes: int
    ) -> None:
        self._store = store
        self._files = files
        self._session_bytes = session_bytes
        self._user_bytes = user_bytes
        self._forget = forget
        self._unwritten: dict[str, list[Turn]] = {}
        self._turns = Turns()

    async def enter(self, session_id: str | None, user_id: str) -> SessionRecord:
        """A user's session, made where there is none of this id; without an id a new one.

        Raises:
            ApiError: 400, no id that a session can have; 404, it is someone else's; 413, its owner has no room left.
        """
        now = time.time()
        if session_id is not None:
            if not _ID.fullmatch(session_id):
                text = "1 to 128 letters, digits, and _ . : - after the first."
                raise bad_request(f"Invalid value for 'session_id': it must be {text}", "session_id")
            if (record := await self._store.get(session_id)) is not None:
                return await self._entered(record, user_id, now)
        record = SessionRecord(session_id or new_id("sess_"), user_id, now, now)
        await self._check_room(record)
        async with self._turns.of(record.id):
            if await self._store.get(record.id) is None:
                # Before there is a session: what one of this name has left must not become another's.
                await asyncio.to_thread(self._make_anew, record.id)
                if await self._store.add(record):
                    return record
        return await self._entered(await self.get(record.id, user_id), user_id, now)

    def _make_anew(self, session_id: str) -> None:
        remove_tree(self._files.working_folder(session_id))
        self._make_folder(session_id)

    async def _entered(self, record: SessionRecord, user_id: str, now: float) -> SessionRecord:
        if record.user_id != user_id:
            raise no_session(record.id)
        await self._check_room(record)
        if now - record.used_at > TOUCH_EVERY:
            await self._store.touch(record.id, now)
        await asyncio.to_thread(self._make_folder, record.id)
        return record

    async def _check_room(self, record: SessionRecord) -> None:
        if (await self._store.sizes(record.id)).message_bytes >= self._session_bytes:
            raise over_quota("session", self._session_bytes)
        if await self._store.bytes_of(record.user_id) >= self._user_bytes:
            raise over_quota("user", self._user_bytes)

    def _make_folder(self, session_id: str) -> None:
        self._files.working_folder(session_id).mkdir(mode=0o700, parents=True, exist_ok=True)

    async def get(self, session_id: str, user_id: str) -> SessionRecord:
        """A user's session.

        Raises:
            ApiError: 404, there is none, or it is someone else's.
        """
        record = await self._store.get(session_id)
        if record is None or record.user_id != user_id:
            raise no_session(session_id)
        return record

    async def page(self, user_id: str, *, limit: int, before: SessionRecord | None) -> list[SessionRecord]:
        """A user's sessions, the last used first."""
        return await self._store.page(user_id, limit=limit, before=before)

    async def sizes(self, record: SessionRecord) -> Sizes:
        """What a session holds."""
        return await self._store.sizes(record.id)

    async def conversation(self, record: SessionRecord) -> tuple[Message, ...]:
        """What was said so far."""
        said = await self._store.conversation(record.id)
        for turn in self._unwritten.get(record.id, ()):
            said = turn.messages if turn.anew else (*said, *turn.messages)
        return said

    async def remember(self, session_id: str, messages: Sequence[Message], *, anew: bool) -> None:
        """Adds to a session's conversation; `anew`: makes these the whole of it. Instructions are not kept.

        A database that refuses gets it later.
        """
        turn = Turn(tuple(message for message in messages if message.role != "system"), anew)
        if session_id in self._unwritten or not await self._write(session_id, turn):
            self._unwritten.setdefault(session_id, []).append(turn)
            if len(self._unwritten) > MOST_UNWRITTEN:
                logger.error("what was said in a session is lost: the database has refused too much")
                self._unwritten.pop(next(iter(self._unwritten)))

    async def write(self) -> None:
        """Tries again to write what the database has refused. Not to be called twice at once."""
        for session_id, turns in list(self._unwritten.items()):
            while turns and await self._write(session_id, turns[0]):
                turns.pop(0)
            if not turns:
                self._unwritten.pop(session_id, None)

    async def _write(self, session_id: str, turn: Turn) -> bool:
        write = self._store.replace if turn.anew else self._store.append
        try:
            await write(session_id, turn.messages, time.time())
        except StoreError as error:
            logger.error("what was said in a session is not written yet: %s", error)
            return False
        return True

    def workspace(self, record: SessionRecord, images: tuple[Image, ...] = ()) -> Session:
        """The session as tools see it."""
        folder = self._files.working_folder(record.id)
        return Session(folder, id=record.id, user_id=record.user_id, files=self._files, images=images)

    async def delete(self, record: SessionRecord) -> None:
        """Deletes a session and all that belongs to it: conversation, files, folder, variables, what its runs said."""
        async with self._turns.of(record.id):
            found = await self._store.get(record.id)
            if found is None or found.created_at != record.created_at:
                return  # somebody else has deleted it; another may have begun
            self._unwritten.pop(record.id, None)
            files = await self._store.delete(record.id)
            await self._forget(record.id)
            await self._files.discard(files)
            await asyncio.to_thread(remove_tree, self._files.working_folder(record.id))

    async def expire(self, before: float) -> None:
        """Deletes the sessions that were last used before a time."""
        for record in await self._store.unused_since(before):
            await self.delete(record)

    async def sweep(self) -> None:
        """Deletes the folders that are left of sessions, where deleting them broke off."""
        for name in await asyncio.to_thread(abandoned, self._files.working_folder("")):
            async with self._turns.of(name):
                if await self._store.get(name) is None:
                    logger.warning("deleted the folder %s: no session that is known", name)
                    await asyncio.to_thread(remove_tree, self._files.working_folder(name))
