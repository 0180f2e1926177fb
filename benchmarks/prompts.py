"""Requests with the mode that is the cheapest to serve them well: the router learns from them, and is measured by them.

`simple` is for talk, writing and what models know; `react` for one thing to look up, compute or read; `plan` for
several pieces of work that build on each other; `debate` for contested judgement and decisions of weight. All are by
one author.
"""

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from agents.routing import Mode, Situation
from tools.session import File

TOOLS = (
    "python: Runs Python code and returns what it prints and the value of its last expression, as a notebook does.",
    "web_search: Searches the web; tells title, URL and a passage of each page found.",
    "web_fetch: Reads a web page, or a text, JSON, XML or PDF file on the web, as text.",
    "list_files: Lists the files of this conversation with type, size and a short description.",
    "read_file: Reads the text of a file of this conversation: text, code, PDF, Word, Excel, PowerPoint, HTML, CSV.",
    "knowledge_search: Finds passages in the user's files of this conversation and in their collections of documents.",
    "analyze_image: Looks at a picture and answers a question about it.",
)
"""What a server has where a prompt says nothing else."""


class Prompt(Struct, frozen=True, kw_only=True):
    """A labelled request."""

    text: str
    mode: Mode
    language: str
    turns: int = 1
    images: bool = False
    files: tuple[str, ...] = ()
    tools: tuple[str, ...] = TOOLS
    client_tools: tuple[str, ...] = ()
    system: str = ""
    late: bool = False
    """Written after the word lists."""

    @property
    def situation(self) -> Situation:
        """The request as the router gets it."""
        files = tuple(File(name, "", 1) for name in self.files)
        return Situation(self.text, self.turns, self.images, files, self.client_tools, self.tools, self.system)

    @property
    def held_out(self) -> bool:
        """Never trained on."""
        return self.late or hashlib.sha256(self.text.encode()).digest()[0] % 2 == 1


def load_prompts() -> list[Prompt]:
    """All labelled prompts."""
    return [
        msgspec.json.decode(line, type=Prompt)
        for line in Path(__file__).with_suffix(".jsonl").read_bytes().splitlines()
    ]
