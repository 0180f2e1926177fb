"""What the servers are asked: streams under one system prompt, a recorded debate, a recorded ReAct run, a form.

Recorded means: whatever a model answers, the next prompt goes on with the recorded text, so that all servers get the
same prompts. The texts are in `replays.json`.
"""

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

Message = dict[str, Any]

_TEXTS = json.loads(Path(__file__).with_suffix(".json").read_text())

TOOLS: list[dict[str, Any]] = _TEXTS["react"]["tools"]
FORM: dict[str, Any] = _TEXTS["form"]["schema"]
"""A schema. Its strings have a least length too: how long an answer is depends on the model as little as can be."""


def stream_prompt(number: int, mark: str) -> list[Message]:
    """The shared system prompt, made another one by a mark at its beginning, and one of the questions."""
    questions = _TEXTS["streams"]["questions"]
    return _prompt(f"[{mark}] {_TEXTS['streams']['system']}", questions[number % len(questions)])


def form_prompt(number: int) -> list[Message]:
    """A question to be answered in the form."""
    return _prompt(_TEXTS["form"]["system"], f"Customer {number}: {_TEXTS['form']['question']}")


def debate_rounds() -> Iterator[list[list[Message]]]:
    """For each round the prompts of the speakers: system and transcript are shared, the persona comes last."""
    debate = _TEXTS["debate"]
    transcript = f"The question: {debate['question']}\n\nTranscript:\n"
    for turns in debate["rounds"]:
        # One message from the user: some chat templates refuse two in a row.
        yield [_prompt(debate["system"], transcript + _order(*persona)) for persona in debate["personas"].items()]
        transcript += "".join(f"\n{name}: {text}\n" for name, text in zip(debate["personas"], turns, strict=True))


def _order(name: str, persona: str) -> str:
    return f"\nYou are {name}, {persona}. It is your turn. Speak as {name}, in one paragraph."


def react_steps() -> Iterator[list[Message]]:
    """The prompt of each step: that of the step before, its call, and what the tool gave."""
    react = _TEXTS["react"]
    messages = _prompt(react["system"], react["question"])
    yield list(messages)
    for number, step in enumerate(react["steps"], 1):
        call = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
        calls = [{"id": f"call_{number}", "type": "function", "function": call}]
        messages.append({"role": "assistant", "content": step["thought"], "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": step["observation"]})
        yield list(messages)


def long_prompt(words: int) -> list[Message]:
    """A long text, no two paragraphs alike, and what to do with it."""
    text = " ".join(islice(_words(), words))
    return _prompt("You sum up what you read.", f"{text}\n\nSum this up in one sentence.")


def _words() -> Iterator[str]:
    turns = [text for turns in _TEXTS["debate"]["rounds"] for text in turns]
    for number, text in enumerate(cycle(turns), 1):
        yield from f"Entry {number} of the book: {text}".split()


def _prompt(system: str, question: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]
