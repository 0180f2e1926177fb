"""What a chat request asks for: agent, model, conversation and files, as work for a run."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from agents.events import AnyEvent
from agents.options import Options
from agents.panel import named as seated
from gateway.attachments import has_files, named, pictures
from gateway.conversation import added, continues, informed, joined, session_of
from gateway.errors import bad_request, missing
from gateway.modes import DEFAULT, choose, is_background
from gateway.openai.request import ChatRequest, choices, to_messages, to_model_request
from gateway.parts import Parts
from gateway.store.sessions import SessionRecord
from gateway.uploads import Upload
from gateway.work import Work, continued
from models.backend import ModelInfo, ModelNotFound, ModelRequest
from models.messages import Image, Message
from models.structured import check_schema

MOST_VOICES = 12


async def asked(
    parts: Parts, user_id: str, headers: Mapping[str, str], body: ChatRequest, uploads: Sequence[Upload] = ()
) -> tuple[Work, list[AnyEvent]]:
    """What a request asks for, checked, and what was done of it before. Its files are put into its session.

    Raises:
        ApiError, ModelError: it cannot be done.
    """
    await parts.catalog.listed()
    mode, name = choose(body, headers, parts.catalog)
    if body.messages is None:
        raise missing("messages")
    options = body.x_agent or Options()
    if mode == "debate" and name not in parts.catalog and "+" in name:
        names = name.split("+")
        if len(names) > MOST_VOICES:
            raise bad_request(f"A debate has at most {MOST_VOICES} voices.", "model", "invalid_value")
        options, name = seated(options, names), names[0]
    info = await _find(parts, name)
    model_request = to_model_request(body, info.id)
    _check_abilities(model_request, info, mode)
    if model_request.output is not None and model_request.output.schema is not None:
        await check_schema(model_request.output.schema)
    count = choices(body)
    if mode != DEFAULT:
        _check_agent(mode, model_request, count)
        # Budgets count the pieces of an answer: it must come in pieces, whatever the client reads.
        model_request = replace(model_request, stream=True)
    if mode != DEFAULT and (found := await continued(parts, model_request.messages, user_id)) is not None:
        return found
    session = await _session(parts, user_id, headers, body, uploads, mode)
    said = model_request.messages
    history: tuple[Message, ...] = ()
    if session is not None:
        if has_files(body):
            said = to_messages(await named(parts.files, session, body.messages or []))
        said = added(said, await _uploaded(parts, session, uploads, info))
        if continues(said):
            history = await parts.sessions.conversation(session)
        files = await parts.sessions.workspace(session).files()
        model_request = replace(model_request, messages=informed(joined(history, said), files))
    work = Work(
        mode,
        info.id,
        info.backend,
        str(body.model),
        model_request,
        said,
        user_id,
        session.id if session else None,
        count,
        len(history),
        options,
    )
    return work, []


async def _session(
    parts: Parts,
    user_id: str,
    headers: Mapping[str, str],
    body: ChatRequest,
    uploads: Sequence[Upload],
    mode: str,
) -> SessionRecord | None:
    """The session that a request names, or that its files or its agent need; None: nothing is to be kept."""
    name = session_of(body, headers)
    if is_background(body, headers) or not (name or uploads or has_files(body) or mode != DEFAULT):
        return None
    return await parts.sessions.enter(name, user_id)


async def _uploaded(
    parts: Parts, session: SessionRecord, uploads: Sequence[Upload], info: ModelInfo
) -> tuple[Image, ...]:
    """Puts uploads into the session; gives the pictures among them, where the model can see."""
    records = [await parts.files.add(upload, session) for upload in uploads]
    sees = info.capabilities is None or "vision" in info.capabilities
    return await pictures(parts.files, records) if sees else ()


async def _find(parts: Parts, name: str) -> ModelInfo:
    if name:
        return (await parts.catalog.find(name))[1]
    if (default := await parts.default_model()) is None:
        raise ModelNotFound(parts.settings.default_model or "default")
    return default


def _check_agent(mode: str, request: ModelRequest, count: int) -> None:
    """Refuses what an agent cannot do."""
    if count > 1:
        raise bad_request(f"n is 1 for the agent '{mode}'.", "n", "unsupported_value")
    if request.continue_final_message:
        text = f"continue_final_message is not supported by the agent '{mode}'."
        raise bad_request(text, "continue_final_message", "unsupported_parameter")
    if request.tools and mode == "debate":
        raise bad_request("tools is not supported by the agent 'debate'.", "tools", "unsupported_parameter")


def _check_abilities(request: ModelRequest, info: ModelInfo, mode: str) -> None:
    """Refuses what the model is known not to be able to do; where nobody knows, the backend decides."""
    if (able := info.capabilities) is None:
        return
    if "chat" not in able:
        raise bad_request(f"The model `{info.id}` does not support chat.", "model", "unsupported_value")
    if request.tools and "tools" not in able and mode == DEFAULT:
        raise bad_request(f"tools is not supported by the model `{info.id}`.", "tools", "unsupported_parameter")
    if "vision" not in able and any(message.images for message in request.messages):
        raise bad_request("image_url is not supported by this model.", "messages", "unsupported_content")
