"""Guards: functions that say whether a principal may use a handler."""

from collections.abc import Mapping
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from auth.errors import InsufficientScope, NotPermitted
from auth.users import Principal

Connection = ASGIConnection[Any, Principal, Any, Any]

ANY = "any"
"""The scope of handlers that every key may use."""


def scope(principal: Principal, opt: Mapping[str, Any]) -> None:
    """Lets limited keys only where a handler names one of their scopes: `opt={"scope": "chat"}`.

    Raises:
        InsufficientScope: the key is limited to other things.
    """
    needed: str = opt.get("scope", "")
    if needed == ANY or principal.may(needed):
        return
    what = f"the scope `{needed}`" if needed else "a key without scopes"
    raise InsufficientScope(f"This needs {what}; your API key has {', '.join(sorted(principal.scopes))}.")


async def admin(connection: Connection, handler: BaseRouteHandler) -> None:
    """Lets admins pass. A guard of single handlers; a coroutine, as Litestar would run any other function in a thread.

    Raises:
        NotPermitted: the user is none.
    """
    if connection.user.role != "admin":
        raise NotPermitted("Only an admin may do this.")
