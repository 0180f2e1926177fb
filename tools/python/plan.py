"""What a worker is to be confined by: decided by the server, carried out by the worker on itself."""

from msgspec import Struct

LEFT_OUT = "left out"
"""Why a layer is missing that was not tried."""
_NEWEST = 99
"""Newer than any version of Landlock."""


class Layers(Struct, frozen=True):
    """The layers that are tried. A server tries all; tests and measurements leave some out to see what the others hold.

    `rlimits`, no_new_privs and the loss of capabilities are always there.
    """

    language: bool = True
    """RestrictedPython with its policy."""
    audit: bool = True
    """The audit hook."""
    uid: bool = True
    """A user id of its own, where the server is root."""
    namespaces: bool = True
    landlock: int = _NEWEST
    """The newest version of Landlock that is used; 0: none."""
    seccomp: bool = True


ALL = Layers()


class Plan(Struct, frozen=True):
    """How one worker is confined."""

    folder: str
    """The one folder that it may write to."""
    libraries: tuple[str, ...]
    """Folders and files that it may read."""
    root: str
    """An empty folder, on which a worker with namespaces puts its own file system."""
    memory: int
    """Bytes that it may use beyond what its parent has."""
    file_bytes: int
    """Largest file that it may write."""
    cpu: int
    """Seconds of CPU in all."""
    uid: int | None = None
    """A user id of its own; None: the server's."""
    layers: Layers = ALL
    require: tuple[str, ...] = ()
    """Layers without which it must not run any code."""

    @property
    def confines_files(self) -> bool:
        """Whether the kernel keeps it out of other folders."""
        return bool({"landlock", "namespaces"} & set(self.require))


class Confined(Struct, frozen=True):
    """What became of a plan."""

    layers: tuple[str, ...]
    """The layers that hold."""
    missing: dict[str, str]
    """The layers that do not, and why."""


class Refused(Exception):
    """A worker cannot be confined as it must."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer = layer
        self.reason = reason
