"""Measures Drover against other gateways: each alone, in turns, on the same one core, before the same canned upstream.

    uv run benchmarks/gateway.py --install ~/peers      once: LiteLLM (uv) and Portkey (npm), outside of this project
    uv run benchmarks/gateway.py --peers ~/peers        [--rounds 3] [--seconds 5] [--only drover,litellm] [--json]

Load and upstream share the other core. Every answer is checked; an answer that is wrong voids the figure. A gateway
that is not installed is left out. All traffic stays on 127.0.0.1. Linux only.
"""

import argparse
import http.client
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HOST = "127.0.0.1"
MODEL = "canned"
LITELLM = "litellm[proxy]"
PORTKEY = "@portkey-ai/gateway"
PORTKEY_PACKAGE = {"dependencies": {PORTKEY: "*"}, "overrides": {"@hono/node-server": "1.13.7"}}
"""With node-server 1.14 and newer Portkey 1.15 fails every stream: https://github.com/Portkey-AI/gateway/issues/1389"""

START_LIMIT = 180.0
"""Seconds that a gateway may take to answer."""
STOP_LIMIT = 15.0
REST = 2.0
"""Seconds of idleness before memory is read."""
QUIET = 0.1
"""Share of the gateways' core that others may use before the figures are called disturbed."""
TICK = os.sysconf("SC_CLK_TCK")
MASTER_KEY = "sk-benchmark"

Headers = Mapping[str, str]


class Failure(Exception):
    """Something that ends one turn, said in a line."""


# The contestants


@dataclass(frozen=True)
class Contestant:
    """One gateway, ready to be started."""

    name: str
    command: list[str]
    environ: dict[str, str]
    port: int
    health: str
    """Path that answers 200 once it serves."""
    headers: Callable[[], Headers]
    """For the first request: called once it serves."""
    credentials: Callable[[], Headers]
    """For the load."""


@dataclass(frozen=True)
class Place:
    """What a gateway is given."""

    folder: Path
    """Empty, and gone after the turn."""
    port: int
    upstream: str
    """Base URL, with its /v1."""
    peers: Path
    checkout: Path
    """Drover's."""


def drover(place: Place) -> Contestant:
    """Drover as it comes, on an empty data folder; the load comes with a JWT."""
    environ = {
        "DATA_DIRECTORY": str(place.folder / "data"),
        "SERVER_PORT": str(place.port),
        "BACKENDS": "openai",
        "UPSTREAM_BASE_URL": place.upstream,
        "LLAMACPP_MODELS_DIRECTORY": str(place.folder),
    }

    def first_key() -> Headers:
        return _bearer((place.folder / "data" / "admin.key").read_text().strip())

    def login() -> Headers:
        user = {"username": "benchmark", "password": "correct horse battery staple"}
        _expect(_post(place.port, "/api/users", user, first_key()), 201)
        grant = _expect(_post(place.port, "/api/auth/login", user, {}), 200)
        return _bearer(json.loads(grant)["access_token"])

    command = [sys.executable, str(place.checkout / "server.py")]
    return Contestant("drover", command, environ, place.port, "/health/live", first_key, login)


def litellm(place: Place) -> Contestant:
    """LiteLLM's proxy by its production advice: a key, no database, no callbacks, one worker, only errors logged."""
    config = place.folder / "config.json"
    parameters = {"model": f"openai/{MODEL}", "api_base": place.upstream, "api_key": "none"}
    values = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"set_verbose": False, "json_logs": False, "telemetry": False, "callbacks": []},
    }
    config.write_text(json.dumps(values))  # JSON is YAML too
    command = [str(place.peers / "litellm" / "bin" / "litellm"), "--config", str(config), "--num_workers", "1"]
    command += ["--host", HOST, "--port", str(place.port)]
    # Without the first of these it fetches a price list from the Internet, and waits for it.
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    return Contestant(
        "litellm",
        command,
        environ,
        place.port,
        "/health/liveliness",
        lambda: _bearer(MASTER_KEY),
        lambda: _bearer(MASTER_KEY),
    )


def portkey(place: Place) -> Contestant:
    """Portkey's gateway without its console; it has no users, the caller names the upstream."""
    script = _portkey_package(place.peers) / "build" / "start-server.js"
    command = ["node", str(script), f"--port={place.port}", "--headless"]
    headers = {**_bearer("none"), "x-portkey-provider": "openai", "x-portkey-custom-host": place.upstream}
    environ = {"NODE_ENV": "production"}
    return Contestant("portkey", command, environ, place.port, "/", lambda: headers, lambda: headers)


