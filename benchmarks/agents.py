"""What agents make of a model that errs, what each costs, and the time that they take themselves.

    uv run benchmarks/agents.py [--tasks 500] [--seed 1]

No model takes part: a script plays one, so nothing here tells how clever an agent is with yours.

Faults. A task is five calls of tools, each with the value that the call before gave, then an answer with the last one.
In every step the script errs with probability q, in one of the ways in which small models do: calls cut off or spelled
wrongly, names and arguments that there are not, calls written as text, announcements, silence, made-up observations,
calls that the backend cannot read. Told what was wrong, it tries again, and errs again with probability q. It is right
if its answer has the right value, which it cannot guess. Without guards the first fault is the end: a loop as in any
tutorial, which makes the calls that it understands and takes all else for the answer. That must succeed in (1 - q)^5 of
all tasks, else a fault is none. With guards it is `react`, on each of its rungs, with 20 steps at most; 6, the default,
is what five calls and an answer need without any fault.

Costs. The same tasks by each agent. A token is four characters; tokens read anew are those that are not in messages
with which an earlier prompt of the task began, too: an engine that keeps what it has computed reads no others.

Overhead. An agent's CPU time less that of reading the same script without it, medians. It is one step or one event more
or less that counts: models, tools and the script take no time worth counting.

Exit code 1: fewer than 99 % of the tasks are done at q = 20 % with guards, an event takes more than 15 µs or a step
more than 2 ms, or a trial without guards is not what it must be.
"""

import argparse
import asyncio
import gc
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents import AGENTS, Context
from agents.events import Answer, AnyEvent, Routed, Spoke, ToolStarted
from agents.options import DebateOptions, Options
from agents.prompts import (
    ACT,
    ANSWER,
    CONSTRAINED,
    NATIVE,
    PLAN_JSON,
    PLAN_SKETCH,
    WRITTEN,
    instructed,
)
from agents.steps import FINAL, spec_text
from models.backend import BackendFailed, JsonOutput, ModelError, ModelRequest
from models.messages import Message, ToolCall, Usage
from models.scripted import Script, Scripted
from tools import Session, Toolbox, ToolError, tool

RATES = (0.05, 0.1, 0.2, 0.4)
AT, GOAL = 0.2, 0.99
"""The share of the tasks that must be done with guards, and at which rate of faults."""
EVENT, STEP = 15.0, 2.0
"""Microseconds of an event, milliseconds of a step: what an agent may take at most."""
STEPS = 20
"""Steps at most: all that a request may ask for."""
PLENTY = Options(max_iterations=STEPS)
STUBBORN = 0.6
Z = 4.0
"""Standard errors by which a trial without guards may differ from what it must be."""


# --- the task ---------------------------------------------------------------------------------------------------------


class Office:
    """Knows parcels. What one of its tools gives, the next one asks for."""

    def __init__(self, customers: int, random: Random) -> None:
        numbers = [random.sample(range(10_000, 100_000), customers) for _ in range(5)]
        self._values: list[list[Any]] = [
            [f"C-{n}" for n in random.sample(range(10_000, 100_000), customers)],
            numbers[0],
            [f"PX-{n}" for n in numbers[1]],
            [f"depot-{n}" for n in numbers[2]],
            numbers[3],
            [f"{n / 100:.2f}" for n in numbers[4]],
        ]
        self._next = [dict(zip(before, after, strict=True)) for before, after in pairwise(self._values)]

    @property
    def customers(self) -> list[str]:
        """Who asks, by the number of the task."""
        return self._values[0]

    @property
    def prices(self) -> list[str]:
        """The right answers."""
        return self._values[-1]

    async def find_order(self, customer: str) -> str:
        """Finds a customer's open order."""
        return self._given(0, customer)

    async def find_parcel(self, order: int) -> str:
        """Finds the parcel in which an order is."""
        return self._given(1, order)

    async def locate_parcel(self, parcel: str) -> str:
        """Tells in which depot a parcel lies."""
        return self._given(2, parcel)

    async def measure_distance(self, depot: str) -> str:
        """Tells how many meters a depot is away."""
        return self._given(3, depot)

    async def find_price(self, meters: int) -> str:
        """Tells what it costs to bring a parcel from so far."""
        return self._given(4, meters)

    def _given(self, place: int, value: str | int) -> str:
        if value not in self._next[place]:
            raise ToolError(f"There is no {TAKES[place]} {value}.")
        return f"{GIVES[place]}: {self._next[place][value]}"


