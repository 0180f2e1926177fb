"""The tools that the settings name, and what they work with, from the server's start to its end."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gateway.backends import default_model
from gateway.settings import Settings, SettingsError
from gateway.store.database import Database
from gateway.store.knowledge import KnowledgeStore
from models.backend import Backend, ModelInfo
from models.catalog import Catalog
from models.duration import seconds
from tools import Toolbox, ToolError
from tools.documents import Section, Unreadable
from tools.files import FileTools
from tools.knowledge import Cutting, Knowledge, knowledge_search
from tools.mcp.config import McpConfigError, load
from tools.mcp.servers import McpServers
from tools.python import Limits, Sandbox, Unusable, python_tool
from tools.tool import Tool
from tools.toolbox import Called, Source
from tools.vision import Vision
from tools.web.search import Brave, Provider, SearXNG, Tavily
from tools.web.web import Web

logger = logging.getLogger(__name__)


class Toolset:
    """All tools of a server.

    Args:
        settings: all settings.
        catalog: the models, some of which see or embed.
        database: where knowledge is kept.
        sandbox: instead of the one that the settings describe; who gives it starts and closes it.

    Raises:
        SettingsError: the file of MCP servers is wrong.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, database: Database, sandbox: Sandbox | None = None
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._shared = database.shared
        self._given = sandbox is not None
        self.sandbox = sandbox or make_sandbox(settings)
        self.knowledge = Knowledge(
            KnowledgeStore(database),
            settings.data_directory / "knowledge",
            read=self.read,
            embedding=self._embedding,
            ranking=self._ranking if settings.knowledge_rerank else None,
            user_characters=settings.user_max_bytes,
            cutting=Cutting(settings.knowledge_chunk_tokens, settings.knowledge_chunk_overlap),
        )
        self.mcp = make_mcp_servers(settings)
        self._web = Web(
            make_provider(settings),
            private_hosts=settings.web_private_hosts,
            read_file=self._text,
            longest=settings.tool_max_output,
        )
        self._starting: asyncio.Task[None] | None = None

    def toolbox(self, observe: Callable[[Called], None]) -> Toolbox:
        """The tools; `observe` is told of every call."""
        settings = self._settings
        tools: list[Tool | Source] = [
            python_tool(self.sandbox),
            FileTools(self.read),
            knowledge_search(self.knowledge),
            self._web,
            Vision(self._vision),
            self.mcp,
        ]
        box = Toolbox(tools, timeout=settings.tool_timeout, longest=settings.tool_max_output, observe=observe)
        return box.only(settings.tools) if settings.tools else box

    async def start(self) -> None:
        """Begins to start what takes its time: tools can be used when they are ready, and say so until then."""
        await self.knowledge.start(self._settings.run_timeout if self._shared else 0.0)
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        if not self._given:
            await self.sandbox.start()
        await self.mcp.start()

    async def ready(self) -> None:
        """Returns when all that can start has."""
        if self._starting is not None:
            await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Ends all that was started."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.mcp.close()
        await self._web.close()
        await self.knowledge.close()
        if not self._given:
            await self.sandbox.close()

    async def forget(self, session_id: str) -> None:
        """Lets go of what belongs to a session that is deleted."""
        await self.sandbox.forget(session_id)
        self.knowledge.forget(session_id)

    async def read(self, file: BinaryIO, name: str) -> list[Section]:
        """The text of an open file, in sections.

        Raises:
            Unreadable: it has none, or cannot be read safely.
        """
        try:
            found: list[Section] = await self.sandbox.extract(file, "sections", returns=list[Section], name=name)
        except Unusable as error:
            raise Unreadable(f"{name[:100]!r} cannot be read safely here: {error}") from None
        return found

    async def describe(self, file: BinaryIO, name: str) -> str:
        """Tells in a line what an open file of a name holds; empty where that cannot be told."""
        try:
            told: str = await self.sandbox.extract(file, "describe", returns=str, name=name)
        except (Unreadable, Unusable) as error:
            logger.info("a file could not be described: %s", error)
            return ""
        return told

    async def _text(self, path: Path, name: str) -> str:
        try:
            with path.open("rb") as file:
                return "".join(section.text for section in await self.read(file, name))
        except Unreadable as error:
            raise ToolError(str(error)) from None

    async def _embedding(self) -> tuple[Backend, ModelInfo] | None:
        name = self._settings.embedding_model
        return await self._catalog.find(name) if name else None

    async def _ranking(self) -> tuple[Backend, ModelInfo] | None:
        info = await default_model(self._settings, self._catalog)
        return await self._catalog.find(info.id) if info else None

    async def _vision(self) -> tuple[Backend, ModelInfo] | None:
        if name := self._settings.vision_model:
            return await self._catalog.find(name)
        for info in await self._catalog.models():
            if info.capabilities is not None and {"chat", "vision"} <= info.capabilities:
                return await self._catalog.find(info.id)
        return None

    def status(self) -> dict[str, Any]:
        """How the tools are, for /health/status, which is public: no commands, no addresses."""
        sandbox = self.sandbox
        return {
            "python": {
                "available": sandbox.unavailable() is None,
                "reason": sandbox.unavailable(),
                "isolation": sandbox.level,
                "layers": list(sandbox.layers),
                "missing": list(sandbox.missing),
            },
            "mcp": {
                name: {"connected": server["connected"], "tools": server["tools"]}
                for name, server in self.mcp.status().items()
            },
        }


def make_sandbox(settings: Settings) -> Sandbox:
    """The sandbox that the settings describe."""
    limits = Limits(
        seconds=settings.python_tool_timeout,
        memory=settings.python_tool_memory,
        cpu=settings.python_tool_cpu,
        file_bytes=settings.python_tool_file_bytes,
        folder_bytes=settings.session_max_bytes,
        files=settings.python_tool_files,
        sessions=settings.python_tool_sessions,
        idle=seconds(settings.python_tool_idle),
    )
    return Sandbox(limits, isolation=settings.python_tool_isolation, preload=settings.python_tool_preload)


def make_mcp_servers(settings: Settings) -> McpServers:
    """The MCP servers that the settings name.

    Raises:
        SettingsError: their file is wrong.
    """
    if settings.mcp_servers is None:
        return McpServers(())
    try:
        return McpServers(load(settings.mcp_servers))
    except McpConfigError as error:
        raise SettingsError(f"MCP_SERVERS: {error}") from error


def make_provider(settings: Settings) -> Provider | None:
    """Who searches the web; None: nobody."""
    match settings.web_search_provider:
        case "tavily" if settings.tavily_api_key is not None:
            return Tavily(settings.tavily_api_key.get_secret_value())
        case "brave" if settings.brave_api_key is not None:
            return Brave(settings.brave_api_key.get_secret_value())
        case "searxng":
            return SearXNG(settings.searxng_url)
    return None
