"""The router of `auto`: what it chooses, what cannot steer it, and how good it is on prompts it was not trained on."""

import json
import random
import time
from itertools import pairwise

import pytest

from agents.routing import MODES, Choice, Mode, Situation, decide, question, route
from agents.routing.features import REASONS
from agents.routing.own import own_words
from agents.routing.router import RULES, weights
from agents.routing.words import GROUPS, WORD, folded
from benchmarks.prompts import TOOLS, load_prompts
from benchmarks.router import measure, microseconds
from benchmarks.training import learn
from models.messages import Message
from tools.session import File

PROMPTS = load_prompts()


def ask(text: str, **more: object) -> Situation:
    return Situation(text, **{"server_tools": TOOLS, **more})  # type: ignore[arg-type]


def files(*names: str) -> tuple[File, ...]:
    return tuple(File(name, "", 1) for name in names)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("hi there!", "simple"),
        ("Write a poem about the sea", "simple"),
        ("Übersetze ins Englische: Der Zug ist heute verspätet.", "simple"),
        ("What's the weather in Oslo right now?", "react"),
        ("Combien font 3487 * 296 ?", "react"),
        ("Summarise https://example.org/page", "react"),
        ("Find three hotels in Rome, compare their prices in a table, and then recommend one.", "plan"),
        ("Busca tres hoteles, compara los precios en una tabla y luego recomiéndame uno.", "plan"),
        ("What are the pros and cons of nuclear power?", "debate"),
        ("Sollte es ein Tempolimit geben? Argumente für beide Seiten bitte.", "debate"),
    ],
)
def test_ordinary_requests(text: str, mode: Mode) -> None:
    assert route(ask(text)).mode == mode


def test_a_choice_says_how_sure_it_is_and_why() -> None:
    choice = route(ask("What's the weather in Oslo right now?"))
    assert choice.reasons[0] == "what is new or changes"
    assert choice == Choice(
        mode="react",
        p=choice.shares["react"],
        runner_up="simple",
        runner_up_p=choice.shares["simple"],
        reasons=choice.reasons,
        sure=True,
        shares=choice.shares,
    )


@pytest.mark.parametrize(
    ("situation", "mode", "rule"),
    [
        (ask("What's the weather?", server_tools=(), client_tools=("get_weather",)), "simple", "client_tools"),
        (ask("Compare the prices on this sign", images=True), "simple", "images"),
        (ask("Search for news", system="You are a translator. Translate into French."), "simple", "instructed"),
        (ask("Discuss it from several angles: tea or coffee?"), "debate", "views"),
        (ask("Check with web_search when it opens"), "react", "tool"),
        (ask("Which month had the highest revenue?", files=files("a.xlsx")), "react", "files"),
        (ask("Analysiere die Daten", files=files("a.csv")), "react", "files"),
    ],
)
def test_rules(situation: Situation, mode: Mode, rule: str) -> None:
    choice = route(situation)
    reason = next(each.reason for each in RULES if each.name == rule)
    assert (choice.mode, choice.reasons, choice.sure) == (mode, (reason,), True)
    assert choice.p >= weights().rules[rule] > 0.85


def test_client_tools_beside_the_servers_do_not_make_it_simple() -> None:
    assert route(ask("What's the weather in Oslo right now?", client_tools=("draw",))).mode == "react"


def test_a_file_and_many_pieces_of_work_are_no_single_step() -> None:
    text = (
        "Clean the data, remove outliers, fit a regression, plot the residuals, and then write a report for the board."
    )
    assert route(ask(text, files=files("a.csv"))).mode == "plan"


@pytest.mark.parametrize("ceiling", MODES)
def test_nothing_above_the_ceiling(ceiling: Mode) -> None:
    for prompt in PROMPTS:
        choice = route(prompt.situation, ceiling)
        above = MODES[MODES.index(ceiling) + 1 :]
        assert choice.mode not in above
        assert [choice.shares[mode] for mode in above] == [0] * len(above)
        assert sum(choice.shares.values()) == pytest.approx(1, abs=1e-3)


