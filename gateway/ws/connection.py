"""One WebSocket: its frames in, its frames out, and what it listens to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from tidebook.engine.v1 import order_pb2_grpc
from tidebook.gateway.v1 import gateway_pb2

from gateway.callers import Callers
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.upstream import Metadata
from gateway.ws.account import AccountFeed
from gateway.ws.frames import (
    BadFrame,
    Frame,
    FrameReader,
    answer_frame,
    done_frame,
    error_frame,
)
from gateway.ws.hub import Hub, Topic, TopicKey, keys_of
from gateway.ws.outbox import Outbox
from gateway.ws.trading import TradeSession
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings
from mesh.identity import ANONYMOUS, Caller
from mesh.telemetry import SpanRecorder, format_traceparent

# Frames go straight to the transport while less than this waits there, else through the outbox.
DIRECT_BYTES = 32 << 10
# Close code of a client that reads too slowly (4000-4999 are for applications).
CLOSE_SLOW_READER = 4008
_WRITE_TIMEOUT_SECONDS = 20.0
log = structlog.get_logger()


@dataclass(slots=True)
class Traffic:
    """What went over one connection, or over many."""

    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    # Times that waiting frames of a topic gave way to a snapshot.
    conflated: int = 0

    def add(self, other: Traffic) -> None:
        """Count another one in."""
        self.frames_in += other.frames_in
        self.frames_out += other.frames_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.conflated += other.conflated


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do."""

    subscriptions: int
    messages_per_second: int
    frame_bytes: int = 64 << 10
    queue_frames: int = 1024
    queue_bytes: int = 4 << 20


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings say."""
    return Limits(
        subscriptions=settings.ws_max_subscriptions,
        messages_per_second=settings.ws_max_messages_per_second,
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of the process share."""

    hub: Hub
    orders: order_pb2_grpc.OrderServiceAsyncStub
    callers: Callers
    recorder: SpanRecorder
    metrics: Metrics
    reader: FrameReader
    limits: Limits


