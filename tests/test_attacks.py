"""Attacks on the Python sandbox, each with all layers and without the inner ones: none may do any harm outside.

The attacks are in tests/attacks/, the probes in tests/ground.py. The last tests show that the probes see harm where
nothing confines the code, and what the language layer stops by itself.
"""

import asyncio
import ctypes
import itertools
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from tests.ground import TOKEN, VARIABLE, Attack, Ears, Ground, attacks, disguised, processes, told
from tools.folder import remove_tree
from tools.python import Execution, Layers, Limits, Sandbox

pytestmark = pytest.mark.anyio

AT_ONCE = 3
LIMITS = Limits(
    seconds=2.0, grace=0.5, memory=256 * 1024**2, cpu=20, file_bytes=8 * 1024**2, folder_bytes=24 * 1024**2, files=200,
    at_once=AT_ONCE, free_bytes=0,
)  # fmt: skip
SHORT = replace(LIMITS, seconds=0.6, grace=0.4)
"""For attacks that use up what there is."""
ALL = Layers()
KERNEL = Layers(language=False, audit=False)
"""Without the inner layers, that is: for code that has broken out of the language."""
WEAKER = [
    replace(KERNEL, namespaces=False),
    replace(KERNEL, namespaces=False, landlock=1),
    replace(KERNEL, namespaces=False, uid=False),
    replace(KERNEL, landlock=0),
]
"""What there is in a container, on old kernels, for a server that is not root, and without Landlock."""
LANGUAGE = Layers(audit=False, uid=False, namespaces=False, landlock=0, seccomp=False)
NOTHING = replace(LANGUAGE, language=False)
READ_BY_LIBRARIES = {
    "pickle by numpy",
    "pickle by pandas",
}
"""What the language layer lets pass: what libraries open and unpickle is watched by the audit hook."""

_BECOME_SUBREAPER = 36


class Field:
    """A sandbox, a session that minds its own business in it, and room for attacks."""

    def __init__(self, folder: Path, sandbox: Sandbox, limits: Limits) -> None:
        self._folder = folder
        self._sandbox = sandbox
        self._limits = limits
        self._other = folder / "other"
        self._ears = Ears(folder)
        self._room = asyncio.Semaphore(limits.at_once)
        self._numbers = itertools.count()

    @asynccontextmanager
    async def ready(self) -> AsyncIterator["Field"]:
        """With listeners, and a session at work."""
        self._other.mkdir()
        (self._other / "note.txt").write_text(f"{TOKEN}-other")
        async with self._ears.listening():
            await self._run("other", self._other, f"token = '{TOKEN}-variable'")
            yield self

    async def harms(self, found: list[Attack]) -> dict[str, list[str]]:
        """Runs attacks, and tells which of them did harm."""
        before = _standing()
        results = await asyncio.gather(*map(self._attack, found))
        harms = {attack.name: harms for attack, harms in zip(found, results, strict=True) if harms}
        return harms if _standing() == before else {**harms, "all": ["the server's standing has changed"]}

    async def _attack(self, attack: Attack) -> list[str]:
        number = next(self._numbers)
        key = f"{number}-{attack.name}"
        harms: list[str] = []
        async with self._room:
            place = self._folder / str(number)
            # In threads: the sandbox's watch over disks is as quick as the loop is.
            ground = await asyncio.to_thread(Ground, place, self._other, self._ears)
            for cell in ground.cells(attack):
                harms += told(await self._run(key, ground.folder, cell), self._limits)
            await asyncio.to_thread(ground.rest)
            if "late" in attack.flags:
                await asyncio.sleep(0.3)
            harms += await self._neighbour()
            harms += await asyncio.to_thread(ground.harms, self._limits)
            await self._sandbox.forget(key)
            await asyncio.to_thread(remove_tree, place)
        return harms

    async def _neighbour(self) -> list[str]:
        """Whether the other session is as it was."""
        execution = await self._run("other", self._other, "len(token)")
        if execution.value == str(len(f"{TOKEN}-variable")) and not execution.fresh:
            return []
        return [f"another session was harmed: {execution}"]

    async def _run(self, key: str, folder: Path, code: str) -> Execution:
        async with asyncio.timeout(self._limits.seconds + self._limits.grace + 20):
            return await self._sandbox.run(key, folder, code)


def _standing() -> dict[str, Any]:
    """What attacks can do to the server's process without touching it."""
    return {
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": os.sched_getaffinity(0),
        "scheduler": os.sched_getscheduler(0),
        "limits": [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
    }


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    """A secret in the environment; and orphans of workers become this process's own, so that it can count them."""
    assert ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"{TOKEN}-environment")
        yield
    ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 0, 0, 0, 0)


@asynccontextmanager
async def field(
    layers: Layers, limits: Limits = LIMITS, isolation: Literal["auto", "none"] = "auto"
) -> AsyncIterator[Field]:
    """A field whose sandbox has these layers. Nothing of it is left over."""
    before = processes()
    folder = Path(tempfile.mkdtemp(prefix="drover-attacks-"))
    folder.chmod(0o777)
    sandbox = Sandbox(limits, isolation=isolation, layers=layers)
    await sandbox.start()
    try:
        if (reason := sandbox.unavailable()) is not None:
            pytest.skip(f"this host cannot confine code: {reason}")
        async with Field(folder, sandbox, limits).ready() as ready:
            yield ready
    finally:
        await sandbox.close()
        remove_tree(folder)
    assert processes() <= before


@pytest.fixture(scope="module")
async def confined() -> AsyncIterator[Field]:
    """A field with all layers."""
    async with field(ALL) as ready:
        yield ready


@pytest.fixture(scope="module")
async def broken_out() -> AsyncIterator[Field]:
    """A field without the inner layers."""
    async with field(KERNEL) as ready:
        yield ready


KINDS = ("files", "network", "processes", "worker", "language")


@pytest.mark.parametrize("kind", KINDS)
async def test_no_attack_does_harm(confined: Field, kind: str) -> None:
    assert await confined.harms(attacks(kind)) == {}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_attack_does_harm_by_code_that_broke_out_of_the_language(broken_out: Field, kind: str) -> None:
    assert await broken_out.harms(attacks(kind)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("layers", WEAKER, ids=["Landlock only", "Linux 5.13", "no user id", "namespaces only"])
async def test_no_attack_does_harm_where_the_kernel_has_less(layers: Layers) -> None:
    async with field(layers) as weaker:
        harms = [await weaker.harms(attacks(kind)) for kind in ("files", "network", "processes")]
    assert harms == [{}, {}, {}]


@pytest.mark.slow
@pytest.mark.parametrize("layers", [ALL, KERNEL], ids=["all", "kernel"])
async def test_nobody_notices_what_uses_up_everything(layers: Layers) -> None:
    async with field(layers, SHORT) as small:
        assert await small.harms(attacks("resources")) == {}


async def test_the_language_layer_alone_lets_pass_only_what_libraries_open() -> None:
    async with field(LANGUAGE, isolation="none") as language:
        harms = await language.harms(attacks("language"))
        disguised_harms = await language.harms([disguised(attack) for attack in attacks("language")])
    assert (set(harms), set(disguised_harms)) == (READ_BY_LIBRARIES, READ_BY_LIBRARIES)


async def test_where_nothing_confines_it_an_attack_is_seen() -> None:
    known = [attack for kind in KINDS for attack in attacks(kind) if "bites" in attack.flags]
    async with field(NOTHING, replace(LIMITS, at_once=1), isolation="none") as nothing:
        harms = await nothing.harms(known)
    assert sorted(harms) == sorted(attack.name for attack in known)
