"""simple: the model, passed through faithfully."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from agents.context import Context
from agents.events import Answer, AnyEvent, Spoke
from agents.merge import merged
from agents.turn import speak


def simple(context: Context) -> AsyncGenerator[AnyEvent, None]:
    """Asks the model `context.choices` times side by side; what comes first is passed on first."""
    answers = [_answer(context, choice) for choice in range(context.choices)]
    return answers[0] if len(answers) == 1 else merged(answers)


async def _answer(context: Context, choice: int) -> AsyncGenerator[AnyEvent, None]:
    async with aclosing(speak(_seeded(context, choice), choice)) as events:
        async for event in events:
            yield event
            if isinstance(event, Spoke):
                turn = event.message
                yield Answer(text=turn.text, finish=event.finish, calls=turn.tool_calls, choice=choice)


def _seeded(context: Context, choice: int) -> Context:
    """The context with a seed of its own for each answer: with the same one all answers would be the same."""
    sampling = context.request.sampling
    if choice == 0 or sampling.seed is None:
        return context
    request = replace(context.request, sampling=replace(sampling, seed=sampling.seed + choice))
    return replace(context, request=request)
