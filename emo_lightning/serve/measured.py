"""Metrics of a running server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Measured:
    """Counts and times; a registry of its own, so that two servers of one process do not add up.

    Args:
        batch_size: the largest batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.registry = registry = CollectorRegistry()
        # Memory, processor time and open files; of Linux alone.
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "emo_requests", "Answered requests; status 499: the client was gone", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "emo_request_seconds", "From the first byte to the last", ["route"], buckets=_SECONDS, registry=registry
        )
        sizes = sorted({*(1 << power for power in range(batch_size.bit_length())), batch_size})
        self.batches = Histogram("emo_batch_pictures", "Pictures of one call of the model", buckets=sizes, registry=registry)
        self.work = Histogram("emo_batch_seconds", "Seconds of one call of the model", buckets=_SECONDS, registry=registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever somebody reads the metrics.

        Args:
            name: of the metric.
            about: what it is.
            value: gives it.
        """
        Gauge(name, about, registry=self.registry).set_function(value)

    def worked(self, pictures: int, seconds: float) -> None:
        """A batch is done."""
        self.batches.observe(pictures)
        self.work.observe(seconds)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is done.

        Args:
            route: its path as the routes have it; a stranger's paths make no metrics.
            status: of HTTP.
            seconds: that it took.
        """
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
