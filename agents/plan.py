"""plan: a plan of steps, each worked off by a small react, then one answer from what they found."""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from agents.budget import Exhausted, Limits
from agents.context import Context
from agents.ending import ended
from agents.events import Answer, AnyEvent, Log, Planned, Spoke, Stopped
from agents.merge import merged
from agents.prompts import PLAN, PLAN_JSON, PLAN_SKETCH, REPLAN, STEP, SYNTHESIS, WHY, instructed
from agents.react import react
from agents.steps import longest_observation, observed, spec_text
from agents.turn import speak
from models.backend import JsonOutput, ModelError
from models.messages import Message, Text

MOST_STEPS = 6
LONGEST_PLAN = 4000
"""Tokens: six goals of 600 characters, in scripts where a character is a token."""
STEP_ITERATIONS = 4
AT_ONCE = 4
"""Steps side by side, where the backend does not say how many it works on at once."""


class PlannedStep(Struct, frozen=True):
    """A step as the model plans it."""

    goal: Annotated[str, Meta(min_length=1, max_length=600)]
    needs: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=MOST_STEPS - 1)] = ()
    """Numbers of the steps whose results it needs."""


class _Plan(Struct, frozen=True):
    steps: Annotated[tuple[PlannedStep, ...], Meta(min_length=1, max_length=MOST_STEPS)]


class Task(Struct):
    """A step at work."""

    number: int
    goal: str
    needs: tuple[int, ...]
    result: str | None = None
    """None: it is not done."""
    problem: str = ""
    """Why there is no good result."""


async def plan(context: Context) -> AsyncGenerator[AnyEvent, None]:
    """Plans, works off, answers. A plan that comes to nothing, or to one step, becomes a react.

    So does the whole where the client has tools: steps side by side cannot wait for answers of the client's.
    """
    if context.request.tools:
        yield Log(text="the client has tools of its own: react")
        async with aclosing(react(context)) as events:
            async for event in events:
                yield event
        return
    work = _Work(context)
    try:
        async with aclosing(work.plan()) as events:
            async for event in events:
                yield event
        if len(work.tasks) > 1:
            async with aclosing(work.work()) as events:
                async for event in events:
                    yield event
    except Exhausted as stop:
        yield Stopped(what=stop.what)
        work.reason = stop.what
    except ModelError as error:
        if not any(task.result for task in work.tasks.values()):
            raise
        yield Stopped(what="model", text=error.message)
        work.reason = "model"
    if len(work.tasks) <= 1 and not work.reason:
        yield Log(text="the plan has one step: react" if work.tasks else "there is no plan that works: react")
        agent = react(context)
    else:
        agent = ended(
            context,
            [Message("user", work.evidence())],
            [task.result for task in work.tasks.values() if task.result],
            reason=work.reason,
            iterations=len(work.tasks),
        )
    async with aclosing(agent) as events:
        async for event in events:
            yield event


