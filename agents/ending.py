"""How agents end: in an answer, whatever has failed."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from agents.budget import Exhausted
from agents.context import Context
from agents.events import Answer, AnyEvent, Spoke, Stopped, TextDelta
from agents.prompts import FORCED, WHY
from agents.turn import speak
from models.backend import ModelError
from models.messages import FinishReason, Message


async def ended(
    context: Context,
    told: Sequence[Message],
    found: Sequence[str],
    *,
    reason: str = "",
    by: str = "",
    aside: bool = False,
    iterations: int = 0,
) -> AsyncGenerator[AnyEvent, None]:
    """The answer without tools, by what is known. Where the model cannot write it, what was found is the answer.

    Args:
        context: the question. Its budget gives out what was kept back for this.
        told: what came after the question, as the model is to see it.
        found: what came of the work, the best last.
        reason: why it ends before its time; empty: it does not.
        by: who answers.
        aside: the answer is not meant for the user.
        iterations: steps that it took.

    Raises:
        ModelError: the model failed, and there was no work before that.
    """
    why = WHY.get(reason, "")
    then = [Message("user", FORCED.format(why=why))] if why else []
    asking = context.asking(*context.request.messages, told=told, then=then, tools=(), tool_choice="auto")
    context.budget.release()
    text = ""
    finish: FinishReason = "stop"
    try:
        async with aclosing(speak(asking, by=by, aside=aside, counts=lambda: True)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    text, finish = event.message.text, "length" if event.finish == "length" else "stop"
    except Exhausted as stop:
        yield Stopped(what=stop.what, by=by)
        reason = reason or stop.what
    except ModelError as error:
        if not told:
            raise
        yield Stopped(what="model", text=error.message, by=by)
        reason = reason or "model"
    if not text.strip() and (told or reason):
        text = f"I could not finish: {WHY.get(reason, 'the model gave no answer')}. " + (
            f"What was found last:\n\n{found[-1][:2000]}" if found else "Nothing was found."
        )
        if context.request.output is not None or context.request.text_output is not None:
            finish = "length"  # it has not the form that was asked for: no client may take it for whole
        yield TextDelta(text=text, by=by, aside=aside)
    yield Answer(text=text, finish=finish, by=by, reason=reason, iterations=iterations)