CONTESTANTS: dict[str, Callable[[Place], Contestant]] = {"drover": drover, "litellm": litellm, "portkey": portkey}


def missing(name: str, peers: Path) -> str | None:
    """Why a gateway cannot take part."""
    if name == "litellm" and not (peers / "litellm" / "bin" / "litellm").exists():
        return f"no {peers / 'litellm' / 'bin' / 'litellm'}"
    if name == "portkey" and shutil.which("node") is None:
        return "no node"
    if name == "portkey" and not _portkey_package(peers).exists():
        return f"no {_portkey_package(peers)}"
    return None


def version(name: str, peers: Path) -> str:
    """The version that is measured."""
    if name == "litellm":
        found = list((peers / "litellm").glob("lib/python*/site-packages/litellm-*.dist-info"))
        return found[0].name.removeprefix("litellm-").removesuffix(".dist-info") if found else "?"
    if name == "portkey":
        return str(json.loads((_portkey_package(peers) / "package.json").read_text())["version"])
    return "this one"


def install(peers: Path) -> None:
    """Installs the peers into a folder of their own."""
    peers.mkdir(parents=True, exist_ok=True)
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        print("LiteLLM left out: uv is not installed")
    else:
        subprocess.run([uv, "venv", "--allow-existing", "--python", "3.11", peers / "litellm"], check=True)
        subprocess.run([uv, "pip", "install", "--python", peers / "litellm" / "bin" / "python", LITELLM], check=True)
    if shutil.which("npm") is None:
        print("Portkey left out: npm is not installed")
    else:
        folder = peers / "portkey"
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text(json.dumps(PORTKEY_PACKAGE))
        subprocess.run(["npm", "install", "--prefix", folder], check=True)


def _portkey_package(peers: Path) -> Path:
    return peers / "portkey" / "node_modules" / PORTKEY


# Processes


class Process:
    """A server that was started, pinned to one core, with all processes that it starts."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], core: int, folder: Path) -> None:
        self.log = folder / "log"
        home = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        with pinned(core), self.log.open("wb") as log:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command, env={**home, **environ}, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        """Whether it is over already."""
        return self._process.poll() is not None

    @property
    def rss(self) -> float:
        """Resident memory of all its processes, in MB (10^6 bytes)."""
        pages = [int(_proc(pid, "statm").split()[1]) for pid in self._pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used."""
        fields = [_proc(pid, "stat").rpartition(")")[2].split() for pid in self._pids()]
        return sum(int(values[11]) + int(values[12]) for values in fields) / TICK

    def stop(self) -> None:
        """Ends it and all that it started: politely, then not."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_LIMIT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _pids(self) -> list[int]:
        """Its process group's members that are alive."""
        found = []
        for entry in os.scandir("/proc"):
            try:
                if entry.name.isdigit() and os.getpgid(int(entry.name)) == self._process.pid:
                    found.append(int(entry.name))
            except ProcessLookupError:
                pass
        return found


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started within runs on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], core: int, folder: Path) -> Iterator[Process]:
    """A process that is ended at the end, whatever happens."""
    process = Process(command, environ, core, folder)
    try:
        yield process
    finally:
        process.stop()


def busy(core: int) -> float:
    """Seconds that a core has worked, for whomever."""
    lines = Path("/proc/stat").read_text().splitlines()
    values = next(line for line in lines if line.startswith(f"cpu{core} ")).split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(value) for value in values[:8])
    return (user + nice + system + irq + softirq + steal) / TICK


# HTTP for the few requests that are no load


def _bearer(key: str) -> Headers:
    return {"Authorization": f"Bearer {key}"}