class _Work:
    """A plan, and how far it is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._replans = context.options.max_replans
        self.tasks: dict[int, Task] = {}
        self.reason = ""

    async def plan(self, problem: str = "") -> AsyncGenerator[AnyEvent, None]:
        """Makes a plan of what is to be done from here; one that does not hold is put right once."""
        context = self._context
        tools = spec_text(context.toolbox.specs()) if context.session is not None else ""
        messages = instructed(context.request.messages, PLAN.format(tools=tools or "(none)"))
        if problem:
            messages = (*messages, Message("user", problem))
        plain: dict[str, Any] = {"tools": (), "tool_choice": "auto", "output": None, "text_output": None}
        sketching = replace(context.request.sampling, max_tokens=400, stop=())
        messages = (*messages, Message("user", PLAN_SKETCH))
        async with aclosing(speak(context.asking(*messages, **plain, sampling=sketching), aside=True)) as events:
            async for event in events:
                yield event
                if isinstance(event, Spoke):
                    messages = (*messages, Message("assistant", event.message.text or "…"), Message("user", PLAN_JSON))
        able = await context.prober.of(context.backend, context.request.model, context.info)
        form = JsonOutput(msgspec.json.schema(_Plan), "plan") if able.keeps_to_schema else None
        planning = {**plain, "output": form, "sampling": replace(sketching, temperature=0.0, max_tokens=LONGEST_PLAN)}
        for _ in range(2):
            text = ""
            asking = context.asking(*messages, **planning)
            async with aclosing(speak(asking, aside=True, silent=True, checked=False)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Spoke):
                        text = event.message.text
            steps, wrong = _read(text, set(self._done()))
            if steps:
                self._take(steps)
                yield Planned(steps=tuple(f"{task.number}. {task.goal}" for task in self._open()))
                return
            messages = (*messages, Message("assistant", text or "…"), Message("user", f"{wrong} {PLAN_JSON}"))

    def _take(self, steps: Sequence[PlannedStep]) -> None:
        """Puts planned steps in place of those that are not done. Their numbers go on from those that are."""
        self.tasks = {number: task for number, task in self.tasks.items() if task.result is not None or task.problem}
        first = max(self.tasks, default=0) + 1
        done = set(self._done())
        for index, step in enumerate(steps):
            needs = tuple(need if need in done else need - 1 + first for need in step.needs)
            self.tasks[first + index] = Task(first + index, step.goal, needs)

    def _done(self) -> Iterator[int]:
        return (number for number, task in self.tasks.items() if task.result is not None)

    def _open(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.result is None and not task.problem]

    async def work(self) -> AsyncGenerator[AnyEvent, None]:
        """Works off the steps, those that do not need each other side by side."""
        while tasks := self._open():
            done = set(self._done())
            ready = [task for task in tasks if done.issuperset(task.needs)][: _slots(self._context)]
            if not ready:
                for task in tasks:
                    task.problem = "what it needs was not obtained"
                return
            share = 1 / (len(tasks) + 1)
            async with aclosing(merged([self._step(task, share) for task in ready])) as events:
                async for event in events:
                    yield event
            failed = [task for task in ready if task.problem]
            if failed and self._replans and self._open():
                self._replans -= 1
                problem = REPLAN.format(
                    evidence=self.evidence(), failed=", ".join(f"#{task.number}" for task in failed)
                )
                async with aclosing(self.plan(problem)) as events:
                    async for event in events:
                        yield event

    async def _step(self, task: Task, share: float) -> AsyncGenerator[AnyEvent, None]:
        """One step: it sees its goal, the question, and the results that it needs."""
        context, budget = self._context, self._context.budget
        longest = longest_observation(context)
        inputs = [f"#{need}: {observed(self.tasks[need].result or '', longest)}" for need in task.needs]
        asked = next((each for each in reversed(context.request.messages) if each.role == "user"), Message("user"))
        text = STEP.format(question=asked.text, goal=task.goal, inputs="\n".join(inputs) or "(none)")
        limits = Limits(
            tokens=_share(budget.left("tokens"), share), seconds=_share_seconds(budget.left("seconds"), share)
        )
        small = replace(
            context.asking(
                Message("user", (Text(text), *asked.images) if asked.images else text),
                tools=(),
                tool_choice="auto",
                output=None,
                text_output=None,
                sampling=replace(context.request.sampling, stop=(), max_tokens=None),
            ),
            remembered=0,
            options=replace(context.options, max_iterations=STEP_ITERATIONS),
            budget=budget.part(limits),
        )
        by = f"step {task.number}"
        try:
            async with aclosing(react(small, by=by, aside=True)) as events:
                async for event in events:
                    if not isinstance(event, Answer):
                        yield event
                        continue
                    if event.reason:
                        task.problem = WHY.get(event.reason, event.reason)
                    task.result = event.text if not event.reason else None
                    yield Log(text=f"step {task.number}: {event.reason or 'done'}", data={"answer": event.text}, by=by)
        except ModelError as error:
            yield Stopped(what="model", text=error.message, by=by)
            task.problem = WHY["model"]

    def evidence(self) -> str:
        """What the steps found, and what is missing, for the model that answers."""
        longest = longest_observation(self._context)
        lines = []
        for task in self.tasks.values():
            if task.result is not None:
                lines.append(f"#{task.number} {task.goal}\n{observed(task.result, longest)}")
            else:
                lines.append(f"#{task.number} {task.goal}\nNot obtained: {task.problem or 'not done'}.")
        return SYNTHESIS.format(evidence="\n\n".join(lines))


def _read(text: str, done: set[int]) -> tuple[tuple[PlannedStep, ...], str]:
    """The steps that a plan has; without any, what is wrong with it."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        steps = msgspec.json.decode(found.group() if found else text, type=_Plan).steps
    except (msgspec.DecodeError, RecursionError) as error:
        return (), f"That is no plan: {error}."
    # A step may name those that are done by their numbers, and its fellows by their place in this plan.
    numbers = set(range(1, len(steps) + 1))
    for place, step in enumerate(steps, 1):
        own = [need for need in step.needs if need not in done]
        if not set(own) <= numbers:
            return (), f"Step {place} needs a step that there is not."
        if any(need >= place for need in own):
            return (), f"Step {place} may only need steps before it."
    return steps, ""


def _slots(context: Context) -> int:
    """How many steps the backend works on at once."""
    model = context.backend.status().get("models", {}).get(context.request.model, {})
    slots = model.get("slots") or model.get("engine", {}).get("slots")
    return int(slots) if isinstance(slots, int) and slots > 0 else AT_ONCE


def _share(left: float, share: float) -> int | None:
    return None if left == float("inf") else max(1, int(left * share))


def _share_seconds(left: float, share: float) -> float | None:
    return None if left == float("inf") else max(0.1, left * share)
