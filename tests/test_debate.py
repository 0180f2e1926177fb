"""debate over HTTP: drafts, a measured consensus, critique, a vote or a judge, and one answer."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import httpx
import pytest

from models.backend import BackendFailed, Capability, ModelInfo, ModelRequest
from models.scripted import Script, Scripted
from tests.live import Serve
from tests.wire import CHAT, refusal

pytestmark = pytest.mark.anyio

SUM: dict[str, Any] = {
    "model": "debate/scripted",
    "messages": [{"role": "user", "content": "How many legs do 3 cats and 2 birds have together?"}],
}
OPEN: dict[str, Any] = {
    "model": "debate/scripted",
    "messages": [{"role": "user", "content": "Should our town build a tram? Discuss the trade-offs."}],
}


def voice_of(request: ModelRequest) -> str:
    """The letter of the voice that is asked."""
    text = request.messages[-1].text
    return text.partition("You are voice ")[2][:1]


def closed(rounds: Sequence[Sequence[str | None]], answer: str = "16 legs.") -> Callable[[ModelRequest], Script]:
    """Voices that give these answers, round by round; None: the voice fails."""
    turns = {letter: [row[i] for row in rounds] for i, letter in enumerate("ABCDEF"[: len(rounds[0])])}

    def behave(request: ModelRequest) -> Script:
        letter = voice_of(request)
        if not letter:
            return Script(text=answer)
        said = turns[letter].pop(0) if len(turns[letter]) > 1 else turns[letter][0]
        return Script(error=BackendFailed("It broke.")) if said is None else Script(text=f"I count.\nAnswer: {said}")

    return behave


async def ask(client: httpx.AsyncClient, body: dict[str, Any], **debate: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json=body | ({"x_agent": {"debate": debate}} if debate else {}))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_who_agrees_at_once_does_not_debate(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", "16 legs", "sixteen"]])]
    body = await ask(client, SUM)
    assert body["choices"][0]["message"]["content"] == "16 legs."
    (consensus,) = body["x_agent"]["consensus"]
    assert (consensus["round"], consensus["agreement"], consensus["detail"]["met"]) == (0, 1.0, True)
    assert len(scripted.asked) == 4
    assert (body["x_agent"]["mode"], body["x_agent"]["stop_reason"]) == ("debate", "stop")


async def test_nobody_hears_the_others_before_the_first_answer(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", "16", "16"]])]
    await ask(client, SUM)
    drafts = scripted.asked[:3]
    assert len({request.messages[:-1] for request in drafts}) == 1  # the same for all but the last message
    assert len({request.messages[-1] for request in drafts}) == 3
    assert len({request.sampling.temperature for request in drafts}) == 3


async def test_who_differs_is_heard_and_may_change(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", "14", "16"], ["16", "16", "16"]])]
    body = await ask(client, SUM)
    first, second = body["x_agent"]["consensus"]
    assert (round(first["agreement"], 3), first["detail"]["dissent"]) == (0.667, ["sceptic"])
    assert (second["agreement"], second["detail"]["changed"]) == (
        1.0,
        [{"voice": "sceptic", "before": "14", "after": "16"}],
    )
    critique = scripted.asked[3]
    assert "A said:\nI count.\n| Answer: 16" in "\n".join(message.text for message in critique.messages)
    # The names of models and personas are not told to the others.
    assert all("analyst" not in message.text for message in critique.messages)


async def test_prompts_keep_what_was_said_in_front(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["1", "2", "3"], ["1", "2", "4"], ["1", "2", "5"]])]
    await ask(client, SUM)
    rounds = [scripted.asked[i : i + 3] for i in (0, 3, 6)]
    for before, after in pairwise(rounds):
        shared = before[0].messages[:-1]
        assert all(request.messages[: len(shared)] == shared for request in after)


async def test_a_split_is_voted_on_and_not_hidden(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", "14", "12"], ["16", "14", "16"], ["16", "14", "16"]])]
    body = await ask(client, SUM)
    assert [round(each["agreement"], 2) for each in body["x_agent"]["consensus"]] == [0.33, 0.67, 0.67]
    told = scripted.asked[-1].messages[-1].text
    assert "There is no consensus: say so." in told
    assert "The vote is decided: 16" in told


async def test_a_voice_that_fails_stays_in_the_count(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", None, "16"]])]
    body = await ask(client, SUM, max_rounds=0)
    (consensus,) = body["x_agent"]["consensus"]
    assert (round(consensus["agreement"], 3), consensus["detail"]["silent"]) == (0.667, ["sceptic"])
    assert "1 of 3 voices gave no answer: say so." in scripted.asked[-1].messages[-1].text


async def test_a_voice_that_fails_twice_is_not_asked_again(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", None, "14"], ["16", None, "15"], ["16", None, "13"]])]
    await ask(client, SUM, max_rounds=2)
    assert [voice_of(request) for request in scripted.asked].count("B") == 2


async def test_when_all_voices_fail_that_is_an_error(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([[None, None, None]])]
    assert refusal(await client.post(CHAT, json=SUM), 502)["message"] == "It broke."


async def test_models_debate_by_the_models_name(serve: Serve) -> None:
    able: frozenset[Capability] = frozenset({"chat", "tools"})
    scripted = Scripted(models=[ModelInfo(name, "scripted", capabilities=able) for name in ("a", "b:7b", "c")])
    client = await (await serve([scripted])).http()
    scripted.script = [closed([["16", "16"]])]
    body = await ask(client, SUM | {"model": "debate/a+b:7b"})
    assert {request.model for request in scripted.asked[:2]} == {"a", "b:7b"}
    assert scripted.asked[-1].model == "a"
    assert body["model"] == "debate/a+b:7b"
    missing = await client.post(CHAT, json=SUM | {"model": "debate/a+nothing"})
    assert refusal(missing, 404)["code"] == "model_not_found"


async def test_voices_have_names_personas_and_seeds(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["16", "16"]])]
    voices = [
        {"name": "Ada", "persona": "You love numbers."},
        {"name": "Bob", "persona": "sceptic", "temperature": 0.1},
    ]
    response = await client.post(CHAT, json=SUM | {"seed": 5, "x_agent": {"debate": {"voices": voices}}})
    assert response.status_code == 200, response.text
    ada, bob = sorted(scripted.asked[:2], key=lambda request: request.sampling.seed or 0)
    assert (ada.sampling.seed, bob.sampling.seed, bob.sampling.temperature) == (5, 6, 0.1)
    assert "You love numbers." in ada.messages[-1].text
    assert "You look for what is wrong" in bob.messages[-1].text
    assert {call.get("by") for call in response.json()["x_agent"]["calls"]} == {"Ada", "Bob", None}


def opened(verdicts: str, best: Sequence[str] = ("1", "2")) -> Callable[[ModelRequest], Script]:
    """Voices that write, judge each other in the same way, and a judge that picks these numbers."""
    picks = list(best)

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        letter = voice_of(request)
        if "For each of" in last:
            others = last.partition("For each of ")[2].partition(" say as JSON")[0].split(", ")
            opinions = [
                {"on": other, "opinion": verdicts, "objection": "too dear", "blocking": False} for other in others
            ]
            return Script(text=json.dumps({"verdicts": opinions}))
        if "Which one is best?" in last:
            return Script(text=json.dumps({"best": picks.pop(0)}))
        return Script(text=f"Voice {letter} thinks so.") if letter else Script(text="It depends.")

    return behave


async def test_open_questions_are_judged_by_the_voices(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [opened("agree")]
    body = await ask(client, OPEN)
    (consensus,) = body["x_agent"]["consensus"]
    assert (consensus["agreement"], consensus["detail"]["met"]) == (1.0, True)
    assert body["choices"][0]["message"]["content"] == "It depends."


async def test_without_consensus_a_judge_reads_in_two_orders(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [opened("disagree", best=("1", "3"))]  # the same answer in both orders
    body = await ask(client, OPEN, max_rounds=1)
    assert [each["agreement"] for each in body["x_agent"]["consensus"]] == [0.0, 0.0]
    ranks = [request for request in scripted.asked if "Which one is best?" in request.messages[-1].text]
    assert "1.\nVoice A" in ranks[0].messages[-1].text and "1.\nVoice C" in ranks[1].messages[-1].text
    told = scripted.asked[-1].messages[-1].text
    assert "A judge finds A best." in told and "There is no consensus: say so." in told


async def test_an_order_that_decides_decides_nothing(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [opened("partial", best=("1", "1"))]
    await ask(client, OPEN, max_rounds=0)
    assert "A judge found now one, now another best" in scripted.asked[-1].messages[-1].text


def selecting(choices: Sequence[str]) -> Callable[[ModelRequest], Script]:
    """Voices that differ, and a selector that says these names in turn."""
    names, counts = list(choices), {"A": 1, "B": 2, "C": 3}

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "Who should speak next" in last:
            return Script(text=json.dumps({"next": names.pop(0) if names else "nobody"}))
        letter = voice_of(request)
        if not letter:
            return Script(text="So it is.")
        counts[letter] += 10
        return Script(text=f"Answer: {counts[letter]}")

    return behave


async def test_freeform_lets_the_model_choose_who_speaks(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [selecting(["C", "A", "nonsense", "nobody"])]
    await ask(client, SUM, mode="freeform", max_rounds=1)
    spoke = [voice_of(request) for request in scripted.asked if voice_of(request)]
    assert sorted(spoke[:3]) == ["A", "B", "C"]
    # Nonsense is the first who may speak, and nobody twice in a row.
    assert spoke[3:] == ["C", "A", "B"]
    schema = next(request.output for request in scripted.asked if request.output is not None).schema
    assert schema is not None
    assert schema["properties"]["next"]["enum"] == ["A", "B", "C", "nobody"]


async def test_nobody_starves(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [selecting(["A", "B"] * 10)]
    await ask(client, SUM, mode="freeform", max_rounds=1, max_iterations_per_round=3)
    spoke = [voice_of(request) for request in scripted.asked if voice_of(request)][3:]
    assert "C" in spoke[:6]


async def test_autonomous_ends_when_the_moderator_is_satisfied(client: httpx.AsyncClient, scripted: Scripted) -> None:
    ledgers = [
        {"satisfied": False, "in_loop": False, "progress": True, "next": "B", "instruction": "Count the wings."},
        {"satisfied": True, "in_loop": False, "progress": True, "next": "A", "instruction": ""},
    ]
    told: list[str] = []

    def behave(request: ModelRequest) -> Script:
        last = request.messages[-1].text
        if "You moderate" in last:
            return Script(text=json.dumps(ledgers.pop(0)))
        if "It is your turn" in last:
            told.append(last)
        letter = voice_of(request)
        return Script(text=f"Answer: {ord(letter)}") if letter else Script(text="Enough.")

    scripted.script = [behave]
    body = await ask(client, SUM, mode="autonomous", max_rounds=5)
    assert body["choices"][0]["message"]["content"] == "Enough."
    assert len(told) == 1 and "You are voice B. It is your turn. Count the wings." in told[0]


async def test_a_budget_ends_a_debate_in_an_answer(client: httpx.AsyncClient, scripted: Scripted) -> None:
    scripted.script = [closed([["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"]])]
    response = await client.post(CHAT, json=SUM | {"x_agent": {"budget": {"calls": 5}}})
    body = response.json()
    assert (body["x_agent"]["stop_reason"], len(scripted.asked)) == ("calls", 5)
    assert body["choices"][0]["message"]["content"] == "16 legs."


async def test_an_argument_that_takes_too_long_is_cut(client: httpx.AsyncClient, scripted: Scripted) -> None:
    def behave(request: ModelRequest) -> Script:
        if voice_of(request) == "A":
            return Script(text="I think. " * 200, pieces=3, delay=0.02)
        return Script(text="Answer: 16") if voice_of(request) else Script(text="16 legs.")

    scripted.script = [behave]
    body = await ask(client, SUM, time_limit_per_argument=1, max_rounds=0)
    assert "I think. [cut off]" in scripted.asked[-1].messages[-1].text
    assert round(body["x_agent"]["consensus"][0]["agreement"], 3) == 0.667


@pytest.mark.parametrize(
    ("debate", "param"),
    [
        ({"mode": "wild"}, "x_agent.debate.mode"),
        ({"max_rounds": 21}, "x_agent.debate.max_rounds"),
        ({"consensus_threshold": 1.5}, "x_agent.debate.consensus_threshold"),
        ({"voices": [{}]}, "x_agent.debate.voices"),
        ({"time_limit_per_argument": 0}, "x_agent.debate.time_limit_per_argument"),
    ],
)
async def test_wrong_options_are_refused(client: httpx.AsyncClient, debate: dict[str, Any], param: str) -> None:
    response = await client.post(CHAT, json=SUM | {"x_agent": {"debate": debate}})
    assert refusal(response, 400)["param"] == param
