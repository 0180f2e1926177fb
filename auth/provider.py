"""An identity provider: its public keys, and the tokens that it signs with them."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt

from auth.errors import InvalidToken, ProviderUnavailable
from auth.tokens import MALFORMED, Claims, verify
from auth.users import Clock

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
MAX_AGE = 3600.0
"""Seconds after which keys are read again, so that a withdrawn one goes."""
PATIENCE = 60.0
"""Seconds between two attempts to read keys: unknown key ids cost the provider no more than that."""
IMPATIENCE = 5.0
"""The same while there are no keys at all."""
TIMEOUT = 5.0

Source = Callable[[], Awaitable[bytes]]


class IdentityProvider:
    """Verifies the tokens of one identity provider, such as Keycloak or Authentik."""

    def __init__(self, source: Source, issuer: str, audience: str, clock: Clock) -> None:
        self.issuer = issuer
        self._audience = audience
        self._keys = KeySet(source, clock)
        self._clock = clock

    async def verify(self, token: str) -> Claims:
        """What one of its tokens says.

        Raises:
            InvalidToken: it is not one, or not for us, or has expired.
            ProviderUnavailable: its keys have never been had.
        """
        key = await self._keys.key_of(token)
        return verify(
            token, key, ALGORITHMS, issuer=self.issuer, audience=self._audience, now=self._clock(), required=("jti",)
        )


class KeySet:
    """A provider's public keys by their id, read at first use and again when a new one turns up or they are old.

    When they cannot be read again, the ones that we have stay good.
    """

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._tried_at = 0.0
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def key_of(self, token: str) -> jwt.PyJWK:
        """The key that the token says it was signed with.

        Raises:
            InvalidToken: the provider has no such key.
            ProviderUnavailable: its keys have never been had.
        """
        kid = key_id(token)
        if not self._holds(kid) or self._clock() - self._read_at > MAX_AGE:
            async with self._reading:
                if not self._holds(kid) or self._clock() - self._read_at > MAX_AGE:
                    await self._read()
        if not self._keys:
            raise ProviderUnavailable
        if not self._holds(kid):
            raise InvalidToken
        return self._keys[kid] if kid is not None else next(iter(self._keys.values()))

    def _holds(self, kid: str | None) -> bool:
        return kid in self._keys if kid is not None else len(self._keys) == 1

    async def _read(self) -> None:
        now = self._clock()
        if now - self._tried_at < (PATIENCE if self._keys else IMPATIENCE):
            return
        self._tried_at = now
        try:
            self._keys = public_keys(await self._source())
        except (OSError, httpx.HTTPError, ValueError) as error:
            logger.warning("The identity provider's keys cannot be read: %s: %s", type(error).__name__, error)
        else:
            self._read_at = now


def source(location: str) -> Source:
    """Where keys are read from: a URL or a file."""
    return url_source(location) if location.startswith(("http://", "https://")) else file_source(Path(location))


def file_source(path: Path) -> Source:
    """Keys in a file."""

    async def read() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return read


def url_source(url: str) -> Source:
    """Keys behind a URL."""

    async def read() -> bytes:
        async with httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client:
            response = await client.get(url, headers={"accept": "application/json"})
        if response.status_code != 200:
            raise ValueError(f"the answer was {response.status_code}")
        return response.content

    return read


def public_keys(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that can verify signatures, by id. Shared secrets in it are left out.

    Raises:
        ValueError: it is not a key set, or has none such.
    """
    parsed = json.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    usable = [entry for entry in entries if is_signing_key(entry)] if isinstance(entries, list) else []
    try:
        keys = [jwt.PyJWK(entry) for entry in usable]
    except jwt.PyJWTError as error:
        raise ValueError(f"a key cannot be read: {error}") from error
    if not keys:
        raise ValueError("there are no RSA or P-256 signing keys in it")
    return {key.key_id: key for key in keys}


def is_signing_key(entry: Any) -> bool:
    """Whether an entry of a key set can verify RS256 or ES256 signatures."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return False
    if entry.get("kty") == "RSA":
        return bool(entry.get("alg", "RS256") == "RS256")
    return bool(entry.get("kty") == "EC" and entry.get("crv") == "P-256")


def key_id(token: str) -> str | None:
    """The `kid` in a token's header. Unverified: good only for choosing the key.

    Raises:
        InvalidToken: it is no token.
    """
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except MALFORMED as error:
        raise InvalidToken from error
    return kid if isinstance(kid, str) else None
