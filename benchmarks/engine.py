"""Measures Drover's llama.cpp engine against llama-server and llama-cpp-python's server: the same GGUF file, the same
threads, each alone, in turns.

    uv run benchmarks/engine.py                             a model with random weights, of 135 M parameters
    uv run benchmarks/engine.py MODEL.gguf --llama-server ~/llama.cpp/build/bin/llama-server --peers ~/peers
    uv run benchmarks/engine.py --install ~/peers           once: llama-cpp-python's server, outside of this project

A server that is not there is left out. All answers are streams of a fixed length: temperature 0, and the tokens that
end an answer are banned by `logit_bias`. Where a server crashes with weights rearranged for this CPU ("repack"), all
are run without, as Drover then does by itself. Exit code 0 means that it was measured, not that the goals were reached.
"""

import argparse
import asyncio
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import llama_cpp
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import random_gguf, replays
from benchmarks.client import Client
from benchmarks.gateway import HOST, ROOT, START_LIMIT, TICK, Failure, free_port
from benchmarks.peers import PEERS, Place, Server, Setup, Start, install, missing, running
from benchmarks.report import Turn, tell
from benchmarks.scenarios import SCENARIOS, Plan, engine_status
from models.llama_cpp.vocabulary import Vocabulary

SAMPLE = 400
"""Words that tell how many tokens a word has."""


class Crashed(Failure):
    """A signal ended a server before it answered."""


class Bench:
    """Takes turns with servers."""

    def __init__(self, setup: Setup, plan: Plan, scenarios: Sequence[str], banned: Sequence[int], heat: float) -> None:
        self.repack = True
        self._setup = setup
        self._plan = plan
        self._scenarios = scenarios
        self._banned = banned
        self._temperature = heat

    async def turn(self, name: str) -> Turn:
        """Starts a server, measures it, ends it."""
        turn = Turn()
        try:
            await self._try(name, turn)
        except Crashed as error:
            if not self.repack:
                turn.failures.append(str(error))
                return turn
            say(f"  {error}\n  tried again, and all from now on, without rearranged weights")
            self.repack = False
            return await self.turn(name)
        except (Failure, OSError, aiohttp.ClientError) as error:
            turn.failures.append(str(error))
        return turn

    async def _try(self, name: str, turn: Turn) -> None:
        with tempfile.TemporaryDirectory(prefix="drover-benchmark-") as folder, watched(turn):
            place = Place(Path(folder), free_port(), self.repack)
            start = PEERS[name](self._setup, place)
            with running(start, place.folder) as server:
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
                    await self._measure(turn, await self._ready(server, start, place, session))

    async def _ready(self, server: Server, start: Start, place: Place, session: aiohttp.ClientSession) -> Client:
        url = f"http://{HOST}:{place.port}"
        try:
            await _until_it_serves(server, session, url + start.health)
            model = self._setup.model.stem
            client = Client(
                session, url, start.headers(), model=model, temperature=self._temperature, banned=self._banned
            )
            await client.ask(replays.stream_prompt(0, "warm-up"), 8)
            self.repack = (await engine_status(client)).get("repack", self.repack)
        except (Failure, OSError, aiohttp.ClientError) as error:
            await asyncio.sleep(0.5)
            kind = Crashed if server.crashed else Failure
            raise kind(f"did not start: {error}; its log ends: {server.last_words}") from error
        return client

    async def _measure(self, turn: Turn, client: Client) -> None:
        for scenario in self._scenarios:
            try:
                turn.figures[scenario] = await SCENARIOS[scenario](client, self._plan)
            except (Failure, OSError, aiohttp.ClientError) as error:
                turn.failures.append(f"{scenario}: {error}")


async def _until_it_serves(server: Server, session: aiohttp.ClientSession, url: str) -> None:
    end = time.monotonic() + START_LIMIT
    while True:
        try:
            async with session.get(url) as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError as error:
            if server.ended or time.monotonic() > end:
                raise Failure(f"no answer: {error}") from error
        await asyncio.sleep(0.05)


@contextmanager
def watched(turn: Turn) -> Iterator[None]:
    """Tells how much of the machine others have used; what our processes used is known once they have ended."""
    clock, busy, ours = time.monotonic(), _busy(), _own_cpu()
    yield
    used = _busy() - busy - (_own_cpu() - ours)
    turn.others = max(0.0, used / (time.monotonic() - clock) / len(os.sched_getaffinity(0)))


