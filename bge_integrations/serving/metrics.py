"""Prometheus metrics under the names of text-embeddings-inference, so that its dashboards work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.registry import Collector

from bge_integrations.core import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from bge_integrations.core.report import CallReport

#: Upper bounds in seconds, from 0.1 ms on, each 1.5 times the one before.
_SECONDS = [0.0001 * 1.5**i for i in range(35)]
_TOKENS = [float(2**i) for i in range(21)]


class Metrics:
    """The metrics of one application.

    Attributes:
        registry: What `/metrics` shows.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Queue())
        # gauges, because prometheus_client appends "_total" to the names of counters
        self._requests = Gauge(
            "te_request_count", "Requests for vectors, scores or tokens.", ["method"], registry=self.registry
        )
        self._successes = Gauge("te_request_success", "Those that were answered.", ["method"], registry=self.registry)
        self._failures = Gauge(
            "te_request_failure", "Requests that failed, by the code of the error.", ["err"], registry=self.registry
        )
        self._duration = self._seconds("te_request_duration", "Seconds per request.")
        self._tokenizing = self._seconds("te_request_tokenization_duration", "Seconds spent tokenising.")
        self._queue = self._seconds("te_request_queue_duration", "Seconds in the queue.")
        self._inference = self._seconds("te_request_inference_duration", "Seconds of computing.")
        self._input_length = self._sizes("te_request_input_length", "Tokens per request.")
        self._batch_size = self._sizes("te_batch_next_size", "Texts or pairs per batch.")
        self._batch_tokens = self._sizes("te_batch_next_tokens", "Tokens per batch.")

    def _seconds(self, name: str, help: str) -> Histogram:
        return Histogram(name, help, registry=self.registry, buckets=_SECONDS)

    def _sizes(self, name: str, help: str) -> Histogram:
        return Histogram(name, help, registry=self.registry, buckets=_TOKENS)

    def count_batch(self, sequences: int, tokens: int) -> None:
        """Count a batch that the core has computed."""
        self._batch_size.observe(sequences)
        self._batch_tokens.observe(tokens)

    def count_request(self, method: str, seconds: float, report: CallReport) -> None:
        """Count a request that was answered; `method` is "single" or "batch"."""
        self._requests.labels(method).inc()
        self._successes.labels(method).inc()
        self._duration.observe(seconds)
        self._tokenizing.observe(report.tokenizing_seconds)
        self._queue.observe(report.queue_seconds)
        self._inference.observe(report.computing_seconds)
        self._input_length.observe(report.tokens)

    def count_failure(self, method: str | None, code: str) -> None:
        """Count a request that failed; `method` is None if it failed before its inputs were known."""
        if method is not None:
            self._requests.labels(method).inc()
        self._failures.labels(code).inc()


class _Queue(Collector):
    """The lengths of the core's queues, read when they are shown."""

    def collect(self) -> Iterator[Metric]:
        statistics = runtime.statistics()
        sequences = Gauge("te_queue_size", "Texts or pairs that wait.", registry=None)
        sequences.set(sum(device.queued_sequences for device in statistics.values()))
        tokens = Gauge("bge_queue_tokens", "Tokens that wait, by device.", ["device"], registry=None)
        computing = Gauge("bge_computing_seconds", "Seconds that a device has computed.", ["device"], registry=None)
        for name, device in statistics.items():
            tokens.labels(name).set(device.queued_tokens)
            computing.labels(name).set(device.computing_seconds)
        for gauge in (sequences, tokens, computing):
            yield from gauge.collect()
