"""/api/knowledge: collections of documents, and searching them. A collection belongs to whoever made it.

Taking in a document is a run: the answer names it, and /v1/runs/{id}/events tells how far it is.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, delete, get, post, put
from litestar.params import FromPath, QueryParameter
from msgspec import Meta, Struct
from msgspec.structs import asdict

from agents.events import Answer, AnyEvent, Asked, Log, Progress
from gateway.errors import ApiError, bad_request, decode, missing, not_found, rate_limited
from gateway.parts import Parts, parts_of
from gateway.runs import Origin, Run
from models.messages import Message
from tools.knowledge import (
    BadName,
    CannotEmbed,
    Collection,
    Crowded,
    Document,
    Found,
    Ingestion,
    Knowledge,
    KnowledgeError,
    NameTaken,
    NotFound,
    Step,
    Superseded,
    TooMuch,
)

MODE = "knowledge"
"""What the runs of this page are listed as."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class NewCollection(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/knowledge."""

    name: Name
    description: Annotated[str, Meta(max_length=2000)] = ""


class DocumentIn(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/knowledge/{id}/documents, and of PUT: a text, or a file that was uploaded."""

    text: str | None = None
    file_id: str | None = None
    name: Name | None = None
    """Its ending tells what a text is: `.md`, `.html`, … A file has its own name."""


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/knowledge/{id}/search."""

    query: Annotated[str, Meta(min_length=1, max_length=4000)]
    k: Annotated[int, Meta(ge=1, le=50)] = 5


class CollectionOut(Struct, frozen=True):
    """A collection."""

    id: str
    object: Literal["knowledge"]
    name: str
    description: str
    created_at: float
    embedding_model: str | None
    """The one that made its vectors; without one it is searched by words alone."""


class CollectionDetail(CollectionOut, frozen=True, kw_only=True):
    """A collection, and what it holds."""

    documents: int
    chunks: int
    embedded: int
    """Chunks that have a vector by `embedding_model`."""


class CollectionList(Struct, frozen=True):
    """A page of collections, newest first; the next begins `after` the last id."""

    object: Literal["list"]
    data: list[CollectionOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DocumentOut(Struct, frozen=True):
    """A document of a collection."""

    id: str
    object: Literal["knowledge.document"]
    collection_id: str
    name: str
    status: Literal["ingesting", "ready", "failed"]
    """How taking it in stands. While a document is replaced, and where that fails, what was there before is found."""
    error: str | None
    created_at: float
    updated_at: float
    chunks: int
    tokens: int
    characters: int


class DocumentStarted(DocumentOut, frozen=True, kw_only=True):
    """A document that is being taken in, and the run that does it."""

    run_id: str


class DocumentList(Struct, frozen=True):
    """A page of documents, newest first; the next begins `after` the last id."""

    object: Literal["list"]
    data: list[DocumentOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class KnowledgeDeleted(Struct, frozen=True):
    """A collection or a document is gone."""

    id: str
    object: Literal["knowledge", "knowledge.document"]
    deleted: bool


class Started(Struct, frozen=True):
    """A run that has begun."""

    run_id: str
    object: Literal["run"]


class PassageOut(Struct, frozen=True):
    """A passage of a document."""

    text: str
    document: str
    document_id: str
    page: int | None
    headings: list[str]
    start: int
    """Where it begins in the document's text, in characters."""
    end: int
    score: float
    """Larger is better; to be compared within one answer only."""


class FoundOut(Struct, frozen=True):
    """What was found, the best first, and how it was searched."""

    object: Literal["list"]
    data: list[PassageOut]
    method: Literal["hybrid", "lexical"]
    """By words and vectors, or by words alone."""
    reranked: bool
    notes: list[str]
    """What was not done, and why."""


_new_collection = msgspec.json.Decoder(NewCollection)
_document = msgspec.json.Decoder(DocumentIn)
_question = msgspec.json.Decoder(Question)

SCOPE = {"scope": "knowledge"}


@post("/api/knowledge", opt=SCOPE, operation_id="createKnowledge")
async def create_knowledge(request: Request[Any, Any, Any]) -> CollectionOut:
    """Makes an empty collection."""
    body = decode(_new_collection, await request.body())
    with told():
        return _collection(await parts_of(request).knowledge.create(request.user.user_id, body.name, body.description))


@get("/api/knowledge", opt=SCOPE, operation_id="listKnowledge")
async def list_knowledge(
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    after: Annotated[str | None, QueryParameter()] = None,
) -> CollectionList:
    """Lists the caller's collections."""
    knowledge, user_id = parts_of(request).knowledge, request.user.user_id
    with told("after"):
        before = await knowledge.get(after, user_id) if after else None
    found = await knowledge.page(user_id, limit=limit + 1, before=before)
    page = [_collection(each) for each in found[:limit]]
    return CollectionList("list", page, len(found) > limit, page[0].id if page else None, page[-1].id if page else None)


@get("/api/knowledge/{knowledge_id:str}", opt=SCOPE, operation_id="retrieveKnowledge")
async def retrieve_knowledge(request: Request[Any, Any, Any], knowledge_id: FromPath[str]) -> CollectionDetail:
    """Describes a collection."""
    knowledge, collection = await _named(request, knowledge_id)
    return CollectionDetail(**asdict(_collection(collection)), **asdict(await knowledge.sizes(collection)))


@delete("/api/knowledge/{knowledge_id:str}", status_code=200, opt=SCOPE, operation_id="deleteKnowledge")
async def delete_knowledge(request: Request[Any, Any, Any], knowledge_id: FromPath[str]) -> KnowledgeDeleted:
    """Deletes a collection with its documents."""
    knowledge, collection = await _named(request, knowledge_id)
    await knowledge.delete(collection)
    return KnowledgeDeleted(collection.id, "knowledge", True)


@post(
    "/api/knowledge/{knowledge_id:str}/documents",
    status_code=202,
    opt=SCOPE,
    operation_id="addDocument",
)
async def add_document(request: Request[Any, Any, Any], knowledge_id: FromPath[str]) -> DocumentStarted:
    """Begins to take in a document: a text, or a file that was uploaded. It can be found when the run has ended."""
    body = decode(_document, await request.body())
    _, collection = await _named(request, knowledge_id)
    return await _take_in(request, body, collection, None)


@put(
    "/api/knowledge/{knowledge_id:str}/documents/{document_id:str}",
    status_code=202,
    opt=SCOPE,
    operation_id="replaceDocument",
)
async def replace_document(
    request: Request[Any, Any, Any], knowledge_id: FromPath[str], document_id: FromPath[str]
) -> DocumentStarted:
    """Begins to replace a document. Until the run has ended, what was there before is found."""
    body = decode(_document, await request.body())
    _, collection, document = await _document_named(request, knowledge_id, document_id)
    return await _take_in(request, body, collection, document)


@get("/api/knowledge/{knowledge_id:str}/documents", opt=SCOPE, operation_id="listDocuments")
async def list_documents(
    request: Request[Any, Any, Any],
    knowledge_id: FromPath[str],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    after: Annotated[str | None, QueryParameter()] = None,
) -> DocumentList:
    """Lists the documents of a collection."""
    knowledge, collection = await _named(request, knowledge_id)
    with told("after"):
        before = await knowledge.document(after, collection) if after else None
    found = await knowledge.documents(collection, limit=limit + 1, before=before)
    page = [_document_out(each) for each in found[:limit]]
    return DocumentList("list", page, len(found) > limit, page[0].id if page else None, page[-1].id if page else None)


@get("/api/knowledge/{knowledge_id:str}/documents/{document_id:str}", opt=SCOPE, operation_id="retrieveDocument")
async def retrieve_document(
    request: Request[Any, Any, Any], knowledge_id: FromPath[str], document_id: FromPath[str]
) -> DocumentOut:
    """Describes a document, and how taking it in stands."""
    *_, document = await _document_named(request, knowledge_id, document_id)
    return _document_out(document)


@delete(
    "/api/knowledge/{knowledge_id:str}/documents/{document_id:str}",
    status_code=200,
    opt=SCOPE,
    operation_id="deleteDocument",
)
async def delete_document(
    request: Request[Any, Any, Any], knowledge_id: FromPath[str], document_id: FromPath[str]
) -> KnowledgeDeleted:
    """Deletes a document. From now on nothing of it is found."""
    knowledge, _, document = await _document_named(request, knowledge_id, document_id)
    await knowledge.remove(document)
    return KnowledgeDeleted(document.id, "knowledge.document", True)


@post("/api/knowledge/{knowledge_id:str}/search", status_code=200, opt=SCOPE, operation_id="searchKnowledge")
async def search_knowledge(request: Request[Any, Any, Any], knowledge_id: FromPath[str]) -> FoundOut:
    """Finds the passages of a collection that fit a question best."""
    body = decode(_question, await request.body())
    knowledge, collection = await _named(request, knowledge_id)
    limits, caller = parts_of(request).limits, request.user.caller
    await limits.enter(caller)
    try:
        with told():
            return _found(await knowledge.search([collection], body.query, body.k))
    finally:
        limits.leave(caller, 0)


@post("/api/knowledge/{knowledge_id:str}/reindex", status_code=202, opt=SCOPE, operation_id="reindexKnowledge")
async def reindex_knowledge(request: Request[Any, Any, Any], knowledge_id: FromPath[str]) -> Started:
    """Begins to make the vectors of a collection with the embedding model that is set now."""
    knowledge, collection = await _named(request, knowledge_id)
    events = _events(knowledge.reindex(collection), lambda: f"{collection.name} was embedded.")
    async with _admitted(request) as leave:
        run = _start(request, f"Embed {collection.name}", events, leave)
    return Started(run.id, "run")


async def _take_in(
    request: Request[Any, Any, Any], body: DocumentIn, collection: Collection, old: Document | None
) -> DocumentStarted:
    """Begins a run that takes in the document of a request."""
    parts = parts_of(request)
    knowledge = parts.knowledge
    if (body.text is None) == (body.file_id is None):
        raise bad_request("Send either 'text' or 'file_id'.", "text")
    if body.file_id is not None:
        record = await parts.files.get(body.file_id, request.user.user_id)
        name = body.name or record.name
        source: Path | str = parts.files.path(record.id)
    elif (given := body.name or (old.name if old else None)) is None:
        raise missing("name")
    else:
        name, source = given, body.text or ""
    async with _admitted(request) as leave:
        with told():
            ingestion = await knowledge.add(collection, name, source, instead_of=old)
        begun = ingestion.document
        run = _start(request, f"Read {begun.name}", _taking(knowledge, ingestion), leave, ingestion.end)
    return DocumentStarted(**asdict(_document_out(begun)), run_id=run.id)


def _taking(knowledge: Knowledge, ingestion: Ingestion) -> AsyncGenerator[AnyEvent, None]:
    def result() -> str:
        document = ingestion.document
        return f"{document.name}: {document.chunks} chunks of {document.tokens} tokens."

    return _events(knowledge.steps(ingestion), result)


@asynccontextmanager
async def _admitted(request: Request[Any, Any, Any]) -> AsyncIterator[Callable[[], None]]:
    """Counts a run against its caller's limits. Gives what ends that, which happens here where no run comes of it."""
    limits, caller = parts_of(request).limits, request.user.caller
    await limits.enter(caller)
    try:
        yield lambda: limits.leave(caller, 0)
    except BaseException:
        limits.leave(caller, 0)
        raise


def _start(
    request: Request[Any, Any, Any],
    what: str,
    events: AsyncIterator[AnyEvent],
    leave: Callable[[], None],
    ended: Callable[[], None] = lambda: None,
) -> Run:
    """The run at work. `ended` is called when it is over, or does not come to be."""
    parts: Parts = parts_of(request)
    user = request.user
    origin = Origin(user.user_id, user.key_id, MODE, parts.settings.embedding_model, "")

    def over(run: Run) -> None:
        ended()
        leave()
        parts.metrics.run(run.record)

    try:
        return parts.runs.start(origin, Asked(model="", messages=(Message("user", what),)), lambda *_: events, over)
    except ApiError:
        ended()
        raise


async def _events(steps: AsyncGenerator[Step, None], result: Callable[[], str]) -> AsyncGenerator[AnyEvent, None]:
    """Steps as the events of a run: each stage is kept, and how far it is can be watched."""
    stage = ""
    with told():
        async with aclosing(steps):
            async for step in steps:
                if step.text != stage:
                    stage = step.text
                    yield Log(text=stage, data={"total": step.total} if step.total is not None else None)
                yield Progress(text=step.text, done=step.done, total=step.total)
    yield Answer(text=result())


@contextmanager
def told(param: str | None = None) -> Iterator[None]:
    """Makes errors of knowledge those of the API. `param` is where an id came from."""
    try:
        yield
    except NotFound as error:
        raise not_found(str(error), "knowledge_not_found", param) from error
    except BadName as error:
        raise bad_request(str(error), "name") from error
    except NameTaken as error:
        raise ApiError(409, str(error), code="name_taken", param="name") from error
    except Superseded as error:
        raise ApiError(409, str(error), code="superseded") from error
    except Crowded as error:
        raise rate_limited(str(error), 5.0) from error
    except TooMuch as error:
        raise ApiError(413, str(error), code="quota_exceeded") from error
    except CannotEmbed as error:
        raise bad_request(str(error), code="no_embedding_model") from error
    except KnowledgeError as error:
        raise bad_request(str(error), code="unreadable_document") from error


async def _named(request: Request[Any, Any, Any], knowledge_id: str) -> tuple[Knowledge, Collection]:
    knowledge = parts_of(request).knowledge
    with told("knowledge_id"):
        return knowledge, await knowledge.get(knowledge_id, request.user.user_id)


async def _document_named(
    request: Request[Any, Any, Any], knowledge_id: str, document_id: str
) -> tuple[Knowledge, Collection, Document]:
    knowledge, collection = await _named(request, knowledge_id)
    with told("document_id"):
        return knowledge, collection, await knowledge.document(document_id, collection)


def _collection(collection: Collection) -> CollectionOut:
    return CollectionOut(
        collection.id,
        "knowledge",
        collection.name,
        collection.description,
        collection.created_at,
        collection.space.model if collection.space else None,
    )


def _document_out(document: Document) -> DocumentOut:
    return DocumentOut(
        document.id,
        "knowledge.document",
        document.collection_id,
        document.name,
        document.status,
        document.error or None,
        document.created_at,
        document.updated_at,
        document.chunks,
        document.tokens,
        document.characters,
    )


def _found(found: Found) -> FoundOut:
    passages = [
        PassageOut(
            each.text,
            each.document,
            each.document_id,
            each.page,
            list(each.headings),
            each.start,
            each.end,
            each.score,
        )
        for each in found.passages
    ]
    return FoundOut("list", passages, "hybrid" if found.dense else "lexical", found.reranked, list(found.notes))


HANDLERS = (
    create_knowledge,
    list_knowledge,
    retrieve_knowledge,
    delete_knowledge,
    add_document,
    list_documents,
    retrieve_document,
    replace_document,
    delete_document,
    search_knowledge,
    reindex_knowledge,
)