TOOLS = ("find_order", "find_parcel", "locate_parcel", "measure_distance", "find_price")
TAKES = ("customer", "order", "parcel", "depot", "meters")
GIVES = (*TAKES[1:], "price")
QUESTION = "How much does it cost to bring customer {customer} the parcel with the open order from its depot?"

_VALUE = re.compile(r"\b(order|parcel|depot|meters|price): ([\w.-]+)")
_CUSTOMER = re.compile(r"customer (C-\d+)")
_OWN_STEP = re.compile(r"Your step:\nUse (\w+)")


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call that the model ought to make."""

    tool: str
    arguments: dict[str, Any]
    gives: str

    @property
    def json(self) -> str:
        """The arguments."""
        return json.dumps(self.arguments)

    @property
    def whole(self) -> str:
        """Tool and arguments."""
        return json.dumps({"name": self.tool, "arguments": self.arguments})

    @property
    def python(self) -> str:
        """The call as Python has it."""
        return f"{self.tool}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    @property
    def renamed(self) -> str:
        """The arguments under a name that the tool does not know."""
        return json.dumps({"input_value": next(iter(self.arguments.values()))})

    @property
    def listed(self) -> str:
        """The arguments as another type than the tool takes."""
        return json.dumps({name: [value] for name, value in self.arguments.items()})


def native(call: Call, name: str = "", arguments: str | None = None) -> Script:
    """A call by the model's own means."""
    return Script(calls=(ToolCall("x", name or call.tool, call.json if arguments is None else arguments),))


def action(name: str, arguments: dict[str, Any]) -> str:
    """A call in the form of the middle rung."""
    return json.dumps({"action": name, "arguments": arguments})


def written(call: Call, name: str = "", arguments: str | None = None) -> str:
    """A call as text with labels."""
    given = call.json if arguments is None else arguments
    return f"Thought: I need the {call.gives}.\nAction: {name or call.tool}\nAction Input: {given}"


def made_up(call: Call) -> str:
    """A call with all that would follow it, in one go."""
    return f"{written(call)}\nObservation: {call.gives}: 4711\nThought: I know it.\nFinal Answer: It costs 47.11."


Fault = Callable[[Call], Script]

AS_TEXT: Mapping[str, Fault] = {
    "call as text, in tags": lambda call: Script(text=f"<tool_call>\n{call.whole}\n</tool_call>"),
    "call as text, fenced": lambda call: Script(text=f"I call it now.\n```json\n{call.whole}\n```"),
    "call as text, a list": lambda call: Script(text=f"[TOOL_CALLS][{call.whole}]"),
    "call as text, Python": lambda call: Script(text=call.python),
    "call as text, cut off": lambda call: Script(text=f"<tool_call>\n{call.whole[:-9]}", finish="length"),
    "announces, does nothing": lambda call: Script(text=f"To answer this, let me find the {call.gives} first."),
    "nothing": lambda _: Script(text=""),
    "makes up the observation": lambda call: Script(text=made_up(call)),
}

