"""react: thought, action, observation, until there is an answer. It always ends in one."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec.structs import replace

from agents.actions import Act as Rescued
from agents.actions import match_tool, read_error
from agents.budget import Exhausted
from agents.constrained import Constrained
from agents.context import Context
from agents.ending import ended
from agents.events import (
    Answer,
    AnyEvent,
    Spoke,
    Stopped,
    ToolCallDelta,
    ToolFinished,
)
from agents.native import Native
from agents.prompts import FORMED, REPEATED, WHY
from agents.steps import Act, Answered, Decision, Faulty, Rung, Step, Used, longest_observation, observed
from agents.turn import call_id, check, use
from agents.written import Written
from models.backend import ModelError
from models.messages import CallDelta, Message, ToolCall

MAX_ITERATIONS = 6
MOST_FAULTS = 2
"""Faults in a row after which a lower rung is taken: for this run only, as it may be the request that is at fault."""
LAST_FAULTS = 5
"""The same on the lowest rung, where only giving up is left."""
_REMINDER = f"\n\n{REPEATED}"
"""What a model, but nobody else, is told with a result that it had before."""

RUNGS: tuple[Rung, ...] = (Native(), Constrained(), Written())
"""From the highest to the lowest."""


async def react(context: Context, *, by: str = "", aside: bool = False) -> AsyncGenerator[AnyEvent, None]:
    """Works on the question with the tools that there are: the server's are run, for the client's the answer asks.

    Args:
        context: the question and the means.
        by: who works, where there are several.
        aside: also the answer is not meant for the user.
    """
    own = {spec.name: spec for spec in context.toolbox.specs()} if context.session is not None else {}
    clients = {spec.name for spec in context.request.tools}
    offered = (*context.request.tools, *(spec for name, spec in own.items() if name not in clients))
    if not offered:
        async with aclosing(ended(context, (), (), by=by, aside=aside)) as events:
            async for event in events:
                yield event
        return
    loop = _Loop(context, by, aside)
    working = context.asking(*context.request.messages, tools=offered)
    rung = await _first_rung(working, by)
    while True:
        decision: Decision | None = None
        try:
            loop.begin()
            async with aclosing(RUNGS[rung].ask(loop.formless(working), loop.steps, by, loop.hidden)) as items:
                async for item in items:
                    if isinstance(item, Decision):
                        decision = item
                    elif isinstance(item, Spoke):
                        loop.begun = True
                        yield replace(item, rung=RUNGS[rung].name)
                    else:
                        yield item
        except Exhausted as stop:
            yield Stopped(what=stop.what, by=by)
            loop.reason = stop.what
        except ModelError as error:
            yield Stopped(what="model", text=error.message, by=by)
            decision = loop.rescued(error, working)
            if decision is None and not loop.begun:
                raise
            loop.reason = "" if decision else "model"
        match decision:
            case Answered(text=text, cut=cut) if not loop.formed:
                yield loop.answer(text, "length" if cut else "stop")
                return
            case Answered(text=text):
                loop.steps.append(Step(Message("assistant", text), note=FORMED))
                loop.reason = "stop"
            case Faulty(said=said, why=why):
                loop.steps.append(Step(said, note=why))
                loop.faults += 1
                # A step that came to nothing is not counted: how many of those there may be is bounded by itself.
                loop.iterations -= 1
            case Act(said=said, calls=calls):
                loop.faults = 0
                calls = tuple(_corrected(call, working) for call in calls)
                said = replace(said, tool_calls=calls) if said.tool_calls else said
                async with aclosing(loop.act(said, calls, clients)) as events:
                    async for event in events:
                        yield event
                if loop.asked:
                    return
        if loop.faults > (MOST_FAULTS if rung < len(RUNGS) - 1 else LAST_FAULTS):
            loop.faults = 0
            rung += 1
            if rung == len(RUNGS):
                loop.reason = "faults"
        if loop.reason:
            break
    told, found = (
        _told(context, loop.steps),
        [used.result.removesuffix(_REMINDER) for step in loop.steps for used in step.uses if not used.failed],
    )
    reason, iterations = "" if loop.reason == "stop" else loop.reason, loop.iterations
    async with aclosing(
        ended(context, told, found, reason=reason, by=by, aside=aside, iterations=iterations)
    ) as events:
        async for event in events:
            yield event


class _Loop:
    """The state of one loop."""

    def __init__(self, context: Context, by: str, aside: bool) -> None:
        self._context = context
        self._by = by
        self._limit = context.options.max_iterations or MAX_ITERATIONS
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self.formed = context.request.output is not None or context.request.text_output is not None
        """The answer must have a form: then it is written at the end, without tools."""
        self.hidden = aside or self.formed
        self.steps: list[Step] = []
        self.begun = False
        """The model has said something: from here on a failure of it ends in an answer."""
        self.iterations = 0
        self.faults = 0
        self.reason = ""
        """Why it stops without an answer of its own."""
        self.asked = False
        """The client is asked to call its tools."""

    def begin(self) -> None:
        """Begins a step.

        Raises:
            Exhausted: there is none left.
        """
        check(self._context, self._by)
        if self.iterations >= self._limit:
            raise Exhausted("max_iterations")
        self.iterations += 1

    def formless(self, context: Context) -> Context:
        """The context for steps: only the answer has a form."""
        return context.asking(*context.request.messages, output=None, text_output=None) if self.formed else context

    def answer(self, text: str, finish: str) -> Answer:
        """The end."""
        return Answer(
            text=text, finish="length" if finish == "length" else "stop", by=self._by, iterations=self.iterations
        )

    def rescued(self, error: ModelError, context: Context) -> Decision | None:
        """The call in the words of a backend that could not read it (ollama#12884 and others)."""
        match read_error(error.message, context.request.tools):
            case Rescued(tool=tool, arguments=arguments, thought=thought):
                identity = call_id(context, self._by, len(self.steps))
                call = ToolCall(identity, tool, msgspec.json.encode(arguments).decode())
                return Act(Message("assistant", thought, tool_calls=(call,)), (call,))
            case None:
                return None
            case other:
                return Faulty(Message("assistant", "…"), getattr(other, "why", "Write the call again."))

    async def act(
        self, said: Message, calls: tuple[ToolCall, ...], clients: set[str]
    ) -> AsyncGenerator[AnyEvent, None]:
        """Makes the calls of a step: the server's are made, those of the client end the answer, or are known by now."""
        context, by = self._context, self._by
        used: list[Used] = []
        for call in calls:
            if call.name in clients:
                continue
            try:
                async with aclosing(use(context, call, by=by)) as events:
                    async for event in events:
                        yield event
                        if isinstance(event, ToolFinished):
                            used.append(self._noted(Used(call, event.result, event.failed)))
            except Exhausted as stop:
                yield Stopped(what=stop.what, by=by)
                self.reason = stop.what
                used.append(Used(call, f"Error: not called: {WHY[stop.what]}.", failed=True))
        wanted = [call for call in calls if call.name in clients]
        if all(call.id in context.results for call in wanted):
            used += [self._noted(Used(call, context.results[call.id])) for call in wanted]
            order = [call.id for call in calls]
            self.steps.append(Step(said, tuple(sorted(used, key=lambda each: order.index(each.call.id)))))
            return
        for index, call in enumerate(wanted):
            yield ToolCallDelta(id=call.id, call=CallDelta(index, call.name), by=by)
            yield ToolCallDelta(id=call.id, call=CallDelta(index, "", call.arguments), by=by)
        self.asked = True
        yield Answer(
            text="", finish="tool_calls", calls=tuple(wanted), by=by, reason="client_tools", iterations=self.iterations
        )

    def _noted(self, used: Used) -> Used:
        """Counts what was done; the second time it says so, the third time the loop ends."""
        key = (used.call.name, _canonical(used.call.arguments), used.result)
        self._seen[key] += 1
        if self._seen[key] >= 3:
            self.reason = "loop"
        return replace(used, result=used.result + _REMINDER) if self._seen[key] > 1 else used


async def _first_rung(context: Context, by: str) -> int:
    """The rung to begin with: as before, where the run is gone through again, whatever is known of the model now."""
    if recorded := context.journal.rung(by):
        return next(i for i, rung in enumerate(RUNGS) if rung.name == recorded)
    able = await context.prober.of(context.backend, context.request.model, context.info)
    return 0 if able.calls_tools else 1 if able.keeps_to_schema else 2


def _corrected(call: ToolCall, context: Context) -> ToolCall:
    """The call with the name of the tool that it must mean; as it is, where that is not clear."""
    name = match_tool(call.name, context.request.tools)
    return replace(call, name=name) if name else call


def _canonical(arguments: str) -> str:
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments), order="deterministic").decode()
    except msgspec.DecodeError:
        return arguments


def _told(context: Context, steps: Sequence[Step]) -> list[Message]:
    """The steps as plain text, which every template takes."""
    longest = longest_observation(context)
    messages = []
    for step in steps:
        calls = [f"Action: {used.call.name}\nAction Input: {used.call.arguments}" for used in step.uses]
        messages.append(Message("assistant", "\n".join(filter(None, [step.said.text, *calls])) or "…"))
        results = [f"Observation:\n{observed(used.result, longest)}" for used in step.uses]
        messages.append(Message("user", "\n\n".join(filter(None, [*results, step.note])) or "Go on."))
    return messages
