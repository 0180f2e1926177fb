"""Qwen3-Coder and Qwen 3.5: each argument between tags. Also Nemotron 3 and Seed-OSS, which has tags of its own."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.tagged import Tagged


def _form(tag: str, value: tuple[str, str]) -> Tagged:
    return Tagged(
        openings=(f"<{tag}>", "<function="),
        closings=(f"</{tag}>",),
        name=("<function=", ">"),
        key=("<parameter=", ">"),
        value=value,
        end="</function>",
        prefix=f"<{tag}>\n",
        between=f"\n</{tag}>\n<{tag}>\n",
        suffix=f"\n</{tag}>",
    )


QWEN_CODER = Family(
    "qwen-coder", ("<tool_call>", "<function=", "<parameter="), _form("tool_call", ("\n", "\n</parameter>"))
)

SEED = Family(
    "seed",
    ("seed:tool_call>", "<function=", "<parameter="),
    _form("seed:tool_call", ("", "</parameter>")),
    "<seed:think>",
    "</seed:think>",
)
