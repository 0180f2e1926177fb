"""Who may call: the parts of `auth`, put together by the settings. For the server and for its commands."""

import time
from collections.abc import Callable

from limits.aio.strategies import FixedWindowRateLimiter

from auth.attempts import Attempts
from auth.identity import Identity
from auth.keys import Keys
from auth.memory import Memory
from auth.passwords import Passwords
from auth.provider import IdentityProvider, source
from auth.sessions import Sessions
from auth.tokens import AccessTokens, OpenWebUI, Pepper
from auth.users import Clock, Users
from gateway.limits import open_storage
from gateway.settings import Settings
from gateway.store.database import Database
from gateway.store.keys import StoredKeys
from gateway.store.logins import StoredSessions
from gateway.store.users import StoredUsers


class Access:
    """Users, their logins and API keys, and the identity of a request.

    Args:
        settings: all settings.
        secret: signs access tokens; API keys and refresh tokens are peppered with what is derived from it.
        database: where all of them are kept.
        clock: unix time in seconds.
    """

    def __init__(self, settings: Settings, secret: str, database: Database, clock: Clock = time.time) -> None:
        memory, passwords, pepper = Memory(clock), Passwords(), Pepper(secret)
        tokens = AccessTokens(secret, settings.jwt_issuer, settings.jwt_audience, settings.access_token_lifetime, clock)
        users, keys, sessions = StoredUsers(database), StoredKeys(database), StoredSessions(database)
        openwebui = settings.openwebui_jwt_secret
        self.attempts = Attempts(FixedWindowRateLimiter(open_storage(settings.rate_limit_storage)))
        self.users = Users(users, passwords, clock, memory.forget, registration_open=settings.registration == "open")
        self.keys = Keys(keys, pepper, clock, memory.forget)
        self.sessions = Sessions(
            sessions,
            users,
            passwords,
            self.attempts,
            tokens,
            pepper,
            clock,
            memory.forget,
            lifetime=settings.refresh_token_lifetime,
        )
        self.identity = Identity(
            keys,
            sessions,
            self.users,
            tokens,
            pepper,
            memory,
            clock,
            provider=_provider(settings, clock),
            openwebui=OpenWebUI(openwebui.get_secret_value(), clock) if openwebui else None,
        )

    async def first_admin_key(self) -> str | None:
        """On a database without users: adds an admin, and gives the API key to be shown once. None on any other."""
        if (admin := await self.users.add_first_admin()) is None:
            return None
        _, secret = await self.keys.create(admin.id, "first start")
        return secret

    async def purge(self) -> None:
        """Writes down when keys were last used, and drops what has expired."""
        await self.identity.save_uses()
        await self.sessions.purge()


def _provider(settings: Settings, clock: Callable[[], float]) -> IdentityProvider | None:
    if not settings.jwks:
        return None
    return IdentityProvider(source(settings.jwks), settings.jwks_issuer, settings.jwks_audience, clock)
