"""What an agent is given to work with."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from agents.budget import Budget
from agents.events import AnyEvent
from agents.journal import Journal
from agents.options import Options
from models.backend import Backend, ModelInfo, ModelRequest
from models.messages import Message
from models.probe import Prober
from tools import Session, Toolbox

Clock = Callable[[], float]
"""Seconds of work; it stands still while a run is paused."""
Find = Callable[[str], Awaitable[tuple[Backend, ModelInfo]]]
"""Finds a model by its id, and the backend that has it. Raises ModelNotFound."""


class Context(Struct, frozen=True):
    """One question and the means to answer it."""

    backend: Backend
    request: ModelRequest
    """The conversation, how to sample, and the client's own tools."""
    choices: int = 1
    """How many answers are wanted side by side (OpenAI's `n`)."""
    remembered: int = 0
    """How many messages after the instructions are memory: the oldest are left out where the model has no room."""
    info: ModelInfo | None = None
    """What is known of the model."""
    session: Session | None = None
    """The workspace; None: there are no files, and no tools of the server."""
    toolbox: Toolbox = field(default_factory=lambda: Toolbox(()))
    """The server's tools that may be used."""
    options: Options = Options()
    budget: Budget = field(default_factory=Budget)
    journal: Journal = field(default_factory=Journal)
    """What was done before, where a run is taken up again."""
    results: Mapping[str, str] = field(default_factory=dict)
    """What the client's tools gave, by the ids of calls, where a run goes on after it had asked for them."""
    prober: Prober = field(default_factory=Prober)
    """Knows what models really can."""
    find: Find | None = None
    """Finds other models; None: there is only this one."""
    work: range = range(0)
    """Which of the messages tell of work: where the model has no room, they are cut."""
    run: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """Unlike any other run's, and the same whenever this one is gone through again."""

    def asking(
        self, *messages: Message, told: Sequence[Message] = (), then: Sequence[Message] = (), **changes: Any
    ) -> "Context":
        """The same with other messages, those of `told` being about work; and other fields of the request changed."""
        request = msgspec.structs.replace(self.request, messages=(*messages, *told, *then), **changes)
        work = range(len(messages), len(messages) + len(told))
        return msgspec.structs.replace(self, request=request, work=work)

    def changed(self, **changes: Any) -> "Context":
        """The same with fields of the request changed, but for the messages."""
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, **changes))


Agent = Callable[[Context], AsyncIterator[AnyEvent]]
"""A strategy: from a context to a stream of events that ends in one Answer a choice. Errors rise."""
