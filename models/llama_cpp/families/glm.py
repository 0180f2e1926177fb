"""GLM 4.5 and later: keys and values between tags of their own."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.tagged import Tagged

GLM = Family(
    "glm",
    ("<tool_call>", "<arg_key>"),
    Tagged(
        openings=("<tool_call>",),
        closings=("</tool_call>",),
        name=("", ""),
        key=("<arg_key>", "</arg_key>"),
        value=("\n<arg_value>", "</arg_value>"),
        end="",
        prefix="<tool_call>",
        between="</tool_call>\n<tool_call>",
        suffix="</tool_call>",
    ),
)
