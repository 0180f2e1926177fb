"""Tokens: JSON Web Tokens issued and verified, and hashes of the random secrets that we hand out."""

import hashlib
import hmac
import secrets
from typing import Annotated, Any

import jwt
import msgspec
from msgspec import Meta, Struct

from auth.errors import InvalidToken, TokenExpired
from auth.users import Clock

MAX_TOKEN = 16 * 1024
"""Characters. Longer ones would not pass nginx's headers either."""
SKEW = 5.0
"""Seconds that the clocks of issuer and server may differ."""
MALFORMED = (jwt.PyJWTError, RecursionError)
"""What PyJWT raises on a bad token; the last when its JSON is nested too deep."""

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Time = Annotated[float, Meta(ge=0, le=1e11)]


class Claims(Struct, frozen=True):
    """What a verified token says."""

    iss: str
    sub: Name
    exp: Time
    iat: Time
    jti: Name | None = None
    nbf: Time = 0
    sid: Name | None = None
    """The login that it descends from; only on our own."""


class AccessTokens:
    """The tokens that Drover issues itself: HS256 under the server's secret, for a short time."""

    def __init__(self, secret: str, issuer: str, audience: str, lifetime: float, clock: Clock) -> None:
        self.issuer = issuer
        self.lifetime = lifetime
        self._secret = secret
        self._audience = audience
        self._clock = clock

    def issue(self, user_id: str, session: str) -> str:
        """A token for the user, descending from a login."""
        now = self._clock()
        claims = {
            "iss": self.issuer,
            "aud": self._audience,
            "sub": user_id,
            "sid": session,
            "jti": secrets.token_urlsafe(16),
            "iat": int(now),
            "exp": int(now + self.lifetime),
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def verify(self, token: str) -> Claims:
        """What one of our tokens says.

        Raises:
            InvalidToken: it is not one, or has expired.
        """
        return verify(
            token,
            self._secret,
            ("HS256",),
            issuer=self.issuer,
            audience=self._audience,
            now=self._clock(),
            required=("jti",),
        )


class OpenWebUI:
    """Open WebUI's signed header, which names the person behind a request that it makes with its own key."""

    ISSUER = "open-webui"

    def __init__(self, secret: str, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def verify(self, token: str) -> Claims:
        """What the header says.

        Raises:
            InvalidToken: Open WebUI did not write it, or too long ago.
        """
        return verify(token, self._secret, ("HS256",), issuer=self.ISSUER, audience=None, now=self._clock())


def verify(
    token: str,
    key: Any,
    algorithms: tuple[str, ...],
    *,
    issuer: str,
    audience: str | None,
    now: float,
    required: tuple[str, ...] = (),
) -> Claims:
    """What a token says that was signed with `key` by one of `algorithms`; its own header has no say in either.

    Raises:
        InvalidToken: it was not, or was not meant for us, or has expired.
    """
    if len(token) > MAX_TOKEN:
        raise InvalidToken
    required = ("iss", "sub", "exp", "iat", *required, *(("aud",) if audience else ()))
    # PyJWT reads the wall clock; we are given one, and check the times ourselves.
    options: Any = {"require": list(required), "verify_exp": False, "verify_nbf": False, "verify_iat": False}
    try:
        payload = jwt.decode(token, key, algorithms=list(algorithms), issuer=issuer, audience=audience, options=options)
        claims = msgspec.convert(payload, Claims)
    except (*MALFORMED, msgspec.ValidationError) as error:
        raise InvalidToken from error
    if claims.exp <= now:
        raise TokenExpired
    if max(claims.nbf, claims.iat) > now + SKEW:
        raise InvalidToken
    return claims


def issuer_of(token: str) -> str | None:
    """Who a token claims to come from. Unverified: good only for choosing who verifies it."""
    if len(token) > MAX_TOKEN:
        return None
    try:
        payload = jwt.decode(token, options={"verify_signature": False})
    except MALFORMED:
        return None
    issuer = payload.get("iss")
    return issuer if isinstance(issuer, str) else None


class Pepper:
    """Hashes secrets of 256 random bits: a fast hash does. A stolen database is worth nothing without the pepper."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"drover: api keys and refresh tokens", "sha256")

    def hash(self, token: str) -> str:
        """The secret as it is stored."""
        return hmac.new(self._key, token.encode(), hashlib.sha256).hexdigest()


def new_secret(prefix: str) -> str:
    """A fresh secret such as `sk-…`, with 256 random bits."""
    return prefix + secrets.token_urlsafe(32)
