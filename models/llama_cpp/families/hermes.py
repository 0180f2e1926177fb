"""Hermes: JSON between `<tool_call>` tags. Also Qwen 2.5 and 3, Granite 4, and many more."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.named import NamedJson

HERMES = Family(
    "hermes",
    ("<tool_call>",),
    NamedJson(
        openings=("<tool_call>",),
        closings=("</tool_call>",),
        prefix="<tool_call>\n",
        between="\n</tool_call>\n<tool_call>\n",
        suffix="\n</tool_call>",
    ),
)
