"""OpenTelemetry traces, if the environment variable `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

Each request is a span with its stages as children. It continues the trace of the caller's
`traceparent` header (W3C Trace Context).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import AdapterkitError

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Traces:
    """Spans of requests and their stages.

    Args:
        provider: OpenTelemetry's tracer provider.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("adapterkit")

    @classmethod
    def from_environment(cls) -> Traces | None:
        """Traces as set in the environment; None if the variable is not set.

        Raises:
            AdapterkitError: It is set, but OpenTelemetry is not installed.
        """
        if not os.environ.get(VARIABLE):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise AdapterkitError(
                f"{VARIABLE} is set, but OpenTelemetry is not installed: "
                "pip install 'adapterkit[traces]'"
            ) from None
        name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "adapterkit")}
        provider = TracerProvider(resource=Resource.create(name))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """A span around a request. Entries of the returned mapping become its attributes."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        attributes: dict[str, Any] = {}
        with self._tracer.start_as_current_span(
            name, context=extract(dict(headers)), kind=SpanKind.SERVER
        ) as span:
            try:
                yield attributes
            finally:
                for key, value in attributes.items():
                    span.set_attribute(f"adapterkit.{key}", value)

    def stage(self, name: str, seconds: float) -> None:
        """Adds a stage of the current request, which has just ended."""
        end = time.time_ns()
        span = self._tracer.start_span(name, start_time=end - int(1e9 * seconds))
        span.end(end_time=end)

    def close(self) -> None:
        """Exports the remaining spans."""
        self._provider.shutdown()