def _post(port: int, path: str, body: object, headers: Headers) -> tuple[int, bytes]:
    return _exchange(port, "POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})


def _exchange(port: int, method: str, path: str, body: str | None, headers: Headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _expect(answer: tuple[int, bytes], status: int) -> bytes:
    if answer[0] != status:
        raise Failure(f"status {answer[0]} rather than {status}: {answer[1][:300]!r}")
    return answer[1]


def _ask(port: int, headers: Headers) -> str:
    """The text of one whole answer."""
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    answer = json.loads(_expect(_post(port, "/v1/chat/completions", question, headers), 200))
    return str(answer["choices"][0]["message"]["content"])


def _until_it_works(process: Process, attempt: Callable[[], object]) -> float:
    """Repeats an attempt until it succeeds; gives the seconds since the process was started."""
    while True:
        try:
            attempt()
            return time.perf_counter() - process.started
        except (OSError, http.client.HTTPException, Failure, ValueError) as error:
            if process.ended or time.perf_counter() - process.started > START_LIMIT:
                raise Failure(f"did not start: {error}; its log ends: {_tail(process.log)}") from error
        time.sleep(0.005)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# Measuring


@dataclass(frozen=True)
class Options:
    """What is asked for on the command line."""

    rounds: int
    seconds: float
    warmup: float
    connections: tuple[int, ...]
    pace: float
    core: int
    load_core: int
    peers: Path
    checkout: Path


@dataclass(frozen=True)
class Load:
    """One kind of load; times in milliseconds."""

    rate: float
    p50: float
    p99: float
    first_p50: float
    cpu: float
    """CPU of the gateway for one answer."""
    core: float
    """Share of its core that the gateway used, of 1."""
    others: float
    """Share of that core that others used: the noise."""
    load_core: float
    """Share of the other core that was used: near 1 the load is the limit, not the gateway."""


@dataclass
class Turn:
    """One gateway's turn."""

    live: float = math.nan
    """Seconds from the command to the first health check that passes."""
    answer: float = math.nan
    """Seconds from the command to the first answer."""
    idle: float = math.nan
    """MB resident before the load."""
    loaded: float = math.nan
    """MB resident after it, idle again."""
    loads: dict[str, Load] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Bench:
    """The upstream is there; gateways are measured before it."""

    def __init__(self, options: Options, upstream: Process, upstream_port: int, scratch: Path) -> None:
        self._options = options
        self._upstream = upstream
        self._port = upstream_port
        self._scratch = scratch
        _until_it_works(upstream, lambda: _ask(upstream_port, {}))
        self._text = _ask(upstream_port, {})

    def direct(self) -> Turn:
        """The upstream itself: what a gateway adds to."""
        turn = Turn()
        self._loads(turn, self._port, {}, self._upstream, self._options.load_core)
        return turn

    def gateway(self, name: str) -> Turn:
        """Starts a gateway, measures it, ends it."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            upstream = f"http://{HOST}:{self._port}/v1"
            place = Place(Path(folder), free_port(), upstream, self._options.peers, self._options.checkout)
            contestant = CONTESTANTS[name](place)
            with running(contestant.command, contestant.environ, self._options.core, place.folder) as process:
                return self._turn(contestant, process)

    def _turn(self, contestant: Contestant, process: Process) -> Turn:
        turn, port = Turn(), contestant.port
        try:
            turn.live = _until_it_works(
                process, lambda: _expect(_exchange(port, "GET", contestant.health, None, {}), 200)
            )
            turn.answer = _until_it_works(process, lambda: self._right(_ask(port, contestant.headers())))
            time.sleep(REST)
            turn.idle = process.rss
            self._loads(turn, port, contestant.credentials(), process, self._options.core)
            time.sleep(REST)
            turn.loaded = process.rss
        except (Failure, OSError, http.client.HTTPException) as error:
            turn.failures.append(str(error))
        return turn

    def _right(self, text: str) -> None:
        if text != self._text:
            raise Failure(f"another answer: {text[:100]!r}")

    def _loads(self, turn: Turn, port: int, headers: Headers, process: Process, core: int) -> None:
        self._warm_up(port, headers)
        for kind in ("plain", "stream"):
            for connections in self._options.connections:
                label = f"{kind} x{connections}"
                try:
                    turn.loads[label] = self._load(port, headers, process, core, kind == "stream", connections)
                except Failure as error:
                    turn.failures.append(f"{label}: {error}")

    def _warm_up(self, port: int, headers: Headers) -> None:
        """For compilers that learn as they run: some of everything, not counted."""
        for stream in (False, True):
            self._generate(port, headers, stream, max(self._options.connections))

    def _load(self, port: int, headers: Headers, process: Process, core: int, stream: bool, connections: int) -> Load:
        load_core = self._options.load_core
        clock, cpu, ours, theirs = time.perf_counter(), process.cpu, busy(core), busy(load_core)
        result = self._generate(port, headers, stream, connections)
        wall, used = time.perf_counter() - clock, process.cpu - cpu
        if result["wrong"] or not result["counted"]:
            raise Failure(f"{result['wrong']} wrong answers of {result['total']}: {result['example']}")
        return Load(
            rate=result["rate"],
            p50=result["p50"],
            p99=result["p99"],
            first_p50=result["first_p50"],
            cpu=used / result["total"] * 1000,
            core=used / wall,
            others=max(0.0, (busy(core) - ours - used) / wall),
            load_core=(busy(load_core) - theirs) / wall,
        )

    def _generate(self, port: int, headers: Headers, stream: bool, connections: int) -> dict[str, Any]:
        """What the load generator has seen."""
        options = self._options
        command = [sys.executable, str(HERE / "load.py"), f"http://{HOST}:{port}/v1/chat/completions"]
        command += ["--model", MODEL, "--connections", str(connections), "--seconds", str(options.seconds)]
        command += ["--warmup", str(options.warmup), "--expect", self._text, *(["--stream"] if stream else [])]
        for key, value in headers.items():
            command += ["--header", f"{key}: {value}"]
        limit = options.seconds + options.warmup + 120
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        if done.returncode:
            raise Failure(f"the load failed: {done.stderr[-300:]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def measure(options: Options, names: Sequence[str]) -> dict[str, list[Turn]]:
    """All turns, A B C A B C …"""
    turns: dict[str, list[Turn]] = {name: [] for name in ("direct", *names)}
    port = free_port()
    command = [sys.executable, str(HERE / "upstream.py"), "--port", str(port), "--pace", str(options.pace)]
    with tempfile.TemporaryDirectory(prefix="drover-benchmark-") as folder:
        scratch = Path(folder)
        with running(command, {}, options.load_core, scratch) as upstream:
            bench = Bench(options, upstream, port, scratch)
            for number in range(1, options.rounds + 1):
                for name, done in turns.items():
                    print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                    turn = bench.direct() if name == "direct" else bench.gateway(name)
                    done.append(turn)
                    for failure in turn.failures:
                        print(f"  {name}: {failure}", file=sys.stderr, flush=True)
    return turns


# Telling


Row = tuple[str, str, Callable[[Turn], float], bool]
"""What, its format, how to read it from a turn, whether more is better."""


def rows(labels: Sequence[str]) -> list[Row]:
    """The table's rows."""

    def of(label: str, name: str) -> Callable[[Turn], float]:
        return lambda turn: float(getattr(turn.loads[label], name)) if label in turn.loads else math.nan

    table: list[Row] = [(f"{label}: answers/s", ",.0f", of(label, "rate"), True) for label in labels]
    for name, words in (("p50", "p50 ms"), ("p99", "p99 ms"), ("first_p50", "p50 ms to first word")):
        wanted = [label for label in labels if name != "first_p50" or label.startswith("stream")]
        table += [(f"{label}: {words}", ",.2f", of(label, name), False) for label in wanted]
    table += [(f"{label}: CPU ms an answer", ",.3f", of(label, "cpu"), False) for label in labels]
    table += [
        ("memory idle, MB", ",.0f", lambda turn: turn.idle, False),
        ("memory after load, MB", ",.0f", lambda turn: turn.loaded, False),
        ("start to health, s", ".2f", lambda turn: turn.live, False),
        ("start to first answer, s", ".2f", lambda turn: turn.answer, False),
    ]
    return table


Medians = dict[str, dict[str, float]]
"""By row, by gateway."""


def medians(turns: Mapping[str, Sequence[Turn]], table: Sequence[Row]) -> Medians:
    """The median over the rounds; with what was added to the upstream's own times."""
    found: Medians = {}
    for label, _, read, _ in table:
        found[label] = {name: _median([read(turn) for turn in turns[name]]) for name in turns}
        if " ms" in label and "CPU" not in label:
            base = found[label]["direct"]
            found[label + ", added"] = {name: value - base for name, value in found[label].items() if name != "direct"}
    return found


def _median(values: Sequence[float]) -> float:
    good = [value for value in values if not math.isnan(value)]
    return statistics.median(good) if good else math.nan


def show(values: Medians, table: Sequence[Row], names: Sequence[str]) -> None:
    """Prints the table, and how many times Drover is better."""
    peers = [name for name in names if name not in ("direct", "drover")] if "drover" in names else []
    ratios = [f"drover : {name}" for name in peers]
    print(f"{'':38}" + "".join(f"{name:>12}" for name in names) + "".join(f"{ratio:>19}" for ratio in ratios))
    for label, form, _, more in table:
        for line in (label, label + ", added"):
            if line in values:
                print(_line(line, form, values[line], names, peers, more))


def _line(
    label: str, form: str, values: Mapping[str, float], names: Sequence[str], peers: Sequence[str], more: bool
) -> str:
    cells = [format(values[name], form) if _known(values, name) else "-" for name in names]
    times = []
    for peer in peers:
        known = _known(values, peer) and _known(values, "drover") and values[peer] > 0 and values["drover"] > 0
        ratio = (values["drover"] / values[peer] if more else values[peer] / values["drover"]) if known else 0.0
        times.append(f"{ratio:.2f} x better" if known else "-")
    return f"{label:38}" + "".join(f"{cell:>12}" for cell in cells) + "".join(f"{time:>19}" for time in times)


def _known(values: Mapping[str, float], name: str) -> bool:
    return not math.isnan(values.get(name, math.nan))


def targets(values: Medians) -> list[tuple[str, float, float, bool]]:
    """What Drover is to reach: its words, the figure, the bound, whether it is reached; only what was measured."""
    found: list[tuple[str, float, float, bool]] = []

    def ratio(kind: str, peer: str, bound: float) -> None:
        for label, by_name in values.items():
            if label.startswith(kind) and label.endswith("answers/s") and {"drover", peer} <= by_name.keys():
                times = by_name["drover"] / by_name[peer]
                if not math.isnan(times):
                    found.append((f"{label}, times {peer}'s, at least", times, bound, times >= bound))

    def limit(label: str, bound: float) -> None:
        value = values.get(label, {}).get("drover", math.nan)
        if not math.isnan(value):
            found.append((f"{label}, at most", value, bound, value <= bound))

    ratio("plain", "litellm", 25)
    ratio("plain", "portkey", 1.5)
    ratio("stream", "litellm", 25)
    limit("plain x1: p50 ms, added", 1.0)
    limit("memory after load, MB", 150)
    limit("start to health, s", 3.0)
    limit("start to first answer, s", 3.0)
    return found


def disturbance(turns: Mapping[str, Sequence[Turn]]) -> float:
    """The largest share of the gateways' core that something else has used during a load."""
    loads = [
        load for name, list_ in turns.items() if name != "direct" for turn in list_ for load in turn.loads.values()
    ]
    return max((load.others for load in loads), default=0.0)


def report(turns: Mapping[str, Sequence[Turn]], options: Options, as_json: bool) -> None:
    """Prints all that was found."""
    labels = [f"{kind} x{connections}" for kind in ("plain", "stream") for connections in options.connections]
    table = rows(labels)
    values = medians(turns, table)
    reached = targets(values)
    versions = {name: version(name, options.peers) for name in turns if name != "direct"}
    if as_json:
        found = {"versions": versions, "medians": values, "targets": reached, "rounds": turns}
        print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())  # what was not measured is null
        return
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    pace = f", {options.pace:g} ms between chunks" if options.pace else ""
    print(f"{named}; {options.rounds} rounds of {options.seconds:g} s, medians; streams of 64 chunks{pace}\n")
    show(values, table, list(turns))
    print()
    if (others := disturbance(turns)) > QUIET:
        print(f"Not quiet: others used up to {others:.0%} of the gateways' core. Compare CPU ms an answer.\n")
    for words, value, bound, good in reached:
        print(f"{'reached' if good else 'MISSED '}  {words} {bound:g}: {value:.2f}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load, four a turn")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds of load before each, not counted")
    parser.add_argument("--connections", default="1,16", help="by commas")
    parser.add_argument("--pace", type=float, default=0.0, help="milliseconds between a stream's chunks (default: 0)")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="by commas")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the Drover to measure (default: this one)")
    parser.add_argument("--peers", type=Path, default=Path(os.environ.get("DROVER_PEERS", ROOT / ".peers")))
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="install LiteLLM and Portkey there, and end")
    parser.add_argument("--core", type=int, help="for the gateways")
    parser.add_argument("--load-core", type=int, help="for load and upstream")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser.parse_args()


