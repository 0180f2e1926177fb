"""Who debates: the voices by models, presets and personas, each with a name of its own."""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from agents.context import Context
from agents.options import Options, Voice
from models.backend import Backend, ModelInfo

PRESETS: Mapping[str, str] = {
    "analyst": "You are careful and exact. You work from what is given, step by step, and check each step.",
    "sceptic": "You look for what is wrong: hidden assumptions, errors, cases that were forgotten.",
    "pragmatist": "You look for what works in practice, what it costs, and what happens next.",
    "advocate": "You look for the strongest case that can be made, and make it fairly.",
    "generalist": "You look at the whole from outside, and bring in what others overlook.",
}
"""Personas by name; what is no name of one is a persona itself."""

USUAL = ("analyst", "sceptic", "pragmatist")
"""The panel where nobody names one."""
WARMTH = (0.3, 0.7, 1.0)
"""Temperatures of voices of one model, which would else all say the same."""


class Speaker(Struct, frozen=True):
    """A voice, ready to speak."""

    name: str
    persona: str
    backend: Backend
    model: str
    temperature: float | None
    seed: int | None
    info: ModelInfo | None = None

    def context(self, context: Context) -> Context:
        """A context in which this voice is asked."""
        sampling = context.request.sampling
        temperature = self.temperature if self.temperature is not None else sampling.temperature
        sampling = replace(sampling, temperature=temperature, seed=self.seed, stop=())
        request = replace(
            context.request,
            model=self.model,
            sampling=sampling,
            tools=(),
            tool_choice="auto",
            output=None,
            text_output=None,
        )
        return replace(context, backend=self.backend, request=request, info=self.info, remembered=0)


def named(options: Options, models: Sequence[str]) -> Options:
    """The options with one voice for each model of a model id such as `a+b`, unless they name voices themselves."""
    if options.debate.voices is not None:
        return options
    voices = tuple(Voice(model=model) for model in models)
    return replace(options, debate=replace(options.debate, voices=voices))


async def seated(context: Context) -> list[Speaker]:
    """The panel that a request asks for; three usual voices where it asks for none.

    Raises:
        ModelNotFound: a voice's model is not there.
    """
    voices = context.options.debate.voices or tuple(Voice(name=name, persona=name) for name in USUAL)
    of_model = Counter(voice.model or context.request.model for voice in voices)
    seed = context.options.seed if context.options.seed is not None else context.request.sampling.seed
    names: set[str] = set()
    speakers = []
    for index, voice in enumerate(voices):
        backend, model, info = context.backend, voice.model or context.request.model, context.info
        if voice.model and context.find is not None:
            backend, info = await context.find(voice.model)
            model = info.id
        alone = of_model[voice.model or context.request.model] == 1
        speakers.append(
            Speaker(
                _name(voice, model, names),
                PRESETS.get(voice.persona or "", voice.persona or ""),
                backend,
                model,
                voice.temperature if voice.temperature is not None or alone else WARMTH[index % len(WARMTH)],
                None if seed is None else seed + index,
                info,
            )
        )
    return speakers


def host(context: Context, name: str) -> Speaker:
    """The model of the request, as one who leads the debate and has no opinion."""
    return Speaker(name, "", context.backend, context.request.model, 0.0, None, context.info)


async def judging(context: Context) -> Speaker:
    """Who judges open questions.

    Raises:
        ModelNotFound: the judge's model is not there.
    """
    judge = host(context, "judge")
    if context.options.debate.judge is None or context.find is None:
        return judge
    backend, info = await context.find(context.options.debate.judge)
    return replace(judge, backend=backend, model=info.id, info=info)


def by_model(speakers: Sequence[Speaker]) -> list[list[Speaker]]:
    """The voices in groups of one model: a backend that holds one model at a time loads each only once."""
    groups: dict[tuple[str, str], list[Speaker]] = {}
    for speaker in speakers:
        groups.setdefault((speaker.backend.name, speaker.model), []).append(speaker)
    return list(groups.values())


def _name(voice: Voice, model: str, taken: set[str]) -> str:
    wanted = voice.name or model
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted} ({number})"
    taken.add(name)
    return name
