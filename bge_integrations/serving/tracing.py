"""OpenTelemetry traces of requests, sent to an OTLP endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.optional import needed_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

with needed_by("--otlp-endpoint", "bge-integrations[otel]"):
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

#: Probes would fill the traces.
_UNTRACED = "health,ready,metrics"


def trace(app: FastAPI, endpoint: str) -> Callable[[], None]:
    """Trace the requests of an application. Returns a function that sends what is left and ends the tracing.

    Args:
        app: The application.
        endpoint: The URL of a collector that speaks OTLP over gRPC, such as "http://localhost:4317".
    """
    provider = TracerProvider(resource=Resource.create({"service.name": "bge_integrations"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=_UNTRACED)
    return provider.shutdown
