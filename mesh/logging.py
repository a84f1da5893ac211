"""Structured logs: one line an event on standard error, ours and the libraries' alike."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

from mesh.config import Settings
from mesh.telemetry import current_trace

_SECRET_KEYS = frozenset(
    {
        "authorization",
        "api_key",
        "api_secret",
        "cookie",
        "otp",
        "otp_code",
        "password",
        "refresh_token",
        "secret",
        "token",
        "totp_secret",
    }
)


def setup_logging(service: str, settings: Settings) -> None:
    """Send all logs of this process to standard error; call once, first thing in `main`."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
        _add_trace,
        _hide_secrets,
    ]
    render: list[structlog.typing.Processor]
    if settings.log_format == "json":
        render = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        # Plain tracebacks: the fancy ones show local variables, and those can be secrets.
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries are chatty at info; what they say at warning matters to an operator.
    root.setLevel(max(level, logging.WARNING))
    # Has a stack trace for each try while the database is away; whoever needs it says so in a line.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _add_service(service: str) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return add


def _add_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    trace = current_trace()
    if trace is not None:
        event.setdefault("trace_id", trace.trace_id.hex())
    return event


def _hide_secrets(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # A net below the rule that nobody logs a secret in the first place.
    for key in _SECRET_KEYS & event.keys():
        event[key] = "[hidden]"
    return event