def _options(parsed: argparse.Namespace) -> Options:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("only one core: load and gateway share it, so the figures are too low", file=sys.stderr)
    return Options(
        rounds=parsed.rounds,
        seconds=parsed.seconds,
        warmup=parsed.warmup,
        connections=tuple(int(number) for number in parsed.connections.split(",")),
        pace=parsed.pace,
        core=cores[0] if parsed.core is None else parsed.core,
        load_core=cores[-1] if parsed.load_core is None else parsed.load_core,
        peers=parsed.peers.resolve(),
        checkout=parsed.checkout.resolve(),
    )


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Reads the command line, measures, tells."""
    parsed = _parsed()
    if parsed.install:
        install(parsed.install.resolve())
        return 0
    options = _options(parsed)
    names = []
    for name in parsed.only.split(","):
        if name not in CONTESTANTS:
            print(f"--only: {name} is none of {', '.join(CONTESTANTS)}", file=sys.stderr)
            return 2
        if why := missing(name, options.peers):
            print(f"{name} left out: {why} (see --install and --peers)", file=sys.stderr)
        else:
            names.append(name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    os.sched_setaffinity(0, {options.load_core})
    try:
        turns = measure(options, names)
    except KeyboardInterrupt:
        print("interrupted; all processes were ended", file=sys.stderr)
        return 130
    report(turns, options, parsed.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
