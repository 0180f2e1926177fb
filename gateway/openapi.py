"""The OpenAPI document: from the route handlers, their parameters and return types, and from the table `DETAILS`.

Litestar's own generator is not used: it knows no bodies of handlers that decode themselves, loses the discriminators of
unions and bounds of 0, describes its own errors instead of ours, takes each alias of a path for an operation, and
answers unknown addresses in HTML.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from agents.events import Durable
from auth.guards import ANY
from auth.keys import SCOPES
from auth.middleware import PUBLIC
from gateway.errors import ErrorBody
from gateway.openai.described import ChatBody, EmbeddingBody
from gateway.openai.response import Chunk, Completion
from gateway.parts import VERSION
from gateway.routes.auth import Credentials, NewKey, Refresh
from gateway.routes.files import FileOut, Uploaded
from gateway.routes.health import State
from gateway.routes.knowledge import DocumentIn, NewCollection, Question
from gateway.routes.runs import RunOut
from gateway.routes.tools import ToolArguments, ToolResult
from gateway.routes.users import NewUser, UserChange

Schema = dict[str, Any]


class Stamp(Struct, frozen=True):
    """What a run's event has besides its own fields."""

    seq: int
    """Its number in the run, from 1."""
    at: float
    """When it happened: unix time in seconds."""


class Detail(Struct, frozen=True):
    """What a handler's signature does not tell."""

    body: Any = None
    """Type of the request's body."""
    answer: Any = None
    """Type of the answer, where the return annotation leaves it open."""
    frames: tuple[Any, ...] = ()
    """Types of each `data:` of a streamed answer; of several it is all at once."""
    other: Mapping[int, Any] = {}
    """Types of answers with another status, which are no errors."""
    errors: tuple[int, ...] = ()
    """Statuses of errors beyond those that follow from the route."""
    example: Mapping[str, Any] = {}
    """A request's body."""
    form: Mapping[str, str] = {}
    """Fields of a body that is a form, each with a sentence. Those named `file` or `files` are files."""


HELLO = {"model": "drover-tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": False}

FILE = {"file": "The file.", "purpose": "As OpenAI has it.", "expires_after[seconds]": "When it is to be deleted."}
FILES = {"files": "Any number of files."}
SESSION = {"session_id": "The session that they go into; absent: a new one."}

DETAILS: dict[str, Detail] = {
    "createChatCompletion": Detail(
        body=ChatBody, answer=Completion, frames=(Chunk,), errors=(404, 429, 502, 503, 504), example=HELLO
    ),
    "createFile": Detail(answer=FileOut, form=FILE | SESSION, errors=(404, 507)),
    "uploadFiles": Detail(answer=Uploaded, form=FILES | SESSION, errors=(404, 507)),
    "createRun": Detail(body=ChatBody, answer=RunOut, errors=(404, 409, 429, 502), example=HELLO),
    "pauseRun": Detail(errors=(409,)),
    "resumeRun": Detail(errors=(409, 429)),
    "replayRun": Detail(frames=(Chunk,), errors=(409,)),
    "callTool": Detail(body=ToolArguments, answer=ToolResult, errors=(429,)),
    "createKnowledge": Detail(body=NewCollection, errors=(409,)),
    "addDocument": Detail(body=DocumentIn, errors=(429,)),
    "replaceDocument": Detail(body=DocumentIn, errors=(429,)),
    "searchKnowledge": Detail(body=Question, errors=(429,)),
    "reindexKnowledge": Detail(errors=(429,)),
    "createEmbeddings": Detail(body=EmbeddingBody, errors=(404, 429, 502, 503, 504)),
    "listModels": Detail(),
    "streamRunEvents": Detail(frames=(Stamp, Durable)),
    "register": Detail(body=Credentials, errors=(403, 429)),
    "login": Detail(body=Credentials, errors=(401, 429)),
    "refresh": Detail(body=Refresh, errors=(401,)),
    "createKey": Detail(body=NewKey),
    "addUser": Detail(body=NewUser),
    "changeUser": Detail(body=UserChange),
    "ready": Detail(other={503: State}),
}

TAGS = {
    "chat": ("Chat", "Answers from models and agents."),
    "embeddings": ("Chat", ""),
    "models": ("Models", "What can be asked."),
    "runs": ("Runs", "What ran and what is running."),
    "sessions": ("Sessions and files", "Conversations that are kept, and their files."),
    "files": ("Sessions and files", ""),
    "upload": ("Sessions and files", ""),
    "tools": ("Tools", "What agents call."),
    "knowledge": ("Knowledge", "Documents that are searched."),
    "auth": ("Login and API keys", "One's own account."),
    "users": ("Users", "For admins."),
    "health": ("Health", "For operators."),
    "metrics": ("Health", ""),
}

ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key or token, or none that counts.",
    403: "Not allowed to this user or key.",
    404: "There is no such thing, or it is someone else's.",
    409: "Not in this state, or there is one of this name.",
    413: "The body is too large, or there is no room left; the message says how much there is.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "A fault of the server. Give the `x-request-id` when you report it.",
    502: "The backend gave an error or nonsense.",
    503: "The backend does not answer, a model is loading, or the server is shutting down.",
    504: "It took too long.",
    507: "The disk is full.",
}

