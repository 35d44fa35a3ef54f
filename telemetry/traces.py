"""Traces by OpenTelemetry, from a request to the webhook that tells its end. Nothing is imported until they are wanted.

What belongs together is told by W3C `traceparent` texts: a request has one, its job's row keeps it, and whoever works
on the job names it as the parent. Where spans go, and how many of them, the standard OTEL_* variables say. Attributes
are ids, names of models and numbers; never texts, tenants or keys.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from db.errors import ConfigError
from telemetry import logs

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | int | float | bool]
_NS = 10**9
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _State:
    provider: TracerProvider | None = None


_state = _State()


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that took from `began` (Unix seconds) so many seconds."""

    name: str
    began: float
    seconds: float
    attributes: Attributes = field(default_factory=dict)


def set_up(service: str, is_wanted: bool) -> None:
    """Send spans as `service`, if that is wanted; ConfigError when the packages for it are not installed."""
    if not is_wanted or _state.provider is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise ConfigError(
            f"BUSHEL_TRACING is set, but {exc.name} is not installed: pip install 'bushel[tracing]'"
        ) from exc
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before our own name.
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _state.provider = provider
    logger.info("traces are sent", extra={"action": "tracing_on"})


def close() -> None:
    """Send what is left; for the end of the process."""
    if _state.provider is not None:
        _state.provider.shutdown()
        _state.provider = None


def is_on() -> bool:
    return _state.provider is not None


@contextmanager
def span(
    name: str, parent: str | None = None, attributes: Attributes | None = None, is_server: bool = False
) -> Iterator[Live | None]:
    """What happens inside is a span, and the lines it logs name its trace. Without a `parent` it is the thread's."""
    if _state.provider is None:
        yield None
        return
    live = begin(name, parent, attributes, is_server)
    try:
        with logs.about(trace_id=live.trace_id):
            yield live
    except BaseException as exc:
        live.failed(type(exc).__name__)
        raise
    finally:
        live.end()


def begin(name: str, parent: str | None = None, attributes: Attributes | None = None, is_server: bool = False) -> Live:
    """A span for which there is no block; whoever begins it ends it, in the same thread. Only while tracing is on."""
    from opentelemetry import context, trace

    assert _state.provider is not None
    tracer = _state.provider.get_tracer("bushel")
    kind = trace.SpanKind.SERVER if is_server else trace.SpanKind.INTERNAL
    around = None if parent is None else _context(parent)
    made = tracer.start_span(name, around, kind, dict(attributes or {}))
    return Live(made, context.attach(trace.set_span_in_context(made)))


class Live:
    """A span that has begun and is the thread's present one."""

    def __init__(self, span: Span, token: object) -> None:
        self._span, self._token = span, token

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return _traceparent(self._span)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, **attributes: str | int | float | bool) -> None:
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def failed(self, why: str) -> None:
        """`why` is the name of an error, not what it says, which may quote a text."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, why))

    def end(self) -> None:
        from opentelemetry import context

        context.detach(self._token)  # type: ignore[arg-type]
        self._span.end()


def current() -> str | None:
    """The `traceparent` of the thread's present span; None when there is none, or tracing is off."""
    if _state.provider is None:
        return None
    from opentelemetry import trace

    present = trace.get_current_span()
    return _traceparent(present) if present.get_span_context().is_valid else None


def tell(whole: Moment, parent: str | None, parts: list[Moment]) -> None:
    """A span that is over, with those inside of it: for work that goes from thread to thread."""
    if _state.provider is None:
        return
    from opentelemetry import trace

    tracer = _state.provider.get_tracer("bushel")
    around = None if parent is None else _context(parent)
    outer = tracer.start_span(whole.name, around, start_time=_ns(whole.began), attributes=whole.attributes)
    inside = trace.set_span_in_context(outer)
    for part in parts:
        one = tracer.start_span(part.name, inside, start_time=_ns(part.began), attributes=part.attributes)
        one.end(_ns(part.began + part.seconds))
    outer.end(_ns(whole.began + whole.seconds))


def trace_id(traceparent: str | None) -> str | None:
    """The part of a `traceparent` by which a trace is found, for log lines; None while tracing is off.

    >>> trace_id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    """
    return None if traceparent is None or _state.provider is None else traceparent.split("-")[1]


def now() -> float:
    """By the clock of `Moment.began`."""
    return time.time()


def _ns(seconds: float) -> int:
    return int(seconds * _NS)


def _context(traceparent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _traceparent(span: Span) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
