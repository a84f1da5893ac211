"""No bytes are a request in the express lane that the HTTP library would read as something else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import connections
from gateway.connections import Connection
from gateway.express.head import read_head
from ops.embedded import EmbeddedValkey
from tests.gateway.lanes import Ask, Lanes, Wire, lanes
from tests.gateway.test_express import without_ids
from tests.support import eventually

LAST = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


CONNECTIONS: weakref.WeakSet[Connection] = weakref.WeakSet()


@dataclass
class Rig:
    """Two gateways in a loop that stands still between examples."""

    runner: asyncio.Runner
    both: Lanes
    # Heads of two accounts that were learnt.
    known: list[Ask]

    def check(self, *segments: bytes) -> None:
        """What the lane's gateway answers is what the other one does, and the engine sees the same
        commands of the same accounts.

        The library forgets the good requests in a piece that ends in what is no HTTP. The lane may
        have served some of them: as if those had come by themselves.
        """
        lane = self.ask(self.both.port, segments)
        data = b"".join(segments)
        cuts = {0, *itertools.accumulate(map(len, segments))}
        ends = sorted(set(ends_of(data)) - cuts)
        others = itertools.chain.from_iterable(
            itertools.combinations(ends, count) for count in range(len(ends) + 1)
        )
        assert any(
            lane == self.ask(self.both.library, [data[a:b] for a, b in itertools.pairwise(places)])
            for places in (sorted({*cuts, *other}) for other in others)
        ), (segments, lane)
        answers, tokens = lane
        done = [body for status, _, body in answers if status == 200 and isinstance(body, dict)]
        assert len(tokens) == len(done)

    def ask(self, port: int, segments: Sequence[bytes]) -> tuple[list[Any], list[str]]:
        """All answers without what is new in each, and whose commands reached the engine."""
        self.both.tokens()
        return self.runner.run(self._talk(port, segments)), self.both.tokens()

    async def _talk(self, port: int, segments: Sequence[bytes]) -> list[Any]:
        wire = await self.both.wire(port)
        reading = asyncio.create_task(wire.rest())
        for segment in (*segments, LAST):
            if wire.writer.is_closing():
                break
            wire.send(segment)
            # The other side is in this loop: it reads what there is.
            for _ in range(4):
                await asyncio.sleep(0)
        await eventually(lambda: reading.done() or self._wants_more(wire), interval_s=0.001)
        with contextlib.suppress(OSError, RuntimeError):
            wire.writer.write_eof()
        answers = await reading
        wire.close()
        return [
            (
                answer.status,
                sorted(answer.headers),
                without_ids(answer.data) if answer.body.startswith(b"{") else answer.body,
            )
            for answer in answers
        ]

    def _wants_more(self, wire: Wire) -> bool:
        """Whether nothing happens before more comes: the request that would be last is in the
        middle of another.
        """
        name = wire.writer.get_extra_info("sockname")
        for connection in CONNECTIONS:
            transport = connection._wire
            if transport is None or transport.get_extra_info("peername") != name:
                continue
            waiter, body = connection._waiter, connection._body
            waits = waiter is not None and not waiter.done()
            reads = body is not None and getattr(body, "_waiter", None) is not None
            return not connection.lane.busy and (waits or reads)
        return False


def ends_of(data: bytes) -> Iterator[int]:
    """Where plain requests end."""
    at = 0
    while (end := data.find(b"\r\n\r\n", at)) >= 0:
        head = read_head(data[at:end])
        at = end + 4 + (0 if head is None else head.length)
        yield min(at, len(data))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, _valkey: EmbeddedValkey) -> Iterator[Rig]:
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        class Known(Connection):
            def __init__(self, *parts: Any, **options: Any) -> None:
                super().__init__(*parts, **options)
                CONNECTIONS.add(self)

        async def start() -> Rig:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(connections, "Connection", Known)
            directory: Path = tmp_path_factory.mktemp("smuggling")
            both = await stack.enter_async_context(
                lanes(
                    directory,
                    redis_url=_valkey.url,
                    library=True,
                    http_body_seconds=2.0,
                    http_head_seconds=2.0,
                )
            )
            heads = [both.ask(7), both.ask(8)]
            for ask in heads:
                await both.warm(*ask.headers)
            return Rig(runner, both, heads)

        yield runner.run(start())
        runner.run(stack.aclose())


# What is not one header, or not only.
_NASTY_LINES = (
    b"Content-Length: 5",
    b"content-length: 0",
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 0x5",
    b"Content-Length: 1 1",
    b"Content-Length: 007",
    b"Content-Length:",
    b"Content-Length",
    b"Content-Length : 5",
    b"Content-Length\t: 5",
    b" Content-Length: 5",
    b"\tContent-Length: 5",
    b"Content-Length: 99999999999999999999999",
    b"X: a\nContent-Length: 5",
    b"X: a\rContent-Length: 5",
    b"X: a\n\nGET /healthz HTTP/1.1\nHost: a",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: xchunked",
    b"TE: trailers",
    b"Connection: close",
    b"Connection: keep-alive, Content-Length",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Host: b",
    b"Host:",
    b" folded",
    b"traceparent",
    b"X-Request-Id",
    b"X-Request-Id: a\x00b",
    b"X-Request-Id: a\x0b",
    b"X-Request-Id: " + b"a" * 9000,
    b"X-Request-Id:" + b" " * 9000 + b"a",
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\nX: a",
    b"X: \xff\x80",
    b"X: \x00",
    b"\x00: x",
    b": x",
    b"X",
    b"X y: a",
    b"X\x7f: a",
    b"X: " + b"a" * 9000,
    b"\r\n".join(b"X-%d: 1" % n for n in range(129)),
    b"Authorization: Bearer x",
    b"authorization: Basic eDp5",
    b"",
)
_NASTY_BYTES = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\x00", b"\x0b", b"\x7f", b"\xff", b" ", b"\t",
    b":", b"\r\n ", b"\r\r\n", b"0", b"1", b"-", b"%", b"?", b"#", b"/",
)  # fmt: skip
_REQUEST_LINES = (
    b"POST http://a/v1/orders HTTP/1.1",
    b"POST /v1/orders#a HTTP/1.1",
    b"POST /v1/orders HTTP/1.0",
    b"POST /v1/orders HTTP/1.2",
    b"POST /v1/orders HTTP/2.0",
    b"POST /v1/orders",
    b"post /v1/orders HTTP/1.1",
    b"POST  /v1/orders HTTP/1.1",
    b"POST\t/v1/orders HTTP/1.1",
    b"POST /v1/orders HTTP/1.1 ",
    b" POST /v1/orders HTTP/1.1",
    b"\r\nPOST /v1/orders HTTP/1.1",
    b"POST /v1/orders\x00 HTTP/1.1",
    b"POST /v1/\xff HTTP/1.1",
    b"POST /v1//orders HTTP/1.1",
    b"POST /v1/orders?" + b"a" * 9000 + b" HTTP/1.1",
    b"POST * HTTP/1.1",
    b"CONNECT a:80 HTTP/1.1",
    b"DELETE /v1/orders/17 HTTP/1.1",
    b"DELETE /v1/orders?market=BTC_USDC HTTP/1.1",
    b"GET /v1/orders HTTP/1.1",
    b"HEAD /healthz HTTP/1.1",
    b"PUT /v1/orders HTTP/1.1",
)
BODY = Ask().body
assert BODY is not None


@st.composite
def mangled(draw: st.DrawFn, request: bytes) -> bytes:
    """A request that was known, with something else about it."""
    head, end, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(1, len(lines)))
        match draw(st.sampled_from(("line", "line", "first", "case", "twice", "gone", "order"))):
            case "line":
                lines.insert(at, draw(st.sampled_from(_NASTY_LINES)))
            case "first":
                lines[0] = draw(st.sampled_from(_REQUEST_LINES))
            case "case":
                lines[at - 1] = lines[at - 1].swapcase()
            case "twice":
                lines.insert(at, draw(st.sampled_from(lines)))
            case "gone":
                del lines[at - 1]
                lines = lines or [b""]
            case "order":
                lines[1:] = draw(st.permutations(lines[1:]))
    made = b"\r\n".join(lines) + end + body
    if draw(st.booleans()) and draw(st.booleans()):
        at = draw(st.integers(0, len(made)))
        gone = draw(st.sampled_from((0, 0, 1, 2, 5)))
        made = made[:at] + draw(st.sampled_from((*_NASTY_BYTES, b""))) + made[at + gone :]
    return made


@pytest.mark.xdist_group("express")
def test_whatever_is_sent_the_library_has_the_last_word(rig: Rig, examples: int) -> None:
    served = rig.both.served
    plans = len(rig.both.express.plans)
    requests = [bytes(ask) for ask in rig.known]
    one = st.one_of(
        st.sampled_from((*requests, GET)),
        *(mangled(request) for request in requests),
    )

    @settings(
        max_examples=40 * examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(one, min_size=1, max_size=3), st.lists(st.integers(0, 2000), max_size=3))
    def check(sent: list[bytes], cuts: list[int]) -> None:
        data = b"".join(sent)
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        rig.check(*(data[a:b] for a, b in itertools.pairwise(places)))

    check()
    assert rig.both.served > served, "the lane was used"
    tokens = {token for _, token in (ask.headers[0] for ask in rig.known)}
    learnt = rig.both.express.plans._known.values()
    assert len(learnt) >= plans
    assert {f"Bearer {plan.token}" for plan in learnt} <= tokens


# What a client says before it stops in the middle.
BEGINNINGS = [
    b"P",
    b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nX: ",
    b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nX: a\r",
    b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nX: a\r\n",
    b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n",
    b"\r\n",
]


@pytest.mark.xdist_group("express")
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_known_request_inside_of_another_is_none(rig: Rig, beginning: bytes) -> None:
    known = bytes(rig.known[0])
    unknown = bytes(rig.known[0].having(("X-New", str(len(beginning)))))
    for before in (GET, known, unknown):
        for segments in (
            (before + beginning, known),
            (before, beginning, known),
            (before + beginning, known, known),
            (before + beginning + known, known, known),
        ):
            rig.check(*segments)


@pytest.mark.xdist_group("express")
def test_each_order_is_its_own_accounts(rig: Rig) -> None:
    """Known and new heads, in one segment and in two, also where the first is refused."""
    both = rig.both
    for _ in range(2):
        for first in (7, 8):
            new = [both.ask(first).having(("X-N", "1")), both.ask(15 - first).having(("X-N", "1"))]
            for pair in (
                rig.known,
                rig.known[::-1],
                [new[0], rig.known[1]],
                [rig.known[1], new[1]],
                new,
            ):
                one, two = map(bytes, pair)
                tokens = [ask.headers[0][1].removeprefix("Bearer ") for ask in pair]
                for segments in ((one + two,), (one, two), (one + two[:300], two[300:])):
                    answers, seen = rig.ask(both.port, segments)
                    assert [status for status, *_ in answers] == [200, 200, 200]
                    assert seen == tokens
    known = both.express.plans._known
    for (_, repeated), plan in known.items():
        assert f"Authorization: Bearer {plan.token}".encode() in repeated.split(b"\r\n")