ABOUT = """One OpenAI-compatible endpoint over local language models.

Every response carries `x-request-id`. Every error has the same body: `{"error": {"message", "type", "param", "code"}}`.
Chat, embeddings and models are there without the `/v1` too."""


def document(handlers: Iterable[HTTPRouteHandler]) -> bytes:
    """The document as JSON, for these handlers."""
    operations = [operation for handler in handlers for operation in _operations(handler)]
    operations.sort(key=lambda operation: [tag for tag, _ in TAGS.values()].index(operation.tag))
    schemas = Schemas([kind for operation in operations for kind in operation.types()] + [ErrorBody])
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation.describe(schemas)
    text = {
        "openapi": "3.1.0",
        "info": {
            "title": "Drover",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"key": []}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.values() if about],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {f"Error{status}": _error(status, schemas) for status in ERRORS}
            | {"Error": _error(None, schemas)},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`sk-…`), an access token from `/api/auth/login`, or a token of the "
                    "identity provider that this server was set up with.",
                },
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "The same, without `Bearer`.",
                },
            },
        },
    }
    return msgspec.json.format(msgspec.json.encode(text), indent=1)


class Schemas:
    """JSON Schemas of types, with a sentence for each field that has one below it in the source."""

    def __init__(self, types: Iterable[Any]) -> None:
        self._types = list(types)
        self._schemas, self.components = _tidy(
            msgspec.json.schema_components(self._types, ref_template="#/components/schemas/{name}")
        )
        for name, kind in _structs(self._types).items():
            fields = self.components.get(name, {}).get("properties", {})
            for field, sentence in sentences(kind).items():
                if field in fields:
                    fields[field] = fields[field] | {"description": sentence}

    def of(self, kind: Any) -> Schema:
        """The schema of one of the types."""
        return next(schema for known, schema in zip(self._types, self._schemas, strict=True) if known is kind)


