"""Confining a worker: what it gives up, in the only order that works, before any untrusted byte reaches it."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from tools.python import kernel, landlock, namespaces, seccomp
from tools.python.plan import LEFT_OUT, Confined, Plan, Refused

_NICE = 10
_DESCRIPTORS = 64
_STACK = 8 * 1024**2


def confine(plan: Plan, parent: int) -> Confined:
    """Confines this process for ever, as far as the host lets it. The current folder is then the worker's.

    Args:
        plan: how.
        parent: the process with which this one must end.

    Raises:
        Refused: a layer that must be there is not; the process must end.
    """
    os.setsid()
    baseline = _sizes()
    _be_modest()
    held: list[str] = []
    missing: dict[str, str] = {}

    def layer(name: str, wanted: bool, put_on: Callable[[], object]) -> None:
        try:
            if not wanted:
                raise OSError(LEFT_OUT)
            put_on()
            held.append(name)
        except OSError as error:
            missing[name] = str(error)
            # Namespaces may have come about by halves, and then the folder is not where it should be.
            if name in plan.require or (name == "namespaces" and wanted):
                raise Refused(name, str(error)) from error

    folder, libraries = plan.folder, plan.libraries
    os.chdir(folder)
    layer("namespaces", plan.layers.namespaces, lambda: namespaces.enter(plan.root, folder, libraries))
    os.umask(0o077)
    kernel.empty_bounding_set()
    if os.geteuid() == 0:
        layer("uid", plan.layers.uid, lambda: _become(plan.uid))
    layer("capabilities", True, kernel.drop_capabilities)
    _die_with(parent)
    layer("rlimits", True, lambda: _limit(plan, *baseline))
    layer("no_new_privs", True, lambda: kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1))
    layer("mdwe", True, lambda: kernel.prctl(kernel.SET_MDWE, kernel.MDWE_REFUSE_EXEC_GAIN))
    layer("landlock", plan.layers.landlock > 0, lambda: _restrict_files(plan))
    layer("seccomp", plan.layers.seccomp, seccomp.restrict)
    return Confined(tuple(held), missing)


def _sizes() -> tuple[int, int]:
    """Bytes of address space and of data that the process has from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if "kB" in value
    }
    return sizes["VmSize"], sizes["VmData"]


def _be_modest() -> None:
    """Lets everything else on the machine go first, and if memory runs out, this process."""
    os.nice(_NICE)
    Path("/proc/self/oom_score_adj").write_text("1000")


def _become(uid: int | None) -> None:
    if uid is None:
        raise OSError("no user ids can be had here")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _die_with(parent: int) -> None:
    """Last of all that changes credentials: each such change clears it, prctl(2)."""
    kernel.prctl(kernel.SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.SET_DUMPABLE, 0)
    if os.getppid() != parent:
        raise Refused("parent", "it has ended")


def _limit(plan: Plan, size: int, data: int) -> None:
    limits = {
        resource.RLIMIT_AS: size + plan.memory,
        resource.RLIMIT_DATA: data + plan.memory,
        resource.RLIMIT_FSIZE: plan.file_bytes,
        resource.RLIMIT_CPU: plan.cpu,
        resource.RLIMIT_NOFILE: _DESCRIPTORS,
        resource.RLIMIT_STACK: _STACK,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for name, value in limits.items():
        _, hard = resource.getrlimit(name)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (least, least))


def _restrict_files(plan: Plan) -> None:
    work = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        allowed: list[tuple[str | int, int]] = [(work, landlock.WORK)]
        allowed += [(path, landlock.READ) for path in plan.libraries]
        allowed += [(path, landlock.DEVICE) for path in namespaces.DEVICES]
        landlock.restrict(allowed, plan.layers.landlock)
    finally:
        os.close(work)