FAULTS: Mapping[str, Mapping[str, Fault]] = {
    "native": {
        "arguments cut off": lambda call: native(call, arguments=call.json[:-2]),
        "arguments in Python's words": lambda call: native(call, arguments=str(call.arguments)),
        "arguments of other names": lambda call: native(call, arguments=call.renamed),
        "arguments of another type": lambda call: native(call, arguments=call.listed),
        "a tool that there is not": lambda call: native(call, "search_database"),
        "a tool's name, spelled wrongly": lambda call: native(call, f"functions.{call.tool.title()}"),
        "call as text, labelled": lambda call: Script(text=written(call)),
        "unread by the backend": lambda call: Script(error=_unread(call.whole)),
        "unread by the backend, broken": lambda call: Script(error=_unread(call.whole.replace('"', "", 5)[:-4])),
        **AS_TEXT,
    },
    "constrained": {
        "a value that is not known": lambda call: Script(text=action(call.tool, dict.fromkeys(call.arguments, 1))),
        "another tool than is due": lambda call: Script(text=action(*_not_due(call))),
        "cut off": lambda call: Script(text=action(call.tool, call.arguments)[:-3], finish="length"),
        "form not held, prose": lambda call: Script(text=f"I would call {call.tool}."),
        "form not held, a tool that there is not": lambda call: Script(text=action("search", call.arguments)),
        "form not held, other keys": lambda call: Script(text=call.whole),
        "form not held, arguments": lambda call: Script(text=action(call.tool, json.loads(call.renamed))),
        "form not held, nothing": lambda _: Script(text=""),
    },
    "written": {
        "no arguments": lambda call: Script(text=f"Thought: I look.\nAction: {call.tool}"),
        "arguments cut off": lambda call: Script(text=written(call, arguments=call.json[:-2])),
        "arguments in Python's words": lambda call: Script(text=written(call, arguments=str(call.arguments))),
        "arguments of other names": lambda call: Script(text=written(call, arguments=call.renamed)),
        "arguments of another type": lambda call: Script(text=written(call, arguments=call.listed)),
        "arguments fenced": lambda call: Script(text=written(call, arguments=f"\n```json\n{call.json}\n```")),
        "a tool that there is not": lambda call: Script(text=written(call, "search_database")),
        "labels in bold": lambda call: Script(
            text=f"**Thought:** I look.\n**Action:** {call.tool}\n**Action Input:** {call.json}"
        ),
        **AS_TEXT,
    },
}
"""Ways to err, by rung, each as likely as the others. Where the decoder holds an action to its form, a model can still
take the wrong tool or value; what breaks the form is for backends that promise to hold it and do not."""

UNSEEN: Fault = lambda _: Script(text="Final Answer: It costs 47.11.")  # noqa: E731
"""An answer made up in good form: no guard can know."""


def _unread(raw: str) -> BackendFailed:
    return BackendFailed(f"error parsing tool call: raw='{raw}', err=invalid character 'x' after object key")


def _not_due(call: Call) -> tuple[str, dict[str, Any]]:
    place = (TOOLS.index(call.tool) + 2) % len(TOOLS)
    return TOOLS[place], {TAKES[place]: next(iter(call.arguments.values()))}


