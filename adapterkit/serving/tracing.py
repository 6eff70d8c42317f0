"""OpenTelemetry traces, where the environment asks for them.

With `OTEL_EXPORTER_OTLP_ENDPOINT` set, each request is a span with its stages as children, and goes
on the trace that the caller's `traceparent` header names.
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
        """What the environment asks for; None where it asks for nothing.

        Raises:
            AdapterkitError: It asks, and the packages are not installed.
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
                f"{VARIABLE} is set, and OpenTelemetry is not installed: "
                "pip install 'adapterkit[traces]'"
            ) from None
        name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "adapterkit")}
        provider = TracerProvider(resource=Resource.create(name))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """A span around a request; what is put into the mapping becomes its attributes."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        facts: dict[str, Any] = {}
        with self._tracer.start_as_current_span(
            name, context=extract(dict(headers)), kind=SpanKind.SERVER
        ) as span:
            try:
                yield facts
            finally:
                for key, value in facts.items():
                    span.set_attribute(f"adapterkit.{key}", value)

    def stage(self, name: str, seconds: float) -> None:
        """A stage of the request at hand, which has just ended."""
        end = time.time_ns()
        span = self._tracer.start_span(name, start_time=end - int(1e9 * seconds))
        span.end(end_time=end)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()
