"""The mathematics of debates: what an answer is, which are the same, how far voices agree, who wins a vote."""

# ruff: noqa: RUF001 - signs that look like others are what this is about

import time
from collections.abc import Mapping, Sequence
from itertools import permutations
from random import Random

import msgspec
import pytest

from agents.consensus import (
    LONGEST,
    Change,
    Closed,
    Cluster,
    Decision,
    Kind,
    Measure,
    Open,
    Opinion,
    Position,
    Verdict,
    decide_vote,
    is_stable,
    kind_of,
    measure_closed,
    measure_open,
    note,
    options_of,
    read_answer,
)

OPTIONS = {"A": "Paris", "B": "Rome", "C": "a red fox", "D": "Cannot be determined"}

READ: list[tuple[Kind | None, str, str | None]] = [
    # Numbers and their formats.
    ("number", "Answer: 42", "42"),
    ("number", "42", "42"),
    ("number", "Answer: 1,000", "1000"),
    ("number", "Answer: 1000", "1000"),
    ("number", "Answer: 1.0e3", "1000"),
    ("number", "Answer: 1E+3", "1000"),
    ("number", "Answer: 1 000", "1000"),
    ("number", "Answer: 1\u202f000", "1000"),
    ("number", "Answer: 1'000", "1000"),
    ("number", "Answer: 1’000.50", "2001/2"),
    ("number", "Answer: 1.234.567", "1234567"),
    ("number", "Answer: 1.234,5", "2469/2"),
    ("number", "Answer: 1,234.5", "2469/2"),
    ("number", "Answer: 1,00,000", "100000"),
    ("number", "Answer: 1.234", "617/500"),
    ("number", "Answer: 1,234", "1234"),
    ("number", "Answer: 3,14", "157/50"),
    ("number", "Answer: 0,125", "1/8"),
    ("number", "Answer: 007", "7"),
    ("number", "Answer: .5", "1/2"),
    ("number", "Answer: 1/2", "1/2"),
    ("number", "Answer: ½", "1/2"),
    ("number", "Answer: 3½", "7/2"),
    ("number", "Answer: 3 1/2", "7/2"),
    ("number", "Answer: \\frac{1}{2}", "1/2"),
    ("number", "Answer: 1/0", "1/0"),
    ("number", "Answer: -5", "-5"),
    ("number", "Answer: −5", "-5"),
    ("number", "Answer: +5", "5"),
    ("number", "Answer: 1.5 × 10^3", "1500"),
    ("number", "Answer: 1.5 \\times 10^{3}", "1500"),
    ("number", "Answer: 1.5 · 10³", "1500"),
    ("number", "Answer: 10⁻²", "1/100"),
    ("number", "Answer: 10⁶", "1000000"),
    ("number", "Answer: 2^10", "1024"),
    ("number", "Answer: 1.5 million", "1500000"),
    ("number", "Answer: 10k", "10000"),
    ("number", "Answer: 2 bn", "2000000000"),
    ("number", "Answer: three", "3"),
    ("number", "Answer: Twelve eggs.", "12"),
    ("number", "Answer: ٤٢", "42"),
    ("number", "Answer: 42", "42"),
    ("number", "Answer: about 5", "5"),
    ("number", "Answer: ≈ 3.14", "157/50"),
    ("number", "Answer: 12 apples", "12"),
    ("number", "Answer: 3rd", "3"),
    # Units.
    ("number", "Answer: 5 km", "5000 m"),
    ("number", "Answer: 5000m", "5000 m"),
    ("number", "Answer: 5 kilometres", "5000 m"),
    ("number", "Answer: 90 min", "5400 s"),
    ("number", "Answer: 1.5 hours", "5400 s"),
    ("number", "Answer: 60 km/h", "50/3 m/s"),
    ("number", "Answer: 60 km per hour", "50/3 m/s"),
    ("number", "Answer: 60 mph", "16764/625 m/s"),
    ("number", "Answer: 60 miles per hour", "16764/625 m/s"),
    ("number", "Answer: 5 m²", "5 m^2"),
    ("number", "Answer: 5 square metres", "5 m^2"),
    ("number", "Answer: 2 cm^3", "1/500000 m^3"),
    ("number", "Answer: 20 °C", "20 °C"),
    ("number", "Answer: 20 degrees Celsius", "20 °C"),
    ("number", "Answer: 45^\\circ", "45 °"),
    ("number", "Answer: 50 %", "50 %"),
    ("number", "Answer: 50\\%", "50 %"),
    ("number", "Answer: 50 percent", "50 %"),
    ("number", "Answer: 50 per cent", "50 %"),
    ("number", "Answer: $5", "5 $"),
    ("number", "Answer: \\$5", "5 $"),
    ("number", "Answer: 5 dollars", "5 $"),
    ("number", "Answer: USD 1,000", "1000 $"),
    ("number", "Answer: $1.2M", "1200000 $"),
    ("number", "Answer: -$5", "-5 $"),
    ("number", "Answer: 5 €", "5 €"),
    ("number", "Answer: £5", "5 pound"),
    ("number", "Answer: $5 per hour", "1/720 $/s"),
    ("number", "Answer: 2 h 30 min", "9000 s"),
    ("number", "Answer: 2 hours and 30 minutes", "9000 s"),
    ("number", "Answer: 5 ft 3 in", "8001/5000 m"),
    ("number", "Answer: 5 in total", "5"),
    # What is more than one number, or none.
    ("number", "Answer: 1,2,3", "1; 2; 3"),
    ("number", "Answer: 1, 2 and 3", "1; 2; 3"),
    ("number", "Answer: (1, 2)", "1; 2"),
    ("number", "Answer: 3-5", "3 to 5"),
    ("number", "Answer: 3 to 5", "3 to 5"),
    ("number", "Answer: between 3 and 5", "3; 5"),
    ("number", "Answer: 12:30", "12:30"),
    ("number", "Answer: 2\\pi", "2π"),
    ("number", "Answer: $2\\pi$", "2π"),
    ("number", "Answer: 3\\sqrt{2}", "3√2"),
    ("number", "Answer: \\sqrt{2}", "√2"),
    ("number", "Answer: 2x + 1", "2x+1"),
    ("number", "Answer: ∞", "∞"),
    ("number", "Answer: it depends", None),
    ("number", "Answer: unknown", None),
    ("number", "I saw 3 hints.\nAnswer: I don't know.", None),
    ("number", "Answer: " + "9" * 300, None),
    ("number", "Answer: 1e999999999", "1e999999999"),
    ("number", "Answer: 9^999999999", "9^999999999"),
    ("number", "", None),
    ("number", "   \n\t\n", None),
    # Where a number stands.
    ("number", "Answer: x = 5", "5"),
    ("number", "Answer: 3 + 4 = 7", "7"),
    ("number", "Answer: She has **18** eggs out of 24.", "18"),
    ("number", "Answer: The 3 apples cost $6.", "6 $"),
    ("number", "First 16 eggs, then 2.\nSo she has 18 eggs left.", "18"),
    ("number", "1. Count the eggs.\n2. Add 4 and 3, so there are 7.\n3. Done.", "7"),
    ("number", "Hence \\boxed{12}.", "12"),
    ("number", "Final answer: \\boxed{\\text{12 km}}", "12000 m"),
    ("number", "Then \\[ \\boxed{\\dfrac{3}{4}} \\]", "3/4"),
    ("number", "The total is **42**.", "42"),
    ("number", "**Answer:** 42 (see 7 above)", "42"),
    ("number", "### Final Answer\n\n42", "42"),
    ("number", "Answer: 41\nNo, I miscounted.\nAnswer: 42", "42"),
    ("number", "So, the answer is 3.5 km. I checked 2 times.", "3500 m"),
    ("number", "My final answer is: **7**.\n\nThis took 3 steps.", "7"),
    ("number", "Die Antwort lautet 7, weil 3 + 4.", "7"),
    ("number", "Antwort: 7", "7"),
    ("number", "Réponse finale : 7", "7"),
    ("number", "Respuesta: 7", "7"),
    ("number", "Ответ: 7", "7"),
    ("number", "答案：7", "7"),
    ("number", "所以答案是7。", "7"),
    ("number", "정답은 7", "7"),
    ("number", "GPT-4 says H2O in version 1.2.3", None),
    ("number", "So there are 18 eggs (see step 2).", "18"),
    ("number", "The answer is not 7.", None),
    ("number", "I think the answer is 6, no, the answer is 8.", "8"),
    ("number", "#### 72", "72"),
    # Words of others.
    ("number", "> Answer: 7\n\nI disagree.\nAnswer: 8", "8"),
    ("number", "Answer: 8\n> Answer: 7", "8"),
    ("number", "Answer: 8\n```\nAnswer: 7\n```", "8"),
    ("number", "Answer: 8\n```python\nprint('Answer: 7')", "8"),
    ("number", 'The page says "Answer: 7", but that is wrong.\nAnswer: 8', "8"),
    ("number", "```\nAnswer: 8\n```", "8"),
    ("number", "Ans\u200bwer\u202e: 8", "8"),
    ("number", "Answer: \x0042\x1b", "42"),
    # Choices.
    ("choice", "Answer: B", "B"),
    ("choice", "Answer: (b)", "B"),
    ("choice", "Answer: B) Rome", "B"),
    ("choice", "Answer: B. Rome", "B"),
    ("choice", "Answer: **B**", "B"),
    ("choice", "Answer: Option B", "B"),
    ("choice", "Answer: B - Rome", "B"),
    ("choice", "Answer: B Rome", "B"),
    ("choice", "Answer: Rome", "B"),
    ("choice", "Answer: The red fox.", "C"),
    ("choice", "Answer: Cannot be determined", "D"),
    ("choice", "\\boxed{\\text{B}}", "B"),
    ("choice", "Answer: A and C", "A, C"),
    ("choice", "Answer: C, A", "A, C"),
    ("choice", "Answer: E", None),
    ("choice", "Answer: A dog", None),
    ("choice", "B) Rome, because it is old. Paris (A) is not.", "B"),
    ("choice", "I like (A), but I pick option B here.", "B"),
    ("choice", "A is wrong. The correct option is B.", "B"),
    ("choice", "Answer: B because it is old", "B"),
    ("choice", "I really cannot say.", None),
    # Yes and no.
    ("yes_no", "Answer: Yes", "yes"),
    ("yes_no", "Answer: true", "yes"),
    ("yes_no", "Yes, because 91 = 7 * 13.", "yes"),
    ("yes_no", "No. It is 7 times 13.", "no"),
    ("yes_no", "No, it is not.", "no"),
    ("yes_no", "False", "no"),
    ("yes_no", "Let me think.\n**No**", "no"),
    ("yes_no", "Answer: Ja", "yes"),
    ("yes_no", "Nein, denn 91 = 7 · 13.", "no"),
    ("yes_no", "Réponse : oui", "yes"),
    ("yes_no", "Sí", "yes"),
    ("yes_no", "Да, конечно", "yes"),
    ("yes_no", "нет", "no"),
    ("yes_no", "不是", "no"),
    ("yes_no", "はい", "yes"),
    ("yes_no", "아니요", "no"),
    ("yes_no", "No doubt about it, it is.", None),
    ("yes_no", "No idea.", None),
    ("yes_no", "Nobody knows.", None),
    ("yes_no", "It depends.", None),
    # Names, dates, a few words.
    ("span", "Answer: Paris", "paris"),
    ("span", "Answer: PARIS.", "paris"),
    ("span", "Answer: “Paris”", "paris"),
    ("span", "Answer: Paris, France", "paris france"),
    ("span", "Answer: The Beatles", "beatles"),
    ("span", "Answer: beatles", "beatles"),
    ("span", "Answer: Zürich", "zurich"),
    ("span", "Answer: J. F. Kennedy", "jf kennedy"),
    ("span", "Answer: J.F. Kennedy", "jf kennedy"),
    ("span", "Answer: O’Brien", "obrien"),
    ("span", "Answer: C++", "c++"),
    ("span", "Answer: C#", "c#"),
    ("span", "It was William Shakespeare.", "william shakespeare"),
    ("span", "The answer is Marie Curie. She was born in Warsaw.", "marie curie"),
    ("span", "Answer: July 20, 1969", "1969-07-20"),
    ("span", "Answer: 20th of July 1969", "1969-07-20"),
    ("span", "Answer: on 1969-07-20", "1969-07-20"),
    ("span", "Answer: in 1969", "1969"),
    ("span", "Answer: 1,969", "1969"),
    ("span", "Answer: 東京", "東京"),
    ("span", "Answer: Москва", "москва"),
    ("span", "Answer: unknown", None),
    ("span", "Answer: Я не знаю" + " и" * 200, None),
    ("span", "There was a man.\nHe wrote a play.", None),
    # Questions of no known kind.
    (None, "Answer: 42", "42"),
    (None, "Answer: yes", "yes"),
    (None, "Answer: B", "B"),
    (None, "Answer: Paris", "paris"),
    (None, "42", "42"),
    (None, "Yes.", "yes"),
    (None, "There are 3 reasons to be careful with 5 kinds of eggs.", None),
    (None, "Paris is a fine place.", None),
    ("open", "Answer: 42", None),
]


