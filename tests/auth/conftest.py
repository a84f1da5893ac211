"""A running auth service on real sockets, a mail server that keeps what it gets, and a client."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyotp
import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP
from tidebook.auth.v1 import auth_pb2 as pb
from tidebook.auth.v1 import auth_pb2_grpc

from kernel.clock import NS_PER_SECOND, SystemClock
from kernel.reasons import Reason
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.status import refused_from
from ops.mailbox import Mailbox
from ops.migrate import migrate
from services.auth.__main__ import serve
from tests.support import eventually, free_port, free_ports

PASSWORD = "quiet-harbour-at-dusk"


class ShiftedClock(SystemClock):
    """The machine's clock, moved forward on request."""

    def __init__(self) -> None:
        self.shift_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.shift_ns

    def advance(self, *, seconds: int) -> None:
        self.shift_ns += seconds * 1_000_000_000


class MailServer:
    """A real SMTP server that can be switched off."""

    def __init__(self) -> None:
        self.port = free_port()
        self._mailbox = Mailbox()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(self._mailbox), "127.0.0.1", self.port
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def mails_to(self, address: str) -> list[dict[str, Any]]:
        """Newest first."""
        return self._mailbox.messages(address, 100)

    async def code_for(self, address: str, *, nth: int = 1) -> str:
        """The code of the `nth` mail with one to this address, once it is there."""

        def find() -> str:
            texts = [mail["text"] for mail in reversed(self.mails_to(address))]
            codes = [found[1] for text in texts if (found := re.search(r"\b(\d{6})\b", text))]
            return codes[nth - 1]

        return await eventually(find)


@dataclass
class Person:
    """Somebody with an open session."""

    email: str
    user: pb.User
    tokens: pb.Tokens
    password: str = PASSWORD

    @property
    def bearer(self) -> Sequence[tuple[str, str]]:
        return bearer(self.tokens.access_token)


def bearer(token: str) -> Sequence[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class SecondFactor:
    """An authenticator app and recovery codes, in force."""

    secret: str
    # The code that proved the app: it counts no more.
    spent_code: str
    recovery_codes: tuple[str, ...]
    _clock: ShiftedClock

    def next_code(self) -> str:
        """The code the app shows a minute later; each counts once."""
        self._clock.advance(seconds=60)
        return code_of(self.secret, self._clock)


def code_of(secret: str, clock: ShiftedClock) -> str:
    """The code an authenticator app shows now."""
    return pyotp.TOTP(secret).at(clock.now_ns() // NS_PER_SECOND)


@dataclass
class Auth:
    """The service under test, as its users see it."""

    settings: Settings
    clock: ShiftedClock
    mail: MailServer
    stub: auth_pb2_grpc.AuthServiceAsyncStub
    _people: Iterator[int] = field(default_factory=lambda: iter(range(1, 1000)))

    def new_email(self) -> str:
        return f"ann{next(self._people)}@example.test"

    async def sign_up(self, email: str | None = None) -> Person:
        """A new person, through the mailed code."""
        email = email or self.new_email()
        await self.stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
        code = await self.mail.code_for(email)
        answer = await self.stub.VerifyOtp(pb.VerifyOtpRequest(email=email, code=code))
        return Person(email, answer.user, answer.tokens)

    async def sign_in(self, person: Person, *, totp_code: str = "") -> pb.SignInResponse:
        return await self.stub.SignIn(
            pb.SignInRequest(email=person.email, password=person.password, totp_code=totp_code)
        )

    async def enable_totp(self, person: Person) -> SecondFactor:
        """Put a second factor in force."""
        begun = await self.stub.EnableTotp(
            pb.EnableTotpRequest(password=person.password), metadata=person.bearer
        )
        code = code_of(begun.secret, self.clock)
        confirmed = await self.stub.ConfirmTotp(
            pb.ConfirmTotpRequest(code=code), metadata=person.bearer
        )
        return SecondFactor(begun.secret, code, tuple(confirmed.recovery_codes), self.clock)


@contextlib.contextmanager
def refused(*reasons: Reason) -> Iterator[None]:
    """The block must end in a refusal for one of these reasons."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert refused_from(caught.value).reason in reasons, caught.value.details()


@contextlib.asynccontextmanager
async def running_auth(
    settings: Settings, mail: MailServer, clock: ShiftedClock | None = None
) -> AsyncIterator[Auth]:
    """Auth in this process, until the block ends."""
    clock = clock or ShiftedClock()
    stop = asyncio.Event()
    service = asyncio.create_task(serve(settings, stop, clock))
    try:
        target = f"127.0.0.1:{settings.auth_port}"
        # Tried before the service listens, so the default of a second is mostly waiting.
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            auth = Auth(settings, clock, mail, auth_pb2_grpc.AuthServiceStub(channel))
            ready = asyncio.ensure_future(channel.channel_ready())
            await asyncio.wait([service, ready], return_when=asyncio.FIRST_COMPLETED, timeout=20)
            if service.done():
                await cancel_and_wait(ready)
                service.result()
            yield auth
    finally:
        stop.set()
        await service


@pytest_asyncio.fixture
async def mail_server() -> AsyncIterator[MailServer]:
    server = MailServer()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def settings(
    short_dir: Path, postgres_url: str, valkey_url: str, mail_server: MailServer
) -> Settings:
    """Settings of an auth service on its own stores, with cheap password hashes."""
    await migrate(postgres_url, ("auth",))
    return Settings(
        data_dir=short_dir,
        mode="dev",
        postgres_url=postgres_url,
        redis_url=valkey_url,
        auth_port=free_ports([0, 100]),
        smtp_url=f"smtp://127.0.0.1:{mail_server.port}",
        bcrypt_cost=4,
        play_balance="",
    )


@pytest_asyncio.fixture
async def auth(settings: Settings, mail_server: MailServer) -> AsyncIterator[Auth]:
    async with running_auth(settings, mail_server) as running:
        yield running
