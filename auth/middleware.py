"""The one middleware that tells each request who it comes from."""

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.types import ASGIApp

from auth import guards
from auth.errors import MissingCredentials
from auth.identity import Identity

PUBLIC = "public"
"""A handler with this in its `opt` needs no credential."""


class Authentication(AbstractAuthenticationMiddleware):
    """Puts the principal into `request.user`, or ends the request.

    The scopes are checked here too: a guard of the whole application would cost more than all else that is done here.
    """

    def __init__(self, app: ASGIApp, identity: Identity) -> None:
        super().__init__(app, exclude_from_auth_key=PUBLIC)
        self._identity = identity

    async def authenticate_request(self, connection: ASGIConnection) -> AuthenticationResult:  # type: ignore[type-arg]
        """The principal that the request's headers name.

        Raises:
            AuthError: they name none that counts, or one whose scopes do not reach so far.
        """
        headers = connection.headers
        principal = await self._identity.of(credential(headers), headers.get("x-openwebui-user-jwt"))
        guards.scope(principal, connection.scope["route_handler"].opt)
        return AuthenticationResult(user=principal, auth=None)


def authentication(identity: Identity) -> DefineMiddleware:
    """The middleware as Litestar takes it."""
    return DefineMiddleware(Authentication, identity=identity)


def credential(headers: Headers) -> str:
    """The token after `Bearer`, or the value of `x-api-key`.

    Raises:
        MissingCredentials: there is neither.
    """
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and (token := token.strip()):
        return token
    if key := headers.get("x-api-key", "").strip():
        return key
    raise MissingCredentials
