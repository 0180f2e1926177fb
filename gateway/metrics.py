"""Metrics in Prometheus' text format."""

from collections.abc import Callable, Iterable

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
            "drover_tokens", "Tokens: prompt, of these cached, and completion.", (*labels, "kind"), registry=self._registry
        )
        self._running = Gauge("drover_runs_running", "Runs under way.", registry=self._registry)
        self._registry.register(_Queues(queues))
        self._children: dict[tuple[str, ...], tuple[Counter, Histogram]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered. `route` is the route's template, so that labels stay few."""
        key = (method, route, str(status))
        if (found := self._children.get(key)) is None:
            found = self._children[key] = (self._requests.labels(*key), self._duration.labels(route))
        found[0].inc()
        found[1].observe(seconds)

    def run(self, record: RunRecord) -> None:
        """Counts a run that has ended."""
        labels = (record.mode, record.model)
        self._runs.labels(*labels, record.status).inc()
        if record.first_token_ms is not None:
            self._first_token.labels(*labels).observe(record.first_token_ms / 1000)
        self._tokens.labels(*labels, "prompt").inc(record.prompt_tokens)
        self._tokens.labels(*labels, "cached").inc(record.cached_tokens)
        self._tokens.labels(*labels, "completion").inc(record.completion_tokens)

    def text(self, running: int) -> bytes:
        """All metrics, for a scraper."""
        self._running.set(running)
        return generate_latest(self._registry)


class _Queues(Collector):
    def __init__(self, queues: Callable[[], dict[tuple[str, str], int]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("drover_queue", "Requests that wait for a model.", labels=("backend", "model"))
        for labels, waiting in self._queues().items():
            family.add_metric(labels, waiting)
        yield family
