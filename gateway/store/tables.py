"""The tables: people and credentials, runs and events, sessions and files, knowledge. Times are unix seconds."""

from advanced_alchemy.base import DefaultBase
from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column


class UserRow(DefaultBase):
    """A person, or an end user that an identity provider or Open WebUI vouches for."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(400))
    name_key: Mapped[str] = mapped_column(String(400), unique=True)
    """The name as it is looked up: folded for people, exact for foreign subjects, whose case counts."""
    password_hash: Mapped[str | None] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    disabled: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Float)


class ApiKeyRow(DefaultBase):
    """An API key, of which only the hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(16))
    """The first characters, by which its owner tells it from others."""
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[str] = mapped_column(Text)
    """Separated by spaces; empty: all that the owner may do."""
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float | None] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)
    last_used_at: Mapped[float | None] = mapped_column(Float)
    """Right to about a minute."""


class RefreshTokenRow(DefaultBase):
    """A refresh token, of which only the hash is kept. All that descend from one login are a family."""

    __tablename__ = "refresh_tokens"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    family: Mapped[str] = mapped_column(String(64), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float, index=True)
    used_at: Mapped[float | None] = mapped_column(Float)
    """When it was exchanged for its successor; used again, it was stolen."""


class RevokedTokenRow(DefaultBase):
    """The `jti` of a token, or the `sid` of a whole login, that no longer counts. Kept until it would have expired."""

    __tablename__ = "revoked_tokens"

    jti: Mapped[str] = mapped_column(String(255), primary_key=True)
    expires_at: Mapped[float] = mapped_column(Float, index=True)


class RunRow(DefaultBase):
    """One run: who asked whom, how it ended, and what it used."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_user_id_created_at", "user_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key_id: Mapped[str | None] = mapped_column(String(64))
    mode: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(255))
    backend: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float, index=True)
    finished_at: Mapped[float | None] = mapped_column(Float)
    session_id: Mapped[str | None] = mapped_column(String(255), index=True)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cached_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    first_token_ms: Mapped[float | None] = mapped_column(Float)
    stop_reason: Mapped[str | None] = mapped_column(String(64))
    error_code: Mapped[str | None] = mapped_column(String(64))


class EventRow(DefaultBase):
    """One durable event of a run. In order of `seq` they are its history."""

    __tablename__ = "events"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Float)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    """The event as JSON."""


class RequestRow(DefaultBase):
    """What a run was asked to do, for taking it up again and for knowing a repeated request."""

    __tablename__ = "run_requests"
    __table_args__ = (Index("ix_run_requests_user_id_key", "user_id", "key"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(String(255))
    """The request's Idempotency-Key."""
    digest: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the body that came with the key."""
    work: Mapped[bytes | None] = mapped_column(LargeBinary)
    """All that is needed to set the agent to work again, as JSON; None: it cannot be."""
    created_at: Mapped[float] = mapped_column(Float)


class SessionRow(DefaultBase):
    """A conversation with its workspace."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_user_id_used_at", "user_id", "used_at"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[float] = mapped_column(Float)
    used_at: Mapped[float] = mapped_column(Float, index=True)


class SessionMessageRow(DefaultBase):
    """One message of a session's conversation, in order of `seq`."""

    __tablename__ = "session_messages"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    """The message as JSON."""
    bytes: Mapped[int] = mapped_column(Integer)
    """Length of `data`."""


class FileRow(DefaultBase):
    """A file as it was uploaded or made. Its bytes lie in the data folder and never change."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_user_id_created_at", "user_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(512))
    type: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    about: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float | None] = mapped_column(Float, index=True)


class ToolUseRow(DefaultBase):
    """How often a user's conversations have called a tool."""

    __tablename__ = "tool_uses"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    tool: Mapped[str] = mapped_column(String(128), primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float] = mapped_column(Float)
    last_used_at: Mapped[float] = mapped_column(Float)


class CollectionRow(DefaultBase):
    """A user's collection of documents."""

    __tablename__ = "knowledge_collections"
    __table_args__ = (
        UniqueConstraint("user_id", "name", name="uq_knowledge_collections_user_id_name"),
        Index("ix_knowledge_collections_user_id_created_at", "user_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
    generation: Mapped[int] = mapped_column(BigInteger)
    model: Mapped[str | None] = mapped_column(String(255))
    dimensions: Mapped[int | None] = mapped_column(Integer)
    epoch: Mapped[int] = mapped_column(BigInteger)


class DocumentRow(DefaultBase):
    """A document of a collection."""

    __tablename__ = "knowledge_documents"
    __table_args__ = (Index("ix_knowledge_documents_collection_id_created_at", "collection_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    collection_id: Mapped[str] = mapped_column(ForeignKey("knowledge_collections.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(400))
    attempt: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)
    status: Mapped[str] = mapped_column(String(16), index=True)
    error: Mapped[str] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(BigInteger)
    chunks: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(BigInteger)
    characters: Mapped[int] = mapped_column(BigInteger)


class ChunkRow(DefaultBase):
    """A piece of a document's text, by its number in the collection."""

    __tablename__ = "knowledge_chunks"

    collection_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    document_id: Mapped[str] = mapped_column(ForeignKey("knowledge_documents.id", ondelete="CASCADE"), index=True)
    text: Mapped[str] = mapped_column(Text)
    begins: Mapped[int] = mapped_column(Integer)
    ends: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)
    headings: Mapped[str] = mapped_column(Text)
    """A JSON array of texts."""
    page: Mapped[int | None] = mapped_column(Integer)


class VectorRow(DefaultBase):
    """A chunk's vector, of the model that made it."""

    __tablename__ = "knowledge_vectors"
    __table_args__ = (
        ForeignKeyConstraint(
            ["collection_id", "number"],
            ["knowledge_chunks.collection_id", "knowledge_chunks.number"],
            name="fk_knowledge_vectors_chunk",
            ondelete="CASCADE",
        ),
    )

    collection_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    model: Mapped[str] = mapped_column(String(255), primary_key=True)
    dimensions: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    """Float32 numbers, little-endian."""
