"""From a credential to a principal: API keys, our own tokens, an identity provider's, and Open WebUI's header."""

import hashlib

from auth.errors import InvalidToken, TokenExpired
from auth.keys import PREFIX, KeyStore
from auth.memory import Memory
from auth.provider import IdentityProvider
from auth.sessions import SessionStore
from auth.tokens import AccessTokens, Claims, OpenWebUI, Pepper, issuer_of
from auth.users import Clock, Principal, Users


class Identity:
    """Tells who a request comes from."""

    def __init__(
        self,
        keys: KeyStore,
        sessions: SessionStore,
        users: Users,
        tokens: AccessTokens,
        pepper: Pepper,
        memory: Memory,
        clock: Clock,
        *,
        provider: IdentityProvider | None = None,
        openwebui: OpenWebUI | None = None,
    ) -> None:
        if provider is not None and provider.issuer == tokens.issuer:
            raise ValueError("The identity provider's issuer must differ from our own: it says whose a token is.")
        self._keys = keys
        self._sessions = sessions
        self._users = users
        self._tokens = tokens
        self._pepper = pepper
        self._memory = memory
        self._clock = clock
        self._provider = provider
        self._openwebui = openwebui
        self._uses: dict[str, float] = {}

    async def of(self, credential: str, end_user: str | None = None) -> Principal:
        """Who the bearer of `credential` is, or the end user that Open WebUI's signed header names.

        Raises:
            InvalidToken: the credential does not count, or the header that a service key came with does not.
            TokenExpired: it counted once.
            ProviderUnavailable: it cannot be checked now.
        """
        digest = hashlib.sha256(f"{credential}\n{end_user or ''}".encode()).digest()
        return await self._memory.recall(digest, lambda: self._look_up(credential, end_user))

    async def save_uses(self) -> None:
        """Writes down when keys were last used, since the last time that this was called."""
        uses, self._uses = self._uses, {}
        if uses:
            await self._keys.record_uses(uses)

    async def _look_up(self, credential: str, end_user: str | None) -> Principal:
        if not credential.startswith(PREFIX):
            return await self._by_token(credential)
        principal = await self._by_key(credential)
        if end_user and self._openwebui and "service" in principal.scopes:
            return await self._end_user(self._openwebui.verify(end_user), principal)
        return principal

    async def _by_key(self, secret: str) -> Principal:
        found = await self._keys.find(self._pepper.hash(secret))
        if found is None:
            raise InvalidToken
        key, user = found
        now = self._clock()
        if key.revoked_at is not None or user.disabled:
            raise InvalidToken
        if key.expires_at is not None and key.expires_at <= now:
            raise TokenExpired
        self._uses[key.id] = now
        return Principal(user.id, user.name, user.role, scopes=key.scopes, key_id=key.id, expires_at=key.expires_at)

    async def _by_token(self, token: str) -> Principal:
        if self._provider and issuer_of(token) == self._provider.issuer:
            claims = await self._provider.verify(token)
            user = await self._users.foreign(f"idp:{claims.sub}")
            return await self._holder(user.id, claims)
        claims = self._tokens.verify(token)
        return await self._holder(claims.sub, claims)

    async def _holder(self, user_id: str, claims: Claims) -> Principal:
        user = await self._sessions.holder(user_id, tuple(filter(None, (claims.jti, claims.sid))))
        if user is None or user.disabled:
            raise InvalidToken
        return Principal(user.id, user.name, user.role, jti=claims.jti, session=claims.sid, expires_at=claims.exp)

    async def _end_user(self, claims: Claims, service: Principal) -> Principal:
        user = await self._users.foreign(f"owui:{claims.sub}")
        if user.disabled:
            raise InvalidToken
        ends = [moment for moment in (claims.exp, service.expires_at) if moment is not None]
        return Principal(user.id, user.name, "user", scopes=service.scopes, key_id=service.key_id, expires_at=min(ends))