class Operation(Struct, frozen=True):
    """A handler at one path, by one method."""

    path: str
    method: str
    handler: HTTPRouteHandler
    hints: dict[str, Any]

    @property
    def id(self) -> str:
        """Stable: clients are generated with methods of this name."""
        first, *rest = self.handler.fn.__name__.split("_")
        given = self.handler.operation_id
        return given if isinstance(given, str) else first + "".join(word.title() for word in rest)

    @property
    def detail(self) -> Detail:
        """Its line in the table."""
        return DETAILS.get(self.id, Detail())

    @property
    def public(self) -> bool:
        """Whether it needs no credential."""
        return bool(self.handler.opt.get(PUBLIC))

    @property
    def tag(self) -> str:
        """The group in which it is shown."""
        return next(TAGS[part][0] for part in self.path.split("/") if part in TAGS)

    @property
    def answer(self) -> Any:
        """Type of the answer; None: it has no body, or one that is no JSON."""
        returned = self.hints["return"]
        if get_origin(returned) is Response:
            returned = get_args(returned)[0]
        known = isinstance(returned, type) and issubclass(returned, Struct)
        return self.detail.answer or (returned if known else None)

    def types(self) -> Iterator[Any]:
        """All types that it needs schemas of."""
        detail = self.detail
        kinds = (
            detail.body,
            self.answer,
            *detail.frames,
            *detail.other.values(),
            *(kind for _, kind in self._inputs()),
        )
        yield from (kind for kind in kinds if kind is not None)

    def describe(self, schemas: Schemas) -> dict[str, Any]:
        """The operation as OpenAPI puts it."""
        summary, _, rest = inspect.cleandoc(self.handler.fn.__doc__ or "").partition("\n\n")
        parts: dict[str, Any] = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": " ".join(summary.replace("`", "").split()).removesuffix("."),
            "description": " ".join(filter(None, [" ".join(rest.split()), self._needs()])),
            "parameters": [self._parameter(name, schemas.of(kind)) for name, kind in self._inputs()],
            "requestBody": self._body(schemas),
            "responses": self._responses(schemas),
            "security": [{}] if self.public else None,
        }
        return {name: part for name, part in parts.items() if part}

    def _needs(self) -> str:
        scope = self.handler.opt.get("scope", ANY)
        return f"A limited API key needs the scope `{scope}`: {SCOPES[scope]}." if scope in SCOPES else ""

    def _inputs(self) -> Iterator[tuple[str, Any]]:
        return ((name, kind) for name, kind in self.hints.items() if name not in ("request", "return"))

    def _parameter(self, name: str, schema: Schema) -> dict[str, Any]:
        kind = get_args(self.hints[name])[1:]
        bounds = {word: getattr(kind[0], field, None) for field, word in _BOUNDS.items()} if kind else {}
        bounds = {word: value for word, value in bounds.items() if value is not None}
        if f"{{{name}}}" in self.path:
            return {"name": name, "in": "path", "required": True, "schema": schema | bounds}
        default = inspect.signature(self.handler.fn).parameters[name].default
        if default is None:
            schema = next(kind for kind in schema["anyOf"] if kind != {"type": "null"})
        else:
            bounds["default"] = default
        return {"name": name, "in": "query", "required": False, "schema": schema | bounds}

    def _body(self, schemas: Schemas) -> dict[str, Any] | None:
        detail = self.detail
        if detail.form:
            return {"required": True, "content": {"multipart/form-data": {"schema": _form(detail.form)}}}
        if detail.body is None:
            return None
        content: dict[str, Any] = {"schema": schemas.of(detail.body)}
        if detail.example:
            content["example"] = detail.example
        return {"required": True, "content": {"application/json": content}}

    def _responses(self, schemas: Schemas) -> dict[str, Any]:
        detail, status = self.detail, self.handler.status_code
        responses: dict[str, Any] = {str(status): self._success(schemas)}
        for code, kind in detail.other.items():
            responses[str(code)] = {
                "description": HTTPStatus(code).phrase,
                "content": {"application/json": {"schema": schemas.of(kind)}},
            }
        for code in sorted(self._errors() - {int(code) for code in responses}):
            responses[str(code)] = {"$ref": f"#/components/responses/Error{code}"}
        responses["default"] = {"$ref": "#/components/responses/Error"}
        return responses

    def _success(self, schemas: Schemas) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if self.answer is not None:
            content["application/json"] = {"schema": schemas.of(self.answer)}
        if frames := [schemas.of(kind) for kind in self.detail.frames]:
            content["text/event-stream"] = {"schema": frames[0] if len(frames) == 1 else {"allOf": frames}}
        if not content and self.hints["return"] is not type(None):
            content[str(self.handler.media_type)] = {"schema": {"type": "string"}}
        description = HTTPStatus(self.handler.status_code).phrase
        if self.detail.frames:
            description += ". A stream has one of these after each `data:`."
        return {"description": description} | ({"content": content} if content else {})

    def _errors(self) -> set[int]:
        errors = {500, *self.detail.errors}
        if not self.public:
            errors |= {401, 403, 503}
        if self.detail.body is not None or self.detail.form:
            errors |= {400, 413}
        if any(True for _ in self._inputs()):
            errors |= {404} if "{" in self.path else {400}
        return errors


def _form(fields: Mapping[str, str]) -> Schema:
    properties: Schema = {}
    for name, sentence in fields.items():
        content: Schema = {"type": "string"}
        if name in ("file", "files"):
            content["contentMediaType"] = "application/octet-stream"
        if name == "files":
            content = {"type": "array", "items": content}
        properties[name] = content | {"description": sentence}
    return {"type": "object", "properties": properties, "required": [next(iter(fields))]}


_BOUNDS = {"ge": "minimum", "le": "maximum", "min_length": "minLength", "max_length": "maxLength"}


def _tidy(part: Any) -> Any:
    """The same, with `oneOf` where a tag decides, as generators of clients expect it, and without defaults of null."""
    if isinstance(part, list | tuple):
        return [_tidy(item) for item in part]
    if isinstance(part, dict):
        one_of = {"anyOf": "oneOf"} if "discriminator" in part else {}
        shown = {key: value for key, value in part.items() if key != "default" or value is not None}
        return {one_of.get(key, key): _tidy(value) for key, value in shown.items()}
    return part


def _operations(handler: HTTPRouteHandler) -> Iterator[Operation]:
    """A handler's operations, at the first of its paths; the others are aliases."""
    path = min(handler.paths, key=lambda path: (not path.startswith("/v1/"), path == "/", len(path)))
    hints = get_type_hints(handler.fn, include_extras=True)
    for method in sorted(handler.http_methods):
        yield Operation(re.sub(r"{(\w+):\w+}", r"{\1}", path), str(method).lower(), handler, hints)


def _error(status: int | None, schemas: Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": ERRORS[status] if status else "Any other error.",
        "content": {"application/json": {"schema": schemas.of(ErrorBody)}},
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return response


def _structs(types: Iterable[Any]) -> dict[str, type[Struct]]:
    """All structs that some types consist of, by their names."""
    found: dict[str, type[Struct]] = {}
    waiting = list(types)
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Struct):
            if found.setdefault(kind.__name__, kind) is kind:
                waiting += [hint for hint in get_type_hints(kind).values() if hint not in found.values()]
        else:
            waiting += get_args(kind)
    return found


def sentences(kind: type[Any]) -> dict[str, str]:
    """What a class says of its fields: the string below each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] not in ("gateway", "agents", "models", "auth", "tools"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str() as sentence)):
                    found[name] = " ".join(sentence.split())
    return found
