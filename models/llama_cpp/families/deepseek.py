"""DeepSeek: R1 and V2.5 to V3.1 write the name and JSON between special tokens, V3.2 arguments between tags."""

# ruff: noqa: RUF001 - the bars of DeepSeek's tokens are wide

import re

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.framed import FramedJson
from models.llama_cpp.families.tagged import Tagged

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_HEADS = re.compile(rf"\s*({_CALL})?\s*(function{_SEPARATOR})?(?P<name>[\w.-]+)({_SEPARATOR})?\s*(```json)?\s*")


def _form(before: str, behind: str, last: str, between: str) -> FramedJson:
    """`before` and `behind` stand around the name, `last` behind the arguments."""
    return FramedJson(
        openings=(_CALLS, _CALL),
        closings=("```", _CALL_END, _CALLS_END),
        heads=_HEADS,
        prefix=f"{_CALLS}{_CALL}",
        between=f"{last}{_CALL_END}{between}{_CALL}",
        suffix=f"{last}{_CALL_END}{_CALLS_END}",
        head=f"{before}NAME{behind}",
        parts=(_SEPARATOR,),
    )


DEEPSEEK_V3 = Family("deepseek-v3", (_CALL, "```json"), _form(f"function{_SEPARATOR}", "\n```json\n", "\n```", "\n"))

DEEPSEEK_V31 = Family("deepseek-v3.1", (_CALL,), _form("", _SEPARATOR, "", ""))


def _dsml(group: str) -> Tagged:
    return Tagged(
        openings=(f"<｜DSML｜{group}>", '<｜DSML｜invoke name="'),
        closings=("</｜DSML｜invoke>", f"</｜DSML｜{group}>"),
        name=('<｜DSML｜invoke name="', '">'),
        key=('<｜DSML｜parameter name="', ">"),
        value=("", "</｜DSML｜parameter>"),
        end="</｜DSML｜invoke>",
        prefix=f"<｜DSML｜{group}>\n",
        between="\n",
        suffix=f"\n</｜DSML｜{group}>",
        tells_strings=True,
        parts=("｜DSML｜",),
    )


DEEPSEEK_V32 = Family("deepseek-v3.2", ("｜DSML｜", "function_calls"), _dsml("function_calls"))

DEEPSEEK_V4 = Family("deepseek-v4", ("｜DSML｜", "tool_calls"), _dsml("tool_calls"))
