"""What auth raises. Each error knows its HTTP status, OpenAI's `type` and `code`, and its headers.

None repeats a credential.

AuthError
├── MissingCredentials   401  no key, or a header that is not `Bearer …`
├── InvalidToken         401  wrong, foreign or revoked; the user is disabled
│   └── TokenExpired     401  once valid
├── InvalidLogin         401  wrong name or password
├── NotPermitted         403  the role does not allow it
├── InsufficientScope    403  the key's scopes do not allow it
├── RegistrationClosed   403
├── InvalidField         400  a name, password, scope or time that cannot be taken
├── NotFound             404  no such thing, or someone else's
├── TooManyAttempts      429  and when to come back
└── ProviderUnavailable  503  the identity provider's keys cannot be had
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

BEARER = MappingProxyType({"www-authenticate": "Bearer"})
INVALID_TOKEN = MappingProxyType({"www-authenticate": 'Bearer error="invalid_token"'})


class AuthError(Exception):
    """The root. Its text is fit to show to the caller."""

    status = 401
    type = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MissingCredentials(AuthError):
    """The request says nothing about who sends it."""

    headers = BEARER

    def __init__(self) -> None:
        super().__init__(
            "You didn't provide an API key. Send it in an Authorization header using Bearer auth: "
            "Authorization: Bearer YOUR_KEY."
        )


class InvalidToken(AuthError):
    """The API key or token does not count, for whatever reason: callers are not told which."""

    code: str | None = "invalid_api_key"
    headers = INVALID_TOKEN

    def __init__(self, message: str = "Incorrect API key or token provided.") -> None:
        super().__init__(message)


class TokenExpired(InvalidToken):
    """The API key or token counted once."""

    code = "token_expired"

    def __init__(self) -> None:
        super().__init__("The API key or token has expired.")


class InvalidLogin(AuthError):
    """No such user, or not this password."""

    code = "invalid_login"
    headers = BEARER

    def __init__(self) -> None:
        super().__init__("Wrong user name or password.")


class NotPermitted(AuthError):
    """The user's role does not allow it."""

    status = 403
    type = "permission_error"
    code = "not_permitted"


class InsufficientScope(AuthError):
    """The API key has none of the scopes that allow it."""

    status = 403
    type = "permission_error"
    code = "insufficient_scope"
    headers = MappingProxyType({"www-authenticate": 'Bearer error="insufficient_scope"'})


class RegistrationClosed(AuthError):
    """Only an admin adds users."""

    status = 403
    type = "permission_error"
    code = "registration_closed"

    def __init__(self) -> None:
        super().__init__("Registration is closed. Ask an admin for an account.")


class InvalidField(AuthError):
    """A value that cannot be taken; `param` names it."""

    status = 400

    def __init__(self, message: str, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFound(AuthError):
    """No such thing, as far as the caller may know."""

    status = 404
    code = "not_found"


class TooManyAttempts(AuthError):
    """Wait before you try again."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        seconds = max(1, math.ceil(retry_after))
        self.headers = {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}


class ProviderUnavailable(AuthError):
    """No token of the identity provider can be checked now."""

    status = 503
    type = "server_error"
    code = "upstream_unavailable"
    headers = MappingProxyType({"retry-after": "5"})

    def __init__(self) -> None:
        super().__init__("The identity provider's keys are not available, so its tokens cannot be checked now.")
