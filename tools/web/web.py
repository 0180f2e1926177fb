"""The web tools together, with what they share."""

from collections.abc import Collection, Sequence

from tools.tool import Tool, tool
from tools.web.addresses import Lookup, look_up
from tools.web.connections import Connections
from tools.web.fetch import Fetch, ReadFile
from tools.web.reader import Reader
from tools.web.search import Provider, Search


class Web:
    """`web_search` and `web_fetch`. A source of the toolbox.

    Args:
        provider: who searches; None: nobody, and the tool says so.
        private_hosts: hosts that may be read although their addresses are private: `wiki.internal`, or with a port,
            `wiki.internal:8080`.
        read_file: gives the text of a PDF; None: PDFs are refused.
        longest: characters of an output.
        look_up: finds the addresses of a host name.
    """

    def __init__(
        self,
        provider: Provider | None = None,
        *,
        private_hosts: Collection[str] = (),
        read_file: ReadFile | None = None,
        longest: int = 20_000,
        look_up: Lookup = look_up,
    ) -> None:
        self._connections = Connections(look_up)
        self._reader = Reader()
        search = Search(self._connections, provider)
        fetch = Fetch(
            self._connections, self._reader, private_hosts=private_hosts, read_file=read_file, longest=longest
        )
        self._tools = (tool(search.web_search, unavailable=search.unavailable), tool(fetch.web_fetch))

    def tools(self) -> Sequence[Tool]:
        """Both tools."""
        return self._tools

    async def close(self) -> None:
        """Ends connections and processes. No call may be under way."""
        await self._connections.close()
        await self._reader.close()
