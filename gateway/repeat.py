"""Requests that are sent twice with one `Idempotency-Key`: the second gets what the first began."""

import asyncio
import hashlib
import time
from typing import Any

from litestar import Request
from msgspec import Struct

from gateway.errors import bad_request
from gateway.parts import Parts

REMEMBERED = 86400.0
"""Seconds for which a key is known."""
LONGEST = 255


class Repeated(Struct, frozen=True):
    """A request that says which one it is."""

    user_id: str
    key: str
    digest: str

    @classmethod
    def of(cls, request: Request[Any, Any, Any], body: bytes) -> "Repeated | None":
        """The request's key; None: it has none.

        Raises:
            ApiError: 400, it is too long.
        """
        key = request.headers.get("idempotency-key", "")
        if len(key) > LONGEST:
            raise bad_request(f"The Idempotency-Key has more than {LONGEST} characters.", "Idempotency-Key")
        return cls(request.user.user_id, key, hashlib.sha256(body).hexdigest()) if key else None

    @property
    def record(self) -> tuple[str, str]:
        """What is kept of it."""
        return self.key, self.digest

    def turn(self, parts: Parts) -> asyncio.Lock:
        """Held from looking for an earlier request until a run is begun: of several at once, one begins."""
        return parts.turns.of((self.user_id, self.key))

    async def find(self, parts: Parts) -> str | None:
        """The run that an earlier request with this key has begun; not one that broke off before it did anything.

        Raises:
            ApiError: 400, that was another request.
        """
        await parts.recorder.flush()
        found = await parts.run_store.keyed(self.user_id, self.key, time.time() - REMEMBERED)
        if found is None:
            return None
        if found.digest != self.digest:
            text = "This Idempotency-Key was used with another body."
            raise bad_request(text, "Idempotency-Key", "idempotency_key_reused")
        if found.work is None and parts.runs.get(found.run_id, self.user_id) is None:
            record = await parts.run_store.get(found.run_id, self.user_id)
            return None if record is None or record.status == "interrupted" else found.run_id
        return found.run_id
