"""Clients that are slow, many or not HTTP at all: each ends in time, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.gateway.conftest import Start, World
from tests.gateway.sockets import connected, metric
from tests.support import eventually

SHORT: dict[str, Any] = {
    "http_head_seconds": 0.5,
    "http_body_seconds": 0.5,
    "http_stalled_seconds": 1.0,
    "http_idle_seconds": 1.0,
}
# A machine may be slow; what matters is that it ends.
ENDS_SECONDS = 20.0


@pytest_asyncio.fixture
async def impatient(start_world: Start) -> World:
    """A gateway that waits for nobody."""
    return await start_world(**SHORT)


class Raw:
    """A client on a bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, world: World) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", world.settings.http_port))

    async def trickle(self, data: bytes) -> None:
        """Send byte by byte, until the other side has had enough."""
        try:
            for byte in data:
                self.writer.write(bytes([byte]))
                await self.writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            return

    async def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """(status, headers, body) of the one answer that comes before the connection is ended."""
        async with asyncio.timeout(ENDS_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read(-1) == b"", "one answer"
        self.writer.close()
        return int(lines[0].split()[1]), headers, json.loads(body)


async def is_served(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as http, http.get("/v1/markets") as answer:
        assert answer.status == 200


@pytest_asyncio.fixture
async def served_meanwhile(impatient: World) -> AsyncIterator[None]:
    """Somebody else who asks all the time and is answered every time."""

    async def ask() -> None:
        while True:
            await is_served(impatient)
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    yield
    assert not asking.done(), asking
    asking.cancel()


HEAD = b"GET /v1/markets HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 2000
BODY = b"POST /v1/auth/signin HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n"


@pytest.mark.usefixtures("served_meanwhile")
async def test_a_head_that_comes_byte_by_byte_is_ended(impatient: World) -> None:
    clients = [await Raw.of(impatient) for _ in range(20)]
    sending = [asyncio.create_task(client.trickle(HEAD)) for client in clients]
    for status, headers, body in await asyncio.gather(*(client.answer() for client in clients)):
        assert (status, headers["Connection"]) == (408, "close")
        assert body["details"][0]["reason"] == "DEADLINE_PASSED"
        assert "head" in body["message"]
    await asyncio.gather(*sending)


@pytest.mark.usefixtures("served_meanwhile")
async def test_a_body_that_comes_byte_by_byte_is_ended(impatient: World) -> None:
    clients = [await Raw.of(impatient) for _ in range(20)]
    sending = [asyncio.create_task(client.trickle(BODY + b"a" * 2000)) for client in clients[:10]]
    for client in clients[10:]:
        client.writer.write(BODY)
        sending.append(asyncio.create_task(client.trickle(b"a" * 2000)))
    answers = await asyncio.gather(*(client.answer() for client in clients))
    for status, _, body in answers:
        assert status == 408
        assert body["details"][0]["reason"] == "DEADLINE_PASSED"
    assert all("body" in body["message"] for _, _, body in answers[10:])
    await asyncio.gather(*sending)


@pytest.mark.usefixtures("served_meanwhile")
async def test_an_answer_that_is_never_read_is_dropped(impatient: World) -> None:
    """Both an answer of its own and a stream without end."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", impatient.settings.http_port))
        await loop.sock_sendall(client, request * 30)
        async with aiohttp.ClientSession(impatient.url) as http:
            cut = 'tidebook_http_connections_cut_total{reason="stalled"}'

            async def dropped() -> None:
                assert await metric(http, cut) == 1

            await eventually(dropped, timeout_s=ENDS_SECONDS)


async def test_a_connection_that_says_nothing_is_closed(impatient: World) -> None:
    client = await Raw.of(impatient)
    async with asyncio.timeout(ENDS_SECONDS):
        assert await client.reader.read(-1) == b""
    client.writer.close()


async def test_slow_but_in_time_is_served(impatient: World) -> None:
    """Limits are for each part of a request, not for the connection."""
    client = await Raw.of(impatient)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        client.writer.write(b"GET /v1/markets HTTP/1.1\r\nHo")
        await asyncio.sleep(0.1)
        client.writer.write(b"st: a\r\n\r\n")
        assert (await client.reader.readline()).split()[1] == b"200"
        await client.reader.readuntil(b"]}")
    client.writer.close()


async def test_websockets_outlive_the_limits_of_requests(impatient: World) -> None:
    async with connected(impatient) as client:
        await client.ask(ping={})
        await asyncio.sleep(2.5)
        assert "pong" in await client.ask(ping={})


async def test_connections_are_limited_in_all_websockets_included(start_world: Start) -> None:
    world = await start_world(http_max_connections=3)
    async with connected(world) as client:
        others = [await Raw.of(world), await Raw.of(world)]
        refused = await Raw.of(world)
        status, headers, body = await refused.answer()
        assert (status, body["details"][0]["reason"]) == (503, "OVERLOADED")
        assert int(headers["Retry-After"]) >= 1
        assert "pong" in await client.ask(ping={})
        others[0].writer.close()
        await eventually(lambda: is_served(world))
        others[1].writer.close()


async def test_connections_of_one_address_are_limited(start_world: Start) -> None:
    world = await start_world(http_max_connections_ip=2)
    first, second = await Raw.of(world), await Raw.of(world)
    status, headers, body = await (await Raw.of(world)).answer()
    assert (status, body["details"][0]["metadata"]["limit"]) == (429, "connections")
    assert int(headers["Retry-After"]) >= 1
    first.writer.close()
    await eventually(lambda: is_served(world))
    second.writer.close()


async def test_a_proxy_may_have_many_connections_but_each_client_few(start_world: Start) -> None:
    world = await start_world(http_max_connections_ip=2, trusted_proxies="127.0.0.1")
    one, other = {"X-Forwarded-For": "1.2.3.4"}, {"X-Forwarded-For": "1.2.3.5"}
    async with connected(world, headers=one), connected(world, headers=one):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with connected(world, headers=one):
                raise AssertionError("connected")
        assert caught.value.status == 429
        async with connected(world, headers=other) as client:
            assert "pong" in await client.ask(ping={})


NOT_HTTP = [
    (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 300 + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    (
        b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
]


@pytest.mark.parametrize(("request_bytes", "status"), NOT_HTTP)
async def test_what_is_no_http_has_the_error_body_and_one_log_line(
    world: World, request_bytes: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = await Raw.of(world)
    with capture_logs() as logs:
        client.writer.write(request_bytes)
        given, headers, body = await client.answer()
    assert given == status
    assert headers["Server"] == "tidebook"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (body["code"], body["details"][0]["reason"]) == (3, "INVALID_ARGUMENT")
    assert "\n" not in body["message"]
    (line,) = [line for line in logs if line["event"] == "bad_request"]
    assert (line["status"], line["client"], line["log_level"]) == (status, "127.0.0.1", "info")
    assert not [line for line in logs if "exc_info" in line]
    assert caplog.records == [], "nothing goes past the structured log"


async def test_a_chunk_that_turns_bad_ends_the_request(world: World) -> None:
    client = await Raw.of(world)
    head = b"POST /v1/auth/signin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.writer.write(head + b"3\r\n{  \r\n")
    await asyncio.sleep(0.2)
    client.writer.write(b"zz\r\n")
    status, _, body = await client.answer()
    assert (status, body["code"]) == (400, 3)
