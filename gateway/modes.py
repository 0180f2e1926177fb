"""Which agent answers a request: by prefix of the model id, by field, or by header."""

from collections.abc import Mapping

from agents import AGENTS, ALIASES
from gateway.errors import bad_request, no_model
from gateway.openai.request import ChatRequest
from models.catalog import Catalog

DEFAULT = "simple"


def choose(body: ChatRequest, headers: Mapping[str, str], catalog: Catalog) -> tuple[str, str]:
    """The agent's name, and the model's id without prefix; empty where the request names an agent only.

    An exact model id wins; else the part before the first `/` is an agent if it is the name of one, so that
    `hf.co/org/repo:Q4` stays a model.

    Raises:
        ApiError: 400, the request names no model, an agent that does not exist, or two different ones.
    """
    if not body.model:
        raise no_model()
    prefix, model = split(body.model, catalog)
    field, header = body.agent_type, headers.get("x-agent-type")
    for name, param in ((field, "agent_type"), (header, "X-Agent-Type")):
        if name and ALIASES.get(name, name) not in AGENTS:
            known = ", ".join(AGENTS)
            raise bad_request(f"There is no agent '{name[:40]}'. Agents are: {known}.", param, "unknown_agent_type")
    asked = {ALIASES.get(name, name) for name in (prefix, field, header) if name}
    if len(asked) > 1:
        names = " and ".join(sorted(asked))
        raise bad_request(f"The request names different agents: {names}.", "agent_type", "conflicting_agent_type")
    if is_background(body, headers):
        return DEFAULT, model
    return (asked.pop() if asked else DEFAULT), model


def split(name: str, catalog: Catalog) -> tuple[str, str]:
    """A model id of a request as agent and model, either of which may be empty."""
    if name in catalog:
        return "", name
    prefix, _, rest = name.partition("/")
    return (prefix, rest) if ALIASES.get(prefix, prefix) in AGENTS else ("", name)


def is_background(body: ChatRequest, headers: Mapping[str, str]) -> bool:
    """Whether a chat UI asks for a title, tags or the like, for which no agent should be set to work.

    Open WebUI sends these to the same model as one message that begins `### Task:`; its own retrieval prompt begins so
    too, but is streamed. The header can be set up there as `X-OpenWebUI-Task: {{TASK}}`.
    """
    if headers.get("x-openwebui-task"):
        return True
    if body.stream or body.tools or not body.messages or len(body.messages) != 1:
        return False
    content = body.messages[0].content
    text = content if isinstance(content, str) else next((part.text for part in content or () if part.text), None)
    return bool(text and text.lstrip().startswith("### Task:"))
