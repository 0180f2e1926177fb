"""Where attacks on the Python sandbox take place: what they are after, and the probes that tell whether they got it.

An attack has done harm only if something outside has changed, or if a planted word has come out; what an attack itself
says of its success counts for nothing, except for a word that it prints after a system call that must not work.
"""

import ast
import asyncio
import contextlib
import functools
import os
import re
import secrets
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from tests.sandbox_files import files
from tools.python import Execution, Limits

ATTACKS = Path(__file__).parent / "attacks"
TOKEN = secrets.token_hex(12)
"""A word that must not come out. It is in files, a database, the server's memory and environment."""
HARM = f"harm-{secrets.token_hex(6)}"
"""What an attack prints where a system call works that must not."""
VARIABLE = "DROVER_ATTACK_TOKEN"
_SLACK = 400 * 1024**2
"""Bytes by which a folder may be over its limit: what can be written on a busy machine before somebody looks."""
_FLAG = re.compile(r" \[(\w+)\]")


class Attack(Struct, frozen=True):
    """Cells that try to do harm."""

    name: str
    cells: list[str]
    flags: frozenset[str]
    """`bites`: does harm for sure where nothing confines it, and nothing that lasts; `late`: its harm comes after the
    call."""


def attacks(kind: str) -> list[Attack]:
    """Those of a file in tests/attacks/, whose form is that of language.txt."""
    found = []
    for block in (ATTACKS / f"{kind}.txt").read_text().split("\n=== ")[1:]:
        title, _, code = block.partition("\n")
        cells = code.rstrip("\n").split("\n---\n")
        found.append(Attack(_FLAG.sub("", title), cells, frozenset(_FLAG.findall(title))))
    return found


def disguised(attack: Attack) -> Attack:
    """The same with `getattr(a, "b")` for `a.b`, of which nothing is known before it runs."""
    cells = []
    for cell in attack.cells:
        try:
            cells.append(ast.unparse(_Disguise().visit(ast.parse(cell))))
        except SyntaxError:
            cells.append(cell)
    return Attack(attack.name, cells, attack.flags)


class _Disguise(ast.NodeTransformer):
    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            return node
        return ast.Call(ast.Name("getattr", ast.Load()), [node.value, ast.Constant(node.attr)], [])

    def visit_Match(self, node: ast.Match) -> ast.AST:
        return node


class Ears:
    """Listeners of every kind, who count who comes."""

    def __init__(self, folder: Path) -> None:
        self.tcp = 0
        self.udp = 0
        self.unix = str(folder / "unix.sock")
        self.datagrams = str(folder / "datagrams.sock")
        self.abstract = f"drover-attack-{secrets.token_hex(6)}"
        self.heard: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """While it lasts, they listen."""
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            tcp = await stack.enter_async_context(await asyncio.start_server(self._met("TCP"), "127.0.0.1", 0))
            self.tcp = tcp.sockets[0].getsockname()[1]
            await stack.enter_async_context(await asyncio.start_unix_server(self._met("UNIX"), self.unix))
            await stack.enter_async_context(
                await asyncio.start_unix_server(self._met("abstract UNIX"), f"\0{self.abstract}")
            )
            udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self.heard), ("127.0.0.1", 0))
            self.udp = udp.get_extra_info("sockname")[1]
            stack.callback(udp.close)
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            unix.bind(self.datagrams)
            other, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self.heard), sock=unix)
            stack.callback(other.close)
            for path in (self.unix, self.datagrams):
                os.chmod(path, 0o777)  # noqa: PTH101 - a socket
            yield

    def _met(self, how: str) -> "asyncio.streams._ClientConnectedCallback":
        def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard.append(how)
            writer.close()

        return met


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, address: object) -> None:
        self._heard.append("a datagram")


