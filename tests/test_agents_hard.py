"""Agents in trouble: cut off at every event, broken budgets, broken models, odd conversations."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator, ValidationError

from agents import AGENTS, Context
from agents.budget import Budget, Exhausted, Limits
from agents.context import Clock
from agents.events import (
    LIVE,
    Answer,
    AnyEvent,
    Asked,
    Log,
    Spoke,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
    encode,
)
from agents.journal import Journal
from agents.options import Options
from gateway.runs import Origin
from models.backend import BackendFailed, ContextTooLong, JsonOutput, ModelInfo, ModelRequest, ToolSpec
from models.messages import Image, Message, Text, ToolCall, Usage
from models.probe import Prober
from models.scripted import Script, Scripted
from tests.live import Live, Serve, until
from tests.test_debate import opened, voice_of
from tests.test_plan import planner
from tests.test_run_control import reach
from tests.test_runs import user
from tests.wire import CHAT, frames, refusal
from tools import Session, Toolbox, ToolError, tool

pytestmark = pytest.mark.anyio

INFO = ModelInfo("scripted", "scripted", capabilities=frozenset({"chat", "tools", "vision"}))
ASK = ToolSpec("ask_user", "Asks.", {"type": "object", "properties": {"what": {"type": "string"}}})

Behave = Callable[[ModelRequest], Script]


class Place:
    """Where agents work: a folder, and a tool that counts its calls and fails for some."""

    def __init__(self, folder: Path) -> None:
        self.session = Session(folder)
        self.calls: list[str] = []
        self.toolbox = Toolbox([tool(self.look)])

    async def look(self, at: str) -> str:
        """Looks at something."""
        self.calls.append(at)
        if at == "nothing":
            raise ToolError("There is nothing.")
        return f"It is {at}."

    def context(self, backend: Scripted, *said: str | Message, past: Sequence[AnyEvent] = (), **fields: Any) -> Context:
        """A question to a model."""
        messages = tuple(Message("user", each) if isinstance(each, str) else each for each in said)
        tools = fields.pop("tools", ())
        request = ModelRequest("scripted", messages, tools=tools, **fields.pop("request", {}))
        given: dict[str, Any] = {"session": self.session, "toolbox": self.toolbox, "info": INFO} | fields
        return Context(backend, request, journal=Journal(past), **given)


async def events_of(mode: str, context: Context, most: int | None = None) -> list[AnyEvent]:
    """The durable events of an agent, the first `most` of them."""
    found: list[AnyEvent] = []
    async with aclosing(cast(AsyncGenerator[AnyEvent, None], AGENTS[mode](context))) as events:
        async for event in events:
            if not isinstance(event, LIVE):
                found.append(event)
                if len(found) == most:
                    break
    return found


def looking(request: ModelRequest) -> Script:
    """Looks at two things, then at nothing, then answers. What it does follows from what it is asked."""
    done = sum(message.role == "tool" for message in request.messages)
    match done:
        case 0:
            calls = (ToolCall("x", "look", '{"at": "red"}'), ToolCall("y", "look", '{"at": "blue"}'))
            return Script(text="I look.", calls=calls)
        case 2:
            return Script(calls=(ToolCall("x", "look", '{"at": "nothing"}'),))
    return Script(text="Red and blue.")


def acting(request: ModelRequest) -> Script:
    """The same on the lower rungs."""
    text = "\n".join(message.text for message in request.messages[1:])
    if "Now write the answer" in request.messages[-1].text:
        return Script(text="Red and blue.")
    done = text.count("Observation:")
    at = ("red", "blue", "nothing")[done] if done < 3 else None
    if request.output is not None:
        return Script(
            text=json.dumps({"action": "look", "arguments": {"at": at}} if at else {"action": "final_answer"})
        )
    if "Action Input" not in request.messages[0].text:
        return Script(text="I think.")
    if at is None:
        return Script(text="Thought: I know\nFinal Answer: Red and blue.")
    return Script(text=f'Thought: look\nAction: look\nAction Input: {{"at": "{at}"}}')


def failing_down(request: ModelRequest) -> Script:
    """Says nothing on the highest rung, so that the next one is taken."""
    return Script(text="") if request.tools else acting(request)


def working(request: ModelRequest) -> Script:
    """A step of a plan: looks once."""
    if any(message.role == "tool" for message in request.messages):
        return Script(text="seen")
    goal = request.messages[-1].text.split("Your step:\n")[-1]
    if goal == "break":
        return Script(error=BackendFailed("It broke."))
    return Script(calls=(ToolCall("x", "look", json.dumps({"at": goal})),))


def voices(*answers: str) -> Behave:
    """Voices that give these answers in every round."""

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "Who should speak next" in last:
            said = sum(" said:" in message.text for message in request.messages)
            return Script(text=json.dumps({"next": "CAB"[said % 3] if said < 6 else "nobody"}))
        if "You moderate" in last:
            said = sum(" said:" in message.text for message in request.messages)
            return Script(text=json.dumps({"satisfied": said > 5, "in_loop": False, "progress": True, "next": "B"}))
        letter = voice_of(request)
        if not letter:
            return Script(text="So it is.")
        answer = answers["ABC".index(letter)]
        return Script(error=BackendFailed("It broke.")) if not answer else Script(text=f"Answer: {answer}")

    return behave


SPLIT = "How many legs do 3 cats and 2 birds have together?"
VIEWS = "Should our town build a tram? Discuss the trade-offs."
THREE = planner(("red", []), ("blue", []), ("break", []), ("green", [1, 2]), work=working)

CASES: dict[str, tuple[str, str, Callable[[], Behave], dict[str, Any]]] = {
    "simple": ("simple", "Hello", lambda: lambda _: Script(text="Hi."), {}),
    "simple, three": ("simple", "Hello", lambda: lambda r: Script(text=f"Hi {r.sampling.seed}."), {
        "choices": 3, "request": {"sampling": msgspec.convert({"seed": 1}, ModelRequest.__annotations__["sampling"])}}),
    "native": ("react", "Look!", lambda: looking, {}),
    "constrained": ("react", "Look!", lambda: acting, {"rung": 1}),
    "written": ("react", "Look!", lambda: acting, {"rung": 2}),
    "down the ladder": ("react", "Look!", lambda: failing_down, {"options": Options(max_iterations=12)}),
    "out of steps": ("react", "Look!", lambda: looking, {"options": Options(max_iterations=1)}),
    "out of calls": ("react", "Look!", lambda: looking, {"limits": Limits(calls=2)}),
    "out of tools": ("react", "Look!", lambda: looking, {"limits": Limits(tool_calls=1)}),
    "out of tokens": ("react", "Look!", lambda: looking, {"limits": Limits(tokens=20)}),
    "plan": ("plan", "Compare.", lambda: THREE, {}),
    "plan out of calls": ("plan", "Compare.", lambda: THREE, {"limits": Limits(calls=6)}),
    "agreed": ("debate", SPLIT, lambda: voices("16", "16", "16"), {}),
    "split": ("debate", SPLIT, lambda: voices("16", "14", "16"), {}),
    "a voice fails": ("debate", SPLIT, lambda: voices("16", "", "14"), {}),
    "debate out of calls": ("debate", SPLIT, lambda: voices("16", "14", "12"), {"limits": Limits(calls=6)}),
    "freeform": ("debate", SPLIT, lambda: voices("16", "14", "12"), {"debate": {"mode": "freeform"}}),
    "freeform out of calls": ("debate", SPLIT, lambda: voices("16", "14", "12"), {
        "debate": {"mode": "freeform"}, "limits": Limits(calls=6)}),
    "autonomous": ("debate", SPLIT, lambda: voices("16", "14", "12"), {"debate": {"mode": "autonomous"}}),
    "views": ("debate", VIEWS, lambda: opened("disagree", best=("1",) * 99), {}),
    "views out of calls": ("debate", VIEWS, lambda: opened("disagree"), {"limits": Limits(calls=6)}),
    "auto": ("auto", "Please look at the red thing with the tool look.", lambda: looking, {}),
    "auto in doubt": ("auto", "What about it?", lambda: lambda _: Script(text='{"sort": "chat"}'), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_a_run_cut_off_at_any_event_comes_to_the_same_end(tmp_path: Path, case: str) -> None:
    mode, question, behave, fields = CASES[case]
    fields = dict(fields)
    rung, limits = fields.pop("rung", 0), fields.pop("limits", Limits())
    if debate := fields.pop("debate", None):
        fields["options"] = msgspec.convert({"debate": debate}, Options)

    async def run(past: Sequence[AnyEvent], most: int | None = None) -> tuple[list[AnyEvent], list[str], Budget]:
        place, budget = Place(tmp_path), Budget(limits)
        backend = Scripted([behave()], calls_tools=rung < 1, keeps_to_schema=rung < 2)
        context = place.context(backend, question, past=past, budget=budget, run="r", prober=prober, **fields)
        return await events_of(mode, context, most), place.calls, budget

    prober = Prober()
    whole, calls, spent = await run(())
    assert isinstance(whole[-1], Answer) and whole[-1].text
    for k in range(1, len(whole)):
        # Another server has the run: it knows nothing of models. Or the same, which has seen this one fail.
        prober = Prober() if k % 2 else prober
        before, made, _ = await run((), k)
        if unfinished(before):
            continue  # a run is not paused while a tool is at work
        after, made_again, spent_again = await run(before)
        assert kept(before, after) == told(whole), f"cut off after {k}: {whole[k - 1]}"
        assert after[-1] == whole[-1]
        if limits == Limits():
            assert sorted([*made, *made_again]) == sorted(calls) or "step" in before[-1].by
        assert (spent_again.calls, spent_again.tool_calls, spent_again.tokens) == (
            spent.calls, spent.tool_calls, spent.tokens,
        )  # fmt: skip


def unfinished(events: Sequence[AnyEvent]) -> bool:
    """Whether a tool is at work."""
    return sum(isinstance(event, ToolStarted) - isinstance(event, ToolFinished) for event in events) > 0


def kept(before: Sequence[AnyEvent], after: Sequence[AnyEvent]) -> Counter[bytes]:
    """All events that a run has that was cut off, and then taken up, but for ids of calls."""
    known = Journal(before)
    return told([*before, *(event for event in after if not known.knows(event))])


def told(events: Sequence[AnyEvent]) -> Counter[bytes]:
    """Events, but for ids of calls, which are never twice the same."""
    return Counter(re.sub(rb"call_[\w-]{24}", b"call", encode(event)) for event in events)


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_budget_is_never_more_than_the_whole() -> None:
    now = [0.0]
    whole = Budget(Limits(tokens=1000, seconds=100), clock=lambda: now[0])
    part = whole.part(Limits(seconds=1000))
    assert (part.left("tokens"), part.left("seconds"), part.left("calls")) == (744, 85, float("inf"))
    part.release()
    part.spend(744)
    with pytest.raises(Exhausted, match="tokens"):
        part.check()
    assert part.runs_out()
    whole.release()
    part.check()
    # Taken up again after 90 seconds of work, it has those behind it.
    now[0] = 90.0
    assert Budget(Limits(seconds=100), clock=lambda: now[0], began=0.0).left("seconds") == -5


async def test_time_runs_out_also_for_a_model_that_says_nothing(tmp_path: Path) -> None:
    place, backend = Place(tmp_path), Scripted([Script(text="never", delay=60)])
    context = place.context(backend, "Look!", budget=Budget(Limits(seconds=0.3)))
    async with asyncio.timeout(5):
        events = await events_of("react", context)
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.reason) == ("I could not finish: time is up. Nothing was found.", "seconds")
    assert backend.running == 0


async def test_time_runs_out_also_for_a_tool(tmp_path: Path) -> None:
    async def wait() -> None:
        """Waits."""
        await asyncio.Event().wait()

    def behave(request: ModelRequest) -> Script:
        return Script(calls=(ToolCall("x", "wait"),)) if request.tools else Script(text="I had to stop.")

    context = Place(tmp_path).context(
        Scripted([behave]), "Wait!", toolbox=Toolbox([tool(wait)]), budget=Budget(Limits(seconds=0.4))
    )
    async with asyncio.timeout(5):
        events = await events_of("react", context)
    (finished,) = [event for event in events if isinstance(event, ToolFinished)]
    assert (finished.failed, finished.result) == (True, "Error: there was no time left for this. It was stopped.")
    assert isinstance(events[-1], Answer)
    assert (events[-1].text, events[-1].reason) == ("I had to stop.", "seconds")


async def test_voices_are_bound_by_the_debates_tokens(tmp_path: Path) -> None:
    backend = Scripted([Script(text="on " * 2000, pieces=3, usage=Usage(0, 0))])
    budget = Budget(Limits(tokens=1000))
    events = await events_of("debate", Place(tmp_path).context(backend, SPLIT, budget=budget))
    assert isinstance(events[-1], Answer) and events[-1].text
    assert 700 < budget.tokens <= 1010  # each of those that speak side by side may be one piece ahead


async def test_what_was_said_before_the_budget_ended_counts(tmp_path: Path) -> None:
    backend = Scripted([voices("16", "14", "12")])
    events = await events_of("debate", Place(tmp_path).context(backend, SPLIT, budget=Budget(Limits(calls=3))))
    assert "Answer: 16" in backend.asked[-1].messages[-2].text
    assert isinstance(events[-1], Answer) and (events[-1].text, events[-1].reason) == ("So it is.", "calls")


async def test_a_model_whose_room_is_full_is_told_less(tmp_path: Path) -> None:
    async def read(n: int) -> str:
        """Reads much."""
        return f"{n}:" + "x" * 3000

    def behave(request: ModelRequest) -> Script:
        if sum(len(message.text) for message in request.messages) > 5000:
            return Script(error=ContextTooLong(1000))
        n = sum(message.role == "tool" for message in request.messages)
        return Script(calls=(ToolCall("x", "read", json.dumps({"n": n})),)) if n < 4 else Script(text="All is read.")

    context = Place(tmp_path).context(Scripted([behave]), "Read!", toolbox=Toolbox([tool(read)]))
    events = await events_of("react", context)
    assert isinstance(events[-1], Answer) and (events[-1].text, events[-1].reason) == ("All is read.", "")
    assert any(isinstance(event, Log) and "was cut" in event.text for event in events)


# --- what is answer, and what is not ----------------------------------------------------------------------------------


def content(events: Sequence[AnyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and not event.aside)


async def all_events(mode: str, context: Context) -> list[AnyEvent]:
    return [event async for event in AGENTS[mode](context)]


@pytest.mark.parametrize("case", [name for name in CASES if name != "simple, three"])
@pytest.mark.parametrize("tags", [False, True])
async def test_the_answer_is_all_that_the_user_hears(tmp_path: Path, case: str, tags: bool) -> None:
    mode, question, make, fields = CASES[case]
    fields = dict(fields)
    rung, limits, behave = fields.pop("rung", 0), fields.pop("limits", Limits()), make()
    if debate := fields.pop("debate", None):
        fields["options"] = msgspec.convert({"debate": debate}, Options)

    def thinking(request: ModelRequest) -> Script:
        script = behave(request)
        return msgspec.structs.replace(script, text=f"<think>hm, hm</think>\n{script.text}") if tags else script

    backend = Scripted([thinking], calls_tools=rung < 1, keeps_to_schema=rung < 2)
    context = Place(tmp_path).context(backend, question, budget=Budget(limits), **fields)
    events = await all_events(mode, context)
    answer = events[-1]
    assert isinstance(answer, Answer) and answer.text and "think>" not in answer.text
    assert content(events) == answer.text
    assert not [event for event in events if isinstance(event, TextDelta | ThoughtDelta) and "think>" in event.text]
    first = next(i for i, event in enumerate(events) if isinstance(event, TextDelta) and not event.aside)
    assert not [event for event in events[first:] if isinstance(event, TextDelta | ThoughtDelta) and event.aside]
    spoken = [event for event in events if isinstance(event, Spoke)]
    assert sum(event.usage.prompt_tokens for event in spoken) == 5 * len(
        [event for event in spoken if event.usage.prompt_tokens]
    )


@pytest.mark.parametrize("rung", [0, 1, 2])
async def test_an_answer_that_breaks_off_is_not_begun_again(tmp_path: Path, rung: int) -> None:
    long = "It is red. " * 40

    def behave(request: ModelRequest) -> Script:
        script = (looking if rung == 0 else acting)(request)
        if "Red and blue." not in script.text:
            return script
        return Script(text=script.text.replace("Red and blue.", long), error=BackendFailed("It broke."))

    backend = Scripted([behave], calls_tools=rung < 1, keeps_to_schema=rung < 2)
    events = await all_events("react", Place(tmp_path).context(backend, "Look!"))
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (content(events).strip(), answer.text.strip(), answer.finish) == (long.strip(), long.strip(), "length")
    assert any(isinstance(event, Log) and event.text == "the answer broke off: It broke." for event in events)


async def test_a_form_that_is_not_kept_is_never_taken_for_whole(tmp_path: Path) -> None:
    form = JsonOutput({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    backend = Scripted([Script(text="no JSON")])
    events = await all_events("react", Place(tmp_path).context(backend, "Count.", request={"output": form}))
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (answer.finish, content(events)) == ("length", answer.text)
    assert backend.asked[-1].messages[-2:] == (
        Message("assistant", "no JSON"), Message("user", "Now write this answer in the form that was asked for."),
    )  # fmt: skip


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_a_tool_is_required_once(tmp_path: Path) -> None:
    def behave(request: ModelRequest) -> Script:
        return (
            looking(request) if request.tool_choice == "auto" else Script(calls=(ToolCall("x", "look", '{"at": "a"}'),))
        )

    backend = Scripted([behave])
    events = await events_of("react", Place(tmp_path).context(backend, "Look!", request={"tool_choice": "required"}))
    assert [request.tool_choice for request in backend.asked][:2] == ["required", "auto"]
    assert isinstance(events[-1], Answer)
    backend = Scripted([Script(calls=(ToolCall("x", "look", '{"at": "a"}'),))])
    context = Place(tmp_path).context(
        backend, "Look!", request={"tool_choice": "required"}, options=Options(max_iterations=1)
    )
    await events_of("react", context)
    assert (backend.asked[-1].tools, backend.asked[-1].tool_choice) == ((), "auto")


async def test_tools_of_servers_have_names_that_models_may_use(tmp_path: Path) -> None:
    async def read(path: str) -> str:
        """Reads."""
        return f"read {path}"

    async def write(path: str) -> str:
        """Writes."""
        return f"wrote {path}"

    box = Toolbox([tool(read, name="files.read"), tool(write, name="files.write")])
    assert [spec.name for spec in box.specs()] == ["files__read", "files__write"]
    for patterns in (["files.*"], ["files__*"]):
        assert len(box.only(patterns).specs()) == 2
    for name in ("files.read", "files__read"):
        assert (await box.only(["files.read"]).run(name, {"path": "a"}, Session(tmp_path))).text == "read a"
        call = ToolCall("x", name, '{"path": "b"}')
        backend = Scripted([Script(calls=(call,)), Script(text="Done.")])
        events = await events_of("react", Place(tmp_path).context(backend, "Read!", toolbox=box))
        assert [event.result for event in events if isinstance(event, ToolFinished)] == ["read b"]
        (made,) = backend.asked[1].messages[-2].tool_calls
        assert made.name == "files__read"  # an upstream would refuse a name with a dot
    assert (await box.only(["files.read"]).run("files__write", {}, Session(tmp_path))).error is not None


async def test_schemas_that_refer_to_their_parts_still_find_them(tmp_path: Path) -> None:
    part = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    schema = {"type": "object", "properties": {"p": {"$ref": "#/$defs/Part"}}, "$defs": {"Part": part}}
    specs = (ToolSpec("draw", "", schema), ToolSpec("odd", "", {"properties": None, "required": 7}))
    backend = Scripted([acting], calls_tools=False)
    await events_of("react", Place(tmp_path).context(backend, "Draw!", tools=specs))
    (form, *_) = [request.output for request in backend.asked if request.output is not None]
    assert form.schema is not None
    alternatives = form.schema["anyOf"]
    validator = Draft202012Validator(form.schema | {"anyOf": [alternatives[0], *alternatives[2:]]})
    validator.validate({"action": "draw", "arguments": {"p": {"x": 1}}})
    with pytest.raises(ValidationError):
        validator.validate({"action": "draw", "arguments": {"p": {"x": "one"}}})


# --- conversations ----------------------------------------------------------------------------------------------------

PICTURE = Image("aGk=", "image/png")
CALLED = Message("assistant", "", tool_calls=(ToolCall("call_1", "look", "{}"),))
ODD: dict[str, tuple[Message, ...]] = {
    "nothing said": (Message("user", ""),),
    "instructions only": (Message("system", "Be brief."),),
    "ends with an answer": (Message("user", "Hello"), Message("assistant", "Hi.")),
    "tools in the past": (Message("user", "Look!"), CALLED, Message("tool", "red", tool_call_id="call_1", name="look")),
    "a picture for the blind": (Message("user", (Text("What is this?"), PICTURE)),),
    "braces": (Message("user", "{question} {0} {"),),
}


@pytest.mark.parametrize("mode", sorted(AGENTS))
@pytest.mark.parametrize("odd", ODD)
async def test_odd_conversations_end_in_an_answer(tmp_path: Path, mode: str, odd: str) -> None:
    backend = Scripted([Script(text="So it is.")])
    blind = msgspec.structs.replace(INFO, capabilities=frozenset({"chat", "tools"}))
    for toolbox in (Toolbox(()), Place(tmp_path).toolbox):
        events = await all_events(mode, Place(tmp_path).context(backend, *ODD[odd], info=blind, toolbox=toolbox))
        assert isinstance(events[-1], Answer) and content(events) == events[-1].text != ""
    assert not [request for request in backend.asked if any(message.images for message in request.messages)]


async def test_voices_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    debate = {"voices": [{"name": "judge"}, {"name": "judge"}, {"name": "moderator"}], "mode": "autonomous"}
    options = msgspec.convert({"debate": debate}, Options)
    backend = Scripted([voices("16", "14", "12")])
    whole = await events_of("debate", Place(tmp_path).context(backend, SPLIT, options=options, run="r"))
    assert {event.by for event in whole if isinstance(event, Spoke)} == {"judge", "judge (2)", "moderator", ""}
    again = Place(tmp_path).context(Scripted([voices("1", "2", "3")]), SPLIT, options=options, past=whole)
    assert told(await events_of("debate", again)) == told(whole)


@pytest.mark.parametrize("mode", ["react", "plan", "debate", "auto"])
async def test_who_stops_listening_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    slow = Script(text="on and on", delay=0.01, pieces=1)
    before = asyncio.all_tasks()
    for k in range(1, 4):
        backend = Scripted([THREE if mode == "plan" else slow])
        agent = cast(AsyncGenerator[AnyEvent, None], AGENTS[mode](Place(tmp_path).context(backend, SPLIT)))
        async with aclosing(agent) as events:
            for _ in range(k):
                await anext(events)
        assert (backend.running, asyncio.all_tasks()) == (0, before)


# --- over HTTP --------------------------------------------------------------------------------------------------------

ASKING: dict[str, Any] = {"model": "react/scripted", "messages": [{"role": "user", "content": "Look!"}]}
CLIENTS = [{"type": "function", "function": {"name": "ask_user", "parameters": ASK.parameters}}]


def asking(request: ModelRequest) -> Script:
    """Lists the files, asks the client twice, and answers; on every rung."""
    text = "\n".join(message.text for message in request.messages[1:])
    done = text.count("Observation:") or sum(message.role == "tool" for message in request.messages)
    acts = [("list_files", "{}"), ("ask_user", '{"what": "a"}'), ("ask_user", '{"what": "a"}')]
    if "Now write the answer" in request.messages[-1].text:
        return Script(text="So it is.")
    if done == len(acts):
        if request.output is not None:
            return Script(text='{"action": "final_answer"}')
        written = "Action Input" in request.messages[0].text
        return Script(text="Final Answer: So it is." if written else "So it is.")
    name, arguments = acts[done]
    if request.tools:
        return Script(calls=(ToolCall("x", name, arguments),))
    if request.output is not None:
        return Script(text=json.dumps({"action": name, "arguments": json.loads(arguments)}))
    return Script(text=f"Thought: so\nAction: {name}\nAction Input: {arguments}")


@pytest.mark.parametrize("rung", [0, 1, 2])
async def test_the_clients_tools_are_asked_for_again_and_again(serve: Serve, rung: int) -> None:
    scripted = Scripted([asking], calls_tools=rung < 1, keeps_to_schema=rung < 2)
    live = await serve([scripted])
    client = await live.http()
    messages = list(ASKING["messages"])
    asked: list[str] = []
    for _ in range(3):
        body = ASKING | {"messages": messages, "tools": CLIENTS}
        response = await client.post(CHAT, json=body)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        if choice["finish_reason"] != "tool_calls":
            break
        (call,) = choice["message"]["tool_calls"]
        asked.append(call["id"])
        messages += [choice["message"], {"role": "tool", "content": "yes", "tool_call_id": call["id"]}]
        if len(asked) == 1:
            # A stranger who has heard of the id gets nothing of this run: his is a new one.
            stranger, count = await user(live, client, "eve"), len(scripted.asked)
            await stranger.post(CHAT, json=body | {"messages": messages})
            assert [message.role for message in scripted.asked[count].messages[:4]] == [
                "system", "user", "assistant", "tool",
            ]  # fmt: skip
            assert NO_FILES not in "".join(message.text for message in scripted.asked[count].messages)
    assert choice["message"]["content"] == "So it is."
    assert len(set(asked)) == 2
    assert response.json()["x_agent"]["iterations"] == 4


NO_FILES = "There are no files in this conversation."


async def test_a_pause_in_the_last_words_is_remembered_once(client: httpx.AsyncClient, scripted: Scripted) -> None:
    words = "It is done. " * 30  # so many that they are told as they come
    scripted.script = [Script(text=words, pieces=60, delay=0.02)]
    run = (await client.post("/v1/runs", json=ASKING | {"session_id": "s"})).json()
    await scripted.started.wait()
    await client.post(f"/v1/runs/{run['id']}/pause")
    await reach(client, run["id"], "paused")
    await client.post(f"/v1/runs/{run['id']}/resume")
    await reach(client, run["id"], "completed")
    said = (await client.get("/api/sessions/s")).json()["conversation"]
    assert [each["content"] for each in said] == ["Look!", words]
    assert len(scripted.asked) == 1


async def test_a_pause_lets_tools_come_to_their_end(live: Live, client: httpx.AsyncClient, scripted: Scripted) -> None:
    async def wait() -> str:
        """Has the run paused, and comes to its end after another step has spoken."""
        await client.post(f"/v1/runs/{run.id}/pause")
        await until(lambda: any(isinstance(event, Spoke) and event.by == "step 2" for event in run.events))
        return "here"

    def work(request: ModelRequest) -> Script:
        if "Your step:\ntwo" in request.messages[-1].text:
            return Script(text="It is done.", delay=0.1)
        return Script(text="seen") if request.messages[-1].role == "tool" else Script(calls=(ToolCall("x", "wait"),))

    context = Place(live.settings.data_directory).context(scripted, "Go!", toolbox=Toolbox([tool(wait)]))
    scripted.script = [planner(("one", []), ("two", []), work=work, answer="Done.")]
    (who,) = (await client.get("/api/users")).json()["data"]

    def begin(past: Sequence[AnyEvent], clock: Clock) -> AsyncIterator[AnyEvent]:
        return AGENTS["plan"](msgspec.structs.replace(context, journal=Journal(past)))

    origin = Origin(who["id"], None, "plan", "scripted", "scripted")
    run = live.server.parts.runs.start(origin, Asked(model="m", messages=()), begin, lambda _: None)
    await reach(client, run.id, "paused")
    await client.post(f"/v1/runs/{run.id}/resume")
    await run.over()
    assert [event.result for event in run.events if isinstance(event, ToolFinished)] == ["here"]
    assert isinstance(run.events[-1], Answer) and run.events[-1].text == "Done."


class Buggy(Scripted):
    """A backend that breaks the rules."""

    async def chat(self, request: ModelRequest) -> Any:
        async for delta in super().chat(request):
            yield delta
            if delta.text:
                raise KeyError("a bug with a secret in it")


@pytest.mark.parametrize("mode", sorted(AGENTS))
async def test_a_bug_is_an_error_with_the_runs_id_and_nothing_hangs(serve: Serve, mode: str) -> None:
    client = await (await serve([Buggy([Script(text="long " * 100)])])).http()
    body = ASKING | {"model": f"{mode}/scripted"}
    response = await client.post(CHAT, json=body)
    assert refusal(response, 500)["code"] == "internal_error"
    assert response.headers["x-run-id"].startswith("run_") and "secret" not in response.text
    streamed = await client.post(CHAT, json=body | {"stream": True})
    assert "internal_error" in streamed.text and "secret" not in streamed.text


@pytest.mark.parametrize("mode", sorted(AGENTS))
async def test_streams_of_all_agents_obey_the_rules(client: httpx.AsyncClient, scripted: Scripted, mode: str) -> None:
    behave = {"plan": THREE, "debate": voices("16", "14", "12")}.get(mode, lambda _: Script(text="Red.", thought="Hm."))
    scripted.script = [behave]
    body = {"model": f"{mode}/scripted", "messages": [{"role": "user", "content": SPLIT}]}
    whole = (await client.post(CHAT, json=body)).json()["choices"][0]
    for how in ("reasoning", "content", "think", "events", "owui"):
        fields = {"stream": True, "stream_options": {"include_usage": True}, "x_agent": {"stream": how}}
        *chunks, last, done = frames((await client.post(CHAT, json=body | fields)).text)
        assert done == "[DONE]" and last["choices"] == [] and last["usage"]["total_tokens"] > 0
        assert all(len(chunk["choices"]) == 1 and chunk["usage"] is None for chunk in chunks)
        assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert [i for i, delta in enumerate(deltas) if "role" in delta] == [0]
        finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert [finish for finish in finishes if finish] == ["stop"]
        text = "".join(delta.get("content", "") for delta in deltas)
        if how == "think":
            before, mark, text = text.partition("</think>\n\n")
            assert before.startswith("<think>") and mark and "think>" not in text
        assert text == whole["message"]["content"]
        kinds = [key for delta in deltas for key in ("content", "reasoning_content") if delta.get(key)]
        assert kinds == sorted(kinds, reverse=True)
        assert ("reasoning_content" in kinds) == (how in ("reasoning", "events", "owui"))


async def test_a_stream_goes_on_without_its_client(live: Live, client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [Script(text="It is done.", delay=0.05)]
    leaving = await live.http()
    body = ASKING | {"stream": True, "x_agent": {"on_disconnect": "continue"}}
    async with leaving.stream("POST", CHAT, json=body) as response:
        run_id = response.headers["x-run-id"]
    await leaving.aclose()
    await reach(client, run_id, "completed")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"x_agent": {"budget": {"calls": 0}}}, "x_agent.budget.calls"),
        ({"x_agent": {"budget": {"tool_calls": -1}}}, "x_agent.budget.tool_calls"),
        ({"x_agent": {"budget": {"seconds": 0}}}, "x_agent.budget.seconds"),
        ({"model": "debate/scripted", "tools": CLIENTS}, "tools"),
    ],
)
async def test_what_cannot_be_done_is_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    assert refusal(await client.post(CHAT, json=ASKING | fields), 400)["param"] == param


@pytest.mark.parametrize("rung", [0, 1])
async def test_a_replay_shows_no_more_than_was_shown(serve: Serve, rung: int) -> None:
    client = await (await serve([Scripted([asking], calls_tools=rung < 1)])).http()
    streamed = await client.post(CHAT, json=ASKING | {"tools": CLIENTS, "stream": True})
    replayed = await client.get(f"/v1/runs/{streamed.headers['x-run-id']}/replay")
    texts = []
    for response in (streamed, replayed):
        deltas = [chunk["choices"][0]["delta"] for chunk in frames(response.text)[:-1] if chunk["choices"]]
        calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
        texts.append(("".join(delta.get("reasoning_content", "") for delta in deltas), calls))
    assert texts[0] == texts[1]
    assert "list_files" in texts[0][0] and len(texts[0][1]) == 2
