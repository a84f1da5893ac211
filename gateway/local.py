"""The services of the gateway's own, served in this process through the same routes and door."""

from __future__ import annotations

import datetime as dt
from typing import Any

import aiohttp
import grpc
from google.protobuf.message import Message
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tidebook.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from gateway.transcode import Route
from kernel.reasons import Reason, Refused
from mesh.config import Settings
from mesh.identity import require
from mesh.telemetry import RecordedSpan, read_order_trace
from mesh.validation import MessageRules

_MAILBOX_TIMEOUT = aiohttp.ClientTimeout(total=3)
Context = grpc.aio.ServicerContext[Any, Any]


class TraceServicer(gateway_pb2_grpc.TraceServiceServicer):
    """Traces of the caller's own orders, from the built-in store."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def GetOrderTrace(
        self, request: gateway_pb2.GetOrderTraceRequest, context: Context | None
    ) -> gateway_pb2.GetOrderTraceResponse:
        caller = require("read")
        try:
            account_id, spans = await read_order_trace(self._redis, request.order_id)
        except (RedisError, OSError) as error:
            raise Refused(Reason.UNAVAILABLE, "traces cannot be read now; try again") from error
        if account_id != caller.account_id:
            # The same words as for an order that does not exist.
            raise Refused(Reason.ORDER_NOT_FOUND, "no trace is kept for this order")
        return gateway_pb2.GetOrderTraceResponse(
            trace_id=spans[0].trace_id.hex() if spans else "",
            spans=[_span(span) for span in spans],
        )


class DevServicer(gateway_pb2_grpc.DevServiceServicer):
    """The development mailbox; knows nothing in production."""

    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._enabled = settings.mode != "production"
        self._url = settings.mailbox_url.rstrip("/") + "/messages"
        self._http = http

    async def ListMailbox(
        self, request: gateway_pb2.ListMailboxRequest, context: Context | None
    ) -> gateway_pb2.ListMailboxResponse:
        if not self._enabled:
            raise Refused(Reason.NOT_FOUND, "there is nothing here")
        try:
            async with self._http.get(
                self._url,
                params={"to": request.to},
                timeout=_MAILBOX_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                answer.raise_for_status()
                rows = (await answer.json())["messages"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise Refused(
                Reason.UNAVAILABLE, "the development mailbox cannot be reached"
            ) from error
        return gateway_pb2.ListMailboxResponse(mails=[_mail(row) for row in rows])


class LocalServices:
    """Calls methods of in-process servicers for HTTP requests, with the checks that a listener
    would make: the rules of the request message. The caller must have been set before.
    """

    def __init__(self, trace: TraceServicer, dev: DevServicer) -> None:
        self._rules = MessageRules()
        self._servicers: dict[str, Any] = {
            "tidebook.gateway.v1.TraceService": trace,
            "tidebook.gateway.v1.DevService": dev,
        }

    async def call(self, route: Route, message: Message) -> Message:
        """The answer of a unary method; raises `Refused`."""
        self._rules.check(message)
        method = getattr(self._servicers[route.service], route.descriptor.name)
        answer: Message = await method(message, None)
        return answer


def _span(span: RecordedSpan) -> gateway_pb2.Span:
    return gateway_pb2.Span(
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        service=span.service,
        name=span.name,
        start_ns=span.start_ns,
        duration_ns=span.end_ns - span.start_ns,
        attributes=span.attributes,
    )


def _mail(row: dict[str, Any]) -> gateway_pb2.Mail:
    mail = gateway_pb2.Mail(to=", ".join(row["to"]), subject=row["subject"], text=row["text"])
    # `from` is a word of Python's own.
    setattr(mail, "from", row["from"])
    mail.time.FromDatetime(dt.datetime.fromisoformat(row["received_at"]))
    return mail
