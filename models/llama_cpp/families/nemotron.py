"""Nemotron Nano 2: an array of calls between `<TOOLCALL>` tags. Phi-4 mini does the same with a tag of its own."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.named import NamedJson


def _form(opening: str, closing: str) -> NamedJson:
    return NamedJson((opening,), (closing,), prefix=f"{opening}[", between=", ", suffix=f"]{closing}")


NEMOTRON = Family("nemotron", ("<TOOLCALL>",), _form("<TOOLCALL>", "</TOOLCALL>"))

PHI4 = Family("phi4", ("<|tool|>", "<|/tool|>"), _form("<|tool_call|>", "<|/tool_call|>"))
