"""Harmony, the format of gpt-oss: messages on channels. Thoughts are on `analysis`, a call names its recipient."""

import re

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.framed import FramedJson

_CHANNEL, _CONSTRAIN, _MESSAGE = "<|channel|>", "<|constrain|>", "<|message|>"
_START, _END = "<|start|>assistant", "<|end|>"
_ON_CHANNEL = rf"({re.escape(_CHANNEL)}(commentary|analysis))?\s*"
_KIND = rf"({re.escape(_CONSTRAIN)})?\w*\s*"

HARMONY = Family(
    "harmony",
    (_CHANNEL, _MESSAGE),
    FramedJson(
        openings=(
            f"{_CHANNEL}commentary to=functions.",
            f"{_CHANNEL}analysis to=functions.",
            " to=functions.",
        ),
        bare=("to=functions.",),
        heads=re.compile(rf"(to=functions\.)?(?P<name>[\w.-]+)\s*{_ON_CHANNEL}{_KIND}{re.escape(_MESSAGE)}\s*"),
        head=f"{_CHANNEL}commentary to=functions.NAME {_CONSTRAIN}json{_MESSAGE}",
        parts=(_CHANNEL, _CONSTRAIN, _MESSAGE, "<|start|>"),
        single=True,
    ),
    thought_opening=f"{_CHANNEL}analysis{_MESSAGE}",
    thought_closing=_END,
    thought_anywhere=True,
    stray=(
        _START,
        _END,
        f"{_CHANNEL}commentary to=assistant",
        *(f"{_CHANNEL}{kind}{_MESSAGE}" for kind in ("final", "commentary", f"final {_CONSTRAIN}json", "final json")),
    ),
    ends=("<|call|>", "<|return|>"),
    after_thought=(_START,),
    efforts={"none": "low", "minimal": "low", "xhigh": "high", "max": "high"},
    before_text=f"{_CHANNEL}final{_MESSAGE}",
)
