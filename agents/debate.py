"""debate: drafts by all, a measured consensus, critique only where they differ, then a vote or a judge; one answer."""

import string
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from agents.budget import Exhausted, Limits
from agents.consensus import (
    Closed,
    Decision,
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
from agents.context import Context
from agents.ending import ended
from agents.events import AnyEvent, Consensus, Log, Spoke, Stopped, Voted
from agents.merge import merged
from agents.panel import Speaker, by_model, host, judging, seated
from agents.prompts import (
    CLOSED,
    CRITIQUE,
    DRAFT,
    FILES_NOTE,
    INTERVENE,
    JUDGE,
    LEDGER,
    OPEN,
    PANEL,
    RANK,
    SELECT,
    SYNTHESIZE,
    VERDICTS,
    instructed,
)
from agents.steps import observed
from agents.turn import speak
from models.backend import JsonOutput, ModelError
from models.messages import Message

LONGEST_TURN = 1200
"""Tokens of an argument."""
LONGEST_CHOICE = 500
"""Tokens of a choice, a ledger, or one verdict, each with a text of at most 400 characters."""
SHOWN = 6000
"""Characters of an argument that the others are shown."""
MODERATOR = "moderator"
NOBODY = "nobody"
MOST_FAILURES = 2
"""Failures after which a voice is not asked again."""
MOST_STALLS = 2
"""Rounds without progress after which the moderator's debate ends."""


class _Opinion(Struct, frozen=True):
    on: str
    opinion: Opinion
    objection: Annotated[str, Meta(max_length=400)] = ""
    blocking: bool = False


class _Opinions(Struct, frozen=True):
    verdicts: tuple[_Opinion, ...]


class _Ledger(Struct, frozen=True):
    satisfied: bool
    in_loop: bool
    progress: bool
    next: str
    instruction: Annotated[str, Meta(max_length=400)] = ""


async def debate(context: Context) -> AsyncGenerator[AnyEvent, None]:
    """Lets several voices answer, and argue as long as that changes something; the answer says how far they agree."""
    panel = _Debate(context, await seated(context), await judging(context))
    reason = ""
    try:
        async with aclosing(panel.held()) as events:
            async for event in events:
                yield event
    except Exhausted as stop:
        reason = stop.what
    if not panel.live and not panel.found():
        panel.fail()
    ending = ended(
        context,
        [Message("user", panel.record())],
        panel.found(),
        reason=reason,
        iterations=len(panel.measures),
    )
    async with aclosing(ending) as events:
        async for event in events:
            yield event


class _Debate:
    """A debate as far as it is."""

    def __init__(self, context: Context, speakers: Sequence[Speaker], judge: Speaker) -> None:
        self._context = context
        self._judge = judge
        self._options = context.options.debate
        self._speakers = {speaker.name: speaker for speaker in speakers}
        self._selected = dict.fromkeys(self._speakers, 1.0)
        users = [message for message in context.request.messages if message.role == "user"]
        self._question = (users[-1].text if users else "").partition(FILES_NOTE)[0]
        self._kind = kind_of(self._question)
        self._letters = dict(zip(self._speakers, string.ascii_uppercase, strict=False))
        """Under which the voices know each other: not by their names, which would carry weight."""
        self._said: list[tuple[str, str]] = []
        """Whose argument, in the order in which all heard them."""
        self._latest: dict[str, str] = {}
        self._failures: dict[str, int] = dict.fromkeys(self._speakers, 0)
        self._error: ModelError | None = None
        self.rounds: list[list[Position]] = []
        self.measures: list[Measure] = []
        self._verdicts: list[Verdict] = []
        self._ranking: list[str] = []
        self._satisfied = False
        """The moderator has found that it is enough."""

    @property
    def live(self) -> list[Speaker]:
        """The voices that are still asked."""
        return [each for name, each in self._speakers.items() if self._failures[name] < MOST_FAILURES]

    def fail(self) -> None:
        """Ends a debate in which nobody could say anything.

        Raises:
            ModelError: why.
        """
        if self._error is not None:
            raise self._error

    def found(self) -> list[str]:
        """What was said, the best last."""
        leader = self.measures[-1].leader if self.measures else None
        first = [text for name, text in self._latest.items() if name != leader]
        return [*first, self._latest[leader]] if leader in self._latest else first

    async def held(self) -> AsyncGenerator[AnyEvent, None]:
        """Drafts, then rounds until they agree, nothing changes, or the rounds are over."""
        models = {speaker.model for speaker in self._speakers.values()}
        if len(models) == 1:
            yield Log(text="all voices are of one model: they may be wrong in the same way")
        yield Log(text=note(self._options.consensus_threshold, len(self._speakers)))
        async with aclosing(self._all(DRAFT)) as events:
            async for event in events:
                yield event
        async with aclosing(self._measured(0)) as events:
            async for event in events:
                yield event
        stalls = 0
        for number in range(1, self._options.max_rounds + 1):
            if self.measures[-1].met or is_stable(self.measures) or len(self.live) < 2:
                break
            before = len(self._said)
            async with aclosing(self._round(number)) as events:
                async for event in events:
                    yield event
            stalls = 0 if len(self._said) > before else stalls + 1
            if stalls >= MOST_STALLS or self._satisfied:
                break
            async with aclosing(self._measured(number)) as events:
                async for event in events:
                    yield event
        if self._kind == "open" and len(self._latest) > 1 and not self.measures[-1].met:
            async with aclosing(self._judged()) as events:
                async for event in events:
                    yield event

    def _round(self, number: int) -> AsyncGenerator[AnyEvent, None]:
        match self._options.mode:
            case "freeform":
                return self._chosen(self._selector)
            case "autonomous":
                return self._chosen(self._moderator)
        return self._all(CRITIQUE)

    # --- speaking -----------------------------------------------------------------------------------------------------

    def _asking(self, speaker: Speaker, *last: Message) -> Context:
        """What a voice is asked: for all the same first, the question and what was said; its own part last."""
        context = speaker.context(self._context)
        shared = PANEL.format(rules=self._options.rules).rstrip()
        heard = [Message("user", f"{self._letters[name]} said:\n{observed(text, SHOWN)}") for name, text in self._said]
        return context.asking(*instructed(self._context.request.messages, shared), told=heard, then=last)

    async def _all(self, prompt: str) -> AsyncGenerator[AnyEvent, None]:
        """Everybody speaks, without hearing what the others say in this round."""
        texts: dict[str, str] = {}
        try:
            for group in by_model(self.live):
                async with aclosing(merged([self._speech(each, prompt, texts) for each in group])) as events:
                    async for event in events:
                        yield event
        finally:
            # What was said counts, also where the budget has not sufficed for all.
            for name in self._speakers:
                if name in texts:
                    self._said.append((name, texts[name]))
                    self._latest[name] = texts[name]

    async def _speech(
        self, speaker: Speaker, prompt: str, texts: dict[str, str], *, instruction: str = ""
    ) -> AsyncGenerator[AnyEvent, None]:
        """One argument; a voice that fails has none in this round."""
        context, name = self._context, speaker.name
        form = OPEN if self._kind == "open" else CLOSED
        letter = self._letters[name]
        text = prompt.format(letter=letter, persona=speaker.persona, form=form, instruction=instruction).strip()
        asking = self._asking(speaker, Message("user", text))
        # The client's limit is for the answer.
        sampling = replace(asking.request.sampling, max_tokens=LONGEST_TURN)
        budget = context.budget.part(Limits(seconds=self._options.time_limit_per_argument))
        budget.release()
        asking = replace(asking.changed(sampling=sampling), budget=budget)
        try:
            async with aclosing(speak(asking, by=name, aside=True)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Spoke):
                        said = event.message.text.strip()
                        if event.finish == "length":
                            said = f"{_whole_sentences(said)} [cut off]"
                        if said:
                            texts[name] = said
                            self._failures[name] = 0
        except ModelError as error:
            self._failures[name] += 1
            self._error = error
            yield Stopped(what="model", text=error.message, by=name)
        except Exhausted as stop:
            yield Stopped(what=stop.what, by=name)
            raise  # it is the whole debate's budget

    async def _chosen(self, choose: Any) -> AsyncGenerator[AnyEvent, None]:
        """One speaks after the other, each chosen when the one before has ended, and hears all that was said."""
        last, silent = "", dict.fromkeys(self._speakers, 0)
        for _ in range(self._options.max_iterations_per_round * len(self._speakers)):
            if not (names := [speaker.name for speaker in self.live if speaker.name != last]):
                return
            starved = [name for name in names if silent[name] >= len(self._speakers) + 1]
            choice: list[str] = [starved[0], ""] if starved else []
            if not choice:
                async with aclosing(choose(names, choice)) as events:
                    async for event in events:
                        yield event
            if not choice or choice[0] not in names:
                return
            name, instruction = choice
            texts: dict[str, str] = {}
            speech = self._speech(self._speakers[name], INTERVENE, texts, instruction=instruction)
            async with aclosing(speech) as events:
                async for event in events:
                    yield event
            if name in texts:
                self._said.append((name, texts[name]))
                self._latest[name] = texts[name]
            silent = {each: 0 if each == name else count + 1 for each, count in silent.items()}
            last = name

    # --- choosing who speaks ------------------------------------------------------------------------------------------

    async def _selector(self, names: Sequence[str], choice: list[str]) -> AsyncGenerator[AnyEvent, None]:
        """freeform: the model names who speaks next, or that nobody needs to."""
        letters = [self._letters[name] for name in names]
        schema = _object(next={"enum": [*letters, NOBODY]})
        prompt = SELECT.format(names=", ".join(letters))
        found: list[str] = []
        async with aclosing(self._constrained(prompt, schema, MODERATOR, found)) as events:
            async for event in events:
                yield event
        letter = _field(found, "next")
        name = next((each for each in names if self._letters[each] == letter), None)
        if name is None and letter != NOBODY and names:
            name = names[0]  # nonsense must not end the debate
        if name is not None:
            choice += [name, ""]

    async def _moderator(self, names: Sequence[str], choice: list[str]) -> AsyncGenerator[AnyEvent, None]:
        """autonomous: a moderator keeps a ledger, says who speaks next about what, and when it is enough."""
        letters = [self._letters[name] for name in names]
        schema = _object(
            satisfied={"type": "boolean"},
            in_loop={"type": "boolean"},
            progress={"type": "boolean"},
            next={"enum": letters},
            instruction={"type": "string", "maxLength": 400},
        )
        found: list[str] = []
        prompt = LEDGER.format(names=", ".join(letters))
        async with aclosing(self._constrained(prompt, schema, MODERATOR, found)) as events:
            async for event in events:
                yield event
        try:
            ledger = msgspec.json.decode(found[0] if found else "", type=_Ledger)
        except msgspec.DecodeError:
            return
        yield Log(text="ledger", data=msgspec.to_builtins(ledger), by=MODERATOR)
        if ledger.satisfied or ledger.in_loop:
            self._satisfied = ledger.satisfied
            return
        name = next((each for each in names if self._letters[each] == ledger.next), names[0] if names else None)
        if name is not None:
            choice += [name, ledger.instruction]

    async def _constrained(
        self,
        prompt: str,
        schema: dict[str, Any],
        by: str,
        found: list[str],
        speaker: Speaker | None = None,
        longest: int = LONGEST_CHOICE,
    ) -> AsyncGenerator[AnyEvent, None]:
        """An answer of a form and of so many tokens at most, into `found`; none where the model fails."""
        voice = speaker or host(self._context, by)
        asking = self._asking(voice, Message("user", prompt))
        sampling = replace(asking.request.sampling, temperature=0.0, max_tokens=longest)
        try:
            able = await asking.prober.of(asking.backend, asking.request.model, asking.info)
            output = JsonOutput(schema, "choice") if able.keeps_to_schema else None
            asking = asking.changed(sampling=sampling, output=output)
            async with aclosing(speak(asking, by=by, aside=True, silent=True, checked=False)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Spoke):
                        found.append(_json_in(event.message.text))
        except ModelError as error:
            yield Stopped(what="model", text=error.message, by=by)
        except Exhausted as stop:
            yield Stopped(what=stop.what, by=by)
            raise

    # --- measuring ----------------------------------------------------------------------------------------------------

    async def _measured(self, number: int) -> AsyncGenerator[AnyEvent, None]:
        """How far they agree now."""
        expected = None if self._kind == "open" else self._kind
        options = options_of(self._question)
        positions = [
            Position(
                name,
                number,
                Open(text) if self._kind == "open" else read_answer(text, expected, options),
                failed=self._failures[name] > 0,
            )
            for name, text in self._latest.items()
        ]
        threshold = self._options.consensus_threshold
        if self._kind == "open":
            before = self._verdicts
            self._verdicts = []
            async with aclosing(self._judgements()) as events:
                async for event in events:
                    yield event
            measure = measure_open(positions, self._verdicts, self._selected, threshold, before)
        else:
            previous = self.rounds[-1] if self.rounds else ()
            measure = measure_closed(positions, self._selected, threshold, previous)
            for position in positions:
                if isinstance(position.answer, Closed):
                    yield Voted(vote=position.answer.text, by=position.voice)
        self.rounds.append(positions)
        self.measures.append(measure)
        yield Consensus(round=number, agreement=measure.agreement, detail=_detail(measure))

    async def _judgements(self) -> AsyncGenerator[AnyEvent, None]:
        """What each voice thinks of the others' answers."""
        for group in by_model([each for each in self.live if each.name in self._latest]):
            async with aclosing(merged([self._judgement(speaker) for speaker in group])) as events:
                async for event in events:
                    yield event

    async def _judgement(self, speaker: Speaker) -> AsyncGenerator[AnyEvent, None]:
        others = [name for name in self._latest if name != speaker.name]
        if not others:
            return
        letters = {self._letters[name]: name for name in others}
        opinion = _object(
            on={"enum": list(letters)},
            opinion={"enum": ["agree", "partial", "disagree"]},
            objection={"type": "string", "maxLength": 400},
            blocking={"type": "boolean"},
        )
        schema = _object(verdicts={"type": "array", "items": opinion, "minItems": len(others), "maxItems": len(others)})
        prompt = VERDICTS.format(letter=self._letters[speaker.name], others=", ".join(letters))
        found: list[str] = []
        longest = LONGEST_CHOICE * len(others)
        async with aclosing(self._constrained(prompt, schema, speaker.name, found, speaker, longest)) as events:
            async for event in events:
                yield event
        try:
            opinions = msgspec.json.decode(found[0] if found else "", type=_Opinions).verdicts
        except msgspec.DecodeError:
            return
        self._verdicts += [
            Verdict(speaker.name, letters[each.on], each.opinion, each.objection, each.blocking)
            for each in opinions
            if each.on in letters
        ]

    async def _judged(self) -> AsyncGenerator[AnyEvent, None]:
        """A judge reads the last arguments without names in two orders: what wins in one only has not won."""
        names = list(self._latest)
        for order in (names, names[::-1]):
            numbers = {str(i): name for i, name in enumerate(order, 1)}
            texts = "\n\n".join(f"{i}.\n{observed(self._latest[name], SHOWN)}" for i, name in numbers.items())
            found: list[str] = []
            schema = _object(best={"enum": list(numbers)})
            async with aclosing(
                self._constrained(RANK.format(texts=texts), schema, self._judge.name, found, self._judge)
            ) as events:
                async for event in events:
                    yield event
            if (name := numbers.get(_field(found, "best"))) is not None:
                self._ranking.append(name)
                yield Voted(vote=name, by=self._judge.name)

    # --- the end ------------------------------------------------------------------------------------------------------

    def record(self) -> str:
        """What the model that writes the answer is told of the debate."""
        measure = self.measures[-1] if self.measures else None
        texts = "\n\n".join(f"{self._letters[name]}:\n{observed(text, SHOWN)}" for name, text in self._latest.items())
        decision = decide_vote(self.rounds, self._selected) if self._kind != "open" and self.rounds else None
        return SYNTHESIZE.format(texts=texts or "(nobody could answer)", state=self._state(measure, decision))

    def _state(self, measure: Measure | None, decision: Decision | None) -> str:
        if measure is None:
            return "There was no time to compare them."
        share, needed = f"{measure.agreement:.0%}", f"{self._options.consensus_threshold:.0%}"
        lines = [f"They agree to {share}; {needed} were asked for."]
        if not measure.met:
            lines.append("There is no consensus: say so.")
        if decision is not None:
            lines.append(f"The vote is decided: {decision.answer} ({decision.why}). Give this as the answer.")
        elif measure.leader:
            lines.append(f"{self._letters[measure.leader]} has most support.")
        if len(set(self._ranking)) == 1 and len(self._ranking) > 1:
            lines.append(f"A judge finds {self._letters[self._ranking[0]]} best. {JUDGE}")
        elif self._ranking:
            lines.append("A judge found now one, now another best: leave that open.")
        if measure.dissent:
            dissent = ", ".join(self._letters[name] for name in measure.dissent if name in self._letters)
            lines.append(f"Give the strongest point of those who differ: {dissent}.")
        if measure.silent:
            lines.append(f"{len(measure.silent)} of {len(self._speakers)} voices gave no answer: say so.")
        return " ".join(lines)


def _whole_sentences(text: str) -> str:
    """The text up to its last whole sentence, where there is one."""
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n", "\n\n"))
    return text[: end + 1].rstrip() if end > len(text) // 2 else text


def _detail(measure: Measure) -> dict[str, Any]:
    detail: dict[str, Any] = msgspec.to_builtins(measure)
    del detail["round"], detail["agreement"]
    return detail


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json_in(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else ""


def _field(found: Sequence[str], name: str) -> str:
    try:
        value = msgspec.json.decode(found[0] if found else "")
    except msgspec.DecodeError:
        return ""
    return str(value.get(name, "")) if isinstance(value, dict) else ""
