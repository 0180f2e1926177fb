"""Health and metrics, for people, load balancers and scrapers."""

from typing import Any

from litestar import Request, Response, get
from msgspec import Struct

from auth.guards import ANY
from gateway.parts import VERSION, Parts, parts_of
from models.backend import Health


class HealthOut(Struct, frozen=True):
    """How the server is, in short."""

    status: str
    """`ok`, or `degraded` where no backend answers."""
    ollama_connection: bool
    models_available: int
    backend: list[str]
    """The backends that answer."""


class State(Struct, frozen=True):
    """Yes or no, and why not."""

    status: str
    reasons: list[str] = []


class BackendStatus(Struct, frozen=True):
    """How one backend is."""

    ok: bool
    detail: str
    hint: str
    status: dict[str, Any]


class StatusOut(Struct, frozen=True):
    """How the server is, in detail."""

    status: str
    version: str
    draining: bool
    runs: int
    """Runs under way."""
    database: str
    tools: dict[str, Any]
    """How the Python tool is confined, and the MCP servers."""
    backends: dict[str, BackendStatus]


@get(["/", "/health", "/healthz"], opt={"public": True}, operation_id="health")
async def health(request: Request[Any, Any, Any]) -> HealthOut:
    """Tells whether models can be reached."""
    parts = parts_of(request)
    found = await parts.probe.health()
    models = await parts.catalog.models()
    alive = [name for name, state in found.items() if state.ok]
    ollama = found.get("ollama")
    return HealthOut("ok" if alive else "degraded", bool(ollama and ollama.ok), len(models), alive)


@get("/health/live", opt={"public": True}, operation_id="live")
async def live() -> State:
    """Answers while the process does."""
    return State("ok")


@get("/health/ready", opt={"public": True}, operation_id="ready")
async def ready(request: Request[Any, Any, Any]) -> Response[State]:
    """Tells whether new work is welcome: 503 while shutting down, without a backend, or while the database refuses."""
    parts = parts_of(request)
    reasons = not_ready(parts, await parts.probe.health())
    return Response(State("unavailable" if reasons else "ok", reasons), status_code=503 if reasons else 200)


def not_ready(parts: Parts, found: dict[str, Health]) -> list[str]:
    """Why no work should be sent here."""
    reasons = ["shutting down"] if parts.runs.draining else []
    if not any(state.ok for state in found.values()):
        reasons.append("no backend answers")
    if parts.recorder.error is not None:
        reasons.append("the database refuses writes")
    return reasons


def status_routes(public: bool) -> list[Any]:
    """The routes that tell of models and traffic; `public`: to everybody."""
    guard: dict[str, Any] = {"public": True} if public else {"scope": ANY}

    @get("/health/status", opt=guard, operation_id="status")
    async def status(request: Request[Any, Any, Any]) -> StatusOut:
        """Describes each backend, and what goes on."""
        parts = parts_of(request)
        found = await parts.probe.health()
        reasons = not_ready(parts, found)
        return StatusOut(
            "degraded" if reasons else "ok",
            VERSION,
            parts.runs.draining,
            len(parts.runs),
            "ok" if parts.recorder.error is None else "refuses writes",
            parts.toolset.status(),
            {
                backend.name: BackendStatus(
                    found[backend.name].ok,
                    found[backend.name].detail,
                    found[backend.name].hint,
                    dict(backend.status()),
                )
                for backend in parts.catalog.backends
            },
        )

    @get("/metrics", opt=guard, operation_id="metrics", media_type="text/plain; version=0.0.4")
    async def metrics(request: Request[Any, Any, Any]) -> bytes:
        """Counters and histograms in Prometheus' text format."""
        parts = parts_of(request)
        return parts.metrics.text(len(parts.runs))

    return [status, metrics]


HANDLERS = (health, live, ready)
