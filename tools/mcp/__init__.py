"""Tools of MCP servers (https://modelcontextprotocol.io), which are processes beside this one or somewhere on HTTP.

from tools.mcp.config import load
from tools.mcp.servers import McpServers
servers = McpServers(load(Path("mcp.json")))
await servers.start()
result = await Toolbox([servers]).run("files.read", {"path": "a.txt"}, Session(folder))
"""
