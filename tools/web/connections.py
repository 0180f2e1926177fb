"""The web tools' connections: one way to hosts that somebody named in the settings, one to all others."""

import ssl

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from tools.web.addresses import Lookup, Resolver, look_up, public_socket

CONNECT_TIMEOUT = 5.0
"""Seconds until a connection must stand."""
USER_AGENT = "Mozilla/5.0 (compatible; Drover)"
"""Many sites refuse what does not begin like a browser."""


class Connections:
    """Two HTTP sessions, made when first needed.

    Neither keeps cookies, nor do they heed proxies that the environment names: a proxy would look names up by itself.
    Certificates are checked against the host's name.

    Args:
        look_up: finds the addresses of a name.
    """

    def __init__(self, look_up: Lookup = look_up) -> None:
        self._look_up = look_up
        self._sessions: dict[bool, ClientSession] = {}

    @property
    def public(self) -> ClientSession:
        """Connects to public addresses alone. For a host that is not, requests raise NotPublic."""
        return self._session(public=True)

    @property
    def trusted(self) -> ClientSession:
        """Connects to any address: for hosts that the settings name, never for those that a model or a page names."""
        return self._session(public=False)

    async def close(self) -> None:
        """Closes all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, *, public: bool) -> ClientSession:
        if public not in self._sessions:
            self._sessions[public] = self._new_session(public=public)
        return self._sessions[public]

    def _new_session(self, *, public: bool) -> ClientSession:
        connector = TCPConnector(
            resolver=Resolver(self._look_up, public=public),
            # A name is looked up for each connection, and each connection serves one request: what was checked is used.
            use_dns_cache=False,
            force_close=True,
            socket_factory=public_socket if public else None,
            ssl=ssl.create_default_context(),
        )
        return ClientSession(
            connector=connector,
            headers={"User-Agent": USER_AGENT},
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            trust_env=False,
        )
