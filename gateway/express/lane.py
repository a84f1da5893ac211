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
from gateway.express.plans import Plan, Plans, is_plain
from gateway.limits import Spent
from gateway.order_line import SCOPE, OrderLines, Outcome, answer_of, goes_by_line
from gateway.requests import Requests
from gateway.transcode import Route, Router
from mesh.telemetry import TraceContext, format_traceparent, new_trace, parse_traceparent

# Larger bodies, or more that has come before its turn, are the library's.
_BODY_MAX = 1 << 14
# No command begins so.
_READS = (b"GET ", b"HEAD ", b"OPTIONS ")
log = structlog.get_logger()


class Wire(Protocol):
    """The connection as a lane sees it."""

    address: str

    def answer(self, data: bytes, later: list[bytes]) -> None:
        """Send an answer if there is still somebody to send it to, and go on with what came
        later, piece by piece as it came.
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
        head = read_head(raw) if raw else None
        if head is None or not is_plain(head, raw, exchange):
            return
        lane.agree(head)
        if status == 200 and exchange.by_line:
            self.plans.learn(lane.address, head, exchange)

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
            # What the line refuses is charged where that is said.
            spent = None if line.is_full else self._callers.charge(caller, plan.client_ip)
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
        except Exception:
            # The usual way meets it again, and says what it is.
            return False
        line.send(call, ride.done)
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
        count, left, reset = self.spent.numbers()
        return (
            f"X-Request-Id: {self.request_id}\r\ntraceparent: {self.traceparent}\r\n"
            f"RateLimit-Limit: {count}\r\nRateLimit-Remaining: {left}\r\n"
            f"RateLimit-Reset: {reset}\r\n"
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
    """The lane of one connection, which has one request under way at most.

    What it takes for the beginning of a request is one only if the library would say so, too. So it
    keeps count of what the library was given after the last head: when that is not what the request
    needed, the library may have the beginning of another, and whatever comes is the library's until
    both agree again. It gets all of it in the pieces in which it came, as if there were no lane.
    """

    def __init__(self, express: Express, wire: Wire) -> None:
        self.busy = False
        """A request is under way."""
        self._express = express
        self._wire = wire
        # The beginning of a request whose body is not complete.
        self._held: list[bytes] = []
        # What came after one that is under way, and how many bytes that are.
        self._later: list[bytes] = []
        self._later_size = 0
        # Of the request that the library has: its head where that came in one piece, how many bytes
        # it was given after the head, and how many it needs there; -1 for nobody knows.
        self._raw_head = b""
        self._given = self._needed = 0
        self._last_head = b""
        self._last: tuple[Head, Plan] | None = None

    @property
    def address(self) -> str:
        """Of the peer."""
        return self._wire.address

    def take(self, data: bytes) -> list[bytes]:
        """Deal with what comes while the library waits for a request; returns what is its own."""
        pieces = [data]
        if self._held:
            pieces, self._held = [*self._held, data], []
            data = b"".join(pieces)
        raw, end, body = data.partition(END)
        if self._given == self._needed and end and not data.startswith(_READS):
            found = self._find(raw)
            if found is not None and found[0].length <= _BODY_MAX:
                head, plan = found
                if len(body) < head.length:
                    self._held = pieces
                    return []
                if self._express.serve(self, plan, head, body[: head.length]):
                    self.busy = True
                    if more := body[head.length :]:
                        self.wait(more)
                    return []
        self._hand_over(data)
        return pieces

    def pass_by(self, data: bytes) -> list[bytes]:
        """Have the library read more of what it has; returns all that it gets."""
        pieces = self.release()
        self._given += len(data)
        return [*pieces, data]

    def wait(self, data: bytes) -> int:
        """Keep what comes while a request is under way; how many bytes that are now."""
        self._later.append(data)
        self._later_size += len(data)
        return self._later_size

    def release(self) -> list[bytes]:
        """Hand over to the library what was held."""
        held, self._held = self._held, []
        if held:
            self._hand_over(b"".join(held))
        return held

    def arrive(self, data: bytes) -> None:
        """The request under way is answered with `data`."""
        later, self._later, self._later_size = self._later, [], 0
        self.busy = False
        self._wire.answer(data, later)

    def take_raw_head(self) -> bytes:
        """The head of the request that the library has; once, and empty if that is not known."""
        raw, self._raw_head = self._raw_head, b""
        return raw

    def agree(self, head: Head) -> None:
        """The library has read that head as it was split here."""
        self._needed = head.length

    def _hand_over(self, data: bytes) -> None:
        """Note what the library is to read from a place where a request should begin."""
        raw, end, body = data.partition(END)
        is_read = data.startswith(_READS)
        self._raw_head = b"" if is_read else raw
        # However it reads a head, with the empty line at the end nothing is left of it.
        ends = is_read and end and not body and self._given == self._needed
        self._given, self._needed = len(body), 0 if ends else -1

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