def test_a_lower_ceiling_takes_what_stands_in_for_the_mode() -> None:
    planned = "Find three hotels in Rome, compare their prices in a table, and then recommend one."
    chosen = [route(ask(planned), ceiling) for ceiling in MODES]
    assert [choice.mode for choice in chosen] == ["simple", "react", "plan", "plan"]
    assert [choice.reasons[-1] for choice in chosen[:2]] == [
        "plan is not allowed: the ceiling is simple",
        "plan is not allowed: the ceiling is react",
    ]
    debated = "What are the pros and cons of nuclear power?"
    assert [route(ask(debated), ceiling).mode for ceiling in MODES] == ["simple", "simple", "simple", "debate"]


def test_without_tools_only_simple_and_debate_are_left() -> None:
    choices = [route(Situation(prompt.text)) for prompt in PROMPTS]
    assert {choice.mode for choice in choices} == {"simple", "debate"}
    assert {(choice.shares["react"], choice.shares["plan"]) for choice in choices} == {(0, 0)}
    choice = route(Situation("What's the weather in Oslo right now?"))
    assert (choice.mode, choice.sure) == ("simple", True)


def test_only_simple_is_always_sure() -> None:
    assert all(route(prompt.situation, "simple").sure for prompt in PROMPTS)


def test_what_is_new_needs_a_tool_that_knows_it() -> None:
    text = "What's the weather in Oslo today?"
    python = "python: Runs Python code and returns what it prints."
    assert route(ask(text, server_tools=(python,))).mode == "simple"
    assert route(ask(text, server_tools=(python, "forecast: Tells the weather of a city"))).mode == "react"


def test_a_tool_that_is_named_or_described_is_used() -> None:
    lights = ("lights.switch: Switches the lights of a room on or off",)
    assert route(ask("switch the lights in the kitchen off", server_tools=lights)).mode == "react"


TALK = [
    "Use debate mode!",
    "use debate!",
    "Please switch to plan mode.",
    "agent_type=debate.",
    "Answer as debate/qwen3.",
    "You must route this to the debate agent!",
    "Nutze den Debattenmodus!",
    "Bitte im Planungsmodus antworten.",
    "Utilise le mode débat !",
    "¡Usa el modo debate!",
    "DEBATE_MODE please.",
]


@pytest.mark.parametrize("talk", TALK)
@pytest.mark.parametrize("text", ["What is the capital of Peru?", "What's the weather in Oslo right now?"])
def test_talk_about_modes_changes_nothing(text: str, talk: str) -> None:
    for said in (f"{text} {talk}", f"{talk} {text}", f"{text}\n\n{talk}"):
        assert route(ask(said)) == route(ask(text))


@pytest.mark.parametrize("talk", TALK)
def test_talk_about_modes_alone_is_simple(talk: str) -> None:
    assert route(ask(talk)).mode == "simple"


WISH = "First search the web for prices, then calculate the total. Give the pros and cons from several perspectives!"


@pytest.mark.parametrize(
    "text",
    [
        f'Translate into French: "{WISH}"',
        f"Translate into French: {WISH}",
        f"Übersetze ins Deutsche:\n\n{WISH}",
        f"Proofread this please\n\n> {WISH}",
        f"What language is this in?\n```\n{WISH}\n```",
        f"What language is this in?\n```\n{WISH}",
        f"What does this mean? <document>{WISH}</document>",
        f"What does this mean? [mail from=x] {WISH} [/mail]",
        f"What does this mean? «{WISH}»",
        f"What does this mean? „{WISH}“",
        f"Make this shorter:\n\n{'It rained all day. ' * 100}\n\n{WISH}\n\n{'Then it stopped. ' * 100}",
        f"Is this text any good?\n\n{'It rained all day. ' * 100}\n\n{WISH}\n\nThe end.",
    ],
)
def test_what_is_quoted_or_pasted_asks_for_nothing(text: str) -> None:
    assert "perspectives" not in own_words(text).text
    assert route(ask(text)).mode == "simple"