@pytest.mark.parametrize(("expected", "text", "key"), READ)
def test_answers_are_read(expected: Kind | None, text: str, key: str | None) -> None:
    answer = read_answer(text, expected, OPTIONS if expected == "choice" else None)
    assert (answer.key if isinstance(answer, Closed) else None) == key
    assert isinstance(answer, Closed) or answer == Open(text)


def test_a_read_answer_is_one_short_printable_line() -> None:
    answer = read_answer("Answer: \x1b[2J\u202ePa\u0000ris\ud800", "span")
    assert answer == Closed("span", "2jparis", "[2JParis")
    assert read_answer("**Answer:** 42 (see 7 above)", "number") == Closed("number", "42", "42 (see 7 above)")
    long = read_answer("Answer: 5 " + "very " * 1_000 + "fine", "number")
    assert isinstance(long, Closed) and len(long.text) <= LONGEST


def test_answers_with_units_say_which_bare_numbers_may_mean_the_same() -> None:
    assert read_answer("Answer: 5 km", "number") == Closed("number", "5000 m", "5 km", ("5",))
    assert read_answer("Answer: 50 %", "number") == Closed("number", "50 %", "50 %", ("50", "1/2"))
    assert read_answer("Answer: 150 %", "number") == Closed("number", "150 %", "150 %", ("150",))


