"""What an agent is given to work with."""

from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from agents.events import AnyEvent
from models.backend import Backend, ModelRequest


class Context(Struct, frozen=True):
    """One question and the means to answer it."""

    backend: Backend
    request: ModelRequest
    choices: int = 1
    """How many answers are wanted side by side (OpenAI's `n`)."""


Agent = Callable[[Context], AsyncIterator[AnyEvent]]
"""A strategy: from a context to a stream of events that ends in one Answer a choice. Errors rise."""
