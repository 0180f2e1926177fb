"""Llama 3: JSON that is the whole answer, or stands behind `<|python_tag|>`."""

from models.llama_cpp.families.family import Family
from models.llama_cpp.families.named import NamedJson

LLAMA3 = Family(
    "llama3",
    ("<|start_header_id|>", '"parameters": '),
    NamedJson(
        openings=("<|python_tag|>",),
        bare=('{"name"', '{ "name"', '{\n    "name"', '{\n  "name"', '{"type": "function"'),
        single=True,
        head='{"name": NAME, "parameters": ',
    ),
)