def test_answers_survive_the_event_log() -> None:
    position = Position("a", 1, Closed("number", "5000 m", "5 km", ("5",)))
    assert msgspec.json.decode(msgspec.json.encode(position), type=Position) == position
    free = Position("a", 0, Open("It depends."))
    assert msgspec.json.decode(msgspec.json.encode(free), type=Position) == free


HOSTILE = [
    "Answer: " * 130_000,
    "Answer: 5\n" * 100_000,
    "9" * 1_000_000,
    "1," * 500_000,
    "1.000." * 170_000,
    "- " * 500_000,
    "\\boxed{" * 150_000,
    "\\boxed{" + "{" * 1_000_000,
    "```\n" * 250_000,
    "> Answer: 7\n" * 80_000,
    "**" * 500_000,
    "$" * 1_000_000,
    "\\frac{" * 160_000,
    "the answer is " * 70_000,
    "(((((" * 200_000,
    "A) " * 330_000,
    "A and B, " * 110_000,
    "\ufdfa" * 1_000_000,
    "\u0000" * 1_000_000,
    "\n" * 1_000_000,
    " " * 1_000_000,
    "so " * 330_000,
    "½" * 500_000,
    "no " * 330_000,
    "?" * 1_000_000,
    "how many is or " * 70_000,
    "what is the " * 80_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_a_million_characters_are_read_at_once(text: str) -> None:
    began = time.process_time()
    for expected in ("number", "choice", "yes_no", "span", None):
        read_answer(text, expected, OPTIONS)
    kind_of(text)
    options_of(text)
    assert time.process_time() - began < 2.0


def test_nonsense_never_fails() -> None:
    random = Random(4)
    pieces = (
        "Answer: \\boxed{ } ** 1 , . 000 / ^ % $ km e9 - ½ A) ``` > yes no B \\frac{1} {2} ×10 = ≈ √ ( ) ² is ? ٣ ²³"
    )
    parts = [*pieces.split(), " ", "\n", "\x00"]
    for _ in range(2_000):
        text = "".join(random.choices(parts, k=random.randrange(1, 24)))
        for expected in ("number", "choice", "yes_no", "span", "open", None):
            answer = read_answer(text, expected, OPTIONS if random.random() < 0.5 else None)
            assert isinstance(answer, Closed) or answer == Open(text)
            assert isinstance(answer, Open) or (answer.key and len(answer.text) <= LONGEST)
        kind_of(text)


KINDS: list[tuple[str, Kind]] = [
    ("How many eggs are left?", "number"),
    ("Tom has 3 apples and buys 2. How many apples does he have now?", "number"),
    ("If there are 3 cars and 2 more arrive, how many cars are there?", "number"),
    ("What is 17 * 23?", "number"),
    ("What is the sum of 4 and 5?", "number"),
    ("Calculate 12% of 250.", "number"),
    ("How old was Mozart when he died?", "number"),
    ("How much does it cost? Explain your reasoning.", "number"),
    ("How far is it to the moon? Think step by step.", "number"),
    ("Wie viele Bundesländer hat Deutschland?", "number"),
    ("Combien de jours y a-t-il en mars ?", "number"),
    ("¿Cuántos planetas hay?", "number"),
    ("Сколько будет 2+2?", "number"),
    ("3加5等于多少？", "number"),
    ("What is the capital of France?\nA) Paris\nB) Rome\nC) Bonn", "choice"),
    ("Which is a mammal? (A) shark (B) whale (C) tuna", "choice"),
    ("Which of these is prime?\nA. 4\nB. 6\nC. 7\nD. 9", "choice"),
    ("Choose the right one: 1) red 2) green 3) blue", "choice"),
    ("Is 91 prime?", "yes_no"),
    ("Did Rome fall before 500?", "yes_no"),
    ("True or false: the earth is flat.", "yes_no"),
    ("Answer yes or no: is water wet?", "yes_no"),
    ("Is 7 a prime number? Yes or no?", "yes_no"),
    ("Where is it? Is it far? Yes or no?", "open"),
    ("Ist 91 eine Primzahl?", "yes_no"),
    ("Est-ce que Paris est en France ?", "yes_no"),
    ("地球是圆的吗？", "yes_no"),
    ("Who wrote Hamlet?", "span"),
    ("When did the Second World War end?", "span"),
    ("Which planet is the largest?", "span"),
    ("What is the capital of Peru?", "span"),
    ("In which year did Rome fall?", "span"),
    ("Wer schrieb Faust?", "span"),
    ("Qui a peint la Joconde ?", "span"),
    ("谁写了红楼梦？", "span"),
    ("Is Rust better than C?", "open"),
    ("Is it red or blue?", "open"),
    ("Should I learn Rust?", "open"),
    ("Which language should I learn?", "open"),
    ("What's the best pizza?", "open"),
    ("Why is the sky blue?", "open"),
    ("How do I boil an egg?", "open"),
    ("Write a poem about 3 cats.", "open"),
    ("Explain how many people live in Rome and why.", "open"),
    ("How many people live in Rome? Why?", "open"),
    ("Compare A) trains and B) planes and write an essay.", "open"),
    ("Who wrote Hamlet? When?", "open"),
    ("Can you write a story?", "open"),
    ("Translate: How many eggs?", "open"),
    ("List 5 countries.", "open"),
    ("What is love?", "open"),
    ("Hello", "open"),
    ("", "open"),
]


@pytest.mark.parametrize(("question", "kind"), KINDS)
def test_questions_tell_what_they_ask_for(question: str, kind: Kind) -> None:
    assert kind_of(question) == kind


def test_options_are_read_in_their_order() -> None:
    assert options_of("What?\nA) Paris, France\nB) Rome\nC) Bonn") == {"A": "Paris, France", "B": "Rome", "C": "Bonn"}
    assert options_of("Which is a mammal? (A) shark (B) whale (C) tuna") == {"A": "shark", "B": "whale", "C": "tuna"}
    assert options_of("Choose one: 1) red 2) green") == {"1": "red", "2": "green"}
    assert options_of("1) Boil water. 2) Add salt.") == {}
    assert options_of("A) only one") == {}
    assert options_of("B) two C) three") == {}


# Consensus


def closed(key: str, *loose: str) -> Closed:
    return Closed("number", key, key, loose)


def said(round_: int, **answers: str | None) -> list[Position]:
    """What voices say: a key, or None where they say nothing."""
    return [Position(voice, round_, closed(key) if key else None) for voice, key in answers.items()]


def equal(voices: str) -> dict[str, float]:
    return dict.fromkeys(voices, 1.0)


def test_the_largest_group_is_measured_by_all_selected_voices() -> None:
    positions = [
        *said(1, a="4", b="5", c="4"),
        Position("d", 1, closed("4"), failed=True),
        Position("e", 1, Open("Hm.")),
    ]
    assert measure_closed(positions, equal("abcdef"), 0.5, said(0, a="4", b="4", d="5")) == Measure(
        round=1,
        agreement=2 / 6,
        met=False,
        clusters=(Cluster("4", "4", ("a", "c"), 2.0), Cluster("5", "5", ("b",), 1.0)),
        leader="4",
        changed=(Change("b", "4", "5"), Change("c", None, "4"), Change("d", "5", None)),
        dissent=("b",),
        silent=("d", "e", "f"),
    )


@pytest.mark.parametrize(
    ("answers", "threshold", "met"),
    [
        ({"a": "1", "b": "1", "c": "1", "d": "1", "e": "2"}, 0.8, True),
        ({"a": "1", "b": "1", "c": "1", "d": "1", "e": "2"}, 2.2 - 1.4, True),
        ({"a": "1", "b": "1", "c": "2"}, 2 / 3, True),
        ({"a": "1", "b": "1", "c": "2"}, 0.8, False),
        ({"a": "1", "b": "1", "c": None}, 0.8, False),
        ({"a": "1", "b": "1", "c": "1"}, 1.0, True),
        ({"a": "1", "b": "1", "c": "2", "d": "2"}, 0.5, False),
        ({"a": "1", "b": "2"}, 0.0, False),
        ({"a": None, "b": None}, 0.0, False),
    ],
)
def test_the_threshold(answers: Mapping[str, str | None], threshold: float, met: bool) -> None:
    assert measure_closed(said(0, **answers), equal("".join(answers)), threshold).met is met


def test_weights_count() -> None:
    measure = measure_closed(said(0, a="1", b="2", c="2"), {"a": 3.0, "b": 1.0, "c": 0.5}, 0.6)
    assert (measure.agreement, measure.leader, measure.met) == (3.0 / 4.5, "1", True)
    assert measure_closed(said(0, a="1"), {"a": 0.0}, 0.0).agreement == 0.0


def test_a_bare_number_counts_as_what_most_voices_mean_by_it() -> None:
    five, km, metres = closed("5"), closed("5000 m", "5"), closed("5 m", "5")
    together = measure_closed([Position("a", 0, five), Position("b", 0, km)], equal("ab"), 1.0)
    assert together.clusters == (Cluster("5000 m", "5", ("a", "b"), 2.0),)
    assert together.met
    beside = [Position("a", 0, five), Position("b", 0, km), Position("c", 0, metres), Position("d", 0, metres)]
    measure = measure_closed(beside, equal("abcd"), 1.0)
    assert [cluster.voices for cluster in measure.clusters] == [("a", "c", "d"), ("b",)]
    assert measure_closed([Position("a", 1, km)], equal("a"), 1.0, [Position("a", 0, five)]).changed == ()


@pytest.mark.parametrize(
    ("positions", "selected"),
    [
        (said(0, a="1"), {"b": 1.0}),
        (said(0, a="1") + said(0, a="2"), {"a": 1.0}),
        (said(0, a="1"), {"a": -1.0}),
        (said(0, a="1"), {"a": float("nan")}),
        (said(0, a="1"), {"a": float("inf")}),
    ],
)
def test_what_is_no_panel_is_refused(positions: Sequence[Position], selected: Mapping[str, float]) -> None:
    with pytest.raises(ValueError, match=r"voice|weight"):
        measure_closed(positions, selected, 0.8)
    with pytest.raises(ValueError, match=r"voice|weight"):
        measure_open(positions, [], selected, 0.8)
    with pytest.raises(ValueError, match=r"voice|weight"):
        decide_vote([positions], selected)


def panels(seed: int, count: int) -> list[tuple[list[Position], dict[str, float]]]:
    """Panels at random: some voices silent, some failed, some with weights, units among the answers."""
    random = Random(seed)
    answers = [closed("1"), closed("2"), closed("3"), closed("1 m", "1"), closed("1000 m", "1"), Open("Hm."), None]
    made = []
    for _ in range(count):
        voices = [f"v{number}" for number in range(random.randrange(1, 7))]
        weights = {voice: random.choice((0.0, 0.3, 1.0, 1.0, 2.5)) for voice in voices}
        positions = [Position(voice, 0, random.choice(answers), random.random() < 0.1) for voice in voices]
        made.append((random.sample(positions, random.randrange(len(positions) + 1)), weights))
    return made


def test_agreement_is_a_share_and_met_means_what_it_says() -> None:
    for positions, weights in panels(1, 2_000):
        measure = measure_closed(positions, weights, 0.6)
        assert 0.0 <= measure.agreement <= 1.0
        assert measure.met == (measure.leader is not None and measure.agreement + 1e-9 >= 0.6)
        named = [voice for cluster in measure.clusters for voice in cluster.voices]
        assert sorted([*named, *measure.silent]) == sorted(weights)


def test_order_does_not_matter() -> None:
    for positions, weights in panels(2, 200):
        measures = {
            msgspec.json.encode(measure_closed(order, dict(sorted(weights.items(), reverse=turned)), 0.6))
            for order in list(permutations(positions))[:24]
            for turned in (False, True)
        }
        assert len(measures) == 1
        decisions = {
            msgspec.json.encode(decide_vote([order, positions], weights))
            for order in list(permutations(positions))[:24]
        }
        assert len(decisions) == 1


def test_a_voice_that_fails_never_raises_agreement() -> None:
    for positions, weights in panels(3, 1_000):
        full = measure_closed(positions, weights, 0.6)
        for gone in full.clusters[0].voices if full.clusters else ():
            rest = [Position(each.voice, 0, each.answer, each.failed or each.voice == gone) for each in positions]
            lower = measure_closed(rest, weights, 0.6)
            assert lower.agreement <= full.agreement + 1e-12
            assert gone in lower.silent
            if weights[gone] and len(full.clusters) == 1:
                assert lower.agreement < full.agreement


def test_support_never_lowers_agreement() -> None:
    for positions, weights in panels(4, 1_000):
        before = measure_closed(positions, weights, 0.6)
        if not before.clusters:
            continue
        leading = next(each.answer for each in positions if each.voice == before.clusters[0].voices[0])
        for voice in weights:
            after = [each for each in positions if each.voice != voice] + [Position(voice, 0, leading)]
            assert measure_closed(after, weights, 0.6).agreement >= before.agreement - 1e-12


def verdicts(*rows: tuple[str, str, Opinion]) -> list[Verdict]:
    return [Verdict(voice, on, opinion) for voice, on, opinion in rows]


FREE = [Position("a", 2, Open("one")), Position("b", 2, Open("two")), Position("c", 2, Open("three"))]
ALL_AGREE = verdicts(*((one, other, "agree") for one in "abc" for other in "abc" if one != other))


def test_open_answers_are_measured_by_what_the_others_think_of_them() -> None:
    given = verdicts(("a", "b", "agree"), ("b", "a", "partial"), ("c", "a", "disagree"), ("c", "b", "agree"))
    before = verdicts(("a", "b", "agree"), ("c", "b", "disagree"))
    assert measure_open(FREE, given, equal("abc"), 0.8, before) == Measure(
        round=2,
        agreement=2.5 / 6,
        met=False,
        clusters=(
            Cluster("b", "two", ("b", "a", "c"), 3.0),
            Cluster("a", "one", ("a",), 1.5),
            Cluster("c", "three", ("c",), 1.0),
        ),
        leader="b",
        changed=(Change("b", None, "a: partial"), Change("c", "b: disagree", "a: disagree, b: agree")),
        dissent=(),
        silent=(),
    )


def test_a_silent_voice_agrees_with_nobody_and_nobody_with_it() -> None:
    assert measure_open(FREE, ALL_AGREE, equal("abc"), 1.0).met
    for gone in (Position("c", 2), Position("c", 2, Open("three"), failed=True)):
        measure = measure_open([*FREE[:2], gone], ALL_AGREE, equal("abc"), 0.8)
        assert (measure.agreement, measure.met, measure.silent) == (2 / 6, False, ("c",))
    assert measure_open(FREE[:2], ALL_AGREE, equal("abcd"), 0.8).agreement == 2 / 12
    assert measure_open([], [], equal("abc"), 0.0).met is False


def test_a_blocking_objection_stands_against_a_consensus() -> None:
    objection = Verdict("c", "a", "disagree", "2 + 2 is 4", blocking=True)
    measure = measure_open(FREE, [*ALL_AGREE, objection], equal("abc"), 0.8)
    assert (measure.agreement, measure.met) == (5 / 6, False)
    assert measure.blocking == ("c on a: 2 + 2 is 4",)
    assert measure.dissent == ()
    assert measure_open(FREE, [*ALL_AGREE, Verdict("c", "a", "agree", "nothing", blocking=True)], equal("abc"), 0.8).met


def test_the_worst_of_several_verdicts_counts_and_nothing_of_strangers_and_oneself() -> None:
    strange = verdicts(("a", "a", "agree"), ("x", "a", "agree"), ("a", "x", "agree"), ("a", "b", "disagree"))
    for given in (ALL_AGREE + strange, strange + ALL_AGREE):
        assert measure_open(FREE, given, equal("abc"), 0.8).agreement == 5 / 6


def test_a_round_that_changes_nothing_is_stable() -> None:
    first = measure_closed(said(0, a="1", b="2"), equal("ab"), 0.8)
    same = measure_closed(said(1, a="1", b="2"), equal("ab"), 0.8, said(0, a="1", b="2"))
    other = measure_closed(said(1, a="2", b="1"), equal("ab"), 0.8, said(0, a="1", b="2"))
    assert [is_stable(trajectory) for trajectory in ([], [first], [first, same], [first, other])] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("rounds", "decision"),
    [
        ([{"a": "1", "b": "2", "c": "2"}], ("2", 2 / 3, "support")),
        (
            [{"a": "1", "b": "1", "c": "2"}, {"a": "1", "b": "2", "c": "2"}, {"a": "1", "b": "2", "c": "2"}],
            ("2", 5 / 9, "support"),
        ),
        ([{"a": "1", "b": None, "c": "2"}, {"a": "1", "b": "2", "c": None}], ("1", 2 / 6, "stability")),
        ([{"a": "1", "b": "1", "c": "2"}, {"a": "1", "b": "2", "c": "2"}], ("1", 3 / 6, "drafts")),
        ([{"a": "1", "b": "1", "c": None}, {"b": None, "c": "2"}, {"b": "2", "c": None}], ("2", 2 / 9, "stability")),
        ([{"a": "2", "b": "1", "c": "3"}], ("2", 1 / 3, "order")),
        ([{"a": "1", "b": "2"}, {"a": "2", "b": "1"}], ("1", 1 / 2, "order")),
        ([{"a": "1", "b": "2", "c": "2"}, {"a": None, "b": None, "c": None}], ("2", 2 / 6, "support")),
    ],
)
def test_votes_are_decided_by_rule(
    rounds: Sequence[Mapping[str, str | None]], decision: tuple[str, float, str]
) -> None:
    voices = equal("".join(rounds[0]))
    found = decide_vote([said(number, **answers) for number, answers in enumerate(rounds)], voices)
    assert found is not None
    assert (found.key, found.support, found.rule) == decision