class Solver:
    """A model that works as it should, but for its faults. It knows what stands in its prompt and nothing else.

    Args:
        random: draws the faults.
        rate: how likely a step has one.
        kind: the only one that there is; None: all.
        stubborn: it errs in the same way again with probability `STUBBORN`.
        unseen: share of the faults that are answers made up.
        guesses: without tools it answers anything, instead of the same each time.
        counts: it tells how many tokens there were, which takes a while.
    """

    def __init__(
        self,
        random: Random,
        rate: float = 0.0,
        *,
        kind: str | None = None,
        stubborn: bool = False,
        unseen: float = 0.0,
        guesses: bool = False,
        counts: bool = False,
    ) -> None:
        self._random = random
        self._rate = rate
        self._kind = kind
        self._stubborn = stubborn
        self._unseen = unseen
        self._guesses = guesses
        self._counts = counts
        self._last = ""
        self._prompts: list[ModelRequest] = []
        self.faults = 0

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return len(self._prompts)

    def __call__(self, request: ModelRequest) -> Script:
        """Answers as the prompt wants it."""
        script = self._answer(request)
        usage = self._usage(request, script) if self._counts else Usage()
        self._prompts.append(request)
        return replace(script, usage=usage, pieces=16)

    def _answer(self, request: ModelRequest) -> Script:
        last = request.messages[-1].text
        system = request.messages[0].text
        heard = (each.text for each in request.messages if each.role in ("user", "tool"))
        known = dict(pair for text in heard for pair in _VALUE.findall(text))
        call = _due(request, known)
        if request.tools:
            return self._erring("native", call) or native(call) if call else Script(text=_told(request, known))
        if last == ACT:
            if call is None:
                return Script(text=json.dumps({"action": FINAL}))
            return self._erring("constrained", call) or Script(text=action(call.tool, call.arguments))
        if system.startswith(_head(WRITTEN)):
            if call is None:
                return Script(text=f"Thought: I know it.\nFinal Answer: {_told(request, known)}")
            return self._erring("written", call) or Script(text=written(call))
        if system.startswith(_head(CONSTRAINED)) and last != ANSWER and call is not None:
            return Script(text=f"I need the {call.gives}.")
        if last == PLAN_SKETCH:
            return Script(text=f"I would use {', then '.join(TOOLS)}.")
        if last.endswith(PLAN_JSON):
            return Script(text=_plan())
        if request.output is not None:
            return Script(text='{"sort": "lookup"}')
        if call is None:
            return Script(text=_told(request, known))
        guess = self._random.randrange(10, 100) if self._guesses else 10
        return Script(text=f"I cannot look it up, so I guess.\nAnswer: {guess}")

    def _erring(self, rung: str, call: Call) -> Script | None:
        """A fault, or none."""
        again = self._stubborn and self._last in FAULTS[rung]
        if self._random.random() >= (STUBBORN if again else self._rate):
            self._last = ""
            return None
        self.faults += 1
        if self._random.random() < self._unseen:
            return UNSEEN(call)
        if not again:
            self._last = self._kind or self._random.choice(list(FAULTS[rung]))
        fault = FAULTS[rung].get(self._last)
        return fault(call) if fault else None

    def _usage(self, request: ModelRequest, script: Script) -> Usage:
        """A prompt is its messages, and the tools before them; what an earlier one began with, too, is cached."""
        cached = max((_shared(request, before) for before in self._prompts), default=0)
        completion = len(script.text) + sum(len(call.name) + len(call.arguments) for call in script.calls)
        return Usage(_tokens(_size(request)), _tokens(completion), _tokens(cached))


def _head(prompt: str) -> str:
    return prompt.partition("\n")[0]


def _due(request: ModelRequest, known: Mapping[str, str]) -> Call | None:
    """The call that is to be made next; None: it is time to answer."""
    users = "\n".join(message.text for message in request.messages if message.role == "user")
    step = _OWN_STEP.search(users)
    places = (TOOLS.index(step[1]),) if step else range(len(TOOLS))
    place = next((place for place in places if GIVES[place] not in known), None)
    customer = _CUSTOMER.search(users)
    assert customer is not None
    if place is None:
        return None
    value = known.get(TAKES[place], "unknown") if place else customer[1]
    return Call(TOOLS[place], {TAKES[place]: int(value) if value.isdigit() else value}, GIVES[place])


def _told(request: ModelRequest, known: Mapping[str, str]) -> str:
    step = _OWN_STEP.search("\n".join(message.text for message in request.messages))
    gives = GIVES[TOOLS.index(step[1])] if step else "price"
    return f"{gives}: {known[gives]}"


def _plan() -> str:
    steps = [{"goal": f"Use {name}.", "needs": [place] if place else []} for place, name in enumerate(TOOLS)]
    return json.dumps({"steps": steps})


def _size(request: ModelRequest) -> int:
    return sum(map(_length, request.messages)) + len(repr(request.tools)) * bool(request.tools)


def _length(message: Message) -> int:
    return len(message.text) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)


def _shared(one: ModelRequest, other: ModelRequest) -> int:
    if one.tools != other.tools:
        return 0
    size = len(repr(one.tools)) * bool(one.tools)
    for mine, theirs in zip(one.messages, other.messages, strict=False):
        if mine != theirs:
            break
        size += _length(mine)
    return size


def _tokens(characters: int) -> int:
    return math.ceil(characters / 4)


