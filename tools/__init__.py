"""Tools: functions that a model may call, each of use by itself.

from tools import Session, Toolbox, tool
result = await Toolbox([tool(weather)]).run("weather", {"city": "Oslo"}, Session(folder))
"""

from tools.session import File, Files, Session
from tools.tool import Output, Tool, ToolError, tool
from tools.toolbox import Result, Toolbox

__all__ = ["File", "Files", "Output", "Result", "Session", "Tool", "ToolError", "Toolbox", "tool"]
