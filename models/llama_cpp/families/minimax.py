"""MiniMax M2: calls in the way of XML, all in one group."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.tagged import Tagged

MINIMAX = Family(
    "minimax",
    ("<minimax:tool_call>", "<invoke name="),
    Tagged(
        openings=("<minimax:tool_call>", '<invoke name="'),
        closings=("</minimax:tool_call>",),
        name=('<invoke name="', '">'),
        key=('<parameter name="', '">'),
        value=("", "</parameter>"),
        end="</invoke>",
        prefix="<minimax:tool_call>\n",
        between="\n",
        suffix="\n</minimax:tool_call>",
    ),
)