# --- with guards and without ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One task, done or not."""

    answer: str = ""
    reason: str = ""
    """Why it ended, where that was before its time."""
    mode: str = ""
    """What `auto` chose."""
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)


async def run(agent: str, context: Context) -> Run:
    """Lets an agent do a task."""
    done = Run()
    async for event in AGENTS[agent](context):
        match event:
            case Spoke(usage=usage):
                done.usage += usage
            case ToolStarted():
                done.tool_calls += 1
            case Routed(mode=mode):
                done.mode = mode
            case Answer(text=text, reason=reason):
                done.answer, done.reason = text, reason
    return done


async def bare(rung: str, context: Context) -> str:
    """The answer of a loop without guards, or why there is none."""
    specs, messages = context.toolbox.specs(), [*context.request.messages]
    told = {"native": NATIVE, "constrained": CONSTRAINED, "written": WRITTEN}[rung].replace("{tools}", spec_text(specs))
    messages = [*instructed(messages, told)]
    try:
        while True:
            asked = [*messages, Message("user", ACT)] if rung == "constrained" else messages
            form = JsonOutput() if rung == "constrained" else None
            said = await _said(context.asking(*asked, tools=specs if rung == "native" else (), output=form))
            call = _understood(rung, said)
            if isinstance(call, str):
                return call
            if call.name == FINAL:
                return (await _said(context.asking(*messages, Message("user", ANSWER)))).text
            assert context.session is not None
            result = await context.toolbox.run(call.name, call.arguments, context.session)
            if result.error:
                return result.error
            messages += [said, Message("tool" if rung == "native" else "user", f"Observation: {result.text}")]
    except (ModelError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


_WRITTEN = re.compile(r"Action: (.*)\nAction Input: (.*)")


def _understood(rung: str, said: Message) -> ToolCall | str:
    """The call that a message is, or the answer."""
    match rung:
        case "native":
            return said.tool_calls[0] if said.tool_calls else said.text
        case "constrained":
            chosen = json.loads(said.text)
            return ToolCall("x", chosen["action"], json.dumps(chosen.get("arguments", {})))
    if "Final Answer:" in said.text:
        return said.text.partition("Final Answer:")[2]
    found = _WRITTEN.search(said.text)
    return ToolCall("x", found[1], found[2]) if found else said.text


async def _said(context: Context) -> Message:
    text, name, arguments = "", "", ""
    async for delta in context.backend.chat(context.request):
        text += delta.text
        for piece in delta.calls:
            name, arguments = name + piece.name, arguments + piece.arguments
    return Message("assistant", text, tool_calls=(ToolCall("x", name, arguments),) if name else ())


class Bench:
    """Tasks, and the tools for them.

    Args:
        session: the workspace.
        tasks: how many.
        seed: of all that is drawn.
    """

    def __init__(self, session: Session, tasks: int, seed: int) -> None:
        self.tasks = tasks
        self.office = Office(tasks, Random(seed))
        self._session = session
        self._seed = seed
        self._toolbox = Toolbox([tool(getattr(self.office, name)) for name in TOOLS])

    def context(self, number: int, rung: str, solver: Solver, options: Options) -> Context:
        """A task, with a model of which nothing is known yet that can what its rung needs and not more."""
        backend = Scripted([solver], calls_tools=rung == "native", keeps_to_schema=rung != "written")
        question = QUESTION.format(customer=self.office.customers[number])
        request = ModelRequest("scripted", (Message("user", question),))
        return Context(backend, request, session=self._session, toolbox=self._toolbox, options=options)

    def random(self, *what: object) -> Random:
        """For one task of one trial: the same in each run of the benchmark."""
        return Random(f"{self._seed} {what}")

    def right(self, number: int, answer: str) -> bool:
        """Whether an answer has the right value."""
        return self.office.prices[number] in answer


@dataclass
class Trial:
    """What came out of many tasks."""

    tasks: int = 0
    right: int = 0
    faults: int = 0
    calls: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    modes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of those that are not right."""

    @property
    def share(self) -> float:
        """How many are right."""
        return self.right / self.tasks

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share is in 95 % of all trials (Wilson 1927)."""
        z, n, p = 1.96, self.tasks, self.share
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:6.1%} [{low:.1%}, {high:.1%}]"


