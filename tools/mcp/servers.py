"""All MCP servers that are configured: each by itself, so that one that is down takes only its own tools with it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tools.mcp.config import FIRST_DELAY, ServerConfig
from tools.tool import Tool

if TYPE_CHECKING:
    from tools.mcp.server import Server


class McpServers:
    """The tools of MCP servers, named `server.tool`. A source of the toolbox.

    Args:
        configs: the servers.
        first_delay: seconds after which a server that failed is tried again for the first time.
    """

    def __init__(self, configs: Sequence[ServerConfig], *, first_delay: float = FIRST_DELAY) -> None:
        self._servers = _made(configs, first_delay)

    async def start(self, patience: float = 5.0) -> None:
        """Begins to connect. Returns when each server is connected or has failed, after `patience` seconds at most."""
        for server in self._servers:
            server.start()
        waits = [asyncio.ensure_future(server.tried.wait()) for server in self._servers]
        try:
            if waits:
                await asyncio.wait(waits, timeout=patience)
        finally:
            for wait in waits:
                wait.cancel()

    async def close(self) -> None:
        """Ends all connections and processes."""
        await asyncio.gather(*(server.close() for server in self._servers))

    def tools(self) -> Sequence[Tool]:
        """All tools that are known, also those of servers that are down."""
        return [tool for server in self._servers for tool in server.tools]

    def status(self) -> Mapping[str, Mapping[str, Any]]:
        """What there is to know of each server, for operators."""
        return {server.config.name: server.status() for server in self._servers}


def _made(configs: Sequence[ServerConfig], first_delay: float) -> "list[Server]":
    if not configs:
        return []
    # The protocol's package takes a second to load, which a server without MCP servers need not spend.
    from tools.mcp.server import Server

    return [Server(config, first_delay=first_delay) for config in configs]
