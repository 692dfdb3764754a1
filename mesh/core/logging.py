"""JSON logs, one object a line on standard error, with the fields that every line must have.

``timestamp`` (UTC, RFC 3339), ``service``, ``trace_id`` (null outside a trace), ``level``,
``logger``, ``message``; then whatever the caller bound. Secrets never reach a line: values under
names that speak of one are masked, and so is anything that looks like one of our keys, a JWT, a
bearer header or the password of a URL, wherever it stands (exception texts too).
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from mesh.core.tracing import current_trace_id

MASK = "***"

_SECRET_NAME = re.compile(
    r"key|token|secret|password|passwd|authorization|credential|cookie|dsn", re.IGNORECASE
)
_PUBLIC_NAME = re.compile(r"(^|_)(key_id|keyid|kid|token_type|public_key)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"mk_[A-Za-z0-9_-]{6,}"  # our API keys
    r"|eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){0,3}"  # JWS, JWE
    r"|(?<=[Bb]earer )[^\s\"',]{6,}"
    r"|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)"  # user:password of a URL
)
_MAX_DEPTH = 6
_MAX_TEXT = 16_384


def redact(value: Any, name: str = "", depth: int = 0) -> Any:
    """``value`` without secrets: a masked copy. Numbers, flags and None stay as they are.

    Counts such as ``tokens=12`` are thus kept while ``token="abc"`` is masked. Nesting beyond
    six levels and texts beyond 16 KiB are cut, so that no line grows without bound.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name) and not _PUBLIC_NAME.search(name):
        return MASK
    if isinstance(value, str):
        text = value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
        if not text.isascii():  # a lone surrogate has no place in JSON
            text = text.encode("utf-8", "replace").decode()
        return _SECRET_TEXT.sub(MASK, text)
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {str(k): redact(v, str(k), depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, "", depth + 1) for item in value]
    return redact(str(value), "", depth)


def _redact_event(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
) -> EventDict:
    return {name: redact(value, name) for name, value in event.items()}


def _trace(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    event.setdefault("trace_id", current_trace_id())
    return event


def _name(logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    event["logger"] = getattr(logger, "name", "")
    return event


class _Named:
    """Adds the service's name; its own class so that the name is not a closure's secret."""

    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(
        self, _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
    ) -> EventDict:
        event["service"] = self.service
        return event


_ORDER = ("timestamp", "level", "service", "logger", "trace_id", "message")


def _render(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    head = {name: event[name] for name in _ORDER if name in event}
    line = orjson.dumps({**head, **event}, default=str, option=orjson.OPT_NON_STR_KEYS)
    return line.decode()


class _StderrLogger:
    """Writes to whatever standard error is now. A log that can't be written breaks nothing."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = log = fatal = failure = err = msg


class _OurHandler(logging.Handler):
    """Lets other libraries' ``logging`` lines take the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def configure_logging(service: str, level: str = "INFO") -> None:
    """Make this process log so. Call once, early; calling again replaces the earlier call.

    ``level``: DEBUG, INFO, WARNING or ERROR; raises ValueError for another. Libraries' loggers
    go through the same form, at WARNING or ``level``, whichever is higher.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level: {level!r}")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Named(service),
        _trace,
    ]
    ending: list[Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _redact_event,
        _render,
    ]
    structlog.configure(
        processors=[*shared, _name, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )
    handler = _OurHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _OurHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines say ``"logger": name``; ``.bind(…)`` adds fields of its own."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def bind(**values: Any) -> contextlib.AbstractContextManager[None]:
    """Within the block (this task and those that it starts) each line carries ``values``."""
    return structlog.contextvars.bound_contextvars(**values)