async def guarded(
    bench: Bench, agent: str, rung: str, rate: float, options: Options, tasks: int | None = None, **solver: Any
) -> Trial:
    """Does tasks with an agent."""
    trial = Trial()
    for number in range(tasks or bench.tasks):
        model = Solver(bench.random(agent, rung, rate, number, *solver.items()), rate, **solver)
        done = await run(agent, bench.context(number, rung, model, options))
        right = bench.right(number, done.answer)
        trial.tasks += 1
        trial.right += right
        trial.faults += model.faults
        trial.calls += model.calls
        trial.tool_calls += done.tool_calls
        trial.usage += done.usage
        trial.modes[done.mode] += 1
        if not right:
            trial.reasons[done.reason or "a wrong answer"] += 1
    return trial


async def unguarded(bench: Bench, rung: str, rate: float, tasks: int | None = None, **solver: Any) -> Trial:
    """Does tasks without guards."""
    trial = Trial()
    for number in range(tasks or bench.tasks):
        model = Solver(bench.random("bare", rung, rate, number, *solver.items()), rate, **solver)
        trial.tasks += 1
        trial.right += bench.right(number, await bare(rung, bench.context(number, rung, model, PLENTY)))
        trial.faults += model.faults
    return trial


async def faults(bench: Bench) -> AsyncIterator[str]:
    """Tells of tasks done with and without guards; gives what is not as it must be."""
    print(f"Faults: tasks done of {bench.tasks}, with the 95 % interval\n")
    print(f"{'rung':12} {'q':>4} | {'(1-q)^5':>7}  {'without guards':24} {'with guards':24} faults  calls  lost by")
    for rung in FAULTS:
        for rate in RATES:
            without = await unguarded(bench, rung, rate)
            trial = await guarded(bench, "react", rung, rate, PLENTY)
            expected = (1 - rate) ** len(TOOLS)
            print(f"{rung:12} {rate:4.0%} | {expected:7.1%}  {without!s:24} {_row(trial)}")
            if abs(without.share - expected) > Z * math.sqrt(expected * (1 - expected) / without.tasks):
                yield f"{rung}, q = {rate:.0%}: {without.share:.1%} done without guards, not {expected:.1%}"
            if rate == AT and trial.share < GOAL:
                yield f"{rung}, q = {rate:.0%}: {trial.share:.1%} done with guards, not {GOAL:.0%}"


def _row(trial: Trial) -> str:
    lost = ", ".join(f"{reason} {count}" for reason, count in trial.reasons.most_common())
    return f"{trial!s:24} {trial.faults / trial.tasks:6.2f} {trial.calls / trial.tasks:6.2f}  {lost}"


