"""What a model wants, read from its text: a tool to be called, the final answer, or neither.

match read_action("Thought: I must compute.\\nAction: python\\nAction Input: print(2 ** 10)", tools):
    case Act(tool, arguments): ...

Models write these in many shapes, and in all of them with mistakes. Two rules hold in every case: the first action
counts and what follows it is dropped, above all an observation that the model made up; and what is not there to its end
is not done.
"""

from agents.actions.action import Act, Action, Final, Malformed, Said
from agents.actions.error import read_error
from agents.actions.names import match_tool
from agents.actions.read import read_action

__all__ = ["Act", "Action", "Final", "Malformed", "Said", "match_tool", "read_action", "read_error"]