def _busy() -> float:
    """Seconds that all cores have worked, for whomever."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICK


def _own_cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


async def measure(bench: Bench, names: Sequence[str], rounds: int) -> dict[str, list[Turn]]:
    """All turns, A B C C B A …: what changes slowly on the machine meets all alike. A signal ends it, and servers."""
    task = asyncio.current_task()
    assert task
    for ending in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(ending, task.cancel)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            say(f"round {number + 1} of {rounds}: {name}")
            turn = await bench.turn(name)
            turns[name].append(turn)
            for failure in turn.failures:
                say(f"  {name}: {failure}")
    return turns


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


# The model


def ends_and_words(model: Path, tokens: int) -> tuple[list[int], int]:
    """The tokens that end an answer, and how many words of the long text have so many tokens."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    pointer = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
    if not pointer:
        raise SystemExit(f"llama.cpp cannot read {model}")
    vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(pointer))
    sample = "".join(message["content"] for message in replays.long_prompt(SAMPLE))
    words = tokens * SAMPLE // len(vocabulary.tokens(sample, special=False))
    return vocabulary.ends, words


def random_model(options: argparse.Namespace) -> Path:
    """The model that the options describe, written once."""
    shape = random_gguf.shape_of(options)
    path = Path(tempfile.gettempdir()) / "drover-benchmark" / f"random-{shape.key}-{options.vocab.stem}.gguf"
    if not path.exists():
        say(f"writing {path}")
        random_gguf.write(path, shape, options.vocab)
    return path


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file; without one, random weights of the --size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, by commas")
    parser.add_argument("--servers", default=",".join(PEERS), help="by commas")
    parser.add_argument("--streams", default="1,2,4,8,16", help="numbers of streams, by commas")
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--slots", type=int, default=8, help="requests at once, of Drover and llama-server")
    parser.add_argument("--context", type=int, default=8192, help="tokens that one request may have")
    parser.add_argument("--long", type=int, default=6000, help="tokens of the long prompt")
    parser.add_argument("--running", type=int, default=4, help="streams beside the long prompt")
    found = shutil.which("llama-server")
    parser.add_argument("--llama-server", type=Path, default=found and Path(found), help="default: the one on the PATH")
    parser.add_argument("--server-args", default="", help="more arguments of llama-server, by spaces")
    parser.add_argument("--peers", type=Path, default=Path(os.environ.get("DROVER_PEERS", ROOT / ".peers")))
    parser.add_argument(
        "--install", type=Path, metavar="FOLDER", help="install llama-cpp-python's server there, and end"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Drover")
    parser.add_argument("--no-repack", action="store_true", help="start the others without rearranged weights at once")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the Drover to measure (default: this one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    random_gguf.add_options(parser)
    return parser.parse_args()


def _setup(options: argparse.Namespace, model: Path) -> Setup:
    return Setup(
        model=model.resolve(),
        threads=options.threads,
        slots=options.slots,
        context=options.context,
        llama_server=options.llama_server and options.llama_server.resolve(),
        server_args=options.server_args.split(),
        peers=options.peers.resolve(),
        drover_environ=dict(pair.split("=", 1) for pair in options.set),
        checkout=options.checkout.resolve(),
    )


def _taking_part(names: Sequence[str], setup: Setup) -> Iterator[str]:
    for name in names:
        if why := missing(name, setup):
            say(f"{name} left out: {why}")
        else:
            yield name


def main() -> None:
    """Reads the command line, measures, tells."""
    options = _parsed()
    if options.install:
        install(options.install.resolve())
        return
    setup = _setup(options, options.model or random_model(options))
    ends, words = ends_and_words(setup.model, options.long)
    plan = Plan(
        streams=[int(number) for number in options.streams.split(",")],
        tokens=options.tokens,
        turn_tokens=80,
        step_tokens=60,
        running=options.running,
        long_words=words,
    )
    bench = Bench(setup, plan, options.only.split(","), ends, options.temperature)
    bench.repack = not options.no_repack
    names = list(_taking_part(options.servers.split(","), setup))
    try:
        turns = uvloop.run(measure(bench, names, options.rounds))
    except asyncio.CancelledError:
        raise SystemExit("interrupted; the server was ended") from None
    conditions = {
        "model": setup.model.name,
        "threads": setup.threads,
        "rounds": options.rounds,
        "tokens of a stream": options.tokens,
        "repack": "on" if bench.repack else "off (Drover finds out by itself)",
        "slots": options.slots,
        "context": options.context,
        **({"llama-server": options.server_args} if options.server_args else {}),
        **({"Drover": " ".join(options.set)} if options.set else {}),
    }
    found = tell(turns, conditions)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))


if __name__ == "__main__":
    main()
