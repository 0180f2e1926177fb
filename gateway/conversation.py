"""How a request continues a session: which history counts, what a model is told of files, and what is kept."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import cast

from msgspec.structs import replace

from agents.events import Answer, AnyEvent, TextDelta
from agents.prompts import FILES_NOTE
from gateway.openai.request import ChatRequest
from models.messages import Image, Message, Part, Text
from tools import File

HEADERS = ("x-session-id", "x-openwebui-chat-id")
"""Where a client that cannot set `session_id` names the session; the second is Open WebUI's. Or in `metadata`."""
MOST_TOLD = 50
"""Files of a session that a model is told of; the newest."""


def session_of(body: ChatRequest, headers: Mapping[str, str]) -> str | None:
    """The id of the session that a request belongs to."""
    mentioned = (body.metadata or {}).get("session_id")
    named = (body.session_id, *(headers.get(header) for header in HEADERS), mentioned)
    return next((name for name in named if isinstance(name, str) and name), None)


def continues(messages: Sequence[Message]) -> bool:
    """Whether a request goes on from what the session remembers.

    A client that sends a transcript means that; one that sends a single user message means what was said before, too.
    """
    said = [message for message in messages if message.role != "system"]
    return len(said) == 1 and said[0].role == "user"


def joined(history: Sequence[Message], messages: Sequence[Message]) -> tuple[Message, ...]:
    """What was said before, put between a request's instructions and what it says."""
    system = [message for message in messages if message.role == "system"]
    return (*system, *history, *(message for message in messages if message.role != "system"))


def informed(messages: tuple[Message, ...], files: Sequence[File]) -> tuple[Message, ...]:
    """The conversation for a model, told at the last user message of the files that there are."""
    if not files:
        return messages
    lines = [f"- {file.line}" for file in files]
    left_out = [f"- and {len(lines) - MOST_TOLD} more"] if len(lines) > MOST_TOLD else []
    return added(messages, (Text(FILES_NOTE.lstrip() + "\n".join([*lines[-MOST_TOLD:], *left_out])),))


def added(messages: tuple[Message, ...], parts: Sequence[Part]) -> tuple[Message, ...]:
    """The conversation with more at the end of its last user message."""
    index = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
    if index is None or not parts:
        return messages
    message = messages[index]
    content: str | tuple[Part, ...]
    if isinstance(message.content, str) and not any(isinstance(part, Image) for part in parts):
        content = "\n\n".join([message.content, *(part.text for part in parts if isinstance(part, Text))])
    else:
        before = (Text(message.content),) if isinstance(message.content, str) else message.content
        content = (*before, *parts)
    return (*messages[:index], replace(message, content=content), *messages[index + 1 :])


async def remembered(
    events: AsyncIterator[AnyEvent], write: Callable[[Message], Awaitable[None]]
) -> AsyncGenerator[AnyEvent, None]:
    """The same events. The first answer is written before it is told: whoever has it can build on it.

    Of an answer that broke off, what there was of it is written; not of one that pauses.
    """
    text: list[str] = []
    written = False
    try:
        async with aclosing(cast(AsyncGenerator[AnyEvent, None], events)):
            async for event in events:
                if isinstance(event, Answer) and event.choice == 0:
                    written = True
                    await write(Message("assistant", event.text, tool_calls=event.calls))
                elif isinstance(event, TextDelta) and event.choice == 0 and not event.aside:
                    text.append(event.text)
                yield event
    except GeneratorExit:  # nobody wants more for now, and nothing has gone wrong
        written = True
        raise
    finally:
        if text and not written:
            await write(Message("assistant", "".join(text)))
