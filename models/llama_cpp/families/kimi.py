"""Kimi K2: name and number, then JSON, between special tokens."""

import re

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.framed import FramedJson

_CALLS, _CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"

KIMI = Family(
    "kimi",
    (_CALLS, _CALL),
    FramedJson(
        openings=(_CALLS, _CALL),
        closings=(_CALL_END, _CALLS_END),
        heads=re.compile(
            rf"\s*({re.escape(_CALL)})?\s*(functions\.)?(?P<name>[\w.-]+?)(:\d+)?\s*({re.escape(_ARGUMENTS)})?\s*"
        ),
        prefix=f"{_CALLS}{_CALL}",
        between=f"{_CALL_END}{_CALL}",
        suffix=f"{_CALL_END}{_CALLS_END}",
        head=f"functions.NAME:NUMBER{_ARGUMENTS}",
        parts=(_ARGUMENTS,),
    ),
)
