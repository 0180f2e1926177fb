"""How well this host confines a worker: found out by a worker that really tries to do harm, never by versions."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from tools.folder import remove_tree
from tools.python import protocol
from tools.python.launcher import Launcher, NotStarted
from tools.python.plan import LEFT_OUT, Layers, Plan
from tools.python.process import Ended
from tools.python.selftest import Findings, Targets

Level = Literal["full", "kernel", "none"]

ENVIRONMENT = ("HOME", "LANG", "MPLBACKEND", "MPLCONFIGDIR", "PATH", "TMPDIR", "TZ")
"""Variables that a worker has."""

_OPEN = {
    "namespaces": "that a path exists outside of the folder can be seen",
    "landlock": "files are confined by namespaces alone",
    "uid": "workers have the server's own user id",
    "mdwe": "memory can be written and executed",
    "seccomp": "every system call can be made",
    "capabilities": "workers keep privileges",
    "rlimits": "memory, time and file sizes are not limited",
    "no_new_privs": "programs can bring privileges",
}
"""What is open without a layer."""
_ALWAYS = frozenset(("capabilities", "rlimits", "no_new_privs", "seccomp"))
_CHOICES = tuple(map(frozenset, ((), ("uid",), ("namespaces",), ("namespaces", "uid"))))
"""What can be left out, the best first. Without namespaces a user of its own may not reach Python itself."""
_MEMORY = 64 * 1024**2
_FILE_BYTES = 1024**2
_PATIENCE = 20.0
_LONGEST = 64 * 1024
_CPU = 20


class Verdict(Struct, frozen=True):
    """What workers are confined by on this host."""

    level: Level
    tried: Layers
    """What plans are to ask for."""
    held: tuple[str, ...] = ()
    """Layers that hold."""
    missing: tuple[str, ...] = ()
    """What does not, each with the reason and what that leaves open."""


class Attempt(Struct, frozen=True):
    """What came of one set of layers."""

    layers: Layers
    held: tuple[str, ...] = ()
    missing: dict[str, str] = {}
    """Layers that did not come about, and why."""
    harmed: tuple[str, ...] = ()
    """What the worker could do and must not."""
    failed: tuple[str, ...] = ()
    """Why it cannot be used at all."""

    @property
    def level(self) -> Level:
        """How well it confines."""
        held = set(self.held)
        if self.failed or self.harmed or not held >= _ALWAYS:
            return "none"
        if held >= {"landlock", "namespaces"}:
            return "full"
        # A worker that is root by its id owns too much for namespaces alone to hold it.
        own_id = os.geteuid() != 0 or "uid" in held
        return "kernel" if "landlock" in held or ("namespaces" in held and own_id) else "none"

    @property
    def problems(self) -> str:
        """What is wrong with it."""
        without = [f"{name}: {reason}" for name, reason in self.missing.items() if reason != LEFT_OUT]
        return "; ".join((*without, *self.failed, *(f"the self-test could {harm}" for harm in self.harmed)))


async def examine(
    launcher: Launcher, layers: Layers, libraries: tuple[str, ...], scratch: Path, uid: int | None
) -> Verdict:
    """Tries all layers, and where that does not work, fewer.

    Args:
        launcher: starts the workers that try.
        layers: what is to be tried.
        libraries: what workers may read.
        scratch: a folder for what is needed meanwhile.
        uid: a user id for the workers.
    """
    there = {name for name, is_there in (("uid", layers.uid and uid), ("namespaces", layers.namespaces)) if is_there}
    attempts: dict[frozenset[str], Attempt] = {}
    for left_out in _CHOICES:
        if not left_out <= there:
            continue
        fewer = msgspec.structs.replace(layers, **dict.fromkeys(left_out, False))
        attempts[left_out] = await _attempt(launcher, fewer, libraries, scratch, uid)
        if attempts[left_out].level != "none":
            break
    left_out = _best(attempts)
    return _verdict(attempts[left_out], {name: attempts[left_out - {name}].problems for name in left_out})


def _best(attempts: dict[frozenset[str], Attempt]) -> frozenset[str]:
    """The one that confines; else the first that can be used at all; else the last."""
    *_, last = attempts
    confining = (each for each, attempt in attempts.items() if attempt.level != "none")
    usable = (each for each, attempt in attempts.items() if not attempt.failed)
    return next(confining, next(usable, last))


def _verdict(attempt: Attempt, why: dict[str, str]) -> Verdict:
    layers = attempt.layers
    missing = [
        f"{name} ({why.get(name, reason)}): {_OPEN.get(name, 'unknown')}" for name, reason in attempt.missing.items()
    ]
    inner = tuple(name for name, there in (("audit", layers.audit), ("language", layers.language)) if there)
    held = (*attempt.held, *inner) if attempt.held else ()
    return Verdict(attempt.level, layers, held, (*missing, *([attempt.problems] if attempt.level == "none" else [])))


async def _attempt(
    launcher: Launcher, layers: Layers, libraries: tuple[str, ...], scratch: Path, uid: int | None
) -> Attempt:
    bare = msgspec.structs.replace(layers, language=False, audit=False)
    with (
        _targets(scratch) as targets,
        tempfile.TemporaryDirectory(dir=scratch) as root,
        tempfile.TemporaryDirectory(dir=scratch) as folder,
    ):
        if uid is not None and layers.uid:
            os.chown(folder, uid, uid)
        plan = Plan(folder, libraries, root, _MEMORY, _FILE_BYTES, _CPU, uid, bare)
        try:
            hello, findings = await _try_out(launcher, plan, targets)
        except (NotStarted, Ended) as error:
            return Attempt(layers, failed=(f"the self-test did not work: {error}",))
    if isinstance(hello, protocol.Unfit):
        return Attempt(layers, failed=(f"{hello.layer}: {hello.reason}",))
    failed = tuple(f"workers cannot {need}" for need in findings.broken)
    return Attempt(layers, hello.confined.layers, hello.confined.missing, findings.harmed, failed)


async def _try_out(
    launcher: Launcher, plan: Plan, targets: Targets
) -> tuple[protocol.Hello | protocol.Unfit, Findings]:
    process = await launcher.spawn(plan)
    try:
        async with asyncio.timeout(_PATIENCE):
            hello = await process.hello()
            if isinstance(hello, protocol.Unfit):
                return hello, Findings((), ())
            call = protocol.Call("tools.python.selftest", "attempt", {"targets": msgspec.to_builtins(targets)})
            data, error = await process.call(call, _LONGEST)
    except TimeoutError:
        raise Ended(f"it took more than {_PATIENCE:g} seconds") from None
    finally:
        await process.end("it is over")
    if error is not None:
        raise Ended(error)
    return hello, msgspec.json.decode(data, type=Findings)


@contextmanager
def _targets(scratch: Path) -> Iterator[Targets]:
    """Files and sockets that a worker must not reach."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    name = f"drover-{os.urandom(8).hex()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + name)
        abstract.listen()
        for file in (folder / "canary", folder / "spare"):
            file.write_text("not for you")
            file.chmod(0o666)
        folder.chmod(0o777)
        ports = tcp.getsockname()[1], udp.getsockname()[1]
        try:
            yield Targets(str(folder), *ports, name, os.getpid(), _MEMORY, _FILE_BYTES, ENVIRONMENT)
        finally:
            remove_tree(folder)
