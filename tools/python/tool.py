"""The tool `python`: what a model is told of the sandbox, and of what came of its code."""

from tools.python.sandbox import Execution, Sandbox
from tools.python.workers import Unusable
from tools.session import Session
from tools.tool import Output, Tool, ToolError, tool

_WAIT = 60.0
"""Seconds that a call may wait for its turn, besides what it takes itself."""


def python_tool(sandbox: Sandbox) -> Tool:
    """The tool, over a sandbox that is or will be started."""

    async def python(session: Session, code: str) -> Output:
        """Runs Python code and returns what it prints and the value of its last expression, as a notebook does.

        Variables, imports and functions persist from call to call. The files of the conversation lie in the working
        folder: read and write them there, by relative paths. Files that the code makes are given to the user; charts
        drawn with matplotlib are saved by themselves. The standard library, numpy, pandas, matplotlib, openpyxl, pypdf,
        docx, pptx and PIL are there. There is no network, and no way to start programs or to install packages.

        Args:
            code: the Python code.
        """
        try:
            execution = await sandbox.run(session.id, session.folder, code)
        except Unusable as reason:
            raise ToolError(f"Python cannot be used now: {reason}") from None
        return Output(_text(execution), execution.files, execution.error)

    limits = sandbox.limits
    return tool(python, timeout=limits.seconds + limits.grace + _WAIT, unavailable=sandbox.unavailable)


def _text(execution: Execution) -> str:
    parts = [execution.output.rstrip("\n"), execution.value, *(f"[{note}]" for note in execution.notes)]
    return "\n".join(part for part in parts if part)
