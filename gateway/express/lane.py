"""The express lane: commands of clients that say the same with each, answered without a task, a
parser or a future of their own.

It refuses nothing. What is not plain, not known yet or not good goes to the HTTP library and from
there the way of all requests, which says what is wrong; only what an engine has answered is
answered here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from gateway.callers import Callers
from gateway.errors import JSON, error_response, is_fault
from gateway.exchange import Exchange, request_id_of
from gateway.express.head import END, Head, read_head
from gateway.express.plans import Plan, Plans
from gateway.limits import Spent
from gateway.order_line import SCOPE, OrderLines, Outcome, answer_of, goes_by_line
from gateway.requests import Requests
from gateway.transcode import Route, Router, TranscodeError
from kernel.reasons import Refused
from mesh.telemetry import TraceContext, format_traceparent, new_trace, parse_traceparent

# Larger bodies, or more that has come before its turn, are the library's.
_BODY_MAX = 1 << 14
# No command begins so.
_READS = (b"GET ", b"HEAD ", b"OPTIONS ")
log = structlog.get_logger()


class Wire(Protocol):
    """The connection as a lane sees it."""

    address: str

    def answer(self, data: bytes, later: bytes) -> None:
        """Send an answer if there is still somebody to send it to, and go on with what came
        later.
        """
        ...


class Express:
    """What the lanes of all connections share."""

    def __init__(
        self,
        router: Router,
        callers: Callers,
        lines: OrderLines,
        requests: Requests,
        max_seconds: float,
    ) -> None:
        self.plans = Plans()
        self.served = 0
        """Requests that were answered here."""
        self._router = router
        self._callers = callers
        self._lines = lines
        self._requests = requests
        self._max_seconds = max_seconds

    def learn(self, lane: Lane, exchange: Exchange, status: int) -> None:
        """Remember a request that the library has served, if others like it can go by the lane."""
        raw = lane.take_raw_head()
        if raw and status == 200 and exchange.by_line:
            self.plans.learn(lane.address, raw, exchange)

    def serve(self, lane: Lane, plan: Plan, head: Head, body: bytes) -> bool:
        """Begin to serve a request; False when it must go the way of all requests."""
        started, start_ns = time.monotonic(), time.time_ns()
        try:
            match = self._router.match(head.method, head.path)
            rpc_path = match.route.rpc_path
            if not goes_by_line(rpc_path):
                return False
            caller = self._callers.verified(plan.token, plan.client_ip)
            if caller is None or SCOPE not in caller.scopes:
                return False
            message = match.route.decode(match.captured, head.query, body)
            line = self._lines.line_for(rpc_path, message)
            if line is None:
                return False
            seconds = self._max_seconds
            if plan.timeout is not None:
                seconds = min(plan.timeout, seconds)
            parent = parse_traceparent(head.traceparent)
            trace = new_trace() if parent is None else parent.child()
            traceparent = format_traceparent(trace)
            call = self._lines.prepare(
                rpc_path, message, token=plan.token, traceparent=traceparent, seconds=seconds
            )
            spent = self._callers.charge(caller, plan.client_ip)
            if spent is None:
                return False
            ride = Ride(
                self,
                lane,
                plan,
                match.route,
                request_id_of(head.request_id),
                trace,
                b"" if parent is None else parent.span_id,
                traceparent,
                spent,
                start_ns,
                started,
            )
            line.send(call, ride.done)
        except (TranscodeError, Refused):
            return False
        self._requests.begin()
        return True

    def finish(self, ride: Ride, status: int) -> None:
        """A request has its answer."""
        self.served += 1
        self._requests.finish(
            ride.route.name,
            status,
            ride.request_id,
            ride.trace,
            ride.parent_span_id,
            ride.start_ns,
            ride.started,
        )


@dataclass(slots=True, eq=False)
class Ride:
    """One request that was taken and has no answer yet."""

    express: Express
    lane: Lane
    plan: Plan
    route: Route
    request_id: str
    trace: TraceContext
    parent_span_id: bytes
    traceparent: str
    spent: Spent
    start_ns: int
    started: float

    def done(self, outcome: Outcome) -> None:
        """Answer it."""
        try:
            body = self.route.encode(answer_of(self.route.rpc_path, outcome))
            status = 200
            data = b"".join(
                (b"HTTP/1.1 200 OK\r\n", self.plan.block, self._lines(JSON, len(body)), body)
            )
        except Exception as error:
            if is_fault(error):
                log.error("request_failed", route=self.route.name, exc_info=error)
            response = error_response(error)
            status, data = response.status, self._refusal(response)
        self.express.finish(self, status)
        self.lane.arrive(data)

    def _lines(self, content_type: str, length: int) -> bytes:
        """The end of the head of an answer."""
        limits = "\r\n".join(map(": ".join, self.spent.headers().items()))
        return (
            f"X-Request-Id: {self.request_id}\r\ntraceparent: {self.traceparent}\r\n{limits}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n\r\n"
        ).encode()

    def _refusal(self, response: web.Response) -> bytes:
        """An answer that is none of the usual ones, with the headers of its own."""
        body = response.body
        assert isinstance(body, bytes)
        own = {name: value for name, value in response.headers.items() if name != "Content-Type"}
        block = "".join(f"{name}: {value}\r\n" for name, value in (self.plan.headers | own).items())
        first = f"HTTP/1.1 {response.status} {response.reason}\r\n"
        return (first + block).encode() + self._lines(response.content_type, len(body)) + body


class Lane:
    """The lane of one connection, which has one request under way at most."""

    def __init__(self, express: Express, wire: Wire) -> None:
        self.busy = False
        """A request is under way."""
        self._express = express
        self._wire = wire
        # The beginning of a request whose body is not complete, and what came after one that is.
        self._held = self._later = b""
        # Of the request that the library has, where it came in one piece.
        self._raw_head = b""
        self._last_head = b""
        self._last: tuple[Head, Plan] | None = None

    @property
    def address(self) -> str:
        """Of the peer."""
        return self._wire.address

    def take(self, data: bytes) -> bytes:
        """Deal with the beginning of a request, or more of it; returns what is the library's."""
        data = self.release() + data
        self._raw_head = b""
        if data.startswith(_READS):
            return data
        raw, end, body = data.partition(END)
        if not end:
            return data
        found = self._find(raw)
        if found is None:
            self._raw_head = raw
            return data
        head, plan = found
        if head.length > _BODY_MAX:
            return data
        if len(body) < head.length:
            self._held = data
            return b""
        if not self._express.serve(self, plan, head, body[: head.length]):
            return data
        self.busy, self._later = True, body[head.length :]
        return b""

    def wait(self, data: bytes) -> int:
        """Keep what comes while a request is under way; how many bytes that are now."""
        self._later += data
        return len(self._later)

    def release(self) -> bytes:
        """Give back what was held."""
        held, self._held = self._held, b""
        return held

    def arrive(self, data: bytes) -> None:
        """The request under way is answered with `data`."""
        later, self._later = self._later, b""
        self.busy = False
        self._wire.answer(data, later)

    def take_raw_head(self) -> bytes:
        """The head of the request that the library has; once, and empty if that is not known."""
        raw, self._raw_head = self._raw_head, b""
        return raw

    def _find(self, raw: bytes) -> tuple[Head, Plan] | None:
        # Most clients change nothing in their heads but the length.
        if raw == self._last_head:
            return self._last
        head = read_head(raw)
        plan = None if head is None else self._express.plans.find(self.address, head.repeated)
        if head is None or plan is None:
            return None
        self._last_head, self._last = raw, (head, plan)
        return self._last
