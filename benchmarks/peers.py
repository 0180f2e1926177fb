"""The servers to compare: how each is started, and how to know that it serves."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.gateway import HOST, STOP_LIMIT

PACKAGE = "llama-cpp-python"
FROM_OUTSIDE = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
NO_REPACK = """
import runpy
from llama_cpp import llama_cpp as library
defaults = library.llama_model_default_params
def plain():
    parameters = defaults()
    parameters.use_extra_bufts = False
    return parameters
library.llama_model_default_params = plain
runpy.run_module("llama_cpp.server", run_name="__main__")
"""
"""llama-cpp-python's server has no setting for this."""


@dataclass(frozen=True)
class Setup:
    """What is the same for all."""

    model: Path
    threads: int
    slots: int
    context: int
    """Tokens that one request may have."""
    llama_server: Path | None
    server_args: Sequence[str]
    peers: Path
    """Folder of virtual environments."""
    drover_environ: Mapping[str, str]
    checkout: Path


@dataclass(frozen=True)
class Place:
    """What one start is given."""

    folder: Path
    """Empty, and gone afterwards."""
    port: int
    repack: bool
    """Whether weights may be rearranged for this CPU. Drover finds out by itself."""


@dataclass(frozen=True)
class Start:
    """How to start a server."""

    command: Sequence[str]
    environ: Mapping[str, str]
    health: str
    """Path that answers 200 once it serves."""
    headers: Callable[[], Mapping[str, str]] = dict
    """Asked for once it serves."""


def drover(setup: Setup, place: Place) -> Start:
    """Drover on an empty data folder, with as much room for tokens as llama-server has."""
    environ = {
        "DATA_DIRECTORY": str(place.folder / "data"),
        "SERVER_PORT": str(place.port),
        "BACKENDS": "llama_cpp",
        "BUILTIN_MODEL": "false",
        "LLAMACPP_MODEL_PATH": str(setup.model),
        "LLAMACPP_MODELS_DIRECTORY": str(place.folder),
        "LLAMACPP_N_CTX": str(setup.context),
        "LLAMACPP_THREADS": str(setup.threads),
        "LLAMACPP_PARALLEL": str(setup.slots),
        "LLAMACPP_CACHE": str(setup.slots * setup.context),
        **setup.drover_environ,
    }

    def key() -> Mapping[str, str]:
        return {"Authorization": f"Bearer {(place.folder / 'data' / 'admin.key').read_text().strip()}"}

    return Start([sys.executable, str(setup.checkout / "server.py")], environ, "/health/live", key)


def llama_server(setup: Setup, place: Place) -> Start:
    """llama.cpp's own server: as many slots as Drover, each with the whole context; all else as it comes."""
    command = [str(setup.llama_server), "--model", str(setup.model), "--host", HOST, "--port", str(place.port)]
    command += ["--parallel", str(setup.slots), "--ctx-size", str(setup.slots * setup.context)]
    command += ["--threads", str(setup.threads), "--jinja", *([] if place.repack else ["--no-repack"])]
    return Start([*command, *setup.server_args], {}, "/health")


def llama_cpp_python(setup: Setup, place: Place) -> Start:
    """llama-cpp-python's server: one request at a time, and a new one cuts the running stream off."""
    module = ["-m", "llama_cpp.server"] if place.repack else ["-c", NO_REPACK]
    command = [str(_python(setup.peers)), *module, "--model", str(setup.model), "--host", HOST]
    command += ["--port", str(place.port), "--n_ctx", str(setup.context), "--logits_all", "false"]
    command += ["--n_threads", str(setup.threads), "--n_threads_batch", str(setup.threads)]
    return Start(command, {}, "/v1/models")


def patient_python(setup: Setup, place: Place) -> Start:
    """The same, set to let streams end."""
    start = llama_cpp_python(setup, place)
    return Start([*start.command, "--interrupt_requests", "false"], start.environ, start.health)


PEERS: dict[str, Callable[[Setup, Place], Start]] = {
    "drover": drover,
    "llama-server": llama_server,
    "python": llama_cpp_python,
    "python-patient": patient_python,
}


def missing(name: str, setup: Setup) -> str | None:
    """Why a server cannot take part."""
    if name == "llama-server" and setup.llama_server is None:
        return "not found (see --llama-server)"
    if name.startswith("python") and not _python(setup.peers).exists():
        return f"no {_python(setup.peers)} (see --install and --peers)"
    return None


def install(peers: Path) -> None:
    """Installs llama-cpp-python's server into a folder of its own, in the version that Drover has."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is not installed")
    peers.mkdir(parents=True, exist_ok=True)
    subprocess.run([uv, "venv", "--allow-existing", "--python", "3.11", peers / PACKAGE], check=True)
    package = f"{PACKAGE}[server]=={version(PACKAGE)}"
    subprocess.run([uv, "pip", "install", "--python", _python(peers), package], check=True)


class Server:
    """A server that was started, and all that it started."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.log = folder / "log"
        known = {name: os.environ[name] for name in FROM_OUTSIDE if name in os.environ}
        environ = {**known, "HOME": str(folder), "LANG": "C.UTF-8", **start.environ}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                start.command, env=environ, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        """Whether it is over already."""
        return self._process.poll() is not None

    @property
    def crashed(self) -> bool:
        """Whether a signal has ended it."""
        return (self._process.poll() or 0) < 0

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-600:]

    def stop(self) -> None:
        """Ends it: politely, then not."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT)
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_LIMIT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def running(start: Start, folder: Path) -> Iterator[Server]:
    """A server that is ended at the end, whatever happens."""
    server = Server(start, folder)
    try:
        yield server
    finally:
        server.stop()


def _python(peers: Path) -> Path:
    return peers / PACKAGE / "bin" / "python"
