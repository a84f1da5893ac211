"""A gateway with an express lane, one without, the same services behind; clients on raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import gateway.__main__ as gateway_main
from gateway.__main__ import run
from gateway.callers import Callers
from gateway.express.lane import Express
from gateway.requests import Requests
from tests.gateway.conftest import World, running_world
from tests.support import eventually, free_port

ORDER: dict[str, Any] = {
    "market": "BTC_USDC",
    "side": "SIDE_BUY",
    "type": "ORDER_TYPE_LIMIT",
    "price": "100",
    "quantity": "1",
}
# A machine may be slow; what matters is that it ends.
ENDS_SECONDS = 60.0
# No test of these runs into a limit that it does not set.
PLENTY = {"rate_limit_ip": "900000/minute", "rate_limit_account": "900000/minute"}


@dataclass(frozen=True)
class Ask:
    """A request as it goes over the wire."""

    method: str = "POST"
    target: str = "/v1/orders"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = json.dumps(ORDER).encode()
    version: str = "HTTP/1.1"

    def __bytes__(self) -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", "Host: a"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")

    def having(self, *headers: tuple[str, str]) -> Ask:
        """The same with more headers."""
        return replace(self, headers=(*self.headers, *headers))


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.data["details"][0]["reason"])


class Wire:
    """A client on a bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, *parts: Ask | bytes) -> None:
        """Send all of it in one piece."""
        self.writer.write(b"".join(map(bytes, parts)))

    async def answer(self) -> Answer:
        """The next answer; raises `IncompleteReadError` at the end of the connection."""
        async with asyncio.timeout(ENDS_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            pairs = [line.split(": ", 1) for line in lines]
            headers = dict(pairs)
            assert len(headers) == len(pairs), "a header is there once"
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Answer(int(first.split()[1]), headers, body)

    async def ask(self, ask: Ask | bytes) -> Answer:
        self.send(ask)
        return await self.answer()

    async def rest(self) -> list[Answer]:
        """All answers until the other side ends the connection."""
        answers = []
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answers.append(await self.answer())
        return answers

    async def is_ended(self) -> bool:
        """Waits until the other side has ended the connection, which says nothing more."""
        async with asyncio.timeout(ENDS_SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read(1) == b""
        return True

    def close(self) -> None:
        self.writer.close()


@dataclass
class Lanes:
    """`express` is that of the gateway with a lane, `library` the port of the one without."""

    world: World
    express: Express
    library: int = 0
    wires: list[Wire] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.world.settings.http_port

    @property
    def served(self) -> int:
        """Requests that were answered by the lane."""
        return self.express.served

    @property
    def callers(self) -> Callers:
        return self.express._callers

    @property
    def requests(self) -> Requests:
        return self.express._requests

    def bearer(self, account_id: int = 7, **token: Any) -> tuple[str, str]:
        return "Authorization", f"Bearer {self.world.auth.token(account_id, **token)}"

    def ask(self, account_id: int = 7, **token: Any) -> Ask:
        """An order of an account."""
        return Ask().having(self.bearer(account_id, **token))

    async def wire(self, port: int | None = None) -> Wire:
        """A connection to the gateway with the lane, or to another."""
        wire = await Wire.to(port or self.port)
        self.wires.append(wire)
        return wire

    async def warm(self, *headers: tuple[str, str]) -> Wire:
        """A connection whose commands with these headers go by the lane."""
        wire = await self.wire()
        before = self.served
        ask = Ask().having(*headers)

        async def by_lane() -> bool:
            assert (await wire.ask(ask)).status == 200
            return self.served > before

        await eventually(by_lane)
        return wire

    def tokens(self) -> list[str]:
        """Of the commands that reached the engine since this was asked last."""
        submitted = self.world.engine.submitted
        tokens = [one.access_token for one in submitted]
        submitted.clear()
        return tokens


@contextlib.asynccontextmanager
async def lanes(
    directory: Path, *, library: bool = False, **different: Any
) -> AsyncIterator[Lanes]:
    """A world with a lane, and with `library` a second gateway where no request has a plan."""
    made: list[Express] = []

    class Known(Express):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_main, "Express", Known)
        async with running_world(directory, **PLENTY | different) as world:
            both = Lanes(world, made[0])
            other = None
            stop = asyncio.Event()
            if library:
                both.library = free_port()
                ports = {"http_port": both.library, "grpc_port": free_port()}
                other = asyncio.create_task(run(world.settings.model_copy(update=ports), stop))

                async def up() -> bool:
                    wire = await Wire.to(both.library)
                    answer = await wire.ask(Ask("GET", "/readyz", body=None))
                    wire.close()
                    return answer.status == 200

                await eventually(up)
                patch.setattr(made[1].plans, "find", lambda *_: None)
            try:
                yield both
            finally:
                for wire in both.wires:
                    wire.close()
                stop.set()
                if other is not None:
                    await other


def orders_of(answers: Iterable[Answer]) -> list[str]:
    """Ids of the orders that were placed."""
    return [answer.data["order"]["orderId"] for answer in answers]
