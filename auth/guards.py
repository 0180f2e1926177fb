"""Guards: functions that say whether a principal may use a handler.

They are coroutines because Litestar runs any other function in a thread, for each request.
"""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from auth.errors import InsufficientScope, NotPermitted
from auth.middleware import PUBLIC
from auth.users import Principal

Connection = ASGIConnection[Any, Principal, Any, Any]

ANY = "any"
"""The scope of handlers that every key may use."""


async def scope(connection: Connection, handler: BaseRouteHandler) -> None:
    """Lets limited keys only where the handler names one of their scopes: `opt={"scope": "chat"}`.

    A guard for the whole application.

    Raises:
        InsufficientScope: the key is limited to other things.
    """
    if handler.opt.get(PUBLIC):
        return
    needed: str = handler.opt.get("scope", "")
    if needed == ANY or connection.user.may(needed):
        return
    what = f"the scope `{needed}`" if needed else "a key without scopes"
    raise InsufficientScope(f"This needs {what}; your API key has {', '.join(sorted(connection.user.scopes))}.")


async def admin(connection: Connection, handler: BaseRouteHandler) -> None:
    """Lets admins pass.

    Raises:
        NotPermitted: the user is none.
    """
    if connection.user.role != "admin":
        raise NotPermitted("Only an admin may do this.")