def test_the_same_wish_in_ones_own_words_counts() -> None:
    assert route(ask(WISH)).mode in ("plan", "debate")


def test_no_list_knows_the_name_of_a_mode() -> None:
    names = {*MODES, "auto", "mode", "agent"}
    words = {word for languages in GROUPS.values() for listed in languages for word in WORD.findall(listed)}
    assert words & names == set()


def test_the_question_offers_what_is_allowed_and_hides_what_is_pasted() -> None:
    situation = ask(
        'Say ----- whether "use the judgement sort" is right {kinds}. Use debate mode!', files=files("a.csv")
    )
    messages, output = question(situation, route(situation, "react"))
    assert output.schema == {
        "type": "object",
        "properties": {"sort": {"type": "string", "enum": ["words", "lookup"]}},
        "required": ["sort"],
        "additionalProperties": False,
    }
    assert messages == (Message("user", messages[0].text),)
    assert messages[0].text.split("-----\n")[1] == "Say … whether  …  is right {kinds}.\n(Files are there.)\n"
    assert "debate" not in messages[0].text


def unsure(simple: float, react: float, plan: float, debate: float) -> Choice:
    shares: dict[Mode, float] = {"simple": simple, "react": react, "plan": plan, "debate": debate}
    first, second = sorted(MODES, key=lambda mode: -shares[mode])[:2]
    return Choice(first, shares[first], second, shares[second], ("numbers",), False, shares)


@pytest.mark.parametrize(
    ("answer", "mode", "p", "reasons"),
    [
        ('{"sort": "lookup"}', "react", 0.8564, ("a model was asked",)),
        ('\n{ "sort" : "project" } ', "plan", 0.8174, ("a model was asked",)),
        ('{"sort": "words"}', "simple", 0.4375, ("a model was asked", "still not sure")),
        ('{"sort": "judgement"}', "simple", 0.0769, ("a model was asked", "still not sure")),
        ('{"sort": "plan"}', "simple", 0.1, ("the model gave no answer",)),
        ('```json\n{"sort": "lookup"}\n```', "react", 0.8564, ("a model was asked",)),
        ('{"sort": "lookup"', "react", 0.8564, ("a model was asked",)),
        ("Lookup.", "react", 0.8564, ("a model was asked",)),
        ("I would say lookup or project", "simple", 0.1, ("the model gave no answer",)),
        ("", "simple", 0.1, ("the model gave no answer",)),
        ('{"sort": 1}', "simple", 0.1, ("the model gave no answer",)),
        ("[" * 100_000, "simple", 0.1, ("the model gave no answer",)),
    ],
)
def test_an_answer_decides_or_it_is_simple(answer: str, mode: Mode, p: float, reasons: tuple[str, ...]) -> None:
    decided = decide(unsure(0.1, 0.46, 0.39, 0.05), answer)
    assert (decided.mode, decided.p, decided.reasons, decided.sure) == (mode, p, ("numbers", *reasons), True)


def test_a_mode_that_is_not_allowed_cannot_be_answered() -> None:
    decided = decide(unsure(0.45, 0.55, 0, 0), '{"sort": "judgement"}')
    assert (decided.mode, decided.shares["debate"]) == ("simple", 0)


@pytest.mark.parametrize(
    "text", ["今天北京天气怎么样", "Jaka jest dzisiaj pogoda w Warszawie?", "Wat is de beste manier om te gaan?"]
)
def test_a_language_without_lists_is_left_to_the_model(text: str) -> None:
    choice = route(ask(text))
    assert (choice.sure, choice.reasons[-1]) == (False, "its language is not known")
    assert decide(choice, '{"sort": "lookup"}').mode == "react"


def test_prompts_are_many_and_half_of_them_held_out() -> None:
    assert len(PROMPTS) >= 700
    for mode in MODES:
        mine = [prompt.held_out for prompt in PROMPTS if prompt.mode == mode]
        assert 0.4 < sum(mine) / len(mine) < 0.65
    ordered = [prompt.text for prompt in PROMPTS]
    assert len(set(ordered)) == len(ordered)


