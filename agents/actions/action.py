"""What a model's text asks for: a tool, or the end; and what to tell it where that cannot be read."""

from typing import Any

from msgspec import Struct


class Act(Struct, frozen=True):
    """The model wants a tool."""

    tool: str
    """The tool's own name."""
    arguments: dict[str, Any]
    """Read, and not checked: the toolbox does that."""
    thought: str = ""
    """What it wrote before."""
    corrected: str = ""
    """What it wrote in the place of the name, where that is another."""


class Final(Struct, frozen=True):
    """The model answers the user."""

    text: str
    thought: str = ""


class Malformed(Struct, frozen=True):
    """The model wanted something that cannot be read, or not be done."""

    thought: str
    why: str
    """What to tell it, so that it can do better."""


class Said(Struct, frozen=True):
    """Only text: no action, and nothing that says that it is the answer."""

    text: str
    """Without its thoughts; "" where there is nothing else."""
    thought: str = ""


Action = Act | Final | Malformed | Said
