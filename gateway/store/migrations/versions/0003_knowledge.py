"""Knowledge: collections of documents, their chunks, and the chunks' vectors."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "knowledge_collections",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(255)),
        sa.Column("dimensions", sa.Integer),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("user_id", "name", name="uq_knowledge_collections_user_id_name"),
    )
    op.create_index("ix_knowledge_collections_user_id_created_at", "knowledge_collections", ["user_id", "created_at"])
    op.create_table(
        "knowledge_documents",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column(
            "collection_id",
            sa.String(64),
            sa.ForeignKey("knowledge_collections.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("name", sa.String(400), nullable=False),
        sa.Column("attempt", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("characters", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "ix_knowledge_documents_collection_id_created_at", "knowledge_documents", ["collection_id", "created_at"]
    )
    op.create_index("ix_knowledge_documents_status", "knowledge_documents", ["status"])
    op.create_table(
        "knowledge_chunks",
        sa.Column("collection_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column(
            "document_id", sa.String(64), sa.ForeignKey("knowledge_documents.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("begins", sa.Integer, nullable=False),
        sa.Column("ends", sa.Integer, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("headings", sa.Text, nullable=False),
        sa.Column("page", sa.Integer),
    )
    op.create_index("ix_knowledge_chunks_document_id", "knowledge_chunks", ["document_id"])
    op.create_table(
        "knowledge_vectors",
        sa.Column("collection_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("dimensions", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id", "number"],
            ["knowledge_chunks.collection_id", "knowledge_chunks.number"],
            name="fk_knowledge_vectors_chunk",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    for table in ("knowledge_vectors", "knowledge_chunks", "knowledge_documents", "knowledge_collections"):
        op.drop_table(table)
