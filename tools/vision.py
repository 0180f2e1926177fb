"""analyze_image: a model that can see looks at a picture for one that cannot, or that wants to see it once more."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, cast

from msgspec import Meta

from models.backend import Backend, ModelError, ModelInfo, ModelRequest
from models.messages import Delta, Image, Message, Text
from tools.folder import open_in
from tools.session import Session
from tools.tool import Tool, ToolError, tool

LARGEST = 20_000_000
"""Bytes of a picture."""

Find = Callable[[], Awaitable[tuple[Backend, ModelInfo] | None]]
"""Finds a model that can see; None where there is none."""

_OF_THE_CONVERSATION = re.compile(r"\s*image\s*#?\s*(\d{1,4})\s*", re.IGNORECASE)

# The type by the content, whatever the name says: a model's server refuses the whole request if it is wrong.
_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
)


class Vision:
    """The tool `analyze_image`. A source of the toolbox.

    Args:
        find: finds the model, for each call anew.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._tools = (tool(self.analyze_image),)

    def tools(self) -> Sequence[Tool]:
        """The one tool."""
        return self._tools

    async def analyze_image(
        self, session: Session, image: str, question: Annotated[str, Meta(min_length=1, max_length=10_000)]
    ) -> str:
        """Looks at a picture and answers a question about it.

        Args:
            image: a file's name, such as chart.png, or `image 1` for the first picture of the conversation.
            question: what to find out; ask for all that you need to know.
        """
        picture = await _picture(session, image)
        found = await self._find()
        if found is None:
            raise ToolError(
                "No model here can see pictures (the setting VISION_MODEL names one). Do without, and say so."
            )
        backend, model = found
        request = ModelRequest(model.id, (Message("user", (picture, Text(question))),))
        try:
            return await _answer(backend, request)
        except ModelError as error:
            raise ToolError(f"{model.id} could not look at the picture: {error.message}") from None


async def _picture(session: Session, name: str) -> Image:
    if counted := _OF_THE_CONVERSATION.fullmatch(name):
        number = int(counted[1])
        if not 1 <= number <= len(session.images):
            raise ToolError(f"There is no image {number}; the conversation has {len(session.images)} pictures.")
        return session.images[number - 1]
    return await asyncio.to_thread(_read, session.folder, name)


def _read(folder: Path, name: str) -> Image:
    with open_in(folder, name) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ToolError(f"{name!r} is larger than {LARGEST:,} bytes. Make it smaller first.")
    for signature, media_type in _SIGNATURES:
        if signature.match(data):
            return Image(b64encode(data).decode(), media_type)
    raise ToolError(f"{name!r} is not a PNG, JPEG, WebP or GIF picture.")


async def _answer(backend: Backend, request: ModelRequest) -> str:
    text: list[str] = []
    finished = False
    # Backends' streams are generators, though the protocol promises less.
    async with aclosing(cast(AsyncGenerator[Delta, None], backend.chat(request))) as deltas:
        async for delta in deltas:
            text.append(delta.text)
            finished = finished or delta.finish is not None
    if not finished or not (answer := "".join(text).strip()):
        raise ToolError(f"{request.model} gave no answer about the picture. Ask again, in other words.")
    return answer
