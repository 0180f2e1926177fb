"""Granite 3: an array of calls behind `<|tool_call|>`. (Granite 4 writes as Hermes does.)"""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.named import NamedJson

GRANITE = Family(
    "granite",
    ("<|tool_call|>", "<|start_of_role|>"),
    NamedJson(openings=("<|tool_call|>",), prefix="<|tool_call|>[", between=", ", suffix="]"),
    reply_tags=("<response>", "</response>"),
)
