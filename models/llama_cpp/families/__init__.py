"""How families of models write their tool calls and thoughts. A new family is one more file, and a line in FAMILIES."""

from msgspec.structs import replace

from models.llama_cpp.families.deepseek import DEEPSEEK_V3, DEEPSEEK_V4, DEEPSEEK_V31, DEEPSEEK_V32
from models.llama_cpp.families.family import Family
from models.llama_cpp.families.gemma import FUNCTION_GEMMA, GEMMA4
from models.llama_cpp.families.glm import GLM
from models.llama_cpp.families.granite import GRANITE
from models.llama_cpp.families.harmony import HARMONY
from models.llama_cpp.families.hermes import HERMES
from models.llama_cpp.families.kimi import KIMI
from models.llama_cpp.families.llama3 import LLAMA3
from models.llama_cpp.families.minimax import MINIMAX
from models.llama_cpp.families.mistral import MISTRAL, OLD_MISTRAL
from models.llama_cpp.families.nemotron import NEMOTRON, PHI4
from models.llama_cpp.families.qwen_coder import QWEN_CODER, SEED

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES = (
    HARMONY,
    GEMMA4,
    FUNCTION_GEMMA,
    MISTRAL,
    OLD_MISTRAL,
    DEEPSEEK_V32,
    DEEPSEEK_V4,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    KIMI,
    MINIMAX,
    SEED,
    QWEN_CODER,
    GLM,
    NEMOTRON,
    GRANITE,
    PHI4,
    HERMES,
    LLAMA3,
)
"""In this order they are looked for in a template, since some signs stand in the templates of other families too."""


def family_of(template: str) -> Family:
    """The family by the model's chat template; Hermes where nothing tells, since most models have seen its form."""
    found = next((one for one in FAMILIES if all(sign in template for sign in one.signs)), HERMES)
    return replace(found, thinks=found.thought_opening in template)