def test_a_vote_says_why_it_ended_so() -> None:
    assert decide_vote([said(0, a="1", b="1", c="2")], equal("abc")) == Decision(
        "1", "1", 2 / 3, "support", "most votes over all rounds (67% of all)"
    )
    assert decide_vote([said(0, a=None, b=None)], equal("ab")) is None
    assert decide_vote([], equal("ab")) is None


def test_a_vote_gives_the_answer_as_it_was_written_last() -> None:
    first = [Position("a", 0, read_answer("Answer: 5", "number")), Position("b", 0, None)]
    last = [Position("a", 1, read_answer("Answer: 5 km", "number")), Position("b", 1, None)]
    assert decide_vote([first, last], equal("ab")) == Decision(
        "5000 m", "5 km", 2 / 4, "support", "most votes over all rounds (50% of all)"
    )


def test_more_votes_never_cost_the_victory() -> None:
    random = Random(5)
    for _ in range(500):
        voices = [f"v{number}" for number in range(random.randrange(2, 6))]
        rounds = [
            [Position(voice, number, closed(random.choice("123"))) for voice in voices]
            for number in range(random.randrange(1, 4))
        ]
        weights = {voice: random.choice((0.5, 1.0, 2.0)) for voice in voices}
        before = decide_vote(rounds, weights)
        assert before is not None
        # One more round in which all say the winner's answer.
        more = [*rounds, [Position(voice, len(rounds), closed(before.key)) for voice in voices]]
        after = decide_vote(more, weights)
        assert after is not None and after.key == before.key and after.support > before.support - 1e-12


@pytest.mark.parametrize(
    ("threshold", "voices", "text"),
    [
        (0.8, 3, "0.8 of 3 voices means all 3"),
        (0.8, 5, "0.8 of 5 voices means 4 that agree"),
        (2 / 3, 3, "0.666667 of 3 voices means 2 that agree"),
        (1.0, 4, "1 of 4 voices means all 4"),
        (0.0, 4, "0 of 4 voices means 1 that agree"),
    ],
)
def test_what_a_threshold_means(threshold: float, voices: int, text: str) -> None:
    assert note(threshold, voices) == text
