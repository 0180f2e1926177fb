"""What a tool knows of the conversation that it works for: its owner, its folder, its files, its pictures."""

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from models.messages import Image


class File(Struct, frozen=True, omit_defaults=True):
    """A file of a session."""

    name: str
    """Its path in the working folder, with `/`."""
    type: str
    """Media type."""
    size: int
    """Bytes."""
    about: str = ""
    """What it holds, in a line: columns and rows of a table, pages of a PDF, …"""
    id: str = ""
    """Under which a server keeps it; empty where none does."""

    @property
    def line(self) -> str:
        """All of it in a line for a model."""
        return f"{self.name} ({self.type}, {self.size} bytes){': ' + self.about if self.about else ''}"

    @property
    def link(self) -> str:
        """Where a server gives it out; empty where none does."""
        return f"/v1/files/{self.id}/content" if self.id else ""


class Files(Protocol):
    """Knows a session's files, and keeps those that tools make."""

    async def listed(self, session: "Session") -> tuple[File, ...]:
        """The files in the working folder, each with what is known of it, by name."""

    async def kept(self, session: "Session", names: Sequence[str]) -> tuple[File, ...]:
        """Keeps files of the working folder that a tool has made or changed, and tells what they became."""


class Session:
    """The workspace of one conversation.

    Session(Path("work")) in a script; a server gives the other parts.

    Args:
        folder: the working folder, which exists.
        id: the session's id. Tools keep what belongs to it under this name.
        user_id: its owner.
        files: what knows and keeps its files; a server's. Without it files are those of the folder.
        images: the pictures of the conversation, the oldest first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        id: str = "local",
        user_id: str = "local",
        files: Files | None = None,
        images: tuple[Image, ...] = (),
    ) -> None:
        self.folder = folder
        self.id = id
        self.user_id = user_id
        self.images = images
        self._files = files or FolderFiles()

    async def files(self) -> tuple[File, ...]:
        """The files in the working folder, by name."""
        return await self._files.listed(self)

    async def keep(self, names: Sequence[str]) -> tuple[File, ...]:
        """Keeps files of the working folder that a tool has made or changed."""
        return await self._files.kept(self, names) if names else ()


class FolderFiles:
    """`Files` where there is no server: what lies in the folder."""

    async def listed(self, session: Session) -> tuple[File, ...]:
        """The files in the folder, by name."""
        found = (path for path in session.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return tuple(_file(session.folder, path) for path in sorted(found))

    async def kept(self, session: Session, names: Sequence[str]) -> tuple[File, ...]:
        """The files as they are."""
        return tuple(_file(session.folder, session.folder / name) for name in names)


def _file(folder: Path, path: Path) -> File:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(path.relative_to(folder).as_posix(), media_type, path.stat().st_size)