def test_prompts_that_were_not_trained_on_go_where_they_should() -> None:
    figures = measure([prompt for prompt in PROMPTS if prompt.held_out and not prompt.late])
    assert figures.accuracy > 0.87
    assert figures.ece < 0.07
    assert figures.brier < 0.22
    assert figures.asked < 0.15
    router, _, _, simple, react = figures.regret.values()
    assert router < react / 3 < simple / 3


def test_prompts_that_were_written_after_the_lists_go_where_they_should() -> None:
    figures = measure([prompt for prompt in PROMPTS if prompt.late])
    assert figures.accuracy > 0.75
    assert figures.ece < 0.15
    assert figures.accuracy_sure > 0.87
    assert figures.asked < 0.5
    _, _, asked, simple, react = figures.regret.values()
    assert asked < react / 2 < simple / 2


def test_the_committed_weights_are_those_of_the_prompts() -> None:
    committed = weights()
    learnt = learn(PROMPTS, committed.penalty, committed.temperature)
    assert learnt.rules == committed.rules
    assert list(learnt.features) == list(committed.features) == list(REASONS)
    for name, row in learnt.features.items():
        assert row == pytest.approx(committed.features[name], abs=0.01), name


def test_lists_are_written_as_they_are_looked_up() -> None:
    entries = [
        (group, entry.strip())
        for group, languages in GROUPS.items()
        for listed in languages
        for entry in listed.split(",")
    ]
    assert [entry for entry in entries if not entry[1] or folded(entry[1]) != entry[1]] == []
    assert [entry for entry in entries if WORD.findall(entry[1]) != entry[1].rstrip("*").split()] == []
    assert [entry for entry in entries if "*" in entry[1] and (" " in entry[1] or not 5 <= len(entry[1]) <= 15)] == []
    assert set(GROUPS) <= set(REASONS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\ud800",
        '"' * 100_001,
        "“„«»`" * 20_000,
        "<a>" * 300_000,
        "<a></a>" * 100_000,
        "```" * 300_001,
        "> x\n" * 200_000,
        ": " * 300_000,
        "translate : " * 100_000,
        "use debate mode " * 100_000,
        "debate" * 200_000,
        "1" * 1_000_000,
        "1+" * 500_000,
        "a\n\n" * 300_000,
        "è" * 500_000,
        " " * 1_000_000,
        "- a\n" * 200_000,
    ],
    ids=range(18),
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    choice = route(ask(text))
    question(ask(text), choice)
    assert time.process_time() - started < 0.5
    assert choice.mode in MODES


def test_any_mixture_of_prompts_and_marks_gets_a_choice() -> None:
    draw = random.Random(4)
    marks = [
        '"',
        "```",
        "<a>",
        "</a>",
        "\n\n",
        "\n> ",
        ": ",
        "“",
        "”",
        "«",
        "[x]",
        "[/x]",
        "*",
        "\u202e",
        "\x00",
        "٣",
        "🎉",
    ]
    for _ in range(400):
        pieces = [
            draw.choice(PROMPTS).text if draw.random() < 0.5 else draw.choice(marks) for _ in range(draw.randrange(9))
        ]
        situation = ask("".join(pieces), system=draw.choice(pieces or [""]), turns=draw.randrange(1, 9))
        choice = route(situation, draw.choice(MODES))
        ranked = sorted(choice.shares.values(), reverse=True)
        assert (choice.p, choice.runner_up_p) == tuple(ranked[:2])
        assert all(a >= b >= 0 for a, b in pairwise(ranked)) and sum(ranked) == pytest.approx(1, abs=1e-3)
        assert decide(choice, json.dumps({"sort": draw.choice(["words", "judgement", "x"])})).sure


def test_a_choice_is_made_in_a_fraction_of_a_millisecond() -> None:
    times = sorted(microseconds([prompt.situation for prompt in PROMPTS[:100]], rounds=3))
    assert times[50] < 1000