class Connection:
    """A client. `serve` returns when it has gone or was cut."""

    def __init__(
        self, around: Surroundings, socket: web.WebSocketResponse, exchange: Exchange
    ) -> None:
        self._around = around
        self.traffic = Traffic()
        self._socket = socket
        self._exchange = exchange
        self._transport = exchange.request.transport
        self._authorization = ""
        self._caller: Caller = ANONYMOUS
        self._topics: dict[TopicKey, tuple[Topic, int]] = {}
        self._account: AccountFeed | None = None
        self._trading: TradeSession | None = None
        self._cancel_on_disconnect = False
        self._cutting: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._tokens = float(around.limits.messages_per_second)
        self._tokens_at = time.monotonic()
        self._outbox = Outbox(
            max_frames=around.limits.queue_frames,
            max_bytes=around.limits.queue_bytes,
            on_conflation=self._conflated,
            on_overflow=self._overflowed,
        )

    async def serve(self, authorization: str) -> None:
        """Talk until the client goes; `authorization` is what the upgrade request carried."""
        if authorization:
            # A stale cookie is no reason to refuse public data.
            with contextlib.suppress(Refused):
                await self._authenticate(authorization)
        writer = asyncio.create_task(self._write())
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.TEXT:
                    await self.close(WSCloseCode.UNSUPPORTED_DATA, "text frames only")
                    break
                self.traffic.frames_in += 1
                self.traffic.bytes_in += len(message.data)
                await self._handle(message.data)
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            for key in list(self._topics):
                self._leave(key)
            await cancel_and_wait(writer, self._cutting, self._expiring)
            if self._account is not None:
                await self._account.close()
            if self._trading is not None:
                await self._trading.close()

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye; what still waits is not sent."""
        await self._socket.close(code=code, message=reason.encode(), drain=False)
        # A peer that reads nothing would keep the unsent rest in memory.
        transport = self._exchange.request.transport
        if transport is not None:
            transport.abort()

    @property
    def subscriptions(self) -> int:
        """How many topics it listens to, its account among them."""
        return len(self._topics) + (self._account is not None)

    @property
    def is_private(self) -> bool:
        """Whether it speaks for an account."""
        return self._caller.account_id != 0

    @property
    def waiting_bytes(self) -> int:
        """What was written for the client and is still here."""
        transport = self._transport
        unsent = 0 if transport is None else transport.get_write_buffer_size()
        return self._outbox.bytes + unsent

    def take(self, topic: Topic, frame: Frame) -> None:
        """A frame of a topic (see `Listener`)."""
        self._send(frame, topic)

    def topic_failed(self, key: TopicKey, refused: Refused) -> None:
        """A subscription was refused by the service behind (see `Listener`)."""
        _, frame_id = self._topics.pop(key)
        self._send(error_frame(frame_id, refused))

    def _send(self, frame: Frame, topic: Topic | None = None) -> None:
        transport = self._transport
        if (
            transport is None
            or not self._outbox.empty
            or transport.get_write_buffer_size() > DIRECT_BYTES
        ):
            self._outbox.put(frame, topic)
        elif not self._socket.closed and not transport.is_closing():
            # No task is woken and no header is made for each of them: this is what lets one
            # process serve thousands.
            transport.write(frame.wire)
            self.traffic.frames_out += 1
            self.traffic.bytes_out += len(frame)

    async def _handle(self, text: str) -> None:
        frame_id = 0
        try:
            self._spend()
            frame = self._around.reader.read(text)
            frame_id = frame.id
            await self._OPERATIONS[frame.WhichOneof("op") or ""](self, frame)
        except Refused as refused:
            if isinstance(refused, BadFrame):
                frame_id = refused.frame_id
            self._send(error_frame(frame_id, refused))
        except Exception as error:
            log.error("ws_frame_failed", exc_info=error)
            self._send(error_frame(frame_id, Refused(Reason.INTERNAL)))

    async def _auth(self, frame: gateway_pb2.ClientFrame) -> None:
        before = self._caller.account_id
        await self._authenticate(f"Bearer {frame.auth.access_token}")
        if before and before != self._caller.account_id:
            await self._end_private()
        elif self._trading is not None:
            self._trading.renew(frame.auth.access_token)
        self._send(done_frame(frame.id))

    async def _subscribe(self, frame: gateway_pb2.ClientFrame) -> None:
        if frame.subscribe.channel == gateway_pb2.CHANNEL_ACCOUNT:
            await self._subscribe_account(frame)
            return
        keys = keys_of(frame.subscribe)
        added = sum(key not in self._topics for key in keys)
        most = self._around.limits.subscriptions
        if len(self._topics) + added > most:
            raise Refused(
                Reason.RATE_LIMITED, f"at most {most} subscriptions on one connection", limit=most
            )
        self._send(done_frame(frame.id))
        for key in keys:
            # Asked for again: the client has lost its place and wants the snapshot.
            self._topics[key] = self._around.hub.listen(key, self), frame.id

    async def _subscribe_account(self, frame: gateway_pb2.ClientFrame) -> None:
        self._require("read")
        if self._account is not None:
            await self._account.close()
        frame_id = frame.id
        self._send(done_frame(frame_id))

        def failed(refused: Refused) -> None:
            self._account = None
            self._send(error_frame(frame_id, refused))

        self._account = AccountFeed(
            self._around.orders,
            self._metadata,
            self._send_waiting,
            failed,
            resume_from=[
                frame.subscribe.resume_from_seq,
                *frame.subscribe.resume_from_shards,
            ],
        )

    async def _send_waiting(self, frame: Frame) -> None:
        """Send a frame of the account, holding its stream back while there is no room."""
        if self._outbox.empty:
            self._send(frame)
        else:
            await self._outbox.put_waiting(frame)

    async def _unsubscribe(self, frame: gateway_pb2.ClientFrame) -> None:
        if frame.unsubscribe.channel == gateway_pb2.CHANNEL_ACCOUNT:
            if self._account is not None:
                await self._account.close()
                self._account = None
        else:
            for key in keys_of(frame.unsubscribe):
                self._leave(key)
        self._send(done_frame(frame.id))

    async def _ping(self, frame: gateway_pb2.ClientFrame) -> None:
        answer = gateway_pb2.ServerFrame(id=frame.id)
        answer.pong.time.FromNanoseconds(time.time_ns())
        self._send(answer_frame(answer))

    async def _trade(self, frame: gateway_pb2.ClientFrame) -> None:
        self._require("trade")
        if self._trading is None:
            self._trading = TradeSession(
                self._around.orders,
                self._metadata,
                self._around.recorder,
                lambda answer: self._send(answer_frame(answer)),
            )
            self._trading.cancel_on_disconnect = self._cancel_on_disconnect
        self._trading.submit(frame)

    async def _set_cancel_on_disconnect(self, frame: gateway_pb2.ClientFrame) -> None:
        self._require("trade")
        enabled = frame.cancel_on_disconnect.enabled
        trading = self._trading
        if trading is not None and trading.is_open and trading.cancel_on_disconnect != enabled:
            raise Refused(
                Reason.INVALID_ARGUMENT,
                "choose before the first order of the connection",
                field="cancel_on_disconnect",
            )
        self._cancel_on_disconnect = enabled
        if trading is not None:
            trading.cancel_on_disconnect = enabled
        self._send(done_frame(frame.id))

    _OPERATIONS: dict[str, Callable[[Connection, gateway_pb2.ClientFrame], Awaitable[None]]] = {  # noqa: RUF012
        "auth": _auth,
        "subscribe": _subscribe,
        "unsubscribe": _unsubscribe,
        "ping": _ping,
        "place": _trade,
        "amend": _trade,
        "cancel": _trade,
        "cancel_on_disconnect": _set_cancel_on_disconnect,
    }

    async def _authenticate(self, authorization: str) -> None:
        self._caller = await self._around.callers.verify(authorization, self._exchange.client_ip)
        self._authorization = authorization
        if self._expiry is not None:
            self._expiry.cancel()
        if self._caller.account_id:
            left = max(0.0, self._caller.expires_s - time.time())
            self._expiry = asyncio.get_running_loop().call_later(left, self._expired)

    def _expired(self) -> None:
        """The token is no good any more, and no newer one was sent."""
        self._caller, self._authorization, self._expiry = ANONYMOUS, "", None
        self._send(error_frame(0, Refused(Reason.TOKEN_EXPIRED, "send `auth` with a new token")))
        self._expiring = asyncio.create_task(self._end_private())

    def _require(self, scope: str) -> None:
        if not self._caller.account_id:
            raise Refused(Reason.UNAUTHENTICATED, "send `auth` with an access token first")
        if scope not in self._caller.scopes:
            raise Refused(Reason.SCOPE_MISSING, f"the token lacks the scope {scope}", scope=scope)

    def _metadata(self) -> Metadata:
        return (
            ("authorization", self._authorization),
            ("traceparent", format_traceparent(self._exchange.trace)),
            ("x-forwarded-for", self._exchange.client_ip),
            ("x-request-id", self._exchange.request_id),
        )

    async def _end_private(self) -> None:
        """Another account, or none any more: nothing of the old one goes on."""
        account, self._account = self._account, None
        trading, self._trading = self._trading, None
        if account is not None:
            await account.close()
        if trading is not None:
            await trading.close()

    def _leave(self, key: TopicKey) -> None:
        topic, _ = self._topics.pop(key, (None, 0))
        if topic is not None:
            self._around.hub.leave(key, self)
            self._outbox.forget(topic)

    def _spend(self) -> None:
        """Charge one message; raises `Refused(RATE_LIMITED)` above the rate."""
        rate = self._around.limits.messages_per_second
        now = time.monotonic()
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1:
            raise Refused(Reason.RATE_LIMITED, f"at most {rate} messages a second", limit=rate)
        self._tokens -= 1

    def _conflated(self) -> None:
        self.traffic.conflated += 1

    def _overflowed(self) -> None:
        self._cut("slow_reader")

    def _cut(self, why: str) -> None:
        self._around.metrics.ws_cut[why] += 1
        if self._cutting is None:
            self._cutting = asyncio.create_task(
                self.close(CLOSE_SLOW_READER, Reason.SLOW_READER.name)
            )

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                frame = await self._outbox.get()
                try:
                    async with asyncio.timeout(_WRITE_TIMEOUT_SECONDS):
                        await self._socket.send_frame(frame.payload, WSMsgType.TEXT)
                except TimeoutError:
                    self._cut("stalled")
                    return
                self.traffic.frames_out += 1
                self.traffic.bytes_out += len(frame)
