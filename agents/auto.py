"""auto: picks the agent that serves a request well at the least cost, and says which and why."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from msgspec.structs import replace

from agents.budget import Exhausted
from agents.context import Agent, Context
from agents.debate import debate
from agents.events import AnyEvent, Routed, Spoke, Stopped
from agents.plan import plan
from agents.prompts import FILES_NOTE
from agents.react import react
from agents.routing import ANSWER_TOKENS, Choice, Situation, decide, question, route
from agents.simple import simple
from agents.turn import speak
from models.backend import ModelError

CHOICES: Mapping[str, Agent] = {"simple": simple, "react": react, "plan": plan, "debate": debate}
BY = "auto"


async def auto(context: Context) -> AsyncGenerator[AnyEvent, None]:
    """Rules, then a small model of features; where that leaves a doubt, one question to the language model.

    A doubt that is left after that is for `simple`.
    """
    situation = await _situation(context)
    # Those above react can do nothing with the client's own tools.
    ceiling = context.options.max_mode or "debate"
    choice = route(situation, "react" if context.request.tools and ceiling != "simple" else ceiling)
    if not choice.sure:
        async with aclosing(_asked(context, situation, choice)) as items:
            async for item in items:
                if isinstance(item, Choice):
                    choice = item
                else:
                    yield item
    yield Routed(mode=choice.mode, p=choice.p, runner_up=choice.runner_up, reasons=choice.reasons)
    async with aclosing(CHOICES[choice.mode](context)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def _asked(context: Context, situation: Situation, choice: Choice) -> AsyncGenerator[AnyEvent | Choice, None]:
    """The choice after one question to the model; what it says can only be one of the sorts that there are."""
    messages, output = question(situation, choice)
    sampling = replace(context.request.sampling, temperature=0.0, max_tokens=ANSWER_TOKENS, stop=())
    asking = context.asking(*messages, tools=(), tool_choice="auto", output=output, text_output=None, sampling=sampling)
    answer = ""
    try:
        async with aclosing(speak(asking, by=BY, aside=True, silent=True, checked=False)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    answer = event.message.text
    except ModelError as error:
        yield Stopped(what="model", text=error.message, by=BY)
    except Exhausted as stop:
        yield Stopped(what=stop.what, by=BY)
    yield decide(choice, answer)


async def _situation(context: Context) -> Situation:
    messages = context.request.messages
    users = [message for message in messages if message.role == "user"]
    tools = context.toolbox.specs() if context.session is not None else ()
    return Situation(
        text=users[-1].text.partition(FILES_NOTE)[0] if users else "",
        turns=len(users),
        images=bool(users and users[-1].images and _sees(context)),
        files=await context.session.files() if context.session is not None else (),
        client_tools=tuple(tool.name for tool in context.request.tools),
        server_tools=tuple(f"{tool.name}: {tool.description}" for tool in tools),
        system=messages[0].text if messages and messages[0].role == "system" else "",
    )


def _sees(context: Context) -> bool:
    return context.info is not None and "vision" in (context.info.capabilities or ())
