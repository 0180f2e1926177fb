"""Which projector (mmproj) belongs to which model file."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from models.llama_cpp.gguf import Scalar

_ENDING = re.compile(r"-(i?q\d+(-[a-z0-9]{1,2})*|mxfp\d+(-moe)?|b?f(p?16|32)|ud|\d{5}-of-\d{5})$")
"""A precision such as `Q4_K_M`, or the number of a shard, at the end of a name in small letters and hyphens."""
_F16 = re.compile(r"(?<!b)f16")


class Header(Struct, frozen=True):
    """What a GGUF file says of itself."""

    path: Path
    metadata: Mapping[str, Scalar]
    changed: int
    """When, in Unix time."""

    @property
    def architecture(self) -> Scalar | None:
        """The kind of model; that of a projector is `clip`."""
        return self.metadata.get("general.architecture")


def is_named_projector(path: Path) -> bool:
    """Whether a file is a projector by its name, as all tools call them."""
    return "mmproj" in path.name.lower()


def projector_of(model: Header, projectors: Iterable[Header], models: Iterable[Path]) -> Path | None:
    """The projector of a model, of those beside it: one that bears its name, or else one that bears none.

    One without a name (`mmproj-F16.gguf`) counts only where `models`, all the models beside it, are the same model. Of
    several, the longest name is taken, then F16, then the first by name.
    """
    name = _name(model.path)
    fitting = {file.path: _name(file.path) for file in projectors if _fits(file, model)}
    named = [path for path, own in fitting.items() if own and f"{name}-".startswith(f"{own}-")]
    nameless = [path for path, own in fitting.items() if not own]
    if not named and all(_name(path) == name for path in models):
        named = nameless
    return min(named, key=lambda path: (-len(fitting[path]), not _is_f16(path), path.name), default=None)


def _name(path: Path) -> str:
    """The model's name in a file's: `mmproj-gemma-3-4b-it-f16.gguf` and `gemma-3-4b-it-Q4_K_M.gguf` have the same."""
    words = re.findall(r"[a-z0-9]+", path.stem.lower())
    name = "".join(f"-{word}" for word in words if word not in ("mmproj", "model"))
    while ending := _ENDING.search(name):
        name = name[: ending.start()]
    return name[1:]


def _is_f16(path: Path) -> bool:
    return _F16.search(path.name.lower()) is not None


def _fits(projector: Header, model: Header) -> bool:
    """Whether a file is a projector for pictures, and gives vectors as wide as the model takes them.

    Older files, made for LLaVA, have no `general.type`, and their `projection_dim` means something else.
    """
    about = projector.metadata
    if projector.architecture != "clip" or about.get("clip.has_vision_encoder") is not True:
        return False
    given = about.get("clip.vision.projection_dim")
    wanted = model.metadata.get(f"{model.architecture}.embedding_length")
    return about.get("general.type") != "mmproj" or not given or given == wanted