async def harder(bench: Bench) -> None:
    """Tells of what no goal is set for."""
    tasks = max(1, bench.tasks // 2)
    print(f"\n{tasks} tasks, with guards at q = {AT:.0%}, but\n\n{'':12} {'':44} {'done':24} faults  calls  lost by")
    for rung in FAULTS:
        for name, options, solver in (
            ("6 steps at most, the default", Options(), {}),
            (f"errs in the same way again: {STUBBORN:.0%}", PLENTY, {"stubborn": True}),
            ("a tenth of the faults: answers made up", PLENTY, {"unseen": 0.1}),
        ):
            print(f"{rung:12} {name:44} {_row(await guarded(bench, 'react', rung, AT, options, tasks, **solver))}")


async def kinds(bench: Bench) -> None:
    """Tells what becomes of each kind of fault alone."""
    tasks = max(1, bench.tasks // 10)
    print(f"\nOne kind of fault alone, q = {AT:.0%}, {tasks} tasks: calls of the model per fault, more than without\n")
    for rung, known in FAULTS.items():
        for kind in known:
            trial = await guarded(bench, "react", rung, AT, PLENTY, tasks, kind=kind)
            usual = {"native": 6, "constrained": 13, "written": 6}[rung]
            more = (trial.calls / trial.tasks - usual) / (trial.faults / trial.tasks)
            lost = ", ".join(f"{reason} {count}" for reason, count in trial.reasons.most_common())
            print(f"{rung:12} {kind:44} {trial.share:6.1%}  {more:5.2f}  {lost}")


# --- costs ------------------------------------------------------------------------------------------------------------


async def costs(bench: Bench) -> None:
    """Tells what each agent spends on the tasks."""
    tasks = max(1, bench.tasks // 10)
    rows: list[tuple[str, str, str, Options, dict[str, Any]]] = [
        ("simple", "simple", "native", PLENTY, {}),
        *((f"react, {rung}", "react", rung, PLENTY, {}) for rung in FAULTS),
        *((f"plan, {rung}", "plan", rung, PLENTY, {}) for rung in FAULTS),
        ("debate, at one", "debate", "native", PLENTY, {}),
        ("debate, at odds", "debate", "native", PLENTY, {"guesses": True}),
        ("auto", "auto", "native", PLENTY, {}),
    ]
    print(f"\nCosts of a task, {tasks} tasks; a debate has no tools, and so no chance\n")
    head = f"{'':20} {'q':>4} | {'done':>6}  {'calls':>6} {'tools':>6} {'read':>8} {'anew':>8} {'written':>8}"
    print(head)
    for name, agent, rung, options, solver in rows:
        for rate in (0.0, AT) if agent in ("react", "plan", "auto") else (0.0,):
            trial = await guarded(bench, agent, rung, rate, options, tasks, counts=True, **solver)
            n, usage = trial.tasks, trial.usage
            chosen = ", ".join(f"{mode} {count}" for mode, count in trial.modes.items() if mode)
            print(
                f"{name:20} {rate:4.0%} | {trial.share:6.1%}  {trial.calls / n:6.2f} {trial.tool_calls / n:6.2f} "
                f"{usage.prompt_tokens / n:8,.0f} {(usage.prompt_tokens - usage.cached_tokens) / n:8,.0f} "
                f"{usage.completion_tokens / n:8,.0f}  {chosen}"
            )


# --- overhead ---------------------------------------------------------------------------------------------------------

PIECES = 2000
"""Of a long answer, four characters each."""
ROUNDS = 9
FLOOD = 4 * PIECES


def _prose() -> str:
    text = " ".join(str(__doc__).split())
    return (text * (FLOOD // len(text) + 1))[:FLOOD]


def _program() -> str:
    return Path(argparse.__file__).read_text()[:FLOOD]


async def note(text: str) -> str:
    """Keeps a text."""
    return f"{len(text)} characters are kept."


def floods() -> Iterator[tuple[str, str, str, list[Script]]]:
    """Long answers: what they are, who gives them, on which rung, and what the model says for it."""
    prose = Script(text=_prose())
    kept = json.dumps({"text": _program()})
    yield "simple", "simple", "native", [prose]
    yield "react, native", "react", "native", [prose]
    yield "react, native: a program", "react", "native", [Script(text=f"```python\n{_program()}\n```")]
    yield "react, native: JSON", "react", "native", [Script(text=json.dumps({"numbers": list(range(1600))}))]
    final = Script(text=json.dumps({"action": FINAL}))
    yield "react, constrained", "react", "constrained", [Script(text="I know."), final, prose]
    yield "react, written", "react", "written", [Script(text=f"Thought: I know.\nFinal Answer: {prose.text}")]
    wrote = Script(text=f"Thought: I keep it.\nAction: note\nAction Input: {kept}")
    yield "react, written: a call with a program", "react", "written", [wrote, Script(text="Final Answer: Done.")]
    yield "debate, 3 voices", "debate", "native", [Script(text=f"{prose.text}\nAnswer: 7")] * 4


def long_run(rung: str, steps: int) -> list[Script]:
    """What a model says that calls a tool in each step but the last."""
    calls = [Call("look", {"number": number}, "page") for number in range(steps - 1)]
    match rung:
        case "native":
            return [*map(native, calls), Script(text="Done.")]
        case "written":
            return [*(Script(text=written(call)) for call in calls), Script(text="Final Answer: Done.")]
    thought = Script(text="I need the page.")
    acts = [script for call in calls for script in (thought, Script(text=action(call.tool, call.arguments)))]
    return [*acts, thought, Script(text=json.dumps({"action": FINAL})), Script(text="Done.")]


async def added(agent: str, rung: str, scripts: Sequence[Script], toolbox: Toolbox, session: Session) -> float:
    """Seconds that an agent takes more than reading the same scripts does."""
    base = Context(
        Scripted(),
        ModelRequest("scripted", (Message("user", "How many legs have 2 cats?"),)),
        session=session,
        toolbox=toolbox,
        options=Options(max_iterations=STEPS, debate=DebateOptions(max_rounds=0)),
    )
    able = Scripted(calls_tools=rung == "native", keeps_to_schema=rung != "written")
    await base.prober.of(able, "scripted")  # tried once in a server's life
    differences = []
    for _ in range(ROUNDS):
        gc.collect()
        context = Context(
            Scripted(scripts),
            base.request,
            session=session,
            toolbox=toolbox,
            options=base.options,
            prober=base.prober,
        )
        began = time.process_time()
        events: list[AnyEvent] = [event async for event in AGENTS[agent](context)]
        between = time.process_time()
        backend = Scripted(scripts)
        for _ in scripts:
            _read = [delta async for delta in backend.chat(base.request)]
        ended = time.process_time()
        assert isinstance(events[-1], Answer)
        assert len(context.backend.asked) == len(scripts)  # type: ignore[attr-defined]
        differences.append((between - began) - (ended - between))
    return statistics.median(differences)


async def overhead(session: Session) -> AsyncIterator[str]:
    """Tells of the time that agents take themselves; gives what takes too long."""
    print(f"\nOverhead: CPU time above that of the script, medians of {ROUNDS}\n")
    print(f"{'an answer of ' + str(PIECES) + ' pieces':44} {'µs an event':>12}  of {EVENT:g} µs")
    for name, agent, rung, scripts in floods():
        pieces = sum(math.ceil(len(script.text) / 4) for script in scripts)
        micros = 1e6 * await added(agent, rung, scripts, Toolbox([tool(note)]), session) / pieces
        print(f"{name:44} {micros:12.2f}  {micros / EVENT:.0%}")
        if micros > EVENT:
            yield f"{name}: {micros:.1f} µs an event, more than {EVENT:g}"
    print(f"\n{'a run of ' + str(STEPS) + ' steps':44} {'ms a step':>12}  of {STEP:g} ms")
    for what, filling in (("", ""), (", results of 6,000 characters", _prose()[:6000])):

        async def look(number: int, filling: str = filling) -> str:
            """Shows a page."""
            return f"Page {number}. {filling}"

        for rung in FAULTS:
            millis = 1e3 * await added("react", rung, long_run(rung, STEPS), Toolbox([tool(look)]), session) / STEPS
            print(f"{f'react, {rung}{what}':44} {millis:12.3f}  {millis / STEP:.0%}")
            if millis > STEP:
                yield f"react, {rung}{what}: {millis:.2f} ms a step, more than {STEP:g}"


async def measure(tasks: int, seed: int, folder: Path) -> list[str]:
    """Prints all tables; returns what is not as it must be."""
    session = Session(folder)
    bench = Bench(session, tasks, seed)
    wrong = [line async for line in faults(bench)]
    await harder(bench)
    await kinds(bench)
    await costs(bench)
    return wrong + [line async for line in overhead(session)]


def main() -> None:
    """Reads the command line, measures, tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500, help="for each row of the first tables")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(measure(options.tasks, options.seed, Path(folder)))
    print(f"\n{time.perf_counter() - began:.1f} s", *wrong, sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