class Ground:
    """The surroundings of one attack. Everybody may do everything in them, so that no mode of a file hides a hole.

    Args:
        folder: a new one.
        other: the folder of another session.
        ears: who listens.
    """

    def __init__(self, folder: Path, other: Path, ears: Ears) -> None:
        self.folder = folder / "session"
        self._outside = folder / "outside"
        self._other = other
        self._ears = ears
        self._plant()
        self._before = self._look()
        self._own: object = None

    @property
    def _database(self) -> Path:
        return self._outside / "server.db"

    def _plant(self) -> None:
        for path in (self._outside, self._outside / "empty", self.folder):
            path.mkdir(parents=True)
        secret = f"{TOKEN}-file"
        (self._outside / "secret.txt").write_text(f"{secret}\n")
        (self._outside / "secret.mplstyle").write_text(f"{secret}: 1\n")
        (self._outside / "secret.xml").write_text(f"<x>{secret}</x>")
        (self._outside / f"{TOKEN}-name").touch()
        (self._outside / "evil.py").write_text(f"print({secret!r})\n")
        database = sqlite3.connect(self._database)
        with database:
            database.execute("CREATE TABLE secrets (token TEXT)")
            database.execute("INSERT INTO secrets VALUES (?)", (f"{TOKEN}-database",))
        database.close()
        for path in (self._outside, *self._outside.iterdir()):
            path.chmod(0o777)
        for name, content in _files().items():
            (self.folder / name).write_bytes(content)
        (self.folder / "planted").symlink_to(self._outside / "secret.txt")
        (self.folder / "planted_folder").symlink_to(self._outside)

    def cells(self, attack: Attack) -> Iterator[str]:
        """An attack's code for this ground."""
        values = {
            "SECRET": self._outside / "secret.txt",
            "OUTSIDE": self._outside,
            "OTHER": self._other,
            "DATABASE": self._database,
            "TCP": self._ears.tcp,
            "UDP": self._ears.udp,
            "UNIX": self._ears.unix,
            "DATAGRAMS": self._ears.datagrams,
            "ABSTRACT": self._ears.abstract,
            "SERVER": os.getpid(),
            "HARM": HARM,
            "REVERSED": TOKEN[::-1],
            "DEEP": "(" * 5000 + ")" * 5000,
            "WIDE": "x = " + "+".join(["1"] * 20_000),
            "SURROGATE": "\ud800",
            "CONTROL": "\x00\x1b[2J",
        }
        for cell in attack.cells:
            yield re.sub(r"@([A-Z]+)@", lambda match: str(values.get(match[1], match[0])), cell)

    def _look(self) -> dict[str, object]:
        return _look(self._outside) | _look(self._other)

    def rest(self) -> None:
        """The call is over: from now on nothing may happen in the session's folder."""
        self._own = _look(self.folder)

    def harms(self, limits: Limits) -> list[str]:
        """What has happened outside, or to the folder, that must not."""
        after = self._look()
        harms = [
            f"changed: {path.replace(TOKEN, 'TOKEN')}"
            for path in sorted(self._before.keys() | after.keys())
            if self._before.get(path) != after.get(path)
        ]
        harms += self._ears.heard
        self._ears.heard.clear()
        if self._own is not None and self._own != _look(self.folder):
            harms.append("the folder changed after the call")
        return harms + list(self._in_folder(limits))

    def _in_folder(self, limits: Limits) -> Iterator[str]:
        size = count = 0
        for root, folders, names in os.walk(self.folder):
            count += len(folders) + len(names)
            for name in names:
                path = os.path.join(root, name)  # noqa: PTH118 - there are names that pathlib does not like
                status = os.lstat(path)
                size += status.st_blocks * 512
                if status.st_size > limits.file_bytes and status.st_blocks * 512 > limits.file_bytes:
                    yield f"a file of {status.st_size} bytes"
                if not os.path.islink(path) and status.st_size < 1_000_000 and TOKEN in _text(path):  # noqa: PTH114
                    yield f"a secret was copied into {name!r}"
        if size > limits.folder_bytes + _SLACK:
            yield f"{size} bytes in the folder"
        if count > limits.files * 20:
            yield f"{count} files in the folder"


def told(execution: Execution, limits: Limits) -> list[str]:
    """What must not have come out of a call."""
    everything = f"{execution.output}{execution.value}{execution.error}{execution.files}{execution.notes}"
    harms = [f"a secret came out: {word}" for word in re.findall(rf"{TOKEN}\S*", everything)[:1]]
    if HARM in execution.output:
        harms.append(f"a call worked: {execution.output[execution.output.index(HARM) :][:80]!r}")
    longest = {"output": limits.output, "value": 17_000, "error": 5_000}
    for name, most in longest.items():
        text = getattr(execution, name) or ""
        text.encode()  # a half of a surrogate pair would break whatever sends it on
        if len(text) > most + 200:
            harms.append(f"{len(text)} characters of {name}")
    harms += [f"a hostile name: {name!r}" for name in execution.files if not name.isprintable()]
    return harms


def processes() -> set[int]:
    """The living descendants of this process. Orphans of theirs count, as it adopts them (see `adopting`)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in found | {os.getpid()}} - found:
        found |= new
    return found


@functools.cache
def _files() -> dict[str, bytes]:
    return files()


def _look(folder: Path) -> dict[str, object]:
    """What there is under a folder: modes, owners, times and content."""
    found: dict[str, object] = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(root, name)  # noqa: PTH118
            with contextlib.suppress(OSError):  # gone meanwhile, or too deep for a path
                status = os.lstat(path)
                small = stat.S_ISREG(status.st_mode) and status.st_size < 100_000
                content = _text(path) if small else ""
                found[path] = (
                    status.st_mode,
                    status.st_size,
                    content if name in folders else status.st_mtime_ns,
                    content,
                )
    return found


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
        return file.read(1_000_000).decode("utf-8", "replace")
    return ""
