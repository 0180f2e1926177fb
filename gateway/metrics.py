"""Metrics in Prometheus' text format."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.store.runs import RunRecord

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """This server's counters. `collect` is asked for a backend's queue at each reading."""

    def __init__(self, queues: Callable[[], dict[tuple[str, str], int]]) -> None:
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
        self._running = Gauge("drover_runs_running", "Runs under way.", registry=self._registry)
        self._registry.register(_Queues(queues))
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


class _Queues(Collector):
    def __init__(self, queues: Callable[[], dict[tuple[str, str], int]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("drover_queue", "Requests that wait for a model.", labels=("backend", "model"))
        for labels, waiting in self._queues().items():
            family.add_metric(labels, waiting)
        yield family
