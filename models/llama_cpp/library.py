"""Which model files there are, and what each can do."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from models.backend import Capability
from models.llama_cpp.families import family_of
from models.llama_cpp.gguf import NotGguf, read_metadata
from models.llama_cpp.projectors import Header, is_named_projector, projector_of

BUILTIN_ID = "drover-tiny"

_SHARD = re.compile(r"-(\d{5})-of-\d{5}$")
_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "t5encoder"}
)
_RANKING = 4


class ModelFile(Struct, frozen=True):
    """A GGUF file under the id by which it is called."""

    id: str
    path: Path
    owned_by: str = ""
    problem: str = ""
    """Why it cannot be used; empty where it can."""
    created: int = 0
    context: int = 0
    """Tokens the model was trained for; 0 where the file does not say."""
    capabilities: frozenset[Capability] = frozenset()
    projector: Path | None = None
    """The file with which the model sees; None: it cannot."""


class Library:
    """The GGUF files of a configuration. Headers are read once, until a file changes."""

    def __init__(self, paths: Sequence[Path], folder: Path | None, builtin: Path | None) -> None:
        self._paths = [path.absolute() for path in paths]
        self._folder = folder.absolute() if folder else None
        self._builtin = builtin.absolute() if builtin else None
        self._read: dict[Path, tuple[tuple[int, int], Header | str]] = {}

    def scan(self) -> dict[str, ModelFile]:
        """All files by id, those that cannot be used among them. Of two files with one id, the first is taken."""
        found: dict[str, ModelFile] = {}
        for path in [*self._paths, *self._in_folder()]:
            found.setdefault(id_of(path), self._file(path, id_of(path)))
        if self._builtin:
            found.setdefault(BUILTIN_ID, self._file(self._builtin, BUILTIN_ID))
        return found

    def _in_folder(self) -> Iterable[Path]:
        if not self._folder or not self._folder.is_dir():
            return ()
        return sorted(path for path in self._folder.rglob("*.gguf") if _is_model(path))

    def _file(self, path: Path, model: str) -> ModelFile:
        owner = "drover" if path == self._builtin else ""
        header = self._header(path)
        if isinstance(header, str):
            return ModelFile(model, path, owner, problem=header)
        if header.architecture == "clip":
            return ModelFile(model, path, owner, problem=f"the file {path.name} is a projector, and no model by itself")
        projector = self._projector(header)
        return ModelFile(
            model,
            path,
            owner,
            created=header.changed,
            context=int(header.metadata.get(f"{header.architecture}.context_length", 0)),
            capabilities=frozenset(_capabilities(header, projector)),
            projector=projector,
        )

    def _projector(self, model: Header) -> Path | None:
        beside = sorted(model.path.parent.glob("*.gguf"))
        headers = [self._header(path) for path in beside if is_named_projector(path)]
        usable = [header for header in headers if isinstance(header, Header)]
        return projector_of(model, usable, filter(_is_model, beside)) if usable else None

    def _header(self, path: Path) -> Header | str:
        """What a file says of itself, or why it cannot be used."""
        try:
            stat = path.stat()
        except OSError as error:
            return f"the file {path.name} cannot be opened: {error.strerror}"
        stamp = (stat.st_mtime_ns, stat.st_size)
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = (stamp, _read(path, int(stat.st_mtime)))
        return self._read[path][1]


def id_of(path: Path) -> str:
    """The id of a file: its name without `.gguf`, and without the number of a shard."""
    return _SHARD.sub("", path.name.removesuffix(".gguf"))


def _is_model(path: Path) -> bool:
    """Neither a vision projector nor a later shard of a split model."""
    shard = _SHARD.search(path.stem)
    return not is_named_projector(path) and (shard is None or int(shard[1]) == 1)


def _read(path: Path, changed: int) -> Header | str:
    try:
        return Header(path, read_metadata(path), changed)
    except NotGguf as error:
        return f"the file {path.name} is not a usable GGUF file: {error}"
    except OSError as error:
        return f"the file {path.name} cannot be read: {error.strerror}"


def _capabilities(header: Header, projector: Path | None) -> Iterator[Capability]:
    """A model that pools is for embedding and not for chat; one without a template is spoken to in ChatML."""
    metadata = header.metadata
    pooling = metadata.get(f"{header.architecture}.pooling_type", 0)
    if pooling == _RANKING:
        return
    if pooling or header.architecture in _ENCODERS:
        yield "embed"
        return
    yield "chat"
    templates = "".join(str(value) for key, value in metadata.items() if key.startswith("tokenizer.chat_template"))
    if "tools" in templates:
        yield "tools"
    if "enable_thinking" in templates or family_of(templates).thinks:
        yield "thinking"
    if projector:
        yield "vision"
