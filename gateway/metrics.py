"""Metrics in Prometheus' text format."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.store.runs import RunRecord
from tools.toolbox import Called

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


States = Callable[[], Mapping[tuple[str, str], Mapping[str, Any]]]
"""Tells what backends know of their models now, by backend and model."""


class Metrics:
    """This server's counters. `states` is asked at each reading."""

    def __init__(self, states: States) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "drover_requests", "HTTP requests.", ("method", "route", "status"), registry=self._registry
        )
        self._duration = Histogram(
            "drover_request_seconds",
            "From the request's first byte to the answer's last.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        labels = ("mode", "model")
        self._runs = Counter("drover_runs", "Runs that have ended.", (*labels, "status"), registry=self._registry)
        self._first_token = Histogram(
            "drover_time_to_first_token_seconds",
            "From a run's start to its first token.",
            labels,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "drover_tokens",
            "Tokens: prompt, of these cached, and completion.",
            (*labels, "kind"),
            registry=self._registry,
        )
        self._calls = Counter("drover_tool_calls", "Calls of tools.", ("tool", "status"), registry=self._registry)
        self._call_seconds = Histogram(
            "drover_tool_seconds", "What a call of a tool took.", ("tool",), buckets=SECONDS, registry=self._registry
        )
        self._running = Gauge("drover_runs_running", "Runs under way.", registry=self._registry)
        self._registry.register(_Models(states))
        self._of_request = cache(self._children_of_request)
        self._of_run = cache(self._children_of_run)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered. `route` is the route's template, so that labels stay few."""
        requests, duration = self._of_request(method, route, status)
        requests.inc()
        duration.observe(seconds)

    def run(self, record: RunRecord) -> None:
        """Counts a run that has ended."""
        children = self._of_run(record.mode, record.model, record.status)
        children.ended.inc()
        if record.first_token_ms is not None:
            children.first_token.observe(record.first_token_ms / 1000)
        children.prompt.inc(record.prompt_tokens)
        if record.cached_tokens:
            children.cached.inc(record.cached_tokens)
        children.completion.inc(record.completion_tokens)

    def tool(self, called: Called) -> None:
        """Counts a call of a tool that has ended."""
        self._calls.labels(called.tool, "failed" if called.failed else "ok").inc()
        self._call_seconds.labels(called.tool).observe(called.seconds)

    def _children_of_request(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(method, route, str(status)), self._duration.labels(route)

    def _children_of_run(self, mode: str, model: str, status: str) -> "_RunMetrics":
        labels = (mode, model)
        return _RunMetrics(
            self._runs.labels(*labels, status),
            self._first_token.labels(*labels),
            *(self._tokens.labels(*labels, kind) for kind in ("prompt", "cached", "completion")),
        )

    def text(self, running: int) -> bytes:
        """All metrics, for a scraper."""
        self._running.set(running)
        return generate_latest(self._registry)


class _RunMetrics(NamedTuple):
    """The counters of one mode, model and status: looking them up costs more than counting."""

    ended: Counter
    first_token: Histogram
    prompt: Counter
    cached: Counter
    completion: Counter


_Family = type[GaugeMetricFamily] | type[CounterMetricFamily]

_OF_MODELS: tuple[tuple[str, _Family, str, str], ...] = (
    ("queue", GaugeMetricFamily, "drover_queue", "Requests that wait for a model."),
    ("loaded", GaugeMetricFamily, "drover_engine_loaded", "1 where a model is loaded."),
    ("slots", GaugeMetricFamily, "drover_engine_slots", "Requests that a model works on at once."),
    ("active", GaugeMetricFamily, "drover_engine_active", "Requests in slots."),
    ("cells", GaugeMetricFamily, "drover_engine_cells", "Tokens that the key-value cache can hold."),
    ("cells_used", GaugeMetricFamily, "drover_engine_cells_used", "Tokens that the key-value cache holds."),
    ("prompt_tokens", CounterMetricFamily, "drover_engine_prompt_tokens", "Tokens of prompts."),
    ("cached_tokens", CounterMetricFamily, "drover_engine_cached_tokens", "Of these, not computed again."),
    ("generated_tokens", CounterMetricFamily, "drover_engine_generated_tokens", "Tokens generated."),
    (
        "tokens_per_second",
        GaugeMetricFamily,
        "drover_engine_tokens_per_second",
        "Tokens generated in a second of work, of late.",
    ),
    ("steps", CounterMetricFamily, "drover_engine_steps", "Batches computed."),
    ("computing", CounterMetricFamily, "drover_engine_compute_seconds", "Time inside llama.cpp."),
    ("overhead", CounterMetricFamily, "drover_engine_overhead_seconds", "Time between batches while there was work."),
    ("crashes", CounterMetricFamily, "drover_engine_crashes", "Engine processes that ended unasked."),
)
"""What is measured of a model's state: its key there, alone or under `engine`, and the metric."""


class _Models(Collector):
    """Each model's state as metrics; a model whose backend does not tell a number has no sample of it."""

    def __init__(self, states: States) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        states = {labels: {**state, **state.get("engine", {})} for labels, state in self._states().items()}
        for key, kind, name, text in _OF_MODELS:
            family = kind(name, text, labels=("backend", "model"))
            for labels, state in states.items():
                if key in state:
                    family.add_metric(labels, state[key])
            yield family
